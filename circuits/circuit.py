"""A circuit: a set of edges of one graph. A value, with the algebra of sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.graph import Graph, Reader, component
from workbench import config as configuration
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig

Selection = Literal["signed", "absolute"]
"""Whether edges are ranked by their score or by its size. Recorded with every circuit: the two
give different circuits, and figures that mix them cannot be compared."""

INPUTS = ("embed", "pos_embed")


@dataclass(frozen=True, eq=False)
class Circuit:
    """Some edges of a graph."""

    graph: Graph
    member: Bool[Tensor, "*pos writer reader"]
    """Which edges are in."""

    def __post_init__(self) -> None:
        if self.member.shape != self.graph.is_edge.shape:
            raise CircuitError(
                f"edges {list(self.member.shape)} do not fit the graph, "
                f"{list(self.graph.is_edge.shape)} [*pos, writer, reader]"
            )
        if bool((self.member.cpu() & ~self.graph.is_edge).any()):
            raise CircuitError("a circuit holds only edges of its graph; start from graph.is_edge")

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of its edges, in the graph's order."""
        return tuple(self.graph.name(tuple(index)) for index in self.member.nonzero().tolist())

    @property
    def n_edges(self) -> int:
        """How many edges are in."""
        return int(self.member.sum())

    @property
    def keep(self) -> Float[Tensor, "1 *pos writer reader"]:
        """The circuit as one cell of `circuits.edges`."""
        return self.member[None].float()

    def union(self, other: "Circuit") -> "Circuit":
        """Edges in either."""
        return self._with(self.member | self._fitting(other))

    def intersection(self, other: "Circuit") -> "Circuit":
        """Edges in both."""
        return self._with(self.member & self._fitting(other))

    def difference(self, other: "Circuit") -> "Circuit":
        """Edges in this one and not in the other."""
        return self._with(self.member & ~self._fitting(other))

    def complement(self) -> "Circuit":
        """All other edges of the graph."""
        return self._with(self.graph.is_edge & ~self.member)

    def without_component(self, name: str) -> "Circuit":
        """Without the edges from and to a head or MLP such as `a0.h1`."""
        writers = torch.tensor([writer == name for writer in self.graph.writers])
        readers = torch.tensor([component(reader) == name for reader in self.graph.readers])
        return self._with(self.member & ~writers[:, None] & ~readers)

    def pruned(self, positions: Sequence[int] | None = None) -> "Circuit":
        """Without dead ends: edges on no path from the embeddings to the logits at `positions`.

        Positions count in a graph per position, where paths end at the logits that are scored
        (everywhere when None). A path stays at its position but for keys and values: these lead to
        the heads at every position that may attend to theirs. Queries, keys and values each make
        what a head writes depend on what they read. Raises `CircuitError` for a position that the
        graph does not have.
        """
        return self._with(self.member & self.on_paths(positions))

    def on_paths(
        self, positions: Sequence[int] | None = None
    ) -> Bool[Tensor, "*pos writer reader"]:
        """Edges of the graph that lie on a path of `pruned`, or would if they were added alone."""
        graph, member = self.graph, self.member
        member = member[None] if graph.n_pos is None else member
        ends = [0] if graph.n_pos is None else path_ends(graph, positions)
        open_pairs = _reached(graph, member)[..., None] & _leading(graph, member, ends)[:, None]
        return open_pairs.reshape(self.member.shape) & graph.is_edge.to(member.device)

    def components(self) -> tuple[str, ...]:
        """Heads and MLPs with an edge in or out, in the order in which they write."""
        touched = {name for edge in self.edges for name in _ends(edge)}
        return tuple(name for name in self.graph.writers if name in touched and name not in INPUTS)

    def to_dict(self) -> dict[str, Any]:
        """The circuit as JSON."""
        return {
            "model": configuration.to_dict(self.graph.config),
            "n_pos": self.graph.n_pos,
            "edges": list(self.edges),
        }

    def _with(self, member: Tensor) -> "Circuit":
        return Circuit(self.graph, member)

    def _fitting(self, other: "Circuit") -> Tensor:
        if other.graph != self.graph:
            raise CircuitError("the two circuits are of different graphs")
        return other.member


def circuit_of(graph: Graph, edges: Iterable[str]) -> Circuit:
    """The circuit of these edges. Raises `CircuitError` for one that the graph does not have."""
    member = torch.zeros_like(graph.is_edge)
    for edge in edges:
        member[graph.index(edge)] = True
    return Circuit(graph, member)


def circuit_from_dict(data: Mapping[str, Any]) -> Circuit:
    """The inverse of `Circuit.to_dict`. Raises `CircuitError` or `ConfigError`."""
    if set(data) != {"model", "n_pos", "edges"} or not isinstance(data["model"], dict):
        raise CircuitError(f"a circuit holds model, n_pos and edges, got {sorted(data)}")
    n_pos, edges = data["n_pos"], data["edges"]
    if n_pos is not None and (type(n_pos) is not int or n_pos < 1):
        raise CircuitError(f"n_pos = {n_pos!r}: it must be None or a whole number of positions")
    if not isinstance(edges, list) or not all(isinstance(edge, str) for edge in edges):
        raise CircuitError("edges must be a list of names such as a0.h1->m0")
    model = configuration.from_dict(ModelConfig, data["model"], where="circuit model")
    return circuit_of(Graph(model, n_pos), edges)


def top_edges(
    graph: Graph,
    scores: Float[Tensor, "*pos writer reader"],
    n: int,
    *,
    selection: Selection = "absolute",
) -> Circuit:
    """The `n` edges of the highest score (or size of score); ties by the graph's order.

    Raises `CircuitError` where there are fewer edges, or a score is NaN.
    """
    if not 0 <= n <= graph.n_edges:
        raise CircuitError(f"{n} edges asked for, the graph has {graph.n_edges}")
    order = rank_edges(graph, scores, selection=selection)
    member = torch.zeros_like(graph.is_edge)
    member.view(-1)[order[:n]] = True
    return Circuit(graph, member)


def rank_edges(
    graph: Graph, scores: Float[Tensor, "*pos writer reader"], *, selection: Selection
) -> Tensor:
    """Flat indices of all edges, the best first."""
    if scores.shape != graph.is_edge.shape:
        raise CircuitError(
            f"scores {list(scores.shape)} do not fit the graph, {list(graph.is_edge.shape)}"
        )
    flat = (scores.abs() if selection == "absolute" else scores).detach().double().cpu().flatten()
    places = graph.is_edge.flatten().nonzero()[:, 0]
    if bool(flat[places].isnan().any()):
        raise CircuitError("some edges have the score NaN; look at the metric and the inputs")
    return places[flat[places].argsort(descending=True, stable=True)]


def edges_above(
    graph: Graph,
    scores: Float[Tensor, "*pos writer reader"],
    threshold: float,
    *,
    selection: Selection = "absolute",
) -> Circuit:
    """The edges whose score (or size of score) exceeds a threshold."""
    sizes = scores.abs() if selection == "absolute" else scores
    return Circuit(graph, (sizes.cpu() > threshold) & graph.is_edge)


def path_ends(graph: Graph, positions: Sequence[int] | None = None) -> list[int]:
    """Positions of a graph per position at which paths end, counted from 0; all when None.

    Raises `CircuitError` for none at all, or one that the graph does not have.
    """
    n_pos = graph.n_pos or 1
    chosen = range(n_pos) if positions is None else positions
    wrong = [at for at in chosen if not -n_pos <= at < n_pos]
    if wrong or not chosen:
        raise CircuitError(
            f"paths are to end at position {wrong[0] if wrong else '()'}; the graph has positions "
            f"0 to {n_pos - 1}"
        )
    return [at % n_pos for at in chosen]


def _reached(graph: Graph, member: Tensor) -> Bool[Tensor, "pos writer"]:
    """Writers that paths from the embeddings come to, in the order in which they write."""
    reached = member.new_zeros(member.shape[:2])
    reached[:, : len(INPUTS)] = True
    for reader in graph.reading_hooks[:-1]:
        before, readers, owners = _places(reader)
        read = (member[:, before, readers] & reached[:, before, None]).any(1)
        reached[:, owners] |= _attending(graph, read) if _is_attended(reader) else read
    return reached


def _leading(graph: Graph, member: Tensor, ends: list[int]) -> Bool[Tensor, "pos reader"]:
    """Readers from which paths lead to the logits at some positions."""
    leading = member.new_zeros(len(member), member.shape[2])
    leading[ends, -1] = True
    for reader in reversed(graph.reading_hooks[:-1]):
        _, readers, owners = _places(reader)
        passed_on = (member[:, owners] & leading[:, None]).any(-1)
        if _is_attended(reader):  # the other way round: by positions that attend to this one
            passed_on = _attending(graph, passed_on.flip(0)).flip(0)
        leading[:, readers] = passed_on
    return leading


def _places(reader: Reader) -> tuple[slice, slice, slice]:
    """At a hook: the writers before it, its readers, and the writers these belong to."""
    after = reader.writers + reader.count
    readers = slice(reader.start, reader.start + reader.count)
    return slice(reader.writers), readers, slice(reader.writers, after)


def _is_attended(reader: Reader) -> bool:
    return reader.hook.endswith(("hook_k_input", "hook_v_input"))


def _attending(graph: Graph, at: Bool[Tensor, "pos head"]) -> Bool[Tensor, "pos head"]:
    """Where a head may attend to a position that is marked."""
    if graph.config.attention_dir == "causal":
        return at.cummax(0).values
    return at.any(0).expand_as(at)


def _ends(edge: str) -> tuple[str, str]:
    writer, reader = edge.split("@")[0].split("->")
    return writer, component(reader)

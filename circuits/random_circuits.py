"""Random circuits: what a circuit has to beat before anything is claimed of it.

`uniform` draws any edges of the graph, all sets of the size alike. Most of them hold dead ends,
which carry nothing, so the stronger control is `connected`: edges are added in random order until
what is left after pruning dead ends has about the wanted size.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.circuit import INPUTS, Circuit, path_ends
from circuits.graph import LOGITS, Graph, component
from workbench.errors import CircuitError

RandomKind = Literal["uniform", "connected"]

ATTEMPTS = 1000
"""Random paths drawn for each one wanted that adds an edge."""
SAME = 1e-6
"""Two faithfulnesses closer than this are a tie: the same circuit may be summed in two orders."""


def random_circuits(
    graph: Graph,
    n_edges: int,
    n: int,
    seed: int,
    *,
    kind: RandomKind = "uniform",
    within: Circuit | None = None,
    positions: Sequence[int] | None = None,
) -> list[Circuit]:
    """`n` random circuits of `n_edges` edges (`connected`: of about that size, no dead ends).

    They are drawn from the whole graph, or from the edges `within` another circuit. `positions` are
    those whose logits count, for `connected` ones of a graph per position (all when None). Raises
    `CircuitError` where there are fewer edges, or no circuits are asked for.
    """
    room = graph.is_edge if within is None else within.member.cpu()
    if not 0 <= n_edges <= int(room.sum()) or n < 1:
        raise CircuitError(
            f"{n} random circuits of {n_edges} edges asked for; ask for at least one circuit, "
            f"and for at most the {int(room.sum())} edges there are"
        )
    generator = torch.Generator().manual_seed(seed)
    places = room.flatten().nonzero()[:, 0]
    drawn = []
    for _ in range(n):
        order = places[torch.randperm(len(places), generator=generator)]
        if kind == "uniform":
            drawn.append(_first(graph, order, n_edges))
        else:
            drawn.append(_connected(graph, order, n_edges, positions))
    return drawn


def percentile_near_one(
    value: float, others: Float[Tensor, " circuit"], *, tolerance: float = SAME
) -> float:
    """Percentage of other faithfulnesses that are farther from 1 than this one; ties count half.

    Distance from 1 is what counts, since a circuit at 1.8 mimics the network no better than one
    at 0.2. Where no circuit exceeds 1 this is the plain percentile.
    """
    ahead = (1 - others.double()).abs() - abs(1 - value)
    tie = ahead.abs() <= tolerance
    return 100 * float(((ahead > 0) & ~tie).double().mean() + tie.double().mean() / 2)


def random_edges_outside(
    circuit: Circuit, n: int, seed: int, *, positions: Sequence[int] | None = None
) -> Int[Tensor, "edge axis"]:
    """Places of up to `n` random edges that are not members and, once added, no dead ends.

    `positions` are those whose logits count, for a graph per position (all when None).
    """
    places = (circuit.graph.is_edge & ~circuit.member.cpu()).nonzero()
    generator = torch.Generator().manual_seed(seed)
    drawn = places[torch.randperm(len(places), generator=generator)]
    alive = circuit.on_paths(positions).cpu()[tuple(drawn.T)]
    return drawn[alive][:n]


def inflate(
    circuit: Circuit, n: int, seed: int, *, positions: Sequence[int]
) -> tuple[Bool[Tensor, "draw *pos writer reader"], Bool[Tensor, "draw *pos writer reader"]]:
    """`n` times the circuit with a random path added, and one random edge which that added.

    `positions` are those whose logits count, for a graph per position. Raises `CircuitError`
    where no path adds an edge.
    """
    graph, generator = circuit.graph, torch.Generator().manual_seed(seed)
    ours, inflated, added = circuit.member.cpu(), [], []
    for _ in range(ATTEMPTS * n):
        path = random_path(graph, positions, generator)
        new = [place for place in path if not ours[place]]
        if new:
            member = ours.clone()
            member[tuple(torch.tensor(path).T)] = True
            inflated.append(member)
            added.append(_pick(new, generator))
        if len(added) == n:
            return torch.stack(inflated), single_edges(graph, torch.tensor(added))
    raise CircuitError("no path adds an edge to this circuit; it holds nearly the whole graph")


def random_path(
    graph: Graph, positions: Sequence[int], generator: torch.Generator
) -> list[tuple[int, ...]]:
    """A random path of edges from an embedding to the logits: places in `Graph.is_edge`.

    Each step is any edge out of where the path has come. In a graph per position keys and values
    lead to any position that may attend to theirs; the path ends at one of `positions`.
    """
    ends = path_ends(graph, positions) if graph.n_pos is not None else []
    while True:
        pos = None if graph.n_pos is None else _pick(range(graph.n_pos), generator)
        name = _pick(INPUTS, generator)
        path: list[tuple[int, ...]] = []
        while name != LOGITS:
            writer = graph.writers.index(name)
            row = graph.is_edge[writer] if pos is None else graph.is_edge[pos, writer]
            reader = _pick(row.nonzero()[:, 0].tolist(), generator)
            path.append((writer, reader) if pos is None else (pos, writer, reader))
            name = component(graph.readers[reader])
            if pos is not None and graph.readers[reader].endswith(("<k>", "<v>")):
                causal = graph.config.attention_dir == "causal"
                pos = _pick(range(pos if causal else 0, graph.n_pos or 0), generator)
        if pos is None or pos in ends:
            return path


def single_edges(
    graph: Graph, places: Int[Tensor, "edge axis"]
) -> Bool[Tensor, "edge *pos writer reader"]:
    """For each place, the mask of that edge alone."""
    found = torch.zeros(len(places), *graph.is_edge.shape, dtype=torch.bool)
    found[(torch.arange(len(places)), *places.T)] = True
    return found


def _pick(options: Sequence[Any], generator: torch.Generator) -> Any:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _connected(
    graph: Graph, order: Tensor, n_edges: int, positions: Sequence[int] | None
) -> Circuit:
    """The pruned beginning of the order whose size is nearest; the smaller one where they tie."""
    low, high = 0, len(order)  # the pruned size never shrinks as edges are added
    while low < high:
        middle = (low + high) // 2
        if _first(graph, order, middle).pruned(positions).n_edges >= n_edges:
            high = middle
        else:
            low = middle + 1
    below, above = (_first(graph, order, max(0, k)).pruned(positions) for k in (low - 1, low))
    return below if n_edges - below.n_edges <= above.n_edges - n_edges else above


def _first(graph: Graph, order: Tensor, n: int) -> Circuit:
    member = torch.zeros(graph.is_edge.numel(), dtype=torch.bool)
    member[order[:n]] = True
    return Circuit(graph, member.reshape(graph.is_edge.shape))

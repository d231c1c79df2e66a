"""Random circuits: what a circuit has to beat before anything is claimed of it.

`uniform` draws any edges of the graph, all sets of the size alike. Most of them hold dead ends,
which carry nothing, so the stronger control is `connected`: edges are added in random order until
what is left after pruning dead ends has about the wanted size. `paths` is the control of Shi et al.
2024 (arXiv:2410.13032): whole random paths are added until there are at least as many edges.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.circuit import INPUTS, Circuit, path_ends
from circuits.graph import LOGITS, Graph, component
from workbench.errors import CircuitError

RandomKind = Literal["uniform", "connected", "paths"]

ATTEMPTS = 1000
"""Random paths drawn for each one wanted that adds an edge."""
TOGETHER = 100
"""Random paths drawn at once for a circuit made of them."""
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
    """`n` random circuits of `n_edges` edges, from the whole graph or `within` another circuit.

    `positions` are those whose logits count, for a graph per position (all when None).

    - uniform: any edges
    - connected: of about that size, no dead ends
    - paths: random paths from an embedding to the logits, added one at a time until there are at
      least so many edges; the last path may add some more. Each step is any edge that leads on.
      Once `TOGETHER` paths drawn at once add nothing, each further one is led through a random
      missing edge, so that circuits of nearly all edges end soon.

    Raises `CircuitError` where there are fewer edges (`paths`: fewer on paths), or no circuits are
    asked for.
    """
    room, there = graph.is_edge if within is None else within.member.cpu(), "there are"
    if kind == "paths":
        room, there = Circuit(graph, room).pruned(positions).member, "on paths"
    if not 0 <= n_edges <= int(room.sum()) or n < 1:
        raise CircuitError(
            f"{n} random circuits of {n_edges} edges asked for; ask for at least one circuit, "
            f"and for at most the {int(room.sum())} edges {there}"
        )
    generator = torch.Generator().manual_seed(seed)
    if kind == "paths":
        return [_of_paths(graph, room, n_edges, generator) for _ in range(n)]
    places = room.flatten().nonzero()[:, 0]
    orders = (places[torch.randperm(len(places), generator=generator)] for _ in range(n))
    if kind == "uniform":
        return [_first(graph, order, n_edges) for order in orders]
    return [_connected(graph, order, n_edges, positions) for order in orders]


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


def _of_paths(
    graph: Graph, room: Bool[Tensor, "*pos writer reader"], n_edges: int, generator: torch.Generator
) -> Circuit:
    """Random paths through a room without dead ends, until there are at least so many edges."""
    found: set[int] = set()
    before = -1
    while before < len(found) < n_edges:
        before = len(found)
        for path in _paths(graph, room, TOGETHER, generator):
            found.update(path)
            if len(found) >= n_edges:
                break
    places = room.flatten().nonzero()[:, 0]
    for place in places[torch.randperm(len(places), generator=generator)].tolist():
        if len(found) >= n_edges:
            break
        if place not in found:
            found.update(_paths(graph, _through(graph, room, place), 1, generator)[0])
    return _first(graph, torch.tensor(sorted(found), dtype=torch.long), len(found))


def _paths(
    graph: Graph, room: Bool[Tensor, "*pos writer reader"], n: int, generator: torch.Generator
) -> list[list[int]]:
    """Random paths from an embedding to the logits: places in the flattened room.

    All walk at once. Every edge of the room has to be on such a path.
    """
    member = (room[None] if graph.n_pos is None else room).float()
    n_pos, n_writers, n_readers = member.shape
    owners = _owners(graph)
    leads = member.any(-1)  # [pos, writer]
    attended = torch.tensor([reader.endswith(("<k>", "<v>")) for reader in graph.readers])
    seen_from = torch.ones(n_pos, n_pos)  # [read at, written at]
    if graph.config.attention_dir == "causal":
        seen_from = seen_from.triu()

    def drawn(weights: Tensor) -> Tensor:
        return weights.multinomial(1, generator=generator)[:, 0]

    paths: list[list[int]] = [[] for _ in range(n)]
    walking = torch.arange(n)
    starts = leads[:, : len(INPUTS)]
    start = drawn(starts.flatten().float().expand(n, -1))
    pos, writer = start // len(INPUTS), start % len(INPUTS)
    while len(walking):
        reader = drawn(member[pos, writer])
        places = (pos * n_writers + writer) * n_readers + reader
        for path, place in zip(walking.tolist(), places.tolist(), strict=True):
            paths[path].append(place)
        writer = owners[reader]
        going = writer < n_writers
        walking, pos, writer, moves = (x[going] for x in (walking, pos, writer, attended[reader]))
        if len(walking) and n_pos > 1:
            onward = seen_from[pos] * leads[:, writer].T
            pos = torch.where(moves, drawn(onward), pos)
    return paths


def _through(
    graph: Graph, room: Bool[Tensor, "*pos writer reader"], place: int
) -> Bool[Tensor, "*pos writer reader"]:
    """The edges of the room on paths through one of them.

    Writers are in the order in which they write, and a path takes them in this order. Without the
    edges that pass this one by, from a writer before its end to a reader after its start, every
    path has to take it.
    """
    writers, readers = room.shape[-2:]
    owners = _owners(graph)
    writer, reader = place // readers % writers, place % readers
    kept = room & ((owners <= writer) | (torch.arange(writers)[:, None] >= owners[reader]))
    kept.view(-1)[place] = True
    return Circuit(graph, kept).pruned().member


def _owners(graph: Graph) -> Int[Tensor, " reader"]:
    """For each reader, which writer its component is; one past the last for the logits."""
    order = {name: index for index, name in enumerate((*graph.writers, LOGITS))}
    return torch.tensor([order[component(reader)] for reader in graph.readers])

"""A circuit as a chart: layers upwards, and sideways positions where each has its own edges."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from apps.circuit_drawing import box_places
from apps.web.charts.chart import CircuitGraph, GraphEdge, GraphNode
from apps.web.trace.draft_history import ends_of, group_of, nodes_of
from circuits.circuit import Circuit
from circuits.graph import LOGITS
from workbench.session.schema import Marks
from workbench.strict import LABEL

Place = tuple[float, float]
MOST_SPELLED = 8
"""Positions up to which nodes carry their names; at more, short ones."""
MOST_WRITTEN = 8
"""Characters that fit into a node: what stands beside one is hidden where nodes are near. All of a
label is told when its node is chosen."""
HEADS_AT, OTHERS_AT = -0.2, 0.25
"""Beside the middle of a position's column, so that edges past the heads are seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The chart of a circuit, and what its rows stand for."""

    chart: CircuitGraph
    parts: tuple[tuple[str, ...], ...]
    """By row of the chart's table: the node or edge, or all of a group's."""

    def row(self, part: str) -> int | None:
        """The row of a node or an edge; None where it is not there."""
        return next((i for i, parts in enumerate(self.parts) if part in parts), None)


def picture_of(
    circuit: Circuit,
    scores: Float[Tensor, "*pos writer reader"] | None,
    marks: Marks,
    *,
    name: str,
    measure: str,
    live: Circuit,
    places: dict[str, Place] | None = None,
    limit: float | None = None,
) -> Picture:
    """A circuit as a chart: groups as one node, pinned nodes marked, dead ends dotted.

    Args:
        scores: of all edges; every edge is drawn alike when None.
        live: the circuit without dead ends.
        places: where nodes stand, as `places_of` has them; by what is in the circuit when None.
        limit: as in `CircuitGraph`.
    """
    edges = circuit.edges
    places = places_of(circuit.graph.n_pos, edges, marks.pinned) if places is None else places
    nodes, stands_for = _nodes(places, marks, circuit.graph.n_pos)
    lines, held = _edges(circuit, scores, live, stands_for, marks.labels)
    text = re.sub(r"[^A-Za-z0-9-]", "-", name)
    dead = len(edges) - live.n_edges
    chart = CircuitGraph(
        name=text,
        alt=f"A circuit of {len(edges)} of {circuit.graph.n_edges} edges between {len(nodes)} "
        f"nodes, embeddings below, logits above; {dead} of the edges are dead ends.",
        nodes=tuple(nodes),
        edges=tuple(lines),
        measure=measure,
        limit=limit,
    )
    inside: dict[str, list[str]] = {}
    for node, shown in stands_for.items():
        inside.setdefault(shown, []).append(node)
    return Picture(
        chart=chart, parts=(*(tuple(inside[one.name]) for one in nodes), *map(tuple, held))
    )


def places_of(
    n_pos: int | None, edges: Iterable[str], pinned: Iterable[str] = ()
) -> dict[str, Place]:
    """Where the nodes of some edges stand, and pinned ones; each position is a column."""
    names = {node for edge in edges for node in ends_of(edge)} | set(pinned)
    if n_pos is None:
        return dict(box_places({name for name in names if "@" not in name}))
    bare = {name.partition("@")[0] for name in names if "@" in name}
    rows = {name: row for row, name in enumerate(sorted(bare, key=_depth))}
    places = {}
    for name in names:
        node, at, position = name.partition("@")
        if at:
            aside = HEADS_AT if _kind(node) == "head" else OTHERS_AT
            places[name] = (int(position) + aside, float(rows[node]))
    return places


def _depth(node: str) -> tuple[float, str]:
    """Where a node stands in a column of all nodes at one position: as in `Graph.writers`."""
    kind = _kind(node)
    if kind in ("embedding", "logits"):
        return (-1.0 if kind == "embedding" else float("inf")), node
    return int(node[1:].partition(".")[0]) + 0.5 * (kind == "mlp"), node


def edge_label(labels: Mapping[str, str], edge: str) -> str:
    """What somebody called an edge, here or at every position; empty where nobody did."""
    return labels.get(edge) or labels.get(edge.partition("@")[0], "")


def known_nodes(circuit: Circuit, marks: Marks) -> tuple[str, ...]:
    """Nodes with an edge, and pinned ones, in the order in which they write."""
    touched = {node for edge in circuit.edges for node in ends_of(edge)} | set(marks.pinned)
    return tuple(node for node in nodes_of(circuit.graph) if node in touched)


SHORT = {"embed": "tok", "pos_embed": "pos", LOGITS: "out"}


def _nodes(
    places: dict[str, Place], marks: Marks, n_pos: int | None
) -> tuple[list[GraphNode], dict[str, str]]:
    """The nodes to draw, and by which name each node of the circuit is drawn."""
    stands_for: dict[str, str] = {}
    grouped: dict[str, list[str]] = {}
    for node in places:
        group = group_of(marks, node)
        stands_for[node] = node if group is None else group.name
        if group is not None:
            grouped.setdefault(group.name, []).append(node)
    drawn = [
        GraphNode(
            name=node,
            label=_label(node, marks, n_pos),
            kind=_kind(node),
            x=x,
            y=y,
            pinned=node in marks.pinned,
        )
        for node, (x, y) in places.items()
        if stands_for[node] == node
    ]
    for name, inside in grouped.items():
        xs, ys = zip(*(places[node] for node in inside), strict=True)
        drawn.append(
            GraphNode(
                name=name,
                label=_fitting(f"{name} ({len(inside)})", name),
                kind="group",
                x=sum(xs) / len(xs),
                y=sum(ys) / len(ys),
                pinned=any(node in marks.pinned for node in inside),
            )
        )
    return sorted(drawn, key=lambda one: (one.y, one.x, one.name)), stands_for


def _edges(
    circuit: Circuit,
    scores: Tensor | None,
    live: Circuit,
    stands_for: dict[str, str],
    labels: Mapping[str, str],
) -> tuple[list[GraphEdge], list[list[str]]]:
    """The edges to draw, and the edges that each stands for: one for all between two groups."""
    alive = set(live.edges)
    lines: dict[str, GraphEdge] = {}
    held: dict[str, list[str]] = {}
    values = [1.0] * circuit.n_edges if scores is None else scores[circuit.member.cpu()].tolist()
    for edge, score in zip(circuit.edges, values, strict=True):
        ends = ends_of(edge)
        writer, reader = (stands_for[end] for end in ends)
        if writer == reader:
            continue
        name = edge if (writer, reader) == ends else f"{writer}->{reader}"
        known = lines.get(name)
        if known is not None:
            score = max(score, known.score, key=abs)
        lines[name] = GraphEdge(
            name=name,
            writer=writer,
            reader=reader,
            score=score,
            live=edge in alive or (known is not None and known.live),
        )
        held.setdefault(name, []).append(edge)
    drawn = [_named(line, held[name], labels) for name, line in lines.items()]
    return drawn, list(held.values())


def _named(line: GraphEdge, edges: Sequence[str], labels: Mapping[str, str]) -> GraphEdge:
    """A line with the labels of its edges, so that picture and table tell them."""
    words = "; ".join(filter(None, (edge_label(labels, edge) for edge in edges)))
    return replace(line, label=words if len(words) <= LABEL else f"{words[: LABEL - 1]}…")


def _label(node: str, marks: Marks, n_pos: int | None) -> str:
    """What is written on a node: its label, else its name; without the position it stands at."""
    bare = node.partition("@")[0]
    label = marks.labels.get(node) or marks.labels.get(bare)
    if n_pos is None or n_pos <= MOST_SPELLED:
        return (
            _fitting(f"{bare}: {label}", label) if label else _fitting(bare, SHORT.get(bare, bare))
        )
    short = bare.removeprefix("a").replace(".h", ".")  # a0.h1 as 0.1
    return label[:MOST_SPELLED] if label else SHORT.get(bare, short)


def _fitting(whole: str, short: str) -> str:
    """The whole of a label where it fits into a node, else its short form, cut if need be."""
    text = whole if len(whole) <= MOST_WRITTEN else short
    return text if len(text) <= MOST_WRITTEN else f"{text[: MOST_WRITTEN - 1]}…"


def _kind(node: str) -> Literal["embedding", "head", "mlp", "logits"]:
    bare = node.partition("@")[0]
    if bare == LOGITS:
        return "logits"
    if bare.startswith("a"):
        return "head"
    return "mlp" if bare.startswith("m") else "embedding"

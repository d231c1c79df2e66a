"""Drawings of circuits, as PNG or SVG: embeddings at the bottom, logits at the top.

Everything is placed in inches, one unit of the axes being one inch, so that an arrow ends at the
edge of a box and bends around the boxes between.
"""

import re
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from apps.drawing import LESS, MORE, pyplot, saved
from circuits.circuit import Circuit
from circuits.graph import LOGITS, component
from workbench.errors import CircuitError

COLUMN, ROW = 1.25, 1.05
"""Distance of boxes beside and above each other."""
HALF_WIDTH, HALF_HEIGHT, HALF_HEIGHT_OF_HEAD = 0.38, 0.13, 0.2
PORTS = {"q": -0.22, "k": 0.0, "v": 0.22}
"""Where a head is read into: along the lower edge of its box."""
BENDS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.45, -0.45)
"""How far an arrow may bend, as a share of its length: the least that passes no box is taken."""

Point = tuple[float, float]


class DrawnEdge(NamedTuple):
    """One arrow. In a circuit per position, of all edges of a name."""

    writer: str
    reader: str
    score: float
    """The largest, where there are several."""
    positions: tuple[int, ...]
    live: bool
    """Whether one of them is no dead end."""


def draw_circuit(circuit: Circuit, scores: Float[Tensor, "*pos writer reader"], kind: str) -> bytes:
    """A circuit as a drawing. `kind` is png or svg.

    An edge is as wide as its score is large; blue where patching it raises the metric, orange
    where it lowers it; dotted where it is a dead end. In a circuit per position edges of the same
    name are drawn once, with their positions. Raises `CircuitError` for one without edges.
    """
    if not circuit.n_edges:
        raise CircuitError("the circuit has no edges; there is nothing to draw")
    plot = pyplot()
    edges = drawn_edges(circuit, scores)
    places = box_places({name for edge in edges for name in (edge.writer, component(edge.reader))})
    left, right = (f(x for x, _ in places.values()) for f in (min, max))
    top = max(y for _, y in places.values())
    title = _title(circuit, edges)
    middle, width = (
        (left + right) / 2,
        max(right - left + 2 * (HALF_WIDTH + 0.3), 0.065 * len(title)),
    )
    height = top + 1.2
    figure = plot.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(middle - width / 2, middle + width / 2)
    axes.set_ylim(-0.4, top + 0.8)
    axes.axis("off")
    axes.text(middle, top + 0.55, title, fontsize=8, ha="center", va="center")
    largest = max(abs(edge.score) for edge in edges) or 1.0
    for edge in sorted(edges, key=lambda edge: abs(edge.score)):
        _arrow(axes, edge, places, edge.score / largest)
    for name, place in places.items():
        ports = {letter(edge.reader) for edge in edges if component(edge.reader) == name} - {""}
        _box(plot, axes, name, place, ports)
    return saved(plot, figure, kind)


def _title(circuit: Circuit, edges: list[DrawnEdge]) -> str:
    parts = [f"{circuit.n_edges} of {circuit.graph.n_edges} edges"]
    if circuit.graph.n_pos is not None:
        parts.append("@ positions")
    if not all(edge.live for edge in edges):
        parts.append("dotted: dead ends")
    return "; ".join(parts)


def drawn_edges(circuit: Circuit, scores: Tensor) -> list[DrawnEdge]:
    graph, live = circuit.graph, circuit.pruned().member
    found: dict[tuple[str, str], DrawnEdge] = {}
    for index in map(tuple, circuit.member.nonzero().tolist()):
        ends = (graph.writers[index[-2]], graph.readers[index[-1]])
        one = DrawnEdge(*ends, float(scores[index]), index[:-2], bool(live[index]))
        known = found.get(ends, one)
        found[ends] = one._replace(
            score=max(one.score, known.score, key=abs),
            positions=tuple(sorted({*known.positions, *one.positions})),
            live=one.live or known.live,
        )
    return list(found.values())


def box_places(names: set[str]) -> dict[str, Point]:
    """Where nodes stand: a row for the embeddings, two per layer, one for the logits.

    MLPs stand to the right of the heads, so that edges from one to the next pass none.
    """
    rows: dict[float, list[str]] = {}
    for name in names:
        rows.setdefault(_row(name), []).append(name)
    heads = [len(row) for row in rows.values() if row[0].startswith("a")]
    aside = max(heads, default=0) / 2 + 0.5 if heads else 0.0
    places = {}
    for y, row in enumerate(sorted(rows)):
        for i, name in enumerate(sorted(rows[row], key=_order)):
            x = aside if name.startswith("m") else i - (len(rows[row]) - 1) / 2
            places[name] = (COLUMN * x, ROW * y)
    return places


def _row(name: str) -> float:
    if name in ("embed", "pos_embed"):
        return -1.0
    if name == LOGITS:
        return float("inf")
    match = re.match(r"[am](\d+)", name)
    assert match is not None, name
    return int(match[1]) + (0.5 if name.startswith("m") else 0.0)


def _order(name: str) -> tuple[int, str]:
    head = re.search(r"h(\d+)$", name)
    return (int(head[1]) if head else 0, name)


def letter(reader: str) -> str:
    match = re.search(r"<(\w)>", reader)
    return match[1] if match else ""


def half_height(name: str) -> float:
    return HALF_HEIGHT_OF_HEAD if name.startswith("a") else HALF_HEIGHT


def _arrow(axes: Any, edge: DrawnEdge, places: dict[str, Point], share: float) -> None:
    into = component(edge.reader)
    (x, y), (to_x, to_y) = places[edge.writer], places[into]
    start = (x, y + half_height(edge.writer))
    end = (to_x + PORTS.get(letter(edge.reader), 0.0), to_y - half_height(into))
    others = {name: place for name, place in places.items() if name not in (edge.writer, into)}
    bend = min(BENDS, key=lambda bend: (boxes_hit(start, end, bend, others), BENDS.index(bend)))
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        zorder=1,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.18,head_length=0.36",
            "connectionstyle": f"arc3,rad={bend}",
            "shrinkA": 0,
            "shrinkB": 0,
            "color": MORE if share > 0 else LESS,
            "linewidth": 0.6 + 2.6 * abs(share),
            "alpha": 0.45 + 0.5 * abs(share),
            "linestyle": "-" if edge.live else ":",
        },
    )
    if edge.positions:
        share_of_way = {"q": 0.3, "v": 0.7}.get(letter(edge.reader), 0.5)  # or they would overlap
        at = along(start, end, bend, share_of_way)
        box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        text = f"@{ranges(edge.positions)}"
        axes.text(*at, text, fontsize=6, ha="center", va="center", bbox=box, zorder=2)


def boxes_hit(start: Point, end: Point, bend: float, others: dict[str, Point]) -> int:
    """How many boxes an arrow passes through, or nearly."""
    points = [along(start, end, bend, i / 40) for i in range(41)]
    return sum(
        any(
            abs(px - x) < HALF_WIDTH + 0.05 and abs(py - y) < half_height(name) + 0.05
            for px, py in points
        )
        for name, (x, y) in others.items()
    )


def along(start: Point, end: Point, bend: float, t: float) -> Point:
    """A point of matplotlib's arc3: a quadratic curve whose middle control point stands aside."""
    (x, y), (to_x, to_y) = start, end
    control = ((x + to_x) / 2 + bend * (to_y - y), (y + to_y) / 2 - bend * (to_x - x))
    first, second, third = (1 - t) ** 2, 2 * t * (1 - t), t**2
    return (
        first * x + second * control[0] + third * to_x,
        first * y + second * control[1] + third * to_y,
    )


def _box(plot: Any, axes: Any, name: str, place: Point, ports: set[str]) -> None:
    (x, y), half = place, half_height(name)
    shape = {"facecolor": "white", "edgecolor": "#333333", "linewidth": 1.0, "zorder": 3}
    corner = (x - HALF_WIDTH, y - half)
    axes.add_patch(plot.Rectangle(corner, 2 * HALF_WIDTH, 2 * half, **shape))
    words = {"ha": "center", "va": "center", "zorder": 4}
    axes.text(x, y + (0.06 if ports else 0.0), name, fontsize=9, **words)
    for letter in ports:
        axes.text(x + PORTS[letter], y - half + 0.085, letter, fontsize=7, **words)


def ranges(positions: tuple[int, ...]) -> str:
    """`1, 2, 3, 7` as `1-3,7`."""
    parts: list[list[int]] = []
    for position in positions:
        if parts and position == parts[-1][-1] + 1:
            parts[-1].append(position)
        else:
            parts.append([position])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)

"""Pictures of a session's page: grids of numbers and circuit graphs as inline SVG.

A picture is a string of HTML whose colours come from the page's style sheet, so that it follows
light and dark; no colour stands alone, for every cell and edge is also written as a number. Blue is
more, orange is less (edges: dashed), and nothing at all is the colour of the page. Text from data
enters through `escaped`.
"""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float, Shaped
from torch import Tensor

from apps.circuit_drawing import (
    BENDS,
    HALF_WIDTH,
    PORTS,
    DrawnEdge,
    Point,
    along,
    box_places,
    boxes_hit,
    drawn_edges,
    half_height,
    letter,
    ranges,
)
from apps.figures import Number, colour_bar, finite_limit, heat_map
from apps.page import escaped, plain_number
from circuits.circuit import Circuit
from circuits.graph import component

GRID_CELLS, GRID_COLUMNS = 400, 24
"""Up to this size a grid carries its numbers; a larger one is a picture with one pixel a cell."""
WIDE, HIGH = 54, 24
"""A cell, in pixels."""
LETTERS = 34
"""Of a row's name that fit beside it."""
STRONGEST = 0.5
"""Opacity at the end of the scale: numbers on it stay legible, in light and in dark."""
MOST_DRAWN = 300
"""Edges of a circuit that are drawn, the strongest ones."""
CROWDED = 40
"""Boxes beyond which arrows are straight."""
INCH = 84
"""Pixels to an inch of `apps.circuit_drawing`, which places the boxes."""
LABEL = 15
"""Letters of a label that fit beside a box."""


# ---------------------------------------------------------------------- grids


def grid(
    values: Shaped[Tensor, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    signed: bool,
    limit: float | None = None,
    marked: Shaped[Tensor, "row column"] | None = None,
) -> str:
    """A matrix with its numbers, coloured; a larger one as a heat map.

    Args:
        label: what the picture shows, in words.
        signed: colours symmetric around 0; from 0 upwards where not.
        limit: the end of the colour scale; the largest size of a value when None.
        marked: cells that carry a dot.
    """
    limit = finite_limit(values) if limit is None else limit
    if values.numel() > GRID_CELLS or len(columns) > GRID_COLUMNS:
        return _heat_map(values, rows, columns, label=label, signed=signed, limit=limit)
    shown = [name if len(name) <= LETTERS else name[: LETTERS - 1] + "…" for name in rows]
    left = 14 + math.ceil(6.9 * max(map(len, shown), default=0))
    parts = [
        _text(left - 8, HIGH * row + 16, name, "end", full=rows[row])
        for row, name in enumerate(shown)
    ]
    bottom = HIGH * len(rows)
    for column, name in enumerate(columns):
        short = name if len(name) <= 8 else name[:7] + "…"
        parts.append(_text(left + WIDE * (column + 0.5), bottom + 16, short, "quiet", full=name))
    dots = None if marked is None else marked.tolist()
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            at = (left + WIDE * column, HIGH * row)
            dot = dots is not None and bool(dots[row][column])
            parts.append(_cell(*at, value, limit, dot, f"{rows[row]}, {columns[column]}"))
    width, height = left + WIDE * len(columns) + 4, bottom + 24
    return _svg(width, height, label, "".join(parts))


def _cell(x: Number, y: Number, value: Number, limit: float, dot: bool, where: str) -> str:
    if not math.isfinite(value):  # what was not measured
        return _text(x + WIDE / 2, y + 16, "–", "quiet")
    share = min(1.0, abs(value) / limit) if limit > 0 else 0.0
    style = "less" if value < 0 else "more"
    digits = 3 if limit < 0.1 else 2 if limit < 10 else 1
    shown = f"{value:z.{digits}f}".replace("-", "−") + "•" * dot
    told = f"{where}: {plain_number(value)}{', marked' * dot}"
    return (
        f'<g><title>{escaped(told)}</title><rect class="cell {style}" x="{_n(x + 1)}" '
        f'y="{_n(y + 1)}" width="{WIDE - 2}" height="{HIGH - 2}" '
        f'fill-opacity="{STRONGEST * share:.3f}"/>{_text(x + WIDE / 2, y + 16, shown)}</g>'
    )


def _heat_map(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    signed: bool,
    limit: float,
) -> str:
    picture = heat_map(values, alt=label, limit=limit, signed=signed)
    ends = [[names[0], names[-1]] if len(names) > 1 else list(names) for names in (rows, columns)]
    down, across = ("".join(f"<span>{escaped(name)}</span>" for name in pair) for pair in ends)
    bar = colour_bar(limit=limit, signed=signed, alt="Colour scale")
    low = f"−{plain_number(limit, 3)}" if signed else "0"
    scale = f'<div class="scale"><span>{low}</span>{bar}<span>{plain_number(limit, 3)}</span></div>'
    return (
        f'<div class="map named"><div class="across">{across}</div><div class="down">{down}</div>'
        f"{picture}</div>{scale}"
    )


# ---------------------------------------------------------------------- circuits


def circuit_graph(
    circuit: Circuit,
    values: Float[Tensor, "*pos writer reader"],
    *,
    label: str,
    names: Mapping[str, str],
) -> str:
    """A circuit as a drawing: embeddings at the bottom, logits at the top.

    An edge is as wide as its value is large, dashed where that is below zero, dotted and pale where
    it is a dead end. Of more than `MOST_DRAWN` edges the strongest are drawn.

    Args:
        names: what somebody calls a node such as `a0.h1`.
    """
    edges = sorted(drawn_edges(circuit, values), key=lambda edge: -abs(edge.score))[:MOST_DRAWN]
    places = box_places({name for edge in edges for name in (edge.writer, component(edge.reader))})
    xs, top = [x for x, _ in places.values()], max(y for _, y in places.values())
    left, width = min(xs) - 0.9, max(xs) - min(xs) + 2.1
    largest = max(abs(edge.score) for edge in edges) or 1.0
    flip = _Paper(left, top + 0.45)
    drawn = [_arrow(edge, places, edge.score / largest, flip) for edge in reversed(edges)]
    for name, place in places.items():
        ports = {letter(edge.reader) for edge in edges if component(edge.reader) == name} - {""}
        drawn.append(_box(name, place, ports, flip, names.get(name, "")))
    return _svg(width * INCH, (top + 0.9) * INCH, label, "".join(drawn))


class _Paper:
    """Inches, upwards, to pixels, downwards."""

    def __init__(self, left: float, top: float) -> None:
        self._left, self._top = left, top

    def __call__(self, point: Point) -> Point:
        return ((point[0] - self._left) * INCH, (self._top - point[1]) * INCH)


def _arrow(edge: DrawnEdge, places: dict[str, Point], share: float, paper: _Paper) -> str:
    into = component(edge.reader)
    (x, y), (to_x, to_y) = places[edge.writer], places[into]
    start = (x, y + half_height(edge.writer))
    end = (to_x + PORTS.get(letter(edge.reader), 0.0), to_y - half_height(into))
    others = {name: place for name, place in places.items() if name not in (edge.writer, into)}
    bend = _bend(start, end, others)
    middle = along(start, end, bend, 0.5)
    control = tuple(2 * m - (a + b) / 2 for m, a, b in zip(middle, start, end, strict=True))
    (x, y), (cx, cy), (to_x, to_y) = map(paper, (start, (control[0], control[1]), end))
    style = f"edge {'less' if share < 0 else 'more'}{'' if edge.live else ' dead'}"
    wide = f"{0.8 + 3.2 * abs(share):.2f}"
    at = f" at positions {ranges(edge.positions)}" if edge.positions else ""
    dead = "" if edge.live else ", a dead end"
    told = f"{edge.writer} to {edge.reader}{at}: {plain_number(edge.score)}{dead}"
    parts = [
        f'<path class="{style}" stroke-width="{wide}" d="M{_n(x)} {_n(y)}Q{_n(cx)} {_n(cy)} '
        f'{_n(to_x)} {_n(to_y)}"/>',
        _head((cx, cy), (to_x, to_y), style, 4 + 2.5 * abs(share)),
    ]
    if edge.positions:
        share_of_way = {"q": 0.3, "v": 0.7}.get(letter(edge.reader), 0.5)  # or they would overlap
        place = paper(along(start, end, bend, share_of_way))
        parts.append(_text(place[0], place[1] + 4, f"@{ranges(edge.positions)}", "quiet halo"))
    return f"<g><title>{escaped(told)}</title>{''.join(parts)}</g>"


def _bend(start: Point, end: Point, others: dict[str, Point]) -> float:
    """The least that passes no box; where there are too many to go around, none."""
    if len(others) > CROWDED:
        return 0.0
    hits = {}
    for bend in BENDS:
        hits[bend] = boxes_hit(start, end, bend, others)
        if not hits[bend]:
            return bend
    return min(BENDS, key=lambda bend: hits[bend])


def _head(before: Point, tip: Point, style: str, size: float) -> str:
    """The head of an arrow that comes from `before`."""
    dx, dy = tip[0] - before[0], tip[1] - before[1]
    length = math.hypot(dx, dy) or 1.0
    dx, dy = size * dx / length, size * dy / length
    base = (tip[0] - 1.8 * dx, tip[1] - 1.8 * dy)
    one, two = (base[0] - 0.7 * dy, base[1] + 0.7 * dx), (base[0] + 0.7 * dy, base[1] - 0.7 * dx)
    corners = "L".join(f"{_n(x)} {_n(y)}" for x, y in (tip, one, two))
    return f'<path class="{style} head" d="M{corners}Z"/>'


def _box(name: str, place: Point, ports: set[str], paper: _Paper, label: str) -> str:
    (x, y), half = paper(place), half_height(name) * INCH
    wide = HALF_WIDTH * INCH
    told = f"{name}: {label}" if label else name
    parts = [
        f'<rect class="node" x="{_n(x - wide)}" y="{_n(y - half)}" width="{_n(2 * wide)}" '
        f'height="{_n(2 * half)}" rx="3"/>',
        _text(x, y + (-1 if ports else 4), name),
    ]
    parts += [
        _text(x + PORTS[letter] * INCH, y + half - 4, letter, "quiet") for letter in sorted(ports)
    ]
    if label:
        short = label if len(label) <= LABEL else label[: LABEL - 1] + "…"
        parts.append(_text(x, y - half - 6, short, "given halo"))
    return f"<g><title>{escaped(told)}</title>{''.join(parts)}</g>"


# ---------------------------------------------------------------------- pieces


def _svg(width: Number, height: Number, label: str, content: str) -> str:
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    return (
        f'<div class="wide natural"><svg {size} role="img" aria-label="{escaped(label)}">'
        f"{content}</svg></div>"
    )


def _text(
    x: Number, y: Number, text: str, style: str = "middle", *, full: str | None = None
) -> str:
    title = "" if full in (None, text) else f"<title>{escaped(full)}</title>"
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}">{title}{escaped(text)}</text>'


def _n(value: Number) -> str:
    """A coordinate."""
    assert math.isfinite(value), value
    return f"{value:.1f}".removesuffix(".0")


DRAWING_STYLE = """
.natural { margin: .25rem 0 .5rem; } .natural svg { width: auto; max-width: none; }
.cell { stroke: var(--line); } .cell.more { fill: var(--first); }
.cell.less { fill: var(--second); }
.edge { fill: none; stroke: var(--first); stroke-opacity: .8; }
.edge.less { stroke: var(--second); stroke-dasharray: 7 3; }
.edge.dead { stroke-dasharray: 1.5 4; stroke-opacity: .55; }
.edge.head { stroke: none; fill: var(--first); } .edge.less.head { fill: var(--second); }
.node { fill: var(--page); stroke: var(--muted); }
svg .halo { paint-order: stroke; stroke: var(--page); stroke-width: 4px; font-size: 11px; }
svg .given { fill: var(--ink); font-style: italic; }
.map.named { grid-template-columns: minmax(1.75rem, max-content) 1fr; }
"""

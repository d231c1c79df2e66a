"""Charts as data: what is shown, apart from how. `apps.web.charts.show` draws them.

Every chart has a table (`apps.web.charts.rows`), words for those who do not see it (`alt`), and a
name for its exports. The index of a mark is the index of its row in the table: a click on either
gives it.
Nothing is clamped unseen: limits default to what the values need, and a scale that cuts says so.
"""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Shaped
from torch import Tensor

Scale = Literal["signed", "share", "size", "right_wrong", "phase"]
"""`signed`: diverging, symmetric about zero. `share`: 0 to 1, fixed. `size`: 0 to the largest.
`right_wrong`: true or false. `phase`: cyclic, -pi to pi."""
Number = int | float
Dash = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """A matrix of numbers. Its rows as a table: row by row, column by column."""

    name: str
    """Of exports: letters, digits and hyphens."""
    alt: str
    """What it shows, in a sentence."""
    values: Shaped[Tensor, "row column"]
    """NaN where there is none."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_axis: str
    column_axis: str
    measure: str
    """What a value is, with its unit, such as `effect on logit difference (nats)`."""
    scale: Scale
    limit: Number | None = None
    """The end of a `signed` or `size` scale; what the values need when None. Give it where charts
    are compared."""
    low: Shaped[Tensor, "row column"] | None = None
    """Lower ends of 95 % intervals, in the table and beside the pointer."""
    high: Shaped[Tensor, "row column"] | None = None
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further columns of the table: a heading, and a text for every cell in the order of rows."""
    words: tuple[str, str] = ("right", "wrong")
    """What true and false mean on a `right_wrong` scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a chart, or one set of bars."""

    name: str
    y: tuple[Number | None, ...]
    low: tuple[Number | None, ...] | None = None
    high: tuple[Number | None, ...] | None = None
    """95 % interval, drawn as a band."""
    dash: Dash = "solid"
    """Controls are dashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Values over an ordered axis. Its rows as a table: one for every x."""

    name: str
    alt: str
    x: tuple[Number, ...]
    series: tuple[Series, ...]
    x_axis: str
    y_axis: str
    log_y: bool = False
    y_range: tuple[Number, Number] | None = None
    """Shown at least; widened to values and intervals beyond."""
    marks: tuple[tuple[Number, str], ...] = ()
    """Vertical lines: where, and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Values by name. Its rows as a table: one for every bar group."""

    name: str
    alt: str
    names: tuple[str, ...]
    series: tuple[Series, ...]
    """A finding beside its controls, say."""
    x_axis: str
    y_axis: str
    y_range: tuple[Number, Number] | None = None
    """Shown at least, as above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterChart:
    """Points, such as embeddings in a plane. Its rows as a table: one for every point."""

    name: str
    alt: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    labels: tuple[str, ...]
    x_axis: str
    y_axis: str
    colour: tuple[Number, ...] | None = None
    """Phases in -pi to pi, coloured in a circle; or None."""
    square: bool = True
    """Both axes of the same length."""
    reach: Number | None = None
    """Where square axes end, on either side of zero; what the points need when None. Give it where
    charts are compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gallery:
    """Small heat maps side by side, such as neurons over a and b. Its rows: one for every map."""

    name: str
    alt: str
    maps: tuple[HeatMap, ...]
    """All of one shape; each with its own limits unless given."""
    titles: tuple[str, ...]
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further columns of the table: a heading, and a text for every map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A node of a circuit."""

    name: str
    """As in `a0.h1`, `m0`, `embed`, `logits`."""
    label: str
    """What is written on it."""
    kind: Literal["embedding", "head", "mlp", "logits", "group"]
    """Drawn as its shape."""
    x: Number
    y: Number
    """Upwards, from the embeddings to the logits."""
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """An edge of a circuit."""

    name: str
    """As in `a0.h1->m0` or `a0.h1->a1.h0<q>@2`."""
    writer: str
    """The name of a node."""
    reader: str
    """The name of a node (a head, not its port)."""
    score: Number
    """Its width; solid where positive, dashed where negative."""
    label: str = ""
    """What somebody called it."""
    live: bool = True
    """False for a dead end, drawn dotted and pale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitGraph:
    """A layered graph. Its rows as a table: nodes first, then edges."""

    name: str
    alt: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    measure: str
    """What a score is."""
    limit: float | None = None
    """The score of the widest edge; the largest there is when None. Give it where graphs are
    compared."""


Chart = HeatMap | LineChart | BarChart | ScatterChart | Gallery | CircuitGraph

Row = dict[str, Any]
"""One row of a chart's table."""

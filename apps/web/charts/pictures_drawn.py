"""How charts look in files: matplotlib's axes for every kind, on a light background."""

import math
from typing import Any

from apps.drawing import ticks
from apps.web.charts.chart import (
    BarChart,
    Chart,
    CircuitGraph,
    Gallery,
    HeatMap,
    LineChart,
    Number,
    ScatterChart,
    Series,
)
from apps.web.charts.colours import LIGHT, Span, phase_colour, scale_colours, span_of
from apps.web.charts.echarts_gallery import ACROSS, range_text
from apps.web.charts.echarts_graph import WIDEST, spread, strength, strongest
from apps.web.charts.echarts_heat import beyond_words, missing_words
from apps.web.charts.limits import log_words, y_limits
from apps.web.charts.rows import plain

MARKERS = ("o", "^", "s", "D", "v", ">", "P")
STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}
SHAPES = {"embedding": "p", "head": "o", "mlp": "s", "logits": "D", "group": "h"}
MOST_WRITTEN = 150
"""Nodes up to which each carries its label, and points."""


def figure_size(chart: Chart) -> tuple[float, float]:
    """Width and height in inches."""
    if isinstance(chart, HeatMap):
        rows, columns = len(chart.rows), len(chart.columns)
        return 2.6 + min(max(0.3 * columns, 2.5), 9.0), 1.4 + min(max(0.3 * rows, 1.2), 9.0)
    if isinstance(chart, ScatterChart):
        return (5.6, 5.6) if chart.square else (8.0, 4.6)
    if isinstance(chart, Gallery):
        return 9.0, 0.6 + 1.7 * max(1, -(-len(chart.maps) // ACROSS))
    return (10.0, 7.0) if isinstance(chart, CircuitGraph) else (8.0, 4.2)


def words(text: str) -> str:
    """Text that matplotlib shows as it is, and not as a formula."""
    return text.replace("$", r"\$")


def draw_heat_map(chart: HeatMap, figure: Any) -> None:
    """A heat map with its colour scale; hatched where there is no value."""
    axes = figure.add_subplot()
    span = span_of(chart)
    image = _image(chart, axes, span)
    ticks(axes.xaxis, [words(one) for one in chart.columns])
    ticks(axes.yaxis, [words(one) for one in chart.rows])
    axes.set_xlabel(words(chart.column_axis), fontsize=8)
    axes.set_ylabel(words(chart.row_axis), fontsize=8)
    bar = figure.colorbar(image, ax=axes)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(words(chart.measure), fontsize=8)
    if chart.scale == "right_wrong":
        bar.set_ticks([0.25, 0.75], labels=[words(one) for one in reversed(chart.words)])
    notes = [beyond_words(span, chart)] if span.beyond else []
    notes += [missing_words(span)] if span.missing else []
    _note_below(axes, "; ".join(notes))


def draw_lines(chart: LineChart, figure: Any) -> None:
    """Lines with bands and vertical marks."""
    axes = figure.add_subplot()
    for i, one in enumerate(chart.series):
        colour = LIGHT.lines[i % len(LIGHT.lines)]
        y = [_drawn(value, log=chart.log_y) for value in one.y]
        marker = MARKERS[i % len(MARKERS)] if len(y) <= 60 else None
        style = STYLES[one.dash]
        axes.plot(
            chart.x, y, style, color=colour, marker=marker, markersize=4, label=words(one.name)
        )
        if one.low is not None and one.high is not None:
            ends = [[_drawn(v, log=chart.log_y) for v in end] for end in (one.low, one.high)]
            axes.fill_between(chart.x, *ends, color=colour, alpha=0.2, linewidth=0)
    if chart.log_y:
        if any(_drawn(y, log=True) > 0 for one in chart.series for y in one.y):
            axes.set_yscale("log")  # matplotlib refuses it where nothing is drawn
        _note_below(axes, log_words(chart) or "")
    for where, what in chart.marks:
        axes.axvline(where, color=LIGHT.faint, linewidth=0.8)
        place = (where, 1.0)
        axes.annotate(
            words(what),
            place,
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize=7,
        )
    _finish(axes, chart)


def draw_bars(chart: BarChart, figure: Any) -> None:
    """Groups of bars with 95 % intervals; controls are hatched."""
    axes = figure.add_subplot()
    count = max(1, len(chart.series))
    width = 0.8 / count
    for i, one in enumerate(chart.series):
        centres = [g + (i - (count - 1) / 2) * width for g in range(len(chart.names))]
        heights = [math.nan if y is None else y for y in plain(one.y)]
        hatch = None if one.dash == "solid" else "///"
        colour = LIGHT.lines[i % len(LIGHT.lines)]
        axes.bar(
            centres,
            heights,
            0.9 * width,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=words(one.name),
        )
        _whiskers(axes, one, centres)
    ticks(axes.xaxis, [words(name) for name in chart.names])
    _finish(axes, chart)


def draw_scatter(chart: ScatterChart, figure: Any) -> None:
    """Points with their names."""
    axes = figure.add_subplot()
    phases = plain(chart.colour) if chart.colour is not None else None
    colours: Any = LIGHT.more
    if phases is not None:
        colours = [LIGHT.nothing if one is None else phase_colour(one) for one in phases]
    x, y = ([_drawn(one, log=False) for one in values] for values in (chart.x, chart.y))
    axes.scatter(x, y, c=colours, edgecolors=LIGHT.faint, linewidths=0.5, s=28)
    if len(x) <= MOST_WRITTEN:
        for place in zip(x, y, chart.labels, strict=True):
            if math.isfinite(place[0]) and math.isfinite(place[1]):
                axes.annotate(
                    words(place[2]), place[:2], (3, 3), textcoords="offset points", fontsize=6
                )
    if chart.square:
        axes.set_aspect("equal", adjustable="datalim")
    if chart.square and chart.reach is not None:
        far = 1.12 * max([chart.reach, *(abs(one) for one in (*x, *y) if math.isfinite(one))])
        axes.set(xlim=(-far, far), ylim=(-far, far))
    axes.set_xlabel(words(chart.x_axis), fontsize=8)
    axes.set_ylabel(words(chart.y_axis), fontsize=8)
    axes.tick_params(labelsize=7)


def draw_gallery(chart: Gallery, figure: Any) -> None:
    """Small heat maps in rows."""
    down = max(1, -(-len(chart.maps) // ACROSS))
    for i, (one, title) in enumerate(zip(chart.maps, chart.titles, strict=True)):
        axes = figure.add_subplot(down, ACROSS, i + 1)
        _image(one, axes, span_of(one))
        axes.set_title(words(f"{title}\n{range_text(one)}"), fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])


def draw_graph(chart: CircuitGraph, figure: Any) -> None:
    """A layered graph: shapes for kinds, dash and colour for signs."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    places = {node.name: (node.x, node.y) for node in chart.nodes}
    _edges(chart, axes, places)
    few = len(chart.nodes) <= MOST_WRITTEN
    for node in chart.nodes:
        axes.plot(
            *places[node.name],
            SHAPES[node.kind],
            color=LIGHT.node,
            markersize=16 if few else 5,
            markeredgecolor=LIGHT.text,
            markeredgewidth=2.5 if node.pinned else 0.8,
        )
        if few:
            axes.annotate(
                words(node.label),
                places[node.name],
                (10, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.margins(0.08)
    axes.annotate(
        f"{words(chart.measure)}: solid if positive, dashed if negative, dotted for dead ends",
        (0, 0),
        xycoords="axes fraction",
        fontsize=7,
    )


def _edges(chart: CircuitGraph, axes: Any, places: dict[str, tuple[Number, Number]]) -> None:
    most = strongest(chart)
    for edge, bent in zip(chart.edges, spread(chart.edges), strict=True):
        positive = edge.score >= 0
        colour, style = (LIGHT.more, "solid") if positive else (LIGHT.less, "dashed")
        if not edge.live:
            colour, style = LIGHT.faint, "dotted"
        arrow = {
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={-bent}",
            "color": colour,
            "linestyle": style,
            "linewidth": 0.5 + WIDEST / 2 * strength(edge, most),
            "alpha": 0.85 if edge.live else 0.45,
            "shrinkA": 9,
            "shrinkB": 9,
        }
        axes.annotate("", places[edge.reader], places[edge.writer], arrowprops=arrow)


def _image(chart: HeatMap, axes: Any, span: Span) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    colours = scale_colours(chart.scale, dark=False)
    if chart.scale == "right_wrong":
        scale: Any = ListedColormap(colours)
    else:
        scale = LinearSegmentedColormap.from_list("scale", colours, 512)
    scale = scale.with_extremes(over=LIGHT.beyond, under=LIGHT.beyond, bad=(0, 0, 0, 0))
    axes.set_facecolor("white")
    if span.missing:
        axes.patch.set(hatch="////", edgecolor=LIGHT.nothing, linewidth=0)
    values = chart.values.detach().cpu().double().numpy()
    if chart.scale == "right_wrong":  # neither: as over the end
        values = values.copy()
        values[(values != 0) & (values != 1) & (values == values)] = 2.0
    ends = {"vmin": span.low - span.slack, "vmax": span.high + span.slack}
    return axes.imshow(values, cmap=scale, aspect="auto", interpolation="nearest", **ends)


def _note_below(axes: Any, text: str) -> None:
    if text:
        axes.annotate(
            text,
            (0, 0),
            (0, -38),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7,
        )


def _drawn(value: Number | None, *, log: bool) -> Number:
    """A number, or a gap."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return math.nan
    return value


def _whiskers(axes: Any, one: Series, centres: list[float]) -> None:
    if one.low is None or one.high is None:
        return
    ends = zip(centres, plain(one.low), plain(one.high), strict=True)
    for x, low, high in ends:
        if low is not None and high is not None:
            axes.plot([x, x], [low, high], "_-", color=LIGHT.text, linewidth=1, markersize=5)


def _finish(axes: Any, chart: LineChart | BarChart) -> None:
    axes.set_xlabel(words(chart.x_axis), fontsize=8)
    axes.set_ylabel(words(chart.y_axis), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    limits = y_limits(chart)
    if limits is not None:
        axes.set_ylim(*limits)
    if len(chart.series) > 1:
        axes.legend(fontsize=7)

"""Charts as ECharts options: what Streamlit draws in the browser. Pure functions, plain JSON.

    option = option_of(chart, dark=False, select=True)

Nothing in an option depends on what is clicked, so that zoom and pan survive a click; `chosen` is
what was chosen before the picture was made. Names are foreign text: axes and labels draw them as
text, and in tooltips, which are HTML, the browser escapes what a template puts in.
"""

from typing import Literal, NamedTuple, assert_never

from apps.web.charts.chart import (
    BarChart,
    Chart,
    CircuitGraph,
    Gallery,
    HeatMap,
    LineChart,
    ScatterChart,
)
from apps.web.charts.colours import theme_of
from apps.web.charts.echarts_gallery import ACROSS, gallery
from apps.web.charts.echarts_graph import graph
from apps.web.charts.echarts_heat import heat_map
from apps.web.charts.echarts_lines import bars, lines, scatter
from apps.web.charts.echarts_parts import Look, Option

MOST_SVG = 1500
"""Marks above which a canvas is used: it is faster, if harder to look into."""


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int | None
    """As wide as its place when None; never wider."""
    height: int


def option_of(chart: Chart, *, dark: bool, select: bool, chosen: int | None = None) -> Option:
    """A chart as an ECharts option.

    Args:
        select: whether a click chooses a mark.
        chosen: the row that is marked until another one is clicked.
    """
    look = Look(theme=theme_of(dark), select=select, chosen=chosen if select else None)
    match chart:
        case HeatMap():
            return heat_map(chart, look)
        case LineChart():
            return lines(chart, look)
        case BarChart():
            return bars(chart, look)
        case ScatterChart():
            return scatter(chart, look)
        case Gallery():
            return gallery(chart, look)
        case CircuitGraph():
            return graph(chart, look)
        case _:
            assert_never(chart)


def row_of(chart: Chart, kind: str, index: int) -> int:
    """The row of a chart's table that a mark stands for: number `index` of the main data, or of a
    graph's nodes or edges."""
    return index + len(chart.nodes) if isinstance(chart, CircuitGraph) and kind == "edge" else index


def renderer_of(chart: Chart) -> Literal["svg", "canvas"]:
    """How the browser is to draw a chart."""
    match chart:
        case HeatMap():
            marks = chart.values.numel()
        case LineChart() | BarChart():
            marks = sum(len(one.y) for one in chart.series)
        case ScatterChart():
            marks = len(chart.x)
        case Gallery():
            marks = len(chart.maps)
        case CircuitGraph():
            marks = len(chart.nodes) + len(chart.edges)
        case _:
            assert_never(chart)
    return "svg" if marks <= MOST_SVG else "canvas"


def size_of(chart: Chart) -> Size:
    """How large a chart is drawn where nobody says: cells of maps over a and b are square."""
    match chart:
        case HeatMap():
            rows, columns = len(chart.rows), len(chart.columns)
            height = min(max(200, 22 * rows), 460) + 100
            square = min(rows, columns) >= 12 and rows <= 2 * columns <= 4 * rows
            return Size(round((height - 100) * columns / rows) + 180 if square else None, height)
        case LineChart() | BarChart():
            return Size(None, 340)
        case ScatterChart():
            return Size(484, 460) if chart.square else Size(None, 400)
        case Gallery():
            return Size(None, 160 * -(-len(chart.maps) // ACROSS) + 30)
        case CircuitGraph():
            layers = len({node.y for node in chart.nodes})
            return Size(None, min(max(320, 110 * layers), 640))
        case _:
            assert_never(chart)

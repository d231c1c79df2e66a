"""Charts as files: CSV, and PNG or SVG by matplotlib, with the colours and limits of the screen.

Pictures have a light background, and what they show as their title. The same chart gives the same
bytes. matplotlib is imported when a picture is wanted, and one is drawn at a time.
"""

import csv
import io
import textwrap
import threading
from typing import Any, Literal, assert_never

from apps.drawing import pyplot
from apps.web.charts.chart import (
    BarChart,
    Chart,
    CircuitGraph,
    Gallery,
    HeatMap,
    LineChart,
    ScatterChart,
)
from apps.web.charts.pictures_drawn import (
    draw_bars,
    draw_gallery,
    draw_graph,
    draw_heat_map,
    draw_lines,
    draw_scatter,
    figure_size,
    words,
)
from apps.web.charts.rows import cells_of, table_of

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_one_at_a_time = threading.Lock()


def csv_of(chart: Chart) -> str:
    """A chart's table as CSV, numbers in full; empty where there is no value.

    Of a gallery, every cell of every map. Text that a spreadsheet would run as a formula starts
    with an apostrophe.
    """
    table = cells_of(chart) if isinstance(chart, Gallery) else table_of(chart)
    written = io.StringIO()
    writer = csv.writer(written)  # ends lines as RFC 4180 does, and quotes both kinds of end
    writer.writerow([_cell(heading) for heading in table])
    writer.writerows([_cell(value) for value in row] for row in zip(*table.values(), strict=True))
    return written.getvalue()


def picture_of(chart: Chart, kind: Literal["png", "svg"]) -> bytes:
    """A chart as a picture."""
    with _one_at_a_time:
        pyplot()  # no screen, and the same picture gives the same bytes
        from matplotlib.figure import Figure

        figure = Figure(figsize=figure_size(chart), layout="constrained")
        _draw(chart, figure)
        width = max(30, int(figure.get_size_inches()[0] * 11))
        figure.suptitle(words("\n".join(textwrap.wrap(chart.alt, width))), fontsize=9)
        data = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(data, format=kind, dpi=160, metadata=metadata)
        return data.getvalue()


def _draw(chart: Chart, figure: Any) -> None:
    match chart:
        case HeatMap():
            draw_heat_map(chart, figure)
        case LineChart():
            draw_lines(chart, figure)
        case BarChart():
            draw_bars(chart, figure)
        case ScatterChart():
            draw_scatter(chart, figure)
        case Gallery():
            draw_gallery(chart, figure)
        case CircuitGraph():
            draw_graph(chart, figure)
        case _:
            assert_never(chart)


def _cell(value: Any) -> Any:
    """A value as CSV writes it."""
    if value is None:
        return ""
    if isinstance(value, str) and len(value) > 1 and value.startswith(FORMULAS):
        return f"'{value}"
    return repr(value) if isinstance(value, float) else value

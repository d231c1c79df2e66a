"""Charts as tables: what is shown, in numbers and words. Row `i` of the table is mark `i`.

A mark has an identity apart from its place: a node its name, a cell its place in a map of the same
shape. By it a choice follows what was chosen when the chart changes, and is dropped once that is
gone.
"""

import math
from collections.abc import Sequence
from typing import Any, assert_never

from jaxtyping import Shaped
from torch import Tensor

from apps.web.charts.chart import (
    BarChart,
    Chart,
    CircuitGraph,
    Gallery,
    HeatMap,
    LineChart,
    Number,
    Row,
    ScatterChart,
    Series,
)

Cells = dict[str, Sequence[Any]]
"""A table by columns: a heading, and a value for every row (None where there is none)."""


def table_of(chart: Chart) -> Cells:
    """A chart's table, by columns."""
    match chart:
        case HeatMap():
            return _heat_map_table(chart)
        case LineChart():
            return _columns((chart.x_axis, chart.x), *_series_columns(chart.series))
        case BarChart():
            return _columns((chart.x_axis, chart.names), *_series_columns(chart.series))
        case ScatterChart():
            phases = () if chart.colour is None else (("phase", plain(chart.colour)),)
            places = ((chart.x_axis, plain(chart.x)), (chart.y_axis, plain(chart.y)))
            return _columns(("point", chart.labels), *places, *phases)
        case Gallery():
            return _gallery_table(chart)
        case CircuitGraph():
            return _graph_table(chart)
        case _:
            assert_never(chart)


def cells_of(gallery: Gallery) -> Cells:
    """Every cell of every map, by columns: the map's title, then the columns of the first map."""
    tables = [_heat_map_table(one) for one in gallery.maps]
    titles = [
        title
        for title, table in zip(gallery.titles, tables, strict=True)
        for _ in next(iter(table.values()))
    ]
    headings = list(tables[0]) if tables else []
    joined = [
        [value for table in tables for value in list(table.values())[i]]
        for i in range(len(headings))
    ]
    return _columns(("map", titles), *zip(headings, joined, strict=True))


def rows_of(chart: Chart) -> list[Row]:
    """A chart's table, row by row."""
    table = table_of(chart)
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def count_of(chart: Chart) -> int:
    """How many rows a chart's table has."""
    match chart:
        case HeatMap():
            return len(chart.rows) * len(chart.columns)
        case LineChart() | ScatterChart():
            return len(chart.x)
        case BarChart():
            return len(chart.names)
        case Gallery():
            return len(chart.maps)
        case CircuitGraph():
            return len(chart.nodes) + len(chart.edges)
        case _:
            assert_never(chart)


def identities(chart: Chart) -> Sequence[str]:
    """What every row stands for, whatever its place. The same text in another chart is the same."""
    match chart:
        case HeatMap():
            shape = f"of {len(chart.rows)} x {len(chart.columns)}"
            return [f"{i} {shape}" for i in range(count_of(chart))]
        case LineChart():
            return [f"{x:.17g}" for x in chart.x]
        case BarChart():
            return chart.names
        case ScatterChart():
            return chart.labels
        case Gallery():
            return chart.titles
        case CircuitGraph():
            nodes = [f"node {one.name}" for one in chart.nodes]
            return [*nodes, *(f"edge {one.name}" for one in chart.edges)]
        case _:
            assert_never(chart)


def plain(values: Sequence[Number | None]) -> list[Number | None]:
    """Numbers as they are; None for what is not finite."""
    return [one if one is not None and math.isfinite(one) else None for one in values]


def flat(values: Shaped[Tensor, "row column"]) -> list[Any]:
    """Row by row; None for what is not finite. Truth values and counts stay what they are."""
    whole: list[Any] = values.detach().cpu().flatten().tolist()
    return plain(whole) if values.is_floating_point() else whole


def extent(values: Shaped[Tensor, "..."]) -> tuple[float | None, float | None]:
    """The smallest and the largest finite value; None where there is none."""
    real = values.detach().double()
    finite = real[real.isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else (None, None)


def _heat_map_table(chart: HeatMap) -> Cells:
    across = len(chart.columns)
    ends = [
        (name, end) for name, end in (("low", chart.low), ("high", chart.high)) if end is not None
    ]
    return _columns(
        (chart.row_axis, [row for row in chart.rows for _ in range(across)]),
        (chart.column_axis, list(chart.columns) * len(chart.rows)),
        (chart.measure, flat(chart.values)),
        *((f"{name} end of 95 % interval", flat(end)) for name, end in ends),
        *chart.details,
    )


def _series_columns(series: Sequence[Series]) -> list[tuple[str, Sequence[Any]]]:
    found: list[tuple[str, Sequence[Any]]] = []
    for one in series:
        found.append((one.name, plain(one.y)))
        for end, values in (("low", one.low), ("high", one.high)):
            if values is not None:
                found.append((f"{one.name}: {end} end of 95 % interval", plain(values)))
    return found


def _gallery_table(chart: Gallery) -> Cells:
    ends = [extent(one.values) for one in chart.maps]
    lowest, highest = ([pair[i] for pair in ends] for i in (0, 1))
    return _columns(("map", chart.titles), *chart.details, ("lowest", lowest), ("highest", highest))


def _graph_table(chart: CircuitGraph) -> Cells:
    nodes, edges = chart.nodes, chart.edges
    blank = [None] * len(nodes)
    notes = [
        *("pinned" if one.pinned else "" for one in nodes),
        *("" if one.live else "dead end" for one in edges),
    ]
    return _columns(
        ("part", [*(one.name for one in nodes), *(one.name for one in edges)]),
        ("kind", [*(one.kind for one in nodes), *("edge" for _ in edges)]),
        ("from", [*blank, *(one.writer for one in edges)]),
        ("to", [*blank, *(one.reader for one in edges)]),
        (chart.measure, [*blank, *plain([one.score for one in edges])]),
        ("label", [*(one.label for one in nodes), *(one.label for one in edges)]),
        ("note", notes),
    )


def _columns(*columns: tuple[str, Sequence[Any]]) -> Cells:
    """Columns by heading; a heading that is taken gets a number, so that no column is lost."""
    table: Cells = {}
    for heading, values in columns:
        name, number = heading, 1
        while name in table:
            number += 1
            name = f"{heading} ({number})"
        table[name] = values
    return table

"""Heat maps as ECharts options. Cell `i` of the data is row `i` of the chart's table.

Row 0 is on top. Cells without a value are not drawn: the hatching behind them is seen. Values past
the end of the scale have a colour of their own, and the legend counts them.
"""

from collections.abc import Sequence
from typing import Any

from apps.web.charts.chart import HeatMap
from apps.web.charts.colours import Span, Theme, scale_colours, span_of
from apps.web.charts.echarts_parts import (
    DIGITS,
    NAMED,
    Look,
    Option,
    always,
    keys_of,
    legend_text,
    rounded,
    selecting,
    template,
)
from apps.web.charts.rows import flat

MOST_SEARCHED = 120
"""Rows up to which ECharts finds the room for their names."""
MOST_LETTERS = 28
"""Of a row's or a column's name along its axis; the tooltip and the table have it whole."""
ZOOMED = 30
"""Rows or columns from which on the wheel zooms."""
INHERITED = {"color": "inherit", "borderWidth": 2}
"""Of a cell under the pointer: its colour is its value, and stays."""
HATCHING = (
    "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'>"
    "<path d='M-2 2L2-2M0 8L8 0M6 10L10 6' stroke='%23{colour}' stroke-width='1.5'/></svg>"
)


def heat_map(chart: HeatMap, look: Look) -> Option:
    """A heat map."""
    span = span_of(chart)
    colours = scale_colours(chart.scale, dark=look.theme.dark)
    words = _legend(span, chart, look.theme)
    return {
        "animation": False,
        "tooltip": {"confine": True, "formatter": _tooltip(chart)},
        "grid": {**_grid(chart, 22 if words else 0), **_behind(span, look)},
        "xAxis": _axis(chart.columns, chart.column_axis),
        "yAxis": {**_axis(chart.rows, chart.row_axis), "inverse": True},
        "visualMap": visual_map(chart, span, look.theme, colours),
        "dataZoom": _zoom(chart),
        "title": legend_text(look, words) if words else {"show": False},
        "series": [
            {
                "type": "heatmap",
                "data": _data(chart, span),
                "encode": {"x": 0, "y": 1, "value": 2, "itemName": NAMED},
                "progressive": 0,
                "emphasis": {"itemStyle": {**INHERITED, "borderColor": look.theme.text}},
                **selecting(look, _chosen(look.theme), keys_of(look.chosen)),
            },
            *always(look),
        ],
    }


def visual_map(chart: HeatMap, span: Span, theme: Theme, colours: Sequence[str]) -> Option:
    """The colour scale, and its key beside the map."""
    common = {
        "right": 0,
        "top": 8,
        "textStyle": {"color": theme.text},
        "dimension": 2,
        "seriesIndex": 0,
    }
    common |= {"outOfRange": {"color": theme.beyond}, "hoverLink": False}
    if chart.scale == "right_wrong":
        pieces = [
            {"value": value, "label": label, "color": colours[value]}
            for value, label in zip((1, 0), chart.words, strict=True)
        ]
        return {"type": "piecewise", "pieces": pieces, "selectedMode": False, **common}
    slack = span.slack
    return {
        "type": "continuous",
        "min": span.low - 2 * slack,
        "max": span.high + 2 * slack,
        "range": [span.low - slack, span.high + slack],
        "calculable": False,
        "itemHeight": 120,
        "itemWidth": 14,
        "text": [end_text(span.high, chart.scale), end_text(span.low, chart.scale)],
        "inRange": {"color": list(colours)},
        **common,
    }


def end_text(value: float, scale: str) -> str:
    """The end of a scale, in short."""
    if scale == "phase":
        return "\u03c0" if value > 0 else "\u2212\u03c0"
    return f"{value:.3g}".replace("-", "\u2212")


def beyond_words(span: Span, chart: HeatMap) -> str:
    """Says how many values a scale does not cover."""
    cells = "1 cell" if span.beyond == 1 else f"{span.beyond} cells"
    if chart.scale == "right_wrong":
        return f"{cells} neither {chart.words[0]} nor {chart.words[1]}"
    if chart.scale in ("signed", "phase"):
        return f"{cells} beyond \u00b1{end_text(span.high, chart.scale)}"
    return f"{cells} beyond 0 to {end_text(span.high, chart.scale)}"


def missing_words(span: Span) -> str:
    """Says how many cells have no value."""
    return f"{span.missing} without a value (hatched)"


def _legend(span: Span, chart: HeatMap, theme: Theme) -> list[tuple[str, str]]:
    words = []
    if span.beyond:
        words.append((theme.beyond, beyond_words(span, chart)))
    if span.missing:
        words.append((theme.nothing, missing_words(span)))
    return words


def _data(chart: HeatMap, span: Span) -> list[tuple[Any, ...]]:
    """Column, row, value and place, then what else the tooltip says, for every cell.

    Tuples, as Python's garbage collection need not look at them again and again.
    """
    down, across = len(chart.rows), len(chart.columns)
    columns: list[Sequence[Any]] = [
        list(range(across)) * down,
        [row for row in range(down) for _ in range(across)],
        [_number(value, span) for value in flat(chart.values)],
        [str(i) for i in range(down * across)],
    ]
    if not _numbered(chart.rows):
        columns.append([row for row in chart.rows for _ in range(across)])
    if not _numbered(chart.columns):
        columns.append(list(chart.columns) * down)
    for end in (chart.low, chart.high):
        if end is not None:
            columns.append([rounded(value) for value in flat(end)])
    columns += [texts for _, texts in chart.details]
    return list(zip(*columns, strict=True))


def _numbered(names: Sequence[str]) -> bool:
    """Whether every row, or column, is named by its index: nothing else needs to be sent then."""
    return all(name == str(i) for i, name in enumerate(names))


def _number(value: Any, span: Span) -> float | None:
    """A value, rounded to the same side of the ends of the scale."""
    if value is None:
        return None
    exact = float(value)
    if not span.low - span.slack <= exact <= span.high + span.slack:
        return exact
    return min(max(float(f"{exact:.{DIGITS}g}"), span.low), span.high)


def _tooltip(chart: HeatMap) -> str:
    place, parts = 4, []
    for axis, names, index in (
        (chart.row_axis, chart.rows, 1),
        (chart.column_axis, chart.columns, 0),
    ):
        own = not _numbered(names)
        parts.append((axis, f"{{@[{place if own else index}]}}"))
        place += own
    parts.append((chart.measure, "{@[2]}"))
    for name, end in (("low", chart.low), ("high", chart.high)):
        if end is not None:
            parts.append((f"{name} end of 95 % interval", f"{{@[{place}]}}"))
            place += 1
    parts += [(heading, f"{{@[{place + i}]}}") for i, (heading, _) in enumerate(chart.details)]
    return template(*parts)


def _axis(names: Sequence[str], title: str) -> Option:
    plain: Option = {"show": False}
    return {
        "type": "category",
        "data": list(names),
        "name": title,
        "nameLocation": "middle",
        "nameGap": 28,
        "axisLabel": {"width": 7 * MOST_LETTERS, "overflow": "truncate"},
        "axisTick": plain,
        "axisLine": plain,
        "splitLine": plain,
    }


def _grid(chart: HeatMap, below: int) -> Option:
    """Where the cells are; the library's own search for room fails with very many rows."""
    place = {"left": 8, "right": 90, "top": 12, "bottom": below + 4}
    if len(chart.rows) <= MOST_SEARCHED:
        return place
    longest = min(MOST_LETTERS, max(len(name) for name in chart.rows))
    return {**place, "outerBoundsMode": "none", "left": 7 * longest + 34, "bottom": below + 48}


def _behind(span: Span, look: Look) -> Option:
    """Hatching, where cells have no value."""
    if not span.missing:
        return {}
    image = HATCHING.format(colour=look.theme.nothing[1:])
    pattern = {"image": image, "repeat": "repeat", "imageWidth": 8, "imageHeight": 8}
    return {"show": True, "backgroundColor": pattern, "borderWidth": 0}


def _zoom(chart: HeatMap) -> list[Option]:
    axes = (("xAxisIndex", len(chart.columns)), ("yAxisIndex", len(chart.rows)))
    return [{"type": "inside", axis: 0} for axis, count in axes if count >= ZOOMED]


def _chosen(theme: Theme) -> Option:
    shadow = {"shadowColor": theme.page, "shadowBlur": 6}
    return {"itemStyle": {"borderColor": theme.chosen, "borderWidth": 3, **shadow}}

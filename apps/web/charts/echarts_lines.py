"""Lines, bars and points as ECharts options.

Series differ in colour and in symbol, dash or hatching, so that nothing depends on colour alone.
Mark `i` of the first series is row `i` of the chart's table, and so is mark `i` of every other.
"""

import math
from collections.abc import Sequence
from typing import Any

from apps.web.charts.chart import BarChart, LineChart, Number, ScatterChart, Series
from apps.web.charts.colours import Theme, phase_colour
from apps.web.charts.echarts_parts import (
    NAMED,
    Look,
    Option,
    always,
    keys_of,
    legend_text,
    middle_name,
    rounded,
    selecting,
    template,
)
from apps.web.charts.limits import log_words, y_limits
from apps.web.charts.rows import plain

SYMBOLS = ("circle", "triangle", "rect", "diamond", "pin", "arrow", "roundRect")
ZOOMED = 30
"""Points of a line from which on the wheel zooms."""
MOST_SYMBOLS = 200
"""Points of a line up to which each carries a symbol."""
BETWEEN_BARS, BETWEEN_GROUPS = 0.15, 0.35
"""Space between bars as a share of a bar, and between groups as a share of their pitch."""
MOST_LABELLED = 64
"""Points that are labelled."""
ROOM_BELOW = 22
"""Pixels for words below a chart."""
FEW_BARS = 8
"""Bar groups up to which each is named."""


def lines(chart: LineChart, look: Look) -> Option:
    """Lines with bands and vertical marks."""
    series: list[Option] = []
    for i, one in enumerate(chart.series):
        series += [_line(chart, one, i, look), *_band(chart, one, i, look.theme)]
    if chart.marks and series:
        series[0] = {**series[0], "markLine": _marks(chart, look.theme)}
    tooltip = {"trigger": "axis", "confine": True, "valueFormatter": "%.4g"}
    zoom = [{"type": "inside", "xAxisIndex": 0, "filterMode": "none"}]
    left_out = log_words(chart)
    frame = _frame(chart.series, tooltip)
    if left_out is not None:
        frame["grid"]["bottom"] += ROOM_BELOW
        frame["title"] = legend_text(look, [(look.theme.nothing, left_out)])
    return {
        **frame,
        "dataZoom": zoom if len(chart.x) >= ZOOMED else [],
        "xAxis": {
            "type": "value",
            "min": "dataMin",
            "max": "dataMax",
            **middle_name(chart.x_axis, 26),
        },
        "yAxis": _y_axis(chart.y_axis, y_limits(chart), log=chart.log_y),
        "series": [*series, *always(look)],
    }


def bars(chart: BarChart, look: Look) -> Option:
    """Groups of bars with 95 % intervals as whiskers."""
    count = len(chart.names)
    series: list[Option] = []
    for i, one in enumerate(chart.series):
        series += [
            _bar(one, chart.names, i, look),
            *_whiskers(one, i, len(chart.series), look.theme),
        ]
    names = {"type": "category", "data": list(chart.names), **middle_name(chart.x_axis, 26)}
    if count <= FEW_BARS:  # every name is written, in two lines if need be
        names["axisLabel"] = {"interval": 0, "overflow": "break", "width": 560 // count}
    places = {"type": "value", "min": 0, "max": count, "show": False}
    return {
        **_frame(chart.series, {"trigger": "item", "confine": True}),
        "xAxis": [{**names, "axisTick": {"show": False}}, places],
        "yAxis": _y_axis(chart.y_axis, y_limits(chart), log=False, zero=True),
        "series": [*series, *always(look)],
    }


def scatter(chart: ScatterChart, look: Look) -> Option:
    """Points with their names, coloured by phase where there is one."""
    theme = look.theme
    colours = _point_colours(chart, theme)
    points = zip(plain(chart.x), plain(chart.y), chart.labels, colours, strict=True)
    parts = [("", "{@[2]}"), (chart.x_axis, "{@[0]}"), (chart.y_axis, "{@[1]}")]
    if chart.colour is not None:
        parts.append(("phase", "{@[3]}"))
    phases = [None] * len(chart.x) if chart.colour is None else plain(chart.colour)
    data = [
        {
            "value": [rounded(x), rounded(y), label, rounded(phase)],
            "itemStyle": {"color": colour, "borderColor": theme.faint, "borderWidth": 1},
        }
        for (x, y, label, colour), phase in zip(points, phases, strict=True)
    ]
    x_range, y_range = _ranges(chart)
    ticks = {"type": "value", "axisLabel": {"showMinLabel": False, "showMaxLabel": False}}
    label = {"show": len(data) <= MOST_LABELLED, "formatter": "{@[2]}", "position": "top"}
    chosen = {"itemStyle": {"borderColor": theme.chosen, "borderWidth": 3}}
    return {
        "animation": False,
        "tooltip": {"confine": True, "formatter": template(*parts)},
        "grid": {"left": 8, "right": 12, "top": 12, "bottom": 4},
        "xAxis": {**ticks, **x_range, **middle_name(chart.x_axis, 26)},
        "yAxis": {**ticks, **y_range, **middle_name(chart.y_axis, 40)},
        "series": [
            {
                "type": "scatter",
                "data": data,
                "symbolSize": 11 if len(data) <= 200 else 7,
                "label": {**label, "color": theme.text, "fontSize": 11},
                "labelLayout": {"hideOverlap": True},
                **selecting(look, chosen, keys_of(look.chosen)),
            },
            *always(look),
        ],
    }


def _frame(series: Sequence[Series], tooltip: Option) -> Option:
    names = list(dict.fromkeys(one.name for one in series))
    return {
        "animation": False,
        "tooltip": tooltip,
        "legend": {"type": "scroll", "top": 0, "data": names, "show": len(names) > 1},
        "grid": {"left": 8, "right": 24, "top": 34 if len(names) > 1 else 14, "bottom": 4},
    }


def _y_axis(
    name: str, limits: tuple[Number, Number] | None, *, log: bool, zero: bool = False
) -> Option:
    axis = {"type": "log" if log else "value", "scale": not zero, **middle_name(name, 44)}
    if limits is not None:
        axis |= {"min": limits[0], "max": limits[1]}
    return axis


def _drawable(value: Number | None, *, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (not log or value > 0)


def _line(chart: LineChart, one: Series, place: int, look: Look) -> Option:
    colour = _colour(look.theme, place)
    data = [
        [x, rounded(y) if _drawable(y, log=chart.log_y) else None]
        for x, y in zip(chart.x, one.y, strict=True)
    ]
    few = len(data) <= MOST_SYMBOLS
    chosen = {"itemStyle": {"borderColor": look.theme.chosen, "borderWidth": 3}}
    return {
        "type": "line",
        "id": f"line-{place}",
        "name": one.name,
        "data": data,
        "z": 3,
        "symbol": SYMBOLS[place % len(SYMBOLS)],
        "symbolSize": 8 if few else 4,
        "showSymbol": (few and one.dash != "dotted") or look.select,  # dotted: a threshold
        "showAllSymbol": True,
        "lineStyle": {"type": one.dash, "width": 2, "color": colour},
        "itemStyle": {"color": colour},
        **selecting(look, chosen, keys_of(look.chosen) if place == 0 else ()),
    }


def _band(chart: LineChart, one: Series, place: int, theme: Theme) -> list[Option]:
    """Two unseen lines, stacked, with the area between them filled. They share the line's name, so
    that its entry in the legend hides them with it."""
    if one.low is None or one.high is None:
        return []
    log = chart.log_y
    both = [
        (x, low, high) if _drawable(low, log=log) and _drawable(high, log=log) else (x, None, None)
        for x, low, high in zip(chart.x, one.low, one.high, strict=True)
    ]
    lower = [[x, low] for x, low, _ in both]
    width = [[x, None if low is None or high is None else high - low] for x, low, high in both]
    common: Option = {
        "type": "line",
        "name": one.name,
        "stack": f"band-{place}",
        "stackStrategy": "all",
        "symbol": "none",
        "silent": True,
        "tooltip": {"show": False},
        "lineStyle": {"opacity": 0},
        "z": 1,
    }
    area = {"color": _colour(theme, place), "opacity": 0.22}
    colour = {"color": _colour(theme, place)}
    return [
        {**common, "data": lower, "itemStyle": colour},
        {**common, "data": width, "areaStyle": area, "itemStyle": colour},
    ]


def _marks(chart: LineChart, theme: Theme) -> Option:
    return {
        "silent": True,
        "symbol": "none",
        "lineStyle": {"color": theme.faint, "type": "solid", "width": 1},
        "label": {
            "show": True,
            "formatter": "{b}",
            "color": theme.text,
            "position": "insideEndTop",
        },
        "data": [{"xAxis": where, "name": what} for where, what in chart.marks],
    }


def _bar(one: Series, names: Sequence[str], place: int, look: Look) -> Option:
    theme = look.theme
    colour = _colour(theme, place)
    low, high = (plain(end) if end is not None else None for end in (one.low, one.high))
    data = [
        [i, rounded(y), name, str(i), *(rounded(end[i]) for end in (low, high) if end is not None)]
        for i, (y, name) in enumerate(zip(plain(one.y), names, strict=True))
    ]
    parts = [("", "{@[2]}"), (one.name, "{@[1]}")]
    ends = [name for name, end in (("low", low), ("high", high)) if end is not None]
    parts += [
        (f"{name} end of 95 % interval", f"{{@[{i}]}}") for i, name in enumerate(ends, NAMED + 1)
    ]
    hatched = {"symbol": "rect", "dashArrayX": [1, 0], "dashArrayY": [2, 4], "rotation": 0.785}
    style: Option = {"color": colour}
    if one.dash != "solid":
        style["decal"] = {**hatched, "color": theme.page}
    chosen = {"itemStyle": {"borderColor": theme.chosen, "borderWidth": 3}}
    return {
        "type": "bar",
        "name": one.name,
        "data": data,
        "encode": {"x": 0, "y": 1, "itemName": NAMED},
        "itemStyle": style,
        "barGap": f"{100 * BETWEEN_BARS:g}%",
        "barCategoryGap": f"{100 * BETWEEN_GROUPS:g}%",
        "tooltip": {"formatter": template(*parts)},
        **selecting(look, chosen, keys_of(look.chosen) if place == 0 else ()),
    }


def bar_centre(group: int, place: int, count: int) -> float:
    """Where along the axis, in groups, the middle of a bar is."""
    width = (1 - BETWEEN_GROUPS) / (count + (count - 1) * BETWEEN_BARS)
    return group + 0.5 + (place - (count - 1) / 2) * width * (1 + BETWEEN_BARS)


def _whiskers(one: Series, place: int, count: int, theme: Theme) -> list[Option]:
    """Intervals: a line on an axis of places of its own, broken between bars."""
    if one.low is None or one.high is None:
        return []
    data: list[list[Any]] = []
    for i, (low, high) in enumerate(zip(plain(one.low), plain(one.high), strict=True)):
        if low is not None and high is not None:
            x = bar_centre(i, place, count)
            data += [[x, low], [x, high], [x, None]]
    return [
        {
            "type": "line",
            "name": one.name,
            "xAxisIndex": 1,
            "data": data,
            "symbol": "rect",
            "symbolSize": [10, 1.5],
            "showAllSymbol": True,
            "silent": True,
            "tooltip": {"show": False},
            "lineStyle": {"color": theme.text, "width": 1.5},
            "itemStyle": {"color": theme.text},
            "z": 5,
        }
    ]


def _point_colours(chart: ScatterChart, theme: Theme) -> list[str]:
    if chart.colour is None:
        return [theme.more] * len(chart.x)
    return [
        theme.nothing if phase is None else phase_colour(phase) for phase in plain(chart.colour)
    ]


def _ranges(chart: ScatterChart) -> tuple[Option, Option]:
    """Both axes of one length, in data as in pixels."""
    if not chart.square:
        return {"scale": True}, {"scale": True}
    ends = []
    for values in (chart.x, chart.y):
        real = [one for one in plain(values) if one is not None] or [0.0]
        ends.append((min(real), max(real)))
    if chart.reach is not None:  # farther where points lie beyond: nothing is cut off
        far = max(chart.reach, *(abs(end) for pair in ends for end in pair)) * 1.12 or 1.0
        return {"min": rounded(-far), "max": rounded(far)}, {
            "min": rounded(-far),
            "max": rounded(far),
        }
    half = max(high - low for low, high in ends) / 2 * 1.12 or 1.0
    middles = [(low + high) / 2 for low, high in ends]
    made = [{"min": mid - half, "max": mid + half} for mid in middles]
    return made[0], made[1]


def _colour(theme: Theme, place: int) -> str:
    return theme.lines[place % len(theme.lines)]

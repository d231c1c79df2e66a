"""Small heat maps side by side as one ECharts option: a click anywhere on map `i` gives row `i`.

Every map is an image with a block of pixels for each cell, so that a page of large maps is drawn at
once. Above the images lies a grid of unseen places, one for each map, which takes the clicks. Where
cells are few, every row of a map also lies in a strip of its own, whose axis tells the pointer
which cell it is over: marks for each cell would take the clicks from the places.
"""

import base64
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import UInt8
from torch import Tensor

from apps.figures import png
from apps.web.charts.chart import Gallery, HeatMap
from apps.web.charts.colours import Theme, scale_colours, span_of
from apps.web.charts.echarts_heat import beyond_words, end_text
from apps.web.charts.echarts_parts import (
    NAMED,
    Look,
    Option,
    always,
    keys_of,
    selecting,
    template,
)
from apps.web.charts.rows import flat

ACROSS = 6
"""Maps beside each other."""
PIXELS = 200
"""Of an image's longer side, at least, so that the browser does not blur its cells."""
TOP_LEVEL, BEYOND, MISSING = 252, 254, 255
"""Levels of an image run 0 ... 252, so that 126 is the exact middle; two more are no value's."""
TITLE, GAP = 0.13, 0.05
"""Share of a map's place that its title takes from the height, and the space around it."""
CLEAR = "rgba(0,0,0,0)"
MOST_CELLS = 4000
"""Of all maps together, up to which the pointer is told of each."""
NOTHING = "no value"
POINTED = 0.3
"""How much of the text's colour the cell under the pointer takes."""


def gallery(chart: Gallery, look: Look) -> Option:
    """Maps in rows of `ACROSS`."""
    down = max(1, -(-len(chart.maps) // ACROSS))
    whole = {"left": 0, "right": 0, "top": 0, "bottom": 0}
    hidden: Option = {"type": "category", "show": False}
    across = {**hidden, "data": [str(i) for i in range(ACROSS)]}
    names = [str(i) for i in range(down)]
    rows = [_row(chart, row, down, look.theme) for row in range(down)]
    images, grids = zip(*rows, strict=True)
    strips = _strips(chart, down)
    return {
        "animation": False,
        "tooltip": {"confine": True, **(_pointer(look.theme) if strips else {})},
        "grid": [
            *({**grid, "tooltip": {"show": not strips}} for grid in (whole, *grids)),
            *(one.grid for one in strips),
        ],
        "xAxis": [
            *({**across, "gridIndex": i} for i in range(down + 1)),
            *({**hidden, **one.axis, "gridIndex": i} for i, one in enumerate(strips, down + 1)),
        ],
        "yAxis": [
            {**hidden, "data": names, "inverse": True, "gridIndex": 0},
            *(
                {"type": "value", "show": False, "min": 0, "max": 1, "gridIndex": i}
                for i in range(1, down + 1 + len(strips))
            ),
        ],
        "visualMap": {"show": False, "min": 0, "max": 1, "seriesIndex": 0, "dimension": 2}
        | {"inRange": {"color": [CLEAR, CLEAR]}},
        "series": [
            {**_places(chart, look), **({"tooltip": {"show": False}} if strips else {})},
            *images,
            *(
                {**one.series, "xAxisIndex": i, "yAxisIndex": i}
                for i, one in enumerate(strips, down + 1)
            ),
            *always(look),
        ],
    }


def image(chart: HeatMap, theme: Theme) -> str:
    """A heat map as a PNG in a data URI: every cell a square block of pixels."""
    colours = torch.tensor(
        [list(bytes.fromhex(one[1:])) for one in scale_colours(chart.scale, dark=theme.dark)]
    ).double()
    place = torch.linspace(0, len(colours) - 1, TOP_LEVEL + 1, dtype=torch.float64)
    before = place.floor().long().clamp_max(len(colours) - 2)
    share = (place - before)[:, None]
    scale = colours[before] * (1 - share) + colours[before + 1] * share
    palette = bytes(scale.round().long().flatten().tolist())
    marks = "".join(one[1:] for one in (theme.nothing, theme.beyond, theme.nothing))
    levels = _levels(chart)
    block = max(1, -(-PIXELS // max(1, *levels.shape)))
    blocks = repeat(levels, "row column -> (row r) (column c)", r=block, c=block)
    data = png(blocks, palette + bytes.fromhex(marks))
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def range_text(chart: HeatMap) -> str:
    """The ends of a map's scale, and what lies outside, in words."""
    span = span_of(chart)
    low, high = (end_text(end, chart.scale) for end in (span.low, span.high))
    words = f"{low} to {high}"
    if span.beyond:
        words += f"; {beyond_words(span, chart)}"
    return f"{words}; {span.missing} without a value" if span.missing else words


def _levels(chart: HeatMap) -> UInt8[Tensor, "row column"]:
    """Palette indices of a map's cells."""
    span = span_of(chart)
    values = chart.values.detach().cpu().double()
    share = (values - span.low) / (span.high - span.low)
    levels = (share.clamp(0, 1) * TOP_LEVEL).nan_to_num().round()
    outside = (values < span.low - span.slack) | (values > span.high + span.slack)
    levels = torch.where(outside, float(BEYOND), levels)
    return torch.where(values.isfinite(), levels, float(MISSING)).to(torch.uint8)


def _row(chart: Gallery, row: int, down: int, theme: Theme) -> tuple[Option, Option]:
    """The images of one row, and the grid they lie in."""
    maps = chart.maps[row * ACROSS : (row + 1) * ACROSS]
    data = [{"value": 1, "symbol": f"image://{image(one, theme)}"} for one in maps]
    grid = {
        "left": 0,
        "right": 0,
        "top": _percent((row + TITLE) / down),
        "height": _percent((1 - TITLE - GAP) / down),
    }
    series = {
        "type": "pictorialBar",
        "xAxisIndex": row + 1,
        "yAxisIndex": row + 1,
        "barWidth": f"{100 * (1 - 2 * GAP):g}%",
        "symbolSize": ["100%", "100%"],
        "data": data,
        "silent": True,
        "z": 1,
    }
    return series, grid


class _Strip(NamedTuple):
    """A row of a map's cells, or its title, for the pointer: unseen, and no obstacle to clicks."""

    grid: Option
    axis: Option
    series: Option
    """Its name is the first line that is told, the name on the axis the second, then the datum."""


def _strips(chart: Gallery, down: int) -> list[_Strip]:
    """The title of every map and every row of its cells; none where there are too many cells."""
    if sum(one.values.numel() for one in chart.maps) > MOST_CELLS:
        return []
    strips = []
    for i, (one, title) in enumerate(zip(chart.maps, chart.titles, strict=True)):
        about = "; ".join(f"{heading}: {texts[i]}" for heading, texts in chart.details)
        told, height = _told(one), (1 - TITLE - GAP) / max(1, len(one.rows))
        names = [f"{one.column_axis} {name}" for name in one.columns]
        scale = [f"colours: {range_text(one)}"]
        strips.append(_strip(i, down, (0.0, TITLE), title, scale, [about]))
        strips[-1].axis["axisPointer"] = {"type": "none"}
        for row, name in enumerate(one.rows):
            said = told[row * len(names) : (row + 1) * len(names)]
            within = (TITLE + row * height, height)
            strips.append(_strip(i, down, within, f"{title}, {one.row_axis} {name}", names, said))
    return strips


def _strip(
    index: int,
    down: int,
    within: tuple[float, float],
    title: str,
    names: list[str],
    said: list[str],
) -> _Strip:
    """One strip of map `index`; `within` is its top and its height in the map's place."""
    top, height = within
    grid = {
        "left": _percent((index % ACROSS + GAP) / ACROSS),
        "width": _percent((1 - 2 * GAP) / ACROSS),
        "top": _percent((index // ACROSS + top) / down),
        "height": _percent(height / down),
    }
    data = [[at, 0, text] for at, text in enumerate(said)]
    unseen = {"type": "line", "symbol": "none", "silent": True, "lineStyle": {"opacity": 0}}
    return _Strip(grid, {"data": names}, {**unseen, "name": title, "data": data})


def _told(chart: HeatMap) -> list[str]:
    """What a cell is, in words, for every cell."""
    values = [NOTHING if one is None else f"{one:.3g}" for one in flat(chart.values)]
    if chart.low is not None and chart.high is not None:
        ends = zip(values, flat(chart.low), flat(chart.high), strict=True)
        values = [
            text if low is None or high is None else f"{text} ({low:.3g} to {high:.3g})"
            for text, low, high in ends
        ]
    return [f"{chart.measure}: {text}" for text in values]


def _pointer(theme: Theme) -> Option:
    """What is told where the pointer is, and how a cell is marked."""
    return {
        "trigger": "axis",
        "transitionDuration": 0,
        "formatter": template(("", "{a}")) + "<br>{b}<br>{@[2]}",
        "axisPointer": {
            "type": "shadow",
            "animation": False,
            "shadowStyle": {"color": theme.text, "opacity": POINTED},
        },
    }


def _percent(share: float) -> str:
    return f"{100 * share:.4f}%"


def _places(chart: Gallery, look: Look) -> Option:
    """The unseen grid above the images."""
    data = [
        [
            i % ACROSS,
            i // ACROSS,
            0,
            str(i),
            title,
            range_text(one),
            *(texts[i] for _, texts in chart.details),
        ]
        for i, (one, title) in enumerate(zip(chart.maps, chart.titles, strict=True))
    ]
    details = [(heading, f"{{@[{i}]}}") for i, (heading, _) in enumerate(chart.details, 6)]
    border = {"color": CLEAR, "borderWidth": 3}
    chosen = {"itemStyle": {**border, "borderColor": look.theme.chosen}}
    return {
        "type": "heatmap",
        "data": data,
        "encode": {"x": 0, "y": 1, "value": 2, "itemName": NAMED},
        "z": 5,
        "progressive": 0,
        "label": {
            "show": True,
            "formatter": "{@[4]}",
            "position": "insideTop",
            "color": look.theme.text,
            "fontSize": 12,
        },
        "tooltip": {"formatter": template(("", "{@[4]}"), ("colours", "{@[5]}"), *details)},
        "emphasis": {"itemStyle": {**border, "borderColor": look.theme.faint}},
        **selecting(look, chosen, keys_of(look.chosen)),
    }

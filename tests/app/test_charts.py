"""Charts as data, tables and ECharts options: values worked out by hand, and properties."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from apps.web.charts.chart import (
    BarChart,
    Chart,
    Gallery,
    LineChart,
    Scale,
    ScatterChart,
    Series,
)
from apps.web.charts.colours import DARK, LIGHT, luminance, phase_colour, scale_colours, span_of
from apps.web.charts.echarts import option_of, renderer_of, row_of, size_of
from apps.web.charts.echarts_gallery import image
from apps.web.charts.echarts_graph import spread
from apps.web.charts.echarts_lines import bar_centre
from apps.web.charts.echarts_parts import ALWAYS, literal
from apps.web.charts.rows import count_of, identities, rows_of, table_of
from tests.app.some_charts import HOSTILE, all_charts, circuit, heat_map

CHARTS = all_charts()


def option(chart: Chart, *, chosen: int | None = None, dark: bool = False) -> dict[str, Any]:
    """An option as the browser gets it."""
    made = option_of(chart, dark=dark, select=True, chosen=chosen)
    found: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    return found


# ---------------------------------------------------------------------- tables


def test_a_heat_maps_table_goes_row_by_row() -> None:
    values = torch.tensor([[1.0, -2.0, math.nan], [0.5, 0.25, 4.0]], dtype=torch.float64)
    chart = heat_map(values, low=values - 1, high=values + 1)
    rows = rows_of(chart)
    assert count_of(chart) == len(rows) == 6
    assert rows[1] == {
        "head": "r0",
        "position": "c1",
        "effect (nats)": -2.0,
        "low end of 95 % interval": -3.0,
        "high end of 95 % interval": -1.0,
    }
    assert rows[2]["effect (nats)"] is None
    assert (rows[5]["head"], rows[5]["position"], rows[5]["effect (nats)"]) == ("r1", "c2", 4.0)


def test_a_graphs_table_has_its_nodes_first() -> None:
    chart = circuit()
    rows = rows_of(chart)
    assert [row["part"] for row in rows[:3]] == ["embed", "a0.h0", "logits"]
    edge = rows[len(chart.nodes) + 1]
    assert (edge["part"], edge["from"], edge["to"]) == ("embed->a0.h0<k>", "embed", "a0.h0")
    assert edge["score (nats)"] == -2.0 and rows[-1]["note"] == "dead end"


def test_headings_that_collide_lose_no_column() -> None:
    series = (Series(name="step", y=(1.0,)), Series(name="step", y=(2.0,)))
    chart = LineChart(name="l", alt="l", x=(0.0,), series=series, x_axis="step", y_axis="y")
    assert table_of(chart) == {"step": (0.0,), "step (2)": [1.0], "step (3)": [2.0]}


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)
def test_table_count_and_identities_agree(chart: Chart) -> None:
    assert count_of(chart) == len(rows_of(chart)) == len(identities(chart)) > 0


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)
def test_every_option_is_json_whatever_the_chart_holds(chart: Chart, dark: bool) -> None:
    made = option(chart, dark=dark)
    assert any(
        series["selectedMode"] == "single" for series in made["series"] if "selectedMode" in series
    )
    assert made["animation"] is False


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)
def test_tooltips_hold_no_markup_of_others(chart: Chart) -> None:
    text = json.dumps([series.get("tooltip") for series in option(chart)["series"]])
    text += json.dumps(option(chart)["tooltip"])
    assert "<img" not in text and "onerror" not in text.replace("&lt;img src=x onerror", "")


def test_a_literal_is_neither_html_nor_a_place_to_fill_in() -> None:
    assert literal('<b>"{c}&') == "&lt;b&gt;&quot;&#123;c&#125;&amp;"


def test_a_signed_map_is_symmetric_and_neutral_at_zero() -> None:
    values = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    for dark, page in ((False, LIGHT.page), (True, DARK.page)):
        made = option(heat_map(values), dark=dark)
        scale = made["visualMap"]
        assert scale["range"] == pytest.approx([-2, 2], abs=1e-5)
        assert scale["min"] == -scale["max"]
        colours = scale["inRange"]["color"]
        assert colours[len(colours) // 2] == page
        assert scale["outOfRange"]["color"] not in colours
    assert made["yAxis"]["inverse"] is True  # row 0 on top
    assert made["series"][0]["data"][1][:3] == [1, 0, -2.0]  # column, row, value
    assert made["title"] == {"show": False}


def test_what_a_limit_cuts_is_marked_and_counted() -> None:
    values = torch.tensor([[1.0, -3.0], [math.nan, 2.0]], dtype=torch.float64)
    chart = heat_map(values, limit=2.0)
    span = span_of(chart)
    assert (span.low, span.high, span.beyond, span.missing) == (-2.0, 2.0, 1, 1)
    made = option(chart)
    assert [cell[2] for cell in made["series"][0]["data"]] == [1.0, -3.0, None, 2.0]
    low, high = made["visualMap"]["range"]
    assert made["visualMap"]["min"] < low < -2.0 and 2.0 < high < made["visualMap"]["max"]
    assert "1 cell beyond ±2" in made["title"]["text"]
    assert "1 without a value" in made["title"]["text"]


@pytest.mark.parametrize(
    ("scale", "values", "ends", "beyond"),
    [
        ("share", [[0.2, 1.5]], (0, 1), 1),
        ("share", [[0.0, 1.0 + 1e-7]], (0, 1), 0),  # a sum of shares, rounded
        ("size", [[0.5, 4.0]], (0, 4), 0),
        ("size", [[-0.5, 4.0]], (0, 4), 1),
        ("phase", [[-math.pi, math.pi]], (-math.pi, math.pi), 0),
        ("right_wrong", [[1.0, 0.5]], (0, 1), 1),
        ("signed", [[0.0, 0.0]], (-1, 1), 0),
        ("signed", [[math.nan, math.inf]], (-1, 1), 0),
    ],
)
def test_scales_end_where_they_say(
    scale: Scale, values: list[list[float]], ends: tuple[float, float], beyond: int
) -> None:
    span = span_of(heat_map(torch.tensor(values, dtype=torch.float64), scale=scale))
    assert (span.low, span.high) == ends and span.beyond == beyond


@given(
    some.lists(
        some.lists(
            some.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=2
        ),
        min_size=1,
        max_size=5,
    ),
    some.sampled_from(["signed", "size", "share", "phase"]),
    some.none() | some.floats(min_value=1e-3, max_value=1e3),
)
def test_any_value_is_within_the_scale_or_counted_as_beyond(
    rows: list[list[float]], scale: Scale, limit: float | None
) -> None:
    chart = heat_map(torch.tensor(rows, dtype=torch.float64), scale=scale, limit=limit)
    made = option(chart)
    low, high = made["visualMap"]["range"]
    sent = [cell[2] for cell in made["series"][0]["data"]]
    outside = [value for value in sent if not low <= value <= high]
    assert len(outside) == span_of(chart).beyond
    assert (
        (str(len(outside)) in made["title"]["text"]) if outside else not made["title"].get("text")
    )
    for value, (exact) in zip(sent, [one for row in rows for one in row], strict=True):
        assert value == pytest.approx(exact, rel=1e-4, abs=1e-5 * (high - low))


def test_marks_are_told_apart_by_their_place_alone() -> None:
    """ECharts marks all of one name; two columns of one name must not be."""
    values = torch.zeros(2, 2)
    chart = heat_map(values, columns=("same", "same"))
    series = option(chart, chosen=3)["series"][0]
    names = [cell[series["encode"]["itemName"]] for cell in series["data"]]
    assert names == ["0", "1", "2", "3"] and series["selectedMap"]["3"] is True


def test_rows_and_clicks_agree() -> None:
    chart = circuit()
    assert row_of(chart, "node", 2) == 2
    assert row_of(chart, "edge", 0) == len(chart.nodes)
    assert row_of(heat_map(torch.zeros(2, 2)), "main", 3) == 3
    series = option(chart, chosen=len(chart.nodes) + 1)["series"][0]
    assert series["selectedMap"] == {"e1": True} and series["links"][1]["name"] == "e1"
    assert option(chart, chosen=0)["series"][0]["selectedMap"] == {"n0": True}


def test_nothing_is_marked_where_nothing_can_be_chosen() -> None:
    made = option_of(heat_map(torch.zeros(2, 2)), dark=False, select=False, chosen=1)
    assert made["series"][0]["selectedMode"] is False and "selectedMap" not in made["series"][0]


def test_a_graph_tells_signs_and_kinds_apart_without_colour() -> None:
    series = option(circuit())["series"][0]
    lines = [link["lineStyle"] for link in series["links"]]
    assert [line["type"] for line in lines] == ["solid", "dashed", "solid", "dotted"]
    assert lines[1]["width"] == 7.0 and lines[0]["width"] == 3.5  # |-2| is the most, 1 half of it
    shapes = [node["symbol"] for node in series["data"]]
    assert len(set(shapes)) == len(shapes)
    heights = [node["y"] for node in series["data"]]
    assert heights[0] > heights[1] > heights[2]  # logits on top, where y is least


def test_edges_between_the_same_nodes_lie_side_by_side() -> None:
    assert spread(circuit().edges) == [-0.18, 0.0, 0.18, 0.0]


def test_lines_have_bands_and_gaps() -> None:
    series = (
        Series(name="loss", y=(1.0, 0.0, 4.0), low=(0.5, 0.0, 3.0), high=(2.0, 1.0, 6.0)),
        Series(name="control", y=(1.0, math.nan, None), dash="dashed"),
    )
    chart = LineChart(
        name="l", alt="l", x=(0, 1, 2), series=series, x_axis="x", y_axis="y", log_y=True,
        marks=((1.0, HOSTILE),),
    )  # fmt: skip
    line, lower, width, control = option(chart)["series"]
    assert line["data"] == [[0, 1.0], [1, None], [2, 4.0]]  # 0 has no logarithm
    assert lower["data"] == [[0, 0.5], [1, None], [2, 3.0]]
    assert width["data"] == [[0, 1.5], [1, None], [2, 3.0]]
    assert lower["stack"] == width["stack"] and lower["silent"]
    assert control["data"] == [[0, 1.0], [1, None], [2, None]]
    assert control["lineStyle"]["type"] == "dashed" and control["symbol"] != line["symbol"]
    assert line["markLine"]["data"] == [{"xAxis": 1.0, "name": HOSTILE}]
    assert option(chart)["yAxis"]["type"] == "log"


def test_whiskers_stand_on_their_bars() -> None:
    assert bar_centre(2, 0, 1) == 2.5
    # two bars of width 0.65 / 2.15, 0.15 of that between them, around the middle of the group
    assert bar_centre(0, 0, 2) == pytest.approx(0.5 - 0.575 * 0.65 / 2.15)
    assert bar_centre(0, 1, 2) + bar_centre(0, 0, 2) == pytest.approx(1.0)
    one = Series(name="a", y=(0.5, None), low=(0.4, None), high=(0.7, None))
    chart = BarChart(name="b", alt="b", names=("x", "y"), series=(one,), x_axis="x", y_axis="y")
    bar, whisker = option(chart)["series"]
    assert bar["data"][0][:2] == [0, 0.5] and bar["data"][1][:2] == [1, None]
    assert whisker["data"] == [[0.5, 0.4], [0.5, 0.7], [0.5, None]]


def test_a_square_scatter_has_axes_of_one_length() -> None:
    chart = ScatterChart(
        name="s", alt="s", x=(0.0, 10.0), y=(5.0, 6.0), labels=("a", "b"), x_axis="x", y_axis="y",
        colour=(0.0, math.nan),
    )  # fmt: skip
    made = option(chart)
    x, y = made["xAxis"], made["yAxis"]
    assert x["max"] - x["min"] == pytest.approx(y["max"] - y["min"]) == pytest.approx(11.2)
    assert (y["max"] + y["min"]) / 2 == pytest.approx(5.5)
    points = made["series"][0]["data"]
    assert points[0]["itemStyle"]["color"] == phase_colour(0.0)
    assert points[1]["value"][3] is None and points[1]["itemStyle"]["color"] == LIGHT.nothing


def test_a_gallerys_image_has_a_block_for_every_cell() -> None:
    import base64
    import io

    from PIL import Image

    values = torch.tensor([[-1.0, 0.0], [1.0, math.nan]])
    uri = image(heat_map(values, limit=1.0), LIGHT)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    assert picture.size == (200, 200)
    colours = scale_colours("signed", dark=False)
    expected = (colours[0], LIGHT.page, colours[-1], LIGHT.nothing)
    for (x, y), colour in zip(((50, 50), (150, 50), (50, 150), (150, 150)), expected, strict=True):
        assert f"#{bytes(picture.crop((x, y, x + 1, y + 1)).tobytes()).hex()}" == colour


def test_gallery_places_count_in_reading_order() -> None:
    maps = tuple(heat_map(torch.full((2, 2), float(i))) for i in range(8))
    chart = Gallery(name="g", alt="g", maps=maps, titles=tuple(f"n{i}" for i in range(8)))
    places, first, second, *_, unseen = option(chart, chosen=7)["series"]
    assert unseen["id"] == ALWAYS and unseen["silent"] and unseen["data"][0]["selected"]
    assert places["data"][7][:5] == [1, 1, 0, "7", "n7"]  # second in the second row
    assert [len(row["data"]) for row in (first, second)] == [6, 2]


# ---------------------------------------------------------------------- colours and sizes


def test_colours_do_not_hang_on_hue_alone() -> None:
    for dark in (False, True):
        wrong, right = (luminance(one) for one in scale_colours("right_wrong", dark=dark))
        assert max(wrong, right) + 0.05 >= 3 * (min(wrong, right) + 0.05)
        page = luminance((DARK if dark else LIGHT).page)
        for colour in (DARK if dark else LIGHT).lines:
            bright, dim = sorted((luminance(colour), page), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 3  # WCAG 1.4.11
    size = [luminance(one) for one in scale_colours("size", dark=False)]
    assert size == sorted(size)
    assert luminance("#ffffff") == pytest.approx(1.0) and luminance("#000000") == 0.0


def test_the_circle_of_phases_closes() -> None:
    circle = scale_colours("phase", dark=False)
    assert circle[0] == circle[-1] == phase_colour(-math.pi) == phase_colour(math.pi)
    assert circle[len(circle) // 2] == phase_colour(0.0) == "#24123f"


def test_few_marks_are_svg_and_many_are_drawn_on_a_canvas() -> None:
    assert renderer_of(heat_map(torch.zeros(10, 10))) == "svg"
    assert renderer_of(heat_map(torch.zeros(113, 113))) == "canvas"


def test_a_map_over_a_and_b_is_square() -> None:
    size = size_of(heat_map(torch.zeros(113, 113)))
    assert size.width is not None and size.width - 180 == size.height - 100
    assert size_of(heat_map(torch.zeros(8, 4))).width is None

"""Nothing of a chart is cut off, dropped or exported otherwise than it is shown, unseen."""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from apps.web.charts.chart import BarChart, CircuitGraph, Gallery, LineChart, Number, Series
from apps.web.charts.echarts import option_of
from apps.web.charts.limits import log_words, y_limits
from apps.web.charts.pictures import picture_of
from apps.web.charts.pictures_drawn import draw_bars, draw_graph, draw_lines
from tests.app.some_charts import circuit, heat_map


def line(*y: Number | None, **options: object) -> LineChart:
    series = (Series(name="s", y=y),)
    x = tuple(range(len(y)))
    chart = LineChart(name="l", alt="l", x=x, series=series, x_axis="step", y_axis="share")
    return replace(chart, **options)  # type: ignore[arg-type]


def bars(y: Number, low: Number, high: Number) -> BarChart:
    series = (Series(name="s", y=(y,), low=(low,), high=(high,)),)
    return BarChart(
        name="b", alt="b", names=("a",), series=series, x_axis="x", y_axis="y", y_range=(0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("chart", "ends"),
    [
        (line(0.2, 0.9, y_range=(0.0, 1.0)), (0.0, 1.0)),
        (line(-0.3, 1.25, y_range=(0.0, 1.0)), (-0.3, 1.25)),
        (line(None, math.nan, math.inf, y_range=(0.0, 1.0)), (0.0, 1.0)),
        (bars(0.5, -0.125, 1.5), (-0.125, 1.5)),
    ],
)
def test_limits_widen_to_what_they_would_cut(
    chart: LineChart | BarChart, ends: tuple[float, float]
) -> None:
    assert y_limits(chart) == ends
    axis = option_of(chart, dark=False, select=False)["yAxis"]
    assert (axis["min"], axis["max"]) == ends
    figure = Figure()
    (draw_lines if isinstance(chart, LineChart) else draw_bars)(chart, figure)  # type: ignore[operator]
    assert figure.axes[0].get_ylim() == ends


def test_what_has_no_place_on_a_log_axis_is_counted() -> None:
    chart = line(1.0, 0.0, -2.0, None, math.nan, log_y=True)
    words = "2 values of 0 or less not drawn (log scale)"
    assert log_words(chart) == words
    assert words in option_of(chart, dark=False, select=False)["title"]["text"]
    figure = Figure()
    draw_lines(chart, figure)
    assert words in [text.get_text() for text in figure.axes[0].texts]
    assert log_words(line(1.0, 2.0, log_y=True)) is log_words(line(0.0)) is None


@pytest.mark.parametrize("y", [(0.0, 0.0), (math.nan,), (), (None, None)])
def test_a_log_axis_without_a_single_value_can_be_exported(y: tuple[Number | None, ...]) -> None:
    chart = line(*y, log_y=True, y_range=(0.1, 1.0))
    ElementTree.fromstring(picture_of(chart, "svg"))
    json.dumps(option_of(chart, dark=True, select=True), allow_nan=False)


def widths(chart: CircuitGraph) -> list[float]:
    figure = Figure()
    draw_graph(chart, figure)
    arrows = [one.arrow_patch for one in figure.axes[0].texts if hasattr(one, "arrow_patch")]
    return [one.get_linewidth() for one in arrows if one is not None]


def test_edges_are_as_wide_in_a_file_as_on_the_screen_where_graphs_are_compared() -> None:
    alone = circuit()  # its strongest edge has the score -2
    compared = replace(alone, limit=8.0)
    strongest = max(range(len(alone.edges)), key=lambda i: abs(alone.edges[i].score))
    assert widths(compared)[strongest] - 0.5 == pytest.approx(
        (widths(alone)[strongest] - 0.5) * 2 / 8
    )


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_hides_no_other_edge(score: float) -> None:
    plain = circuit()
    odd = replace(plain, edges=(*plain.edges, replace(plain.edges[0], name="odd", score=score)))
    made = [
        json.loads(json.dumps(option_of(one, dark=False, select=True), allow_nan=False))
        for one in (plain, odd)
    ]
    before, after = (
        [link["lineStyle"]["width"] for link in one["series"][0]["links"]] for one in made
    )
    assert after[:-1] == before
    assert widths(odd)[:-1] == widths(plain)


def test_every_map_of_an_exported_gallery_tells_its_scale() -> None:
    import torch

    maps = (heat_map(torch.tensor([[0.5, -4.0]])), heat_map(torch.tensor([[3.0, 1.0]]), limit=2.0))
    chart = Gallery(name="g", alt="g", maps=maps, titles=("first", "second"))
    from apps.web.charts.pictures_drawn import draw_gallery

    figure = Figure()
    draw_gallery(chart, figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert "\u22124 to 4" in titles[0]
    assert "\u22122 to 2" in titles[1] and "1 cell beyond" in titles[1]

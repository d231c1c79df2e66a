"""Charts as files: CSV that is read back to the very numbers, pictures as on the screen."""

import csv
import io
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from apps.web.charts.chart import Chart, Gallery, HeatMap, LineChart, Series
from apps.web.charts.colours import LIGHT, scale_colours
from apps.web.charts.pictures import csv_of, picture_of
from tests.app.some_charts import all_charts, heat_map

CHARTS = all_charts()
KINDS = [type(chart).__name__ for chart in CHARTS]


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@given(
    some.lists(some.floats(width=64), min_size=1, max_size=6),
    some.lists(some.text(max_size=5), min_size=6, max_size=6),
)
def test_csv_gives_back_every_number_and_name(values: list[float], names: list[str]) -> None:
    columns = tuple(names[: len(values)])
    chart = heat_map(torch.tensor([values], dtype=torch.float64), columns=columns)
    heading, *rows = read(csv_of(chart))
    assert heading == ["head", "position", "effect (nats)"] and len(rows) == len(values)
    for (_, name, written), value, expected in zip(rows, values, columns, strict=True):
        assert written == "" if not math.isfinite(value) else float(written) == value
        assert name in (expected, f"'{expected}")


def test_csv_runs_nothing_in_a_spreadsheet() -> None:
    chart = heat_map(torch.zeros(1, 4), columns=("=HYPERLINK(1)", "=", "+cmd", "-0.5"))
    names = [row[1] for row in read(csv_of(chart))[1:]]
    assert names == ["'=HYPERLINK(1)", "=", "'+cmd", "'-0.5"]
    assert read(csv_of(heat_map(torch.tensor([[-0.5]]))))[1][2] == "-0.5"  # a number stays one


def test_csv_of_a_gallery_has_every_cell_of_every_map() -> None:
    maps = (heat_map(torch.tensor([[1.0, 2.0]])), heat_map(torch.tensor([[3.0, 4.0]])))
    chart = Gallery(name="g", alt="g", maps=maps, titles=("first", "second"))
    heading, *rows = read(csv_of(chart))
    assert heading[0] == "map"
    assert [(row[0], float(row[3])) for row in rows] == [
        ("first", 1.0),
        ("first", 2.0),
        ("second", 3.0),
        ("second", 4.0),
    ]


def test_csv_of_lines_has_a_row_for_every_x() -> None:
    one = Series(name="loss", y=(1.5, None), low=(1.0, math.nan))
    chart = LineChart(name="l", alt="l", x=(0, 100), series=(one,), x_axis="step", y_axis="nats")
    assert read(csv_of(chart)) == [
        ["step", "loss", "loss: low end of 95 % interval"],
        ["0", "1.5", "1.0"],
        ["100", "", ""],
    ]


@pytest.mark.parametrize("chart", CHARTS, ids=KINDS)
def test_the_same_chart_is_the_same_bytes(chart: Chart) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: picture_of(chart, "svg"), range(2))
    assert first == second
    assert b"<svg" in first and b"<script" not in first and b"<img" not in first


def drawn(values: list[list[float]], limit: float) -> set[str]:
    """The colours of a heat map's PNG."""
    chart: HeatMap = heat_map(torch.tensor(values, dtype=torch.float64), limit=limit)
    picture = Image.open(io.BytesIO(picture_of(chart, "png"))).convert("RGB")
    counted = picture.getcolors(maxcolors=1 << 20)
    assert counted is not None
    return {f"#{bytes(colour).hex()}" for count, colour in counted if count > 4000}  # type: ignore[arg-type]


def test_a_png_has_the_colours_of_the_screen() -> None:
    ends = scale_colours("signed", dark=False)
    found = drawn([[-2.0, 2.0], [5.0, 0.0]], limit=2.0)
    assert {ends[0], ends[-1], LIGHT.beyond, "#ffffff"} <= found
    assert LIGHT.beyond not in drawn([[-2.0, 2.0], [1.0, 0.0]], limit=2.0)


def test_signs_of_formulas_are_shown_as_they_are() -> None:
    chart = heat_map(torch.zeros(1, 2), columns=("$x", r"$\bad$"))
    assert picture_of(chart, "svg").startswith(b"<?xml")

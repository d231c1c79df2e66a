"""What the pointer is told over a gallery: the cell that it is over, where there are not too many.

ECharts finds the cell: every row of a map is a strip with an axis of its columns.
"""

from typing import Any

import pytest
import torch

from apps.web.charts import echarts_gallery
from apps.web.charts.chart import Gallery, HeatMap
from apps.web.charts.colours import LIGHT
from apps.web.charts.echarts_gallery import gallery
from apps.web.charts.echarts_parts import Look

NAN = float("nan")


def a_map(values: list[list[float]], **changes: Any) -> HeatMap:
    told: dict[str, Any] = {
        "name": "head",
        "alt": "A head",
        "values": torch.tensor(values),
        "rows": ("0: 37", "1: ="),
        "columns": ("0: 37", "1: 92", "2: ="),
        "row_axis": "asking",
        "column_axis": "looked at",
        "measure": "attention (share)",
        "scale": "share",
    }
    return HeatMap(**(told | changes))


def heads(n: int = 1, **changes: Any) -> Gallery:
    values = [[0.25, 0.5, 0.125], [1.0, NAN, 0.0]]
    return Gallery(
        name="heads",
        alt="Heads",
        maps=tuple(a_map(values, **changes) for _ in range(n)),
        titles=tuple(f"a0.h{i}" for i in range(n)),
        details=(("most", tuple("0: 37" for _ in range(n))),),
    )


def option(chart: Gallery) -> dict[str, Any]:
    return gallery(chart, Look(theme=LIGHT, select=True, chosen=None))


def strips(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every strip: its grid, the names along it, and its series."""
    return [
        {
            "series": one,
            "grid": made["grid"][one["xAxisIndex"]],
            "names": made["xAxis"][one["xAxisIndex"]]["data"],
        }
        for one in made["series"]
        if one["type"] == "line"
    ]


def test_every_cell_says_who_asks_who_is_looked_at_and_how_much() -> None:
    title, first, second = strips(option(heads()))
    assert title["series"]["name"] == "a0.h0"
    assert title["names"] == ["colours: 0 to 1; 1 without a value"]
    assert title["series"]["data"] == [[0, 0, "most: 0: 37"]]
    assert first["series"]["name"] == "a0.h0, asking 0: 37"
    assert first["names"] == ["looked at 0: 37", "looked at 1: 92", "looked at 2: ="]
    told = [value for _, _, value in first["series"]["data"]]
    assert told == [f"attention (share): {x}" for x in ("0.25", "0.5", "0.125")]
    assert second["series"]["name"] == "a0.h0, asking 1: ="
    told = [value for _, _, value in second["series"]["data"]]
    assert told == [f"attention (share): {x}" for x in ("1", "no value", "0")]


def test_an_interval_is_told_beside_its_value() -> None:
    ends = {
        "low": torch.tensor([[0.2, 0.4, 0.1], [0.9, NAN, 0.0]]),
        "high": torch.tensor([[0.3, 0.6, 0.15], [1.0, NAN, 0.0]]),
    }
    _, first, second = strips(option(heads(**ends)))
    assert first["series"]["data"][1] == [1, 0, "attention (share): 0.5 (0.4 to 0.6)"]
    assert second["series"]["data"][1] == [1, 0, "attention (share): no value"]


def percent(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def test_strips_lie_on_the_cells_of_their_map() -> None:
    """Of the eighth map: the second in the second row of two, under a title."""
    made = option(heads(8))
    images = made["grid"][2]  # of the second row
    title, first, second = strips(made)[21:24]
    across = 100 / 6
    for one in (title, first, second):
        assert percent(one["grid"]["left"]) == pytest.approx(1.05 * across, abs=1e-3)
        assert percent(one["grid"]["width"]) == pytest.approx(0.9 * across, abs=1e-3)
    assert percent(first["grid"]["top"]) == pytest.approx(percent(images["top"]), abs=1e-3)
    height = percent(images["height"])
    assert percent(first["grid"]["height"]) == pytest.approx(height / 2, abs=1e-3)
    middle = percent(images["top"]) + height / 2
    assert percent(second["grid"]["top"]) == pytest.approx(middle, abs=1e-3)
    assert percent(title["grid"]["top"]) == pytest.approx(50.0)


def test_strips_leave_clicks_to_the_maps() -> None:
    made = option(heads(2))
    places, *others = made["series"]
    assert places["selectedMode"] == "single" and not places.get("silent")
    assert others and all(one["silent"] for one in others)
    assert not any(one.get("selectedMode") for one in others)
    assert made["tooltip"]["trigger"] == "axis"
    assert places["tooltip"] == {"show": False}  # else it would speak in place of the cell
    assert [one["tooltip"]["show"] for one in made["grid"][:2]] == [False, False]


def test_of_too_many_cells_only_the_map_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echarts_gallery, "MOST_CELLS", 11)
    made = option(heads(2))
    assert strips(made) == [] and "trigger" not in made["tooltip"]
    assert "formatter" in made["series"][0]["tooltip"]
    monkeypatch.setattr(echarts_gallery, "MOST_CELLS", 12)
    assert len(strips(option(heads(2)))) == 6

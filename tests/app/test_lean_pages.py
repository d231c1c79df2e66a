"""What a page leaves out so that a click is answered at once, and brings when it is asked for."""

import gc
import sys
from types import ModuleType

import pytest
import torch
from streamlit.testing.v1 import AppTest

from apps.web import collection
from apps.web.charts.chart import HeatMap
from apps.web.charts.echarts import option_of
from tests.app.some_charts import heat_map


def page() -> None:  # run from its source, so it imports for itself
    import torch

    from apps.web.charts.show import show
    from tests.app.some_charts import heat_map

    show(heat_map(torch.arange(6.0).reshape(2, 3)), key="cell", select=True)


def opened() -> AppTest:
    test = AppTest.from_function(page, default_timeout=60).run()
    assert not test.exception
    return test


def test_a_table_comes_when_it_is_unfolded_with_what_is_chosen() -> None:
    test = opened()
    assert len(test.dataframe) == 0 and len(test.get("echarts_chart")) == 1
    test.session_state["cell_folder"] = True
    test.query_params["cell"] = "4"
    test.session_state["cell_chosen"] = 4
    test.run()
    assert len(test.dataframe[0].value) == 6
    assert list(test.session_state["cell_table"]["selection"]["rows"]) == [4]
    test.session_state["cell_folder"] = False
    assert len(test.run().dataframe) == 0


def test_exports_come_when_they_are_opened() -> None:
    test = opened()
    assert len(test.get("download_button")) == 0
    test.session_state["cell_export"] = True
    assert [one.proto.label for one in test.run().get("download_button")] == ["CSV", "PNG", "SVG"]


def by_index(rows: int, columns: int) -> HeatMap:
    names = [tuple(map(str, range(n))) for n in (rows, columns)]
    values = torch.arange(float(rows * columns)).reshape(rows, columns)
    return HeatMap(
        name="right",
        alt="Right answers over all inputs",
        values=values,
        rows=names[0],
        columns=names[1],
        row_axis="a",
        column_axis="b",
        measure="margin",
        scale="signed",
    )


def told(chart: HeatMap, cell: int) -> str:
    """What the browser fills into the tooltip of a cell."""
    drawn = option_of(chart, dark=False, select=False, chosen=None)
    text, row = drawn["tooltip"]["formatter"], drawn["series"][0]["data"][cell]
    for i, value in enumerate(row):
        text = text.replace(f"{{@[{i}]}}", str(value))
    assert "{@" not in text
    return str(text)


def test_indices_are_not_sent_twice_and_names_are_sent() -> None:
    assert told(by_index(3, 4), 6) == "a: <b>1</b><br>b: <b>2</b><br>margin: <b>6.0</b>"
    assert (
        len(
            option_of(by_index(3, 4), dark=False, select=False, chosen=None)["series"][0]["data"][0]
        )
        == 4
    )
    named = heat_map(torch.arange(6.0).reshape(2, 3), low=torch.zeros(2, 3), high=torch.ones(2, 3))
    assert told(named, 5).startswith(
        "head: <b>r1</b><br>position: <b>c2</b><br>effect (nats): <b>5"
    )
    assert told(named, 5).endswith("<b>0.0</b><br>high end of 95 % interval: <b>1.0</b>")
    mixed = heat_map(torch.arange(6.0).reshape(2, 3), columns=("0", "1", "2"))
    assert told(mixed, 5).startswith("head: <b>r1</b><br>position: <b>2</b><br>")


@pytest.mark.parametrize("missing", [False, True])
def test_a_map_is_hatched_where_a_value_is_missing(missing: bool) -> None:
    values = torch.arange(6.0).reshape(2, 3)
    if missing:
        values[1, 1] = torch.nan
    drawn = option_of(heat_map(values), dark=False, select=False, chosen=None)
    assert ("backgroundColor" in drawn["grid"]) == missing
    assert (drawn["series"][0]["data"][4][2] is None) == missing


def test_only_modules_loaded_since_are_left_out_of_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(len(sys.modules)))
    monkeypatch.setattr(collection, "_modules", 0)
    collection.keep_modules()
    collection.keep_modules()
    assert len(frozen) == 1
    monkeypatch.setitem(sys.modules, "a_module_of_this_test", ModuleType("a_module_of_this_test"))
    collection.keep_modules()
    assert len(frozen) == 2

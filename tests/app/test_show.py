"""What is chosen in a chart: by clicks, from the address, by callers, and as charts change."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from apps.web.charts.show import _followed, _plain


def page() -> None:  # run from its source, so it imports for itself
    import streamlit as st
    import torch

    from apps.web.charts.show import choose, show, table
    from tests.app.some_charts import circuit, heat_map

    wide = st.toggle("Wide", key="wide")
    values = torch.arange(8.0 if wide else 6.0).reshape(2, -1)
    st.text(f"cell {show(heat_map(values), key='cell', select=True, open_table=True)}")
    st.text(f"part {show(circuit(), key='part', select=True)}")
    assert show(circuit(), key="still") is None
    rows = [{"name": "b", "share": 0.5}, {"name": "a", "share": None}]
    if st.toggle("Newer", key="newer"):
        rows.insert(0, {"name": "c", "share": 1.0})
    st.text(f"row {table(rows, key='row', alt='Findings', select=True)}")
    st.button("Strongest", key="strongest", on_click=choose, args=("cell", 5))


def opened(**address: str) -> AppTest:
    test = AppTest.from_function(page, default_timeout=60)
    for name, value in address.items():
        test.query_params[name] = value
    return test.run()


def said(test: AppTest) -> list[str]:
    assert not test.exception
    return [text.value for text in test.text]


def address(test: AppTest) -> dict[str, list[str]]:
    return {name: list(values) for name, values in test.query_params.items()}


def pictures(test: AppTest) -> list[Any]:
    return [one.proto for one in test.get("echarts_chart")]


def test_nothing_is_chosen_at_first() -> None:
    test = opened()
    assert said(test) == ["cell None", "part None", "row None"] and address(test) == {}
    cell, part, still = pictures(test)
    assert cell.alt == "Effects of patching every head at every position"
    assert cell.selection_activated and part.selection_activated and not still.selection_activated
    assert "NaN" not in cell.spec


def test_the_address_chooses_and_is_kept() -> None:
    test = opened(cell="4", part="3", row="1")
    assert said(test) == ["cell 4", "part 3", "row 1"]
    assert address(test) == {"cell": ["4"], "part": ["3"], "row": ["1"]}
    cell, part, _ = pictures(test)
    assert json.loads(cell.spec)["series"][0]["selectedMap"]["4"] is True
    assert json.loads(part.spec)["series"][0]["selectedMap"] == {"e0": True}
    assert list(test.session_state["cell_table"]["selection"]["rows"]) == [4]


@pytest.mark.parametrize("text", ["6", "-1", "x", "1.5", "9" * 5000, "\u0663"])
def test_an_address_of_no_row_chooses_nothing(text: str) -> None:
    test = opened(cell=text)
    assert said(test)[0] == "cell None" and "cell" not in address(test)


def test_a_caller_chooses_and_a_new_picture_shows_it() -> None:
    test = opened(cell="1")
    first = pictures(test)[0]
    test.button(key="strongest").click().run()
    assert said(test)[0] == "cell 5" and address(test)["cell"] == ["5"]
    second = pictures(test)[0]
    assert second.id != first.id
    assert json.loads(second.spec)["series"][0]["selectedMap"]["5"] is True


def test_a_rerun_leaves_the_picture_alone() -> None:
    test = opened(cell="1")
    before = pictures(test)[0]
    after = pictures(test.run())[0]
    assert (after.id, after.spec) == (before.id, before.spec)


def test_a_cell_of_a_map_of_another_shape_is_no_longer_chosen() -> None:
    test = opened(cell="4", part="2")
    test.toggle(key="wide").set_value(True).run()
    assert said(test)[:2] == ["cell None", "part 2"]
    assert address(test).keys() == {"part", "wide"} or address(test).keys() == {"part"}


def test_a_row_is_followed_to_its_new_place() -> None:
    test = opened(row="0")
    test.toggle(key="newer").set_value(True).run()
    assert said(test)[2] == "row 1" and address(test)["row"] == ["1"]


@pytest.mark.parametrize(
    ("chosen", "known", "names", "now"),
    [
        (None, None, "ab", None),
        (1, None, "ab", 1),
        (2, None, "ab", None),
        (0, (0, "b"), "ab", 1),
        (0, (0, "c"), "ab", None),
        (1, (0, "a"), "ab", 1),  # chosen since: the old identity says nothing
        (1, (1, "a"), "aa", 1),  # of two of one name, the one in place
    ],
)
def test_following(
    chosen: int | None, known: tuple[int, str] | None, names: str, now: int | None
) -> None:
    assert _followed(chosen, known, list(names)) == now


def test_columns_are_of_one_type() -> None:
    assert _plain([1, None, 2.5]) == [1, None, 2.5]
    assert _plain([True, 1, None, "x"]) == ["True", "1", None, "x"]

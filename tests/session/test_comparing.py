"""How near a replay must come: numbers within tolerance, everything else the same."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workbench.analysis import Recorded, arrays_of
from workbench.record import Record, Tolerance, tolerance_finder
from workbench.session.comparing import Comparison, compare

MADE_WITH = {"workbench": "1", "torch": "2", "python": "3", "device": "cpu", "threads": 1}


def recorded(
    result: dict[str, Any], arrays: dict[str, Tensor] | None = None, tolerance: float = 0.01
) -> Recorded:
    held = {} if arrays is None else arrays
    data = {
        "id": "patching-0123456789abcdef",
        "kind": "patching",
        "parameters": {},
        "checkpoints": [{"step": 0, "weights_sha256": "a" * 64}],
        "result": result,
        "findings": [],
        "arrays": arrays_of(held).model_dump() if held else None,
        "tolerances": {"*": {"absolute": tolerance, "relative": 0.0}},
        "made_with": MADE_WITH,
        "seconds": 1.0,
    }
    return Recorded(Record.model_validate_json(json.dumps(data)), held)


OWN = {"*": Tolerance(absolute=0.01)}


def compared(a: Any, b: Any) -> Comparison:
    return compare(recorded({"x": a}), recorded({"x": b}), OWN)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1.0, 1.0099, True),
        (1.0, 1.0101, False),
        (-1.0, 1.0, False),
        (0.5, None, False),
        (None, None, True),
        (3, 3, True),
        (12_769, 12_770, False),  # whole numbers are counts, and counts are exact
        (1, True, False),
        (1, 1.0, False),
        (True, False, False),
        ("supported", "not supported", False),
        ([1.0, 2.0], [1.0, 2.001], True),
        ([1.0, 2.0], [1.0], False),
        ([], [], True),
        ([], {}, False),
        ([], [1.0], False),
        ({"a": {"b": 1.0}}, {"a": {"b": 1.005}}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        ("right on 99.87% of 3,481", "right on 99.88% of 3,481", True),
        ("right on 99.87% of 3,481", "right on 99.95% of 3,481", False),
        ("right on 99.87% of 3,481", "right on 99.87% of 3,482", False),
        ("0.50 of 3.0", "0.5 of 3.0", False),
        ("accuracy 1.0", "accuracy 0.91", False),  # coarse words hide nothing
        ("accuracy 1.0", "accuracy 0.9", True),
        ("p = 0.0e-05", "p = 9.9e-02", False),
        ("p = 1.1e-05", "p = 1.2e-05", True),
        ({"a": {"b": 1.0}, "a.b": 2.0}, {"a": {"b": 2.0}}, False),  # a key that looks like a path
        ([1.0], {"0": 1.0}, False),
        ("a0.h1 leads", "a0.h0 leads", False),
        ("17 of 137 edges", "18 of 137 edges", False),
        ("", "x", False),
    ],
)
def test_what_is_the_same(a: Any, b: Any, same: bool) -> None:
    found = compared(a, b)
    assert bool(found.differences) is not same
    assert bool(compared(b, a).differences) is not same


def test_a_difference_says_where_and_by_how_much() -> None:
    found = compared(
        {"rows": [{"effect": 1.0}, {"effect": 2.0}]}, {"rows": [{"effect": 1.02}, {"effect": 2.5}]}
    )
    assert [str(one) for one in found.differences] == [
        "result.x.rows.1.effect: 2 recorded, 2.5 replayed, 0.5 apart (allowed 0.01)",
        "result.x.rows.0.effect: 1 recorded, 1.02 replayed, 0.02 apart (allowed 0.01)",
    ]
    assert str(compared("a", "b").differences[0]) == "result.x: 'a' recorded, 'b' replayed"
    assert compared(1.0, 1.005).closeness == pytest.approx(0.5)


def test_of_an_array_the_largest_difference_counts_beside_its_largest_entry() -> None:
    own = {"*": Tolerance(relative=0.01)}
    a, near = torch.tensor([[100.0, 0.0], [1.0, 2.0]]), torch.tensor([[100.0, 0.9], [1.0, 2.0]])
    far = torch.tensor([[100.0, 0.0], [1.0, 3.1]])
    stated = recorded({}, {"a": a}, tolerance=1.0)
    stated.record.tolerances["*"] = Tolerance(absolute=1.0, relative=1.0)
    assert not compare(stated, recorded({}, {"a": near}), own).differences
    (difference,) = compare(stated, recorded({}, {"a": far}), own).differences
    assert difference.path == "arrays.a" and difference.by == pytest.approx(1.1)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1, 2])},
        {"a": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1], [3]])},
        {"b": torch.tensor([1, 3])},
        {"a": torch.tensor([1, 3]), "b": torch.tensor([1])},
        None,
    ],
)
def test_arrays_of_whole_numbers_shapes_and_names_are_exact(
    other: dict[str, Tensor] | None,
) -> None:
    stated = recorded({}, {"a": torch.tensor([1, 3])})
    assert not compare(stated, stated, OWN).differences
    assert compare(stated, recorded({}, other), OWN).differences


def test_the_tighter_tolerance_counts_and_the_longest_pattern_decides() -> None:
    wide = recorded({"x": 1.0}, tolerance=1e9)
    assert compare(wide, recorded({"x": 1.02}), OWN).differences
    tight = recorded({"x": 1.0}, tolerance=1e-6)
    assert compare(tight, recorded({"x": 1.001}), OWN).differences
    tolerances = {"*": Tolerance(absolute=1), "rows.*.q": Tolerance(absolute=2)}
    at = tolerance_finder(tolerances)
    assert at("rows.7.q").absolute == 2 and at("rows.7.p").absolute == 1
    assert tolerance_finder({})("rows.7.p") == Tolerance()
    assert Tolerance(absolute=1, relative=0.5).of(-4.0) == 3


ADDED = ("result.rows.*.low", "result.rows.*.high")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"x": 1.0}, {"x": 2.0}], None),
        ([{"x": 1.0, "low": 0.5, "high": 1.5}, {"x": 2.0, "low": 1.5, "high": 2.5}], None),
        ([{"x": 1.0, "low": 0.5}, {"x": 2.0, "low": 1.5}], None),  # one came before the other
        ([{"x": 1.0, "low": 0.5}, {"x": 2.0}], "result.rows.1.low"),
        ([{"x": 1.0, "low": 0.5}, {"x": 2.0, "low": 1.6}], "result.rows.1.low"),
        ([{"x": 1.0, "low": None}, {"x": 2.0, "low": None}], "result.rows.0.low"),
        ([{"x": 1.0}, {}], "result.rows.1.x"),
        ([{"x": 1.0}], "result.rows (how many)"),
        ([{"x": 1.0, "low.low": 0.5}, {"x": 2.0}], "result.rows.0.low.low"),
        (None, "result.rows"),
    ],
)
def test_numbers_that_were_added_may_be_missing_from_all_rows_and_not_from_some(
    rows: Any, why: str | None
) -> None:
    now = [{"x": 1.0, "low": 0.5, "high": 1.5}, {"x": 2.0, "low": 1.5, "high": 2.5}]
    stated = recorded({} if rows is None else {"rows": rows})
    found = compare(stated, recorded({"rows": now}), OWN, added=ADDED).differences
    assert (found[0].path if found else None) == why


def test_a_star_in_what_was_added_stands_for_one_name() -> None:
    now = recorded({"rows": [{"low": 0.5, "deep": {"low": 0.5}}]})
    stated = recorded({"rows": [{"deep": {}}]})
    (difference,) = compare(stated, now, OWN, added=ADDED).differences
    assert difference.path == "result.rows.0.deep.low"


def test_the_word_for_what_is_absent_is_not_absent() -> None:
    stated, now = recorded({"x": 1.0, "more": "(absent)"}), recorded({"x": 1.0})
    assert [one.path for one in compare(stated, now, OWN).differences] == ["result.more"]
    assert [one.path for one in compare(now, stated, OWN).differences] == ["result.more"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_everything_is_itself(value: Any) -> None:
    found = compared(value, value)
    assert not found.differences and found.closeness == 0


@given(JSON, JSON)
def test_no_two_things_pass_as_one(a: Any, b: Any) -> None:
    """What passes is equal once fractions are rounded to the tolerance's order."""

    def coarse(value: Any) -> Any:
        if isinstance(value, float):
            return "fraction"
        if isinstance(value, dict):
            return {key: coarse(item) for key, item in value.items()}
        return [coarse(item) for item in value] if isinstance(value, list) else (type(value), value)

    if not compared(a, b).differences:
        assert coarse(a) == coarse(b)

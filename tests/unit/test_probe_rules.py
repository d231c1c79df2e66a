"""The rules that make words of numbers, on rows written by hand."""

import dataclasses
from typing import Any

import pytest

from probes.rows import Row
from probes.summary import Line, summarise, with_discoveries
from tests.unit.probe_rows import row

# ---------------------------------------------------------------------- from first principles


ERASED: dict[str, Any] = {"metric": "answer_accuracy", "probe": None, "split": "grouped/0"}


def rows_of(
    *,
    p: float | None = 0.01,
    low: float = 0.6,
    erased_high: float = 0.4,
    random: tuple[float, ...] = (0.9, 0.41),
    same_tokens: tuple[float, ...] = (0.9, 0.42),
    twins: tuple[float, ...] | None = None,
    controls: tuple[str, ...] = ("control_task", "shuffled", "untrained", "majority"),
    highest: float = 0.5,
    highest_of: str = "untrained",
    **changes: Any,
) -> list[Row]:
    made = [row("none", 0.7, low=low, high=0.8, p=p, **changes)]
    for name in controls:
        probe = None if name == "majority" else changes.get("probe", "ridge")
        value = highest if name == highest_of else 0.2
        draws = (value,) if name != "untrained" else (twins or (value,) * 3)
        made += [row(name, x, **{**changes, "probe": probe}) for x in draws]
    erased = {**changes, **ERASED}
    made.append(row("none", 1.0, low=0.9, high=1.0, **erased))
    made.append(row("erased", 0.3, low=0.2, high=erased_high, rank=3, **{**erased, "n": 50}))
    for name, draws in (("random_erased", random), ("control_erased", same_tokens)):
        made += [row(name, x, draw=i, rank=3, **{**erased, "n": 50}) for i, x in enumerate(draws)]
    return made


def only(lines: list[Line]) -> Line:
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "decodable", "selective", "used"),
    [
        ({}, True, True, True),
        ({"p": 0.05}, True, True, True),
        ({"p": 0.051}, False, False, False),
        ({"p": 1.0}, False, False, False),
        ({"p": None}, None, None, None),
        # Selective: the interval above every control.
        *(
            ({"highest": highest, "highest_of": name}, True, selective, True)
            for name in ("control_task", "shuffled", "untrained", "majority")
            for highest, selective in ((0.59, True), (0.6, False), (0.65, False))
        ),
        # Untrained twins: mean .41, sd .01, t of 2 degrees at .95 2.92: .41 + .0337 = .4437.
        ({"twins": (0.40, 0.41, 0.42), "low": 0.444}, True, True, True),
        ({"twins": (0.40, 0.41, 0.42), "low": 0.443}, True, False, True),
        # Two far apart say little: .4 + 6.314 * .1414 * 1.2247 = 1.49.
        ({"twins": (0.3, 0.5)}, True, False, True),
        ({"twins": (0.3,)}, True, None, True),
        # Used: .3 below the lowest erasure of each kind, its interval's end below their means.
        ({"same_tokens": (0.3, 0.9)}, True, True, False),
        ({"same_tokens": (0.31, 0.9)}, True, True, True),
        ({"same_tokens": (0.31, 0.49)}, True, True, False),
        ({"same_tokens": ()}, True, True, None),
        ({"same_tokens": (), "random": (0.3, 0.9)}, True, True, False),
        ({"erased_high": 0.65}, True, True, True),
        ({"erased_high": 0.66}, True, True, False),
        ({"random": (0.29, 0.9, 0.9)}, True, True, False),
        ({"random": (0.9, 0.9)}, True, True, True),
        ({"random": ()}, True, True, None),
        ({"random": (), "p": 0.5}, False, False, False),
        # A control that was not measured.
        *(
            (
                {
                    "controls": tuple(
                        name
                        for name in ("control_task", "shuffled", "untrained", "majority")
                        if name != missing
                    )
                },
                *(True, None, True),
            )
            for missing in ("control_task", "shuffled", "untrained", "majority")
        ),
        ({"controls": (), "p": 0.9}, False, None, False),
    ],
)
def test_the_rules(
    settings: dict[str, Any], decodable: bool | None, selective: bool | None, used: bool | None
) -> None:
    line = only(summarise(rows_of(**settings)))
    assert (line.decodable, line.selective, line.used) == (decodable, selective, used)
    assert line.q == line.p  # one line: nothing to correct for


def test_columns_come_from_their_rows() -> None:
    rows = rows_of(random=(0.9, 0.5, 0.4))
    rows += [row("control_task", 0.4, draw=1), row("norm_matched", 0.11)]
    rows += [row("random_subspace", 0.33)]
    line = only(summarise(rows))
    assert line.control_accuracy == pytest.approx((0.2 + 0.4) / 2)
    assert line.selectivity == pytest.approx(0.7 - 0.3)
    assert (line.accuracy, line.low, line.high, line.n) == (0.7, 0.6, 0.8, 100)
    assert (line.norm_matched_accuracy, line.random_subspace_accuracy) == (0.11, 0.33)
    assert (line.untrained_accuracy, line.shuffled_accuracy) == (0.5, 0.2)
    assert (line.answer_accuracy, line.erased_accuracy) == (1.0, 0.3)
    assert (line.erased_low, line.erased_high, line.n_asked, line.rank) == (0.2, 0.4, 50, 3)
    assert line.random_erased_accuracy == pytest.approx(0.6)
    assert (line.random_erased_lowest, line.n_random) == (0.4, 3)
    assert (line.control_erased_accuracy, line.control_erased_lowest) == (
        pytest.approx(0.66),
        0.42,
    )
    assert (line.n_untrained, line.untrained_sd, line.untrained_bound) == (3, 0, 0.5)
    assert (line.interchange_accuracy, line.interchange_control) == (None, None)
    assert line.to_dict()["random_erased_lowest"] == 0.4


def test_what_was_not_measured_is_none() -> None:
    line = only(summarise([row("none", 0.7, low=0.6, high=0.8, p=0.01)]))
    empty = {name for name, value in line.to_dict().items() if value is None}
    assert empty == {
        *("head", "control_accuracy", "selectivity", "shuffled_accuracy", "untrained_accuracy"),
        *("random_subspace_accuracy", "norm_matched_accuracy", "majority_accuracy"),
        *("answer_accuracy", "erased_accuracy", "erased_low", "erased_high", "n_asked", "rank"),
        *("random_erased_accuracy", "random_erased_lowest", "n_random"),
        *("untrained_sd", "n_untrained", "untrained_bound"),
        *("control_erased_accuracy", "control_erased_lowest"),
        *("interchange_accuracy", "interchange_control", "selective", "used"),
        *("control_low", "control_high", "shuffled_low", "shuffled_high"),
        *("random_subspace_low", "random_subspace_high", "norm_matched_low", "norm_matched_high"),
    }
    assert summarise([]) == []


@pytest.mark.parametrize(
    "other",
    [
        {"variable": "w"},
        {"position": 1},
        {"head": 0},
        {"hook": "hook_pos_embed"},
    ],
)
def test_places_and_variables_do_not_mix(other: dict[str, Any]) -> None:
    mine = rows_of()
    theirs = rows_of(highest=0.99, erased_high=0.95, random=(0.1,), p=0.012, **other)
    mixed = [row for pair in zip(mine, theirs, strict=False) for row in pair]
    mixed += theirs[len(mine) :] + mine[len(theirs) :]
    first, second = summarise(mixed)
    alone = only(summarise(mine))
    # Of two p-values .01 and .012, both q are .012.
    assert dataclasses.replace(alone, q=0.012) == first
    assert second.untrained_accuracy == pytest.approx(0.99)
    assert (second.selective, second.used) == (False, False)


def test_probes_share_erasures_and_majority_but_no_other_control() -> None:
    of_ridge = rows_of()
    of_other = [
        row("none", 0.9, low=0.85, high=0.95, p=0.01, probe="mlp"),
        row("control_task", 0.88, probe="mlp"),
    ]
    ridge, other = summarise([*of_ridge, *of_other])
    assert (ridge.control_accuracy, other.control_accuracy) == (0.2, 0.88)
    assert other.untrained_accuracy is None and other.selective is None
    assert other.majority_accuracy == ridge.majority_accuracy == 0.2
    assert other.used is True and other.erased_accuracy == 0.3


def test_single_splits_and_other_metrics_are_no_lines() -> None:
    noise = [
        row("none", 0.99, split="grouped/0", strength=1.0, chosen=True),
        row("none", 0.98, split="grouped/1", strength=1.0, chosen=False),
        row("control_task", 0.97, split="network"),
        row("none", 300.0, metric="bits", split="online"),
        row("control_task", 500.0, metric="bits", split="online", draw=0),
        row("untrained", 0.99, metric="interchange_accuracy", split="interchange/0", rank=2),
    ]
    line = only(summarise([*noise, *rows_of()]))
    clean = only(summarise(rows_of()))
    assert dataclasses.replace(line, interchange_control=None) == clean


def test_interchange_is_that_of_the_largest_rank() -> None:
    def swapped(control: str, rank: int, seed: int, value: float) -> Row:
        return row(
            control,
            value,
            metric="interchange_accuracy",
            probe=None,
            split=f"interchange/{seed}",
            rank=rank,
        )

    rows = [
        *(swapped("none", 2, 0, 0.99), swapped("identity", 2, 0, 0.98)),
        *(swapped("none", 16, 0, 0.8), swapped("none", 16, 1, 0.6)),
        *(swapped("identity", 16, 0, 0.1), swapped("identity", 16, 1, 0.3)),
        *(swapped("arbitrary", 16, 0, 0.5), swapped("arbitrary", 16, 1, 0.0)),
    ]
    line = only(summarise([*rows_of(), *rows]))
    assert line.interchange_accuracy == pytest.approx(0.7)
    assert line.interchange_control == pytest.approx(0.25)


def test_q_values_by_hand_over_all_lines_that_were_tested() -> None:
    p = [0.2, 0.01, None, 0.02, 0.5]
    lines = summarise([r for i, value in enumerate(p) for r in rows_of(p=value, position=i)])
    # In ascending order: .01 * 4/1, .02 * 4/2, .2 * 4/3, .5 * 4/4; the least from there on.
    expected = [4 * 0.2 / 3, 0.04, None, 0.04, 0.5]
    for line, q in zip(lines, expected, strict=True):
        assert line.q == (None if q is None else pytest.approx(q))
    assert [line.decodable for line in lines] == [False, True, None, True, False]
    assert [line.selective for line in lines] == [False, True, None, True, False]


def test_lines_of_several_networks_share_discoveries() -> None:
    # Alone each is found at .03; among four networks of which the others show nothing, none is.
    alone = only(summarise(rows_of(p=0.03)))
    nothing = only(summarise(rows_of(p=0.9)))
    assert alone.decodable is True
    together = with_discoveries([alone, nothing, nothing, nothing])
    assert together[0].q == pytest.approx(0.12)
    assert not any(line.decodable or line.selective or line.used for line in together)
    assert with_discoveries([]) == []

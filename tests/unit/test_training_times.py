"""The rule by which times are read across training, by hand."""

from collections.abc import Sequence

import pytest

from probes.training_times import AcrossTraining, Checkpoint, Kind, Level, Measure, lasting_from


def level(value: float, margin: float = 0.0) -> Level:
    return Level(value=value, low=value - margin, high=value + margin, n=100)


def one(
    value: float, *controls: Level, kind: Kind = "swapped", margin: float = 0.02, most: float = 1.0
) -> Measure:
    named = {f"control_{i}": control for i, control in enumerate(controls)}
    return Measure(site="here", kind=kind, level=level(value, margin), controls=named, most=most)


def test_above_needs_intervals_apart() -> None:
    low, high = level(0.1, 0.02), level(0.3, 0.04)
    assert one(0.37, low, high).above
    assert not one(0.35, low, high).above  # .33 < .34, though .33 > .12
    assert not one(0.36, level(0.34)).above  # ends that touch
    assert one(0.1, level(0.3, 0.1), kind="erased", most=0.0).above
    assert not one(0.2, level(0.3, 0.1), kind="erased", most=0.0).above


def test_holds_from_half_way() -> None:
    """Half way from .25 to 1 is .625; to .75, .5; down from .5 to 0, .25."""
    control = level(0.25)
    assert [one(x, level(0.1), control).holds for x in (0.62, 0.63)] == [False, True]
    assert [one(x, control, most=0.75).holds for x in (0.49, 0.51)] == [False, True]
    halves = [one(x, level(0.5), kind="erased", most=0.0).holds for x in (0.26, 0.24)]
    assert halves == [False, True]
    assert not one(0.63, control, margin=0.5).holds  # half way, but not above


def test_alone_looks_at_no_control() -> None:
    assert [one(x, level(0.9)).alone for x in (0.49, 0.5)] == [False, True]
    assert one(0.4, level(0.9), most=0.75).alone
    assert not one(0.9, level(0.9), kind="erased", most=0.0).alone


@pytest.mark.parametrize(
    ("holds", "first"),
    [("0000", None), ("1110", None), ("1011", 2), ("0001", 3), ("1111", 0), ("", None)],
)
def test_a_time_lasts_to_the_end(holds: str, first: int | None) -> None:
    assert lasting_from(range(len(holds)), [mark == "1" for mark in holds]) == first


def across_of(values: Sequence[float], held_out: Sequence[float]) -> AcrossTraining:
    checkpoints = [
        Checkpoint(
            step=100 * i,
            accuracy=level(share),
            train_accuracy=level(1.0),
            held_out_accuracy=level(share),
            measures=(one(value, level(0.1)),),
        )
        for i, (value, share) in enumerate(zip(values, held_out, strict=True))
    ]
    return AcrossTraining(
        variable="v",
        n_classes=2,
        probe="ridge",
        sites=("here",),
        kinds=("swapped",),
        rank=2,
        checkpoints=tuple(checkpoints),
    )


def test_times_of_a_series() -> None:
    """Half way is .55; above from .13 on; alone from .5 on. 99.9 % is enough, and must last."""
    found = across_of([0.3, 0.1, 0.2, 0.52, 0.6], [1.0, 0.5, 0.9989, 0.999, 1.0])
    assert found.times("here", "swapped") == (200, 400, 300)
    assert (found.used_from, found.generalises_from) == (400, 300)
    assert found.decodable_from is None  # no probe was measured
    assert across_of([0.6, 0.1], [1.0, 0.9]).used_from is None
    assert across_of([0.6, 0.1], [1.0, 0.9]).generalises_from is None

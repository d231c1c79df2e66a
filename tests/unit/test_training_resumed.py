"""Training into run directories: stopped at any moment, it goes on to the same bits."""

import errno
import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench.train
import workbench.training
from tests.unit.recorded_training import EARLY, SEEDS, contents, finish, path_of, start, stop_after
from tests.unit.recorded_training import committing_often as committing_often
from tests.unit.recorded_training import no_waiting as no_waiting
from tests.unit.small_training import ADDITION, DIGITS, recipe, sampled
from workbench.errors import RunError
from workbench.recipe import Recipe
from workbench.run import open_run
from workbench.run_writer import RunWriter
from workbench.task import Task


@pytest.mark.parametrize(
    ("task", "how"),
    [(ADDITION, recipe(batch_size=8)), (DIGITS, sampled()), (ADDITION, EARLY)],
    ids=["minibatches", "sampled", "early stop"],
)
def test_stopped_at_any_snapshot_it_ends_the_same(task: Task, how: Recipe, tmp_path: Path) -> None:
    """Stopped twice: at snapshot k, and at the one after the first of the resumed training."""
    finish(start(tmp_path / "whole", how, task=task))
    whole, k = contents(tmp_path / "whole"), 0
    while stop_after(k := k + 1, start(tmp_path / str(k), how, task=task)):
        stop_after(2, start(tmp_path / str(k), how, task=task))
        finish(start(tmp_path / str(k), how, task=task))
        assert contents(tmp_path / str(k)) == whole
        shutil.rmtree(tmp_path / str(k))
    assert k > 5


def test_the_early_stop_is_one(tmp_path: Path) -> None:
    """The recipe of the tests around does stop seeds early, each at its own step."""
    steps = [outcome.steps for outcome in finish(start(tmp_path, EARLY))]
    assert len(set(steps)) == 2 and max(steps) < EARLY.steps


def test_commits_may_be_far_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations since the last commit are forgotten, and made again."""
    how = recipe(evaluate_every=2)
    finish(start(tmp_path / "whole", how))
    monkeypatch.setattr(workbench.training, "COMMIT_SECONDS", 1e9)
    stop_after(6, start(tmp_path / "stopped", how))
    assert [row["step"] for row in open_run(path_of(tmp_path / "stopped", how, 0)).metrics()] == [0]
    finish(start(tmp_path / "stopped", how))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


class Stop(BaseException):
    """Stands for a kill at one place in the program."""


def stop_at_call(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, at: int, error: BaseException
) -> None:
    """Make the call number `at` (from 0) of a function fail, once, before it does anything."""
    real, calls = getattr(where, name), itertools.count()

    def broken(*args: Any, **options: Any) -> Any:
        if next(calls) == at:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(where, name, broken)


def test_killed_between_the_commits_of_two_seeds(tmp_path: Path) -> None:
    finish(start(tmp_path / "whole", EARLY))
    whole, k, uneven = contents(tmp_path / "whole"), 0, 0
    while True:
        runs = tmp_path / str(k)
        with pytest.MonkeyPatch.context() as monkeypatch:
            stop_at_call(monkeypatch, RunWriter, "commit", k, Stop())
            try:
                finish(start(runs, EARLY))
                break
            except Stop:
                k += 1
        states = [open_run(path).manifest.steps("resume") for path in runs.iterdir()]
        uneven += len(set(map(tuple, states))) > 1
        finish(start(runs, EARLY))
        assert contents(runs) == whole
        shutil.rmtree(runs)
    assert k > 8 and uneven >= k // 2


def test_seeds_at_different_commits_go_on_together_from_the_newest_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when seed 0 has committed step 10 and seed 5 has not; time is not counted twice."""
    clock(monkeypatch)
    with pytest.MonkeyPatch.context() as broken:
        stop_at_call(broken, RunWriter, "commit", 5, Stop())
        with pytest.raises(Stop):
            finish(start(tmp_path, recipe()))
    paths = [path_of(tmp_path, recipe(), seed) for seed in SEEDS]
    assert [open_run(path).manifest.steps("resume") for path in paths] == [[5, 10], [0, 5]]
    training = start(tmp_path, recipe())
    first = next(training)
    assert (first.step, first.seeds) == (10, (0, 5))
    finish(training)
    for path in paths:
        assert [row["seconds"] for row in open_run(path).metrics()] == [0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize("at", [0, 6, 13, 19])
def test_ctrl_c_inside_a_step(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(start(tmp_path / "whole", recipe()))
    with monkeypatch.context() as broken:
        stop_at_call(broken, workbench.train, "adamw", at, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            finish(start(tmp_path / "stopped", recipe()))
    run = open_run(path_of(tmp_path / "stopped", recipe(), 0))
    assert not run.complete and run.metrics()[-1]["step"] == at // 5 * 5
    finish(start(tmp_path / "stopped", recipe()))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_full_disk_says_so_and_can_be_resumed(tmp_path: Path) -> None:
    """From every third of the writes on; half of it reaches the disk."""
    how = recipe(steps=10)
    finish(start(tmp_path / "whole", how))
    whole, at = contents(tmp_path / "whole"), 1
    while True:
        runs = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as monkeypatch:
            full = functools.partial(half_written, os.pwrite, itertools.count(1), at)
            monkeypatch.setattr(os, "pwrite", full)
            try:
                finish(start(runs, how))
                break
            except RunError as error:
                assert "no space left on device; free some space and run the same" in str(error)
                assert "\n" not in str(error)
        finish(start(runs, how))
        assert contents(runs) == whole
        shutil.rmtree(runs)
        at += 3
    assert at > 20


def half_written(
    real: Callable[..., int], calls: Iterator[int], at: int, descriptor: int, data: Any, offset: int
) -> int:
    """`os.pwrite` on a disk that is full from call `at` on."""
    if next(calls) < at:
        return real(descriptor, data, offset)
    real(descriptor, data[: len(data) // 2], offset)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ticks once per look, so that every evaluation costs two seeds half a second each."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


def test_seconds_go_on_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    stop_after(3, start(tmp_path, recipe()))
    training = start(tmp_path, recipe())
    assert next(training).step == 15  # after the newest state there is
    outcomes = finish(training)
    for seed, outcome in zip(SEEDS, outcomes, strict=True):
        seconds = [row["seconds"] for row in open_run(path_of(tmp_path, recipe(), seed)).metrics()]
        assert seconds == [0.5, 1.0, 1.5, 2.0, 2.5]
        assert outcome.seconds == 2.5

"""Trainings into run directories, begun, stopped and read: what their tests share."""

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

import workbench.training
from tests.unit.small_run import files_of
from tests.unit.small_training import ADDITION, CPU, network, recipe
from workbench.recipe import Recipe
from workbench.run import Run, open_run
from workbench.task import Task
from workbench.training import Outcome, TrainingProgress, run_name, train_runs

SEEDS = [0, 5]
EARLY = recipe(steps=40, stop_train_loss=1.6, stop_sustained=2, evaluate_every=4)
"""Seeds 0 and 5 stop at different steps, before the last."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def committing_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every evaluation, so that a kill may fall between any two commits."""
    monkeypatch.setattr(workbench.training, "COMMIT_SECONDS", 0.0)


Training = Generator[TrainingProgress, None, list[Outcome]]


def start(runs: Path, how: Recipe, seeds: Sequence[int] = SEEDS, task: Task = ADDITION) -> Training:
    return train_runs(task, network(task), how, seeds, runs=runs, device=CPU)


def finish(training: Training) -> list[Outcome]:
    while True:
        try:
            next(training)
        except StopIteration as end:
            return list(end.value)


def stop_after(n_yields: int, training: Training) -> bool:
    """Close a training after so many yields; False where it had ended by then."""
    with contextlib.closing(training):
        for _ in range(n_yields):
            if next(training, None) is None:
                return False
    return True


def path_of(runs: Path, how: Recipe, seed: int, task: Task = ADDITION) -> Path:
    return runs / run_name(task, network(task), how, seed)


def rows(run: Run) -> list[dict[str, Any]]:
    """Metrics but for the time they took."""
    return [{key: row[key] for key in row if key != "seconds"} for row in run.metrics()]


def contents(runs: Path) -> dict[str, Any]:
    """What a training left: every byte, save that metrics (and digests) go without seconds."""
    found: dict[str, Any] = {}
    for path in sorted(runs.iterdir()):
        run = open_run(path)
        for name, data in files_of(path).items():
            if name not in ("metrics.jsonl", "manifest.json"):
                found[f"{path.name}/{name}"] = data
        found[path.name] = (rows(run), run.complete, run.stopped, sorted(run.manifest.files))
    return found


def stamps(runs: Path) -> dict[str, tuple[int, bytes]]:
    files = (file for file in runs.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

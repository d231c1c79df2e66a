"""Training into run directories: what is written, what goes wrong, what is told of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench.train
import workbench.training
from tests.unit.recorded_training import (
    SEEDS,
    contents,
    finish,
    path_of,
    rows,
    stamps,
    start,
    stop_after,
)
from tests.unit.recorded_training import committing_often as committing_often
from tests.unit.recorded_training import no_waiting as no_waiting
from tests.unit.small_run import files_of
from tests.unit.small_training import ADDITION, DIGITS, histories, network, recipe, trained
from workbench import config
from workbench.errors import ConfigError, RunError, TrainingError
from workbench.recipe import kept_steps
from workbench.run import open_run
from workbench.run_writer import RunWriter
from workbench.train import Metrics
from workbench.training import Outcome, outcome_of, run_name

REPOSITORY = Path(__file__).parents[2]


# ---------------------------------------------------------------------- what is written


def test_a_training_leaves_complete_verified_runs(tmp_path: Path) -> None:
    how = recipe(checkpoint_steps=(7,))
    outcomes = finish(start(tmp_path, how))
    expected = trained(ADDITION, how, SEEDS)
    assert [outcome.seed for outcome in outcomes] == SEEDS
    for i, (seed, outcome) in enumerate(zip(SEEDS, outcomes, strict=True)):
        run = open_run(path_of(tmp_path, how, seed))
        assert run.path == outcome.run.path
        assert run.complete and run.stopped == "finished"
        assert run.steps == kept_steps(how) == [0, 7, 20]
        assert run.config.recipe == config.to_dict(how)
        assert (run.config.seed, run.config.train_fraction) == (seed, 0.5)
        assert [Metrics(**row) for row in rows(run)] == histories(expected)[seed]
        last = expected[-1].params(i)
        assert all(torch.equal(run.params()[name], last[name]) for name in last)
        assert outcome == outcome_of(run)._replace(run=outcome.run)
        assert (outcome.steps, outcome.warning) == (20, None)
        assert outcome.held_out_accuracy == histories(expected)[seed][-1].held_out_accuracy


def test_progress_says_where_every_seed_stands(tmp_path: Path) -> None:
    progress = list(start(tmp_path, recipe()))
    assert [(p.step, p.steps, p.seeds) for p in progress] == [
        (step, 20, (0, 5)) for step in (0, 5, 10, 15, 20)
    ]
    expected = [snapshot.metrics for snapshot in trained(ADDITION, recipe(), SEEDS)]
    assert [p.metrics for p in progress] == expected


def test_the_same_call_again_touches_nothing(tmp_path: Path) -> None:
    first = finish(start(tmp_path, recipe()))
    before = stamps(tmp_path)
    training = start(tmp_path, recipe())
    with pytest.raises(StopIteration) as end:  # nothing to do: at once
        next(training)
    assert stamps(tmp_path) == before
    assert [o.run.path for o in end.value.value] == [o.run.path for o in first]


def test_more_seeds_train_only_the_new_ones(tmp_path: Path) -> None:
    finish(start(tmp_path, recipe(), [5]))
    before = stamps(tmp_path)
    progress = list(start(tmp_path, recipe(), [0, 5]))
    assert {p.seeds for p in progress} == {(0,)}
    assert stamps(tmp_path).items() >= before.items()


def test_what_decides_the_weights_decides_the_directory() -> None:
    names = {
        run_name(task, model, how, seed)
        for task in (ADDITION, DIGITS)
        for model in (network(ADDITION), network(ADDITION, d_mlp=16))
        for how in (recipe(), recipe(steps=21), recipe(lr=((0, 0.0), (5, 0.021), (20, 0.01))))
        for seed in (0, 1)
    }
    assert len(names) == 24


def test_a_changed_recipe_begins_another_run(tmp_path: Path) -> None:
    finish(start(tmp_path, recipe(), [0]))
    before = stamps(tmp_path)
    finish(start(tmp_path, recipe(steps=10), [0]))
    assert len(list(tmp_path.iterdir())) == 2
    assert stamps(tmp_path).items() >= before.items()


def test_training_that_cannot_begin_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set batch_size="):
        finish(start(tmp_path, recipe(), task=DIGITS))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- several processes


def test_two_trainings_cannot_share_a_directory(tmp_path: Path) -> None:
    first = start(tmp_path, recipe(), [0, 1])
    next(first)
    with pytest.raises(RunError, match="another process is training into"):
        next(start(tmp_path, recipe(), [2, 1]))
    next(start(tmp_path, recipe(), [3]))
    assert [outcome.seed for outcome in finish(first)] == [0, 1]
    finish(start(tmp_path, recipe(), [2, 1]))


LONG = recipe(steps=200, evaluate_every=10)


def kill_twice(runs: str) -> None:
    """In another process: let a child train, kill it in the middle; the next child resumes."""
    torch.set_num_threads(1)
    for at in (20, 90):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            for progress in start(Path(runs), LONG):
                os.write(write, f"{progress.step}\n".encode())
            os._exit(1)
        os.close(write)
        with os.fdopen(read) as said:
            assert any(int(step) >= at for step in said)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_from_outside(tmp_path: Path) -> None:
    call = f"from tests.unit.test_training import *; kill_twice({str(tmp_path / 'killed')!r})"
    setting = "workbench.training.COMMIT_SECONDS = 0.02"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", call.replace("; ", f"; {setting}; ")],
        cwd=REPOSITORY,
        timeout=60,
    )
    assert process.returncode == 0
    for seed in SEEDS:
        run = open_run(path_of(tmp_path / "killed", LONG, seed))
        assert not run.complete and 0 < run.metrics()[-1]["step"] < 200
    finish(start(tmp_path / "whole", LONG))
    finish(start(tmp_path / "killed", LONG))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("at", [0, 10])
def test_a_seed_that_diverges_is_named_and_the_others_finish(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1's weights are blown up at one step; seeds 0 and 2 are as without it."""
    real = workbench.train._observe

    def observe(*args: Any) -> Any:
        state, source, rows, step = args[0], args[3], args[4], args[5]
        if step == at and 1 in (seeds := [source.seeds[r] for r in rows]):
            state.averaged[seeds.index(1)] = torch.inf
        return real(*args)

    monkeypatch.setattr(workbench.train, "_observe", observe)
    for _ in range(2):  # asked again, it is tried again and diverges again
        with pytest.raises(TrainingError) as error:
            finish(start(tmp_path / "broken", recipe(), [0, 1, 2]))
        message = str(error.value)
        assert message.startswith(f"seed 1 diverged: training loss is nan at step {at}; lower lr")
        assert "seed 0" not in message and "\n" not in message
    failed = open_run(path_of(tmp_path / "broken", recipe(), 1))
    assert not failed.complete and (failed.stopped or "").startswith("diverged")
    assert [row["step"] for row in failed.metrics()] == list(range(0, at, 5))
    monkeypatch.undo()
    finish(start(tmp_path / "whole", recipe(), [0, 2]))
    kept, whole = contents(tmp_path / "broken"), contents(tmp_path / "whole")
    assert kept.items() >= whole.items()
    finish(start(tmp_path / "broken", recipe(), [0, 1, 2]))  # nothing blows it up now
    assert open_run(failed.path).complete


def test_a_huge_learning_rate_names_every_seed(tmp_path: Path) -> None:
    how = recipe(lr=((0, 1e3),), weight_decay=((0, 10.0),))
    with pytest.raises(TrainingError, match=r"^seed 0 diverged: .*; seed 5 diverged: .*1000"):
        finish(start(tmp_path, how))


@pytest.mark.parametrize("name", ["metrics.jsonl", "manifest.json", "config.json", "tensors"])
@pytest.mark.parametrize("complete", [False, True], ids=["stopped", "complete"])
def test_a_damaged_run_is_left_as_it_is(name: str, complete: bool, tmp_path: Path) -> None:
    stop_after(100 if complete else 3, start(tmp_path, recipe()))
    path = path_of(tmp_path, recipe(), 5)
    if name == "tensors":
        file = max((path / ("checkpoints" if complete else "resume")).iterdir())
    else:
        file = path / name
    data = file.read_bytes()
    file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    before = {path: files_of(path) for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=rf"{file.name}.* (is damaged|restore it from a copy)"):
        finish(start(tmp_path, recipe()))
    assert {path: files_of(path) for path in tmp_path.iterdir()} == before


def test_a_lost_manifest_is_no_licence_to_begin_again(tmp_path: Path) -> None:
    stop_after(3, start(tmp_path, recipe()))
    (path_of(tmp_path, recipe(), 5) / "manifest.json").unlink()
    before = {path: files_of(path) for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match="is not empty"):
        finish(start(tmp_path, recipe()))
    assert {path: files_of(path) for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------------- outcomes


def recorded(path: Path, accuracies: Sequence[tuple[float, float | None]]) -> Outcome:
    """The outcome of a run with these training and held-out accuracies."""
    with RunWriter.create(path, run_config()) as writer:
        for step, (train, held_out) in enumerate(accuracies):
            row = {"step": step, "train_loss": 1.0, "train_accuracy": train}
            held = {"held_out_loss": held_out, "held_out_accuracy": held_out, "seconds": step / 2}
            writer.append_metrics([{**row, **held}])
        writer.commit()
    return outcome_of(open_run(path))


def run_config() -> Any:
    return workbench.training._run_config(ADDITION, network(ADDITION), recipe(), 3)


def test_an_outcome_is_what_the_metrics_say(tmp_path: Path) -> None:
    outcome = recorded(tmp_path / "run", [(0.1, 0.0), (1.0, 0.9989), (1.0, 0.9991), (1.0, 1.0)])
    assert outcome[2:] == (3, 2, 1.0, 1.0, 1.5, None)
    assert outcome.seed == 3


def test_nothing_held_out_is_not_grokked(tmp_path: Path) -> None:
    outcome = recorded(tmp_path / "run", [(0.1, None), (1.0, None)])
    assert (outcome.grokking_step, outcome.held_out_accuracy) == (None, None)


def test_a_collapse_is_a_warning(tmp_path: Path) -> None:
    outcome = recorded(tmp_path / "fallen", [(0.995, 0.9), (0.5, 0.4)])
    assert outcome.warning == (
        "collapsed: training accuracy reached 99.5% and ended at 50.0%; "
        "lower weight_decay or lr, or train for fewer steps"
    )
    assert recorded(tmp_path / "dipped", [(0.995, 0.9), (0.91, 0.4)]).warning is None
    assert recorded(tmp_path / "unlearned", [(0.98, 0.9), (0.5, 0.4)]).warning is None


def test_a_run_without_metrics_has_no_outcome(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no metrics; run the same training"):
        recorded(tmp_path / "run", [])

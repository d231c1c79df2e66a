"""Training that starts again from other initial weights: when, from which, and what is kept."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench.run_writer
import workbench.train
import workbench.training
from tests.unit.small_training import ADDITION, CPU, network, recipe
from workbench.errors import TrainingError
from workbench.params import init_params
from workbench.recipe import Recipe
from workbench.run import open_run
from workbench.run_writer import RunWriter
from workbench.train import ATTEMPT_STRIDE, Snapshot, fit, flatten_params
from workbench.training import run_name, train, train_runs
from workbench.transformer import forward

REPOSITORY = Path(__file__).parents[2]
HARSH = recipe(restart_at=10, restart_above=0.0, restarts=2)
"""No network leads as evenly as that."""
SHORT = recipe(steps=4, evaluate_every=2, restart_at=2, restart_above=0.0, restarts=2)
HARSH_STEPS = [(attempt, step) for attempt in (0, 1) for step in (0, 5, 10)] + [
    (2, step) for step in (0, 5, 10, 15, 20)
]
"""Attempt and step of each of its snapshots."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Seed, attempt and step of every row of every snapshot from now on."""
    found: list[tuple[int, int, int]] = []
    real = workbench.training.fit

    def watched(*args: Any, **options: Any) -> Iterator[Snapshot]:
        for snapshot in real(*args, **options):
            attempts = snapshot.state.attempt.tolist()
            found.extend(
                (seed, attempt, snapshot.step)
                for seed, attempt in zip(snapshot.seeds, attempts, strict=True)
            )
            yield snapshot

    monkeypatch.setattr(workbench.training, "fit", watched)
    return found


def fresh_weights(seed: int, attempt: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + attempt * ATTEMPT_STRIDE)
    return dict(init_params(network(ADDITION), generator))


def path_of(runs: Path, seed: int, how: Recipe = HARSH) -> Path:
    return runs / run_name(ADDITION, network(ADDITION), how, seed)


def same_params(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def snapshots(how: Recipe, seeds: list[int], **options: Any) -> list[tuple[Snapshot, list[int]]]:
    """Every snapshot, with the attempt of each of its rows."""
    found = []
    for snapshot in fit(ADDITION, network(ADDITION), how, seeds, device=CPU, **options):
        found.append((snapshot, snapshot.state.attempt.tolist()))
    return found


def test_a_seed_starts_again_from_other_weights_and_the_last_attempt_stands() -> None:
    config, first_weights = network(ADDITION), {}
    seen: list[tuple[int, int, int]] = []
    for snapshot in fit(ADDITION, config, HARSH, [3, 4], device=CPU):
        for row, (seed, attempt) in enumerate(
            zip(snapshot.seeds, snapshot.state.attempt.tolist(), strict=True)
        ):
            seen.append((seed, attempt, snapshot.step))
            if snapshot.step == 0:
                first_weights[seed, attempt] = flatten_params(snapshot.params(row), config)
    steps = {attempt: [0, 5, 10] for attempt in (0, 1)} | {2: [0, 5, 10, 15, 20]}
    for seed in (3, 4):
        for attempt, expected in steps.items():
            assert [s for x, a, s in seen if (x, a) == (seed, attempt)] == expected
            fresh = flatten_params(fresh_weights(seed, attempt), config)
            assert torch.equal(first_weights[seed, attempt], fresh)


def test_restarts_are_decided_by_the_training_inputs_alone() -> None:
    """Recomputed from the weights at that step; seeds that pass go on as if nothing were asked."""
    seeds = list(range(8))
    uneven, weights = [], weights_at_forty(seeds)
    for row, seed in enumerate(seeds):
        inputs = ADDITION.split(seed, 0.5).train
        assert inputs is not None
        logits = forward(weights[row], ADDITION.encode(inputs), network(ADDITION))
        answers = ADDITION.solve(inputs)
        last = logits.logits[:, -1]
        right = last.gather(1, answers)[:, 0]
        leads = (right - last.scatter(1, answers, -torch.inf).amax(1)).numpy()
        assert leads.mean() > 0
        uneven.append(float(np.std(leads) / np.mean(leads)))
    limit = sum(sorted(uneven)[3:5]) / 2
    how = recipe(steps=60, restart_at=40, restart_above=limit, restarts=1)
    asked = snapshots(how, seeds)
    (at_forty,) = [s for s, attempts in asked if s.step == 40 and not any(attempts)]
    expected = tuple(value > limit for value in uneven)
    assert at_forty.restarting == expected and sum(expected) == 4
    (ended,) = [set(s.seeds) for s, attempts in asked if s.step == 60 and not any(attempts)]
    assert ended == {seed for seed, again in zip(seeds, expected, strict=True) if not again}


def test_a_network_that_is_mostly_wrong_starts_again_however_even() -> None:
    """After two steps the right logit is below the largest other for most inputs."""
    how = replace(SHORT, restart_above=1e6, restarts=1)
    found = [(s.step, s.restarting, attempts) for s, attempts in snapshots(how, [3, 4])]
    assert found[1] == (2, (True, True), [0, 0])
    assert found[-2:] == [(2, (False, False), [1, 1]), (4, (False, False), [1, 1])]


def weights_at_forty(seeds: list[int]) -> list[Any]:
    """Of each seed: the state is the trainer's own, so it is read while it is there."""
    steps = fit(ADDITION, network(ADDITION), recipe(steps=60), seeds, device=CPU)
    return next([s.params(row) for row in range(len(seeds))] for s in steps if s.step == 40)


def test_a_run_keeps_its_last_attempt_alone(tmp_path: Path) -> None:
    (outcome,) = train(ADDITION, [3], runs=tmp_path, model=network(ADDITION), recipe=HARSH)
    run = outcome.run
    assert run.complete and [row["step"] for row in run.metrics()] == [0, 5, 10, 15, 20]
    assert same_params(run.params(0), fresh_weights(3, 2))
    seconds = [row["seconds"] for row in run.metrics()]
    assert seconds == sorted(seconds) and seconds[0] > 0  # the attempts before count


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once per look, so that every evaluation costs a second."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def whole() -> Any:
    """The weights at the end of `HARSH`, never stopped."""
    for snapshot in fit(ADDITION, network(ADDITION), HARSH, [3], device=CPU):
        last = snapshot.params(0)
    return last


EVERY = set(range(11))
"""Snapshots that are committed when there is no pause between commits ..."""
FEW = {0, 2, 3, 5, 6}
"""... and when it is long: at step 0, which is kept, and where an attempt ends."""


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(
    ("stop", "pause", "committed"),
    [(stop, 0.0, EVERY) for stop in range(1, 11)] + [(stop, 1e9, FEW) for stop in (2, 3, 5, 8)],
)
def test_a_run_that_started_again_resumes_after_its_last_commit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[tuple[int, int, int]],
    whole: Any,
    stop: int,
    pause: float,
    committed: set[int],
) -> None:
    """Stopped after each of its snapshots in turn: no attempt that has ended is made twice."""
    monkeypatch.setattr(workbench.training, "COMMIT_SECONDS", pause)
    model = network(ADDITION)
    steps = train_runs(ADDITION, model, HARSH, [3], runs=tmp_path, device=CPU)
    for _ in range(stop):
        next(steps)
    steps.close()
    assert not open_run(path_of(tmp_path, 3)).complete
    assert [(attempt, step) for _, attempt, step in seen] == HARSH_STEPS[:stop]
    seen.clear()
    (resumed,) = train(ADDITION, [3], runs=tmp_path, model=model, recipe=HARSH)
    last = max(snapshot for snapshot in committed if snapshot < stop)
    assert [(attempt, step) for _, attempt, step in seen] == HARSH_STEPS[last + 1 :]
    assert resumed.run.steps == [0, 20]
    assert same_params(resumed.run.params(0), fresh_weights(3, 2))
    assert same_params(resumed.run.params(), whole)
    rows = [(row["step"], row["seconds"]) for row in resumed.run.metrics()]
    # Six evaluations came before these.
    assert rows == [(0, 7.0), (5, 8.0), (10, 9.0), (15, 10.0), (20, 11.0)]
    assert resumed.seconds == 11.0
    assert not any((resumed.run.path / "resume").iterdir())


class Stop(BaseException):
    """Stands for a kill at one place in the program."""


def test_killed_before_any_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, int, int]]
) -> None:
    """The run stays whole, and either is in its old attempt still or begins the next."""
    monkeypatch.setattr(workbench.training, "COMMIT_SECONDS", 0.0)
    how, model, real = SHORT, network(ADDITION), workbench.run_writer.atomic_write
    (whole,) = train(ADDITION, [3], runs=tmp_path / "whole", model=model, recipe=how)
    states = set()
    for kill in itertools.count():
        runs, calls = tmp_path / str(kill), itertools.count()

        def killed(path: Path, data: bytes, calls: Any = calls, kill: int = kill) -> None:
            if next(calls) == kill:
                raise Stop
            real(path, data)

        seen.clear()
        with monkeypatch.context() as broken:
            broken.setattr(workbench.run_writer, "atomic_write", killed)
            try:
                train(ADDITION, [3], runs=runs, model=model, recipe=how)
                break
            except Stop:
                pass
        if (path_of(runs, 3, how) / "manifest.json").is_file():
            run = open_run(path_of(runs, 3, how))  # checks every byte
            states.add((len(run.metrics()), *run.manifest.steps("resume")))
        (resumed,) = train(ADDITION, [3], runs=runs, model=model, recipe=how)
        attempts = [attempt for _, attempt, _ in seen]
        assert attempts == sorted(attempts)
        assert resumed.run.weights_sha256() == whole.run.weights_sha256()
        assert [row["step"] for row in resumed.run.metrics()] == [0, 2, 4]
    assert states == {(0,), (0, 0), (1, 0), (2, 0, 2)}  # (0, 0): it begins again
    assert kill == 20  # 3 to begin, 3 per snapshot that stays, 2 per restart, 2 at the end


MANY = replace(SHORT, restarts=4)


def exit_at_every_restart(runs: Path) -> None:
    """In another process: its children train, and die as soon as they have begun again."""
    torch.set_num_threads(1)
    real = RunWriter.begin_again

    def dying(writer: RunWriter, tensors: Any) -> None:
        real(writer, tensors)
        os._exit(9)

    RunWriter.begin_again = dying  # type: ignore[method-assign]
    statuses = []
    for _ in range(MANY.restarts + 1):
        child = os.fork()
        if child == 0:
            train(ADDITION, [3], runs=runs, model=network(ADDITION), recipe=MANY)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert statuses == [9] * MANY.restarts + [0], statuses


def test_killed_at_every_restart_it_still_comes_to_its_end(tmp_path: Path) -> None:
    runs = tmp_path / "killed"
    call = f"from tests.unit.test_restart import *; exit_at_every_restart(Path({str(runs)!r}))"
    command = [sys.executable, "-W", "ignore", "-c", call]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=120).returncode == 0
    run, model = open_run(path_of(runs, 3, MANY)), network(ADDITION)
    assert run.complete and same_params(run.params(0), fresh_weights(3, MANY.restarts))
    (whole,) = train(ADDITION, [3], runs=tmp_path / "whole", model=model, recipe=MANY)
    assert same_params(run.params(), whole.run.params())


# ---------------------------------------------------------------------- several seeds


SOME = recipe(steps=42, evaluate_every=20, restart_at=40, restart_above=0.8, restarts=2)
SOME_SEEDS = [0, 1, 2, 3]
ATTEMPTS = {0: 0, 1: 0, 2: 1, 3: 2}
"""The last of each: none is within 0.1 of the limit, far more than float32 rounds by."""


def test_where_only_some_seeds_start_again_none_does_so_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, int, int]]
) -> None:
    """Stopped after each snapshot: what came before and after it is what is seen without."""
    monkeypatch.setattr(workbench.training, "COMMIT_SECONDS", 0.0)
    model = network(ADDITION)
    whole = train(ADDITION, SOME_SEEDS, runs=tmp_path / "whole", model=model, recipe=SOME)
    weights = [outcome.run.params() for outcome in whole]
    expected = sorted(seen)
    assert {seed: attempt for seed, attempt, step in seen if step == SOME.steps} == ATTEMPTS
    for stop in itertools.count(1):
        runs = tmp_path / str(stop)
        seen.clear()
        steps = train_runs(ADDITION, model, SOME, SOME_SEEDS, runs=runs, device=CPU)
        ended = any(next(steps, None) is None for _ in range(stop))
        steps.close()
        if ended:
            break
        outcomes = train(ADDITION, SOME_SEEDS, runs=runs, model=model, recipe=SOME)
        assert sorted(seen) == expected
        for outcome, other in zip(outcomes, weights, strict=True):
            # Seeds may be grouped otherwise, and a batched product may sum in another order.
            for name, tensor in outcome.run.params().items():
                assert (other[name] - tensor).abs().max() < 1e-5
    assert stop > 8


def test_a_seed_that_begins_again_trains_beside_one_that_begins(
    tmp_path: Path, seen: list[tuple[int, int, int]]
) -> None:
    steps = train_runs(ADDITION, network(ADDITION), HARSH, [3], runs=tmp_path, device=CPU)
    for _ in range(3):
        next(steps)
    steps.close()
    seen.clear()
    outcomes = train(ADDITION, [4, 3], runs=tmp_path, model=network(ADDITION), recipe=HARSH)
    assert seen[:2] == [(4, 0, 0), (3, 1, 0)]
    assert seen[-1] == (4, 2, 20)
    assert [a for seed, a, step in seen if (seed, step) == (3, 0)] == [1, 2]
    assert [a for seed, a, step in seen if (seed, step) == (4, 0)] == [0, 1, 2]
    for outcome in outcomes:
        assert same_params(outcome.run.params(0), fresh_weights(outcome.seed, 2))


def test_a_seed_that_diverges_as_it_begins_again_keeps_its_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, int, int]]
) -> None:
    """Broken at step 0 of attempt 1: asked again, it is tried again from there."""
    real = workbench.train._observe

    def observe(state: Any, *args: Any) -> Any:
        if state.attempt[0] == 1:
            state.averaged[0] = torch.inf
        return real(state, *args)

    options: Any = {"runs": tmp_path, "model": network(ADDITION), "recipe": HARSH}
    with monkeypatch.context() as broken:
        broken.setattr(workbench.train, "_observe", observe)
        for _ in range(2):
            with pytest.raises(TrainingError, match=r"seed 3 diverged: .* at step 0"):
                train(ADDITION, [3], **options)
    assert (open_run(path_of(tmp_path, 3)).stopped or "").startswith("diverged")
    (outcome,) = train(ADDITION, [3], **options)
    assert [a for _, a, step in seen if step == 0] == [0, 1, 1, 1, 2]
    assert outcome.run.complete and outcome.run.stopped == "finished"


# ---------------------------------------------------------------------- the writer, and the trainer


def test_a_beginning_is_forgotten_by_the_next_resume_state(tmp_path: Path) -> None:
    settings = workbench.training._run_config(ADDITION, network(ADDITION), HARSH, 3)
    kept = {"attempt": torch.tensor(1), "seconds": torch.tensor(0.1, dtype=torch.float64)}
    with RunWriter.open(tmp_path / "run", settings) as writer:
        assert writer.load_beginning() is None
        writer.append_metrics([{"step": 0}])
        writer.save_resume(0, {"attempt": torch.tensor(0)})
        writer.commit()
        writer.begin_again(kept)
    for stopped in ("diverged", None):
        with RunWriter.reopen(tmp_path / "run", settings) as writer:
            found = writer.load_beginning()
            assert found is not None and same_params(found, kept)
            assert found["seconds"].item() == 0.1  # float64: not rounded
            assert writer.resume_steps == [] and writer.load_resume() is None
            writer.commit(stopped=stopped)
    with RunWriter.reopen(tmp_path / "run", settings) as writer:
        writer.save_resume(0, {"attempt": torch.tensor(1)})
        writer.commit()
        assert writer.load_beginning() is None and writer.resume_steps == [0]
    assert [file.name for file in (tmp_path / "run" / "resume").iterdir()] == [
        "step-000000.safetensors"
    ]


def test_training_begins_at_the_attempt_that_is_asked_for() -> None:
    found = snapshots(HARSH, [3, 4], attempts={4: 2})
    assert [(s.step, a) for s, a in found[:2]] == [(0, [0, 2]), (5, [0, 2])]
    first = next(fit(ADDITION, network(ADDITION), HARSH, [3, 4], device=CPU, attempts={4: 2}))
    for row, (seed, attempt) in enumerate([(3, 0), (4, 2)]):
        assert same_params(first.params(row), fresh_weights(seed, attempt))


def test_no_restart_at_the_last_step_or_beyond() -> None:
    for at in (20, 30):
        how = recipe(restart_at=at, restart_above=0.0)
        assert [s.step for s, _ in snapshots(how, [3])] == [0, 5, 10, 15, 20]

"""What a training measures, when its seeds stop, and what cannot begin."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch.nn.functional as F

import workbench.batches
import workbench.train
from tests.unit.small_training import (
    ADDITION,
    CPU,
    DIGITS,
    histories,
    network,
    recipe,
    sampled,
    trained,
)
from workbench.errors import ConfigError, TaskError
from workbench.train import Metrics, fit, grokking_step
from workbench.transformer import forward

# ---------------------------------------------------------------------- metrics


@pytest.mark.parametrize("task", [ADDITION, DIGITS], ids=["listed", "sampled"])
def test_metrics_are_loss_and_exact_answers_of_the_averaged_network(task: Any) -> None:
    """Evaluated in several parts: 24 or 25 inputs are no multiple of the batch's 9."""
    how = recipe(batch_size=9) if task is ADDITION else sampled(batch_size=9)
    source = workbench.batches.Source(task, how, (3, 1), CPU, None)
    for snapshot in fit(task, network(task), how, [3, 1], device=CPU):
        sides = [source.training([0, 1], snapshot.step), source.held_out([0, 1])]
        for row, metrics in enumerate(snapshot.metrics):
            expected: list[float] = []
            for side in sides:
                assert side is not None
                logits = forward(snapshot.params(row), side.tokens[row], snapshot.config).logits
                logits = logits[:, list(task.answer_positions)]
                answers = side.answers[row]
                loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten()).item()
                right = (logits.argmax(-1) == answers).all(1).float().mean().item()
                expected += [loss, right]
            assert metrics == pytest.approx((snapshot.step, *expected), rel=1e-5)


def test_snapshots_come_at_evaluations_and_at_kept_steps() -> None:
    how = recipe(steps=23, evaluate_every=10, checkpoint_steps=(3,))
    assert [s.step for s in trained(ADDITION, how, [0])] == [0, 3, 10, 20, 23]
    assert trained(ADDITION, how, [0])[-1].finished == (True,)


def row(step: int, held_out_accuracy: float) -> Metrics:
    return Metrics(step, 1.0, 1.0, 1.0, held_out_accuracy)


@pytest.mark.parametrize(
    ("accuracies", "step"),
    [
        ([0.1, 0.5, 0.9989], None),
        ([0.1, 0.999, 1.0], 10),
        ([0.1, 1.0, 0.5, 1.0], 30),
        ([0.1, 1.0, 0.5], None),
        ([1.0, 0.9995], 0),
        ([math.nan, math.nan], None),
        ([], None),
    ],
)
def test_grokking_is_reached_for_good(accuracies: list[float], step: int | None) -> None:
    assert grokking_step([row(10 * i, a) for i, a in enumerate(accuracies)]) == step


# ---------------------------------------------------------------------- ending early


def sequence_of_losses(
    monkeypatch: pytest.MonkeyPatch, losses: dict[int, list[float]], held_out: float
) -> None:
    """Training losses by seed, one per evaluation; held-out ones all the same."""
    asked: list[int] = []
    real = workbench.train._observe

    def observe(*args: Any) -> Any:
        source, rows = args[3], args[4]
        answers = {
            "train": ([losses[source.seeds[r]][len(asked)] for r in rows], [0.0] * len(rows)),
            "held out": ([held_out] * len(rows), [held_out] * len(rows)),
        }
        kinds = iter(("train", "held out"))
        monkeypatch.setattr(workbench.train, "_measure", lambda *args: answers[next(kinds)])
        asked.append(args[5])
        return real(*args)

    monkeypatch.setattr(workbench.train, "_observe", observe)


@pytest.mark.parametrize("held_out", [0.0, 9.0, math.nan])
def test_each_seed_stops_when_its_training_loss_stayed_low(
    held_out: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {
        0: [9, 0.1, 0.1, 9, 0.1, 0.1, 0.1, 0.1],  # two in a row are too few, three enough
        1: [9, 0.1, 0.1, 0.1, 0, 0, 0, 0],
        2: [0.11, 0.2, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1],
    }
    sequence_of_losses(monkeypatch, losses, held_out)
    how = recipe(steps=7, evaluate_every=1, stop_train_loss=0.1, stop_sustained=3)
    snapshots = trained(ADDITION, how, [0, 1, 2])
    ends = {
        seed: snapshot.step
        for snapshot in snapshots
        for seed, done in zip(snapshot.seeds, snapshot.finished, strict=True)
        if done
    }
    assert ends == {0: 6, 1: 3, 2: 7}
    assert [s.seeds for s in snapshots[3:]] == [(0, 1, 2), *[(0, 2)] * 3, (2,)]
    assert all(failure is None for s in snapshots for failure in s.failures)


def test_without_a_criterion_no_seed_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence_of_losses(monkeypatch, {0: [0.0] * 8}, 0.0)
    assert trained(ADDITION, recipe(steps=7, evaluate_every=1), [0])[-1].step == 7


def test_seeds_that_stop_leave_the_others_as_they_were() -> None:
    """A real early stop: seed by seed, the others train on to the weights they reach alone."""
    how = recipe(steps=60, stop_train_loss=0.9, stop_sustained=2, evaluate_every=3)
    snapshots = trained(ADDITION, how, [0, 1, 2, 3])
    history = histories(snapshots)
    ends = {seed: rows[-1].step for seed, rows in history.items()}
    assert len(set(ends.values())) > 1 and min(ends.values()) < 60
    for seed, rows in history.items():
        alone = histories(trained(ADDITION, how, [seed]))[seed]
        assert [r.step for r in alone] == [r.step for r in rows]
        low = [r.train_loss <= 0.9 for r in rows]
        assert all(low[-2:]) and not any(a and b for a, b in pairwise(low[:-1]))
        assert rows[-1] == pytest.approx(alone[-1], rel=1e-4)


def test_divergence_ends_a_seed_and_no_other() -> None:
    """A seed whose weights are broken on the way, and one whose are not."""
    how = recipe(evaluate_every=5)
    snapshots = []
    for snapshot in fit(ADDITION, network(ADDITION), how, [0, 1, 2], device=CPU):
        snapshots.append(snapshot)
        if snapshot.step == 5:
            snapshot.state.weights[1] = 1e30
    assert [s.seeds for s in snapshots] == [(0, 1, 2)] * 3 + [(0, 2)] * 2
    assert snapshots[2].finished == (False, True, False)
    assert snapshots[2].failures[0] is snapshots[2].failures[2] is None
    failure = snapshots[2].failures[1]
    assert failure is not None and "\n" not in failure
    assert failure.startswith("diverged: training loss is nan at step 10; lower lr (now 0.0166")
    whole = trained(ADDITION, how, [0, 2])[-1]
    difference = (snapshots[-1].state.weights - whole.state.weights).abs().max()
    assert difference <= 1e-6 * whole.state.weights.abs().max()


def test_a_huge_learning_rate_diverges_and_is_reported() -> None:
    how = recipe(lr=((0, 1e3),), weight_decay=((0, 10.0),))
    last = trained(ADDITION, how, [0, 1])[-1]
    assert last.step < how.steps
    assert all(
        failure is not None and "lower lr (now 1000)" in failure for failure in last.failures
    )


# ---------------------------------------------------------------------- refusals


def test_what_cannot_begin_is_refused_before_any_step() -> None:
    with pytest.raises(ConfigError, match="d_vocab_out = 3: modular_addition-p7 needs at least 7"):
        next(fit(ADDITION, network(ADDITION, d_vocab_out=3), recipe(), [0], device=CPU))
    with pytest.raises(ConfigError, match="set batch_size="):
        trained(DIGITS, recipe(), [0])
    with pytest.raises(ConfigError, match="did you mean 'carry_heavy'"):
        trained(DIGITS, sampled(enriched="carry"), [0])
    with pytest.raises(TaskError, match="too few to train on"):
        trained(ADDITION, recipe(train_fraction=0.001), [0])

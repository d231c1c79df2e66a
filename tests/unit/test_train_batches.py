"""Which inputs a step is trained on, and which are held out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import workbench.batches
from tests.unit.small_training import ADDITION, CPU, DIGITS, recipe, sampled, trained
from workbench.recipe import Recipe
from workbench.task import Inputs, make_task, randomise_labels
from workbench.train import Batch


def batches(task: Any, how: Recipe, seed: int, n_steps: int) -> list[Batch]:
    source = workbench.batches.Source(task, how, (seed,), CPU, None)
    return [source.batch([0], step) for step in range(n_steps)]


def operands(task: Any, batch: Batch) -> Inputs:
    """The inputs of a batch of one seed, from their tokens, whatever label is fed back."""
    tokens = batch.tokens[0]
    if task is not DIGITS:
        return task.decode(tokens)
    n, worth = task.n_digits, 10 ** torch.arange(task.n_digits).flip(0)
    a, b = tokens[:, :n], tokens[:, n + 1 : 2 * n + 1]
    return torch.stack([(a * worth).sum(1), (b * worth).sum(1)], dim=1)


def as_set(inputs: Tensor | None) -> set[tuple[int, ...]]:
    assert inputs is not None
    return set(map(tuple, inputs.tolist()))


def test_minibatches_draw_training_inputs_without_repetition() -> None:
    train = as_set(ADDITION.split(2, 0.5).train)
    drawn = [as_set(operands(ADDITION, b)) for b in batches(ADDITION, recipe(batch_size=8), 2, 40)]
    assert all(len(rows) == 8 and rows <= train for rows in drawn)
    assert len(set(map(frozenset, drawn))) == 40  # of 735,471 possible ones
    assert set.union(*drawn) == train  # (1 - 8/24)^40 = 9e-8 for each to be missed


def test_minibatches_are_decided_by_seed_and_step() -> None:
    first, again = (batches(ADDITION, recipe(batch_size=8), 2, 3) for _ in range(2))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    source = workbench.batches.Source(ADDITION, recipe(batch_size=8), (5, 2), CPU, None)
    pair = source.batch([0, 1], 2)
    assert torch.equal(pair.tokens[1], first[2].tokens[0])
    assert not torch.equal(pair.tokens[0], pair.tokens[1])
    assert torch.equal(source.batch([1], 2).tokens[0], pair.tokens[1])


@pytest.mark.parametrize("batch_size", [None, 24, 1000])
def test_full_batches_are_the_training_side(batch_size: int | None) -> None:
    for batch in batches(ADDITION, recipe(batch_size=batch_size), 2, 2):
        assert torch.equal(operands(ADDITION, batch), ADDITION.split(2, 0.5).train)
        assert torch.equal(batch.answers[0], ADDITION.solve(operands(ADDITION, batch)))


def test_sampled_batches_hold_out_what_the_seeds_hash_holds_out() -> None:
    source = workbench.batches.Source(DIGITS, sampled(batch_size=300), (6,), CPU, None)
    for step in range(5):
        inputs = operands(DIGITS, source.batch([0], step))
        assert len(inputs) == 300
        assert not DIGITS.held_out_mask(inputs, seed=6, train_fraction=0.8).any()
    held_out = source.held_out([0])
    assert held_out is not None and held_out.tokens.shape[1] == 30
    inputs = operands(DIGITS, held_out)
    assert DIGITS.held_out_mask(inputs, seed=6, train_fraction=0.8).all()
    assert torch.equal(held_out.answers[0], DIGITS.solve(inputs))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.4, 80), (1.0, 200)])
def test_the_enriched_share_of_each_batch(
    share: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by giving enriched inputs away: a is 9999 in them, and in 1 of 10^4 others."""
    cls = type(DIGITS)
    real = cls._sample

    def marked(task: Any, n: int, generator: torch.Generator, distribution: str) -> Tensor:
        inputs = real(task, n, generator, distribution)
        if distribution == "carry_heavy":
            inputs[:, 0] = 9999
        return inputs

    monkeypatch.setattr(cls, "_sample", marked)
    for batch in batches(DIGITS, sampled(batch_size=200, enriched_share=share), 0, 3):
        inputs = operands(DIGITS, batch)
        assert len(inputs) == 200
        assert int((inputs[:, 0] == 9999).sum()) == count


def test_without_enrichment_all_is_uniform() -> None:
    plain = batches(DIGITS, sampled(enriched=None, enriched_share=0.4), 0, 1)
    same = batches(DIGITS, sampled(enriched="uniform", enriched_share=0.0), 0, 1)
    assert torch.equal(plain[0].tokens, same[0].tokens)


@pytest.mark.parametrize("task", [ADDITION, DIGITS], ids=["listed", "sampled"])
def test_random_labels_are_trained_and_true_ones_held_out(task: Any) -> None:
    how = recipe(random_labels=0.7) if task is ADDITION else sampled(random_labels=0.7)
    source = workbench.batches.Source(task, how, (4,), CPU, None)
    for batch in (source.batch([0], 3), source.training([0], 3)):
        inputs = operands(task, batch)
        labels = randomise_labels(task, inputs, fraction=0.7, seed=4)
        assert torch.equal(batch.answers[0], labels)
        assert not torch.equal(labels, task.solve(inputs))
    held_out = source.held_out([0])
    assert held_out is not None
    assert torch.equal(held_out.answers[0], task.solve(operands(task, held_out)))


@pytest.mark.parametrize("order", ["least_significant_first", "most_significant_first"])
def test_the_answer_fed_back_is_the_label(order: str) -> None:
    task = make_task("digit_addition", {"n_digits": 4, "answer_order": order})
    source = workbench.batches.Source(task, sampled(random_labels=1.0), (4,), CPU, None)
    batch = source.batch([0], 0)
    fed_back = batch.tokens[0][:, list(task.answer_positions)]
    assert (fed_back[:, 0] == 11).all()  # the equals token
    assert torch.equal(fed_back[:, 1:], batch.answers[0][:, :-1])


def test_given_inputs_are_trained_on_and_nothing_is_held_out() -> None:
    inputs = ADDITION.domain()[3:20]
    source = workbench.batches.Source(ADDITION, recipe(), (0, 1), CPU, inputs)
    assert torch.equal(source.batch([0, 1], 0).tokens, ADDITION.encode(inputs).expand(2, -1, -1))
    last = trained(ADDITION, recipe(), [0, 1], inputs=inputs)[-1].metrics[1]
    assert math.isnan(last.held_out_loss) and math.isnan(last.held_out_accuracy)
    assert last.train_loss < math.log(8)


def test_any_number_of_operands_can_be_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is one new file: nothing here may know that today's have two operands."""
    source = workbench.batches.Source(DIGITS, sampled(enriched=None), (0,), CPU, None)
    monkeypatch.setattr(
        type(DIGITS), "_sample", lambda task, n, generator, name: torch.ones(n, 3).long()
    )
    monkeypatch.setattr(
        type(DIGITS),
        "held_out_mask",
        lambda task, inputs, **options: torch.zeros(len(inputs), dtype=torch.bool),
    )
    assert source._fresh(0, 0, 7).shape == (7, 3)

"""One contract for every registered task: what is held out, corrupted and mislabelled."""

import math

import pytest
import torch

from tests.contract.task_cases import (
    assert_binomial,
    collision,
    every_task,
    rows,
    seeded,
    small_task,
    some_inputs,
    tiny_task,
)
from workbench.errors import PairError
from workbench.task import Task, randomise_labels, uniform_hash

# ---------------------------------------------------------------------- splits


@small_task
@pytest.mark.parametrize("train_fraction", [0.3, 0.5])
def test_split_covers_the_domain_without_overlap(task: Task, train_fraction: float) -> None:
    train, held_out = task.split(0, train_fraction)
    assert train is not None and held_out is not None
    assert len(train) == round(train_fraction * task.domain_size)
    assert len(train) + len(held_out) == task.domain_size
    assert rows(train) | rows(held_out) == rows(task.domain())


@small_task
def test_split_is_decided_by_the_seed(task: Task) -> None:
    first, again, other = (task.split(seed, 0.5).train for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again)
    assert rows(first) != rows(other)


@every_task
def test_held_out_mask_is_seeded_and_of_the_right_share(task: Task) -> None:
    inputs = task.domain() if task.enumerable else task.sample(10_000, seeded())
    mask = task.held_out_mask(inputs, seed=0, train_fraction=0.7)
    assert_binomial(int(mask.sum()), len(inputs), 0.3)
    assert torch.equal(mask, task.held_out_mask(inputs, seed=0, train_fraction=0.7))
    assert not torch.equal(mask, task.held_out_mask(inputs, seed=1, train_fraction=0.7))


@every_task
def test_held_out_mask_agrees_with_the_split(task: Task) -> None:
    train, held_out = task.split(3, 0.5)
    if train is None or held_out is None:
        assert not task.enumerable
        return
    assert not task.held_out_mask(train, seed=3, train_fraction=0.5).any()
    assert task.held_out_mask(held_out.flip(0)[:50], seed=3, train_fraction=0.5).all()


# ---------------------------------------------------------------------- corrupted twins


@every_task
def test_corruptions_change_and_keep_what_they_say(task: Task) -> None:
    inputs = some_inputs(task)
    for how, corruption in task.corruptions.items():
        clean = inputs[task.corruptible(inputs, how)]
        twin = task.corrupt(clean, how, seeded())
        before, after = task.variables(clean), task.variables(task.decode(task.encode(twin)))
        assert (clean != twin).any(1).all(), how
        for name in corruption.changes:
            assert (before[name] != after[name]).all(), f"{how} leaves {name}"
        for name in corruption.keeps:
            assert torch.equal(before[name], after[name]), f"{how} changes {name}"


@every_task
def test_corruption_of_one_operand_leaves_the_other(task: Task) -> None:
    inputs = some_inputs(task)
    for how, other in (("change_a", 1), ("change_b", 0)):
        if how in task.corruptions:
            twin = task.corrupt(inputs, how, seeded())
            assert torch.equal(twin[:, other], inputs[:, other])


@every_task
def test_corruptions_follow_the_generator(task: Task) -> None:
    inputs = some_inputs(task)
    for how in task.corruptions:
        clean = inputs[task.corruptible(inputs, how)]
        twin = task.corrupt(clean, how, seeded(1))
        assert torch.equal(twin, task.corrupt(clean, how, seeded(1)))
        assert not torch.equal(twin, task.corrupt(clean, how, seeded(2)))


@small_task
def test_corruptible_refuses_only_inputs_without_a_twin(task: Task) -> None:
    """Of refused inputs, no input of the whole domain changes and keeps what a twin must."""
    domain = task.domain()
    variables = task.variables(domain)
    for how, corruption in task.corruptions.items():
        refused = (~task.corruptible(domain, how)).nonzero()[:, 0]
        for i in refused[:: max(1, len(refused) // 25)].tolist():
            fits = torch.ones(len(domain), dtype=torch.bool)
            for name in corruption.changes:
                fits &= variables[name] != variables[name][i]
            for name in corruption.keeps:
                fits &= variables[name] == variables[name][i]
            assert not fits.any(), f"{how}: {task.text(domain[i : i + 1])} has a twin"
            with pytest.raises(PairError, match=r"1 of 1 inputs have no twin by .*corruptible\(\)"):
                task.corrupt(domain[i : i + 1], how, seeded())


@tiny_task
def test_corruption_reaches_every_twin(task: Task) -> None:
    """Every input that changes and keeps what it should is drawn, for three inputs of each."""
    domain = task.domain()
    variables = task.variables(domain)
    for how, corruption in task.corruptions.items():
        for i in task.corruptible(domain, how).nonzero()[:, 0][[0, 7, -1]].tolist():
            fits = torch.ones(len(domain), dtype=torch.bool)
            for name in corruption.changes:
                fits &= variables[name] != variables[name][i]
            for name in corruption.keeps:
                fits &= variables[name] == variables[name][i]
            # 120 twins at most: one of them stays undrawn with probability 120 (1 - 1/120)^4000.
            twins = task.corrupt(domain[i : i + 1].repeat(4000, 1), how, seeded())
            assert rows(twins) == rows(domain[fits]), how


# ---------------------------------------------------------------------- random labels


@every_task
def test_randomising_no_labels_is_the_identity(task: Task) -> None:
    inputs = some_inputs(task)
    labels = randomise_labels(task, inputs, fraction=0.0, seed=0)
    assert torch.equal(labels, task.solve(inputs))


@small_task
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_randomised_labels_are_wrong_as_often_as_asked(task: Task, fraction: float) -> None:
    """A swapped label is right by luck where two unrelated inputs share an answer."""
    domain, solved = task.domain(), task.solve(task.domain())
    seeds = range(1 + 500 // len(domain))
    drawn = [randomise_labels(task, domain, fraction=fraction, seed=seed) for seed in seeds]
    wrong = sum(int((labels != solved).any(1).sum()) for labels in drawn)
    assert_binomial(wrong, len(seeds) * len(domain), fraction * (1 - collision(task)))


@every_task
def test_an_input_always_carries_the_same_random_label(task: Task) -> None:
    inputs = some_inputs(task)
    labels = randomise_labels(task, inputs, fraction=0.5, seed=7)
    alone = randomise_labels(task, inputs[5:9], fraction=0.5, seed=7)
    assert torch.equal(labels[5:9], alone)
    assert not torch.equal(labels, randomise_labels(task, inputs, fraction=0.5, seed=8))
    assert 0 <= labels.min() <= labels.max() < task.n_answer_tokens


@every_task
def test_random_labels_are_independent_of_the_hash_that_splits(task: Task) -> None:
    """With one seed for both, training and held-out inputs have equally many wrong labels."""
    inputs = task.sample(4000, seeded())
    wrong = (randomise_labels(task, inputs, fraction=0.3, seed=0) != task.solve(inputs)).any(1)
    held_out = uniform_hash(inputs, 0) >= 0.7
    distinct = len(rows(inputs))
    rates = [wrong[side].double().mean().item() for side in (held_out, ~held_out)]
    # Variance of the difference of two means, where repeats of an input share their label.
    bound = 5 * math.sqrt(0.21 / distinct * (1 / 0.3 + 1 / 0.7))
    assert abs(rates[0] - rates[1]) < bound

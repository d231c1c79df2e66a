"""Accuracy against a count in plain Python."""

import pytest
import torch
from torch import Tensor

import workbench.accuracy
from tests.unit.small_training import ADDITION, DIGITS, network, recipe, trained
from workbench.accuracy import SAMPLED_INPUTS, measure_accuracy, right
from workbench.errors import TaskError
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, init_params
from workbench.stats import wilson_interval
from workbench.task import Inputs, Task, make_task
from workbench.transformer import forward

TWO_DIGITS = make_task("digit_addition", {"n_digits": 2})


def untrained(task: Task, seed: int = 0) -> Params:
    return init_params(network(task), torch.Generator().manual_seed(seed), scale=3.0)


def constant(task: Task, answer: int) -> tuple[Params, ModelConfig]:
    """A network that answers every token with the same id: all zero but one logit's bias."""
    config = network(task, unembed_bias=True)
    params = {name: torch.zeros(shape) for name, shape in param_shapes(config).items()}
    params["unembed.b_U"][answer] = 1.0
    return params, config


def counted(params: Params, task: Task, inputs: Inputs) -> list[bool]:
    """Input by input, greedy decoding: each answer token is written after the last."""
    found = []
    for row, answer in zip(inputs.split(1), task.solve(inputs).tolist(), strict=True):
        tokens, written = task.encode(row), []
        for place, position in enumerate(task.answer_positions):
            if place:
                tokens[0, position] = written[-1]
            written.append(greedy(params, tokens, task, position))
        found.append(written == answer)
    return found


def greedy(params: Params, tokens: Tensor, task: Task, position: int) -> int:
    return int(forward(params, tokens, network(task)).logits[0, position].argmax())


@pytest.mark.parametrize("task", [ADDITION, make_task("modular_division", {"p": 11})])
def test_every_input_is_counted(task: Task) -> None:
    expected = counted(untrained(task), task, task.domain())
    got = measure_accuracy(untrained(task), network(task), task)
    assert got == (sum(expected) / len(expected), task.domain_size, True, None)
    assert right(untrained(task), network(task), task, task.domain()).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_a_constant_network_is_right_by_chance() -> None:
    for answer in range(7):
        params, config = constant(ADDITION, answer)
        assert measure_accuracy(params, config, ADDITION) == (7 / 49, 49, True, None)


def test_an_answer_of_several_tokens_is_right_as_a_whole() -> None:
    """Always 0: of all pairs only 0 + 0 = 000; always 1: those that add up to 111."""
    params, config = constant(TWO_DIGITS, 0)
    assert measure_accuracy(params, config, TWO_DIGITS) == (1e-4, 10_000, True, None)
    params, config = constant(TWO_DIGITS, 1)
    expected = sum(a + b == 111 for a in range(100) for b in range(100))
    assert measure_accuracy(params, config, TWO_DIGITS).value == expected / 10_000


def test_teacher_forcing_agrees_with_writing_digit_by_digit() -> None:
    """On a network that has half learned the sums of one digit."""
    task = make_task("digit_addition", {"n_digits": 1})
    params = trained(task, recipe(steps=80), [0], inputs=task.domain())[-1].params(0)
    expected = counted(params, task, task.domain())
    assert right(params, network(task), task, task.domain()).tolist() == expected
    assert 10 < sum(expected) < 90


@pytest.mark.parametrize("rows", [1, 7, 48, 49, 50])
def test_chunks_do_not_change_the_count(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = right(untrained(ADDITION), network(ADDITION), ADDITION, ADDITION.domain())
    monkeypatch.setattr(workbench.accuracy, "ROWS_PER_PASS", rows)
    chunked = right(untrained(ADDITION), network(ADDITION), ADDITION, ADDITION.domain())
    assert torch.equal(chunked, whole)


def test_a_large_domain_is_sampled_with_an_interval() -> None:
    """Always 1: right where a + b = 11111, about one pair in 11,000."""
    params, config = constant(DIGITS, 1)
    got = measure_accuracy(params, config, DIGITS, seed=5)
    assert (got.n, got.exhaustive) == (SAMPLED_INPUTS, False)
    inputs = DIGITS.sample(SAMPLED_INPUTS, torch.Generator().manual_seed(5))
    n_right = int((inputs.sum(1) == 11_111).sum())
    assert n_right > 0 and got.value == n_right / SAMPLED_INPUTS
    assert got.interval == wilson_interval(n_right, SAMPLED_INPUTS)


@pytest.mark.parametrize("task", [TWO_DIGITS, DIGITS])
def test_a_named_distribution_is_sampled_by_its_seed(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right on the even sums, say: the count depends on which inputs were drawn."""
    monkeypatch.setattr(
        workbench.accuracy, "right", lambda params, config, task, inputs: inputs.sum(1) % 2 == 0
    )
    values = []
    for seed in (0, 0, 1):
        inputs = task.sample(
            SAMPLED_INPUTS, torch.Generator().manual_seed(seed), distribution="carry_heavy"
        )
        got = measure_accuracy(
            untrained(task), network(task), task, distribution="carry_heavy", seed=seed
        )
        n_right = int((inputs.sum(1) % 2 == 0).sum())
        interval = wilson_interval(n_right, SAMPLED_INPUTS)
        assert got == (n_right / SAMPLED_INPUTS, SAMPLED_INPUTS, False, interval)
        values.append(got.value)
    assert values[0] == values[1] != values[2]


def test_an_unknown_distribution_names_the_nearest() -> None:
    with pytest.raises(TaskError, match="did you mean 'carry_heavy'"):
        measure_accuracy(untrained(DIGITS), network(DIGITS), DIGITS, distribution="carry_heavi")

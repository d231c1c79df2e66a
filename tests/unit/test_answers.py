"""Answers and margins, against logits looked through one by one."""

import pytest
import torch

from tests.unit.small_training import network
from workbench.accuracy import right
from workbench.answers import read_answers, share_by
from workbench.params import init_params
from workbench.stats import wilson_interval
from workbench.task import Task, make_task
from workbench.transformer import forward

TASKS = [
    make_task("modular_addition", {"p": 7}),
    make_task("digit_addition", {"n_digits": 2}),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_answers_and_margins_are_those_of_the_logits(task: Task) -> None:
    config = network(task)
    drawn = init_params(config, torch.Generator().manual_seed(0), scale=3.0)
    params = {name: one.double() for name, one in drawn.items()}
    inputs = task.domain()[::7]
    found = read_answers(params, config, task, inputs)
    logits = forward(params, task.encode(inputs), config).logits
    for row in range(len(inputs)):
        for i, position in enumerate(task.answer_positions):
            scores = logits[row, position].tolist()
            own = int(task.solve(inputs)[row, i])
            others = [score for token, score in enumerate(scores) if token != own]
            assert float(found.margin[row, i]) == pytest.approx(scores[own] - max(others), abs=1e-9)
            assert int(found.given[row, i]) == scores.index(max(scores))
            assert bool(found.right[row, i]) == (scores[own] > max(others))
    assert torch.equal(found.all_right, right(params, config, task, inputs))
    assert torch.equal(found.all_right, found.least_margin > 0)


def test_shares_by_group_by_hand() -> None:
    right = torch.tensor([True, False, True, True])
    groups = torch.tensor([2, 2, 2, 0])
    sampled = share_by(right, groups)
    assert [(one.group, one.value, one.n) for one in sampled] == [(0, 1.0, 1), (2, 2 / 3, 3)]
    assert [one.interval for one in sampled] == [wilson_interval(1, 1), wilson_interval(2, 3)]
    assert [one.interval for one in share_by(right, groups, exhaustive=True)] == [None, None]

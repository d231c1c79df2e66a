"""One contract for every registered task: what `workbench.task` promises, checked by brute force.

The tasks and their oracles are listed in `task_cases`; a new task file needs no entry there.
"""

import json
import math
from collections import Counter

import pytest
import torch

from tests.contract.task_cases import (
    ORACLES,
    cyclic_task,
    every_task,
    rows,
    seeded,
    small_task,
    some_inputs,
    tiny_task,
)
from workbench.errors import ConfigError, TaskError, UnknownName
from workbench.task import Task, task_from_dict, tasks


def test_every_task_module_registers_its_own_name() -> None:
    assert {"digit_addition", "modular_addition", "modular_division"} <= set(tasks)
    for name in tasks:
        assert tasks.get(name).name == name


# ---------------------------------------------------------------------- answers and tokens


@every_task
def test_solve_agrees_with_brute_force(task: Task) -> None:
    if (oracle := ORACLES.get(task.name)) is None:
        return
    inputs = some_inputs(task)
    expected = [oracle(task, a, b) for a, b in inputs.tolist()]
    assert task.solve(inputs).tolist() == expected


@every_task
def test_answers_are_answer_tokens(task: Task) -> None:
    inputs = some_inputs(task)
    answers = task.solve(inputs)
    assert answers.shape == (len(inputs), len(task.answer_positions))
    assert 0 <= answers.min() <= answers.max() < task.n_answer_tokens
    assert len(task.answer_text(answers)) == len(inputs)


@every_task
def test_tokens_lie_in_the_vocabulary_and_tell_inputs_apart(task: Task) -> None:
    inputs = some_inputs(task)
    tokens = task.encode(inputs)
    assert tokens.shape == (len(inputs), task.n_ctx)
    assert 0 <= tokens.min() <= tokens.max() < len(task.vocabulary)
    assert len(rows(tokens)) == len(rows(inputs))


@every_task
def test_answer_positions_are_the_last_ones_and_earlier_answers_are_given(task: Task) -> None:
    inputs = some_inputs(task)
    n_answers = len(task.answer_positions)
    assert task.answer_positions == tuple(range(task.n_ctx - n_answers, task.n_ctx))
    given = task.encode(inputs)[:, list(task.answer_positions[1:])]
    assert torch.equal(given, task.solve(inputs)[:, :-1])


@every_task
def test_decode_inverts_encode(task: Task) -> None:
    inputs = some_inputs(task)
    assert torch.equal(task.decode(task.encode(inputs)), inputs)


@every_task
def test_decode_refuses_what_no_input_has(task: Task) -> None:
    tokens = task.encode(some_inputs(task)[:1])
    message = f"{task.name}: these tokens encode no input; make them with encode"
    for wrong in (tokens[:, :1], torch.cat([tokens, tokens], dim=1), tokens + len(task.vocabulary)):
        with pytest.raises(TaskError, match=message):
            task.decode(wrong)


@every_task
def test_parse_inverts_text(task: Task) -> None:
    inputs = some_inputs(task)[:200]
    parsed = [task.parse(text)[0].tolist() for text in task.text(inputs)]
    assert parsed == inputs.tolist()


@every_task
def test_parse_refuses_gibberish(task: Task) -> None:
    with pytest.raises(TaskError, match="cannot read 'gibberish'; write it as '"):
        task.parse("gibberish")


@every_task
def test_empty_batches_stay_empty(task: Task) -> None:
    none = some_inputs(task)[:0]
    assert task.encode(none).shape == (0, task.n_ctx)
    assert task.solve(none).shape == (0, len(task.answer_positions))
    assert task.decode(task.encode(none)).shape == none.shape
    for how in task.corruptions:
        assert task.corrupt(none, how, seeded()).shape == none.shape


# ---------------------------------------------------------------------- variables


@every_task
def test_variables_have_one_value_per_input(task: Task) -> None:
    inputs = some_inputs(task)
    for name, values in task.variables(inputs).items():
        assert values.shape == (len(inputs),), name
        assert not values.is_floating_point(), name


@every_task
def test_answer_variables_are_the_answer(task: Task) -> None:
    """`answer`, or `answer_k` for the digit worth 10^k, written in the task's order."""
    inputs = some_inputs(task)
    variables = task.variables(inputs)
    answers = task.solve(inputs)
    if "answer" in variables:
        assert torch.equal(variables["answer"], answers[:, 0])
        return
    digits = torch.stack([variables[f"answer_{k}"] for k in range(answers.shape[1])], dim=1)
    forwards = getattr(task, "answer_order", None) == "most_significant_first"
    assert torch.equal(digits.flip(1) if forwards else digits, answers)


@every_task
def test_variables_belong_to_the_input_alone(task: Task) -> None:
    inputs = some_inputs(task)
    whole, alone = task.variables(inputs), task.variables(inputs[3:4])
    assert all(torch.equal(whole[name][3:4], alone[name]) for name in whole)


@small_task
def test_a_variable_is_decided_by_just_the_tokens_that_it_says(task: Task) -> None:
    """Equal tokens there, equal values; and without any one of them that no longer holds."""
    inputs = task.domain()
    tokens = task.encode(inputs).tolist()
    for name, values in task.variables(inputs).items():
        positions = task.decided_by(name)
        assert all(at <= task.answer_positions[0] for at in positions)

        found = _values_by(tokens, list(positions), values.tolist())
        assert all(len(seen) == 1 for seen in found), name
        for left_out in positions:
            kept = [at for at in positions if at != left_out]
            found = _values_by(tokens, kept, values.tolist())
            assert any(len(seen) > 1 for seen in found), (name, left_out)


def _values_by(tokens: list[list[int]], kept: list[int], values: list[int]) -> list[set[int]]:
    """Values of the inputs whose tokens at these positions are the same."""
    found: dict[tuple[int, ...], set[int]] = {}
    for row, value in zip(tokens, values, strict=True):
        found.setdefault(tuple(row[at] for at in kept), set()).add(value)
    return list(found.values())


@every_task
def test_an_unknown_variable_names_the_nearest_one(task: Task) -> None:
    name = next(iter(task.variables(some_inputs(task))))
    with pytest.raises((UnknownName, TaskError), match=r"did you mean|too large|more than"):
        task.decided_by(f"{name}_")


# ---------------------------------------------------------------------- the domain


@small_task
def test_domain_lists_each_input_once_in_ascending_order(task: Task) -> None:
    listed = list(map(tuple, task.domain().tolist()))
    assert len(listed) == task.domain_size
    assert listed == sorted(set(listed))


@every_task
def test_domain_too_large_to_list_says_so(task: Task) -> None:
    if task.enumerable:
        assert len(task.domain()) == task.domain_size
        return
    with pytest.raises(TaskError, match=rf"{task.domain_size} inputs, .*; use sample\(\)"):
        task.domain()


@every_task
def test_samples_lie_in_the_domain_and_follow_the_generator(task: Task) -> None:
    for name in task.distributions:
        inputs = task.sample(300, seeded(1), distribution=name)
        assert torch.equal(task.decode(task.encode(inputs)), inputs)
        assert torch.equal(task.sample(300, seeded(1), distribution=name), inputs)
        assert not torch.equal(task.sample(300, seeded(2), distribution=name), inputs)


@tiny_task
def test_uniform_samples_reach_every_input_equally(task: Task) -> None:
    """Chi-square of the counts; Laurent and Massart 2000, lemma 1, bounds its tail by e^-14."""
    n = 100 * task.domain_size
    counts = Counter(map(tuple, task.sample(n, seeded()).tolist()))
    assert set(counts) == rows(task.domain())
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    freedom = task.domain_size - 1
    assert chi_square < freedom + 2 * math.sqrt(14 * freedom) + 2 * 14


@small_task
def test_chance_is_the_share_of_the_commonest_answer(task: Task) -> None:
    counts = Counter(map(tuple, task.solve(task.domain()).tolist()))
    assert task.chance == pytest.approx(max(counts.values()) / task.domain_size, rel=1e-12)


# ---------------------------------------------------------------------- groups


@cyclic_task
def test_logs_are_a_bijection(task: Task) -> None:
    group = task.cyclic()
    assert group is not None
    assert sorted(group.logs.tolist()) == list(range(group.order))
    assert group.elements.tolist() == sorted(set(task.domain()[:, 0].tolist()))


@cyclic_task
def test_logs_add_up_to_the_log_of_the_answer(task: Task) -> None:
    group = task.cyclic()
    assert group is not None
    log = dict(zip(group.elements.tolist(), group.logs.tolist(), strict=True))
    domain = task.domain()
    for (a, b), (answer,) in zip(domain.tolist(), task.solve(domain).tolist(), strict=True):
        assert (log[a] + group.b_sign * log[b]) % group.order == log[answer]


# ---------------------------------------------------------------------- configuration


@every_task
def test_configuration_travels_as_json(task: Task) -> None:
    data = json.loads(json.dumps(task.to_dict()))
    assert data["name"] == task.name
    assert task_from_dict(data) == task


@every_task
def test_unknown_key_names_the_nearest_one(task: Task) -> None:
    key = next(key for key in task.to_dict() if key != "name")
    message = rf"no task {task.name} key '{key}x'; did you mean '{key}'\? known: "
    with pytest.raises(ConfigError, match=message):
        task_from_dict({**task.to_dict(), f"{key}x": 1})

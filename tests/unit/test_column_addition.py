"""Column addition: named on one trained network, denied to networks that learned nothing."""

from dataclasses import replace

import pytest
import torch

from circuits.cells import Subject
from circuits.control_networks import permuted, untrained
from circuits.digit_columns import (
    Variable,
    answer_index,
    answers_with,
    as_predicted,
    carry_variables,
    idle_twins,
    name_heads,
    twins,
)
from circuits.mechanism import Case, Explanation
from circuits.mechanisms.column_addition import ColumnAddition, support
from workbench.finding import Control
from workbench.progress import finish
from workbench.recipe import DIGITS, default_model
from workbench.tasks.digit_addition import DigitAddition
from workbench.train import fit
from workbench.transformer import forward

TASK = DigitAddition(n_digits=2)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Two-digit addition, learned."""
    recipe = replace(DIGITS, steps=400, lr=((0, 0.0), (30, 5e-3), (400, 0.0)))
    config = default_model(TASK)
    for snapshot in fit(TASK, config, recipe, [0], device=torch.device("cpu")):
        last = snapshot
    assert last.metrics[0].held_out_accuracy > 0.99
    return Subject(params=last.params(0), config=config, task=TASK)


def explain(subject: Subject) -> Explanation:
    case = Case(subject=subject, train=None)
    return finish(ColumnAddition().explain(case, seed=0, n_draws=4))


def test_a_trained_network_adds_by_columns(subject: Subject) -> None:
    found = explain(subject)
    assert found.verdict == "identified", (found.reason, found.findings)
    assert [finding.id for finding in found.findings] == ["digits", "carry"]
    for finding in found.findings:
        assert finding.interval is not None and len(finding.controls) == 3
        assert finding.interval[0] <= finding.value <= finding.interval[1]
    variables = [part["variable"] for part in found.parts["variables"]]
    assert variables == ["a_0", "b_0", "a_1", "b_1", "carry_1", "carry_2"]


def test_networks_that_learned_nothing_are_not_identified(subject: Subject) -> None:
    for nothing in (untrained(subject, 1), permuted(subject, 2)):
        found = explain(nothing)
        assert found.verdict == "not identified" and "does not do its task" in found.reason
        # Not for the accuracy gate alone: no finding holds either.
        assert {finding.verdict for finding in found.findings} == {"not supported"}


def test_patching_every_head_from_the_twin_gives_the_twins_digit(subject: Subject) -> None:
    """At the position of `=` nothing but heads can tell an input from its twin."""
    variable, generator = Variable(name="a_0", column=0), torch.Generator().manual_seed(0)
    pairs = twins(TASK, variable, 50, generator)
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    found = answers_with(subject, pairs, 0, [heads, ()])
    positions = TASK.answer_positions
    corrupted = forward(
        subject.params, pairs.corrupted_tokens, subject.config, positions=positions
    ).logits.argmax(-1)
    clean = forward(
        subject.params, pairs.clean_tokens, subject.config, positions=positions
    ).logits.argmax(-1)
    assert torch.equal(found[0][:, 0], corrupted[:, 0])
    assert torch.equal(found[1], clean)


def test_named_heads_are_no_more_than_needed(subject: Subject) -> None:
    """The share at naming is the share that patching these heads gives; fewer give less."""
    generator = torch.Generator().manual_seed(3)
    variable = carry_variables(TASK)[0]
    pairs = twins(TASK, variable, 60, generator)
    named = name_heads(subject, pairs, variable)
    subsets = [named.heads, *([h for h in named.heads if h != out] for out in named.heads)]
    shares = as_predicted(subject, pairs, 1, subsets).double().mean(-1)
    assert shares[0] == named.share
    assert (shares[1:] < named.share).all()


@pytest.mark.parametrize("order", ["least_significant_first", "most_significant_first"])
def test_twins_say_what_they_change(order: str) -> None:
    task = DigitAddition(n_digits=3, answer_order=order)
    generator = torch.Generator().manual_seed(0)
    assert answer_index(task, 0) == (0 if order.startswith("least") else 3)
    for name, column in (("a_1", 1), ("b_1", 1), ("carry_1", 1), ("carry_3", 3)):
        variable = Variable(name=name, column=column)
        pairs = twins(task, variable, 40, generator)
        before, after = (task.variables(x) for x in (pairs.clean, pairs.corrupted))
        assert (before[name] != after[name]).all()
        assert (before[f"answer_{column}"] != after[f"answer_{column}"]).all()
        idle = idle_twins(task, variable, 40, generator)
        assert idle is not None and len(idle) == 40
        before, after = (task.variables(x) for x in (idle.clean, idle.corrupted))
        assert (before[name] == after[name]).all()
        assert (before[f"answer_{column}"] == after[f"answer_{column}"]).all()
    assert idle_twins(task, Variable(name="a_2", column=2), 4, generator) is None


def test_the_rule() -> None:
    def control(value: float) -> Control:
        return Control(name="other", value=value, n=3, interval=None)

    assert support(0.9, (control(0.25),)) == "supported"
    assert support(0.89, (control(0.0),)) == "not supported"
    assert support(1.0, (control(0.0), control(0.26))) == "not supported"

"""Column addition: named on one trained network, denied to networks that learned nothing."""

from dataclasses import replace

import pytest
import torch

from circuits.control_networks import memorising, permuted
from circuits.digit_columns import (
    Variable,
    answer_index,
    answers_with,
    as_predicted,
    carry_variables,
    digit_variables,
    idle_twins,
    name_heads,
    twins,
)
from circuits.mechanism import Case, Explanation
from circuits.mechanisms.column_addition import (
    CLAIMS,
    OTHER_HEADS,
    ColumnAddition,
    Outcome,
    other_heads,
    support,
    worst_of,
)
from workbench.finding import Control
from workbench.progress import finish
from workbench.recipe import DIGITS, default_model
from workbench.subject import Subject, untrained
from workbench.tasks.digit_addition import DigitAddition
from workbench.train import fit
from workbench.transformer import forward

TASK = DigitAddition(n_digits=2)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Two-digit addition, learned."""
    recipe = replace(DIGITS, steps=300, lr=((0, 0.0), (30, 8e-3), (300, 0.0)))
    config = default_model(TASK)
    for snapshot in fit(TASK, config, recipe, [0], device=torch.device("cpu")):
        last = snapshot
    assert last.metrics[0].held_out_accuracy > 0.99
    return Subject(params=last.params(0), config=config, task=TASK)


def explain(subject: Subject) -> Explanation:
    case = Case(subject=subject, train=None)
    return finish(ColumnAddition().explain(case, seed=0, n_draws=4))


def test_a_trained_network_adds_by_columns(subject: Subject) -> None:
    """Every claim holds of every variable; whether heads are left to compare with decides."""
    found = explain(subject)
    variables = {part["variable"]: part for part in found.parts["variables"]}
    assert list(variables) == ["a_0", "b_0", "a_1", "b_1", "carry_1", "carry_2"]
    assert [finding.id for finding in found.findings] == ["digits", "carry"]
    for finding, names in zip(
        found.findings, (list(variables)[:4], list(variables)[4:]), strict=True
    ):
        parts = [variables[name] for name in names]
        assert finding.value == min(part["tested"] for part in parts) >= 0.9
        assert finding.n == 200 and finding.interval is not None
        assert finding.interval[0] <= finding.value <= finding.interval[1]
        compared = all(len(part["heads"]) <= 4 for part in parts)
        assert finding.verdict == ("supported" if compared else "not applicable")
        assert [control.name for control in finding.controls if control.unit == "draws"] == (
            [OTHER_HEADS] if compared else []
        )
    supported = [finding.verdict == "supported" for finding in found.findings]
    if any(supported):
        assert found.verdict == ("identified" if all(supported) else "partial"), found.reason


def test_networks_that_learned_nothing_are_not_identified(subject: Subject) -> None:
    some = TASK.sample(100, torch.Generator().manual_seed(0))
    memorised = memorising(subject, some, 0).subject
    for nothing in (untrained(subject, 1), permuted(subject, 2), memorised):
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


@pytest.mark.parametrize("variable", [*digit_variables(TASK), *carry_variables(TASK)], ids=str)
def test_named_heads_are_no_more_than_needed(subject: Subject, variable: Variable) -> None:
    """The share at naming is the share that patching these heads gives; fewer give less."""
    pairs = twins(TASK, variable, 60, torch.Generator().manual_seed(3))
    named = name_heads(subject, pairs, variable)
    subsets = [named.heads, *([h for h in named.heads if h != out] for out in named.heads)]
    shares = as_predicted(subject, pairs, variable.column, subsets).double().mean(-1)
    assert shares[0] == named.share >= 0.9
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
        written = range(column) if order.startswith("least") else range(column + 1, 4)
        for k in written:  # the answer digits that are read where this one is predicted
            assert (before[f"answer_{k}"] == after[f"answer_{k}"]).all()
        idle = idle_twins(task, variable, 40, generator)
        assert idle is not None and len(idle.clean) == 40
        assert (idle.clean != idle.corrupted).any(1).all()
        before, after = (task.variables(x) for x in (idle.clean, idle.corrupted))
        assert (before[name] == after[name]).all()
        assert (before[f"answer_{column}"] == after[f"answer_{column}"]).all()
    assert (
        idle_twins(DigitAddition(n_digits=1), Variable(name="a_0", column=0), 4, generator) is None
    )


@pytest.mark.parametrize("name", ["carry_2", "a_2"])
def test_twins_of_the_same_sum_below(name: str) -> None:
    """Column 1 has other digits of the same sum; nothing else of the input differs."""
    task = DigitAddition(n_digits=3)
    idle = idle_twins(task, Variable(name=name, column=2), 400, torch.Generator().manual_seed(0))
    assert idle is not None
    before, after = (task.variables(x) for x in idle)
    assert (before["a_1"] != after["a_1"]).all()
    for same in ("digit_sum_1", "a_0", "b_0", "a_2", "b_2", "sum"):
        assert (before[same] == after[same]).all()
    # Uniform among the other digits: where the sum is 1 there is one, where it is 9 there are nine.
    nine = before["digit_sum_1"] == 9
    assert set(after["a_1"][nine].tolist()) == set(range(10))


def of(share: float, others: list[float]) -> Outcome:
    """100 pairs of which this share held; nothing in the other controls."""
    none = torch.zeros(100, dtype=torch.bool)
    return Outcome(held=torch.arange(100) < 100 * share, others=others, idle=None, untrained=none)


def test_the_worst_variable_counts_and_the_worst_of_each_control() -> None:
    well = [of(1.0, [0.0, 0.0]) for _ in range(9)]
    assert worst_of(CLAIMS[0], [*well, of(1.0, [0.0, 0.1])]).verdict == "supported"
    failing = worst_of(CLAIMS[0], [*well, of(0.0, [0.0, 0.0])])
    assert (failing.value, failing.n, failing.verdict) == (0.0, 100, "not supported")
    assert failing.details == {
        "mean over variables": 0.9,
        "variables": 10,
        "pairs of all variables": 1000,
    }
    rival = worst_of(CLAIMS[0], [*well, of(1.0, [0.2, 0.4])])
    control = next(control for control in rival.controls if control.name == OTHER_HEADS)
    assert control.value == pytest.approx(0.3) and control.n == 2
    assert rival.verdict == "not supported"
    alone = worst_of(CLAIMS[0], [*well, of(1.0, [])])
    assert alone.verdict == "not applicable"
    assert OTHER_HEADS not in [control.name for control in alone.controls]


def test_other_heads_are_as_many_and_of_the_same_layers_first() -> None:
    every = [(layer, head) for layer in range(2) for head in range(4)]
    generator = torch.Generator().manual_seed(0)
    draws = other_heads(every, [(0, 1), (0, 2)], 5, generator)
    assert [set(draw) for draw in draws] == [{(0, 0), (0, 3)}] * 5
    draws = other_heads(every, [(1, 0), (1, 1), (1, 2)], 20, generator)
    assert all(draw[0] == (1, 3) and len(set(draw)) == 3 for draw in draws)
    assert len({draw[1:] for draw in draws}) > 1 and {h[0] for d in draws for h in d[1:]} == {0}
    assert len(other_heads(every, every[:4], 3, generator)) == 3
    assert other_heads(every, every[:5], 3, generator) == []
    assert other_heads(every, every, 3, generator) == []


def test_the_rule() -> None:
    def control(value: float, name: str = OTHER_HEADS) -> Control:
        return Control(name=name, value=value, n=3, interval=None)

    assert support(0.9, (control(0.25),)) == "supported"
    assert support(0.89, (control(0.0),)) == "not supported"
    assert support(1.0, (control(0.0), control(0.26, "idle"))) == "not supported"
    # Without other heads to compare with it may fail, but not hold.
    assert support(1.0, ()) == support(1.0, (control(0.0, "idle"),)) == "not applicable"
    assert support(0.5, ()) == support(1.0, (control(0.5, "idle"),)) == "not supported"

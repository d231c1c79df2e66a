"""Counterfactual inputs: one variable changed, all that follows from it with it."""

import pytest
import torch

from probes.counterfactual import Relabelling, counterfactual
from probes.interchange import arbitrary_pairs, draw_interchange_pairs, make_pairs
from tests.unit.aligned_networks import ADDITION, generator
from workbench.errors import ProbeError
from workbench.task import make_task


@pytest.mark.parametrize(
    ("name", "variable", "rule"),
    [
        ("modular_addition", "a", lambda a, b, c, d: c + b),
        ("modular_addition", "b", lambda a, b, c, d: a + d),
        ("modular_addition", "sum", lambda a, b, c, d: c + d),
        ("modular_addition", "answer", lambda a, b, c, d: c + d),
        ("modular_subtraction", "b", lambda a, b, c, d: a - d),
        ("modular_multiplication", "log_a", lambda a, b, c, d: c * b),
        ("modular_division", "inverse_b", lambda a, b, c, d: a * pow(d, -1, 7)),
        ("modular_square_plus", "a_squared", lambda a, b, c, d: c * c + b),
        ("modular_square_plus", "b", lambda a, b, c, d: a * a + d),
        ("modular_square_difference", "minus_b_squared", lambda a, b, c, d: a * a - d * d),
        ("modular_square_difference", "a_plus_b", lambda a, b, c, d: (c + d) * (a - b)),
        ("modular_square_difference", "a_minus_b", lambda a, b, c, d: (a + b) * (c - d)),
    ],
)
def test_modular_counterfactuals(name, variable, rule):
    task = make_task(name, {"p": 7})
    base, source = task.domain(), task.domain().flip(0).roll(5, 0)
    wanted = [
        rule(a, b, c, d) % 7 for (a, b), (c, d) in zip(base.tolist(), source.tolist(), strict=True)
    ]
    assert counterfactual(task, variable, base, source)[:, 0].tolist() == wanted


@pytest.mark.parametrize("order", ["least_significant_first", "most_significant_first"])
@pytest.mark.parametrize(
    ("variable", "wanted"),
    [  # 57 + 68 = 125 is the base; 91 + 23 = 114 the source
        ("a", 91 + 68),
        ("b_1", 57 + 28),
        ("a_0", 51 + 68),
        ("sum", 114),
        ("digit_sum_0", 114),  # ones 1 + 3 = 4: no carry, tens 5 + 6 = 11
        ("carry_1", 115),  # ones stay 5; no carry: tens 5 + 6 = 11
        ("carry_2", 125),  # both carry out of the tens
        ("answer_0", 124),
    ],
)
def test_digit_counterfactuals(variable, wanted, order):
    task = make_task("digit_addition", {"n_digits": 2, "answer_order": order})
    found = counterfactual(task, variable, torch.tensor([[57, 68]]), torch.tensor([[91, 23]]))
    assert task.answer_text(found) == [str(wanted)]


def test_a_carry_travels_on():
    """With a carry into the ones' neighbour, 44 + 55 becomes 109: 9 stays, 4 + 5 + 1 = 10."""
    task = make_task("digit_addition", {"n_digits": 2})
    found = counterfactual(task, "carry_1", torch.tensor([[44, 55]]), torch.tensor([[8, 8]]))
    assert task.answer_text(found) == ["109"]


def test_what_has_no_counterfactual_is_refused():
    domain = ADDITION.domain()
    with pytest.raises(ProbeError, match="another wraps is not defined"):
        counterfactual(ADDITION, "wraps", domain, domain)
    with pytest.raises(ProbeError, match="did you mean 'sum'"):
        counterfactual(ADDITION, "summ", domain, domain)
    with pytest.raises(ProbeError, match="row by row"):
        make_pairs(ADDITION, "a", domain, domain[:3])
    with pytest.raises(ProbeError, match="answer tokens"):
        make_pairs(ADDITION, "a", domain, domain, scored=[1])
    with pytest.raises(ProbeError, match="too few pairs"):
        draw_interchange_pairs(ADDITION, "a", domain[:2], 5, generator())


def test_pairs_differ_and_come_from_the_inputs_given():
    inputs = ADDITION.domain()[::2]
    pairs = draw_interchange_pairs(ADDITION, "a", inputs, 200, generator())
    assert len(pairs) == 200
    assert bool((pairs.answer != ADDITION.solve(pairs.base)).all())
    known = {tuple(row) for row in inputs.tolist()}
    assert {tuple(row) for row in pairs.base.tolist() + pairs.source.tolist()} <= known


def test_arbitrary_function_moves_every_value_and_is_used_for_the_answer():
    relabelling = Relabelling.draw(ADDITION, "a", ADDITION.domain(), generator())
    moved = relabelling.apply(torch.arange(5))[:, 0]
    assert sorted(moved.tolist()) == [0, 1, 2, 3, 4]
    assert not bool((moved == torch.arange(5)).any())
    pairs = make_pairs(ADDITION, "a", ADDITION.domain(), ADDITION.domain().roll(7, 0))
    control = arbitrary_pairs(pairs, relabelling, generator(1))
    assert torch.equal(control.answer[:, 0], (moved[control.source[:, 0]] + control.base[:, 1]) % 5)


def test_a_variable_of_two_values_has_control_pairs():
    """Pairs chosen to differ always flip the carry; flipped again, none would ask for a change."""
    task = make_task("digit_addition", {"n_digits": 1})
    domain = task.domain()
    pairs = draw_interchange_pairs(task, "carry_1", domain, 60, generator(), scored=[1])
    carry = [task.variables(side)["carry_1"] for side in (pairs.base, pairs.source)]
    assert torch.equal(carry[0], 1 - carry[1])
    relabelling = Relabelling.draw(task, "carry_1", domain, generator())
    control = arbitrary_pairs(pairs, relabelling, generator(1))
    flipped = 1 - task.variables(control.source)["carry_1"]
    assert torch.equal(control.answer[:, 1], flipped)
    assert torch.equal(control.differ, flipped != carry[0])
    assert 10 < int(control.differ.sum()) < 50  # half of 60 expected, deviation 3.9

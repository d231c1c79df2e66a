"""Few passes over many inputs: the gap they claim, and where they give up."""

import math

import pytest
import torch
from torch import Tensor

from probes.design import Design
from probes.few_passes import few_passes, sampled_evenly
from probes.lbfgs import Problem, Solution
from probes.method import make_targets
from probes.methods.logistic import Logistic
from tests.unit.logistic_oracle import (
    check_against_oracle,
    objective,
    oracle,
    problem,
    rows_of,
)


def quickly(x: Tensor, y: Tensor, C: float, tolerance: float) -> Solution:
    """One probe of one site, all inputs alike, by `few_passes` alone."""
    made = Problem(
        x=(x - x.mean(0))[None],
        cost=torch.full((1, len(x)), C, dtype=x.dtype),
        classes=y[None],
        trained=torch.ones(1, 1, dtype=torch.bool),
    )
    sample = sampled_evenly(len(x), x.shape[1] + 1, seed=0)
    start = y.to(x).mean().logit()[None, None]
    return few_passes(made, sample, start, tolerance=tolerance)


@pytest.mark.parametrize("C", [1e-2, 1.0])
def test_few_passes_reach_the_gap_they_claim(C: float) -> None:
    x, targets = problem(2, n=3000, sites=1, labels=1)
    y = targets.classes[0]
    best = objective(
        x[0], y, torch.ones(3000), C, *map(torch.from_numpy, rows_of(oracle(x[0], y, y * 0 + 1, C)))
    )
    for tolerance in (1e-3, 1e-6, 1e-10):
        found = quickly(x[0], y, C, tolerance)
        weights, b = found.variables[0, 0, :, :-1], found.variables[0, 0, :, -1]
        true = objective(x[0] - x[0].mean(0), y, torch.ones(3000), C, weights, b)
        assert float(found.objective) == pytest.approx(true, rel=1e-12)
        claimed = float(found.gap)
        assert claimed <= tolerance * true
        # To second order, with a curvature that is the least of a few directions'.
        assert 0.5 * (true - best) - 1e-12 * best <= claimed
        assert int(found.iterations) <= 10


def test_sites_and_probes_together_end_where_each_does_alone() -> None:
    """In float32, where sums of few probes are those of embeddings, one for each site and probe."""
    x, targets = problem(2, n=3000, sites=3, labels=2)
    centred = (x - x.mean(1, keepdim=True)).float()
    made = Problem(
        x=centred,
        cost=torch.ones(2, 3000),
        classes=targets.classes,
        trained=torch.ones(2, 1, dtype=torch.bool),
    )
    sample = sampled_evenly(3000, x.shape[2] + 1, seed=0)
    start = targets.classes.float().mean(1, keepdim=True).logit()
    found = few_passes(made, sample, start, tolerance=1e-8)
    arrived = found.gap.isfinite()
    assert arrived[1:].all() and bool((found.gap[arrived] <= 1e-8 * found.objective[arrived]).all())
    for site, label in arrived.nonzero().tolist():
        alone = quickly(x[site], targets.classes[label], 1.0, 1e-10)
        # A gap of 1e-8 of some thousands, where curvatures are some hundreds: weights within 1e-3.
        torch.testing.assert_close(
            found.variables[site, label].double(), alone.variables[0, 0], rtol=2e-3, atol=2e-3
        )


def test_few_passes_give_up_where_classes_are_told_apart() -> None:
    """And the probe is fitted all the same, beside one that is not told apart."""
    x, targets = problem(2, n=2000, sites=2, labels=1)
    apart = (x[0] @ torch.arange(1.0, 7.0, dtype=torch.float64) > 30).long()
    assert float(quickly(x[0], apart, 100.0, 1e-10).gap) == math.inf
    both = make_targets(torch.stack([targets.classes[0], apart]), torch.arange(2))
    design = Design(x, torch.ones(1, 2000, dtype=torch.float64))
    fitted = Logistic().fit_many(design, both, (1.0, 100.0))
    assert bool(fitted.convergence.converged.all())
    # Told apart, weights are tens and the curvature is little more than the penalty's: 1.
    check_against_oracle(design, both, fitted, 1e-3)
    alone = Logistic().fit_many(Design(x[1:], design.weights), targets, (1.0,))
    # Same steps, other rounding (matrix products of other shapes).
    torch.testing.assert_close(
        fitted.coef[0, 0, 1, 0], alone.coef[0, 0, 0, 0], rtol=1e-7, atol=1e-9
    )
    assert int(fitted.convergence.iterations[0, 0, 1, 0]) == int(alone.convergence.iterations)


def test_few_passes_know_how_coarse_the_gram_matrix_is_beside_a_huge_variable() -> None:
    """Its rounding, 1e9 here, is no curvature of the other variables, whose own is about 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 1] > 0).long()
    x = x * torch.tensor([1e6, 0.01, 0.01, 0.01])
    # From weights 0 the second has a gradient near 3000 x 0.01 x E|z| / 2 = 12 and curvature
    # 1 + 3000 x 0.01^2 / 4 = 1.08: a gap of 12^2 / 2.2 = 65, some 3 % of 3000 log 2.
    found = quickly(x, y, 1.0, 1e-10)
    assert float(found.gap) > 1 or float(found.variables[0, 0, 0, 1]) == pytest.approx(11, rel=0.1)
    design = Design(x[None], torch.ones(1, 3000, dtype=torch.float64))
    targets = make_targets(y[None], torch.arange(2))
    fitted = Logistic().fit_many(design, targets, (1.0,))
    assert bool(fitted.convergence.converged.all())
    check_against_oracle(design, targets, fitted, 1e-4)


def test_few_passes_in_float32_come_close_and_repeat_bit_for_bit() -> None:
    x, targets = problem(2, n=3000, sites=1, labels=1)
    low, y = x[0].float(), targets.classes[0]
    found, again = quickly(low, y, 1.0, 1e-6), quickly(low, y, 1.0, 1e-6)
    assert torch.equal(found.variables, again.variables)
    best = quickly(low.double(), y, 1.0, 1e-12)
    weights, b = found.variables[0, 0, :, :-1], found.variables[0, 0, :, -1]
    centred = low.double() - low.double().mean(0)
    reached = objective(centred, y, torch.ones(3000), 1.0, weights, b)
    # 1e-6 as claimed, by an estimate that may be half the gap.
    assert reached <= float(best.objective) * (1 + 2e-6)

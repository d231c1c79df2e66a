"""Logistic probes against scikit-learn, against sums done by hand, and in batches against alone."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from probes import newton
from probes.design import Design
from probes.lbfgs import Problem
from probes.method import make_targets, methods
from probes.methods import logistic
from probes.methods.logistic import ABSENT, Logistic
from tests.unit.logistic_oracle import (
    check_against_oracle,
    objective,
    oracle,
    problem,
)
from workbench.errors import ProbeError


def splits(n: int) -> Tensor:
    """All inputs; without every third; and with fractional weights."""
    keep = torch.ones(3, n, dtype=torch.float64)
    keep[1, ::3] = 0
    keep[2] = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return keep


def test_two_classes_agree_with_scikit_learn_for_every_strength_split_site_and_label() -> None:
    x, targets = problem(2)
    design = Design(x, splits(240))
    fitted = Logistic().fit_many(design, targets, (1e-2, 1.0, 1e2))
    assert fitted.coef.shape == (3, 3, 2, 2, 2, 6)
    assert bool(fitted.convergence.converged.all())
    # The gap of 1e-12 x 100 (the objective at C = 1) is 1e-10 = 1/2 curvature x error^2, with
    # curvature 1 at least: an error of 1e-5 at most; 1e-4 at C = 100.
    check_against_oracle(design, targets, fitted, 1e-4)
    assert bool((fitted.coef[..., 0, :] == 0).all())
    assert bool((fitted.intercept[..., 0] == 0).all())


def test_more_classes_agree_with_scikit_learn() -> None:
    x, targets = problem(4)
    design = Design(x, splits(240)[1:])
    fitted = Logistic().fit_many(design, targets, (1e-2, 1.0))
    assert bool(fitted.convergence.converged.all())
    check_against_oracle(design, targets, fitted, 1e-4)
    # Rows sum to 0 at the minimum; the error of each is at most 1e-5 as above.
    assert float(fitted.coef.sum(-2).abs().max()) < 1e-4


def test_l_bfgs_for_many_classes_agrees_with_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "JOINT", 0)
    x, targets = problem(5, labels=1)
    design = Design(x, splits(240)[1:])
    fitted = Logistic().fit_many(design, targets, (1e-2, 1.0))
    assert bool(fitted.convergence.converged.all())
    check_against_oracle(design, targets, fitted, 1e-4)


def test_many_inputs_are_sampled_first_and_end_at_the_same_minimum() -> None:
    x, targets = problem(2, n=2000, sites=2, labels=2)
    assert 2000 > 2 * newton.HESSIAN_ROWS * 7  # so that it does sample
    design = Design(x, splits(2000)[1:])
    probe = Logistic()
    fitted = probe.fit_many(design, targets, (1e-2, 1.0))
    assert bool(fitted.convergence.converged.all())
    # Gap 1e-12 x 1000 and curvature at least 1: errors of 4e-5 at most.
    check_against_oracle(design, targets, fitted, 1e-4)
    other = probe.fit_many(design, targets, (1e-2, 1.0), seed=1)
    torch.testing.assert_close(other.coef, fitted.coef, rtol=0, atol=1e-4)


def test_threads_share_the_sites_and_are_given_back() -> None:
    x, targets = problem(2, n=400, sites=3)
    design = Design(x, torch.ones(1, 400, dtype=torch.float64))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = Logistic().fit_many(design, targets, (1.0,))
        torch.set_num_threads(2)
        with torch.no_grad():
            shared = Logistic().fit_many(design, targets, (1.0,))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    # Same steps, other rounding (matrix products of other shapes).
    torch.testing.assert_close(shared.coef, alone.coef, rtol=1e-7, atol=1e-9)


def test_a_rare_class_that_the_sample_may_miss() -> None:
    x, _ = problem(2, n=2000, sites=1, labels=1)
    y = torch.zeros(1, 2000, dtype=torch.long)
    y[0, x[0, :, 0].topk(3).indices] = 1
    targets = make_targets(y, torch.arange(2))
    design = Design(x, torch.ones(1, 2000, dtype=torch.float64))
    fitted = Logistic().fit_many(design, targets, (1.0,))
    assert bool(fitted.convergence.converged.all())
    check_against_oracle(design, targets, fitted, 1e-4)


def test_one_variable_by_hand() -> None:
    """x = -1 and 1, told apart: w = C n / (1 + e^w) and b = 0, by symmetry."""
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(3, 1)
    probe = Logistic(C=0.5).fit(x, torch.tensor([0, 1] * 3))
    w = optimize.brentq(lambda w: w - 3 / (1 + math.exp(w)), 0, 3, xtol=1e-14)
    # Curvature above 1 and gap 1e-12 x 2: an error of 2e-6 at most.
    assert float(probe.coef_[0, 0]) == pytest.approx(w, abs=2e-6)
    assert float(probe.intercept_[0]) == pytest.approx(0, abs=2e-6)
    expected = 3 * math.log1p(math.exp(-w)) + w * w / 2
    assert float(probe.fitted_.convergence.objective) == pytest.approx(expected, rel=1e-11)
    assert probe.get_params() == {"C": 0.5, "tolerance": None}


def test_constant_activations_give_the_share_of_each_class() -> None:
    """Weights 0, and scores whose softmax are the classes' shares; the entropy is the objective."""
    x = torch.full((1, 12, 3), 5.0, dtype=torch.float64)
    shares = torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
    y = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    probe = Logistic(C=2.0).fit(x, y)
    assert float(probe.coef_.abs().max()) < 1e-12
    torch.testing.assert_close(probe.intercept_[0].softmax(-1), shares)
    entropy = -float((shares * shares.log()).sum())
    assert float(probe.fitted_.convergence.objective) == pytest.approx(2 * 12 * entropy, rel=1e-12)


def test_a_class_without_inputs_is_never_predicted_and_does_not_disturb() -> None:
    x, targets = problem(4, labels=1)
    weights = torch.ones(2, 240, dtype=torch.float64)
    weights[1, targets.classes[0] == 2] = 0
    fitted = Logistic().fit_many(Design(x, weights), targets, (1.0,))
    assert bool((fitted.coef[0, 1, :, 0, 2] == 0).all())
    assert bool((fitted.intercept[0, 1, :, 0, 2] == ABSENT).all())
    probability = fitted.scores(x, strength=0, split=1).softmax(-1)[..., 2]
    assert float(probability.max()) < math.exp(ABSENT)
    # The others are fitted as if it did not exist.
    keep = targets.classes[0] != 2
    remaining = targets.classes[0][keep]
    y = torch.where(remaining > 2, remaining - 1, remaining)
    for site in range(2):
        best = oracle(x[site, keep], y, torch.ones(len(y)), 1.0)
        rows = fitted.coef[0, 1, site, 0, [0, 1, 3]]
        torch.testing.assert_close(rows, torch.from_numpy(best.coef_), rtol=0, atol=1e-4)


def test_two_of_three_classes_left_are_still_a_row_each() -> None:
    """Rows w and -w: the penalty is that of one row of 2 w at half C."""
    x, targets = problem(3, labels=1, sites=1)
    weights = (targets.classes != 2).double()
    fitted = Logistic().fit_many(Design(x, weights), targets, (1.0,))
    keep = weights[0] > 0
    best = oracle(x[0, keep], targets.classes[0, keep], torch.ones(int(keep.sum())), 2.0)
    difference = fitted.coef[0, 0, 0, 0, 1] - fitted.coef[0, 0, 0, 0, 0]
    torch.testing.assert_close(difference, torch.from_numpy(best.coef_)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("k", [2, 3])
def test_separable_classes_stay_finite(k: int) -> None:
    x, _ = problem(2, labels=1, sites=1, n=60)
    y = (x[0, :, 0].argsort().argsort() * k // 60)[None]
    design = Design(x, torch.ones(1, 60, dtype=torch.float64))
    targets = make_targets(y, torch.arange(k))
    fitted = Logistic().fit_many(design, targets, (1e4,))
    assert bool(fitted.convergence.converged.all())
    assert bool((fitted.scores(x, strength=0, split=0)[0, 0].argmax(-1) == y[0]).all())
    # The objective is small here (about 300), weights large (about 20).
    check_against_oracle(design, targets, fitted, 1e-3)


@pytest.mark.parametrize("k", [2, 4])
def test_a_probe_alone_is_the_same_as_in_a_batch(k: int) -> None:
    """Whatever else is fitted: other strengths, sites and labels, in whatever order."""
    x, targets = problem(k, sites=3, labels=3)
    weights = splits(240)
    probe, strengths = Logistic(), (1e-2, 1.0, 1e2)
    batch = probe.fit_many(Design(x, weights), targets, strengths)
    alone_targets = make_targets(targets.classes[1:2], targets.values)
    alone = probe.fit_many(Design(x[2:], weights[2:]), alone_targets, (1.0,))
    # Same steps, other rounding (matrix products of other shapes).
    torch.testing.assert_close(batch.coef[1, 2, 2, 1], alone.coef[0, 0, 0, 0], rtol=1e-7, atol=1e-9)
    assert int(batch.convergence.iterations[1, 2, 2, 1]) == int(alone.convergence.iterations)
    turned = probe.fit_many(
        Design(x.flip(0), weights.flip(0)),
        make_targets(targets.classes.flip(0), targets.values),
        strengths[::-1],
    )
    torch.testing.assert_close(turned.coef.flip(0, 1, 2, 3), batch.coef, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_small_memory_changes_nothing(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, targets = problem(k)
    design = Design(x, splits(240))
    whole = Logistic().fit_many(design, targets, (1.0, 1e2))
    for name in ("CACHE_BYTES", "SAMPLE_BYTES", "DEVICE_BYTES"):
        monkeypatch.setattr(logistic, name, 1)
    monkeypatch.setattr(newton, "HESSIAN_BYTES", 1)
    pieces = Logistic().fit_many(design, targets, (1.0, 1e2))
    torch.testing.assert_close(pieces.coef, whole.coef, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_duplicated_inputs_weigh_twice(k: int) -> None:
    x, targets = problem(k, sites=1, labels=1)
    weight = torch.where(torch.arange(240) < 30, 2.0, 1.0)
    weighted = Logistic().fit(x[0], targets.classes[0], sample_weight=weight)
    y = targets.classes[0]
    twice = Logistic().fit(torch.cat([x[0], x[0, :30]]), torch.cat([y, y[:30]]))
    # Same steps, other rounding.
    torch.testing.assert_close(weighted.coef_, twice.coef_, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(weighted.intercept_, twice.intercept_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("k", "joint"), [(2, 512), (4, 512), (4, 0)])
def test_float32_comes_close_to_float64(
    k: int, joint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "JOINT", joint)
    x, targets = problem(k, labels=1, n=1000)
    single = Design(x.float(), torch.ones(1, 1000))
    double = Design(single.x.double(), torch.ones(1, 1000))
    low = Logistic().fit_many(single, targets, (1e-2, 1.0))
    high = Logistic().fit_many(double, targets, (1e-2, 1.0))
    assert low.coef.dtype == torch.float32
    assert bool(low.convergence.converged.all())
    for i, C in enumerate(low.strengths):
        for site in range(2):
            first = 1 if k == 2 else 0
            rows = (low.coef[i, 0, site, 0, first:], low.intercept[i, 0, site, 0, first:])
            reached = objective(double.x[site], targets.classes[0], double.weights[0], C, *rows)
            best = float(high.convergence.objective[i, 0, site, 0])
            # Stops at 1e-9; gradients in float32 add to that far less than as much again.
            assert reached <= best * (1 + 3e-9)


@pytest.mark.parametrize("k", [2, 4])
def test_the_gap_says_how_far_the_minimum_is(k: int) -> None:
    x, targets = problem(k)
    design = Design(x, splits(240))
    rough = Logistic(tolerance=1e-3).fit_many(design, targets, (1e-2, 1.0)).convergence
    fine = Logistic().fit_many(design, targets, (1e-2, 1.0)).convergence
    true = rough.objective - fine.objective
    far = true > 1e-9 * fine.objective
    assert int(far.sum()) > len(far.flatten()) // 2
    # To second order, with what the gap leaves out (third derivatives, learned curvature).
    ratio = rough.gap[far] / true[far]
    assert 0.5 < float(ratio.min()) and float(ratio.max()) < 3
    assert bool((fine.iterations > rough.iterations).all())


@pytest.mark.parametrize("k", [1, 3])
def test_hessians_are_second_derivatives(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 30, 4, generator=generator, dtype=torch.float64)
    x[..., -1] = 1
    made = Problem(
        x=x,
        cost=torch.rand(1, 30, generator=generator, dtype=torch.float64),
        classes=torch.randint(max(k, 2), (1, 30), generator=generator),
        trained=torch.ones(1, k, dtype=torch.bool),
    )
    at = torch.randn(1, 1, k, 4, generator=generator, dtype=torch.float64)

    def value(flat: Tensor) -> Tensor:
        z = flat.reshape(k, 4) @ x[0].T
        z = torch.cat([torch.zeros_like(z), z]) if k == 1 else z
        loss = z.logsumexp(0) - z.gather(0, made.classes)[0]
        return made.cost[0] @ loss + flat.reshape(k, 4)[:, :3].square().sum() / 2

    flat = at.flatten()
    true = torch.autograd.functional.hessian(value, flat)
    gradient = made.gradient(made.logits(at), at)
    torch.testing.assert_close(gradient.flatten(), torch.autograd.functional.jacobian(value, flat))
    blocks = newton.hessian(made, made.logits(at))[0, 0]
    for row in range(k):
        block = true.reshape(k, 4, k, 4)[row, :, row]
        torch.testing.assert_close(blocks[row], block)
    if k > 1:
        regular = torch.zeros(k, 4, k, 4, dtype=torch.float64)
        regular[:, -1, :, -1] = made.cost.mean() / k
        joint = newton.joint_hessian(made, made.logits(at))[0, 0]
        torch.testing.assert_close(joint, true + regular.reshape(k * 4, k * 4))


def test_the_face_of_scikit_learn() -> None:
    x, targets = problem(2, labels=1, sites=1)
    y = torch.tensor([3, 8])[targets.classes[0]]
    probe = methods.get("logistic")().fit(x[0], y)
    best = oracle(x[0], y, torch.ones(240), 1.0)
    assert probe.coef_.shape == (1, 6) and probe.intercept_.shape == (1,)
    assert (probe.predict(x[0]).numpy() == best.predict(x[0].numpy())).all()
    shares = probe.decision_function(x[0]).softmax(-1)
    np.testing.assert_allclose(shares.numpy(), best.predict_proba(x[0].numpy()), atol=1e-5)


def test_what_cannot_be_fitted_is_refused_in_one_line() -> None:
    x, targets = problem(3, labels=2)
    weights = torch.ones(2, 240, dtype=torch.float64)
    weights[1] = (targets.classes[1] == 2).double()
    with pytest.raises(ProbeError, match=r"'label_1' is 2 on all training inputs of split 1"):
        Logistic().fit_many(Design(x, weights), targets, (1.0,))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ProbeError, match="must be above 0 and finite"):
            Logistic(C=bad).fit(x, targets.classes)
    with pytest.raises(ProbeError, match="tolerance"):
        Logistic(tolerance=0.0).fit(x, targets.classes)

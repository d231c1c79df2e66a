"""Logistic probes against scikit-learn, against sums done by hand, and in batches against alone."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes import newton
from probes.design import Design, Targets
from probes.few_passes import few_passes, sampled_evenly
from probes.lbfgs import Problem, Solution
from probes.method import LinearFitted, make_targets, methods
from probes.methods import logistic
from probes.methods.logistic import ABSENT, Logistic
from workbench.errors import ProbeError

# What every fit is held to: an objective within 1e-8 of scikit-learn's, relative to it. The probes
# stop at 1e-12; what is left is for scikit-learn.
OBJECTIVE = 1e-8


def problem(
    k: int, *, n: int = 240, d: int = 6, sites: int = 2, labels: int = 2, seed: int = 0
) -> tuple[Tensor, Targets]:
    """Activations with a mean and unequal spread, and classes drawn from a softmax of them."""
    generator = torch.Generator().manual_seed(seed)
    spread = 3 / torch.arange(1, d + 1)
    x = torch.randn(sites, n, d, generator=generator, dtype=torch.float64) * spread + 2
    rows = torch.randn(labels, k, d, generator=generator, dtype=torch.float64)
    noise = -torch.empty(labels, k, n, dtype=torch.float64).exponential_(generator=generator).log()
    classes = (rows @ (x[0] - 2).T + noise).argmax(1)
    return x, make_targets(classes, torch.arange(k))


def objective(x: Tensor, y: Tensor, w: Tensor, C: float, coef: Tensor, intercept: Tensor) -> float:
    """The definition, in numpy and float64; `coef` has one row for two classes."""
    z = x.double().numpy() @ coef.double().numpy().T + intercept.double().numpy()
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], 1)
    loss = np.logaddexp.reduce(z, 1) - z[np.arange(len(z)), y.numpy()]
    penalty = (coef.double().numpy() ** 2).sum() / 2
    return float(C * (w.double().numpy() * loss).sum() + penalty)


def oracle(x: Tensor, y: Tensor, w: Tensor, C: float) -> LogisticRegression:
    solver = "newton-cholesky" if len(y.unique()) == 2 else "newton-cg"
    made = LogisticRegression(C=C, solver=solver, tol=1e-10, max_iter=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # line searches that end at rounding
        return made.fit(x.numpy(), y.numpy(), sample_weight=w.numpy())


def check_against_oracle(
    design: Design, targets: Targets, fitted: LinearFitted, coef_tolerance: float
) -> None:
    first = 1 if targets.n_classes == 2 else 0
    for i, C in enumerate(fitted.strengths):
        for at in np.ndindex(design.n_splits, design.n_sites, len(targets.names)):
            split, site, label = at
            x, y, w = design.x[site], targets.classes[label], design.weights[split]
            coef, intercept = fitted.coef[i][at][first:], fitted.intercept[i][at][first:]
            best = oracle(x, y, w, C)
            best_coef, best_intercept = map(torch.from_numpy, (best.coef_, best.intercept_))
            ours = objective(x, y, w, C, coef, intercept)
            theirs = objective(x, y, w, C, best_coef, best_intercept)
            assert ours <= theirs * (1 + OBJECTIVE)
            assert float(fitted.convergence.objective[i][at]) == pytest.approx(ours, rel=1e-12)
            torch.testing.assert_close(coef, best_coef, rtol=0, atol=coef_tolerance)


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


def rows_of(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    return model.coef_, model.intercept_


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

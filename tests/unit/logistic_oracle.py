"""Logistic problems, and scikit-learn's answers to them."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes.design import Design, Targets
from probes.method import LinearFitted, make_targets

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


def rows_of(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    return model.coef_, model.intercept_

"""scikit-learn's side of `tests.bench.probes`, used as well as it can be.

Ridge: one multi-output fit per (site, fold, penalty) over the one-hot columns of all label sets.
Both probes: one BLAS thread per worker and as many workers as threads, processes
(`mode="processes"`) or threads, which need no copies of the activations (`mode="threads"`); or one
process whose BLAS has all threads (`mode="blas"`).
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

Array = np.ndarray[Any, Any]
Mode = Literal["blas", "processes", "threads"]
MODES: tuple[Mode, ...] = ("blas", "processes", "threads")
TOLERANCES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)


class RidgeSite(NamedTuple):
    """Of one site."""

    coef: Array
    """`[strength, fold, label x k, d]`"""
    figure: Array
    """`[strength, fold, label]`: R² or accuracy on the fold held out."""


def ridge_sites(
    x: Array,
    classes: Array,
    k: int,
    fold: Array,
    alphas: Sequence[float],
    figure: str,
    mode: Mode,
    threads: int,
) -> tuple[float, list[RidgeSite]]:
    """Seconds, and what was fitted, for `x` `[site, n, d]` and `classes` `[label, n]`."""
    given = (classes, k, fold, tuple(alphas), figure)
    return _every_site(_ridge_site, [(one, *given) for one in x], mode, threads)


def _ridge_site(
    x: Array, classes: Array, k: int, fold: Array, alphas: Sequence[float], figure: str
) -> RidgeSite:
    n_labels, n = classes.shape
    y = np.zeros((n, n_labels, k), dtype=x.dtype)
    for label in range(n_labels):
        y[np.arange(n), label, classes[label]] = 1
    folds = range(int(fold.max()) + 1)
    figures = np.empty((len(alphas), len(folds), n_labels))
    coef = np.empty((len(alphas), len(folds), n_labels * k, x.shape[1]), dtype=x.dtype)
    for f in folds:
        held = fold == f
        train, test, y_train, y_test = (
            x[~held],
            x[held],
            y[~held].reshape(-1, n_labels * k),
            y[held],
        )
        for i, alpha in enumerate(alphas):
            model = Ridge(alpha=alpha).fit(train, y_train)
            scores = model.predict(test).reshape(y_test.shape)
            if figure == "accuracy":
                figures[i, f] = (scores.argmax(2).T == classes[:, held]).mean(1)
            else:
                error = ((y_test - scores) ** 2).sum((0, 2), dtype=np.float64)
                spread = ((y_test - y_test.mean(0)) ** 2).sum((0, 2), dtype=np.float64)
                figures[i, f] = 1 - error / spread
            coef[i, f] = model.coef_
    return RidgeSite(coef, figures)


class Line(NamedTuple):
    """A binary logistic probe."""

    coef: Array
    intercept: float


def logistic_sites(
    x: Array, y: Array, solver: str, tolerance: float, mode: Mode, threads: int
) -> tuple[float, list[Line]]:
    """Seconds, and the probe of every site."""
    return _every_site(_logistic_site, [(one, y, solver, tolerance) for one in x], mode, threads)


def _logistic_site(x: Array, y: Array, solver: str, tolerance: float) -> Line:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # line searches that end at rounding
        model = LogisticRegression(solver=solver, tol=tolerance, max_iter=2000).fit(x, y)
    return Line(model.coef_[0], float(model.intercept_[0]))


def objective(x: Array, y: Array, line: Line) -> float:
    """Sum of losses and half the squared weights, C = 1, in float64."""
    weights = line.coef.astype(np.float64)
    z = x.astype(np.float64) @ weights + line.intercept
    return float((np.logaddexp(0, z) - y * z).sum() + weights @ weights / 2)


def best_objectives(x: Array, y: Array) -> list[float]:
    """The minimum of every site, by Newton's method in float64."""
    return [
        objective(one, y, _logistic_site(one.astype(np.float64), y, "newton-cholesky", 1e-12))
        for one in x
    ]


def largest_gap(
    x: Array, y: Array, lines: Sequence[Line], best: Sequence[float] | None = None
) -> float:
    """How far above their minimum objectives are, relative to it, where that is most."""
    return max(
        objective(one, y, line) / least - 1
        for one, line, least in zip(x, lines, best or best_objectives(x, y), strict=True)
    )


def loosest_tolerance(
    x: Array, y: Array, solver: str, best: Sequence[float], gap: float
) -> tuple[float, float]:
    """The loosest tolerance with every site within `gap`, and the largest gap there.

    Where none is (in float32, line searches may end early): that with the smallest gap.
    """
    found = []
    for tolerance in TOLERANCES:
        lines = [_logistic_site(one, y, solver, tolerance) for one in x]
        found.append((largest_gap(x, y, lines, best), -tolerance))
        if found[-1][0] <= gap:
            break
    worst, tolerance = found[-1] if found[-1][0] <= gap else min(found)
    return -tolerance, worst


def _every_site(
    step: Any, arguments: list[tuple[Any, ...]], mode: Mode, threads: int
) -> tuple[float, list[Any]]:
    if mode == "blas":
        start = time.perf_counter()
        made = [step(*one) for one in arguments]
        return time.perf_counter() - start, made
    if mode == "threads":
        with threadpool_limits(1), joblib.parallel_config("threading", n_jobs=threads):
            start = time.perf_counter()
            made = joblib.Parallel()(joblib.delayed(step)(*one) for one in arguments)
            return time.perf_counter() - start, made
    with joblib.parallel_config("loky", n_jobs=threads, inner_max_num_threads=1):
        joblib.Parallel()(joblib.delayed(int)() for _ in range(threads))  # workers start
        start = time.perf_counter()
        made = joblib.Parallel()(joblib.delayed(step)(*one) for one in arguments)
        return time.perf_counter() - start, made

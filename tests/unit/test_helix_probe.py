"""Helix probes, and how much of the activations they rebuild, against scikit-learn and numpy."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from probes.design import Design
from probes.method import make_targets
from probes.methods.helix import Helix, helix_basis, helix_fit
from probes.methods.ridge import Ridge as OneHotRidge
from tests.unit.wave_problems import (
    ALPHAS,
    EXACT,
    LABELS,
    SITES,
    SPLITS,
    WIDTH,
    N,
    every_probe,
    halves,
    problem,
    values_of,
)
from workbench.errors import ProbeError


def explicit(values: np.ndarray, columns: tuple[str, ...], line: tuple[int, int]) -> np.ndarray:
    """The named columns of B(v), computed one by one."""
    low, high = line
    made = []
    for column in columns:
        if column == "v":
            made.append((2 * values - low - high) / (high - low))
        else:
            wave, period = column.split()
            made.append(getattr(np, wave)(2 * np.pi * values / float(period)))
    return np.stack(made, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (list(range(100)), "v, cos 2, cos 5, sin 5, cos 10, sin 10, cos 100, sin 100"),
        (list(range(99)), "v, cos 2, cos 5, sin 5, cos 10, sin 10"),  # 100 does not go round
        (list(range(5)), "v, cos 2, cos 5, sin 5"),  # 4 columns and 1 are all functions
        (list(range(3)), "v, cos 2"),
        ([4, 9], "v"),
        (list(range(0, 50, 10)), "v"),  # periods 2, 5 and 10 are constant on tens
        (list(range(0, 60, 5)), "v, cos 2"),  # on fives, cos 10 equals cos 2
    ],
)  # fmt: skip
def test_redundant_columns_of_the_helix_are_dropped(values: list[int], expected: str) -> None:
    basis, columns = helix_basis(torch.tensor(values))
    assert ", ".join(columns) == expected
    by_hand = explicit(np.array(values), columns, (values[0], values[-1]))
    np.testing.assert_allclose(basis, by_hand, rtol=0, atol=1e-10)
    assert np.linalg.matrix_rank(np.c_[np.ones(len(values)), by_hand], tol=1e-6) == len(columns) + 1


def test_helix_predictions_are_ridge_and_scores_the_nearest_point_of_the_helix() -> None:
    # oracle: activations regressed on B(v), Mahalanobis distance in the noise that is left
    design, targets = problem(list(range(12)))
    fitted = Helix().fit_many(design, targets, ALPHAS)
    all_points = explicit(np.arange(12), fitted.columns, (0, 11))
    assert all_points.shape == (12, 6) and WIDTH > 6
    for s, split, site, label in every_probe():
        x, weight = design.x[site].numpy(), design.weights[split].numpy()
        y = values_of(targets, label)
        ridge = Ridge(ALPHAS[s]).fit(x, all_points[y], sample_weight=weight)
        np.testing.assert_allclose(fitted.coef[s, split, site, label], ridge.coef_, EXACT, 1e-12)
        encode = LinearRegression().fit(all_points[y], x, sample_weight=weight)
        left = x - encode.predict(all_points[y])
        noise = (left * weight[:, None]).T @ left + ALPHAS[s] * np.eye(WIDTH)
        off = x[:, None] - encode.predict(all_points)[None]
        expected = -0.5 * weight.sum() * np.einsum("nki,ij,nkj->nk", off, np.linalg.inv(noise), off)
        scores = fitted.scores(design.x, strength=s, split=split)[site, label].numpy()
        # up to a constant per input
        scores, expected = (part - part.mean(1, keepdims=True) for part in (scores, expected))
        np.testing.assert_allclose(scores, expected, rtol=1e-7, atol=1e-7)


def helix_activations(n_values: int, noise: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    values = torch.arange(n_values).repeat(4)
    points = explicit(values.numpy(), HELIX_COLUMNS, (0, n_values - 1))
    into = torch.randn(len(HELIX_COLUMNS), 24, generator=generator).double()
    x = torch.from_numpy(points) @ into
    return x + noise * torch.randn(x.shape, generator=generator).double(), values


HELIX_COLUMNS = ("v", "cos 2", "cos 5", "sin 5", "cos 10", "sin 10", "cos 100", "sin 100")


def test_helix_decodes_planted_numbers_never_seen_in_training() -> None:
    x, values = helix_activations(100, 0.05)
    unseen = values % 7 == 3
    targets = make_targets(values[None], torch.arange(100))
    fitted = Helix().fit_many(Design(x[None], 1.0 * ~unseen[None]), targets, [1e-3])
    predicted = fitted.scores(x[None], strength=0, split=0)[0, 0].argmax(-1)
    # the point of a number is known from its neighbours: what one-hot ridge cannot do at all
    assert (predicted == values)[unseen].double().mean() == 1.0
    ridge = OneHotRidge().fit_many(Design(x[None], 1.0 * ~unseen[None]), targets, [1e-3])
    assert not (ridge.scores(x[None], strength=0, split=0)[0, 0].argmax(-1) == values)[unseen].any()


def test_helix_without_noise_is_exact_in_float32() -> None:
    x, values = helix_activations(100, 0.0)
    probe = Helix(alpha=1e-2).fit(x.float(), values)
    assert probe.decision_function(x.float()).dtype == torch.float32
    assert probe.score(x.float(), values).item() == 1.0


def test_reconstruction_r2_is_least_squares_on_explicit_columns() -> None:
    design, targets = problem(list(range(12)), seed=2)
    others = Design(design.x, torch.rand(SPLITS, N).double())
    for n_components, held_out in product((None, 4), (None, others)):
        fit = helix_fit(design, targets, n_components=n_components, held_out=held_out, n_draws=2)
        v = np.arange(12.0)
        bases = {
            "helix": explicit(v, fit.columns, (0, 11)),
            "polynomial": np.stack([(v / 11) ** d for d in range(1, 7)], 1),
            # periods 2, 5 and 10 of the helix are 5 columns; the circle of 12 gives one more
            "circles": explicit(
                v, ("cos 2", "cos 5", "sin 5", "cos 10", "sin 10", "cos 12"), (0, 11)
            ),
            "class_means": np.eye(12)[:, 1:],
        }
        assert len(fit.columns) == 6
        measured = design if held_out is None else held_out
        for split, site, label in product(range(SPLITS), range(SITES), range(LABELS)):
            weight = design.weights[split].numpy()
            x, y = design.x[site].numpy(), values_of(targets, label)
            if n_components:
                x = x @ principal(x, weight)[:, :n_components]
            for name, basis in bases.items():
                oracle = LinearRegression().fit(basis[y], x, sample_weight=weight)
                expected = r2_score(
                    x,
                    oracle.predict(basis[y]),
                    sample_weight=measured.weights[split].numpy(),
                    multioutput="variance_weighted",
                )
                assert getattr(fit, name)[split, site, label].item() == pytest.approx(
                    expected, rel=1e-8
                )


def test_classes_that_a_split_lacks_do_not_blow_up_the_reconstruction() -> None:
    design, targets = problem(list(range(12)))
    few = targets.classes[0] < 4  # 4 classes: the 6 columns of B(v) have rank 3 there
    fit = helix_fit(Design(design.x, 1.0 * few[None]), targets)
    x, y = design.x[0][few].numpy(), values_of(targets, 0)[few.numpy()]
    exact = LinearRegression().fit(np.eye(12)[y], x).predict(np.eye(12)[y])
    expected = r2_score(x, exact, multioutput="variance_weighted")
    assert fit.helix[0, 0, 0].item() == pytest.approx(expected, rel=EXACT)
    # whether a rank shows is up to rounding: 50 splits of 1 to 5 classes
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(50, 12, generator=generator).argsort(1)
    some = (order < 1 + torch.arange(50)[:, None] % 5)[:, targets.classes[0]]
    weights = 30 * torch.rand(50, 12, generator=generator)[:, targets.classes[0]] * some
    everything = Design(design.x, torch.ones(1, N))
    beyond = helix_fit(Design(design.x, weights), targets, held_out=everything, n_draws=1)
    # what training says nothing of has slope 0 (least norm); rounding over rounding is any number
    assert beyond.helix[:, :, 0].min().item() > -20


def principal(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Principal axes in columns, largest first."""
    if (weight == 1).all():
        return PCA().fit(x).components_.T
    centred = (x - np.average(x, 0, weight)) * np.sqrt(weight)[:, None]
    return np.linalg.svd(centred)[2].T


def test_a_planted_helix_beats_as_many_other_columns() -> None:
    x, values = helix_activations(100, 0.3)
    train, test = halves(len(values))
    design = Design(x[None], train)
    targets = make_targets(values[None], torch.arange(100))
    fit = helix_fit(design, targets, held_out=Design(x[None], test), n_components=10)
    again = helix_fit(design, targets, held_out=Design(x[None], test), n_components=10)
    assert fit.columns == HELIX_COLUMNS
    # noise of variance 0.09 beside 8 columns of variance 1/3 to 1 with unit weights: 0.02
    assert fit.helix.item() > 0.97
    # circles of periods 100 and 50 make most of a line of variance 1/3: they lack some of 0.1 in 4
    assert 0.9 < fit.circles.item() < 0.97
    # v and the longest circle only, which have under a third of the variance
    assert max(fit.polynomial.item(), fit.random_periods.max().item()) < 0.4
    assert torch.equal(fit.random_periods, again.random_periods)
    assert fit.random_periods.unique().numel() == 8


def test_activations_without_structure_have_no_reconstruction() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 400, 16, generator=generator).double()
    targets = make_targets(torch.arange(100).repeat(4)[None], torch.arange(100))
    train, test = halves(400)
    fit = helix_fit(Design(x, train), targets, held_out=Design(x, test))
    # 8 columns and a mean fitted to nothing on 200 inputs: about -9/200 on others
    assert -0.12 < fit.helix.item() < 0.0


def test_components_and_draws_that_there_are_not_are_refused() -> None:
    design, targets = problem([0, 1, 2])
    with pytest.raises(ProbeError, match=f"give 1 to {WIDTH}"):
        helix_fit(design, targets, n_components=WIDTH + 1)
    with pytest.raises(ProbeError, match="0 draws"):
        helix_fit(design, targets, n_draws=0)

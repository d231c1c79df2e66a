"""Mass-mean probes against scikit-learn, and by hand."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from probes.design import Design
from probes.methods.mass_mean import MassMean
from tests.unit.probe_problems import (
    CELLS,
    EXACT,
    WIDTH,
    K,
    N,
    sample,
    scores_of,
    targets,
    two_splits,
)


def test_mass_mean_is_shrunk_discriminant_analysis() -> None:
    x, classes = sample()
    fresh, _ = sample(seed=1)
    weights, strengths = two_splits(), [0.05, 0.7]
    fitted = MassMean(prior="empirical").fit_many(Design(x, weights), targets(classes), strengths)
    for cell in CELLS:
        strength, split, site, label = cell
        rows = weights[split] > 0
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=strengths[strength])
        oracle.fit(x[site, rows].numpy(), classes[label, rows].numpy())
        expected = torch.as_tensor(oracle.predict_log_proba(fresh[site].numpy()))
        got = scores_of(fitted, fresh, cell).log_softmax(-1)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)  # as EXACT, scores of 100


def test_mass_mean_fully_shrunk_is_the_nearest_mean() -> None:
    x, classes = sample()
    fresh, _ = sample(seed=1)
    weights = two_splits()
    fitted = MassMean().fit_many(Design(x, weights), targets(classes), [1.0])
    for _, split, site, label in CELLS[:8]:
        rows = weights[split] > 0
        oracle = NearestCentroid().fit(x[site, rows].numpy(), classes[label, rows].numpy())
        got = scores_of(fitted, fresh, (0, split, site, label)).argmax(-1)
        assert got.tolist() == oracle.predict(fresh[site].numpy()).tolist()


def test_mass_mean_of_two_classes_by_hand() -> None:
    # Means (-1, 0) and (1, 0); within classes the deviations are (0, +-1) and (0, +-1): scatter
    # 4 on the second axis, covariance diag(0, 1), shrunk by 1 to trace / 2 = 1/2 on both.
    x = torch.tensor([[-1.0, 1], [-1, -1], [1, 1], [1, -1]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    probe = MassMean(shrinkage=1.0).fit(x, y)
    expected = torch.tensor([[-2.0, 0], [2, 0]], dtype=torch.float64)
    torch.testing.assert_close(probe.coef_, expected, **EXACT)
    # Covariance 1/2 (diag(0, 1) + I / 2) = diag(1/4, 3/4): the first axis counts four times.
    torch.testing.assert_close(MassMean(shrinkage=0.5).fit(x, y).coef_, 2 * expected, **EXACT)


def test_mass_mean_prior_moves_the_boundary_only() -> None:
    x, classes = sample()
    design, labels = Design(x, two_splits()), targets(classes)
    uniform, empirical = (
        MassMean(prior=prior).fit_many(design, labels, [0.5]) for prior in ("uniform", "empirical")
    )
    assert torch.equal(uniform.coef, empirical.coef)
    counts = design.class_moments(labels).weight
    share = (counts / counts.sum(-1, keepdim=True)).log()
    moved = (empirical.intercept - uniform.intercept)[0]
    torch.testing.assert_close(moved, share[:, None].expand_as(moved), **EXACT)


@pytest.mark.parametrize("prior", ["uniform", "empirical"])
def test_mass_mean_never_predicts_a_class_it_has_not_seen(prior: str) -> None:
    x, classes = sample()
    weights = torch.stack([(classes[0] != 3).double(), torch.ones(N, dtype=torch.float64)])
    probe = MassMean(prior="uniform" if prior == "uniform" else "empirical")
    fitted = probe.fit_many(Design(x, weights), targets(classes[:1]), [1e-3, 1.0])
    # So far out along each axis that any class with a score of its own would win somewhere.
    far = 1e6 * torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double().expand(2, -1, -1)
    for strength in range(2):
        without, with_all = (
            fitted.scores(torch.cat([far, x], 1), strength=strength, split=split)
            for split in range(2)
        )
        assert bool(without.isfinite().all())
        assert not bool((without.argmax(-1) == 3).any())
        assert bool((with_all.argmax(-1) == 3).any())


@pytest.mark.parametrize("shrinkage", [1e-3, 1.0])
def test_mass_mean_where_classes_do_not_vary_within(shrinkage: float) -> None:
    """As for the embedding of the very token that is the variable: still the nearest mean."""
    generator = torch.Generator().manual_seed(0)
    points = 3 + torch.randn(K, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.arange(N) % K
    fresh = points.repeat(5, 1) + 0.1 * torch.randn(5 * K, WIDTH, generator=generator)
    probe = MassMean(shrinkage=shrinkage).fit(points[y], y)
    nearest = torch.cdist(fresh, points).argmin(-1)
    assert probe.predict(fresh).tolist() == nearest.tolist()
    # In float32 the scatter within is rounding, of either sign: no metric at all.
    many = (torch.arange(5000) % K).sort().values
    rough = MassMean(shrinkage=shrinkage).fit(points.float()[many], many)
    assert rough.predict(fresh.float()).tolist() == nearest.tolist()
    # Activations that are the same for every input say nothing, and give no NaN.
    dead = MassMean(shrinkage=shrinkage).fit(torch.full((N, WIDTH), 0.1), y)
    assert bool((dead.coef_ == 0).all()) and bool(dead.intercept_.isfinite().all())

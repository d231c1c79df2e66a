"""PCA and sparse probes against scikit-learn."""

import torch
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from probes.design import Design
from probes.methods.pca import Pca
from probes.methods.sparse import Sparse, SparseFitted
from tests.unit.probe_problems import (
    CELLS,
    EXACT,
    K,
    planted,
    sample,
    scores_of,
    targets,
    two_splits,
)


def test_pca_is_a_pipeline_of_pca_and_ridge() -> None:
    x, classes = sample()
    fresh, _ = sample(seed=1)
    weights, strengths = two_splits(), [2.0, 5.0]
    fitted = Pca(alpha=0.3).fit_many(Design(x, weights), targets(classes), strengths)
    for cell in CELLS:
        strength, split, site, label = cell
        rows = weights[split] > 0
        inputs = x[site, rows].numpy()
        one_hot = torch.eye(K)[classes[label, rows]].double().numpy()
        oracle = make_pipeline(PCA(int(strengths[strength])), Ridge(alpha=0.3))
        oracle.fit(inputs, one_hot)
        expected = torch.as_tensor(oracle.predict(fresh[site].numpy()))
        torch.testing.assert_close(scores_of(fitted, fresh, cell), expected, **EXACT)
        weight = oracle[1].coef_
        minimum = ((oracle.predict(inputs) - one_hot) ** 2).sum() + 0.3 * (weight**2).sum()
        torch.testing.assert_close(
            float(fitted.convergence.objective[cell]), float(minimum), **EXACT
        )


def test_pca_misses_what_varies_little() -> None:
    """The classes differ along the direction of least variance: all components are needed."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64) * torch.tensor([9, 5, 0.1])
    x[:, 2] += y
    first = Pca(n_components=2).fit(x[:200], y[:200]).score(x[200:], y[200:])
    every = Pca(n_components=3).fit(x[:200], y[:200]).score(x[200:], y[200:])
    # The classes are 10 deviations apart on the third axis: no error. On the others: chance, 0.5
    # with a standard error of 0.035 on 200.
    assert float(every) == 1.0
    assert abs(float(first) - 0.5) < 0.15


def test_sparse_is_select_k_best_and_ridge() -> None:
    x, classes = sample()
    fresh, _ = sample(seed=1)
    weights, strengths = two_splits(), [1.0, 3.0]
    fitted = Sparse(alpha=0.3).fit_many(Design(x, weights), targets(classes), strengths)
    for cell in CELLS:
        strength, split, site, label = cell
        rows = weights[split] > 0
        selected = SelectKBest(f_classif, k=int(strengths[strength]))
        inputs = selected.fit_transform(x[site, rows].numpy(), classes[label, rows].numpy())
        assert fitted.chosen[cell].tolist() == selected.get_support().tolist()
        assert bool((fitted.coef[cell][:, ~fitted.chosen[cell]] == 0).all())
        one_hot = torch.eye(K)[classes[label, rows]].double().numpy()
        oracle = Ridge(alpha=0.3).fit(inputs, one_hot)
        expected = torch.as_tensor(oracle.predict(selected.transform(fresh[site].numpy())))
        torch.testing.assert_close(scores_of(fitted, fresh, cell), expected, **EXACT)
        residual = ((oracle.predict(inputs) - one_hot) ** 2).sum()
        minimum = residual + 0.3 * (oracle.coef_**2).sum()
        torch.testing.assert_close(
            float(fitted.convergence.objective[cell]), float(minimum), **EXACT
        )
    assert bool((fitted.chosen.sum(-1) == torch.tensor([1, 3])[:, None, None, None]).all())


def test_sparse_finds_planted_neurons_and_random_ones_do_not() -> None:
    x, y = planted(400, 0)
    fresh, truth = planted(1000, 1)
    ranked = Sparse(k=2).fit(x, y)
    assert isinstance(ranked.fitted_, SparseFitted)
    assert ranked.fitted_.coordinates(strength=0, split=0).tolist() == [[[5, 17]]]
    # Distance of the means sqrt(3^2 + 2^2): error Phi(-1.80) = 0.036, standard error 0.006.
    assert abs(float(ranked.score(fresh, truth)) - 0.964) < 0.02
    random = [Sparse(k=2, coordinates="random").fit(x, y, seed=seed) for seed in range(20)]
    drawn = [probe.fitted_.coordinates(strength=0, split=0).flatten().tolist() for probe in random]
    assert len({tuple(pair) for pair in drawn}) > 10  # seeds decide; 190 pairs
    assert {i for pair in drawn for i in pair} > {0, 1}
    for probe, pair in zip(random, drawn, strict=True):
        if not {5, 17} & set(pair):  # these see nothing: chance, standard error 0.016
            assert abs(float(probe.score(fresh, truth)) - 0.5) < 0.08


def test_sparse_never_ranks_a_constant_by_its_rounding() -> None:
    """0.1 is not a binary fraction, its mean is off by a rounding, and so is every deviation."""
    x, y = planted(301, 0)
    order = Sparse().fit_many(
        Design(x[None], torch.ones(1, 301, dtype=torch.float64)), targets(y[None], 2), [19.0]
    )
    assert order.chosen[0, 0, 0, 0].nonzero()[:, 0].tolist() == [i for i in range(20) if i != 3]
    # The same in a split that has another mean than all inputs.
    x[200:, 3] = 50.0
    weights = (torch.arange(301) < 200).double()[None]
    order = Sparse().fit_many(Design(x[None], weights), targets(y[None], 2), [19.0])
    assert not bool(order.chosen[0, 0, 0, 0, 3])

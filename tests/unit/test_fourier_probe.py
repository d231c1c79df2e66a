"""Fourier and circular probes, against scikit-learn and numpy on explicit features."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from probes.design import Design, Targets
from probes.method import Probe, make_targets
from probes.methods.fourier import Circular, Fourier, frequency_r2
from probes.methods.helix import Helix
from probes.methods.ridge import Ridge as OneHotRidge
from probes.periodic import choose_period, waves
from tests.unit.wave_problems import (
    ALPHAS,
    EXACT,
    LABELS,
    SPLITS,
    WIDTH,
    N,
    cyclic,
    every_probe,
    halves,
    problem,
    values_of,
)
from workbench.errors import ProbeError

# ---------------------------------------------------------------------- all frequencies


def test_ridge_and_r2_are_those_of_scikit_learn() -> None:
    design, targets = problem([0, 1, 2, 3, 5, 7])  # period 8: missing residues, and a half turn
    others = Design(
        design.x, torch.cat([torch.rand(1, N).double(), 1.0 * (design.weights[1:] == 0)])
    )
    fitted = Fourier().fit_many(design, targets, ALPHAS)
    inside, outside = (frequency_r2(fitted, inputs, targets) for inputs in (design, others))
    assert fitted.frequencies == (1, 2, 3, 4)
    for s, split, site, label in every_probe():
        x, weight = design.x[site].numpy(), design.weights[split].numpy()
        for i, f in enumerate(fitted.frequencies):
            y = cyclic(values_of(targets, label), f, 8)
            oracle = Ridge(ALPHAS[s]).fit(x, y, sample_weight=weight)
            own = slice(2 * i, 2 * i + 2)
            at = (s, split, site, label)
            np.testing.assert_allclose(fitted.coef[at][own], oracle.coef_, EXACT, 1e-12)
            np.testing.assert_allclose(fitted.intercept[at][own], oracle.intercept_, EXACT, 1e-12)
            for r2, inputs in ((inside, design), (outside, others)):
                expected = r2_score(
                    y,
                    oracle.predict(x),
                    sample_weight=inputs.weights[split].numpy(),
                    multioutput="variance_weighted",
                )
                assert r2[at][i].item() == pytest.approx(expected, rel=EXACT, abs=1e-10)


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [1, 2, 4, 6], [-3, -1, 2]])
def test_all_frequencies_score_as_ridge_on_one_hot_classes(values: list[int]) -> None:
    # the inverse Fourier transform of predicted waves; odd, even, and incomplete sets of residues
    design, targets = problem(values)
    fourier = Fourier().fit_many(design, targets, ALPHAS)
    one_hot = OneHotRidge().fit_many(design, targets, ALPHAS)
    for s, split in product(range(len(ALPHAS)), range(SPLITS)):
        scores = [f.scores(design.x, strength=s, split=split) for f in (fourier, one_hot)]
        torch.testing.assert_close(*scores, rtol=EXACT, atol=1e-10)


def test_the_class_predicted_is_the_nearest_in_the_chosen_waves() -> None:
    design, targets = problem([0, 1, 2, 3, 4, 5, 6])
    fitted = Fourier(frequencies=(3, 1)).fit_many(design, targets, [1.0])
    x, y = design.x[0].numpy(), values_of(targets, 0)
    truth = np.concatenate([cyclic(np.arange(7), f, 7) for f in (3, 1)], 1)
    predicted = Ridge(1.0).fit(x, truth[y]).predict(x)
    distance = ((predicted[:, None] - truth[None]) ** 2).sum(-1)
    scores = fitted.scores(design.x, strength=0, split=0)[0, 0]
    assert scores.argmax(-1).tolist() == distance.argmin(-1).tolist()
    # score = 1/P + 2/P z.e and distance = |z|^2 + |e|^2 - 2 z.e, with |e|^2 = 2 frequencies
    expected = (1 + (predicted**2).sum(-1, keepdims=True) + 2 - distance) / 7
    np.testing.assert_allclose(scores, expected, EXACT, 1e-12)


def clock(
    p: int, frequencies: list[int], noise: float, width: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Values 0 ... p - 1 eight times, each circle in its own random plane of the activations."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.arange(p).repeat(8)
    planes = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0]
    x = noise * torch.randn(len(values), width, generator=generator).double()
    for i, f in enumerate(frequencies):
        x += torch.from_numpy(cyclic(values.numpy(), f, p)) @ planes[2 * i : 2 * i + 2]
    return x, values


def test_a_clock_embedding_shows_its_five_frequencies_and_no_other() -> None:
    # per coordinate, noise 0.15 against waves of variance 1/2: R^2 of 0.5 / (0.5 + 0.0225) = 0.957
    planted = [4, 11, 23, 31, 52]
    x, values = clock(113, planted, 0.15, 32, seed=0)
    train, test = halves(len(values))
    targets = make_targets(values[None], torch.arange(113))
    fitted = Fourier(alpha=1.0).fit_many(Design(x[None], train), targets, [1.0])
    r2 = frequency_r2(fitted, Design(x[None], test), targets)[0, 0, 0, 0]
    found = {f for f, share in zip(fitted.frequencies, r2.tolist(), strict=True) if share > 0.9}
    assert found == set(planted)
    absent = [i for i, f in enumerate(fitted.frequencies) if f not in planted]
    assert len(absent) == 51 and r2[absent].max() < 0.1
    # noise alone: 32 coordinates fitted to 452 inputs predict with variance 32 / (452 - 34)
    assert r2[absent].mean().item() == pytest.approx(-32 / 418, abs=0.03)


def test_circles_of_two_variables_do_not_mix() -> None:
    p, generator = 11, torch.Generator().manual_seed(0)
    a, b = (torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p))
    circles = [torch.from_numpy(cyclic(v.numpy(), f, p)) for v, f in ((a, 2), (b, 5))]
    mix = torch.randn(4, 9, generator=generator).double()
    x = torch.cat(circles, 1) @ mix
    targets = make_targets(torch.stack([a, b]), torch.arange(p))
    # all pairs (a, b): circles of different variables or frequencies are exactly orthogonal
    everything = Design(x[None], torch.ones(1, p * p))
    fitted = Fourier().fit_many(everything, targets, [1e-9])
    r2 = frequency_r2(fitted, everything, targets)[0, 0, 0]
    expected = torch.zeros(2, 5, dtype=torch.float64)
    expected[0, 2 - 1] = expected[1, 5 - 1] = 1.0
    torch.testing.assert_close(r2, expected, rtol=0, atol=1e-8)
    # held out: half of the pairs never seen
    train, test = halves(p * p)
    fitted = Fourier().fit_many(Design(x[None], train), targets, [1e-6])
    r2 = frequency_r2(fitted, Design(x[None], test), targets)[0, 0, 0]
    assert torch.equal(r2 > 0.999, expected == 1)
    # 4 directions fitted to nothing on 60 inputs explain nothing of 61 others
    assert r2[expected == 0].max() < 0.1


def test_one_held_out_split_serves_all() -> None:
    design, targets = problem([0, 1, 2])
    one = Design(design.x, torch.ones(1, N))
    each = Design(design.x, torch.ones(SPLITS, N))
    fitted = Fourier().fit_many(design, targets, ALPHAS)
    together = frequency_r2(fitted, one, targets)
    torch.testing.assert_close(together, frequency_r2(fitted, each, targets))
    with pytest.raises(ProbeError, match="held-out design of 2 splits"):
        frequency_r2(fitted, Design(design.x, torch.ones(2, N)), targets)


def test_a_circle_that_does_not_vary_has_no_r2() -> None:
    design, targets = problem([0, 1, 2, 3])
    fitted = Fourier().fit_many(design, targets, [1.0])
    even = Design(design.x, (values_of_tensor(targets) % 2 == 0).double()[None])
    r2 = frequency_r2(fitted, even, targets)[0, :, :, 0]
    assert bool(r2[..., 1].isnan().all())  # frequency 2 of 4 tells even from odd, all are even
    assert bool(r2[..., 0].isfinite().all())


def values_of_tensor(targets: Targets) -> Tensor:
    return targets.values[targets.classes[0]]


# ---------------------------------------------------------------------- one circle


def test_circular_takes_the_best_training_frequency_and_reads_the_angle() -> None:
    design, targets = problem([0, 1, 2, 3, 4, 5])
    fitted = Circular().fit_many(design, targets, ALPHAS)
    tensors, chosen = fitted.tensors(), set()
    for s, split, site, label in every_probe():
        at = (s, split, site, label)
        x, weight = design.x[site].numpy(), design.weights[split].numpy()
        v = values_of(targets, label)
        fits = [Ridge(ALPHAS[s]).fit(x, cyclic(v, f, 6), sample_weight=weight) for f in (1, 2, 3)]
        r2 = [
            r2_score(
                cyclic(v, f, 6),
                fit.predict(x),
                sample_weight=weight,
                multioutput="variance_weighted",
            )
            for f, fit in zip((1, 2, 3), fits, strict=True)
        ]
        np.testing.assert_allclose(tensors["training_r2"][at], r2, EXACT)
        best = int(np.argmax(r2)) + 1
        assert tensors["frequency"][at].item() == best
        np.testing.assert_allclose(fitted.coef[at], fits[best - 1].coef_, EXACT, 1e-12)
        cosine, sine = fits[best - 1].predict(x).T
        turn = np.arctan2(sine, cosine)[:, None] - 2 * np.pi * best * np.arange(6) / 6
        scores = fitted.scores(design.x, strength=s, split=split)[site, label]
        np.testing.assert_allclose(
            scores, np.hypot(cosine, sine)[:, None] * np.cos(turn), EXACT, 1e-10
        )
        chosen.add(best)
    assert len(chosen) > 1  # the probes differ in what they choose


def test_circular_finds_a_planted_circle_and_its_values() -> None:
    x, values = clock(13, [5], 0.05, 8, seed=3)
    train, test = halves(len(values))
    probe = Circular(alpha=1e-3).fit(x[train[0] > 0], values[train[0] > 0])
    assert probe.fitted_.tensors()["frequency"].item() == 5
    # neighbours on the circle are 2 pi / 13 = 0.48 apart, the noise of the angle is 0.05
    assert probe.score(x[test[0] > 0], values[test[0] > 0]).item() == 1.0
    assert Circular(frequencies=(1, 2)).fit(x, values).fitted_.tensors()["frequency"].item() < 3


# ---------------------------------------------------------------------- values and periods


def test_the_period_follows_from_the_values() -> None:
    assert choose_period(torch.tensor([1, 4, 112]), None) == 113  # residues without 0
    assert choose_period(torch.tensor([-5, 0, 4]), None) == 10  # differences of digits
    assert choose_period(torch.tensor([0, 57]), 10) == 10


def test_waves_of_equal_residues_are_equal_and_orthogonal() -> None:
    table = waves(torch.tensor([3, 13, -7]), 10, range(1, 6))
    assert torch.equal(table[0], table[1]) and torch.equal(table[0], table[2])
    assert not table[0, 4, 1] and table[0, 4, 0] == -1  # half a turn: cos pi v, and no sine
    columns = waves(torch.arange(10), 10, range(1, 6)).flatten(1)
    norms = torch.tensor([5.0] * 8 + [10.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(columns.T @ columns, norms.diag(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("probe", "values", "message"),
    [
        (Fourier(period=1), [0, 1], "period 1 has one point"),
        (Fourier(frequencies=(3,)), [0, 1, 4], "different ones of 1 to 2"),
        (Circular(frequencies=()), [0, 1, 4], "different ones of 1 to 2"),
        (Fourier(frequencies=(1, 1)), [0, 1, 4], "different ones of 1 to 2"),
        (Fourier(), [0, 1_000_000], "500000 frequencies"),
        (Fourier(alpha=0.0), [0, 1], "alpha = 0"),
        (Helix(alpha=float("nan")), [0, 1], "alpha = nan"),
        (Helix(periods=(1.5,)), [0, 1], "period 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(
    probe: Probe, values: list[int], message: str
) -> None:
    design, targets = problem(values)
    with pytest.raises(ProbeError, match=message) as error:
        probe.fit_many(design, targets, [getattr(probe, probe.strength_name)])
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- all three


@pytest.mark.parametrize("probe", [Fourier(), Circular(), Helix()], ids=lambda probe: probe.name)
def test_the_face_of_scikit_learn(probe: Probe) -> None:
    design, targets = problem([2, 3, 5, 8, 9])
    x, y = design.x[0], values_of_tensor(targets)
    weight = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(4))
    probe.fit(x, y, sample_weight=weight)
    scores = probe.decision_function(x)
    assert probe.coef_.shape == (5, WIDTH)
    torch.testing.assert_close(x @ probe.coef_.T + probe.intercept_, scores)
    # a weight of 2 is the input twice, a weight of 0 is no input
    again = x.repeat_interleave(weight, 0), y.repeat_interleave(weight)
    torch.testing.assert_close(type(probe)().fit(*again).decision_function(x), scores)
    assert probe.get_params() == type(probe)().get_params()
    # chance is 1 / 5; class means of two labels and unit noise leave well over twice that
    assert probe.fit(x, y).score(x, y) > 0.4


@pytest.mark.parametrize("probe", [Fourier(), Circular(), Helix()], ids=lambda probe: probe.name)
def test_a_split_that_lacks_classes_and_a_batch_of_one_agree(probe: Probe) -> None:
    design, targets = problem(list(range(8)))
    weights = design.weights.clone()
    weights[1] *= targets.classes[0] < 3
    weights[2] = 0
    weights[2, 0] = 1.0  # a single input
    design = Design(design.x, weights)
    fitted = probe.fit_many(design, targets, ALPHAS)
    for s, split, label in product(range(len(ALPHAS)), range(SPLITS), range(LABELS)):
        alone = make_targets(targets.classes[label : label + 1], targets.values)
        one = probe.fit_many(Design(design.x[1:], weights[split : split + 1]), alone, [ALPHAS[s]])
        scores = one.scores(design.x[1:], strength=0, split=0)[0, 0]
        batched = fitted.scores(design.x, strength=s, split=split, labels=slice(label, label + 1))
        assert bool(batched.isfinite().all())
        if split < 2:  # of a single input nothing is learned: all classes tie, to rounding
            torch.testing.assert_close(scores, batched[1, 0])
        for name, tensor in fitted.tensors().items():
            torch.testing.assert_close(tensor[s, split, 1, label], one.tensors()[name][0, 0, 0, 0])


@pytest.mark.parametrize("probe", [Fourier(), Circular(), Helix()], ids=lambda probe: probe.name)
def test_float32_follows_float64(probe: Probe) -> None:
    wide = probe.fit_many(*problem([0, 1, 2, 3, 4]), ALPHAS)
    design, targets = problem([0, 1, 2, 3, 4], dtype=torch.float32)
    narrow = probe.fit_many(design, targets, ALPHAS)
    assert all(
        not t.is_floating_point() or t.dtype == torch.float32 for t in narrow.tensors().values()
    )
    for split in range(SPLITS):
        expected = wide.scores(design.x.double(), strength=0, split=split)
        scores = narrow.scores(design.x, strength=0, split=split)
        # 24 bits and Gram matrices of condition below 1e3: 1e-4 of the largest score
        torch.testing.assert_close(
            scores.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
        )

"""Intervals and tests against scipy's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench.stats import (
    EXACT_UP_TO,
    Z95,
    bootstrap_mean,
    false_discovery_q,
    mean_interval,
    sign_flip_p,
    wilson_interval,
)

few = settings(deadline=None, max_examples=60)


def test_the_95_percent_point_is_the_normal_distributions() -> None:
    assert Z95 == pytest.approx(stats.norm.ppf(0.975), abs=1e-15)


@few
@given(st.integers(1, 20_000), st.floats(0, 1))
def test_wilson_is_scipys(n: int, share: float) -> None:
    """The same closed form in float64: 1e-12 is thousands of roundings."""
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 100, 12_769, 10**9])
def test_wilson_stays_inside_zero_and_one(n: int) -> None:
    none, all_of_them = wilson_interval(0, n), wilson_interval(n, n)
    assert none[0] == 0.0 and 0 < none[1] < 1
    assert 0 < all_of_them[0] < 1 and all_of_them[1] == 1.0


def test_wilson_by_hand() -> None:
    """None of one: z^2 / (1 + z^2) above, from the formula with share 0 and n 1."""
    assert wilson_interval(0, 1) == pytest.approx((0.0, Z95**2 / (1 + Z95**2)), abs=1e-15)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (1, 0), (3, 2), (-1, 2), (0, -1)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
        wilson_interval(successes, n)


@few
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_mean_interval_is_scipys(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    mean, spread = float(tensor.mean()), float(tensor.std()) / math.sqrt(len(values))
    got = mean_interval(values)
    assert got is not None
    if spread == 0:
        assert got == pytest.approx((mean, mean))
        return
    expected = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=spread)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-9 * spread)


def test_the_mean_of_one_draw_has_no_interval() -> None:
    assert mean_interval([]) is None
    assert mean_interval([0.5]) is None


def test_equal_draws_have_a_point() -> None:
    assert mean_interval([0.25] * 5) == (0.25, 0.25)


def test_two_draws_by_hand() -> None:
    """0 and 2: mean 1, standard error 1, and t with one degree of freedom is Cauchy's."""
    half = math.tan(math.pi * (0.975 - 0.5))
    assert mean_interval([0.0, 2.0]) == pytest.approx((1 - half, 1 + half), rel=1e-12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(n: int, seed: int = 0) -> torch.Tensor:
    """Four cells of n values: symmetric, shifted, skewed, and heavy on one side."""
    noise = torch.randn(4, n, generator=generator(seed), dtype=torch.float64)
    return torch.stack([noise[0], noise[1] + 0.6, noise[2].exp(), -(noise[3] ** 2)])


@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_bootstrap_is_scipys_bca(n: int, confidence: float) -> None:
    """Ends are quantiles of 40,000 draws: their own error is a few hundredths of the spread.

    0.06 standard errors held over all seeds tried (where draws often tie with the mean, rounding
    decides in scipy, hence no smaller n). Without bias and acceleration it is off by up to 0.5.
    """
    values, n_draws = draws(n), 40_000
    low, high = bootstrap_mean(values, generator(), n_draws=n_draws, confidence=confidence)
    expected = stats.bootstrap(
        (values.numpy(),),
        lambda x, axis: x.mean(axis=axis),
        axis=-1,
        n_resamples=n_draws,
        confidence_level=confidence,
        method="BCa",
        rng=1,
    ).confidence_interval
    error = values.std(-1) / math.sqrt(n)
    for ours, theirs in ((low, expected.low), (high, expected.high)):
        assert ((ours - torch.from_numpy(theirs)).abs() / error).max() < 0.08


def test_the_bootstrap_of_two_values_by_hand() -> None:
    """Means of two draws from 0 and 1 are 0, 1/2, 1 with chances 1/4, 1/2, 1/4: symmetric, so
    neither bias nor acceleration matters and the 95 % interval is all of it."""
    low, high = bootstrap_mean(torch.tensor([[0.0, 1.0]]), generator())
    assert (low.tolist(), high.tolist()) == ([0.0], [1.0])


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    """Of 2000 normal samples of 40: BCa covers about 93.5 %; +-2 % is four standard errors."""
    values = torch.randn(2000, 40, generator=generator(3), dtype=torch.float64)
    low, high = bootstrap_mean(values, generator(4))
    assert abs(float(((low < 0) & (high > 0)).double().mean()) - 0.935) < 0.022


def test_what_the_bootstrap_makes_of_equal_values_and_of_one() -> None:
    low, high = bootstrap_mean(torch.full((2, 3, 5), 0.25), generator())
    assert low.shape == (2, 3) and (low == 0.25).all() and (high == 0.25).all()
    with pytest.raises(ValueError, match=r"1 values: .* at least two"):
        bootstrap_mean(torch.ones(2, 1), generator())


@pytest.mark.parametrize("n", [2, 5, EXACT_UP_TO])
def test_exact_sign_flips_are_scipys(n: int) -> None:
    """Both enumerate all 2^n patterns, so that only rounding is left."""
    values = draws(n)
    for cell in values:
        expected = stats.permutation_test(
            (cell.numpy(),),
            lambda x, axis: x.mean(axis=axis),
            permutation_type="samples",
            n_resamples=2**n,
            axis=-1,
        )
        # scipy doubles the smaller tail; the distribution is symmetric, so it is the same.
        assert float(sign_flip_p(cell, generator())) == pytest.approx(expected.pvalue, abs=1e-12)


def test_sign_flips_by_hand() -> None:
    """1, 2, 3: only +++ and --- reach 6, of 8. 1, -1: every pattern reaches 0. Zeros likewise."""
    given = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, -0.3], [0.0, 0.0, 0.0]])
    assert sign_flip_p(given, generator()).tolist() == [0.25, 1.0, 1.0]


def test_drawn_sign_flips_are_close_to_scipys_and_never_zero() -> None:
    """9999 draws each: the difference of two shares has a standard error of at most 0.0071."""
    values = draws(30)
    ours = sign_flip_p(values, generator())
    for cell, p in zip(values, ours, strict=True):
        expected = stats.permutation_test(
            (cell.numpy(),),
            lambda x, axis: x.mean(axis=axis),
            permutation_type="samples",
            n_resamples=9999,
            axis=-1,
            rng=1,
        )
        assert float(p) == pytest.approx(expected.pvalue, abs=4 * 0.0071)
    certain = sign_flip_p(torch.ones(50, dtype=torch.float64), generator(), n_draws=99)
    assert float(certain) == pytest.approx(1 / 100)
    assert torch.equal(ours, sign_flip_p(values, generator()))


def test_sign_flips_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        sign_flip_p(torch.zeros(2, 0), generator())


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_values_are_scipys(p: list[float]) -> None:
    tensor = torch.tensor(p, dtype=torch.float64)
    expected = stats.false_discovery_control(p)
    assert false_discovery_q(tensor).tolist() == pytest.approx(expected.tolist(), abs=1e-14)


def test_q_values_by_hand_keep_the_shape() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.5: times 4/1, 4/2, 4/3, 4/4 = 0.04, 0.04, 0.04, 0.5."""
    p = torch.tensor([[0.5, 0.01], [0.03, 0.02]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.04], [0.04, 0.04]], dtype=torch.float64)
    torch.testing.assert_close(false_discovery_q(p), expected, atol=1e-15, rtol=0)

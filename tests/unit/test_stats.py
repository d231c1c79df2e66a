"""Intervals against scipy's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench.stats import Z95, mean_interval, wilson_interval

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

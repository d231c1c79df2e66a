"""Intervals and tests: how far a measured share or mean may be from the true one, or from zero.

Those that draw at random take many cells at once, `[*cell, n]`, and put every cell through the
same draws: one matrix product per chunk of draws.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from workbench.finding import Interval

Z95 = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""
EXACT_UP_TO = 12
"""Up to this many values, sign flips are enumerated: 2^12 is fewer than the usual draws."""


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % interval of a share (Wilson 1927, equation 4): never leaves [0, 1].

    Raises `ValueError` where n is zero or successes exceed it.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Exact ends, so that rounding never puts the share outside its own interval.
    return (
        0.0 if successes == 0 else max(0.0, centre - spread),
        1.0 if successes == n else min(1.0, centre + spread),
    )


def mean_interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of independent draws (Student's t); None for a single draw."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(special.stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return mean - half, mean + half


class Bounds(NamedTuple):
    """The ends of one interval per cell."""

    low: Float[Tensor, "*cell"]
    high: Float[Tensor, "*cell"]


def bootstrap_mean(
    values: Float[Tensor, "*cell n"],
    generator: torch.Generator,
    *,
    n_draws: int = 2000,
    confidence: float = 0.95,
) -> Bounds:
    """Interval of each cell's mean: the bias-corrected and accelerated bootstrap (BCa).

    Efron 1987, "Better bootstrap confidence intervals", equations 2.3, 4.5 and 6.6 (with the
    jackknife's acceleration, which for a mean is its skewness / (6 sqrt n)). Cells whose values
    are all equal have a point. `generator` lives on the CPU.

    Raises `ValueError` for fewer than two values.
    """
    n = values.shape[-1]
    if n < 2:
        raise ValueError(f"{n} values: a bootstrap interval needs at least two")
    flat = values.detach().double().cpu().reshape(-1, n)
    mean = flat.mean(-1, keepdim=True)
    centred = flat - mean
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    counts = torch.zeros(n_draws, n, dtype=flat.dtype)
    counts.scatter_add_(1, drawn, torch.ones((), dtype=flat.dtype).expand(n_draws, n))
    means = (centred @ counts.T / n).sort(-1).values  # of each cell, less its mean
    # A draw of every value once has the mean itself: a tie, whatever the rounding.
    tie = n * torch.finfo(flat.dtype).eps * centred.abs().mean(-1, keepdim=True)
    below = ((means < -tie).sum(-1) + (means <= tie).sum(-1)) / (2 * n_draws)
    bias = torch.special.ndtri(below.double().clamp(1 / (n_draws + 1), n_draws / (n_draws + 1)))
    cubed, squared = centred.pow(3).sum(-1), centred.square().sum(-1)
    acceleration = torch.where(squared > 0, cubed / (6 * squared.pow(1.5)), 0.0)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        moved = bias + float(special.ndtri(tail))
        at = torch.special.ndtr(bias + moved / (1 - acceleration * moved))
        ends.append(mean[:, 0] + _quantile(means, at))
    low, high = (end.reshape(values.shape[:-1]).to(values.dtype) for end in ends)
    return Bounds(low, high)


def sign_flip_p(
    values: Float[Tensor, "*cell n"], generator: torch.Generator, *, n_draws: int = 9999
) -> Float[Tensor, "*cell"]:
    """Two-sided p-value of each cell's mean: how often random signs give one as far from zero.

    The null hypothesis is that every value is as likely as its negative (Fisher 1935, The Design
    of Experiments, section 21). Up to `EXACT_UP_TO` values all sign patterns are taken and p is
    exact; beyond, `n_draws` random ones, and p = (hits + 1) / (draws + 1), which is never zero
    (Phipson and Smyth 2010, equation 2). `generator` lives on the CPU.

    Raises `ValueError` where there are no values.
    """
    n = values.shape[-1]
    if n < 1:
        raise ValueError("no values to test; give at least one per cell")
    flat = values.detach().double().cpu().reshape(-1, n)
    exact = n <= EXACT_UP_TO
    if exact:
        signs = 1 - 2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1)
    else:
        signs = 1 - 2 * torch.randint(2, (n_draws, n), generator=generator)
    observed = flat.sum(-1, keepdim=True).abs()
    # Equal sums may be added in another order: n roundings of at most the sum of the sizes.
    rounding = n * torch.finfo(flat.dtype).eps * flat.abs().sum(-1, keepdim=True)
    hits = torch.zeros(len(flat), dtype=torch.long)
    for some in torch.split(signs.double(), 1024):
        hits += ((flat @ some.T).abs() >= observed - rounding).sum(-1)
    p = hits / len(signs) if exact else (hits + 1) / (n_draws + 1)
    return p.to(values.dtype).reshape(values.shape[:-1])


def false_discovery_q(p: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """q-values: the smallest false discovery rate at which each cell counts as found.

    Benjamini and Hochberg 1995, over all the cells given; valid where they are independent or
    positively dependent (Benjamini and Yekutieli 2001).
    """
    flat = p.flatten()
    ordered, order = flat.sort(descending=True)
    rank = torch.arange(len(flat), 0, -1, device=p.device)
    adjusted = (ordered * len(flat) / rank).cummin(0).values.clamp(max=1.0)
    return torch.empty_like(flat).index_copy(0, order, adjusted).reshape(p.shape)


def _quantile(
    ascending: Float[Tensor, "cell draw"], share: Float[Tensor, " cell"]
) -> Float[Tensor, " cell"]:
    """Each row's quantile, interpolated linearly."""
    at = share * (ascending.shape[-1] - 1)
    before = at.floor().long()
    after = (before + 1).clamp(max=ascending.shape[-1] - 1)
    low, high = (ascending.gather(-1, index[:, None])[:, 0] for index in (before, after))
    return low + (at - before) * (high - low)

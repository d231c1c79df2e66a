"""Intervals: how far a measured share or mean may be from the true one."""

import math
from collections.abc import Sequence

from scipy import special

from workbench.finding import Interval

Z95 = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""


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

"""Whether two series of numbers depend on each other, in whatever way: the Hilbert-Schmidt
independence criterion (Gretton et al. 2007, "A kernel statistical test of independence") with a
permutation test."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Width = Literal["shared", "own"]
"""How wide the Gaussian kernels are. "own": each side's the median of its own distances, as in
Gretton et al. 2007; "shared": both the median distance between a number of one side and one of
the other, as in the code of Shi et al. 2024 (arXiv:2410.13032)."""

ROUNDING = 1e-6
"""Scores nearer than this, relative to the largest, are equal: circuits are summed in any order."""
PERMUTED = 2**24
"""Numbers held at once while permutations are tried."""


class Dependence(NamedTuple):
    """The criterion, and how often chance gives as much."""

    statistic: float
    p_value: float


def permutation_test(
    left: Float[Tensor, " batch"],
    right: Float[Tensor, " batch"],
    *,
    generator: torch.Generator,
    n_permutations: int = 1000,
    width: Width = "shared",
) -> Dependence:
    """Tests the null hypothesis that the two sides of a pair are independent.

    The statistic is tr(K H L H) / n^2 (equation 4). p counts random pairings with one at least as
    large, the given pairing among them (Phipson and Smyth 2010), so that it is never 0.
    """
    n = len(left)
    sides = [x.double().cpu() for x in (left, right)]
    between = (sides[0][:, None] - sides[1]).abs().median() if width == "shared" else None
    first, second = (_centred_kernel(side, between) for side in sides)
    observed = float((first * second).sum()) / n**2
    size = max(1, PERMUTED // n**2)
    reached = 0
    for start in range(0, n_permutations, size):
        count = min(size, n_permutations - start)
        order = torch.rand(count, n, generator=generator).argsort(-1)
        paired = second[order[:, :, None], order[:, None, :]]
        drawn = (first * paired).sum((-1, -2)) / n**2
        reached += int((drawn >= observed - 1e-12).sum())
    return Dependence(observed, (1 + reached) / (1 + n_permutations))


def _centred_kernel(
    values: Float[Tensor, " batch"], width: Float[Tensor, ""] | None
) -> Float[Tensor, "batch batch"]:
    """With a kernel of this width; None for the median distance of the values."""
    distance = (values[:, None] - values).abs()
    # Where most values are equal the median is 0; the others then set the width.
    apart = distance[distance > ROUNDING * float(values.abs().max())]
    if not len(apart):
        return torch.zeros_like(distance)
    n = len(values)
    if width is None:
        width = distance[tuple(torch.triu_indices(n, n, offset=1))].median()
    width = width if width > 0 else apart.median()
    kernel = (-(distance**2) / (2 * width**2)).exp()
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()

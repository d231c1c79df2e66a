"""Inputs of unequal scale, splits and scores, for the tests of kinds of probe."""

import itertools

import torch
from torch import Tensor

from probes.design import Targets
from probes.method import Fitted, make_targets

K, WIDTH, N = 4, 6, 80
EXACT = {"rtol": 1e-9, "atol": 1e-10}
"""Ours from centred sums, scikit-learn's from the inputs: float64 rounding times a condition number
below 1e4 is 1e-12; scores are of the order of 1."""


def sample(seed: int = 0, sites: int = 2) -> tuple[Tensor, Tensor]:
    """Sites `[site, n, d]` of unequal scale, mean and correlation; two label sets `[label, n]`."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(sites, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    x = torch.randn(sites, N, WIDTH, generator=generator, dtype=torch.float64) @ mix + 2
    classes = torch.stack(
        [
            torch.multinomial(torch.tensor(share), N, replacement=True, generator=generator)
            for share in ([0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.1, 0.4])
        ]
    )
    means = torch.randn(2, K, WIDTH, generator=generator, dtype=torch.float64)
    return x + means[0][classes[0]] + means[1][classes[1]], classes


def two_splits() -> Tensor:
    weights = torch.ones(2, N, dtype=torch.float64)
    weights[0, 60:], weights[1, :25] = 0, 0
    return weights


def targets(classes: Tensor, k: int = K) -> Targets:
    return make_targets(classes, torch.arange(k))


Cell = tuple[int, int, int, int]
CELLS: list[Cell] = list(itertools.product(range(2), repeat=4))
"""Every (strength, split, site, label) of two each."""


def scores_of(fitted: Fitted, x: Tensor, cell: Cell) -> Tensor:
    strength, split, site, label = cell
    return fitted.scores(x, strength=strength, split=split)[site, label]


def planted(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes told apart by coordinates 5 and 17 of 20 alone; coordinate 3 is constant."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 20, generator=generator, dtype=torch.float64)
    x[:, 5] += 3 * y
    x[:, 17] -= 2 * y
    x[:, 3] = 0.1
    return x, y

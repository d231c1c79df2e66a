"""Activations with waves in them: what the tests of Fourier, circular and helix probes share."""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from probes.design import Design, Targets
from probes.method import make_targets

SITES, SPLITS, LABELS, N, WIDTH = 2, 3, 2, 90, 7
ALPHAS = (0.1, 10.0)
EXACT = 1e-8  # closed forms in float64 of well-conditioned problems: rounding, with room


def problem(
    values: list[int], seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Design, Targets]:
    """Random activations with random class means, so that something is there to fit."""
    generator = torch.Generator().manual_seed(seed)
    k = len(values)
    classes = torch.stack([torch.randint(k, (N,), generator=generator) for _ in range(LABELS)])
    classes[:, :k] = torch.arange(k)  # every class occurs
    x = torch.randn(SITES, N, WIDTH, generator=generator, dtype=torch.float64)
    means = torch.randn(SITES, LABELS, k, WIDTH, generator=generator, dtype=torch.float64)
    for label in range(LABELS):
        x = x + means[:, label, classes[label]]
    weights = torch.rand(SPLITS, N, generator=generator, dtype=torch.float64)
    weights[weights < 0.3] = 0.0  # these do not train
    weights[0] = 1.0
    return Design((x + 3.0).to(dtype), weights.to(dtype)), make_targets(
        classes, torch.tensor(values)
    )


def every_probe() -> product:
    return product(range(len(ALPHAS)), range(SPLITS), range(SITES), range(LABELS))


def cyclic(values: np.ndarray, frequency: int, period: int) -> np.ndarray:
    """cos and sin, in two columns."""
    angle = 2 * np.pi * frequency * values / period
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def values_of(targets: Targets, label: int) -> np.ndarray:
    return targets.values[targets.classes[label]].numpy()


def halves(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) < n // 2
    return 1.0 * chosen[None].double(), 1.0 * ~chosen[None]

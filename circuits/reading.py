"""What every way of reading a network shares: averages with intervals, and baselines.

Reading is looking without intervening: at what writers add to a logit
(`circuits.logit_attribution`), at what the residual stream says on its way (`circuits.logit_lens`),
at where heads look (`circuits.attention_patterns`), and at the heads' weights
(`circuits.head_matrices`, `circuits.composition`). What is read is a hypothesis; patching tests it.

Heads are numbered over all layers, `layer * n_heads + head`, and named as in `circuits.graph`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor

from workbench.errors import CircuitError, HookError, PairError, TaskError
from workbench.layers import LAYER_NORM_EPS
from workbench.model_config import ModelConfig
from workbench.registry import unknown
from workbench.stats import Z95


def head_names(config: ModelConfig) -> tuple[str, ...]:
    """`a0.h0`, `a0.h1` ..., in the order in which heads are numbered."""
    layers, heads = range(config.n_layers), range(config.n_heads)
    return tuple(f"a{layer}.h{head}" for layer in layers for head in heads)


def find(what: str, name: str, names: Sequence[str]) -> int:
    """The index of a head or writer by name. Raises `CircuitError` with the nearest name."""
    if name not in names:
        raise CircuitError(unknown(what, name, names))
    return names.index(name)


class Average(NamedTuple):
    """A mean over inputs and its 95 % interval, elementwise."""

    mean: Float[Tensor, "*lead"]
    low: Float[Tensor, "*lead"] | None
    """None where the inputs are all there are, or only one."""
    high: Float[Tensor, "*lead"] | None
    n: int
    """How many inputs."""


def average(values: Float[Tensor, "..."], *, dim: int, exhaustive: bool = False) -> Average:
    """The mean over inputs with Student's t interval (`workbench.stats.mean_interval`).

    Args:
        dim: the axis of the inputs.
        exhaustive: the inputs are all that the task has, so that the mean needs no interval.
    """
    n = values.shape[dim]
    mean = values.mean(dim)
    if exhaustive or n < 2:
        return Average(mean, None, None, n)
    half = float(special.stdtrit(n - 1, 0.975)) * values.std(dim) / math.sqrt(n)
    return Average(mean, mean - half, mean + half, n)


def average_share(right: Bool[Tensor, "..."], *, dim: int, exhaustive: bool = False) -> Average:
    """The share of inputs with Wilson's interval (`workbench.stats.wilson_interval`)."""
    n = right.shape[dim]
    share = right.double().mean(dim)
    if exhaustive:
        return Average(share, None, None, n)
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z95 * (share * (1 - share) / n + z2 / (4 * n * n)).sqrt() / (1 + z2 / n)
    return Average(share, (centre - spread).clamp(min=0), (centre + spread).clamp(max=1), n)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A score of heads whose weights are random, drawn many times: what no structure looks like."""

    what: str
    """What was drawn."""
    draws: Float[Tensor, " draw"]

    def __post_init__(self) -> None:
        if not len(self.draws):
            raise CircuitError("a baseline of no draws; set n_draws to at least 1")

    @property
    def mean(self) -> float:
        """The mean score of random heads."""
        return float(self.draws.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where 95 % of random heads score: the 2.5th and 97.5th percentiles of the draws."""
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = self.draws.double().cpu().quantile(ends)
        return float(low), float(high)

    def percentile(self, scores: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """The share of random heads that score lower; NaN for a score that is NaN."""
        lower = (self.draws < scores[..., None]).to(scores.dtype).mean(-1)
        return lower.masked_fill(scores.isnan(), torch.nan)


def layer_norm_scale(residual: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead 1"]:
    """What LayerNorm divides by: the standard deviation over d_model (eps inside the root)."""
    return (residual.var(-1, keepdim=True, correction=0) + LAYER_NORM_EPS).sqrt()


def check_positions(positions: Sequence[int], n_pos: int) -> list[int]:
    """Positions counted from 0. Raises `HookError` for one outside the input."""
    wrong = [at for at in positions if not -n_pos <= at < n_pos]
    if wrong or not positions:
        raise HookError(
            f"position {wrong[0] if wrong else '()'}: inputs have {n_pos}, counted from 0"
        )
    return [at % n_pos for at in positions]


def check_answers(answers: Int[Tensor, "..."], batch: int, n: int | None, d_vocab_out: int) -> None:
    """Raise `PairError` unless each input has a row of `n` answers, `TaskError` for no token."""
    fits = answers.ndim == 2 and answers.shape[0] == batch and n in (None, answers.shape[1])
    if not fits:
        raise PairError(
            f"answers {list(answers.shape)} do not fit {batch} inputs"
            + ("" if n is None else f" with {n} positions each")
            + "; give a row [answer] per input"
        )
    if answers.numel() and not 0 <= int(answers.min()) <= int(answers.max()) < d_vocab_out:
        raise TaskError(
            f"answer tokens from {int(answers.min())} to {int(answers.max())}, but the network "
            f"writes 0 to {d_vocab_out - 1}"
        )

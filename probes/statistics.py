"""How far a probe's accuracy may be off, and whether luck explains it.

Inputs of one group (a + b and b + a) are not independent examples: intervals resample whole groups
and tests permute whole groups. All generators live on the CPU; sums are in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor
from torch.nn import functional

from probes.controls import shuffled
from probes.splits import Groups, numbered
from workbench.errors import ProbeError
from workbench.stats import Bounds, false_discovery_q, wilson_interval

BUDGET = 2**28
"""Bytes that a chunk of work may take."""
FEW_CLASSES = 32
"""Up to this many classes, a matrix product per class is faster than counting."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accuracy:
    """A share of right answers per cell, with its 95 % interval and what it rests on."""

    value: Float[Tensor, "*cell"]
    low: Float[Tensor, "*cell"]
    high: Float[Tensor, "*cell"]
    n: int
    """Examples."""
    n_groups: int
    """Groups of examples, which are what was resampled."""


def measure_accuracy(
    correct: Float[Tensor, "*cell n"] | Bool[Tensor, "*cell n"],
    groups: Int[Tensor, " n"],
    generator: torch.Generator,
    *,
    n_draws: int = 1000,
) -> Accuracy:
    """Accuracy of each cell from per-example correctness, by `grouped_bootstrap`.

    Correctness is 0 or 1, or the share of several splits in which the example was right. Where
    every example is right, or every one wrong, resampling shows no spread; the interval is then
    Wilson's, with groups as the examples. Raises `ProbeError` for fewer than two groups.
    """
    right = correct.double()
    bounds = grouped_bootstrap(right, groups, generator, n_draws=n_draws)
    n_groups = len(numbered(groups).sizes)
    none, every = wilson_interval(0, n_groups), wilson_interval(n_groups, n_groups)
    return Accuracy(
        value=right.mean(-1),
        low=torch.where((right == 1).all(-1), every[0], bounds.low),
        high=torch.where((right == 0).all(-1), none[1], bounds.high),
        n=correct.shape[-1],
        n_groups=n_groups,
    )


def grouped_bootstrap(
    correct: Float[Tensor, "*cell n"],
    groups: Int[Tensor, " n"],
    generator: torch.Generator,
    *,
    n_draws: int = 1000,
    confidence: float = 0.95,
) -> Bounds:
    """Interval of each cell's mean over examples, where whole groups are resampled (BCa).

    A draw takes as many groups as there are, with replacement; its mean is the sum over the
    examples drawn divided by their number (a ratio of two sums). Efron 1987, equations 2.3 and
    6.6, with the acceleration from the jackknife over groups. With groups of one example each it
    is `workbench.stats.bootstrap_mean`. Every cell goes through the same draws. The interval
    always holds the measured mean. Raises `ProbeError` for fewer than two groups.
    """
    numbers = numbered(groups)
    n_groups = len(numbers.sizes)
    if n_groups < 2:
        raise ProbeError(f"{n_groups} group of examples; an interval needs at least two")
    flat = correct.detach().double().reshape(-1, correct.shape[-1])
    mean = flat.mean(-1)
    # Of each group, the sum over its examples less the cell's mean: a draw's mean, less the cell's,
    # is the sum of these over the groups drawn, divided by the number of examples drawn.
    excess = flat.new_zeros(len(flat), n_groups).index_add_(1, numbers.of, flat - mean[:, None])
    means = flat.new_empty(len(flat), n_draws)
    for draws, counts in _group_counts(n_groups, n_draws, generator):
        times = counts.to(excess)
        means[:, draws] = excess @ times.T / (times @ numbers.sizes.to(excess))
    tie = n_groups * torch.finfo(flat.dtype).eps * excess.abs().mean(-1)
    acceleration = _acceleration(excess, numbers)
    ends = mean + _bca(means.sort(-1).values, tie, acceleration, confidence)
    low, high = ends[0].minimum(mean), ends[1].maximum(mean)
    if bool(((flat >= 0) & (flat <= 1)).all()):  # shares: rounding must not leave 0 ... 1
        low, high = low.clamp(min=0.0), high.clamp(max=1.0)
    shape = correct.shape[:-1]
    return Bounds(low.reshape(shape).to(correct.dtype), high.reshape(shape).to(correct.dtype))


def permutation_p(
    predictions: Int[Tensor, "probe n"],
    classes: Int[Tensor, " n"],
    groups: Int[Tensor, " n"],
    generator: torch.Generator,
    *,
    scores: Float[Tensor, "probe n k"] | None = None,
    n_draws: int = 999,
) -> Float[Tensor, " probe"]:
    """One-sided p-value of each probe's accuracy on held-out examples it was not fitted on.

    The null hypothesis is that the held-out labels are exchangeable, by whole groups of one size
    and within groups (`shuffled`), given what the probes say of them. The probes stay as fitted:
    only labels move, and all probes go through the same draws. p = (hits + 1) / (draws + 1),
    where a hit is a draw at least as good as the labels themselves; it is never 0 (Phipson and
    Smyth 2010, equation 2), so that n_draws bounds how small it gets: a sweep of m probes in which
    only one is real finds it at level q only where n_draws + 1 >= m / q.

    Args:
        predictions: class predicted by each probe.
        classes: the labels, which all the probes share.
        scores: if given, accuracies that are equal are told apart by the mean score of the
            label, less the mean score of all classes. Without them equal accuracies count as hits
            and p is conservative where there are few examples.

    Where no permutation changes the labels (they are constant, or no two groups have one size)
    p is 1. Raises `ProbeError` for fewer than two examples.
    """
    n_probes, n = predictions.shape
    if n < 2:
        raise ProbeError(f"{n} held-out examples; a permutation test needs at least two")
    drawn = torch.cat([classes[None], shuffled(classes, groups, generator, n_draws)])
    k = 1 + int(torch.maximum(predictions.max(), classes.max()))
    k = k if scores is None else max(k, scores.shape[-1])
    hits = torch.empty(n_probes, dtype=torch.long, device=predictions.device)
    step = max(1, BUDGET // (8 * 3 * n * k))
    for start in range(0, n_probes, step):
        rows = slice(start, start + step)
        some = None if scores is None else _finite(scores[rows])
        if k <= FEW_CLASSES:
            hits[rows] = _hits_by_products(predictions[rows], some, drawn, k)
        else:
            hits[rows] = _hits_by_counting(predictions[rows], some, drawn)
    return (hits + 1).double() / (n_draws + 1)


def discoveries(p: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """q-values over a whole sweep: cells with q <= .05 are claimed, of which 5 % may be false.

    Benjamini and Hochberg 1995 (`workbench.stats.false_discovery_q`). p-values of sites and label
    sets that share inputs are positively dependent, under which it holds (Benjamini and Yekutieli
    2001); where nothing is real it claims anything in at most 5 % of sweeps. Give it every cell
    that was tested, not only those that look good. Raises `ProbeError` for p outside (0, 1].
    """
    if not bool(((p > 0) & (p <= 1)).all()):
        raise ProbeError("p-values must be above 0 and at most 1; NaN marks a probe to leave out")
    return false_discovery_q(p)


# ---------------------------------------------------------------------- bootstrap


def _group_counts(
    n_groups: int, n_draws: int, generator: torch.Generator
) -> Iterator[tuple[slice, Float[Tensor, "draw group"]]]:
    """How often each draw takes each group; as many draws at a time as fit the budget."""
    step = max(1, BUDGET // (8 * 4 * n_groups))
    for start in range(0, n_draws, step):
        draws = slice(start, min(start + step, n_draws))
        drawn = torch.randint(n_groups, (draws.stop - start, n_groups), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=torch.float64)
        yield draws, counts.scatter_add_(1, drawn, torch.ones_like(counts))


def _acceleration(excess: Float[Tensor, "cell group"], groups: Groups) -> Float[Tensor, " cell"]:
    """Skewness of the jackknife over groups / 6 (Efron 1987, section 6)."""
    # Leaving a group out moves the mean by - excess / (examples that are left).
    moved = excess / (len(groups.of) - groups.sizes)
    moved = moved - moved.mean(-1, keepdim=True)
    squared = moved.square().sum(-1)
    return torch.where(squared > 0, moved.pow(3).sum(-1) / (6 * squared.pow(1.5)), 0.0)


def _bca(
    means: Float[Tensor, "cell draw"],
    tie: Float[Tensor, " cell"],
    acceleration: Float[Tensor, " cell"],
    confidence: float,
) -> Float[Tensor, "end cell"]:
    """Ends of the interval less the mean, from draws less the mean, ascending."""
    n_draws = means.shape[1]
    below = ((means < -tie[:, None]).sum(-1) + (means <= tie[:, None]).sum(-1)) / (2 * n_draws)
    bias = torch.special.ndtri(below.double().clamp(1 / (n_draws + 1), n_draws / (n_draws + 1)))
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        moved = bias + float(special.ndtri(tail))
        at = torch.special.ndtr(bias + moved / (1 - acceleration * moved)) * (n_draws - 1)
        before = at.floor().long()
        after = (before + 1).clamp(max=n_draws - 1)
        low, high = (means.gather(1, index[:, None])[:, 0] for index in (before, after))
        ends.append(low + (at - before) * (high - low))
    return torch.stack(ends)


# ---------------------------------------------------------------------- permutations


def _finite(scores: Float[Tensor, "probe n k"]) -> Float[Tensor, "probe n k"]:
    """A class that is ruled out (a score of minus infinity) as the least likely of the others."""
    finite = scores.isfinite()
    lowest = scores.masked_fill(~finite, torch.inf).amin(-1, keepdim=True)
    return torch.where(finite, scores, lowest)


def _hits_by_products(
    predictions: Int[Tensor, "probe n"],
    scores: Float[Tensor, "probe n s"] | None,
    drawn: Int[Tensor, "draw n"],
    k: int,
) -> Int[Tensor, " probe"]:
    """Draws at least as good as the first, by one matrix product per class.

    An example adds 1 where its label is predicted, and less for the label's score: scores, less
    their mean over classes, are scaled so that all of them together stay below 1/2. They order
    equal accuracies and never reverse unequal ones.
    """
    n = predictions.shape[1]
    gains = functional.one_hot(predictions, k).double()
    if scores is not None:
        centred = scores.double() - scores.double().mean(-1, keepdim=True)
        most = centred.abs().amax(-1).sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
        gains[:, :, : scores.shape[-1]] += 0.49 * centred / most[:, None, None]
    totals = gains.new_zeros(len(gains), len(drawn))
    step = max(1, BUDGET // (8 * 4 * n))
    for start in range(0, len(drawn), step):
        draws = slice(start, start + step)
        for label in range(k):
            totals[:, draws] += gains[:, :, label] @ (drawn[draws] == label).to(gains).T
    # Sums of n terms, each rounded: far below the steps between totals that really differ.
    rounding = n * torch.finfo(totals.dtype).eps * n
    return (totals[:, 1:] >= totals[:, :1] - rounding).sum(1)


def _hits_by_counting(
    predictions: Int[Tensor, "probe n"],
    scores: Float[Tensor, "probe n s"] | None,
    drawn: Int[Tensor, "draw n"],
) -> Int[Tensor, " probe"]:
    """The same: right labels are counted, and scores are summed for draws that are level only.

    (The mean over classes, which `_hits_by_products` takes off, is the same in every draw.)
    """
    n = predictions.shape[1]
    counts = _right_counts(predictions, drawn)
    level = counts[:, 1:] == counts[:, :1]
    hits = (counts[:, 1:] > counts[:, :1]).sum(1)
    if scores is None:
        return hits + level.sum(1)
    each = torch.arange(n, device=drawn.device)
    observed = scores[:, each, drawn[0]].double().sum(-1)
    rounding = 16 * n * torch.finfo(torch.float64).eps * scores.abs().amax((1, 2)).double()
    for pairs in torch.split(level.nonzero(), max(1, BUDGET // (8 * 4 * n))):
        probe, draw = pairs.T
        sums = scores[probe[:, None], each, drawn[draw + 1]].double().sum(-1)
        good = sums >= observed[probe] - rounding[probe]
        hits.index_add_(0, probe, good.long())
    return hits


def _right_counts(
    predictions: Int[Tensor, "probe n"], drawn: Int[Tensor, "draw n"]
) -> Int[Tensor, "probe draw"]:
    """How many labels of each draw are predicted; whole numbers of 16 bits where classes fit."""
    (n_probes, n), most = predictions.shape, torch.iinfo(torch.int16).max
    if max(int(predictions.max()), int(drawn.max())) <= most:
        predictions, drawn = predictions.to(torch.int16), drawn.to(torch.int16)
    counts = torch.zeros(n_probes, len(drawn), dtype=torch.int32, device=drawn.device)
    step = max(1, BUDGET // (2 * n_probes * n))
    for start in range(0, len(drawn), step):
        draws = slice(start, start + step)
        for first in range(0, n, most):  # more could overflow
            examples = slice(first, first + most)
            right = predictions[:, None, examples] == drawn[draws, examples]
            counts[:, draws] += right.sum(-1, dtype=torch.int16)
    return counts

"""Activation patching: one part after another is replaced, and the metric watched.

A *sweep* patches every layer, position, head or neuron of one kind of site, each in a cell of its
own, all in one call of `workbench.intervene`:

    found = finish(sweep(problem, "head", by=["position"]))     # [layer, head, position, batch]
    found.mean, found.interval(), found.q_values()

What is patched in and into which run is the problem's ablation and direction. An *effect* is
m(patched) - m(run that is patched), per pair: with `denoising` positive means that the clean
activation helps the clean answer; with `noising` negative means that the part was needed for it.
The problem's graph plays no role here.

Source: Vig et al. 2020 (arXiv:2004.12265); Heimersheim and Nanda 2024 (arXiv:2404.15255) on how to
read what comes out.
"""

import csv
import io
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.problem import Ablation, Direction, Problem
from circuits.sweep_sites import sweep_grid
from workbench.errors import CircuitError
from workbench.finding import Interval
from workbench.intervene import intervene_in_chunks
from workbench.progress import Progress
from workbench.stats import (
    Bounds,
    bootstrap_mean,
    false_discovery_q,
    mean_interval,
    sign_flip_p,
)

FEWEST_PAIRS = 8
"""With fewer pairs no part is named the strongest: each half would hold less than four."""
SIGNIFICANT = 0.05
"""False discovery rate below which an effect counts."""


def sweep(
    problem: Problem, site: str, *, by: Sequence[str] | None = None, budget: int | None = None
) -> Generator[Progress, None, "Sweep"]:
    """Patch every part of one kind. Yields progress; run it with `workbench.progress.finish`.

    Args:
        site: a name of `circuits.sweep_sites.SITES`, such as `resid_pre`, `head` or `neuron`.
        by: axes to split over beyond the site's own: `["position"]` or `[]`. When None, residual
            streams and outputs are split by position, heads and neurons are not.
        budget: bytes of activations that cells run together may take; None for the default of
            the device. The metric is taken chunk by chunk, so no more logits are held.

    Raises `CircuitError` for an unknown site or axis, `ResourceError` where one cell does not fit.
    """
    grid = sweep_grid(problem, site, by)
    chunks = intervene_in_chunks(
        problem.params,
        problem.base,
        problem.config,
        [*grid.cells, ()],  # the last one patches nothing: the base metric, of the same run
        other=problem.other,
        reference=problem.other if problem.reference is None else problem.reference,
        positions=problem.positions,
        budget=budget,
    )
    measured: Tensor | None = None
    done, total = 0, len(grid.cells) + 1
    for chunk in chunks:
        values = problem.metric(chunk.logits).cpu()
        measured = values.new_empty(total, values.shape[-1]) if measured is None else measured
        measured[chunk.cells] = values
        done += len(chunk.cells)
        yield Progress(done, total, f"patching {site}")
    assert measured is not None
    shape = [len(along) for along in grid.labels]
    return Sweep(
        site=site,
        axes=grid.axes,
        labels=grid.labels,
        effects=(measured[:-1] - measured[-1]).reshape(*shape, -1),
        base_metric=measured[-1],
        other_metric=problem.other_metric.cpu(),
        metric=problem.metric.name,
        ablation=problem.ablation,
        direction=problem.direction,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """The effect of every patch on every pair, and everything that decided it."""

    site: str
    axes: tuple[str, ...]
    """What the cell axes of `effects` are, such as `("layer", "head")`."""
    labels: tuple[tuple[int, ...], ...]
    """The index that each entry of each axis stands for."""
    effects: Float[Tensor, "*cell batch"]
    """m(patched) - m(run that is patched), in the metric's unit. On the CPU."""
    base_metric: Float[Tensor, " batch"]
    """The metric of the run that is patched."""
    other_metric: Float[Tensor, " batch"]
    """The metric of the other input of each pair, whatever the ablation."""
    metric: str
    ablation: Ablation
    direction: Direction

    @property
    def n(self) -> int:
        """How many pairs there are."""
        return self.effects.shape[-1]

    @property
    def mean(self) -> Float[Tensor, "*cell"]:
        """The mean effect of each patch."""
        return self.effects.mean(-1)

    def normalised(self) -> Float[Tensor, "*cell"]:
        """Mean effect / mean gap, the gap being m(other) - m(base): 1 where a patch does it all.

        A ratio of means, so that single pairs with a small gap do no harm. Raises `CircuitError`
        where the mean gap is zero but for rounding, or cannot be told from zero: pairs disagree
        about its sign, and its 95 % interval (Student's t) holds zero.
        """
        gaps = (self.other_metric - self.base_metric).double()
        gap = float(gaps.mean())
        size = float(torch.stack([self.base_metric, self.other_metric]).abs().max())
        rounding = 16 * torch.finfo(self.effects.dtype).eps * size
        undefined = "so normalised effects are undefined; use effects, or other pairs"
        if abs(gap) <= rounding:
            raise CircuitError(f"{self.metric} is the same on both inputs of a pair, {undefined}")
        interval = mean_interval(gaps.tolist())
        mixed = bool((gaps > 0).any()) and bool((gaps < 0).any())
        if mixed and interval is not None and interval[0] <= 0 <= interval[1]:
            raise CircuitError(
                f"the mean gap in {self.metric} is {gap:.3g} [{interval[0]:.3g}, "
                f"{interval[1]:.3g}] over {self.n} pairs and cannot be told from 0, {undefined}"
            )
        return self.mean / gap

    def interval(self, *, seed: int = 0, n_draws: int = 2000) -> Bounds | None:
        """95 % interval of each mean effect, by bootstrap over pairs; None for a single pair."""
        if self.n < 2:
            return None
        generator = torch.Generator().manual_seed(seed)
        return bootstrap_mean(self.effects, generator, n_draws=n_draws)

    def p_values(self, *, seed: int = 0, n_draws: int = 9999) -> Float[Tensor, "*cell"]:
        """Two-sided p-value of each mean effect, by flipping the sign of pairs' effects."""
        generator = torch.Generator().manual_seed(seed)
        return sign_flip_p(self.effects, generator, n_draws=n_draws)

    def q_values(self, *, seed: int = 0, n_draws: int = 9999) -> Float[Tensor, "*cell"]:
        """p-values with the false discovery rate controlled over the whole sweep."""
        return false_discovery_q(self.p_values(seed=seed, n_draws=n_draws))

    def to_dict(self, *, seed: int = 0) -> dict[str, Any]:
        """The sweep as JSON: what decided it, and a row per cell.

        A row holds the indices, `effect`, `normalised` (None where undefined, with the reason in
        `normalised_undefined`), `low` and `high` (None for a single pair), `p` and `q`.
        """
        names = ("site", "metric", "ablation", "direction", "n")
        told: dict[str, Any] = {name: getattr(self, name) for name in names}
        told |= {"axes": list(self.axes), "seed": seed}
        told |= {
            "base_metric": float(self.base_metric.mean()),
            "other_metric": float(self.other_metric.mean()),
        }
        columns: dict[str, Tensor | None] = {"effect": self.mean, "normalised": None}
        try:
            columns["normalised"] = self.normalised()
        except CircuitError as error:
            told["normalised_undefined"] = str(error)
        columns["low"], columns["high"] = self.interval(seed=seed) or (None, None)
        p = self.p_values(seed=seed)
        columns |= {"p": p, "q": false_discovery_q(p)}
        numbers = {
            name: [None] * self.mean.numel() if column is None else column.flatten().tolist()
            for name, column in columns.items()
        }
        indices = itertools.product(*self.labels)
        told["rows"] = [
            dict(zip(self.axes, index, strict=True))
            | {name: column[i] for name, column in numbers.items()}
            for i, index in enumerate(indices)
        ]
        return told

    def to_csv(self, *, seed: int = 0) -> str:
        """The rows of `to_dict` as CSV text with a header; what is None stays empty."""
        rows = self.to_dict(seed=seed)["rows"]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest:
    """The part with the largest effect, chosen on half of the pairs and measured on the others.

    Effects are signed as the part's mean effect on the choosing half is, so that positive means
    the same way as there. Intervals are 95 % (bootstrap over pairs).
    """

    winner: dict[str, int]
    """Its index along each axis, such as `{"layer": 1, "head": 0}`."""
    runner_up: dict[str, int]
    """The part that came second where the winner was chosen."""
    sign: int
    """1 where patching the winner raises the metric, -1 where it lowers it."""
    n: int
    """How many pairs it was measured on."""
    n_chosen_on: int
    effect: float
    interval: Interval
    runner_up_effect: float
    runner_up_interval: Interval
    lead: float
    """Mean of the winner's effect minus the runner-up's, pair by pair."""
    lead_interval: Interval
    q: float
    """Of the winner's mean effect over all pairs, among the whole sweep."""

    @property
    def supported(self) -> bool:
        """Whether the winner leads, beyond chance, where it was not chosen."""
        return self.lead_interval[0] > 0 and self.q < SIGNIFICANT


def strongest(found: Sweep, *, seed: int = 0) -> Strongest | None:
    """The part that moves the metric most, tested against the runner-up on other pairs.

    The largest of many effects beats the mean of the rest whatever the network does, and by more
    than it should on the pairs that it was chosen on. So the two largest are chosen on every other
    pair (the first, the third, ...: half of each corruption, which pairs are sorted by), and
    measured on the pairs between. None for a sweep of one part or of fewer than `FEWEST_PAIRS`.
    """
    effects = found.effects.flatten(0, -2) if found.effects.ndim > 1 else found.effects[None]
    if len(effects) < 2 or found.n < FEWEST_PAIRS:
        return None
    means = effects[:, ::2].mean(-1)
    first, second = means.abs().sort(descending=True, stable=True).indices[:2].tolist()
    signs = torch.where(means[[first, second]] < 0, -1, 1)
    winner, runner_up = effects[[first, second], 1::2] * signs[:, None]
    tested = torch.stack([winner, runner_up, winner - runner_up])
    low, high = bootstrap_mean(tested, torch.Generator().manual_seed(seed))
    values = tested.mean(-1).tolist()
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
    places = list(itertools.product(*found.labels))
    return Strongest(
        winner=dict(zip(found.axes, places[first], strict=True)),
        runner_up=dict(zip(found.axes, places[second], strict=True)),
        sign=int(signs[0]),
        n=len(winner),
        n_chosen_on=found.n - len(winner),
        effect=values[0],
        interval=intervals[0],
        runner_up_effect=values[1],
        runner_up_interval=intervals[1],
        lead=values[2],
        lead_interval=intervals[2],
        q=float(found.q_values(seed=seed).flatten()[first]),
    )

"""Fit probes on training inputs, choose their strength on others, and score them on yet others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.design import Design, Targets
from probes.draws import generator_of
from probes.method import Asked, Convergence, Fitted, Probe, Repeats
from probes.sites import FEW_ROWS
from probes.splits import Splits
from probes.statistics import permutation_p


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One kind of probe on every site, split and label set of a design."""

    fitted: Fitted
    strengths: tuple[float, ...]
    held_out: Float[Tensor, "strength split site 1"]
    """Accuracy of the first label set on held-out inputs; of the others, see `accuracy`."""
    validation: Float[Tensor, "strength split site label"]
    chosen: Int[Tensor, "split site label"]
    """The strength with the best validation accuracy; of equals, the first."""
    accuracies: Float[Tensor, "split site label"]
    """Held-out accuracy at the chosen strength; see `accuracy`."""
    correct: Bool[Tensor, "split site label n"]
    """Which inputs the chosen probe gets right; False where they were not held out."""
    p: Float[Tensor, "split site"] | None
    """Permutation p-value of the first label set's held-out accuracy; None where not asked for."""

    @property
    def convergence(self) -> Convergence:
        return self.fitted.convergence

    def accuracy(self) -> Float[Tensor, "split site label"]:
        """Held-out accuracy at the chosen strength."""
        return self.accuracies


def measure(
    probe: Probe,
    strengths: Sequence[float],
    design: Design,
    targets: Targets,
    splits: Splits,
    *,
    seed: int = 0,
    n_permutations: int | None = None,
) -> Measured:
    """Fit and score. `design.weights` are those of `splits.train`. Raises `ProbeError`.

    With `n_permutations`, the first label set's accuracy is tested (`permutation_p`).
    """
    fitted = probe.fit_many(design, targets, strengths, seed=seed)
    shape = (len(strengths), design.n_splits, design.n_sites, len(targets.names))
    validation, held_out = design.x.new_zeros(shape), design.x.new_zeros(*shape[:3], 1)
    accuracy = torch.empty_like(validation[0])
    correct = torch.zeros(*shape[1:], design.x.shape[1], dtype=torch.bool, device=design.x.device)
    chosen, same = validation.long()[0], _same(design.x)
    for split in range(design.n_splits):
        ask = partial(_ask, fitted, design, targets, same, split)
        for s, right in enumerate(ask(splits.validate[split], range(len(strengths)))):
            validation[s, split] = right.to(validation).mean(-1) if right.shape[-1] else 0
        chosen[split] = validation[:, split].argmax(0)
        rows = splits.held_out[split]
        each, right = _held_out(partial(ask, rows), chosen[split], len(strengths))
        held_out[:, split] = each.to(held_out).mean(-1)
        correct[split][:, :, rows] = right
        accuracy[split] = right.to(accuracy).mean(-1)
    p = None
    if n_permutations is not None:
        p = _permutation_p(fitted, design, targets, splits, chosen[..., 0], n_permutations, seed)
    return Measured(
        fitted=fitted,
        strengths=tuple(strengths),
        held_out=held_out,
        validation=validation,
        chosen=chosen,
        accuracies=accuracy,
        correct=correct,
        p=p,
    )


def _held_out(
    ask: Callable[..., list[Tensor]], chosen: Int[Tensor, "site label"], n_strengths: int
) -> tuple[Bool[Tensor, "strength site 1 m"], Bool[Tensor, "site label m"]]:
    """What the first label set's probes get right at every strength, and all at the chosen one."""
    each = torch.stack(ask(range(n_strengths), labels=slice(0, 1)))
    right = each.gather(0, chosen[None, :, :1, None].expand_as(each[:1]))[0]
    if chosen.shape[1] > 1:  # labels that mean nothing are asked at their own strength only
        right = torch.cat([right, *ask([chosen[:, 1:]], labels=slice(1, None))], 1)
    return each, right


def _ask(
    fitted: Fitted,
    design: Design,
    targets: Targets,
    same: Sequence[Tensor | None],
    split: int,
    rows: Bool[Tensor, " n"],
    strengths: Sequence[int | Int[Tensor, "site label"]],
    *,
    labels: slice = slice(None),
) -> list[Bool[Tensor, "site label m"]]:
    """Which of these inputs the probes get right, at one choice of strengths after another."""
    asked = Asked(
        design.x[:, rows], [first if first is None else _repeats(first[rows]) for first in same]
    )
    classes = targets.classes[labels, rows]
    shape = (design.n_sites, len(classes))
    chosen = [classes.new_full(shape, s) if isinstance(s, int) else s for s in strengths]
    start = labels.start or 0
    return [fitted.correct(asked, classes, strengths=s, split=split, first=start) for s in chosen]


def _repeats(first: Int[Tensor, " m"]) -> Repeats:
    shared, of = torch.unique(first, return_inverse=True)
    each = torch.arange(len(first), device=first.device)
    rows = torch.zeros_like(shared).scatter_(0, of, each)
    return Repeats(rows if len(rows) >= FEW_ROWS else rows.repeat(FEW_ROWS), of)


def _same(x: Float[Tensor, "site n d"]) -> list[Int[Tensor, " n"] | None]:
    """An input with the same activation, one for all that share it: a site may have seen no more
    than one token. None where most activations differ."""
    weights = torch.arange(1, x.shape[2] + 1, device=x.device).to(x).sqrt()
    each = torch.arange(x.shape[1], device=x.device)
    found: list[Tensor | None] = []
    for vectors in x:
        # Equal activations have equal sums; whether equal sums are equal activations is looked at.
        sums, of = torch.unique(vectors @ weights, return_inverse=True)
        shared = each.new_zeros(len(sums)).scatter_reduce_(0, of, each, "amax")[of]
        few = 2 * len(sums) <= len(of)
        found.append(shared if few and torch.equal(vectors[shared], vectors) else None)
    return found


def _permutation_p(
    fitted: Fitted,
    design: Design,
    targets: Targets,
    splits: Splits,
    chosen: Int[Tensor, "split site"],
    n_draws: int,
    seed: int,
) -> Float[Tensor, "split site"]:
    """Of the first label set, at the chosen strength."""
    p = torch.empty(chosen.shape, dtype=torch.float64)
    for split in range(design.n_splits):
        rows = splits.held_out[split]
        x, scores = design.x[:, rows], None
        for s in torch.unique(chosen[split]).tolist():
            here = fitted.scores(x, strength=s, split=split, labels=slice(0, 1))[:, 0]
            wanted = (chosen[split] == s)[:, None, None]
            scores = here if scores is None else torch.where(wanted, here, scores)
        assert scores is not None
        p[split] = permutation_p(
            scores.argmax(-1),
            targets.classes[0, rows],
            splits.groups[rows].to(x.device),
            generator_of("permutation", splits.names[split], seed),
            scores=scores,
            n_draws=n_draws,
        ).double()
    return p

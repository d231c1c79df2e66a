"""Patching: every part of one kind replaced in turn, and the part that moves the metric most."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from circuits.analyses._asked import AskedOfWritten, problem_asked
from circuits.analyses._findings import patch_finding
from circuits.patching import Sweep, strongest, sweep
from circuits.problem import Direction
from workbench.analysis import Analysis, Outcome, analyses
from workbench.errors import CircuitError
from workbench.pairs import Pairs
from workbench.progress import Progress
from workbench.record import Record, Tolerance
from workbench.run import Run
from workbench.strict import Label

ARRAYS = ("effects", "base_metric", "other_metric")
"""What a record holds of a sweep, besides its result."""

# Measured on nine sweeps each of a p = 59 network and two digit adders. One thread and two agree to
# the bit. Float32 and float64 differ by: means 8e-6, base and other metric 3e-5 (a KL divergence of
# 0 among logits of 100), single effects 2.4e-4 (where one is just above `ROUNDING` and the other
# just below), ends of intervals 5e-4 (they lie between two draws of a bootstrap), p and q 0.017,
# and at most 3 % of themselves beyond 10 draws of 10,000. No strongest part changed.
TOLERANCES = {
    "*": Tolerance(absolute=5e-5, relative=5e-5),
    "result.rows.*.low": Tolerance(absolute=2e-3, relative=1e-4),
    "result.rows.*.high": Tolerance(absolute=2e-3, relative=1e-4),
    "result.rows.*.p": Tolerance(absolute=1e-3, relative=0.1),
    "result.rows.*.q": Tolerance(absolute=1e-3, relative=0.1),
    "findings.*.interval.*": Tolerance(absolute=2e-3, relative=1e-4),
    "findings.*.details.lead *": Tolerance(absolute=2e-3, relative=1e-4),
    "findings.*.details.q": Tolerance(absolute=1e-3, relative=0.1),
    "arrays.effects": Tolerance(absolute=1e-3, relative=1e-5),
    "arrays.*_metric": Tolerance(absolute=2e-4, relative=1e-5),
}


@analyses.register("patching")
@dataclass(frozen=True, kw_only=True)
class PatchingAnalysis(AskedOfWritten, Analysis):
    """Which part moves the metric most when patched, as `workbench patch` asks it."""

    kind = "patching"
    summary = "every part of one kind patched in turn, and the one that moves the metric most"
    tolerances: ClassVar = TOLERANCES

    direction: Direction = "denoising"
    site: Label = "head"
    """A name of `circuits.sweep_sites.SITES`."""
    by: Annotated[tuple[Label, ...], Field(max_length=8)] | None = None
    """Axes to split over beyond the site's own; the usual ones when None."""

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """The whole sweep; a finding where there are pairs and parts enough to name the strongest.

        Raises what `sweep` and `pairs_from_text` raise.
        """
        pairs = self.written(run.task)
        problem = problem_asked(self, run, pairs, step=step, device=device)
        measured = yield from sweep(problem, self.site, by=self.by)
        found = without_rounding(measured)
        result = found.to_dict(seed=self.seed)
        if pairs is not None and len(pairs) == 1 and found.axes[-1] == "position":
            result["position_names"] = list(position_names(pairs))
        best = strongest(found, seed=self.seed)
        words = self.beside_usual()
        return Outcome(
            result=result,
            findings=() if best is None else (patch_finding(words, found, best),),
            arrays={name: getattr(found, name) for name in ARRAYS},
        )


ROUNDING = 16
"""Effects below so many roundings of the largest metric, in float32, count as none."""


def without_rounding(found: Sweep) -> Sweep:
    """The sweep with effects that are rounding noise set to zero.

    A patch that changes nothing leaves differences of the last bits, which vary with the device
    and the number of threads; p-values of them would be noise as well (float32 and float64 gave
    values 0.96 apart).
    """
    size = torch.stack([found.base_metric.abs(), found.other_metric.abs()]).max().clamp(min=1.0)
    noise = ROUNDING * torch.finfo(torch.float32).eps * size
    zero = torch.zeros_like(found.effects)
    return replace(found, effects=torch.where(found.effects.abs() <= noise, zero, found.effects))


def position_names(pairs: Pairs) -> tuple[str, ...]:
    """The tokens of one pair by position; `clean|corrupted` where the two differ."""
    words = pairs.task.vocabulary
    both = zip(pairs.clean_tokens[0].tolist(), pairs.corrupted_tokens[0].tolist(), strict=True)
    return tuple(words[x] if x == y else f"{words[x]}|{words[y]}" for x, y in both)


def sweep_of(record: Record, arrays: Mapping[str, Tensor]) -> Sweep:
    """The sweep that a record is of. Raises `CircuitError` where the record is damaged."""
    told: dict[str, Any] = dict(record.result)
    axes, words = told.get("axes"), ("site", "metric", "ablation", "direction")
    known = record.kind == "patching" and set(ARRAYS) <= arrays.keys()
    if not (known and isinstance(axes, list) and all(isinstance(told.get(w), str) for w in words)):
        raise CircuitError(f"{record.id} holds no whole sweep; ask again with `workbench patch`")
    effects = arrays["effects"]
    ends = [list(arrays[name].shape) for name in ARRAYS[1:]]
    if effects.ndim != len(axes) + 1 or any(end != list(effects.shape[-1:]) for end in ends):
        raise CircuitError(
            f"{record.id}: effects {list(effects.shape)} do not fit the axes {axes} and the "
            f"metrics {ends}; ask again with `workbench patch`"
        )
    return Sweep(
        site=told["site"],
        axes=tuple(map(str, axes)),
        labels=tuple(tuple(range(length)) for length in effects.shape[:-1]),
        effects=effects,
        base_metric=arrays["base_metric"],
        other_metric=arrays["other_metric"],
        metric=told["metric"],
        ablation=told["ablation"],
        direction=told["direction"],
    )


def columns_of(record: Record) -> tuple[str, ...] | None:
    """Names of the positions, where one written pair was swept over them."""
    names = record.result.get("position_names")
    return tuple(map(str, names)) if isinstance(names, list) else None

"""Probing across training: when a variable can be read, when it is used, at every checkpoint."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from probes.across_training import follow_variable, steps_of
from probes.analyses._findings import SWAPS
from probes.sites import parse_site
from probes.training_times import AcrossTraining, Checkpoint, Kind, Level, Measure
from workbench.analysis import Analysis, Outcome, analyses
from workbench.errors import ProbeError
from workbench.finding import Control, Finding
from workbench.progress import Progress
from workbench.record import Record, Tolerance
from workbench.run import Run
from workbench.strict import Label

FROM_ONE_ON = (
    "supported: at one of the sites it holds from one of the checkpoints to the last; holds: the "
    "interval lies above those of all its controls, and it is at least half way from the highest "
    "of them to the most it can be"
)
"""In words what `AcrossTraining.decodable_from` and `used_from` decide."""
CLAIMS: dict[Kind, tuple[str, str, str]] = {
    "new_values": ("read", "can be read", "accuracy on inputs with a value unseen by the probe"),
    "new_inputs": ("read", "can be read", "accuracy on inputs that the probe was not fitted on"),
    "swapped": ("used", "is used", "share of swaps that give the counterfactual answer (DAS)"),
}
"""Of each kind that a finding is about: a name, what is claimed, and what was measured."""
NAMES = {**SWAPS, "relabelled": "relabelled values", "untrained": "the network untrained"}

# What another rounding changes, measured with a network (p = 59, a² + b) in float64 at four of its
# checkpoints: shares by .004, that is one input or two of those asked, ends of intervals by .007;
# accuracies of the network and of probes not at all; swaps
# in learned subspaces by .0015.
TOLERANCES = {
    "result.checkpoints.*": Tolerance(absolute=0.001),
    "result.checkpoints.*.measures.*": Tolerance(absolute=0.015),
    "result.checkpoints.*.measures.*.value": Tolerance(absolute=0.008),
    "findings.*.value": Tolerance(absolute=0.008),
    "findings.*.interval.*": Tolerance(absolute=0.015),
    "findings.*.controls.*": Tolerance(absolute=0.015),
}


@analyses.register("probe_training")
@dataclass(frozen=True, kw_only=True)
class ProbeTrainingAnalysis(Analysis):
    """From when can a variable be read, from when is it used? As `workbench probe training` asks
    it."""

    kind = "probe_training"
    summary = "from which checkpoint on a variable can be read, and from which it is used"
    tolerances: ClassVar = TOLERANCES

    variable: Label
    """One of `Task.variables`."""
    checkpoints: (
        Annotated[tuple[Annotated[int, Field(ge=0, lt=10**9)], ...], Field(max_length=10_000)]
        | None
    ) = None
    """Steps that are followed; all where None."""
    sites: Annotated[tuple[Label, ...], Field(min_length=1, max_length=100)] | None = None
    """Such as `blocks.0.hook_resid_mid@2`, of one width; those of `follow_variable` where None."""
    probe: Label = "ridge"
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, max_length=64)
    ] = (0, 1, 2)
    das: bool = True
    """Whether interchange is measured."""
    rank: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Dimensions of the swapped subspaces; an eighth of the width where None."""

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """Of the checkpoints up to `step`. Raises what `follow_variable` raises."""
        sites = None
        if self.sites is not None:
            sites = [parse_site(text, run.config.model) for text in self.sites]
        found = yield from follow_variable(
            run,
            self.variable,
            steps=self._followed(run, step),
            sites=sites,
            probe=self.probe,
            seeds=self.seeds,
            das=self.das,
            rank=self.rank,
            device=device,
        )
        return Outcome(result=found.to_dict(), findings=training_findings(found))

    def steps(self, run: Run, step: int | None) -> list[int]:
        """The checkpoints followed, and checkpoint 0, which is the untrained control."""
        first = {0} & set(run.steps)
        return sorted({*first, *self._followed(run, step)})

    def _followed(self, run: Run, step: int | None) -> list[int]:
        chosen = steps_of(run, self.checkpoints)
        if step is None:
            return chosen
        steps_of(run, [step])
        if step < chosen[0]:
            raise ProbeError(
                f"no checkpoint to follow up to step {step}; the first named is {chosen[0]}"
            )
        return [one for one in chosen if one <= step]


def training_findings(found: AcrossTraining) -> tuple[Finding, ...]:
    """From when the variable can be read and, where interchange was measured, from when used."""
    read: Kind = "new_values" if "new_values" in found.kinds else "new_inputs"
    findings = [_finding(found, read, found.decodable_from)]
    if "swapped" in found.kinds:
        findings.append(_finding(found, "swapped", found.used_from))
    return tuple(findings)


def across_of(record: Record) -> AcrossTraining:
    """What a record says, of which its pictures are drawn."""
    told: Any = record.result
    return AcrossTraining(
        variable=told["variable"],
        n_classes=told["n_classes"],
        probe=told["probe"],
        sites=tuple(dict.fromkeys(one["site"] for one in told["times"])),
        kinds=tuple(dict.fromkeys(one["measure"] for one in told["times"])),
        rank=told["rank"],
        checkpoints=tuple(map(_checkpoint_of, told["checkpoints"])),
    )


def _finding(found: AcrossTraining, kind: Kind, since: int | None) -> Finding:
    """At the site where it holds first, at that step; where it never does, at the last one, where
    it comes nearest."""
    name, claim, measured = CLAIMS[kind]
    if since is None:
        last = [found.series(site, kind)[-1] for site in found.sites]
        best, step, when = max(last, key=_margin), found.steps[-1], "one of the checkpoints"
    else:
        site = next(site for site in found.sites if found.times(site, kind).holds == since)
        best, step, when = (
            found.series(site, kind)[found.steps.index(since)],
            since,
            f"step {since}",
        )
    times = {"from step": since, "generalises from step": found.generalises_from}
    return Finding(
        id=f"training_{name}_{found.variable}",
        claim=f"from {when} to the last, {found.variable} {claim} at {best.site}",
        measure=f"{measured}, at step {step}; higher is more",
        value=best.level.value,
        n=best.level.n,
        interval=(best.level.low, best.level.high),
        held_out=None,
        controls=tuple(
            Control(
                name=NAMES[control],
                value=level.value,
                n=level.n,
                interval=(level.low, level.high),
                unit="pairs" if kind == "swapped" else "inputs",
            )
            for control, level in best.controls.items()
        ),
        verdict="not supported" if since is None else "supported",
        rule=FROM_ONE_ON,
        details={name: float(time) for name, time in times.items() if time is not None},
    )


def _margin(found: Measure) -> float:
    return found.level.value - max(level.value for level in found.controls.values())


def _checkpoint_of(told: dict[str, Any]) -> Checkpoint:
    def level(name: str) -> Level | None:
        return None if told[name] is None else Level(**told[name])

    return Checkpoint(
        step=told["step"],
        accuracy=Level(**told["accuracy"]),
        train_accuracy=level("train_accuracy"),
        held_out_accuracy=level("held_out_accuracy"),
        measures=tuple(map(_measure_of, told["measures"])),
    )


def _measure_of(told: dict[str, Any]) -> Measure:
    """What the rule says of it is not read: it follows."""
    return Measure(
        site=told["site"],
        kind=told["kind"],
        level=Level(**told["level"]),
        controls={name: Level(**level) for name, level in told["controls"].items()},
        most=told["most"],
    )

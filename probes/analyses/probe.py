"""Probing: variables of a network at its sites, beside their controls, erased, and swapped."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from probes.analyses._findings import align_finding, best_line, probe_findings
from probes.probing import ProbeReport, probe_network
from probes.rows import NONE
from probes.sites import make_sites
from probes.spec import CONTROLS, Control, ProbeSpec, SplitKind
from probes.summary import RULE, Line, summarise
from workbench.analysis import Analysis, Outcome, analyses
from workbench.finding import Finding
from workbench.progress import Progress
from workbench.record import Record, Tolerance
from workbench.run import Run
from workbench.strict import Label
from workbench.subject import Subject, subject_of

Strength = Annotated[float, Field(allow_inf_nan=False)]
Position = Annotated[int, Field(gt=-(2**20), lt=2**20)]


# What another rounding changes, measured: two threads for one, and the network in float64, on a
# published network (p = 59, `answer`) and a trained one (`carry_2`). Shares move as single inputs
# do: accuracies by .0009, ends of intervals by .0014, erased accuracies by .0014, swaps by .002;
# controls, whose labels mean nothing, so that near-ties choose their strength, by .004. p and q did
# not move: .006 is three permutations of 999. Ridge coefficients with a weak penalty move by .036
# of the largest, for the Gram matrix of nearly flat directions is rounding; others by 2e-4.
TOLERANCES = {
    "result.rows.*": Tolerance(absolute=0.003),
    **{
        f"result.rows.*.{name}": Tolerance(absolute=0.006)
        for name in ("p", "q", "interval.*", "erased_*", "answer_accuracy", "interchange_*")
    },
    **{
        f"result.rows.*.{name}": Tolerance(absolute=0.01)
        for name in (
            *("control_*", "shuffled_*", "selectivity", "random_*", "untrained_bound"),
            *("norm_matched_low", "norm_matched_high"),
        )
    },
    "result.rows.*.untrained_sd": Tolerance(absolute=0.001),
    "result.answer_accuracy": Tolerance(absolute=0.003),
    "findings.*.value": Tolerance(absolute=0.006),
    "findings.*.interval.*": Tolerance(absolute=0.006),
    "findings.*.details.*": Tolerance(absolute=0.006),
    "findings.*.controls.*": Tolerance(absolute=0.01),
    "arrays.*": Tolerance(relative=0.1),
    "arrays.*.chosen": Tolerance(),
    "arrays.*.frequency": Tolerance(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What probing a network gave."""

    lines: list[Line]
    report: ProbeReport


@analyses.register("probe")
@dataclass(frozen=True, kw_only=True)
class ProbeAnalysis(ProbeSpec, Analysis):
    """Where are variables represented, and are they used? As `workbench probe RUN` asks it.

    The fields are those of `ProbeSpec`, in bounds that a file from elsewhere must keep.
    """

    kind = "probe"
    summary = "variables probed at every site, beside their controls, erased, and swapped"
    tolerances: ClassVar = TOLERANCES
    added: ClassVar[tuple[str, ...]] = tuple(
        f"result.rows.*.{control}_{end}"
        for control in ("control", "shuffled", "random_subspace", "norm_matched")
        for end in ("low", "high")
    )
    """Paths that records made before controls had intervals do not have."""

    variables: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)]
    hooks: Annotated[tuple[Label, ...], Field(max_length=1000)] | None = None
    positions: Annotated[tuple[Position, ...], Field(max_length=1000)] | None = None
    probes: Annotated[tuple[Label, ...], Field(min_length=1, max_length=32)] = ("ridge",)
    strengths: Annotated[
        dict[Label, Annotated[tuple[Strength, ...], Field(max_length=100)]], Field(max_length=32)
    ] = field(default_factory=dict)
    splits: Annotated[tuple[SplitKind, ...], Field(max_length=3)] = ("grouped",)
    held_out_by: Label | None = None
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, max_length=64)
    ] = (0, 1, 2)
    n_inputs: Annotated[int, Field(ge=16, le=2**18)] | None = None
    distribution: Label = "uniform"
    controls: Annotated[tuple[Control, ...], Field(max_length=len(CONTROLS))] = CONTROLS
    n_permutations: Annotated[int, Field(ge=19, le=100_000)] = 999
    n_untrained: Annotated[int, Field(ge=1, le=100)] = 5
    n_random_erasures: Annotated[int, Field(ge=1, le=1000)] = 19
    n_asked: Annotated[int, Field(ge=16, le=2**16)] = 1024
    align_ranks: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(max_length=16)
    ] = ()
    align_steps: Annotated[int, Field(ge=1, le=20_000)] = 400
    eraser: Literal["leace", "inlp"] = "leace"

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """The arrays are what the probes of each variable learned at the site that its finding
        names, at the strengths chosen: `[seed, k, d]` for the coefficients of a linear one. (Of
        all sites they would be megabytes.) Subspaces are not kept: a search that starts with
        another rounding ends in other directions that do the same.

        Raises what `probe_network` raises, and `RunError` for a run without that checkpoint.
        """
        subject = subject_of(run, step=step, device=device)
        found = yield from probe_subject(run, subject, self)
        findings: list[Finding] = []
        arrays: dict[str, Tensor] = {}
        for variable in self.variables:
            lines = [line for line in found.lines if line.variable == variable]
            findings += probe_findings(lines)
            aligned = [one for one in found.report.alignments if one.variable == variable]
            findings += [align_finding(aligned)] if aligned else []
            arrays |= _chosen_weights(subject, self, found.report, best_line(lines))
        return Outcome(
            result=_told(run, self, found.lines), findings=tuple(findings), arrays=arrays
        )


def probe_subject(run: Run, subject: Subject, spec: ProbeSpec) -> Generator[Progress, None, Probed]:
    """Probe a run's network. Raises what `probe_network` raises."""
    split = run.split()
    train = None if split is None else split.train
    report = yield from probe_network(subject, spec, network_train=train)
    return Probed(lines=summarise(report.rows), report=report)


def row_of(line: Line) -> dict[str, Any]:
    """A line as `--json` gives it."""
    told = line.to_dict()
    for key in ("hook", "head", "low", "high"):
        told.pop(key)
    return {"site": line.place, **told, "interval": [line.low, line.high]}


def lines_of(record: Record) -> list[Line]:
    """The lines of a record, of which its pictures are drawn."""
    rows: Any = record.result["rows"]
    return [_line_of(row) for row in rows]


def _line_of(row: dict[str, Any]) -> Line:
    """The inverse of `row_of`."""
    told = dict(row)
    place, (low, high) = told.pop("site"), told.pop("interval")
    hook, _, head = place.removesuffix("]").partition("[")
    return Line(hook=hook, head=int(head) if head else None, low=low, high=high, **told)


def _told(run: Run, spec: ProbeSpec, lines: Sequence[Line]) -> dict[str, Any]:
    """The result. Where several variables are asked for, what is of one of them is None."""
    task, alone = run.task, len(spec.variables) == 1
    example = task.sample(1, torch.Generator().manual_seed(spec.seeds[0]))
    return {
        "variables": list(spec.variables),
        "variable": spec.variables[0] if alone else None,
        "n": lines[0].n,
        "answer_accuracy": lines[0].answer_accuracy,
        "majority_accuracy": lines[0].majority_accuracy if alone else None,
        "columns": [task.vocabulary[token] for token in task.encode(example)[0].tolist()],
        "rule": RULE,
        "rows": [row_of(line) for line in lines],
    }


def _chosen_weights(
    subject: Subject, spec: ProbeSpec, report: ProbeReport, line: Line
) -> dict[str, Tensor]:
    """What the probes of a line learned in each split, by `probe.variable.site.tensor`."""
    sites = make_sites(
        subject.config, hooks=[line.hook], positions=spec.positions, n_pos=subject.task.n_ctx
    )
    (at,) = [i for i, s in enumerate(sites) if (s.position, s.head) == (line.position, line.head)]
    tried = [
        row
        for row in report.rows
        if (row.hook, row.position, row.head) == (line.hook, line.position, line.head)
        and (row.variable, row.probe, row.control) == (line.variable, line.probe, NONE)
        and row.metric == "accuracy"
        and "/" in row.split
    ]
    splits = list(dict.fromkeys(row.split for row in tried))
    kept = [split for split in splits if split.startswith(f"{line.split}/")]
    chosen = {
        split: [row.chosen for row in tried if row.split == split].index(True) for split in kept
    }
    start = f"{line.hook}.{line.variable}.{line.probe}."
    return {
        f"{line.probe}.{line.variable}.{sites[at]}.{name.removeprefix(start)}": torch.stack(
            [tensor[chosen[split], splits.index(split), at] for split in kept]
        )
        for name, tensor in report.weights.items()
        if name.startswith(start)
    }

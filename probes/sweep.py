"""A sweep: one question asked of many networks and checkpoints, as a batch that survives.

    Sweep.from_yaml("sweep.yaml").run("results/carries").table()

A sweep is a YAML file of the keys of `SweepSpec`: those of `ProbeSpec`, and which runs and
checkpoints. It resolves to one shard per (checkpoint, hook), addressed by what decides its
content: the weights' digest, the task, the resolved question. See `probes.batch`.
"""

import dataclasses
import functools
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from probes.batch import Engine, Plan, Results, ShardDone, ShardResult, run_plan
from probes.batch.engine import engines
from probes.examples import known_variables
from probes.probing import ProbeReport, hooks_of, probe_hook
from probes.rows import Row
from probes.setting import Setting, make_setting
from probes.sites import width_of
from probes.spec import ProbeSpec, check_spec
from probes.statistics import discoveries
from probes.summary import Line, summarise, with_discoveries
from probes.yaml_files import parse_overrides, read_yaml
from workbench import config
from workbench.device import find_device
from workbench.errors import ConfigError, RunError, SweepError
from workbench.progress import finish
from workbench.registry import unknown
from workbench.run import Run, is_run, open_run
from workbench.subject import Subject, subject_of
from workbench.tensor_files import weights_digest

COMPUTE = "probes.sweep:compute_shard"


@dataclass(frozen=True, kw_only=True)
class SweepSpec(ProbeSpec):
    """A question, and the networks that it is asked of."""

    runs: tuple[str, ...]
    """Run directories; `*` and `?` match names."""
    steps: Literal["last", "all"] | tuple[int, ...] = "last"
    """Which checkpoints of each."""
    name: str = "sweep"
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep that can be planned, run and read."""

    spec: SweepSpec
    base: Path
    """Where relative run directories start."""
    compute: str = COMPUTE
    """What is computed for each (checkpoint, hook)."""

    @classmethod
    def from_yaml(cls, path: Path | str, overrides: Sequence[str] = ()) -> "Sweep":
        """Read a YAML file; `overrides` are `key=value`, the value YAML too.

        Relative runs start where the command is given. Raises `ConfigError` for YAML that cannot be
        read, an unknown key (with the nearest known one) or a value out of its range.
        """
        data = {**read_yaml(Path(path)), **parse_overrides(overrides)}
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "sweep") -> "Sweep":
        """From plain data. Raises `ConfigError`."""
        for key in data:
            if key not in config.keys(SweepSpec):
                raise ConfigError(unknown(f"{where} key", key, config.keys(SweepSpec)))
        for key in ("runs", "variables"):
            if not data.get(key):
                raise ConfigError(f"{where} names no {key}; add {key}: [...]")
        listed = {key: _as_list(key, value) for key, value in data.items()}
        steps = listed.get("steps", "last")
        if steps not in ("last", "all") and (not steps or not isinstance(steps, list | tuple)):
            raise ConfigError(f"{where} steps = {steps!r}; write last, all, or a list of steps")
        return cls(spec=config.from_dict(SweepSpec, listed, where=where), base=Path.cwd())

    def plan(self) -> Plan:
        """Every shard, after looking at every run. Raises `RunError`, `ProbeError`, `UnknownName`,
        `HookError` or `SweepError` for whatever cannot be, before anything is computed."""
        shards: list[dict[str, Any]] = []
        checked: set[str] = set()
        for path in self._run_paths():
            run = open_run(path)
            for step in self._steps_of(run):
                subject = subject_of(run, step=step)
                self._check(run, subject, checked)
                shared = {
                    "run": run.path.name,
                    "step": step,
                    "weights_sha256": weights_digest(subject.params),
                    "task": run.config.task,
                    "split": [run.config.seed, run.config.train_fraction],
                    "_run": str(run.path.resolve()),
                    "_device": self.spec.device,
                }
                for hook in hooks_of(subject, self.spec):
                    question = _question(self.spec, width_of(subject.config, hook))
                    shards.append({**shared, "hook": hook, "question": question})
        return Plan(name=self.spec.name, compute=self.compute, shards=shards)

    def steps(
        self, directory: Path | str, *, engine: Engine | None = None
    ) -> Generator[ShardDone, None, "SweepResults"]:
        """Compute whatever is missing in the directory. Raises what `plan` and `run_plan` raise."""
        if not str(directory).strip():
            raise SweepError("the results directory has no name; give one, such as results/x")
        yield from run_plan(self.plan(), Path(directory), engine)
        return SweepResults(Path(directory))

    def run(self, directory: Path | str, *, engine: str = "local") -> "SweepResults":
        """`steps` without progress, for scripts and notebooks."""
        return finish(self.steps(directory, engine=engines.get(engine)()))

    def _run_paths(self) -> list[Path]:
        found: list[Path] = []
        for text in self.spec.runs:
            if any(mark in text for mark in "*?["):
                given = Path(text)
                start = Path(given.anchor) if given.is_absolute() else self.base
                pattern = str(given.relative_to(given.anchor)) if given.is_absolute() else text
                try:
                    matched = [path for path in sorted(start.glob(pattern)) if is_run(path)]
                except ValueError as error:
                    raise RunError(f"runs {text!r}: {error}; write it as runs/*") from None
            else:
                matched = [self.base / text]
            if not matched:
                raise RunError(f"no run matches {text!r}; `workbench runs` lists what there is")
            found += matched
        return list(dict.fromkeys(path.resolve() for path in found))

    def _check(self, run: Run, subject: Subject, checked: set[str]) -> None:
        """Draw what the shards will draw, once for every task and split that runs share."""
        split = run.split() if "network" in self.spec.splits else None
        drawn = json.dumps([run.config.task, split and run.config.seed, run.config.train_fraction])
        if drawn not in checked:
            check_spec(self.spec, run.task, known_variables(run.task))
            make_setting(subject, self.spec, network_train=split and split.train)
            checked.add(drawn)

    def _steps_of(self, run: Run) -> list[int]:
        if not run.steps:
            raise RunError(f"{run.path} has no checkpoint yet; train it first")
        if not run.complete and isinstance(self.spec.steps, str):
            known = ", ".join(map(str, run.steps))
            raise RunError(
                f"{run.path} is incomplete; run the same `workbench train` again to resume it, or "
                f"name its checkpoints with steps: [{known}]"
            )
        if self.spec.steps == "last":
            return run.steps[-1:]
        if self.spec.steps == "all":
            return run.steps
        missing = [step for step in self.spec.steps if step not in run.steps]
        if missing:
            known = ", ".join(map(str, run.steps))
            raise RunError(f"{run.path} has no checkpoint at step {missing[0]}; there are: {known}")
        return sorted(set(self.spec.steps))


class SweepResults(Results):
    """Results of a sweep: its rows with q-values, and its summary."""

    def table(self) -> pa.Table:
        """All rows so far; `q` is over every pooled accuracy of them (`probes.statistics`)."""
        table = super().table()
        if "p" not in table.column_names:
            return table
        p = torch.tensor(
            [1.0 if x is None else x for x in table["p"].to_pylist()], dtype=torch.float64
        )
        tested = torch.tensor([x is not None for x in table["p"].to_pylist()], dtype=torch.bool)
        q: list[float | None] = [None] * len(table)
        if bool(tested.any()):
            for row, value in zip(
                tested.nonzero()[:, 0].tolist(), discoveries(p[tested]).tolist(), strict=True
            ):
                q[row] = value
        return table.append_column("q", pa.array(q, pa.float64()))

    def summary(self) -> list[tuple[dict[str, Any], Line]]:
        """One line per network, checkpoint, variable and site, beside which network it is of.

        Raises `SweepError` for the numbers of a script, which have no lines.
        """
        if self.plan().compute != COMPUTE:
            raise SweepError(
                f"{self.directory} holds a script's own numbers, which have no summary; "
                "ask for them with `workbench probe query`"
            )
        names = [field.name for field in dataclasses.fields(Row)]
        networks: dict[tuple[Any, ...], list[Row]] = {}
        for record in Results.table(self).to_pylist():
            which = (record["run"], record["step"], record["weights_sha256"])
            networks.setdefault(which, []).append(Row(**{name: record[name] for name in names}))
        found = [
            (dict(zip(("run", "step", "weights_sha256"), which, strict=True)), line)
            for which, rows in networks.items()
            for line in summarise(rows)
        ]
        lines = with_discoveries([line for _, line in found])
        return [(which, line) for (which, _), line in zip(found, lines, strict=True)]


def compute_shard(spec: dict[str, Any]) -> ShardResult:
    """Probe one hook of one checkpoint; the compute function of sweeps."""
    setting = setting_of(spec)
    report = finish(probe_hook(setting, spec["hook"]))
    return ShardResult(table=as_table(spec, report), tensors=report.weights)


def as_table(spec: Mapping[str, Any], report: ProbeReport) -> pa.Table:
    """Rows with the columns that say which network they are of."""
    rows = report.rows
    columns = {
        "run": pa.array([spec["run"]] * len(rows), pa.string()),
        "step": pa.array([spec["step"]] * len(rows), pa.int64()),
        "weights_sha256": pa.array([spec["weights_sha256"]] * len(rows), pa.string()),
    }
    for field in dataclasses.fields(Row):
        values = [getattr(row, field.name) for row in rows]
        columns[field.name] = pa.array(values, _ARROW[field.name])
    return pa.table(columns)


def setting_of(spec: Mapping[str, Any]) -> Setting:
    """The network and question of a shard. Raises `SweepError` where the weights have changed."""
    question = config.from_dict(ProbeSpec, spec["question"], where="question")
    where = (spec["_run"], spec["step"], spec["_device"])
    subject, trained_on = _subject(*where, spec["weights_sha256"])
    return make_setting(subject, question, network_train=trained_on)


@functools.lru_cache(maxsize=2)
def _subject(path: str, step: int, device: str, weights: str) -> tuple[Subject, Any]:
    """By its weights too: a run that is trained again in the same folder is another one."""
    run = open_run(path)
    split = run.split()
    subject = subject_of(run, step=step, device=find_device(device))
    if weights_digest(subject.params) != weights:
        raise SweepError(
            f"the weights of {run.path.name} at step {step} are not those of the plan; "
            "plan the sweep again into another directory"
        )
    return subject, None if split is None else split.train


def _question(spec: SweepSpec, width: int) -> dict[str, Any]:
    """The question alone, with every default and grid written out."""
    names = [field.name for field in dataclasses.fields(ProbeSpec)]
    resolved = {name: config.to_dict(spec)[name] for name in names}
    resolved["strengths"] = {name: list(spec.grid(name, width)) for name in spec.probes}
    return resolved


def _as_list(key: str, value: Any) -> Any:
    """A single word where a list is meant: `variables: carry_2`."""
    wants = {"runs", "variables", "hooks", "positions", "probes", "splits", "seeds", "controls"}
    alone = isinstance(value, int) if key == "steps" else isinstance(value, str | int)
    return [value] if key in {*wants, "steps"} and alone else value


_ARROW = {
    **dict.fromkeys(("hook", "variable", "probe", "split", "control", "metric"), pa.string()),
    **dict.fromkeys(("position", "head", "draw", "n", "n_train", "rank"), pa.int64()),
    **dict.fromkeys(("value", "low", "high", "p", "strength", "objective", "gap"), pa.float64()),
    **dict.fromkeys(("chosen", "converged"), pa.bool_()),
}

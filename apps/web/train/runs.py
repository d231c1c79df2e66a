"""What there is to say of runs while and after they train, from their files, without opening all.

`open_run` reads every checkpoint to check it; a page that draws itself again every second reads
only the configuration and the metrics.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from apps.web.cache import remembered
from apps.web.choice import run_names, runs_folder
from workbench.errors import WorkbenchError
from workbench.manifest import CHECKPOINTS, CONFIG, MANIFEST, METRICS, Manifest, read_recorded
from workbench.run import Run, RunConfig
from workbench.session.opening import ORIGIN
from workbench.storage import from_json, read_file, sha256
from workbench.strict import one_line
from workbench.task import task_from_dict
from workbench.train import Metrics
from workbench.training import outcome_of

COMPLETE, INCOMPLETE, IMPORTED = "complete", "incomplete", "imported"
OPENED = "from a session"
"""A session that was accepted: how it was trained is its author's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of the list of runs."""

    name: str
    task: str
    """Empty where the run is damaged."""
    seed: int | None
    step: int | None
    """Of the last checkpoint."""
    state: str
    """`complete`, `incomplete`, `imported`, `from a session`, or what is wrong."""
    held_out_accuracy: float | None
    n_held_out: int | None
    """How many inputs that accuracy is of."""
    grokking_step: int | None


def summaries() -> list[RunSummary]:
    """Every run there is, the newest first; a damaged one says what is wrong."""
    return [_summary_of(name) for name in run_names()]


def n_held_out(run: Run) -> int | None:
    """How many held-out inputs the training was measured on: all there are, or those drawn."""
    share, recipe = run.config.train_fraction, run.config.recipe or {}
    if not run.task.enumerable:
        drawn = recipe.get("evaluate_on")
        return drawn if isinstance(drawn, int) else None
    size = run.task.domain_size
    return None if share is None else size - round(share * size)


def history(path: Path) -> list[Metrics]:
    """What a run's training has measured so far, also what is not committed yet.

    Of a line that is half-written, and of all after it, nothing. Unknown numbers are NaN.
    """
    try:
        lines = read_file(path, METRICS).splitlines(keepends=True)
    except WorkbenchError:
        return []
    rows: list[Metrics] = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = from_json(line, where=f"line {number}")
            numbers = {key: _number(row.get(key)) for key in Metrics._fields[1:]}
            rows.append(Metrics(step=int(row["step"]), **numbers))
        except (WorkbenchError, LookupError, TypeError, ValueError):
            break
    return rows


def _summary_of(name: str) -> RunSummary:
    path = runs_folder() / name
    try:
        return _summary(path, sha256(read_file(path, MANIFEST)))
    except WorkbenchError as error:
        return RunSummary(
            name=name,
            task="",
            seed=None,
            step=None,
            state=one_line(str(error), longest=120),
            held_out_accuracy=None,
            n_held_out=None,
            grokking_step=None,
        )


@remembered
def _summary(path: Path, digest: str) -> RunSummary:
    """Of a run as it is while its manifest has this digest."""
    manifest = Manifest.from_bytes(read_file(path, MANIFEST), where=MANIFEST)
    data = from_json(read_recorded(path, manifest, CONFIG), where=CONFIG)
    config = RunConfig.from_dict(data, where=CONFIG)
    run = Run(path=path, config=config, task=task_from_dict(config.task), manifest=manifest)
    measured = config.seed is not None and manifest.files[METRICS].size > 0
    outcome = outcome_of(run) if measured else None
    steps = manifest.steps(CHECKPOINTS)
    trained = COMPLETE if manifest.complete else INCOMPLETE
    if (path / ORIGIN).is_file():
        trained = OPENED
    accuracy = outcome and outcome.held_out_accuracy
    return RunSummary(
        name=path.name,
        task=run.task.label,
        seed=config.seed,
        step=steps[-1] if steps else None,
        state=IMPORTED if config.seed is None else trained,
        held_out_accuracy=accuracy,
        n_held_out=None if accuracy is None else n_held_out(run),
        grokking_step=outcome and outcome.grokking_step,
    )


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)

"""Asking a run and keeping the answer: the record beside the run, and its report drawn again.

Every command that finds something goes through here:

    recorded = yield from ask_run(run, analysis, step=step, device=device)   # nothing is written
    keep(run, recorded)
"""

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.report import render_report
from workbench import config
from workbench.analysis import Analysis, Recorded, record_steps
from workbench.errors import RunError
from workbench.finding import finding_to_dict
from workbench.progress import Progress
from workbench.record import Record
from workbench.records import read_arrays, read_notebook, read_records, write_record
from workbench.run import Run
from workbench.storage import atomic_write
from workbench.training import outcome_of
from workbench.version import __version__

REPORT = "report.html"
EXPLANATION = "mechanism"
"""The kind of the record that a report is about; findings of other kinds are shown with it."""


def ask_run(
    run: Run, analysis: Analysis, *, step: int | None, device: torch.device
) -> Generator[Progress, None, Recorded]:
    """Ask an analysis of a run. Nothing is written.

    Raises `RunError` first of all where a record beside the run is damaged, so that none could
    join it; then what the analysis raises.
    """
    read_records(run)
    return (yield from record_steps(analysis, run, step=step, device=device))


def keep(run: Run, recorded: Recorded) -> None:
    """Put a record beside its run, and draw the report again where there is one."""
    record, arrays = recorded
    write_record(run, record, arrays)
    path = report_path(run, record.step)
    explanation, others = _explained(run, record.step)
    if explanation is None:
        return
    page = _page(run, explanation, others)
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, page.encode())


def saved_report(run: Run) -> str:
    """The report of a run's last checkpoint, drawn again. Raises `RunError` where there is none."""
    explanation, others = _explained(run, run.steps[-1] if run.steps else 0)
    if explanation is None:
        raise RunError(f"{run.path} has no findings yet; run `workbench explain {run.path}` first")
    return _page(run, explanation, others)


def report_path(run: Run, step: int | None = None) -> Path:
    """Where the report of a run is (of its last checkpoint, or of the one at `step`)."""
    return folder_of(run, step) / REPORT


def folder_of(run: Run, step: int | None = None) -> Path:
    """Where pictures of a checkpoint go: the run itself for the last, else a folder of its own."""
    if step is None or step == run.steps[-1]:
        return run.path
    return run.path / f"step-{step:06d}"


def document_of(run: Run, record: Record) -> dict[str, Any]:
    """What `--json` prints of a record: which network, and the result."""
    return {
        "workbench": __version__,
        "task": run.task.to_dict(),
        "run": str(run.path),
        "weights_sha256": record.weights_sha256,
        "step": record.step,
        **record.result,
    }


def explanation_document(run: Run, record: Record, others: list[Record]) -> dict[str, Any]:
    """What `workbench explain --json` prints: the explanation, and findings of other kinds."""
    trained = None if run.config.seed is None else outcome_of(run)
    found = [finding for one in (record, *others) for finding in one.findings]
    return {
        **document_of(run, record),
        "findings": [finding_to_dict(finding) for finding in found],
        "model": config.to_dict(run.config.model),
        "seed": run.config.seed,
        "source": run.config.source,
        "session": read_notebook(run).parent,
        "grokking_step": None if trained is None else trained.grokking_step,
        "seconds": {
            "train": None if trained is None or math.isnan(trained.seconds) else trained.seconds,
            "explain": record.seconds,
        },
    }


def other_records(run: Run, step: int) -> list[Record]:
    """Records about a checkpoint that are no explanation."""
    return [record for record in read_records(run, step) if record.kind != EXPLANATION]


def _explained(run: Run, step: int) -> tuple[Record | None, list[Record]]:
    """The explanation of a checkpoint, and the records of other kinds about it."""
    found = [record for record in read_records(run, step) if record.kind == EXPLANATION]
    return (found[-1] if found else None), other_records(run, step)


def _page(run: Run, explanation: Record, others: list[Record]) -> str:
    figures: dict[str, Tensor] = read_arrays(run, explanation)
    document = explanation_document(run, explanation, others)
    try:
        return render_report(document, figures, run.metrics())
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{run.path}: the saved findings are damaged ({error}); "
            f"run `workbench explain {run.path}` again"
        ) from error

"""Explaining a run: the mechanism's findings as one document, beside the run and as a report."""

from collections.abc import Generator
from typing import Any

import torch

from apps.recording import ask_run, explanation_document, keep, other_records
from circuits.analyses.mechanism import MechanismAnalysis
from workbench.progress import Progress
from workbench.run import Run


def explain_run(
    run: Run, *, device: torch.device, seed: int, n_draws: int, step: int | None
) -> Generator[Progress, None, dict[str, Any]]:
    """Explain a run's network, write the record and a report beside it, return the document.

    Raises `RunError` for an incomplete run unless `step` names one of its checkpoints.
    """
    analysis = MechanismAnalysis(seed=seed, n_draws=n_draws)
    recorded = yield from ask_run(run, analysis, step=step, device=device)
    keep(run, recorded)
    return explanation_document(run, recorded.record, other_records(run, recorded.record.step))

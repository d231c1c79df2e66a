"""Explaining a run: the mechanism's findings as one document, beside the run and as a report."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.report import render_report
from circuits.explanation import case_of
from circuits.mechanism import Explanation, mechanism_for
from workbench import config
from workbench.accuracy import measure_accuracy
from workbench.errors import RunError
from workbench.finding import Finding, finding_from_dict, finding_to_dict
from workbench.progress import Progress
from workbench.run import Run
from workbench.storage import atomic_write, from_json, to_json
from workbench.tensor_files import tensors_from_bytes, tensors_to_bytes
from workbench.training import outcome_of
from workbench.version import __version__

DOCUMENT, FIGURES, REPORT = "explanation.json", "explanation.safetensors", "report.html"
JOINED = "findings.json"
"""Findings made besides an explanation, by weights: patching and circuits."""


def explain_run(
    run: Run, *, device: torch.device, seed: int, n_draws: int, step: int | None
) -> Generator[Progress, None, dict[str, Any]]:
    """Explain a run's network, write the findings and a report beside it, return the document.

    Raises `RunError` for an incomplete run unless `step` names one of its checkpoints.
    """
    if not run.complete and step is None:
        raise RunError(
            f"{run.path} is incomplete; run the same `workbench train` again to resume it, or "
            f"explain a checkpoint with --step (there are: {', '.join(map(str, run.steps))})"
        )
    started = time.monotonic()
    explanation = yield from _explanation(run, device, seed, n_draws, step)
    document = _document(run, explanation, step, time.monotonic() - started)
    document["findings"] += joined_findings(run, document["weights_sha256"])
    figures = {} if explanation is None else explanation.figures
    if document["step"] == run.steps[-1]:
        save(run.path, run, document, figures)
    else:
        folder = run.path / f"step-{document['step']:06d}"
        folder.mkdir(exist_ok=True)
        save(folder, run, document, figures)
    return document


def save(folder: Path, run: Run, document: dict[str, Any], figures: dict[str, Tensor]) -> None:
    """Write findings, figures and report into a folder of the run, each atomically."""
    data = to_json(document, where=str(folder / DOCUMENT), indent=1)
    page = render_report(document, figures, run.metrics()).encode()
    atomic_write(folder / FIGURES, tensors_to_bytes(_plain(figures)))
    atomic_write(folder / DOCUMENT, data)
    atomic_write(folder / REPORT, page)


def join_finding(run: Run, step: int | None, finding: Finding) -> None:
    """Put a finding among the run's, in place of an earlier one of its id; and into its report.

    Raises `RunError` where what is there is damaged; then nothing is written.
    """
    weights = run.weights_sha256(step)
    joined = _read_joined(run)
    others = [known for known in joined.get(weights, []) if known["id"] != finding.id]
    joined[weights] = [*others, finding_to_dict(finding)]
    data = to_json(joined, where=JOINED, indent=1)
    folder = report_path(run, step).parent
    explained = _explained_before(run, folder, weights)
    atomic_write(run.path / JOINED, data)
    if explained is not None:
        document, figures = explained
        kept = [known for known in document["findings"] if known["id"] != finding.id]
        document["findings"] = [*kept, finding_to_dict(finding)]
        save(folder, run, document, figures)


def check_findings(run: Run, step: int | None) -> None:
    """Raises `RunError` where findings or an explanation are damaged, so that none can join."""
    _read_joined(run)
    _explained_before(run, report_path(run, step).parent, run.weights_sha256(step))


def _explained_before(
    run: Run, folder: Path, weights: str
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The explanation of these weights in a folder, where there is one that can be drawn again."""
    if not (folder / DOCUMENT).is_file():
        return None
    document = from_json((folder / DOCUMENT).read_bytes(), where=str(folder / DOCUMENT))
    if document.get("weights_sha256") != weights:
        return None
    figures, _ = _drawn_again(run, folder, document)
    return document, figures


def joined_findings(run: Run, weights: str) -> list[dict[str, Any]]:
    """Findings made besides an explanation, of these weights."""
    return list(_read_joined(run).get(weights, []))


def _read_joined(run: Run) -> dict[str, Any]:
    if not (run.path / JOINED).is_file():
        return {}
    joined = from_json((run.path / JOINED).read_bytes(), where=str(run.path / JOINED))
    for rows in joined.values():
        if not isinstance(rows, list):
            raise RunError(f"{run.path / JOINED} is damaged; remove it and find its findings again")
        for row in rows:
            finding_from_dict(row)
    return joined


def saved_report(run: Run) -> str:
    """The report of findings saved earlier, drawn again. Raises `RunError` where there are none."""
    if not (run.path / DOCUMENT).is_file():
        raise RunError(f"{run.path} has no findings yet; run `workbench explain {run.path}` first")
    document = from_json((run.path / DOCUMENT).read_bytes(), where=str(run.path / DOCUMENT))
    return _drawn_again(run, run.path, document)[1]


def _drawn_again(run: Run, folder: Path, document: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """An explanation's arrays and its page. Raises `RunError` where they are damaged."""
    try:
        figures = tensors_from_bytes((folder / FIGURES).read_bytes(), where=FIGURES)
        return figures, render_report(document, figures, run.metrics())
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"{folder}: the saved findings are damaged ({error}); "
            f"run `workbench explain {run.path}` again"
        ) from error


def report_path(run: Run, step: int | None = None) -> Path:
    """Where the report of a run is (of its last checkpoint, or of the one at `step`)."""
    if step is None or step == run.steps[-1]:
        return run.path / REPORT
    return run.path / f"step-{step:06d}" / REPORT


def _explanation(
    run: Run, device: torch.device, seed: int, n_draws: int, step: int | None
) -> Generator[Progress, None, Explanation | None]:
    mechanism = mechanism_for(run.task)
    if mechanism is None:
        return None
    case = case_of(run, step=step, device=device)
    return (yield from mechanism.explain(case, seed=seed, n_draws=n_draws))


def _document(
    run: Run, explanation: Explanation | None, step: int | None, seconds: float
) -> dict[str, Any]:
    trained = None if run.config.seed is None else outcome_of(run)
    common = {
        "workbench": __version__,
        "task": run.task.to_dict(),
        "run": str(run.path),
        "weights_sha256": run.weights_sha256(step),
    }
    about = {
        "model": config.to_dict(run.config.model),
        "seed": run.config.seed,
        "source": run.config.source,
        "step": run.steps[-1] if step is None else step,
        "grokking_step": None if trained is None else trained.grokking_step,
        "seconds": {
            "train": None if trained is None else trained.seconds,
            "explain": round(seconds, 2),
        },
    }
    found = _unexplained(run, step) if explanation is None else _explained(explanation)
    return {**common, **found, **about}


def _explained(explanation: Explanation) -> dict[str, Any]:
    return {
        "n_inputs": explanation.n_inputs,
        "exhaustive": explanation.exhaustive,
        "accuracy": explanation.accuracy,
        "accuracy_interval": explanation.accuracy_interval,
        "held_out_accuracy": explanation.held_out_accuracy,
        "min_margin": explanation.min_margin,
        "mechanism": explanation.mechanism,
        "verdict": explanation.verdict,
        "reason": explanation.reason,
        "key_frequencies": list(explanation.key_frequencies),
        "findings": [finding_to_dict(finding) for finding in explanation.findings],
        "parts": explanation.parts,
    }


def _unexplained(run: Run, step: int | None) -> dict[str, Any]:
    """A task without a known mechanism: how well it is done, and where to look further."""
    accuracy = measure_accuracy(run.params(step), run.config.model, run.task)
    return {
        "n_inputs": accuracy.n,
        "exhaustive": accuracy.exhaustive,
        "accuracy": accuracy.value,
        "accuracy_interval": accuracy.interval,
        "held_out_accuracy": None,
        "min_margin": None,
        "mechanism": None,
        "verdict": "not identified",
        "reason": f"no mechanism is known for {run.task.name}; trace it with `workbench circuit` "
        "or probe it with `workbench probe`",
        "key_frequencies": [],
        "findings": [],
        "parts": {},
    }


def _plain(figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files hold them: contiguous, on the CPU, and never empty-named."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in figures.items()}

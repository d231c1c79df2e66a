"""Saving a run's findings as a session: one file to send to somebody else.

What goes in is what can be asked again: records (`workbench.records`), the weights that they speak
of, and how the network was made. No path, no user name, no environment.
"""

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from workbench import config
from workbench.analysis import analysis_from
from workbench.errors import SessionError, WorkbenchError
from workbench.record import Checkpoint, Record, named
from workbench.records import read_arrays, read_notebook, read_records
from workbench.run import Run
from workbench.session.schema import (
    TRAINING,
    Manifest,
    Network,
    Notebook,
    SessionDocument,
    arrays_path,
    weights_path,
)
from workbench.session.training_rows import encode_rows
from workbench.session.writing import write_archive
from workbench.storage import sha256, to_json
from workbench.strict import validated
from workbench.tensor_files import tensors_to_bytes
from workbench.version import __version__

SAMPLED = 4096
"""Inputs that tell splits apart where a domain is too large to list."""


def save_session(
    run: Run,
    path: Path | str,
    *,
    note: str | None = None,
    only: Sequence[str] | None = None,
    all_checkpoints: bool = False,
    notebook: Notebook | None = None,
) -> Manifest:
    """Write a session file, atomically, in place of one that is there.

    Args:
        note: added to the notebook's notes.
        only: findings, by the ids of findings or records, or by kind; everything when None.
        all_checkpoints: whether checkpoints go in that no finding speaks of.
        notebook: notes, marks and view; the run's own when None.

    Raises `SessionError` for a name in `only` that there is not, or a record that cannot be asked
    again; `RunError` where the run or a record is damaged, or the file cannot be written.
    """
    if not run.steps:
        raise SessionError(f"{run.path} has no checkpoint yet; train it first")
    records = named(read_records(run), only)
    for record in records:
        _require_replayable(record)
    created = datetime.now(UTC).replace(microsecond=0)
    notebook = read_notebook(run) if notebook is None else notebook
    if note is not None:
        notebook = _with_note(notebook, note, created)
    spoken_of = {one.step for record in records for one in record.checkpoints}
    steps = run.steps if all_checkpoints else sorted({*spoken_of, run.steps[-1]})
    rows = run.metrics()
    document = SessionDocument(
        network=network_of(run),
        checkpoints=tuple(
            Checkpoint(step=step, weights_sha256=run.weights_sha256(step)) for step in steps
        ),
        training_rows=len(rows) or None,
        records=tuple(records),
        notebook=notebook,
    )
    return write_archive(
        path,
        document,
        _members(run, document, rows),
        parent=notebook.parent,
        made_with=versions(),
        created=created,
    )


def _with_note(notebook: Notebook, text: str, created: datetime) -> Notebook:
    """One note more. Raises `SessionError` for text that steers a terminal, or too many notes."""
    data = notebook.model_dump(mode="json")
    data["notes"].append({"text": text, "created": f"{created:%Y-%m-%dT%H:%M:%SZ}"})
    written = to_json(data, where="the note")
    return validated(Notebook, written, where="the note", error=SessionError)


def network_of(run: Run) -> Network:
    """What a session says of a run's network."""
    made = run.config
    told = {
        "task": made.task,
        "model": config.to_dict(made.model),
        "recipe": made.recipe,
        "seed": made.seed,
        "train_fraction": made.train_fraction,
        "random_labels": float(made.random_labels),
        "source": made.source,
        "split_sha256": split_sha256(run),
    }
    data = to_json(told, where="the network")
    return validated(Network, data, where=str(run.path), error=SessionError)


def split_sha256(run: Run) -> str | None:
    """Digest of which inputs are held out: of all, or of a fixed sample of a large domain."""
    seed, train_fraction = run.config.seed, run.config.train_fraction
    if seed is None or train_fraction is None:
        return None
    task = run.task
    if task.enumerable:
        inputs = task.domain()
    else:
        inputs = task.sample(SAMPLED, torch.Generator().manual_seed(0))
    held_out = task.held_out_mask(inputs, seed=seed, train_fraction=train_fraction)
    return sha256(to_json([inputs.tolist(), held_out.tolist()], where="the split"))


def versions() -> dict[str, str]:
    """Of everything that matters to the numbers."""
    found = {"workbench": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "safetensors", "scipy", "transformer_lens"):
        try:
            found[name] = importlib.metadata.version(name.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _members(
    run: Run, document: SessionDocument, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """The members besides the two JSON ones, read one at a time."""
    for one in document.checkpoints:
        yield weights_path(one.step), tensors_to_bytes(run.params(one.step))
    if rows:
        yield TRAINING, tensors_to_bytes(encode_rows(rows))
    for record in document.records:
        if record.arrays is not None:
            yield arrays_path(record.id), tensors_to_bytes(read_arrays(run, record))


def _require_replayable(record: Record) -> None:
    try:
        analysis_from(record.kind, record.parameters)
    except WorkbenchError as error:
        raise SessionError(
            f"the record {record.id} cannot be asked again ({error}), so it cannot be saved; "
            "remove it, or ask it again with this Workbench"
        ) from None

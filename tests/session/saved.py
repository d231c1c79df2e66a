"""A small run with findings at two checkpoints, and sessions made of it, honestly or not."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from circuits.analyses.patching import PatchingAnalysis
from tests.unit import small_run
from workbench.record import Record
from workbench.records import ask
from workbench.run import Run, open_run
from workbench.session import Session, open_session, save_session
from workbench.session.schema import SessionDocument
from workbench.session.writing import write_archive

CPU = torch.device("cpu")
EARLY, LAST = 1, 3


def run_with_findings(path: Path) -> Run:
    """Three checkpoints of a small network; heads patched in the first and in the last."""
    small_run.train(path)
    run = open_run(path)
    for step in (EARLY, LAST):
        ask(run, PatchingAnalysis(pairs=16), step=step)
    ask(run, PatchingAnalysis(pairs=16, site="mlp_out"), step=LAST)
    return run


def saved(folder: Path, **options: Any) -> Session:
    """Such a run as a session."""
    run = run_with_findings(folder / "run")
    save_session(run, folder / "a.workbench", **options)
    return open_session(folder / "a.workbench")


def forged(
    session: Session,
    path: Path,
    change: Callable[[SessionDocument], SessionDocument] = lambda document: document,
    members: Mapping[str, bytes] | None = None,
) -> Session:
    """The session with another content, every digest made again to fit: integrity proves nothing
    of the numbers."""
    document = change(session.archive.document)
    held = set(session.archive.document.member_paths())
    data = {
        name: session.archive.read(name) for name in document.member_paths()[1:] if name in held
    } | dict(members or {})
    write_archive(
        path, document, data.items(), parent=session.id, made_with=session.manifest.made_with
    )
    return open_session(path)


def with_record(
    document: SessionDocument, index: int, change: Callable[[dict[str, Any]], None]
) -> SessionDocument:
    """The document with one record changed, as JSON data."""
    data = document.records[index].model_dump(mode="json")
    change(data)
    records = list(document.records)
    records[index] = Record.model_validate_json(json.dumps(data))
    return document.model_copy(update={"records": tuple(records)})

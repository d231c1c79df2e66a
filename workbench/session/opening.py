"""A session as a run directory, so that everything else works on it."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import SessionError
from workbench.records import write_notebook, write_records
from workbench.run import Run, RunConfig, open_run
from workbench.run_writer import RunWriter
from workbench.session.session import Session
from workbench.storage import atomic_write, explained, sha256, sync_directory, to_json
from workbench.task import task_from_dict

ORIGIN = "session"
"""A file in the run directory: the digest of the session's manifest, hence of all it holds."""
STOPPED = "opened from a session"
"""Why such a run's training is over."""


def open_as_run(session: Session, runs: Path | str) -> Run:
    """Make a run of a session in the directory `runs`, with its records, notes and marks.

    The run is called `<task>-session-<digits>` after what the session holds; opening the same one
    again gives the run that is there. It is made under a hidden name and renamed when whole, so a
    kill leaves nothing that counts. Every member is checked as it is read. Raises `SessionError`,
    `TaskError`, `ConfigError`, `WeightsError` or `RunError`.
    """
    origin = sha256(to_json(session.manifest.model_dump(), where="the manifest", sort_keys=True))
    label = task_from_dict(session.network.task).label
    path = Path(runs) / f"{label}-session-{origin[:12]}"
    if path.exists():
        if (path / ORIGIN).is_file() and (path / ORIGIN).read_text().strip() == origin:
            return open_run(path)
        raise SessionError(f"{path} is something else; choose another --runs directory")
    with explained("create", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".opening-", dir=path.parent))
    try:
        run = write_run(session, hidden / path.name, session.steps, metrics=session.metrics())
        write_records(run, [(record, session.arrays(record)) for record in session.records])
        write_notebook(run, session.notebook.model_copy(update={"parent": session.id}))
        atomic_write(run.path / ORIGIN, f"{origin}\n".encode())
        with explained("create", path):
            run.path.rename(path)
            sync_directory(path.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return open_run(path)


def write_run(
    session: Session,
    path: Path,
    steps: Sequence[int],
    *,
    metrics: Sequence[dict[str, object]] = (),
) -> Run:
    """Some checkpoints of a session as a complete run, without records."""
    with RunWriter.create(path, run_config(session)) as writer:
        for step in steps:
            writer.save_checkpoint(step, session.params(step))
        writer.append_metrics(metrics)
        writer.commit(complete=True, stopped=STOPPED)
    return open_run(path)


def run_config(session: Session) -> RunConfig:
    """The configuration of the run that a session was saved from."""
    network, made_with = session.network, session.manifest.made_with
    data = {
        "task": network.task,
        "recipe": network.recipe,
        "seed": network.seed,
        "train_fraction": network.train_fraction,
        "random_labels": network.random_labels,
        "source": network.source,
    }
    return RunConfig(
        **data,  # type: ignore[arg-type]
        model=network.shape,
        versions={key: made_with.get(key, "unknown") for key in ("torch", "python")},
        workbench=made_with.get("workbench", "unknown"),
    )

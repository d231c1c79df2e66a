"""A session as a run directory, so that everything else works on it."""

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import SessionError
from workbench.records import write_notebook, write_record
from workbench.run import Run, RunConfig, is_run, open_run
from workbench.run_writer import RunWriter
from workbench.session.session import Session
from workbench.storage import atomic_write
from workbench.task import task_from_dict

ORIGIN = "session-id"
"""A file in the run directory: which session it was opened from."""


def open_as_run(session: Session, runs: Path | str) -> Run:
    """Make a run of a session in the directory `runs`, with its records, notes and marks.

    The run is called `<task>-session-<first digits of its id>`; opening the same session again
    gives the run that is there. Every member is checked as it is read. Raises `SessionError`,
    `TaskError`, `ConfigError`, `WeightsError` or `RunError`.
    """
    config = run_config(session)
    path = Path(runs) / f"{task_from_dict(config.task).label}-session-{session.id[:8]}"
    if is_run(path) and (run := open_run(path)).complete:
        if (path / ORIGIN).is_file() and (path / ORIGIN).read_text().strip() == session.id:
            return run
        raise SessionError(f"{path} is another run; choose another --runs directory")
    run = write_run(session, path, session.steps)
    for record in session.records:
        write_record(run, record, session.arrays(record))
    write_notebook(run, session.notebook.model_copy(update={"parent": session.id}))
    atomic_write(path / ORIGIN, f"{session.id}\n".encode())
    return run


def write_run(session: Session, path: Path, steps: Sequence[int]) -> Run:
    """Some checkpoints of a session as a complete run, without records."""
    with RunWriter.open(path, run_config(session)) as writer:
        for step in steps:
            writer.save_checkpoint(step, session.params(step))
        writer.append_metrics(session.metrics())
        writer.commit(complete=True, stopped="opened from a session")
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

"""The folder of a job: what is in it, and what may be concluded from it. No torch, no Streamlit.

    <runs>/.jobs/<id>/job.json      what was ordered, by which tab; never changed
                      status.json   how it goes, replaced atomically
                      result.json   what came out, written before the status says `done`
                      lock          held by its process from before it starts until it is gone
                      cancel        there once somebody asked it to stop
                      log           what it said, and the traceback where it failed by our fault

`read_status` never takes the process's word for its being alive: only the lock says so. The lock is
taken before the folder has its name and is handed to the process when it starts, so there is no
moment at which a job that is well looks lost.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from workbench.errors import AppError, RunError, WorkbenchError
from workbench.progress import Progress
from workbench.storage import atomic_write, explained, from_json, read_file, to_json, write_at
from workbench.strict import Digest, Label, Name, Strict, validated

JOBS = ".jobs"
JOB, STATUS, RESULT, LOCK, CANCEL, LOG = (
    "job.json",
    "status.json",
    "result.json",
    "lock",
    "cancel",
    "log",
)
STATUS_BYTES = 4096
"""Every status takes as many, so that the last one can be written where the disk is full."""
LONGEST = 300
"""Characters of what is being done, and of an error."""

State = Literal["waiting", "running", "done", "failed", "cancelled", "lost"]
"""`waiting` for one of the places at which jobs run; `lost`: its process died without a word."""
UNFINISHED: tuple[State, ...] = ("waiting", "running")
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(max_length=LONGEST)]

_ID = re.compile(r"[0-9a-f]{16}")


class JobFile(Strict):
    """`job.json`."""

    format: Literal[1] = 1
    kind: Name
    parameters: dict[Name, JsonValue]
    """The fields of the order."""
    title: Label
    created: Seconds
    """Seconds since 1970."""
    owner_sha256: Digest
    """Of the token of the tab that ordered it."""


class StatusFile(Strict):
    """`status.json`."""

    format: Literal[1] = 1
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    done: Count = 0
    total: Count = 0
    doing: Text = ""
    seconds: Seconds = 0.0
    """Since it left the queue."""
    seconds_left: Seconds | None = None
    error: Text | None = None
    pid: Count | None = None
    updated: Seconds
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a job is doing."""

    id: str
    kind: str
    title: str
    parameters: dict[str, Any]
    created: float
    """Seconds since 1970."""
    state: State
    progress: Progress | None
    """None until there is any."""
    seconds: float
    """Since it left the queue."""
    seconds_left: float | None
    """An estimate, or None."""
    error: str | None
    """One line, where it failed or is lost."""
    result: dict[str, Any] | None
    """Where it is done."""
    owner_sha256: str
    stopping: bool = False
    """Whether it was asked to stop, and has not yet."""

    @property
    def unfinished(self) -> bool:
        """Whether it waits or runs."""
        return self.state in UNFINISHED


def jobs_folder(runs: Path) -> Path:
    """Where the jobs of a runs folder are."""
    return runs / JOBS


def folder_of(runs: Path, job_id: str) -> Path:
    """The folder of a job. Raises `AppError` for what is no id, and where there is no such job."""
    if not is_id(job_id):
        raise AppError("this is not the id of a job (16 digits 0-9 a-f); choose one from the list")
    folder = jobs_folder(runs) / job_id
    if not folder.is_dir():
        raise AppError(f"there is no job {job_id} any more; start it again")
    return folder


def is_id(text: str) -> bool:
    """Whether a text has the form of a job's id; only then may it become part of a path."""
    return _ID.fullmatch(text) is not None


# ---------------------------------------------------------------------- reading


def read_status(folder: Path) -> Status:
    """How a job is doing, whatever its files look like."""
    alive = lock_is_held(folder)  # before the status: of one that is gone, the status is the last
    said = _read(StatusFile, folder, STATUS)
    ordered = _read(JobFile, folder, JOB)
    state: State = "running" if alive else "lost"
    if isinstance(said, StatusFile):
        state = said.state if alive or said.state not in UNFINISHED else "lost"
    if state == "lost" and (folder / CANCEL).exists():
        state = "cancelled"
    result, error = _ending(folder, state, said)
    seconds, left = _times(said, state)
    known = isinstance(ordered, JobFile)
    return Status(
        id=folder.name,
        kind=ordered.kind if isinstance(ordered, JobFile) else "",
        title=ordered.title if isinstance(ordered, JobFile) else "A job whose files are damaged",
        parameters=dict(ordered.parameters) if isinstance(ordered, JobFile) else {},
        created=ordered.created if isinstance(ordered, JobFile) else 0.0,
        state="lost" if state == "done" and result is None else state,
        progress=_progress(said),
        seconds=seconds,
        seconds_left=left,
        error=error if known else error or str(ordered),
        result=result,
        stopping=state in UNFINISHED and (folder / CANCEL).exists(),
        owner_sha256=ordered.owner_sha256 if isinstance(ordered, JobFile) else "",
    )


def read_pid(folder: Path) -> int | None:
    """The number of a job's process, if it has said."""
    said = _read(StatusFile, folder, STATUS)
    return said.pid if isinstance(said, StatusFile) else None


def _ending(
    folder: Path, state: State, said: "StatusFile | WorkbenchError"
) -> tuple[dict[str, Any] | None, str | None]:
    """The result of a job that is done; the error of one that failed or is lost."""
    if state == "done":
        try:
            return from_json(read_file(folder, RESULT), where=RESULT), None
        except RunError:
            return None, "its result cannot be read; start it again"
    if state == "lost":
        return None, "its process ended without a word (killed, or out of memory); start it again"
    return None, said.error if isinstance(said, StatusFile) else None


def _read(model: Any, folder: Path, name: str) -> Any:
    """What a file of a job says, or the error that it cannot be read with."""
    try:
        data = read_file(folder, name)
        from_json(data, where=name)
        return validated(model, data, where=name, error=RunError)
    except WorkbenchError as error:
        return error


def _progress(said: Any) -> Progress | None:
    if not isinstance(said, StatusFile) or not (said.total or said.doing):
        return None
    return Progress(said.done, said.total, said.doing)


def _times(said: Any, state: State) -> tuple[float, float | None]:
    """Seconds so far and to go; of a running job, as of now."""
    if not isinstance(said, StatusFile):
        return 0.0, None
    if state != "running":
        return said.seconds, None
    since = max(0.0, time.time() - said.updated)
    left = None if said.seconds_left is None else max(0.0, said.seconds_left - since)
    return said.seconds + since, left


# ---------------------------------------------------------------------- writing


def write_status(folder: Path, status: StatusFile) -> None:
    """Replace the status. Raises `RunError`."""
    atomic_write(folder / STATUS, status_bytes(status))


def write_last_status(folder: Path, status: StatusFile) -> None:
    """Replace the status; where the disk is full, write it over the old one."""
    data = status_bytes(status)
    try:
        atomic_write(folder / STATUS, data)
    except RunError:
        with explained("write", folder / STATUS):
            descriptor = os.open(folder / STATUS, os.O_WRONLY)
            try:
                write_at(descriptor, 0, data)
            finally:
                os.close(descriptor)


def status_bytes(status: StatusFile) -> bytes:
    """As the file holds it, filled up with blanks."""
    return to_json(status.model_dump(), where=STATUS).ljust(STATUS_BYTES)


# ---------------------------------------------------------------------- locks


def hold_lock(path: Path, *, wait: bool) -> int | None:
    """Hold a lock file, created where it is missing; `os.close` what comes back to let go.

    It ends with the last process that has it open. None where somebody else holds it.
    """
    with explained("lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file inside."""
    descriptor = hold_lock(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def lock_is_held(folder: Path) -> bool:
    """Whether the process of a job is there."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

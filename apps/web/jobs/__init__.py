"""Long work in processes of its own, which outlive a click, a refresh and the app.

    job_id = start(TrainOrder(...), owner=tab())
    watch("train_job", job_id)                     # puts it into the address
    status = status_of(job_id)                     # from files: any tab may look
    cancel(job_id, owner=tab())                    # only the tab that ordered it may
    panel(job_id, key="train_panel")               # progress, time left, Cancel

A job is a folder `<runs>/.jobs/<id>/` (`apps.web.jobs.files`) and a process (`job_process`) that
holds a lock on it as long as it lives, so that one whose process died is told from one that works.
What can be ordered is in `apps/orders/`.
"""

import contextlib
import hmac
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from apps.web.jobs.files import (
    CANCEL,
    JOB,
    LOCK,
    LOG,
    STATUS,
    JobFile,
    Status,
    StatusFile,
    folder_of,
    hold_lock,
    is_id,
    jobs_folder,
    lock_is_held,
    locked,
    read_pid,
    read_status,
    status_bytes,
)
from apps.web.jobs.order import Order, orders
from workbench import config
from workbench.errors import AppError
from workbench.storage import atomic_write, explained, sha256, to_json
from workbench.strict import LABEL, one_line

__all__ = [
    "Order",
    "Status",
    "all_jobs",
    "cancel",
    "is_owner",
    "job_ids",
    "orders",
    "panel",
    "start",
    "status_of",
    "unwatch",
    "watch",
]

MOST_UNFINISHED = 20
KEPT = 50
"""Finished jobs that are kept."""
PATIENCE = 5.0
"""Seconds that a cancelled job has to end by itself."""
THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Of each job. The same however many jobs run, as results are the same bits only for the same
number of threads; half the cores, as another job and the pages themselves need some too."""


def start(order: Order, *, owner: str) -> str:
    """Have an order worked off in a process of its own; the id of the job.

    Raises `AppError` where too many are unfinished, `RunError` where its files cannot be written,
    and what the title of a wrong order raises.
    """
    title, jobs = order.title(), jobs_folder(_runs())
    with explained("create", jobs):
        jobs.mkdir(parents=True, exist_ok=True)
    with locked(jobs / ".start"):
        known = all_jobs()
        if sum(one.unfinished for one in known) >= MOST_UNFINISHED:
            raise AppError(
                f"{MOST_UNFINISHED} jobs are unfinished; wait for one, or cancel one first"
            )
        _sweep(jobs, known)
        job = JobFile(
            kind=order.kind,
            parameters=config.to_dict(order),
            title=one_line(title, longest=LABEL // 2)[:LABEL],
            created=time.time(),
            owner_sha256=sha256(owner.encode()),
        )
        return _spawn(jobs, job)


def status_of(job_id: str) -> Status:
    """How a job is doing. Raises `AppError` where there is no such job."""
    return read_status(folder_of(_runs(), job_id))


def all_jobs() -> list[Status]:
    """Every job there is, the newest first."""
    jobs = jobs_folder(_runs())
    if not jobs.is_dir():
        return []
    with explained("list", jobs):
        folders = [path for path in jobs.iterdir() if is_id(path.name)]
    found = [read_status(path) for path in folders]
    return sorted(found, key=lambda one: (-one.created, one.id))


def is_owner(status: Status, owner: str) -> bool:
    """Whether a tab ordered a job."""
    return hmac.compare_digest(sha256(owner.encode()), status.owner_sha256)


def cancel(job_id: str, *, owner: str) -> None:
    """Ask a job to stop: at its next progress, by force after `PATIENCE` seconds.

    One that has ended stays as it is. Raises `AppError` for a job of another tab.
    """
    folder = folder_of(_runs(), job_id)
    status = read_status(folder)
    if not is_owner(status, owner):
        raise AppError("another tab started this job; cancel it there")
    if not status.unfinished:
        return
    if status.stopping and time.time() - (folder / CANCEL).stat().st_mtime > PATIENCE:
        _signal(folder, signal.SIGKILL)  # the app that would have done it has ended meanwhile
        return
    with explained("write", folder / CANCEL):
        (folder / CANCEL).touch()
    _signal(folder, signal.SIGTERM)
    if not status.stopping:
        timer = threading.Timer(PATIENCE, _signal, (folder, signal.SIGKILL))
        timer.daemon = True
        timer.start()


def job_ids(key: str) -> tuple[str, ...]:
    """The ids of jobs in the address under a key, such as `?train_job=a,b`."""
    from apps.web.jobs.job_panel import address_ids

    return address_ids(key)


def watch(key: str, job_id: str) -> None:
    """Put a job into the address under a key, before those that are there."""
    from apps.web.jobs.job_panel import set_address_ids

    set_address_ids(key, (job_id, *(one for one in job_ids(key) if one != job_id)))


def unwatch(key: str, job_id: str) -> None:
    """Take a job out of the address."""
    from apps.web.jobs.job_panel import set_address_ids

    set_address_ids(key, tuple(one for one in job_ids(key) if one != job_id))


def panel(
    job_id: str,
    *,
    key: str,
    on_done: Callable[[Status], None] | None = None,
    watched: str | None = None,
) -> Status:
    """Draw how a job is doing: progress, time left, and Cancel in the tab that ordered it.

    It looks again by itself until the job has ended, and then runs the whole page once more. An id
    that is of no job gives one line and a `lost` status.

    Args:
        key: of its widgets.
        on_done: called once in a session for a job that is found `done`, before that last run.
        watched: the key in the address that the job is under (`watch`). One that has ended in any
            way can then be closed, which takes it out of the address.
    """
    from apps.web.jobs.job_panel import draw_panel  # a job's own process needs no Streamlit

    return draw_panel(job_id, key=key, on_done=on_done, watched=watched)


# ---------------------------------------------------------------------- processes


def _spawn(jobs: Path, job: JobFile) -> str:
    """Make the folder, whole and locked before it has its name, and start the process."""
    job_id = secrets.token_hex(8)
    folder, making = jobs / job_id, jobs / f".new-{job_id}"
    with explained("create", making):
        making.mkdir()
    try:
        lock = hold_lock(making / LOCK, wait=True)
        assert lock is not None
        try:
            atomic_write(making / JOB, to_json(job.model_dump(), where=JOB))
            waiting = StatusFile(state="waiting", doing="starting", updated=time.time())
            atomic_write(making / STATUS, status_bytes(waiting))
            with explained("create", folder):
                making.rename(folder)
            _run_process(folder, lock)
        finally:
            os.close(lock)
    except BaseException:
        for path in (making, folder):
            shutil.rmtree(path, ignore_errors=True)
        raise
    return job_id


def _run_process(folder: Path, lock: int) -> None:
    """The process: of a session of its own, with our environment and folder, the lock handed on."""
    command = [sys.executable, "-m", "apps.web.jobs.process", str(folder), str(lock)]
    threads = {"OMP_NUM_THREADS": str(THREADS)}
    with explained("start a process for", folder), (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**threads, **os.environ},
            start_new_session=True,
            pass_fds=(lock,),
        )
    threading.Thread(target=process.wait, daemon=True, name=f"job {folder.name}").start()


def _signal(folder: Path, number: signal.Signals) -> None:
    """Signal the process of a job, if it is still that process.

    Whoever holds the lock wrote its own number into the status. While the lock is held that
    process lives, so the number, opened before the lock is looked at, can be no other's: unless
    that process counts from elsewhere (a container), which its command line shows.
    """
    pid = read_pid(folder)
    if pid is None:
        return  # it has only begun, and will find the file `cancel`
    with contextlib.suppress(OSError):
        if not hasattr(os, "pidfd_open"):
            if lock_is_held(folder):
                os.kill(pid, number)
            return
        process = os.pidfd_open(pid)
        try:
            if lock_is_held(folder) and folder.name.encode() in _command_line(pid):
                signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _sweep(jobs: Path, known: list[Status]) -> None:
    """Remove the oldest jobs that have ended, and what a start that was killed left."""
    ended = [one for one in known if not one.unfinished]
    for one in ended[KEPT:]:
        shutil.rmtree(jobs / one.id, ignore_errors=True)
    for path in jobs.glob(".new-*"):  # nobody else makes one now: `.start` is ours
        shutil.rmtree(path, ignore_errors=True)


def _runs() -> Path:
    from apps.web.choice import runs_folder  # here, as it imports Streamlit

    return runs_folder()

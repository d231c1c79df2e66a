"""The process of a job: `python -m apps.web.jobs.process FOLDER LOCK`, started by `apps.web.jobs`.

LOCK is the number of an open file: the lock on the folder, which was taken before this process
began and ends with it. It waits for one of the places at which jobs run, works the order off, and
says in `status.json` how it goes. SIGTERM, or the file `cancel`, stops it at the next progress.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

from apps.web.jobs.files import (
    CANCEL,
    JOB,
    LONGEST,
    RESULT,
    JobFile,
    StatusFile,
    write_last_status,
    write_status,
)
from apps.web.jobs.order import Order, orders
from apps.web.jobs.queue import enter_queue, jobs_ahead, take_place
from workbench import config
from workbench.errors import RunError, WorkbenchError
from workbench.progress import Progress
from workbench.storage import atomic_write, from_json, read_file, to_json
from workbench.strict import one_line, validated

NICE = 5
"""Pages are served first."""
EVERY = 0.2
"""Seconds between two statuses, at least."""
OURS = "a fault of the Workbench; what happened is in the log of the job"


class Cancelled(Exception):
    """Somebody asked the job to stop."""


class Work:
    """A job being worked off: what it says of itself, and whether it is to stop."""

    def __init__(self, folder: Path) -> None:
        """For the job of this folder."""
        self.folder = folder
        self._stopping = False
        self._began = time.monotonic()
        self._written = -EVERY
        self._first: tuple[float, Progress] | None = None
        self._last: Progress | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGTERM: the job ends at its next progress."""
        self._stopping = True

    def check(self) -> None:
        """Raise `Cancelled` where the job is to stop."""
        if self._stopping or (self.folder / CANCEL).exists():
            raise Cancelled

    def wait_for_place(self, created: float) -> int:
        """Hold one of the places at which jobs run; what comes back is its lock."""
        ticket, told = enter_queue(self.folder, created), None
        try:
            while True:
                self.check()
                ahead = jobs_ahead(ticket)
                place = None if ahead else take_place(self.folder.parent)
                if place is not None:
                    self._began = time.monotonic()
                    return place
                if ahead != told:
                    self.say("waiting", doing=waiting_words(ahead))
                    told = ahead
                time.sleep(2 * EVERY if ahead else EVERY)
        finally:
            with contextlib.suppress(OSError):
                ticket.unlink()

    def tell(self, progress: Progress) -> None:
        """Say how far it has come, now and then."""
        if self._stopping:
            raise Cancelled
        now = time.monotonic()
        before = self._first and self._first[1]
        if before is None or progress.total != before.total or progress.done < before.done:
            self._first = (now, progress)
        self._last = progress
        if now - self._written >= EVERY:
            self.check()
            with contextlib.suppress(RunError):  # the work matters more than the news of it
                self.say("running", progress)

    def say(self, state: Any, progress: Progress | None = None, *, doing: str = "") -> None:
        """Write the status."""
        self._written = time.monotonic()
        write_status(self.folder, self._status(state, progress, doing=doing))

    def end(self, state: Any, error: str | None = None) -> None:
        """Write the last status."""
        write_last_status(self.folder, self._status(state, self._last, error=error))

    def _status(
        self,
        state: Any,
        progress: Progress | None,
        *,
        doing: str = "",
        error: str | None = None,
    ) -> StatusFile:
        done, total, words = progress or Progress(0, 0, doing)
        return StatusFile(
            state=state,
            done=max(0, done),
            total=max(0, total),
            doing=one_line(words, longest=LONGEST // 2)[:LONGEST],
            seconds=time.monotonic() - self._began,
            seconds_left=self._left(),
            error=error and one_line(error, longest=LONGEST // 2)[:LONGEST],
            pid=os.getpid(),
            updated=time.time(),
        )

    def _left(self) -> float | None:
        """At the speed since the first progress (a resumed job begins in the middle)."""
        if self._first is None or self._last is None:
            return None
        since, first = self._first
        done, seconds = self._last.done - first.done, time.monotonic() - since
        if done <= 0 or seconds < 2 * EVERY:
            return None
        return max(0.0, seconds * (self._last.total - self._last.done) / done)


def main(folder: Path, lock: int) -> None:
    """Work a job off, to one of its ends."""
    os.set_inheritable(lock, False)
    os.nice(NICE)
    work = Work(folder)
    signal.signal(signal.SIGTERM, work.stop)
    try:
        work.say("waiting", doing="starting")
        job = _job(folder)
        place = work.wait_for_place(job.created)
        work.say("running", doing="starting")
        result = _follow(_ordered(job).work(folder.parent.parent), work)
        atomic_write(folder / RESULT, to_json(result, where="the result"))
        work.end("done")
        os.close(place)
    except Cancelled:
        work.end("cancelled")
    except WorkbenchError as error:
        work.end("failed", str(error))
    except OSError as error:
        traceback.print_exc()
        work.end("failed", f"{error.strerror or error}; free some space or mend its permissions")
    except MemoryError:
        traceback.print_exc()
        work.end("failed", "out of memory; choose something smaller, or end other jobs first")
    except Exception:
        traceback.print_exc()
        work.end("failed", OURS)


def waiting_words(ahead: int) -> str:
    """What a job in the queue waits for."""
    if not ahead:
        return "first in the queue, until a running job ends"
    return f"{ahead} job{'' if ahead == 1 else 's'} before this one in the queue"


def _job(folder: Path) -> JobFile:
    data = read_file(folder, JOB)
    from_json(data, where=JOB)
    return validated(JobFile, data, where=JOB, error=RunError)


def _ordered(job: JobFile) -> Order:
    """What was ordered, from the file alone."""
    return config.from_json(
        orders.get(job.kind), dict(job.parameters), where=f"parameters of {job.kind}"
    )


def _follow(steps: Generator[Progress, None, dict[str, Any]], work: Work) -> dict[str, Any]:
    """Work it off, and close it where it is to stop, so that what it holds is let go."""
    try:
        while True:
            try:
                work.tell(next(steps))
            except StopIteration as end:
                result: dict[str, Any] = end.value
                return result
    finally:
        steps.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

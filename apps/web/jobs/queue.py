"""Who may run: so many places, each a lock, and a queue before them. No torch, no Streamlit.

A job that waits puts a file with its time and id into `.queue`; only the first whose process lives
tries for a place. Nothing here needs tidying by whoever dies: locks end with their process, and
what a dead one left in the queue is passed over.
"""

import contextlib
import os
from pathlib import Path

from apps.web.jobs.files import hold_lock, lock_is_held
from workbench.storage import explained

PLACES = max(2, os.cpu_count() or 1)
"""How many jobs run at once."""
QUEUE, SLOTS = ".queue", ".slots"


def enter_queue(folder: Path, created: float) -> Path:
    """Stand in the queue of the jobs beside this one; what comes back is to be unlinked."""
    queue = folder.parent / QUEUE
    ticket = queue / f"{created:020.6f}-{folder.name}"
    with explained("write", ticket):
        queue.mkdir(exist_ok=True)
        ticket.touch()
    return ticket


def jobs_ahead(ticket: Path) -> int:
    """How many living jobs stand before this one."""
    with explained("list", ticket.parent):
        before = sorted(path for path in ticket.parent.iterdir() if path.name < ticket.name)
    jobs, n = ticket.parent.parent, 0
    for path in before:
        if lock_is_held(jobs / path.name.partition("-")[2]):
            n += 1
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return n


def take_place(jobs: Path) -> int | None:
    """Hold one of the places, or None where all are taken; what comes back is its lock."""
    slots = jobs / SLOTS
    with explained("create", slots):
        slots.mkdir(exist_ok=True)
    for i in range(PLACES):
        place = hold_lock(slots / str(i), wait=False)
        if place is not None:
            return place
    return None

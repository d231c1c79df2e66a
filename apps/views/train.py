"""Train: choose what to train, watch it learn, and look at what there is already."""

from contextlib import suppress
from functools import partial

import streamlit as st

from apps.orders.train import TrainOrder
from apps.web.jobs import all_jobs, job_ids, start, watch
from apps.web.shell import guarded
from apps.web.tab import tab
from apps.web.train.form import form
from apps.web.train.list import draw_jobs, draw_runs
from apps.web.train.plan import describe
from apps.web.train.watch import WATCHED, draw_watched, ordered
from apps.web.view import View, views
from workbench.errors import WorkbenchError

WHAT = """
A small transformer is shown pairs such as *3 + 4 =* with their answers, and after every step its
weights are changed a little so that it would have answered better. Some pairs are **held out**: it
is never shown them, and only on those does it prove that it has found a rule rather than learned
the answers by heart. When the held-out accuracy jumps, long after the other, it has *grokked*.

Training runs in a process of its own: you may look at other pages, refresh, or close the tab, and
come back by the address. What was trained is kept in the runs folder.
"""


def draw() -> None:
    """The form, the jobs that are watched, other jobs, and the runs that there are."""
    with st.expander("What am I looking at?", icon=":material/help:"):
        st.markdown(WHAT)
    owner = tab()
    guarded(partial(_choose, owner))
    for job_id in job_ids(WATCHED):
        guarded(partial(draw_watched, job_id, owner))
    guarded(draw_jobs)
    guarded(draw_runs)


def _choose(owner: str) -> None:
    """The form, what it would do, and the button that does it."""
    order = form()
    running = _already(order)
    describe(order, running=running is not None)
    if st.button("Train", type="primary", icon=":material/play_arrow:", key="train_start"):
        watch(WATCHED, running or start(order, owner=owner))


def _already(order: TrainOrder) -> str | None:
    """The job that is training some of these runs now, if there is one: two could not."""
    names = set(order.run_names())
    for job in all_jobs():
        if job.unfinished and job.kind == order.kind:
            with suppress(WorkbenchError):  # of another version: it says so itself
                if names & set(ordered(job).run_names()):
                    return job.id
    return None


views.register("train")(
    View(
        title="Train",
        icon=":material/school:",
        order=0,
        summary="Choose a task and watch a network learn it, in seconds.",
        needs_network=False,
        draw=draw,
    )
)

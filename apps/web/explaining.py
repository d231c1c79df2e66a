"""Having a network explained: its mechanism named, tested and judged, in a job."""

import streamlit as st

from apps.orders.ask import AskOrder
from apps.recording import EXPLANATION
from apps.web import jobs
from apps.web.choice import Network
from apps.web.tab import tab
from apps.web.words import help_of
from circuits.mechanism import mechanism_for
from workbench import config


def offer_explanation(network: Network, *, explained: bool, page: str) -> None:
    """Draw the jobs that explain, and the button that orders one where nobody has.

    Args:
        explained: whether there is an explanation of this network.
        page: the name of the page, which its widgets are called after.
    """
    key = f"{page}_job"
    order = AskOrder(run=network.name, step=network.step, analysis=EXPLANATION)
    found = None if explained else _at_work(order)
    if found is not None and found not in jobs.job_ids(key):
        jobs.watch(key, found)  # another page or tab has asked
    for job in jobs.job_ids(key):
        jobs.panel(
            job,
            key=f"{key}_{job[:16]}",
            on_done=lambda status: jobs.unwatch(key, status.id),
            watched=key,
        )
    if explained or found is not None:
        return
    if mechanism_for(network.task) is None:
        st.caption(
            "No mechanism is known for this task that could be tested: trace it, or probe it."
        )
        return
    asked = st.button(
        "Explain this network",
        key=f"{page}_explain",
        icon=":material/psychology:",
        help="Names the parts that do the task, intervenes on them over every input, and tests "
        "each claim beside its controls. Some seconds for p = 23, half a minute for p = 113.  \n"
        + help_of("verdict"),
    )
    if asked:
        jobs.watch(key, jobs.start(order, owner=tab()))
        st.rerun()


def _at_work(order: AskOrder) -> str | None:
    """The job that asks the same now, if there is one."""
    asked = config.to_dict(order)
    for one in jobs.all_jobs():
        if one.unfinished and one.kind == order.kind and one.parameters == asked:
            return one.id
    return None

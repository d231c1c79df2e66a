"""A training job on the page: how far it is, its curves, and where to go from there."""

import streamlit as st

from apps.orders.train import TrainOrder
from apps.web.jobs import Status, panel, start, unwatch, watch
from apps.web.shell import link_to
from apps.web.train.curves import draw_curves
from apps.web.view import views
from workbench import config

WATCHED = "train_job"
"""The key in the address of the jobs that are watched."""
LOOKED_AT_BY = ("network", "trace")
"""Pages that a trained network is carried to."""


def ordered(status: Status) -> TrainOrder:
    """What a training job was asked to do. Raises `ConfigError` where its file is damaged."""
    return config.from_json(TrainOrder, dict(status.parameters), where="the job")


def draw_watched(job_id: str, owner: str) -> None:
    """One job: its panel, its curves, and what can be done next."""
    status = panel(job_id, key=f"train_{job_id[:16]}")
    if status.kind != TrainOrder.kind:
        _close_button(job_id)
        return
    order = ordered(status)
    names = dict(zip((f"seed {one}" for one in order.seeds), order.run_names(), strict=True))
    draw_curves(names, key=f"train_{status.id}", live=status.unfinished)
    if status.unfinished:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if status.state == "done":
            look_at(names, key=f"train_{status.id}")
        elif st.button(
            "Go on",
            icon=":material/resume:",
            key=f"train_{status.id}_again",
            help="Trains on from what was saved.",
        ):
            unwatch(WATCHED, job_id)
            watch(WATCHED, start(order, owner=owner))
            st.rerun()
        _close_button(job_id)


def look_at(names: dict[str, str], *, key: str) -> None:
    """Links that carry a run to other pages; of several runs, a choice before them."""
    label = next(iter(names))
    if len(names) > 1:
        label = st.selectbox("Look at", list(names), key=f"{key}_which", width=160)
    for page in LOOKED_AT_BY:
        if page in views:
            link_to(page, f"Look at it: {views.get(page).title}", run=names[label])


def _close_button(job_id: str) -> None:
    if st.button(
        "Close",
        icon=":material/close:",
        key=f"train_{job_id[:16]}_close",
        help="Takes it off this page. The job and its networks stay.",
    ):
        unwatch(WATCHED, job_id)
        st.rerun()

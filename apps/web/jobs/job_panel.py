"""A job on a page: how far it is, how long it will take, Cancel; and jobs in the address."""

from collections.abc import Callable

import streamlit as st

from apps.web import jobs
from apps.web.jobs.files import Status, is_id
from apps.web.shell import escaped, guarded
from apps.web.tab import tab_tokens
from workbench.errors import AppError

EVERY = 0.7
"""Seconds between two looks at a job that has not ended."""
MOST = 20
"""Jobs in an address."""
WORDS = {
    "waiting": ("Waiting", ":material/hourglass_empty:"),
    "running": ("Running", ":material/play_circle:"),
    "done": ("Done", ":material/check_circle:"),
    "failed": ("Failed", ":material/error:"),
    "cancelled": ("Cancelled", ":material/cancel:"),
    "lost": ("Lost", ":material/help:"),
}
"""Of each state: what is said, and the sign beside it."""


def draw_panel(
    job_id: str,
    *,
    key: str,
    on_done: Callable[[Status], None] | None,
    watched: str | None,
) -> Status:
    """See `apps.web.jobs.panel`."""
    try:
        status = jobs.status_of(job_id)
    except AppError as error:
        st.warning(escaped(str(error)), icon=":material/help:")
        close_button(job_id, watched)
        return _no_job(job_id, str(error))
    owner = next((one for one in tab_tokens() if jobs.is_owner(status, one)), None)
    if not status.unfinished:
        _ended(status, key, on_done)
        _draw(status, key=key, owner=owner)
        close_button(job_id, watched)
        return status

    def live() -> None:
        try:
            now = jobs.status_of(job_id)
        except AppError:
            st.rerun()  # swept away meanwhile: the page says so
        if not now.unfinished:
            st.rerun()
        _draw(now, key=key, owner=owner)

    st.fragment(lambda: guarded(live), run_every=EVERY)()
    return status


def close_button(job_id: str, watched: str | None) -> None:
    """Takes a job out of the address under the key `watched`; nothing where that is None."""
    if watched is None:
        return
    st.button(
        "Close",
        icon=":material/close:",
        key=f"{watched}_close_{job_id[:16]}",
        on_click=jobs.unwatch,
        args=(watched, job_id),
        help="Takes it off this page. What it saved stays.",
    )


def state_words(status: Status) -> str:
    """The state and the time, in words: `Running: 12 s so far, about 8 s left`."""
    words = WORDS[status.state][0]
    if status.stopping:
        return "Stopping"
    if status.state == "running":
        left = status.seconds_left
        after = "" if left is None else f", about {seconds_text(left)} left"
        return f"{words}: {seconds_text(status.seconds)} so far{after}"
    if status.state in ("done", "failed", "cancelled"):
        return f"{words} after {seconds_text(status.seconds)}"
    return words


def seconds_text(seconds: float) -> str:
    """`8 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _draw(status: Status, *, key: str, owner: str | None) -> None:
    """Title, bar and words; Cancel while it has not ended."""
    with st.container(border=True):
        words, button = st.columns([5, 1], vertical_alignment="center")
        words.markdown(f"{WORDS[status.state][1]} **{escaped(status.title)}**")
        words.caption(escaped(state_words(status)))
        if status.unfinished:
            with button:
                _cancel_button(status, key, owner)
            done, total, doing = status.progress or (0, 0, "")
            share = min(1.0, done / total) if total else 0.0
            counted = f"{done:,} of {total:,}: " if total else ""
            st.progress(share, text=escaped(counted + doing))
        if status.error is not None:
            st.error(escaped(status.error), icon=":material/error:")


def _cancel_button(status: Status, key: str, owner: str | None) -> None:
    asked = st.button(
        "Cancel",
        key=f"{key}_cancel_{status.id}",
        icon=":material/cancel:",
        disabled=owner is None,
        width="stretch",
        help="Another tab started this job. It can be cancelled there."
        if owner is None
        else "Stops at the next progress. What was saved until then is kept.",
    )
    if asked and owner is not None:
        jobs.cancel(status.id, owner=owner)
        st.toast("The job is told to stop.")


def _ended(status: Status, key: str, on_done: Callable[[Status], None] | None) -> None:
    """Call `on_done` the first time that this session sees the end, and run the page once more."""
    told = f"_{key}_told"
    if on_done is None or status.state != "done" or st.session_state.get(told) == status.id:
        return
    st.session_state[told] = status.id
    on_done(status)
    st.rerun()


def _no_job(job_id: str, error: str) -> Status:
    return Status(
        id=job_id,
        kind="",
        title="No such job",
        parameters={},
        created=0.0,
        state="lost",
        progress=None,
        seconds=0.0,
        seconds_left=None,
        error=error,
        result=None,
        owner_sha256="",
    )


# ---------------------------------------------------------------------- the address


def address_ids(key: str) -> tuple[str, ...]:
    """See `apps.web.jobs.job_ids`.

    Kept in the session too, as a change of page clears the address.
    """
    text = st.query_params.get(key)
    if text is None:
        text = st.session_state.get(_remembered(key), "")
        if text:
            st.query_params[key] = text
    st.session_state[_remembered(key)] = text
    return tuple(dict.fromkeys(one for one in text.split(",") if one))[:MOST]


def set_address_ids(key: str, ids: tuple[str, ...]) -> None:
    """Put these ids, as far as they are ids, into the address."""
    text = ",".join([one for one in ids if is_id(one)][:MOST])
    st.session_state[_remembered(key)] = text
    if text:
        st.query_params[key] = text
    elif key in st.query_params:
        del st.query_params[key]


def _remembered(key: str) -> str:
    return f"_{key}_ids"

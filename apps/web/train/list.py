"""The jobs and the runs that there are."""

import streamlit as st

from apps.web.charts.show import table
from apps.web.jobs import Status, all_jobs, job_ids, watch
from apps.web.jobs.job_panel import WORDS, state_words
from apps.web.shell import escaped, guarded
from apps.web.train.curves import draw_curves
from apps.web.train.runs import COMPLETE, RunSummary, summaries
from apps.web.train.watch import WATCHED, look_at
from apps.web.words import help_of

EVERY = 2.0
"""Seconds between two looks at the list of jobs."""
BUSY = "_train_list_busy"
"""Key of the session state: whether the list is looked at again by itself."""
LISTED = 8
"""Jobs that are listed: all that have not ended, then the newest."""


def draw_jobs() -> None:
    """The jobs that are not watched on this page, those that run first."""
    others = _others()
    if not others:
        return
    st.subheader("Other jobs")
    st.session_state[BUSY] = any(one.unfinished for one in others)
    if st.session_state[BUSY]:
        st.fragment(lambda: guarded(_draw_jobs), run_every=EVERY)()
    else:
        _draw_jobs()


def _others() -> list[Status]:
    watched = job_ids(WATCHED)
    others = [one for one in all_jobs() if one.id not in watched]
    unfinished = [one for one in others if one.unfinished]
    ended = [one for one in others if not one.unfinished and one.kind == "train"]
    return unfinished + ended[: max(0, LISTED - len(unfinished))]


def _draw_jobs() -> None:
    others = _others()
    if st.session_state.get(BUSY) and not any(one.unfinished for one in others):
        st.session_state[BUSY] = False
        st.rerun()  # no need to look any more
    for one in others:
        words, button = st.columns([6, 1], vertical_alignment="center")
        error = "" if one.error is None else f": {one.error}"
        words.markdown(
            f"{WORDS[one.state][1]} {escaped(one.title)} "
            f":small[{escaped(state_words(one) + error)}]"
        )
        if button.button("Watch", key=f"train_watch_{one.id}", width="stretch"):
            watch(WATCHED, one.id)
            st.rerun()


def draw_runs() -> None:
    """A table of the runs, and the curves of the one that is chosen."""
    st.subheader("Networks")
    with st.spinner("Reading what the networks have measured …"):
        found = summaries()
    if not found:
        st.info("There is none yet. Press Train above.", icon=":material/school:")
    else:
        if training():
            st.fragment(lambda: guarded(_draw_live), run_every=EVERY)()
        else:
            _table(found)
        _draw_chosen(found)
    st.caption("A network trained elsewhere becomes one of these with this command:")
    st.code("workbench import DIRECTORY", language=None)


def training() -> bool:
    """Whether a job trains."""
    return any(one.unfinished and one.kind == "train" for one in all_jobs())


def _draw_live() -> None:
    """The table while something trains; the whole page once more when nothing does."""
    if not training():
        st.rerun()
    _table(summaries())


def _table(found: list[RunSummary]) -> None:
    rows = [
        {
            "network": one.name,
            "held-out accuracy": one.held_out_accuracy,
            "held out": one.n_held_out,
            "grokking step": one.grokking_step,
            "steps": one.step,
            "state": one.state,
        }
        for one in found
    ]
    table(rows, key="train_runs", alt="The networks that there are, the newest first.")


def _draw_chosen(found: list[RunSummary]) -> None:
    """The curves of one of them, and where to go from there."""
    name = st.selectbox(
        "Show the curves of",
        [one.name for one in found],
        index=None,
        placeholder="choose a network",
        key="train_shown",
        bind="query-params",
        help="How it learned, and links to look inside. " + help_of("grokking"),
    )
    chosen = next((one for one in found if one.name == name), None)
    if chosen is None:
        return
    if chosen.held_out_accuracy is not None:
        live = chosen.state != COMPLETE and any(one.unfinished for one in all_jobs())
        draw_curves({"this": chosen.name}, key="train_shown_run", live=live)
    with st.container(horizontal=True):
        look_at({"this": chosen.name}, key="train_shown_run")

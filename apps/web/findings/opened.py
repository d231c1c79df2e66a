"""Sessions that somebody else saved: read-only until they are accepted as a run."""

from functools import partial
from typing import Any

import streamlit as st

from apps.orders.replay import ReplayOrder
from apps.session_console import INTEGRITY, headline
from apps.session_page import session_page
from apps.session_page_replayed import NOT_CHECKED, TIGHTER
from apps.session_targets import LIMIT
from apps.web import jobs
from apps.web.cache import remembered
from apps.web.choice import run_names, runs_folder
from apps.web.findings.address import RUN, name_session, named_session, turn_to
from apps.web.findings.data import accepted_as, file_name
from apps.web.findings.run import size_text
from apps.web.findings.shown import (
    STATES,
    counted,
    marks_of,
    show_marks,
    show_notes,
    show_records,
    words_of,
)
from apps.web.findings.uploads import (
    LARGEST,
    MIB,
    forget_session,
    keep_session,
    opened_digests,
    opened_session,
)
from apps.web.shell import escaped, guarded
from apps.web.tab import tab
from apps.web.words import help_of
from workbench.errors import AppError, WorkbenchError
from workbench.session import Session, open_as_run
from workbench.strict import one_line

UPLOAD, REFUSED = "findings_upload", "_findings_refused"
CHOICE = "findings_choice"
JOB = "findings_replay_job"


def draw_opened() -> None:
    """Take a file, choose one that is kept, and read it."""
    st.file_uploader(
        "A session file",
        type=["workbench"],
        key=UPLOAD,
        max_upload_size=LARGEST // MIB,
        on_change=_take,
        help=f"Ends in .workbench. {help_of('session')}",
    )
    refused = st.session_state.get(REFUSED)
    if refused:
        st.error(f"Refused: {escaped(refused)}", icon=":material/gpp_bad:")
    session = _chosen()
    if session is None:
        return
    digest = session.path.stem
    _about(session)
    guarded(lambda: _actions(session, digest))
    states = _replayed(session, digest)
    st.subheader("What its author claims", divider="gray")
    st.caption("As it was saved. Nothing of it was run here unless it says so beside it.")
    if not session.records:
        st.caption("It claims nothing.")
    guarded(lambda: show_records(session.records, key="findings_opened_screen", states=states))
    st.subheader("Notes and marks", divider="gray")
    if not session.notebook.notes:
        st.caption("No notes.")
    guarded(lambda: show_notes(session.notebook.notes))
    if marks_of(session.notebook):
        guarded(lambda: show_marks(session.notebook))


def session_title(digest: str) -> str:
    """What a kept session is called in a menu: task, when saved, digits of its digest."""
    return _title(str(runs_folder()), digest)


def _take() -> None:
    """Check a file that was just given; a refusal is shown in one line."""
    given = st.session_state.get(UPLOAD)
    st.session_state[REFUSED] = None
    if given is None:
        return
    try:
        name_session(keep_session(runs_folder(), given.getvalue()))
    except WorkbenchError as error:
        st.session_state[REFUSED] = one_line(str(error), longest=1200)


def _chosen() -> Session | None:
    """The session in the address, among those that are kept."""
    digests = sorted(opened_digests(runs_folder()))
    asked = named_session()
    if asked is not None and asked not in digests:
        st.warning("The session in the address is not kept here (any more); open its file again.")
        asked = None
        name_session(None)
    if not digests:
        st.info(
            "No session is open. Choose a file that somebody sent you, or save one of your own "
            "under *This network*. To have a network of your own, train one on the Train page.",
            icon=":material/upload_file:",
        )
        return None
    st.session_state[CHOICE] = asked
    chosen = st.selectbox(
        "Session",
        digests,
        index=None,
        format_func=session_title,
        key=CHOICE,
        on_change=lambda: name_session(st.session_state[CHOICE]),
        placeholder="Choose a session that was opened here",
        help="The last ones that were opened in this app. None of them is a run.",
    )
    return None if chosen is None else opened_session(runs_folder(), chosen)


@remembered
def _title(runs: str, digest: str) -> str:
    try:
        session = opened_session(runs_folder(), digest)
    except WorkbenchError:
        return f"damaged ({digest[:8]})"
    task = one_line(str(session.network.task.get("name")), longest=60)
    return f"{task}, saved {session.manifest.created[:10]} ({digest[:8]})"


# ---------------------------------------------------------------------- what it is


def _about(session: Session) -> None:
    """Who, when, with what, as far as anybody knows."""
    made = session.manifest
    n = len(session.findings)
    st.success(
        f"Whole: every digest and every bound was checked. {INTEGRITY}", icon=":material/verified:"
    )
    st.text(headline(session))
    versions = ", ".join(
        f"{words_of(key)} {one_line(value)}" for key, value in made.made_with.items()
    )
    steps = session.steps
    lines = {
        "Says it was saved": made.created.replace("T", " ").replace("Z", " UTC"),
        "Says it was made with": versions,
        "Session": made.id,
        "Made from session": made.parent or "none",
        "Holds": f"{counted(n, 'finding')} in {counted(len(session.records), 'record')}, "
        f"{counted(len(steps), 'checkpoint')} (last: step {steps[-1]:,}), "
        f"{size_text(session.archive.size)}",
        "Who wrote it": "nobody knows: a file can say anything of that",
    }
    st.markdown("\n".join(f"- {name}: {escaped(value)}" for name, value in lines.items()))
    with st.expander("How it says it was trained"):
        network = session.network
        told: dict[str, Any] = {**network.task, **(network.recipe or {}), **(network.source or {})}
        told |= {"seed": network.seed, "train_fraction": network.train_fraction}
        rows = [
            {"Setting": one_line(key), "Value": one_line(str(one))} for key, one in told.items()
        ]
        st.dataframe(rows, hide_index=True, alt="Settings of the task and the training", height=300)


def _actions(session: Session, digest: str) -> None:
    """Replay it, accept it, take its page along, forget it."""
    buttons = st.container(horizontal=True, vertical_alignment="bottom")
    limit = buttons.number_input(
        "Seconds a record may take",
        min_value=1,
        max_value=24 * 3600,
        value=LIMIT,
        key="findings_limit",
        bind="query-params",
        help="A file may ask for any amount of work; a record that takes longer cannot run.",
        width=200,
    )
    replay = buttons.button(
        "Replay it here",
        key="findings_replay",
        type="primary",
        icon=":material/replay:",
        disabled=not session.records,
        help="Asks every question again on this machine, from the weights in the file, and "
        "compares each number. Only then is anything of it run, by this Workbench's own code.",
    )
    buttons.download_button(
        "Download its offline page",
        partial(_page, session),
        file_name=f"{file_name(str(session.network.task.get('name')))}-{digest[:8]}.html",
        mime="text/html",
        key="findings_opened_page",
        on_click="ignore",
        icon=":material/html:",
        help="One HTML file that opens in any browser and asks nothing of the network.",
    )
    forget = buttons.button(
        "Forget it",
        key="findings_forget",
        icon=":material/close:",
        help="Removes the file that was opened from this app. An accepted run stays.",
    )
    if replay:
        order = ReplayOrder(session=digest, limit=int(limit))
        jobs.start(order, owner=tab())  # found again by the session that it is of
    if forget:
        forget_session(runs_folder(), digest)
        name_session(None)
        st.rerun()
    _accept(session)


def _page(session: Session) -> bytes:
    return session_page(session).encode()


def _accept(session: Session) -> None:
    """Make a run of it, and lead there."""
    name = accepted_as(session, runs_folder(), run_names())
    if name is None:
        st.caption("Read-only: nothing of it is among your runs, and nothing here can change it.")
        asked = st.button(
            "Accept into my runs",
            key="findings_accept",
            icon=":material/playlist_add_check:",
            help="Makes a run of it, with its findings, notes and marks, so that every page works "
            "on it. The file itself stays as it is.",
        )
        if not asked:
            return
        with st.spinner("Checking every weight, and making a run of it"):
            name = open_as_run(session, runs_folder()).path.name
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown(f":green-badge[:material/check: accepted] as {escaped(name)}", width="content")
    row.button(
        "Show it among my runs",
        key="findings_show",
        icon=":material/arrow_forward:",
        on_click=_show_run,
        args=(name,),
    )


def _show_run(name: str) -> None:
    st.session_state["run"] = name
    turn_to(RUN)


# ---------------------------------------------------------------------- does it hold


def _replayed(session: Session, digest: str) -> dict[str, str]:
    """The last replay of this session: its progress, or what became of each record."""
    found = next(
        (
            one
            for one in jobs.all_jobs()
            if one.kind == ReplayOrder.kind and one.parameters.get("session") == digest
        ),
        None,
    )
    if found is None:
        return {}
    st.subheader("Replayed here", divider="gray")
    status = jobs.panel(found.id, key=JOB) if found.state != "done" else found
    if status.state != "done" or status.result is None:
        return {}
    rows = status.result.get("replayed")
    if not isinstance(rows, list):
        raise AppError("the result of the replay is damaged; replay it again")
    _verdict(rows)
    st.markdown(replay_table(rows))
    for row in rows:
        _differences(row)
    st.caption(f"{NOT_CHECKED} Compared within the recorded tolerances; {TIGHTER}.")
    return {str(row["record"]): str(row["state"]) for row in rows}


def _verdict(rows: list[dict[str, Any]]) -> None:
    """How many hold, in one line."""
    held = sum(row["state"] == "holds" for row in rows)
    if not any(row["findings"] for row in rows):
        st.warning("It holds no finding, so nothing that was claimed is shown to hold.")
    elif held == len(rows):
        n = sum(len(row["findings"]) for row in rows)
        came = f"{counted(n, 'finding')} came out the same here"
        st.success(
            f"Every record holds: {came}.",
            icon=":material/check_circle:",
        )
    else:
        st.warning(f"{held:,} of {len(rows):,} records hold.", icon=":material/error:")


def replay_table(rows: list[dict[str, Any]]) -> str:
    """What became of each record, as a Markdown table of escaped text."""
    lines = ["| Record | State | Findings | Numbers compared | Closeness | Seconds |"]
    lines.append("|:--|:--|--:|--:|--:|--:|")
    for row in rows[:200]:
        name = escaped(f"{words_of(str(row['kind']))}, step {row['step']:,}")
        near = "–" if row["closeness"] is None else f"{row['closeness']:.2g}"
        compared = "–" if row["compared"] is None else f"{row['compared']:,}"
        state, n = STATES[row["state"]], len(row["findings"])
        lines.append(f"| {name} | {state} | {n:,} | {compared} | {near} | {row['seconds']:.1f} |")
    if len(rows) > 200:
        lines.append(f"| and {len(rows) - 200:,} more | | | | | |")
    return "\n".join(lines)


def _differences(row: dict[str, Any]) -> None:
    """Of a record that does not hold: why, and which numbers are others."""
    if row["state"] == "holds":
        return
    name = escaped(f"{words_of(str(row['kind']))}, step {row['step']:,}")
    st.markdown(f"{STATES[row['state']]} {name}: {escaped(one_line(str(row['why'])))}")
    if row["differences"]:
        told = [
            {key: one_line(str(one)) for key, one in each.items()} for each in row["differences"]
        ]
        st.dataframe(told, hide_index=True, alt=f"Numbers of {name} that are others here")

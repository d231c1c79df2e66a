"""Findings of the chosen run: claims, notes, marks, and saving it all as one file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import streamlit as st

from apps.recording import EXPLANATION
from apps.web.choice import Network, required_network
from apps.web.explaining import offer_explanation
from apps.web.findings.data import (
    PAGE,
    add_note,
    address_of,
    delete_note,
    file_name,
    is_from_session,
    page_of_run,
    records_of,
    remove_record,
    session_file,
    size_of,
    view_of,
)
from apps.web.findings.mechanism_places import set_switches, switches_address, switches_of
from apps.web.findings.places import PAGES, look_at
from apps.web.findings.shown import counted, show_marks, show_note, show_records, title_of
from apps.web.shell import LAST_VIEW, escaped, guarded, link_to, page_of
from apps.web.view import views
from apps.web.words import help_of
from workbench.errors import WorkbenchError
from workbench.finding import Finding
from workbench.record import Record
from workbench.records import read_notebook
from workbench.run import Run
from workbench.strict import one_line

NOTE = 20_000
"""Characters of a note, at most (`workbench.strict.Prose`)."""


def draw_run() -> None:
    """Claims, then notes and marks, then saving."""
    network = required_network()
    if network is None:
        return
    _origin(network.run)
    guarded(lambda: _claims(network))
    st.subheader("Notes and marks", divider="gray")
    guarded(lambda: _notes(network.run))
    guarded(lambda: show_marks(read_notebook(network.run)))
    st.subheader("Save it as one file", divider="gray")
    guarded(lambda: _save(network.run))


# ---------------------------------------------------------------------- claims


def _claims(network: Network) -> None:
    records = records_of(network.run)
    explained = any(one.kind == EXPLANATION and one.step == network.step for one in records)
    n = sum(len(one.findings) for one in records)
    if not records:
        st.info(
            "Nothing is claimed of this network yet. Ask here, or on the Trace and Probes pages: "
            "what is kept there is listed here.",
            icon=":material/lightbulb:",
        )
    else:
        st.markdown(
            f"**{counted(n, 'finding')}** in {counted(len(records), 'record')}, of every "
            "checkpoint that was asked."
        )
    offer_explanation(network, explained=explained, page="findings")
    show_records(
        records,
        key="findings_screen",
        beside=partial(_beside, network),
        below=partial(_below, network),
    )


def _beside(network: Network, record: Record) -> None:
    """Where to look at what a record speaks of, and removing it."""
    name, label = PAGES.get(record.kind, ("", ""))
    if name in views:
        address = look_at(record, network)
        link_to(name, label, help=None, run=network.name, step=str(record.step), **address)
    with st.popover("Remove", icon=":material/delete:", key=f"findings_ask_{record.id}"):
        st.markdown("This removes the record and its findings for good.")
        if st.button("Remove it", key=f"findings_remove_{record.id}", type="primary"):
            remove_record(network.run, record)
            st.rerun()


def _below(network: Network, record: Record, finding: Finding) -> None:
    """Where a claim about a mechanism is seen to happen."""
    switches = switches_of(record, finding)
    if switches is None or "parts" not in views:
        return
    step = record.step if record.step in network.run.steps else None
    if st.button(
        "See it happen",
        icon=views.get("parts").icon,
        key=f"findings_see_{record.id}_{finding.id}",
        help="Opens Parts with the switches set as this test sets them.",
        on_click=partial(set_switches, switches, step),
    ):
        address = switches_address(switches)
        st.switch_page(page_of("parts"), query_params={"run": network.name, **address})


def _origin(run: Run) -> None:
    """Whose word there is for how the network came to be, where it is not from here."""
    if not is_from_session(run):
        if run.config.source is not None:
            told = ", ".join(f"{key}: {value}" for key, value in run.config.source.items())
            st.caption(f"Imported. Its publisher says: {escaped(one_line(told))}")
        return
    notebook = read_notebook(run)
    parent = "unknown" if notebook.parent is None else notebook.parent[:12]
    st.info(
        f"Opened from session {parent}. Findings stand as its author saved them; how the network "
        "was trained, the numbers of its steps and the notes are the author's word. To see what "
        "holds here, replay the session under *Open a session*.",
        icon=":material/person:",
    )
    address = address_of(notebook.view)
    page = notebook.view.get(PAGE)
    known = isinstance(page, str) and page in views
    if address or known:
        name = str(page) if known else "network"
        link_to(
            name,
            "Restore the author's view",
            help="Opens the page that the author saved, with what was chosen on it.",
            run=run.path.name,
            **address,
        )


# ---------------------------------------------------------------------- notes


def _notes(run: Run) -> None:
    for i, note in enumerate(read_notebook(run).notes):
        with st.container(border=True):
            words, side = st.columns([6, 1])
            with words:
                show_note(note)
            gone = side.button(
                "Delete",
                key=f"findings_delete_{i}_{note.created}",
                icon=":material/delete:",
                help="Removes this note.",
            )
        if gone:
            delete_note(run, i, note.created)
            st.rerun()
    with st.form("findings_note_form", clear_on_submit=True, border=False):
        text = st.text_area(
            "A note",
            key="findings_note",
            max_chars=NOTE,
            placeholder="What you saw, and what to look at next. It travels in the session.",
            help="Plain text. It is kept beside the run and shown to whoever opens the session.",
        )
        if st.form_submit_button("Add the note", icon=":material/add:"):
            add_note(run, text)
            st.rerun()


# ---------------------------------------------------------------------- saving


def _save(run: Run) -> None:
    """What goes in, and the two files."""
    records = records_of(run)
    titles = {one.id: title_of(one) for one in records}
    left, right = st.columns(2)
    with left:
        chosen = st.multiselect(
            "Records that go in",
            list(titles),
            default=list(titles),
            format_func=lambda one: titles.get(one, one),
            key="findings_records",
            help="What was asked, what came out, and the weights it speaks of.",
        )
        note = st.text_input(
            "A last note to whoever opens it",
            key="findings_last_note",
            max_chars=NOTE,
            placeholder="Optional",
            help="Added to the notes in the file, not to those of the run.",
        )
    with right:
        every = st.toggle(
            "Every checkpoint",
            key="findings_checkpoints",
            bind="query-params",
            help=f"Not only those that findings speak of. {help_of('checkpoint')}",
        )
        seen = st.toggle(
            "What was on the screen",
            value=True,
            key="findings_view",
            bind="query-params",
            disabled=_last_seen(run) is None,
            help="The page on which you looked at this network last and what was chosen there, so "
            "that whoever opens the session can look at the same.",
        )
    view = _last_seen(run) if seen else None
    _downloads(run, [one for one in records if one.id in chosen], note, every, view)


def _last_seen(run: Run) -> dict[str, str] | None:
    """What this tab had of this run on the screen last; None where it did not look at it."""
    page, address = st.session_state.get(LAST_VIEW, (None, {}))
    return view_of(address, page) if address.get("run") == [run.path.name] else None


def _downloads(
    run: Run, chosen: list[Record], note: str, every: bool, view: dict[str, str] | None
) -> None:
    name, size = file_name(run.path.name), size_of(run, chosen, all_checkpoints=every)
    make = partial(
        session_file,
        run,
        note=note if note.strip() else None,
        only=[one.id for one in chosen],
        all_checkpoints=every,
        view=view,
    )
    buttons = st.container(horizontal=True)
    buttons.download_button(
        f"Save as a session, about {size_text(size)}",
        partial(told_of, run, make),
        file_name=f"{name}.workbench",
        mime="application/octet-stream",
        key="findings_save",
        on_click="ignore",
        type="primary",
        icon=":material/save:",
        help=help_of("session"),
    )
    buttons.download_button(
        "Save as an offline page",
        partial(told_of, run, partial(page_of_run, run)),
        file_name=f"{name}.html",
        mime="text/html",
        key="findings_page_file",
        on_click="ignore",
        icon=":material/html:",
        help="One HTML file, mostly of 1 to 2 MB, that opens in any browser without the Workbench "
        "and asks nothing of the network.",
    )
    if run.path in _not_made:
        st.error(
            f"The last file could not be made: {escaped(_not_made[run.path])}",
            icon=":material/error:",
        )


def told_of(run: Run, make: Callable[[], bytes]) -> bytes:
    """A file that the browser asks for, apart from the page. Why it could not be made is kept for
    the page, as the browser says no more than that it failed. Raises what `make` raises."""
    try:
        made = make()
    except (WorkbenchError, OSError) as error:
        _not_made[run.path] = one_line(str(error))
        raise
    _not_made.pop(run.path, None)
    return made


_not_made: dict[Path, str] = {}
"""Of each run, why the last file could not be made."""


def size_text(size: int) -> str:
    """Bytes as people read them: `908 kB`, `1.8 MB`."""
    return f"{size / 1e6:.1f} MB" if size >= 10**6 else f"{max(1, round(size / 1000)):,} kB"

"""Two networks' findings side by side: what one has that the other has not, in words."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import streamlit as st

from apps.web.choice import find_run, run_names, runs_folder
from apps.web.findings.data import changes_between, records_of
from apps.web.findings.opened import session_title
from apps.web.findings.uploads import opened_digests, opened_session
from apps.web.shell import escaped
from workbench.records import NOTEBOOK
from workbench.run import Run
from workbench.session import Session
from workbench.session.differing import Change
from workbench.strict import one_line

LISTED, SIDE, WORD = 500, 1000, 32
"""Differences that are listed, characters of either side of one, and of a word of it."""
RUN, SESSION = "run:", "session:"
"""What a choice begins with."""
WHERE = {
    "network": "how it was made",
    "weights": "weights",
    "findings": "findings",
    "results": "other numbers",
    "circuits": "circuits",
    "notes": "notes and marks",
}


def draw_compare() -> None:
    """Choose two, and read what differs."""
    choices = [f"{RUN}{name}" for name in run_names()]
    choices += [f"{SESSION}{digest}" for digest in sorted(opened_digests(runs_folder()))]
    if len(choices) < 2:
        st.info(
            "There are not two to compare. Train another network on the Train page, or open a "
            "session under *Open a session*.",
            icon=":material/difference:",
        )
        return
    left, right = st.columns(2)
    with left:
        first = _choice("First", choices, 0)
    with right:
        second = _choice("Second", choices, 1)
    if first == second:
        st.info(
            "These are the same. Choose another one on either side.", icon=":material/difference:"
        )
        return
    with st.spinner("Comparing the two"):
        changes = _changes(first, second, _stamp(first) + _stamp(second))
    _show(changes)


def choice_title(choice: str) -> str:
    """What a run or a session is called in the menu."""
    kind, _, name = choice.partition(":")
    return f"Run {name}" if kind == "run" else f"Session {session_title(name)}"


def _choice(label: str, choices: list[str], index: int) -> str:
    return st.selectbox(
        label,
        choices,
        index=index,
        format_func=choice_title,
        key=f"findings_{label.lower()}",
        bind="query-params",
        help="One of your runs, or a session that was opened here.",
    )


def _show(changes: tuple[Change, ...]) -> None:
    if not changes:
        st.success("The two hold the same.", icon=":material/check_circle:")
        return
    n = len(changes)
    st.markdown(
        f"**{n:,} {'difference' if n == 1 else 'differences'}**; of weights only digests are told."
    )
    st.markdown(change_table(changes[:LISTED]))
    if n > LISTED:
        st.caption(f"And {n - LISTED:,} more; `workbench session diff A B --json` lists all.")


def change_table(changes: Sequence[Change]) -> str:
    """What differs, as a Markdown table of escaped text, whose lines are broken where they end."""
    lines = ["| Where | What | First | Second |", "|:--|:--|:--|:--|"]
    for one in changes:
        cells = (WHERE[one.where], one.what, one.first, one.second)
        told = [_cell(cell) for cell in cells]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escaped; a word that no line could hold, such as a digest, is cut."""
    words = one_line(text, longest=SIDE).split(" ")
    return escaped(" ".join(w if len(w) <= WORD else f"{w[: WORD - 1]}…" for w in words))


def _opened(choice: str) -> Run | Session:
    kind, _, name = choice.partition(":")
    return find_run(name) if kind == "run" else opened_session(runs_folder(), name)


def _stamp(choice: str) -> tuple[str, ...]:
    """What the findings of a run are by now; a session is what its digest says."""
    one = _opened(choice)
    if isinstance(one, Session):
        return ()
    notebook: Path = one.path / NOTEBOOK
    changed = str(notebook.stat().st_mtime_ns) if notebook.is_file() else ""
    kept = ",".join(record.id for record in records_of(one))
    return (str(one.path), kept, str(one.steps), changed)


@lru_cache(maxsize=8)
def _changes(first: str, second: str, stamp: tuple[str, ...]) -> tuple[Change, ...]:
    return tuple(changes_between(_opened(first), _opened(second)))

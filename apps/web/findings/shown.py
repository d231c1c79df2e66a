"""Findings as both a run and an opened session show them: each verdict beside its controls.

Whatever a record says may be a stranger's: it is shown as text, bounded, and never as markup.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from apps.web.shell import escaped
from workbench.finding import Control, Finding
from workbench.record import Record
from workbench.session.schema import Note, Notebook
from workbench.strict import one_line

LISTED, CONTROLS = 40, 20
"""Findings on one screen, and controls of each."""
NOTES, NOTES_TEXT, MARKS = 50, 100_000, 500
"""Notes, characters of all of them, and marks that are listed."""
CLAIM, CELL = 2000, 200
"""Characters of a claim or rule, and of a cell of a table."""
NAMING = ("site", "method", "variable", "variables")
"""Parameters that tell records of one kind apart."""

VERDICTS = {
    "supported": ":green-badge[:material/check_circle: supported]",
    "not supported": ":orange-badge[:material/cancel: not supported]",
    "not applicable": ":gray-badge[:material/remove: not applicable]",
}
"""A word, a sign and a colour, of which any one is enough."""
STATES = {
    "holds": ":green-badge[:material/check_circle: holds]",
    "drifted": ":orange-badge[:material/error: drifted]",
    "cannot run": ":gray-badge[:material/block: cannot run]",
}
"""The same of a replay."""
EXPLAINED = {
    "identified": ":green-badge[:material/check_circle: identified]",
    "partial": ":orange-badge[:material/pie_chart: partial]",
    "not identified": ":gray-badge[:material/help: not identified]",
}
"""The same of an explanation as a whole."""


class Shown(NamedTuple):
    """Part of a record: the findings of it that are on this screen."""

    record: Record
    findings: tuple[Finding, ...]
    first: bool
    """Whether its heading and what may be done with it belong here."""


def show_records(
    records: Sequence[Record],
    *,
    key: str,
    beside: Callable[[Record], None] | None = None,
    below: Callable[[Record, Finding], None] | None = None,
    states: Mapping[str, str] | None = None,
) -> None:
    """Draw records by kind: all findings in one table, then each beside its controls.

    Args:
        key: of the widget that turns to other findings.
        beside: draws what may be done with a record.
        below: draws what may be done with a finding.
        states: by record, what became of it in a replay.
    """
    shown = _on_screen(records, key)
    if any(one.findings for one in shown):
        st.markdown(overview(shown))
    for one in shown:
        replayed = (states or {}).get(one.record.id)
        title = f"**{escaped(title_of(one.record))}** {STATES[replayed] if replayed else ''}"
        with st.expander(title, expanded=len(shown) == 1):
            if one.first:
                _heading(one.record, beside)
            for finding in one.findings:
                with st.container(border=True):
                    show_finding(finding)
                    if below is not None:
                        below(one.record, finding)


def overview(shown: Sequence[Shown]) -> str:
    """A line per finding: the verdict, the claim, and the number beside those of its controls."""
    lines = ["| Verdict | Claim | Value | 95 % | n | Controls |", "|:--|:--|--:|:--|--:|:--|"]
    for one in shown:
        for finding in one.findings:
            row = (
                VERDICTS[finding.verdict],
                escaped(one_line(finding.claim, longest=CELL)),
                number_text(finding.value),
                _exact(finding.interval),
                f"{finding.n:,}",
                controls_text(finding.controls),
            )
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def controls_text(controls: Sequence[Control]) -> str:
    """How many there are, and between which values they lie."""
    if not controls:
        return "none"
    values = sorted(one.value for one in controls)
    ends = dict.fromkeys(number_text(value) for value in (values[0], values[-1]))
    return f"{len(controls)}: {' to '.join(ends)}"


def show_finding(finding: Finding) -> None:
    """The verdict, the claim, and the number beside the same number where it should fail."""
    st.markdown(f"{VERDICTS[finding.verdict]} **{escaped(finding.id)}**")
    st.text(_cut(finding.claim))
    st.markdown(finding_table(finding))
    if (more := len(finding.controls) - CONTROLS) > 0:
        st.caption(f"And {more:,} more controls, which a saved session has.")
    st.caption(
        f"**Measured:** {escaped(one_line(finding.measure, longest=CLAIM))}  \n"
        f"**Rule:** {escaped(one_line(finding.rule, longest=CLAIM))}"
    )


def finding_table(finding: Finding) -> str:
    """The finding's number and its controls', as a Markdown table of escaped text."""
    held_out = "–" if finding.held_out is None else number_text(finding.held_out)
    ends = _exact(finding.interval)
    rows = [("**this network**", number_text(finding.value), ends, f"{finding.n:,}", held_out)]
    rows += [
        (
            f"control: {escaped(one_line(one.name, longest=CELL))}",
            number_text(one.value),
            "–" if one.interval is None else _ends(one.interval),
            _counted(one),
            "",
        )
        for one in finding.controls[:CONTROLS]
    ]
    lines = ["| Where | Value | 95 % interval | n | Held out |", "|:--|--:|:--|--:|--:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def title_of(record: Record) -> str:
    """What a record is called: its kind, what of, at which step. Plain text, one line."""
    of = [_named(record.parameters.get(name)) for name in NAMING]
    return ", ".join(
        [words_of(record.kind).capitalize(), *filter(None, of), f"step {record.step:,}"]
    )


def words_of(name: str) -> str:
    """A name of ours or of a file as words: `probe_training` is `probe training`."""
    return one_line(name.replace("_", " "), longest=CELL)


def counted(n: int, what: str) -> str:
    """`1 finding`, `9 findings`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def number_text(value: float) -> str:
    """A number as it is read: four decimals where they say something."""
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    return f"{value:.4f}".replace("-", "−") if plain else f"{value:.3g}".replace("-", "−")


# ---------------------------------------------------------------------- notes and marks


def show_note(note: Note) -> None:
    """When it was written, and its text as it stands."""
    st.caption(f"{escaped(note.created.replace('T', ' ').removesuffix('Z'))} UTC")
    st.text(note.text)


def show_notes(notes: Sequence[Note]) -> None:
    """Notes, up to a bound."""
    room = NOTES_TEXT
    for i, note in enumerate(notes):
        room -= len(note.text)
        if i >= NOTES or room < 0:
            st.caption(f"And {len(notes) - i:,} more notes, which its offline page has.")
            return
        with st.container(border=True):
            show_note(note)


def show_marks(notebook: Notebook) -> None:
    """Labels, groups and pins of the circuit graph."""
    rows = marks_of(notebook)
    if not rows:
        st.caption("No part has a name, a group or a pin. They are given on the Trace page.")
        return
    alt = "Marks on the circuit graph: part, kind of mark, words"
    st.dataframe(
        rows[:MARKS], hide_index=True, alt=alt, height="content" if len(rows) < 12 else 400
    )
    if len(rows) > MARKS:
        st.caption(f"And {len(rows) - MARKS:,} more marks.")


def marks_of(notebook: Notebook) -> list[dict[str, str]]:
    """What somebody wrote on the circuit graph, a row each. Plain text."""
    marks = notebook.marks
    rows = [_mark(node, "called", label) for node, label in marks.labels.items()]
    rows += [_mark(group.name, "group of", ", ".join(group.nodes[:50])) for group in marks.groups]
    return rows + [_mark(node, "pinned", "") for node in marks.pinned]


def _mark(part: str, kind: str, words: str) -> dict[str, str]:
    return {"Part": one_line(part), "Mark": kind, "Words": one_line(words)}


# ---------------------------------------------------------------------- parts


def _on_screen(records: Sequence[Record], key: str) -> list[Shown]:
    """The records of the chosen screen, by kind; a record with many findings goes over several."""
    ordered = sorted(records, key=lambda one: (one.kind, one.step, one.id))
    screens = screens_of(ordered)
    if len(screens) == 1:
        return screens[0]
    number = st.number_input(
        f"Screen, of {len(screens):,}",
        min_value=1,
        max_value=len(screens),
        key=key,
        bind="query-params",
        help=f"There are many findings: {LISTED} stand on one screen.",
        width=200,
    )
    return screens[int(number) - 1]


def screens_of(records: Sequence[Record]) -> list[list[Shown]]:
    """Records over screens of at most `LISTED` findings (or records without one)."""
    screens: list[list[Shown]] = [[]]
    room = LISTED
    for record in records:
        left, first = record.findings, True
        while first or left:
            if room == 0:
                screens.append([])
                room = LISTED
            screens[-1].append(Shown(record, left[:room], first))
            taken = max(1, min(room, len(left)))
            left, first, room = left[room:], False, room - taken
    return screens


def _heading(record: Record, beside: Callable[[Record], None] | None) -> None:
    """What it was computed with, and what can be done with it."""
    made = record.made_with
    with_what = f"Workbench {made.workbench}, torch {made.torch}, {made.device}"
    st.caption(
        escaped(f"{record.seconds:,.1f} s with {with_what}, threads: {made.threads}. {record.id}")
    )
    _explanation(record)
    if not record.findings:
        st.caption("It claims nothing: numbers alone.")
    if beside is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            beside(record)


def _explanation(record: Record) -> None:
    """Of an explanation: its verdict as a whole, and why."""
    if record.kind != "mechanism":
        return
    verdict, reason = record.result.get("verdict"), record.result.get("reason")
    if isinstance(verdict, str) and verdict in EXPLAINED:
        st.markdown(EXPLAINED[verdict])
    if isinstance(reason, str):
        st.text(_cut(reason))


def _named(value: object) -> str:
    if isinstance(value, list):
        return one_line(", ".join(map(str, value[:5])), longest=60)
    return one_line(words_of(value), longest=60) if isinstance(value, str) else ""


def _counted(control: Control) -> str:
    unit = one_line(control.unit, longest=CELL)
    return f"{control.n:,} {escaped(unit.removesuffix('s') if control.n == 1 else unit)}"


def _exact(interval: tuple[float, float] | None) -> str:
    """Of a finding: without an interval, all there is was measured (inputs, neurons, pairs)."""
    return "exact" if interval is None else _ends(interval)


def _ends(interval: tuple[float, float]) -> str:
    return f"{number_text(interval[0])} to {number_text(interval[1])}"


def _cut(text: str) -> str:
    return text if len(text) <= CLAIM else f"{text[: CLAIM - 1]}…"

"""What a person sees of a session in the terminal. No torch is needed.

What a file says is a stranger's word. It is told on one line or behind a bar, spelled out where it
does not print, and folded behind an indent: it never stands at the left edge, where our own words
do. All of it is bounded, so that a large file is told at once; `--json` has everything.
"""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from apps.session_page_replayed import NOT_CHECKED
from apps.terminal import VERDICT_STYLES, folded, out, table
from workbench import config
from workbench.finding import Control, Finding, finding_to_dict
from workbench.record import Record
from workbench.session.schema import Note
from workbench.session.session import Session
from workbench.session.verifying import Verified
from workbench.strict import one_line

if TYPE_CHECKING:
    from workbench.session.differing import Change
    from workbench.session.replaying import Replayed

INTEGRITY = "Digests show that the file is whole, not who wrote it."
STYLES = {"holds": "green", "drifted": "bold red", "cannot run": "bold yellow", **VERDICT_STYLES}
LISTED, CONTROLS = 200, 20
"""Records, findings, marks or changes that are listed; and controls of a finding."""
CLAIM, NOTES, SIDE = 1000, 100_000, 4000
"""Characters of a claim or reason; of all notes, to whole notes; of a side of a change."""
ALL = "--json lists all"
BAR = "  | "
"""Before every line of a note."""

Line = str | Text


def show(session: Session) -> None:
    """Network, findings beside their controls, marks, notes, and what it was made with."""
    made, width = session.manifest, out().width
    versions = ", ".join(f"{key} {one_line(value)}" for key, value in made.made_with.items())
    head = folded(headline(session), rest="  ", width=width)
    lines: list[Line] = [Text(line, style="bold") for line in head]
    lines.append(f"session {made.id[:12]}, saved {made.created}, {session.archive.size:,} bytes")
    lines += folded(f"made with {versions}", rest="  ", width=width)
    if made.parent is not None:
        lines.append(f"made from session {made.parent[:12]}")
    lines.append(f"checkpoints: {_steps(session.steps)}")
    lines += _records(session.records, width)
    lines += _marks(session, width)
    lines += _notes(session.notebook.notes, width)
    command = f"workbench session replay {shlex.quote(one_line(str(session.path)))}"
    lines.append("Nothing was run, and nothing is known of who wrote this.")
    _print([*lines, f"Replay it: {command}"])


def headline(session: Session) -> str:
    """Task, shape and how it was trained, in one line."""
    network, shape = session.network, session.network.shape
    settings = {key: value for key, value in network.task.items() if key != "name"}
    task = ", ".join(f"{key} {_brief(value)}" for key, value in settings.items())
    layers = f"{shape.n_layers} {'layer' if shape.n_layers == 1 else 'layers'}"
    made = "imported" if network.seed is None else f"trained here, seed {network.seed}"
    name = _brief(network.task.get("name"))
    return f"task {name} ({one_line(task)}): {layers}, width {shape.d_model}, {made}"


def told(session: Session) -> dict[str, Any]:
    """A session as JSON, without its arrays."""
    return {
        "manifest": session.manifest.model_dump(),
        "network": session.network.model_dump(),
        "checkpoints": session.steps,
        "records": [
            {
                "id": record.id,
                "kind": record.kind,
                "parameters": record.parameters,
                "step": record.step,
                "result": {key: record.result[key] for key in JUDGED if key in record.result},
                "findings": [finding_to_dict(finding) for finding in record.findings],
                "seconds": record.seconds,
            }
            for record in session.records
        ],
        "notebook": session.notebook.model_dump(),
    }


JUDGED = ("verdict", "reason")
"""What an explanation says as a whole."""


# ---------------------------------------------------------------------- what it claims


def _records(records: Sequence[Record], width: int) -> Iterator[Line]:
    """Every record with its findings, up to a bound."""
    if not records:
        yield "no findings"
    room = LISTED
    for record in records[:LISTED]:
        yield f"{record.kind} at step {record.step}, record {record.id}"
        yield from _judged(record, width)
        if not record.findings:
            yield "  it claims nothing: numbers alone"
        for finding in record.findings[:room]:
            yield from _finding(finding, width)
        if (left := len(record.findings) - room) > 0:
            yield f"  and {left:,} more findings; {ALL}"
        room = max(room - len(record.findings), 0)
    if len(records) > LISTED:
        yield f"and {len(records) - LISTED:,} more records; {ALL}"


def _judged(record: Record, width: int) -> list[str]:
    """The verdict of an explanation, and why."""
    if record.kind != "mechanism":
        return []
    verdict, reason = (record.result.get(key) for key in JUDGED)
    why = f": {_brief(reason, CLAIM)}" if isinstance(reason, str) else ""
    return folded(f"{_brief(verdict)}{why}", first="  verdict: ", rest="    ", width=width)


def _finding(finding: Finding, width: int) -> Iterator[Line]:
    measured = f"{_number(finding.value)} {_interval(finding)}, n = {finding.n:,}"
    if finding.held_out is not None:
        measured += f", held out {_number(finding.held_out)}"
    head, verdict = f"{one_line(finding.id)}: {measured}", finding.verdict
    yield from _styled(head, verdict, f"  {verdict}: ", width)
    claim = one_line(finding.claim, longest=CLAIM)
    yield from folded(claim, first="    claim: ", rest="      ", width=width)
    for control in finding.controls[:CONTROLS]:
        told_of = f"{one_line(control.name)}: {_number(control.value)} {_interval(control)}"
        counted = f"{told_of}, n = {control.n:,} {one_line(control.unit)}"
        yield from folded(counted, first="    control ", rest="      ", width=width)
    if (left := len(finding.controls) - CONTROLS) > 0:
        yield f"    and {left:,} more controls; {ALL}"


def _interval(measured: Finding | Control) -> str:
    ends = measured.interval
    return "exhaustive" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"


def _number(value: float) -> str:
    plain = value == 0 or 1e-3 <= abs(value) < 1e9
    return f"{value:.4f}" if plain else f"{value:.4g}"


def _brief(value: object, longest: int = 80) -> str:
    return one_line(str(value), longest=longest)


def _steps(steps: Sequence[int], most: int = 8) -> str:
    if len(steps) <= most:
        return ", ".join(f"step {step}" for step in steps)
    return f"{len(steps)}, from step {steps[0]} to step {steps[-1]}"


# ---------------------------------------------------------------------- what people wrote


def _marks(session: Session, width: int) -> Iterator[str]:
    """Labels, groups and pins of the circuit graph, as somebody gave them."""
    marks = session.notebook.marks
    rows = [(node, f"called {one_line(label)}") for node, label in marks.labels.items()]
    rows += [(group.name, f"a group of {_listed(group.nodes)}") for group in marks.groups]
    rows += [(node, "pinned") for node in marks.pinned]
    if rows:
        yield "marks on the circuit graph:"
    for name, what in rows[:LISTED]:
        yield from folded(f"{one_line(name)}: {what}", first=BAR, width=width)
    if len(rows) > LISTED:
        yield f"and {len(rows) - LISTED:,} more marks; {ALL}"


def _notes(notes: Sequence[Note], width: int) -> Iterator[str]:
    room = NOTES
    for i, note in enumerate(notes):
        room -= len(note.text)
        if room < 0:
            yield f"and {len(notes) - i:,} more notes; {ALL}"
            return
        yield f"note of {note.created}:"
        for line in note.text.split("\n"):
            text = one_line(line.expandtabs(4), longest=NOTES)
            yield from folded(text, first=BAR, width=width)


def _listed(names: Sequence[str]) -> str:
    """The first few of some names."""
    more = f" and {len(names) - CONTROLS:,} more" if len(names) > CONTROLS else ""
    return ", ".join(map(one_line, names[:CONTROLS])) + more


# ---------------------------------------------------------------------- is it whole


def show_verified(verified: Verified) -> None:
    """Every member, and what the check means."""
    rows = [[member.path, member.size, member.what] for member in verified.members]
    out().print(table(["member", "bytes", "holds"], rows, foldable=2))
    out().print(f"whole: every digest and every bound was checked. {INTEGRITY}")


def verified_document(verified: Verified) -> dict[str, Any]:
    """The same for a program."""
    return {
        "whole": True,
        "id": verified.manifest.id,
        "bytes": verified.size,
        "members": [
            {"path": member.path, "bytes": member.size, "what": member.what}
            for member in verified.members
        ],
    }


# ---------------------------------------------------------------------- does it hold


def all_hold(replayed: "Sequence[Replayed]") -> bool:
    """Whether there were findings to replay, and every one of them holds."""
    asked = any(one.record.findings for one in replayed)
    return asked and all(one.state == "holds" for one in replayed)


def show_replayed(replayed: "Sequence[Replayed]") -> None:
    """Each question with its findings, and what drifted most."""
    if not replayed:
        _print(["nothing to replay: it holds no findings"])
        return
    width, lines = out().width, list[Line]()
    for one in replayed:
        found = _listed([finding.id for finding in one.record.findings]) or "no finding"
        head = f"{one.record.kind} at step {one.record.step}: {found}"
        lines += _styled(head, one.state, f"{one.state}: ", width)
        if one.why:
            lines += folded(
                one_line(one.why, longest=CLAIM), first="  why: ", rest="    ", width=width
            )
    held = sum(one.state == "holds" for one in replayed)
    lines.append(f"{held} of {len(replayed)} hold, in {sum(o.seconds for o in replayed):.1f} s")
    if not any(one.record.findings for one in replayed):
        lines.append("none of them holds a finding, so nothing that was claimed is shown to hold")
    _print([*lines, *folded(NOT_CHECKED, width=width)])


def replayed_document(session: Session, replayed: "Sequence[Replayed]") -> dict[str, Any]:
    """The same for a program, with every difference."""
    return {
        "session": session.id,
        "holds": all_hold(replayed),
        "not_checked": NOT_CHECKED,
        "replayed": [
            {
                "record": one.record.id,
                "kind": one.record.kind,
                "step": one.record.step,
                "findings": [finding.id for finding in one.record.findings],
                "state": one.state,
                "why": one.why,
                "compared": None if one.comparison is None else one.comparison.n,
                "closeness": None if one.comparison is None else one.comparison.closeness,
                "differences": []
                if one.comparison is None
                else [config.to_dict(difference) for difference in one.comparison.differences],
                "seconds": one.seconds,
            }
            for one in replayed
        ],
    }


# ---------------------------------------------------------------------- what differs


def show_changes(changes: "Sequence[Change]") -> None:
    """A block per thing that differs: where and what, then how it is in either."""
    if not changes:
        _print(["the two hold the same"])
        return
    width, lines = out().width, list[Line]()
    for change in changes[:LISTED]:
        what = _side(change.what)
        head = folded(what, first=f"{change.where}: ", rest="  ", width=width)
        lines += [Text(line, style="bold") for line in head]
        lines += folded(_side(change.first), first="  first:  ", rest="    ", width=width)
        lines += folded(_side(change.second), first="  second: ", rest="    ", width=width)
    if len(changes) > LISTED:
        lines.append(f"and {len(changes) - LISTED:,} more; {ALL}")
    _print(lines)


def _side(text: str) -> str:
    left = len(text) - SIDE
    more = f" and {left:,} more characters; {ALL}" if left > 0 else ""
    return one_line(text[:SIDE], longest=SIDE) + more


def _styled(text: str, word: str, first: str, width: int) -> list[Line]:
    """Folded lines behind a prefix with a word of ours, in its colour."""
    head, *rest = folded(text, first=first, rest="      ", width=width)
    told, at = Text(head), first.index(word)
    told.stylize(STYLES[word], at, at + len(word))
    return [told, *rest]


def _print(lines: Sequence[Line]) -> None:
    """Print lines that are folded already, as they are: no markup, no emoji."""
    text = Text("\n").join(line if isinstance(line, Text) else Text(line) for line in lines)
    out().print(text, soft_wrap=True)

"""The findings that a session's page lists: so many that it still opens, and how many more."""

from dataclasses import replace
from typing import Any, NamedTuple

from apps.page import escaped
from apps.report_findings import bar_panels, findings_table
from workbench.finding import Finding, finding_to_dict
from workbench.record import Record
from workbench.session import Session

FINDINGS, CONTROLS = 500, 100
"""Findings of a page, and controls of each, that are listed."""
BARS = 20
"""Controls of a finding that are drawn."""
PROSE = 2000
"""Characters of a claim, a measure or a rule."""
NAMED = 10
"""Findings that are named where controls are left out."""

Row = dict[str, Any]


class Listed(NamedTuple):
    """What the page tells of a record's findings."""

    rows: list[Row]
    more: str
    """HTML: what is left out; nothing where nothing is."""


def listed_findings(session: Session) -> dict[str, Listed]:
    """By record: the first findings of the session as JSON data."""
    found, room = {}, FINDINGS
    for record in session.records:
        kept = record.findings[:room]
        room -= len(kept)
        found[record.id] = Listed([bounded(one) for one in kept], _left_out(record, len(kept)))
    return found


def bounded(finding: Finding) -> Row:
    """A finding as JSON data, with its first controls, and prose of a length that is read."""
    row = finding_to_dict(replace(finding, controls=finding.controls[:CONTROLS]))
    details = dict(list(finding.details.items())[:CONTROLS])
    return (
        row | {key: _cut(row[key]) for key in ("claim", "measure", "rule")} | {"details": details}
    )


def findings_listed(listed: Listed) -> str:
    """The table of a record's findings, each beside its controls, and what it leaves out."""
    if listed.rows:
        return findings_table(listed.rows) + listed.more
    return listed.more or "<p>It claims nothing: numbers alone.</p>"


def findings_drawn(listed: Listed) -> str:
    """The same as bars."""
    if not listed.rows:
        return ""
    rows = [row | {"controls": row["controls"][:BARS]} for row in listed.rows]
    cut = any(len(row["controls"]) > BARS for row in listed.rows)
    more = f'<p class="note">Of each finding the first {BARS} controls are drawn.</p>'
    return f"<h3>Beside the controls</h3>{bar_panels(rows)}{more if cut else ''}"


def _left_out(record: Record, kept: int) -> str:
    parts = []
    if more := len(record.findings) - kept:
        parts.append(f"{more:,} more {'finding' if more == 1 else 'findings'}")
    long = [one for one in record.findings[:kept] if len(one.controls) > CONTROLS]
    parts += [
        f"{len(one.controls) - CONTROLS:,} more controls of <code>{escaped(one.id)}</code>"
        for one in long[:NAMED]
    ]
    if long[NAMED:]:
        parts.append(f"more controls of {len(long) - NAMED:,} other findings")
    if not parts:
        return ""
    return (
        f'<p class="note">Left out here: {", ".join(parts)}; '
        "<code>workbench session show --json</code> lists all.</p>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= PROSE else f"{text[: PROSE - 1]}…"

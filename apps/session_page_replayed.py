"""What a replay says on a session's page, and what no replay can say. Needs no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.page import DASH, anchored, badge, escaped, section, words

if TYPE_CHECKING:
    from workbench.session.replaying import Replayed

NOT_CHECKED = (
    "A replay does not check step numbers, the training curve and how the network was trained, "
    "notes and marks, or who made the file, when and with what: of these there is only the "
    "author's word."
)
"""Told wherever a replay is."""
TIGHTER = "of the recorded tolerance and this Workbench's own the tighter counts"
LISTED = 500
"""Findings whose state is listed one by one."""


def replayed_section(replayed: "Sequence[Replayed] | None") -> str:
    """Which records hold here, finding by finding; nothing where none was run again."""
    if replayed is None:
        return ""
    rows, room = [], LISTED
    for one in replayed:
        kind = words(one.record.kind)
        told = escaped(one.why) or "within the tolerances"
        rows.append((f"{kind} <small>the whole record</small>", badge(one.state), told))
        drifted = _first_drift(one)
        rows += [
            (f"<code>{escaped(finding.id)}</code>", badge(one.state), _why(one, drifted.get(i)))
            for i, finding in enumerate(one.record.findings[:room])
        ]
        room = max(room - len(one.record.findings), 0)
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{state}</td><td class="why">{why}</td></tr>'
        for name, state, why in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Asked again", "State", "Why"))
    more = sum(len(one.record.findings) for one in replayed) - LISTED
    return anchored(
        "replayed",
        section(
            "What became of it here",
            "<p>Claims, controls and verdicts were computed anew from the weights in the file and "
            f"compared with the recorded ones; {escaped(TIGHTER)}. A finding holds where its whole "
            f"record does. {escaped(NOT_CHECKED)}</p>",
            f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>'
            "</table></div>",
            f'<p class="note">And {more:,} more findings.</p>' if more > 0 else "",
        ),
    )


def _first_drift(one: "Replayed") -> dict[int, object]:
    """By place in the record: what of a finding drifted most. Paths: `findings.0.value`."""
    found: dict[int, object] = {}
    for difference in () if one.comparison is None else one.comparison.differences:
        top, _, rest = difference.path.partition(".")
        place = rest.partition(".")[0]
        if top == "findings" and place.isdecimal():
            found.setdefault(int(place), difference)
    return found


def _why(one: "Replayed", drifted: object | None) -> str:
    if one.state == "cannot run":
        return escaped(one.why)
    if drifted is not None:
        return escaped(drifted)
    if one.state == "drifted":
        return "its own numbers agree; something else in its record drifted"
    return DASH

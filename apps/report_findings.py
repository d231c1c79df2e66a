"""The claims of a report: each as a row of a table and as bars, beside its controls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from apps.figures import Bar, bar_panel
from apps.page import (
    as_float,
    badge,
    count,
    counted,
    escaped,
    interval,
    measured,
    number,
    plain_number,
    section,
    titled_figure,
    words,
)

Document = Mapping[str, Any]
Row = Mapping[str, Any]

BESIDES = ("circuit_", "patch_")
"""How the ids of findings begin that are no part of a mechanism."""


def findings_section(document: Document) -> str:
    """What the mechanism claims, and apart from it what patching and circuits found."""
    findings = document.get("findings") or ()
    own = [finding for finding in findings if not _is_besides(finding)]
    besides = [finding for finding in findings if _is_besides(finding)]
    parts = [_tested(document, own)] if own or not besides else []
    if besides:
        parts.append(
            section(
                "What patching and circuits found",
                "<p>Found besides the mechanism, on which alone the verdict above rests. A circuit "
                "is judged on inputs that it was not found on; the strongest part was chosen on "
                "half of the pairs and measured on the others, beside the runner-up.</p>",
                findings_table(besides),
            )
        )
    return "".join(parts)


def _tested(document: Document, findings: Sequence[Row]) -> str:
    title = "What was claimed, and what should have failed"
    if not findings:
        return section(
            title,
            "<p>No claim was tested, so nothing is claimed. <code>workbench circuit</code> and "
            "<code>workbench probe</code> look for parts without a known mechanism.</p>",
        )
    known = document.get("held_out_accuracy") is not None
    return section(
        title,
        "<p>Each claim was tested by an intervention on this network. The rows below a claim are "
        "the same number where the claim should fail; a control that the rule does not name is "
        "shown and not ruled on.</p>",
        findings_table(findings),
        '<p class="note">Held out: the same number over the pairs that '
        + ("neither training nor naming saw." if known else _NOT_NAMED)
        + " A dash in place of an interval: nothing was averaged over draws.</p>",
    )


def _is_besides(finding: Row) -> bool:
    return str(finding["id"]).startswith(BESIDES)


def findings_table(findings: Sequence[Row]) -> str:
    heads = "".join(f'<th scope="col" class="num">{head}</th>' for head in _COLUMNS)
    bodies = "".join(f"<tbody>{_claim(f)}{_controls(f)}</tbody>" for f in findings)
    return (
        '<div class="wide"><table class="findings"><thead><tr><th scope="col">Claim, then its '
        f'controls</th>{heads}<th scope="col">Verdict</th></tr></thead>{bodies}</table></div>'
    )


_COLUMNS = ("Value", "95 % interval", "n", "Held out")
_NOT_NAMED = (
    "were not used to name the parts (which pairs this network was trained on is not known)."
)


def _claim(finding: Row) -> str:
    also = "; ".join(f"{words(k)} {measured(v)}" for k, v in (finding.get("details") or {}).items())
    notes = f"Value: {escaped(finding['measure'])}. Rule: {escaped(finding['rule'])}."
    notes += f" Also measured: {also}." if also else ""
    cells = (
        number(finding["value"]),
        interval(finding.get("interval")),
        count(finding["n"]),
        number(finding.get("held_out")),
    )
    return (
        f'<tr class="claim"><th scope="row"><code>{escaped(finding["id"])}</code> '
        f"{escaped(finding['claim'])}<small>{notes}</small></th>"
        + "".join(f'<td class="num">{cell}</td>' for cell in cells)
        + f"<td>{badge(finding['verdict'])}</td></tr>"
    )


def _controls(finding: Row) -> str:
    return "".join(
        f'<tr><th scope="row" class="control">{escaped(control["name"])}</th>'
        f'<td class="num">{number(control["value"])}</td>'
        f'<td class="num">{interval(control.get("interval"))}</td>'
        f'<td class="num">{counted(control["n"], control.get("unit", "draws"))}</td>'
        "<td></td><td></td></tr>"
        for control in finding.get("controls") or ()
    )


def bars_section(document: Document) -> str:
    """The numbers of the tables as bars."""
    findings = document.get("findings") or ()
    if not findings:
        return ""
    return section(
        "Beside the controls",
        "<p>The numbers of the tables above, on axes from 0 to 1 (of patching: from 0 to the "
        "largest, in the metric's unit). Whiskers are 95 % intervals; the "
        "outlined bar is the value on held-out pairs. A value beyond the axis ends in an arrow "
        "head.</p>",
        bar_panels(findings),
    )


def bar_panels(findings: Sequence[Row]) -> str:
    """Each finding as bars, beside its controls."""
    panels = []
    for finding in findings:
        bars = _bars_of(finding)
        rows = ", ".join(f"{bar.name} {bar.shown}" for bar in bars)
        label = f"{finding['id']}, {finding['measure']}: {rows}"
        caption = f"<code>{escaped(finding['id'])}</code> {escaped(finding['measure'])}"
        panels.append(titled_figure(caption, bar_panel(bars, label=label, top=_top(finding, bars))))
    return f'<div class="panels">{"".join(panels)}</div>'


def _bars_of(finding: Row) -> list[Bar]:
    rows = [("this network", finding["value"], finding.get("interval"), "finding")]
    if finding.get("held_out") is not None:
        rows.append(("held-out pairs", finding["held_out"], None, "held-out"))
    rows += [
        (control["name"], control["value"], control.get("interval"), "control")
        for control in finding.get("controls") or ()
    ]
    return [
        Bar(str(name), as_float(value), ends, style, plain_number(value))
        for name, value, ends, style in rows
    ]


def _top(finding: Row, bars: Sequence[Bar]) -> float:
    """The end of the axis: 1 for shares; an effect of patching has the metric's unit."""
    if not str(finding["id"]).startswith("patch_"):
        return 1.0
    ends = [as_float(x) for bar in bars for x in (bar.value, *(bar.interval or ()))]
    return max((x for x in ends if math.isfinite(x) and x > 0), default=1.0)

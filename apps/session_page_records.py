"""The records of a session's page: what was asked, with what, and the pictures of what came out.

A record may come from a stranger or from a Workbench that this one does not know. Whatever cannot
be drawn is told in words and shown as JSON; it never stops the page.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from apps.page import (
    badge,
    count,
    details,
    escaped,
    facts,
    nested,
    pairs,
    seconds,
    words,
)
from apps.report import parts_section, verdict_sentence
from apps.report_findings import bar_panels
from apps.report_pictures import formula_section, gallery_section, maps_section, spectra_section
from apps.session_page_circuits import circuit_pictures, sweep_pictures
from apps.session_page_probes import across_charts, line_maps
from probes.analyses.probe import lines_of
from probes.analyses.probe_training import across_of
from workbench.analysis import analyses
from workbench.errors import SessionError
from workbench.finding import finding_to_dict
from workbench.record import Record
from workbench.session import Session

MOST_BYTES = 2**28
"""Arrays larger than this are not drawn."""
LONGEST_AXIS = 4096
"""Nor arrays of a mechanism with a longer axis."""
MOST_JSON = 30_000
"""Characters of JSON that are shown."""
NAMING = ("site", "method", "variable", "variables")
"""Parameters that tell records of one kind apart."""
SHORT = 120
"""Characters of a parameter that is shown beside the others."""

Arrays = Mapping[str, Tensor]


def record_section(
    session: Session, record: Record, anchor: str, title: str, *, drawn: bool = True
) -> str:
    """One record: the question, pictures, the numbers beside their controls, and it all as JSON.

    Args:
        anchor: the section's id.
        title: HTML.
        drawn: whether with pictures.
    """
    known = record.kind in analyses
    summary = analyses.get(record.kind).summary if known else ""
    told = (
        f"<p>{escaped(summary[:1].upper() + summary[1:])}.</p>"
        if known
        else '<p class="warning">This Workbench does not know this kind of analysis, so it cannot '
        "draw it or run it again. Below are its parameters and result as they were saved.</p>"
    )
    pictures = '<p class="note">Its pictures are left out: there are many records.</p>'
    if drawn:
        bars = attempted(lambda: _bars(record), "Its findings cannot be drawn")
        pictures = _drawn(session, record) + bars
    parts = [
        f'<section id="{escaped(anchor)}">\n<h2>{title}</h2>\n',
        told,
        _asked(record),
        pictures,
        details("Parameters as JSON", json_text(record.parameters)),
        details("Result as JSON", json_text(record.result)),
        "\n</section>",
    ]
    return "".join(parts)


def record_titles(session: Session) -> dict[str, str]:
    """What each record is called, by id, as HTML: its kind, what of, which checkpoint."""
    titles: dict[str, str] = {}
    used: Counter[str] = Counter()
    for record in session.records:
        of = [_named(record.parameters.get(key)) for key in NAMING]
        name = ", ".join([words(record.kind).capitalize(), *filter(None, of)])
        name += f", step {record.step:,}" if len(session.steps) > 1 else ""
        used[name] += 1
        titles[record.id] = name if used[name] == 1 else f"{name} ({used[name]})"
    return titles


def attempted(draw: Callable[[], str], failed: str) -> str:
    """A picture; or, where a stranger's numbers do not let it be drawn, `failed` and why."""
    try:
        return draw()
    except Exception as error:  # whatever it is, the rest of the page stands
        why = " ".join(str(error).split())[:300] or type(error).__name__
        return f'<p class="warning">{failed}: {escaped(why)}.</p>'


def json_text(value: Any) -> str:
    """JSON data for people to read, cut where it is very long."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    lines = "\n".join(escaped(line) for line in text[:MOST_JSON].splitlines())
    more = f'<p class="note">Cut after {MOST_JSON:,} of {len(text):,} characters; the file has all.'
    return f"<pre>{lines}</pre>" + (f"{more}</p>" if len(text) > MOST_JSON else "")


def mechanism_document(session: Session, record: Record) -> dict[str, Any]:
    """What the report draws an explanation from."""
    network = session.network
    return {
        **record.result,
        "task": network.task,
        "model": network.model,
        "seed": network.seed,
        "source": network.source,
        "findings": [finding_to_dict(finding) for finding in record.findings],
    }


def _asked(record: Record) -> str:
    short = {key: _shown(value) for key, value in record.parameters.items()}
    made = record.made_with
    threads = f"{count(made.threads)} thread{'s' if made.threads != 1 else ''}"
    near = "; ".join(
        f"<code>{escaped(path)}</code> within {one.absolute:g} + {one.relative:g} × |recorded|"
        for path, one in list(record.tolerances.items())[:20]
    )
    steps = ", ".join(f"{one.step:,}" for one in record.checkpoints[:40])
    more = len(record.checkpoints) - 40
    return facts(
        {
            "Kind": f"<code>{escaped(record.kind)}</code>",
            "Record": f"<code>{escaped(record.id)}</code>",
            "Parameters": pairs(short) or "none",
            "Checkpoint" + "s" * (len(record.checkpoints) > 1): f"step {steps}"
            + (f" and {more:,} more" if more > 0 else ""),
            "Took": seconds(record.seconds),
            "Made with": f"Workbench {escaped(made.workbench)}, torch {escaped(made.torch)}, "
            f"Python {escaped(made.python)}, {escaped(made.device)}, {threads}",
            "Tolerance of a replay": near or "none: numbers must be equal",
        }
    )


def _named(value: object) -> str:
    """A word or a list of words, as HTML; nothing for anything else."""
    some = value if isinstance(value, list) else [value]
    return ", ".join(escaped(_shown(one)) for one in some[:5] if isinstance(one, str))


def _shown(value: Any) -> Any:
    if not isinstance(value, list | dict | str):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


# ---------------------------------------------------------------------- pictures


def _drawn(session: Session, record: Record) -> str:
    draw = PICTURES.get(record.kind)
    if draw is None:
        return ""
    return attempted(
        lambda: draw(session, record, _arrays(session, record)),
        "This record cannot be drawn, it is damaged or not what its kind says. Its findings and "
        "its JSON are as they were saved",
    )


def _bars(record: Record) -> str:
    findings = [finding_to_dict(finding) for finding in record.findings]
    return f"<h3>Beside the controls</h3>{bar_panels(findings)}" if findings else ""


def _arrays(session: Session, record: Record) -> Arrays:
    if record.arrays is not None and record.arrays.size > MOST_BYTES:
        raise SessionError(f"arrays of {record.arrays.size:,} bytes are too many to draw")
    return session.arrays(record)


def _mechanism(session: Session, record: Record, arrays: Arrays) -> str:
    longest = max((length for one in arrays.values() for length in one.shape), default=0)
    if longest > LONGEST_AXIS:
        raise SessionError(f"an array with {longest:,} entries along an axis is too long to draw")
    document = mechanism_document(session, record)
    sections = (
        maps_section(document, arrays),
        spectra_section(document, arrays),
        formula_section(document, arrays),
        parts_section(document),
        gallery_section(document, arrays),
    )
    verdict = f"<p>{badge(document.get('verdict'))} {verdict_sentence(document)}</p>"
    return verdict + nested("".join(sections))


def _probe(session: Session, record: Record, arrays: Arrays) -> str:
    columns = record.result.get("columns")
    names = list(map(str, columns)) if isinstance(columns, list) else []
    return line_maps(lines_of(record), names)


def _probe_training(session: Session, record: Record, arrays: Arrays) -> str:
    return across_charts(across_of(record))


PICTURES: Mapping[str, Callable[[Session, Record, Arrays], str]] = {
    "mechanism": _mechanism,
    "patching": sweep_pictures,
    "circuit": circuit_pictures,
    "evaluation": circuit_pictures,
    "probe": _probe,
    "probe_training": _probe_training,
}
"""How records are drawn, by kind; those of other kinds are shown as numbers alone."""

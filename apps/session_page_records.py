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
from apps.report_pictures import formula_section, gallery_section, maps_section, spectra_section
from apps.session_page_circuits import circuit_pictures, sweep_pictures
from apps.session_page_findings import FINDINGS, Listed, bounded, findings_drawn
from apps.session_page_probes import across_charts, line_maps
from apps.session_page_replayed import TIGHTER
from probes.analyses.probe import lines_of
from probes.analyses.probe_training import across_of
from workbench.analysis import analyses
from workbench.errors import SessionError
from workbench.record import Record
from workbench.session import Session

MOST_BYTES = 2**28
"""Arrays larger than this are not drawn."""
LONGEST_AXIS = 4096
"""Nor arrays of a mechanism with a longer axis."""
MOST_JSON, LEAST_JSON = 30_000, 1000
"""Characters of JSON that are shown of a record with pictures, and of one without."""
NAMING = ("site", "method", "variable", "variables")
"""Parameters that tell records of one kind apart."""
SHORT = 120
"""Characters of a parameter that is shown beside the others."""
LONG = 2000
"""Characters of a setting of the task, the network or its training."""

Arrays = Mapping[str, Tensor]


def record_section(
    session: Session, record: Record, anchor: str, title: str, *, listed: Listed, drawn: bool
) -> str:
    """One record: the question, pictures, the numbers beside their controls, and it all as JSON.

    Args:
        anchor: the section's id.
        title: HTML.
        listed: its findings.
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
        bars = attempted(lambda: findings_drawn(listed), "Its findings cannot be drawn")
        pictures = _drawn(session, record) + bars
    most = MOST_JSON if drawn else LEAST_JSON
    parts = [
        f'<section id="{escaped(anchor)}">\n<h2>{title}</h2>\n',
        told,
        _asked(record),
        pictures,
        details("Parameters as JSON", json_text(record.parameters, most)),
        details("Result as JSON", json_text(record.result, most)),
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


def json_text(value: Any, most: int = MOST_JSON) -> str:
    """JSON data for people to read, cut where it is very long."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    lines = "\n".join(escaped(line) for line in text[:most].splitlines())
    more = f'<p class="note">Cut after {most:,} of {len(text):,} characters; the file has all.</p>'
    return f"<pre>{lines}</pre>" + (more if len(text) > most else "")


def told_pairs(data: Mapping[str, Any]) -> str:
    """Settings as `p = 113, equals_token = true`, long ones cut."""
    return pairs({key: _shown(value, LONG) for key, value in data.items()})


def short(text: str, longest: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def mechanism_document(session: Session, record: Record) -> dict[str, Any]:
    """What the report draws an explanation from."""
    network = session.network
    return {
        **record.result,
        "task": network.task,
        "model": network.model,
        "seed": network.seed,
        "source": network.source,
        "findings": [bounded(finding) for finding in record.findings[:FINDINGS]],
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
            "Tolerance of a replay": f"{near}; {escaped(TIGHTER)}"
            if near
            else "none: numbers must be equal",
        }
    )


def _named(value: object) -> str:
    """A word or a list of words, as HTML; nothing for anything else."""
    some = value if isinstance(value, list) else [value]
    return ", ".join(escaped(_shown(one)) for one in some[:5] if isinstance(one, str))


def _shown(value: Any, longest: int = SHORT) -> Any:
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    return short(value, longest) if isinstance(value, str) else value


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

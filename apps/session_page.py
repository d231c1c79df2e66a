"""A session as one page: what it claims, beside its controls, and how to check it.

`session_page` is pure: it reads the session and returns HTML. The page opens offline, without the
Workbench; it has no script, asks for nothing, and its policy allows neither. Whatever a session
says may come from a stranger: all of it is text, escaped, never markup.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, get_args

from apps.page import (
    anchored,
    badge,
    escaped,
    facts,
    moment,
    sealed_page,
    section,
    words,
)
from apps.report import task_title, verdict_sentence
from apps.session_page_drawing import DRAWING_STYLE
from apps.session_page_findings import Listed, findings_listed, listed_findings
from apps.session_page_made import (
    checking_section,
    making_section,
    marks_section,
    members_section,
    notes_section,
)
from apps.session_page_records import (
    attempted,
    mechanism_document,
    record_section,
    record_titles,
    short,
    told_pairs,
)
from apps.session_page_replayed import replayed_section
from workbench.finding import Support
from workbench.session import Session

if TYPE_CHECKING:
    from workbench.session.replaying import Replayed

ILLUSTRATED = 60
"""Records with pictures, the first ones, so that the page of a long session still opens."""


TITLE = 200
"""Characters of the title."""


class Place(NamedTuple):
    """Where a record is on the page."""

    anchor: str
    title: str
    """HTML."""


def session_page(session: Session, *, replayed: "Sequence[Replayed] | None" = None) -> str:
    """The page as one string of HTML. Reads no weights.

    The page says that the file's digests fit: `verify` it first.

    Args:
        replayed: what became of its records on this machine; None where nothing was run again.
    """
    title = short(task_title({"task": session.network.task}), TITLE)
    listed = listed_findings(session)
    titles = record_titles(session)
    places = {id: Place(f"record-{i}", titles[id]) for i, id in enumerate(titles, 1)}
    return sealed_page(
        f"{title}: a Workbench session",
        (
            _header(session, title),
            _worth(session, replayed),
            _contents(session, places, replayed),
            replayed_section(replayed),
            _findings(session, places, listed, replayed),
            *(
                record_section(
                    session, one, *places[one.id], listed=listed[one.id], drawn=i < ILLUSTRATED
                )
                for i, one in enumerate(session.records)
            ),
            notes_section(session),
            marks_section(session),
            making_section(session),
            checking_section(session),
            members_section(session),
        ),
        style=DRAWING_STYLE + STYLE,
    )


# ---------------------------------------------------------------------- what it claims


def _header(session: Session, title: str) -> str:
    network, manifest = session.network, session.manifest
    versions = ", ".join(f"{words(k)} {escaped(v)}" for k, v in manifest.made_with.items())
    told = {
        "Task": told_pairs(network.task),
        "Network": told_pairs(network.model),
        "Seed": "none is known" if network.seed is None else escaped(network.seed),
        "Checkpoints in the file": _steps(session),
        "Session": f"<code>{escaped(manifest.id)}</code>",
        "Made from session": "none"
        if manifest.parent is None
        else f"<code>{escaped(manifest.parent)}</code>",
        "Created": moment(manifest.created),
        "Made with": versions,
    }
    return (
        f'<header>\n<p class="kicker">Workbench session</p>\n<h1>{escaped(title)}</h1>\n'
        f'<p class="verdict">{_verdict(session)}</p>\n{facts(told)}\n</header>'
    )


def _verdict(session: Session) -> str:
    """What the explanation of the last checkpoint says, and how many findings there are."""
    counted = Counter(finding.verdict for finding in session.findings)
    of = ", ".join(f"{counted[x]} {x}" for x in get_args(Support) if counted[x])
    n = len(session.findings)
    tally = f"{n} finding{'s' * (n != 1)}: {of}." if n else "There are no findings."
    explained = [record for record in session.records if record.kind == "mechanism"]
    if not explained:
        return tally
    document = mechanism_document(session, max(explained, key=lambda record: record.step))
    sentence = attempted(
        lambda: f"{badge(document.get('verdict'))} {verdict_sentence(document)}", ""
    )
    return tally if sentence.startswith("<p") else f"{sentence} {tally}"


def _steps(session: Session) -> str:
    steps = [f"{step:,}" for step in session.steps]
    shown = ", ".join(steps) if len(steps) <= 12 else f"{', '.join(steps[:6])} … {steps[-1]}"
    return f"{len(steps):,} (step{'s' * (len(steps) > 1)} {shown})"


def _worth(session: Session, replayed: "Sequence[Replayed] | None") -> str:
    """What the reader may believe, and why."""
    file = escaped(session.path.name)
    if replayed is None:
        first = (
            f"<strong>Nothing on this page was run again when it was made.</strong> Its numbers "
            f"stand as they do in <code>{file}</code>, as its author's claims, until you replay "
            'them: see <a href="#checking">how to check it</a>.'
        )
    else:
        states = Counter(one.state for one in replayed)
        of = (
            ", ".join(
                f"{n} {'hold' if n > 1 and state == 'holds' else state}"
                for state, n in states.items()
            )
            or "none"
        )
        first = (
            f"<strong>Records were asked again when this page was made: {of}.</strong> The "
            f'numbers below are those in <code>{file}</code>; <a href="#replayed">what became '
            "of each</a> stands beside them."
        )
    second = (
        "The SHA-256 digests in the file show that nothing in it was damaged or changed since it "
        "was written. They do not show who wrote it: anybody can write a file with digests that "
        "fit."
    )
    said = f"<p>{first}</p>\n<p>{second}</p>"
    return f'<aside class="box" aria-label="What this page shows">\n{said}\n</aside>'


def _contents(
    session: Session, places: Mapping[str, Place], replayed: "Sequence[Replayed] | None"
) -> str:
    marks, listed = session.notebook.marks, [Place("findings", "Findings"), *places.values()]
    if replayed is not None:
        listed.insert(0, Place("replayed", "Asked again"))
    listed += [Place("notes", "Notes")] * bool(session.notebook.notes)
    listed += [Place("marks", "Marks")] * bool(marks.labels or marks.groups or marks.pinned)
    listed += [Place("making", "How it was made"), Place("checking", "How to check it")]
    listed += [Place("file", "The file")]
    items = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in listed)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _findings(
    session: Session,
    places: Mapping[str, Place],
    listed: Mapping[str, Listed],
    replayed: "Sequence[Replayed] | None",
) -> str:
    states = {one.record.id: one.state for one in replayed or ()}
    unseen = (
        "that neither training nor naming saw"
        if session.network.seed is not None
        else "that parts were not named on; which pairs the network was trained on is not known"
    )
    parts = [
        "<p>Each claim was tested by an intervention on this network. The rows below a claim are "
        "the same number where the claim should fail; a control that the rule does not name is "
        f"shown and not ruled on. Held out: the same number over the pairs {unseen}.</p>",
        '<p class="note">The same numbers are drawn as bars with each record, on axes from 0 to 1 '
        "(of patching: from 0 to the largest, in the metric's unit). Whiskers are 95 % intervals; "
        "an outlined bar is the value on held-out pairs; a value beyond the axis ends in an arrow "
        "head.</p>",
    ]
    for record in session.records:
        known = states.get(record.id)
        state = "" if known is None else f" <small>asked again: {badge(known)}</small>"
        anchor, title = places[record.id]
        parts.append(f'<h3><a href="#{anchor}">{title}</a>{state}</h3>')
        parts.append(findings_listed(listed[record.id]))
    if not session.records:
        parts.append("<p>There are none.</p>")
    return anchored("findings", section("What is claimed, and what should have failed", *parts))


STYLE = """
.box { border: 2px solid var(--muted); border-radius: .35rem; padding: .9rem 1.1rem;
  margin-top: 2rem; } .box p:last-child { margin: 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; padding: 0;
  margin: 1.5rem 0 0; font-size: .875rem; }
a { color: var(--first); text-underline-offset: .15em; }
a:focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }
h1, h2, h3, p, nav, figcaption { overflow-wrap: anywhere; } p .badge { white-space: normal; }
h3 a { color: inherit; } h3 small { font-weight: 400; margin-left: .5rem; }
h4 { font-size: .9375rem; margin: 1.25rem 0 .4rem; font-weight: 650; }
section section { margin-top: 1.75rem; padding-top: 0; border-top: 0; }
section > dl { margin: 0 0 1.25rem; }
.warning { border-left: 4px solid var(--second); padding-left: .75rem; }
.written { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 46rem; tab-size: 4;
  border-left: 4px solid var(--line); padding-left: 1rem; margin-bottom: 1.25rem; }
.marks th, .marks td, .why { white-space: pre-wrap; overflow-wrap: anywhere; }
.panels svg { max-width: 36rem; } .map.named img { min-height: 1.25rem; }
.why { min-width: 14rem; }
#replayed code { overflow-wrap: normal; } :target { scroll-margin-top: 1rem; }
"""

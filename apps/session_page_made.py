"""Of a session's page: what people wrote, how the network was made, how to check it, the file."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from apps.page import (
    DASH,
    anchored,
    count,
    details,
    escaped,
    facts,
    moment,
    nested,
    number,
    pairs,
    plain,
    section,
    table,
)
from apps.report import training_section
from apps.session_page_records import attempted, told_pairs
from apps.session_page_replayed import NOT_CHECKED
from workbench.session import Session
from workbench.train import Metrics, grokking_step

LISTED = 500
"""Rows of a table of what somebody wrote."""
NODES = 100
"""Nodes of a group that are listed."""
WRITTEN = 1_000_000
"""Characters of all notes together that are shown, to whole notes."""


def notes_section(session: Session) -> str:
    notes, told, room = session.notebook.notes, [], WRITTEN
    for note in notes:
        room -= len(note.text)
        if room < 0:
            break
        told.append(
            f'<article><p class="kicker">{moment(note.created)}</p>'
            f'<div class="written">{plain(note.text)}</div></article>'
        )
    if not notes:
        return ""
    more = len(notes) - len(told)
    who = "<p>As somebody typed them; nothing in them is markup.</p>"
    left = f'<p class="note">And {more:,} more notes, in the file.</p>' if more else ""
    return anchored("notes", section("Notes", who, *told, left))


def marks_section(session: Session) -> str:
    marks, parts = session.notebook.marks, []
    if marks.labels:
        rows = [
            (f"<code>{escaped(node)}</code>", escaped(label))
            for node, label in list(marks.labels.items())[:LISTED]
        ]
        parts.append(_written(("Node", "Called"), rows, len(marks.labels)))
    if marks.groups:
        groups = [
            (escaped(group.name), _nodes(group.nodes, NODES)) for group in marks.groups[:LISTED]
        ]
        parts.append(_written(("Group", "Nodes"), groups, len(marks.groups)))
    if marks.pinned:
        parts.append(f"<p>Pinned: {_nodes(marks.pinned, LISTED)}</p>")
    if not parts:
        return ""
    who = "<p>What somebody wrote on the circuit graph. Names are no evidence.</p>"
    return anchored("marks", section("Marks on the circuit graph", who, *parts))


def _nodes(nodes: Sequence[str], most: int) -> str:
    listed = ", ".join(f"<code>{escaped(node)}</code>" for node in nodes[:most])
    return listed + (f" and {len(nodes) - most:,} more" if len(nodes) > most else "")


def _written(heads: tuple[str, str], rows: Sequence[tuple[str, str]], n: int) -> str:
    body = "".join(f'<tr><th scope="row">{one}</th><td>{two}</td></tr>' for one, two in rows)
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    more = f'<p class="note">The first {len(rows):,} of {n:,}.</p>' if n > len(rows) else ""
    return (
        f'<div class="wide"><table class="marks"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{more}"
    )


# ---------------------------------------------------------------------- how it was made


def making_section(session: Session) -> str:
    network = session.network
    fraction = network.train_fraction
    told = {
        "Recipe": told_pairs(network.recipe) if network.recipe else "none is known",
        "Seed": "none is known" if network.seed is None else escaped(network.seed),
        "Trained on": "none is known" if fraction is None else f"{number(fraction)} of the inputs",
        "Random labels": number(network.random_labels),
        "SHA-256 of the split": f"<code>{escaped(network.split_sha256 or DASH)}</code>",
    }
    if network.source:
        told["Source, as its publisher has it"] = pairs(network.source)
    spoken = Counter(one.step for record in session.records for one in record.checkpoints)
    rows = [
        (f"{one.step:,}", count(spoken[one.step]), f"<code>{one.weights_sha256}</code>")
        for one in session.archive.document.checkpoints
    ]
    listed = details(
        f"The weights of {len(rows)} checkpoint{'s' * (len(rows) != 1)}",
        table(("Step", "Records about it", "SHA-256 of the weights"), rows),
    )
    return anchored(
        "making",
        section("How the network was made", facts(told), listed, nested(_training(session))),
    )


def _training(session: Session) -> str:
    def draw() -> str:
        rows = session.metrics()
        told = {"source": session.network.source, "grokking_step": _grokking(rows)}
        return training_section(told, rows)

    return attempted(draw, "What training recorded cannot be drawn")


def _grokking(rows: Sequence[Mapping[str, Any]]) -> int | None:
    if not rows or not all("held_out_accuracy" in row for row in rows):
        return None
    nan = float("nan")
    return grokking_step(
        [Metrics(row["step"], nan, nan, nan, row["held_out_accuracy"]) for row in rows]
    )


def checking_section(session: Session) -> str:
    file = shlex.quote(session.path.name)
    lines = [f"workbench session {verb} {file}" for verb in ("verify", "replay", "open")]
    python = (
        "from workbench.session import open_session, replay\n"
        f"for one in replay(open_session({session.path.name!r})):\n"
        "    print(one.record.kind, one.state, one.why)"
    )
    code = "\n".join(map(escaped, lines))
    return anchored(
        "checking",
        section(
            "How to check it yourself",
            "<p>The first command checks that the file is whole. The second asks every question "
            "again from the weights in the file, controls included, and says which answers hold, "
            "which drifted and by how much. The third makes a run of it, on which every other "
            f"command works. Nothing in the file is executed. {escaped(NOT_CHECKED)}</p>",
            f"<pre>{code}</pre><p>The same in Python:</p><pre>{plain(python)}</pre>",
        ),
    )


def members_section(session: Session) -> str:
    manifest = session.manifest
    rows = [
        (f"<code>{escaped(one.path)}</code>", count(one.size), f"<code>{one.sha256}</code>")
        for one in manifest.members
    ]
    said = (
        f"<p>{escaped(manifest.format)}, schema version {manifest.schema_version}, for readers "
        f"from version {manifest.oldest_reader} on; {session.archive.size:,} bytes.</p>"
    )
    listed = details(
        f"{len(rows):,} members and their digests", table(("Member", "Bytes", "SHA-256"), rows)
    )
    return anchored("file", section("The file", said, listed))

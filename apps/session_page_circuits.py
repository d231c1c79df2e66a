"""Sweeps and circuits on a session's page: heat maps and graphs, each with its table."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from apps.drawing import row_names, title
from apps.page import (
    as_float,
    count,
    details,
    escaped,
    facts,
    figure,
    number,
    plain_number,
    table,
    words,
)
from apps.session_page_drawing import MOST_DRAWN, circuit_graph, grid
from circuits.analyses.circuit import circuit_of
from circuits.analyses.patching import columns_of, sweep_of
from workbench.record import Record
from workbench.session import Session

LISTED = 200
"""Rows of a table, the strongest ones."""
SWEEP_COLUMNS = ("effect", "low", "high", "normalised", "p", "q")
JUDGED = ("edges", "live_edges", "faithfulness", "completeness", "minimality")

Arrays = Mapping[str, Tensor]


def sweep_pictures(session: Session, record: Record, arrays: Arrays) -> str:
    """The mean effect of each patch. Raises `CircuitError` for a damaged record."""
    found = sweep_of(record, arrays)
    values = found.mean.flatten(0, -2) if found.mean.ndim > 1 else found.mean[None]
    rows = row_names(found)
    names = columns_of(record)
    columns = [str(i) for i in found.labels[-1]]
    if names is not None and len(names) == len(columns):
        columns = [f"{i} {name}" for i, name in zip(columns, names, strict=True)]
    down = " and ".join(found.axes[:-1]) or found.site
    caption = (
        f"{escaped(title(found))}. Mean effect on {words(found.metric)}: blue raises it, orange "
        f"lowers it. Rows: {words(down)}; columns: {words(found.axes[-1])}."
    )
    label = f"{title(found)}: effect on {found.metric} by {', '.join(found.axes)}; as a table below"
    picture = grid(values, rows, columns, label=label, signed=True)
    return figure(picture, caption) + _sweep_table(record, found.axes)


def _sweep_table(record: Record, axes: Sequence[str]) -> str:
    listed: Any = record.result.get("rows")
    rows: list[Mapping[str, Any]] = [row for row in listed or () if isinstance(row, dict)]
    shown = sorted(rows, key=lambda row: -abs(as_float(row.get("effect"))))[:LISTED]
    cells = [
        (
            ", ".join(f"{words(axis)} {escaped(row.get(axis))}" for axis in axes),
            *(number(row.get(key)) for key in SWEEP_COLUMNS),
        )
        for row in shown
    ]
    summary = f"The {len(shown)} largest of {len(rows):,} effects as numbers"
    note = '<p class="note">low and high: 95 % interval. q: p with the false discovery rate '
    note += "controlled over the whole sweep.</p>"
    return details(summary, table(("Part", *SWEEP_COLUMNS), cells) + note)


def circuit_pictures(session: Session, record: Record, arrays: Arrays) -> str:
    """The circuit as a graph. Raises `CircuitError` for a damaged record."""
    circuit, values = circuit_of(record, arrays, session.network.shape)
    result = record.result
    told = {words(key).capitalize(): _measured(result[key]) for key in JUDGED if key in result}
    if not circuit.n_edges:
        return facts(told) + "<p>The circuit has no edges.</p>"
    given = record.kind == "evaluation"
    number_is = "what its removal changes where it matters most" if given else "its score"
    strongest = sorted(
        zip(circuit.edges, values[circuit.member].tolist(), strict=True),
        key=lambda pair: -abs(pair[1]),
    )
    few = ", ".join(f"{name} {plain_number(value)}" for name, value in strongest[:3])
    drawn = f"; the {MOST_DRAWN} strongest are drawn" if circuit.n_edges > MOST_DRAWN else ""
    label = f"Circuit of {circuit.n_edges} edges, strongest: {few}; all in the table below"
    caption = (
        f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges{drawn}. An edge is as wide as "
        f"{number_is} is large: blue where that is positive, orange and dashed where negative, "
        "dotted at dead ends."
    )
    if session.notebook.marks.labels:
        caption += " Names in italics were given by whoever wrote this session."
    graph = circuit_graph(circuit, values, label=label, names=session.notebook.marks.labels)
    rows = [(f"<code>{escaped(name)}</code>", number(value)) for name, value in strongest[:LISTED]]
    heading = f"The {len(rows)} strongest of {circuit.n_edges:,} edges as numbers"
    what = "Removal" if given else "Score"
    return facts(told) + figure(graph, caption) + details(heading, table(("Edge", what), rows))


def _measured(value: object) -> str:
    return count(value) if isinstance(value, int) else number(value)

"""What probing says of a network, as maps of sites and positions, and as text.

`apps.web.probes.line_in_full` shows one line. All of it comes from `probes.summary.Line`s, those of
a record or of a sweep; nothing is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from apps.web.cache import remembered
from apps.web.charts.chart import HeatMap, Scale
from apps.web.choice import Network
from workbench.record import Record
from workbench.records import RECORDS, read_records

if TYPE_CHECKING:
    from probes.summary import Line

DASH = "–"
"""Where something was not measured."""
LEAST_LIMIT = 0.05
"""End of a signed scale, at least: rounding is not to look like an effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A number of a line that a map can show."""

    title: str
    measure: str
    scale: Scale
    read: Callable[["Line"], float | None]
    interval: Callable[["Line"], "Ends"] | None = None
    """Of this number, where there is one."""


Ends = tuple[float | None, float | None]
"""Of a 95 % interval; None where there is none, as in older records."""


def _fall(line: "Line") -> float | None:
    if line.erased_accuracy is None or line.answer_accuracy is None:
        return None
    return line.answer_accuracy - line.erased_accuracy


def _random_fall(line: "Line") -> float | None:
    if line.random_erased_accuracy is None or line.answer_accuracy is None:
        return None
    return line.answer_accuracy - line.random_erased_accuracy


VALUES = {
    one.title: one
    for one in (
        Shown(
            title="Accuracy",
            measure="accuracy on inputs the probe was not fitted on",
            scale="share",
            read=lambda line: line.accuracy,
            interval=lambda line: (line.low, line.high),
        ),
        Shown(
            title="Control task",
            measure="accuracy on the control task",
            scale="share",
            read=lambda line: line.control_accuracy,
            interval=lambda line: (line.control_low, line.control_high),
        ),
        Shown(
            title="Selectivity",
            measure="selectivity: accuracy less the control task's",
            scale="signed",
            read=lambda line: line.selectivity,
        ),
        Shown(
            title="Fall when erased",
            measure="right answers lost when the variable is erased",
            scale="signed",
            read=_fall,
        ),
        Shown(
            title="Fall when as much is erased at random",
            measure="right answers lost when as many random directions are erased, mean",
            scale="signed",
            read=_random_fall,
        ),
    )
}
"""What a map can show, by title."""


# ---------------------------------------------------------------------- records


def records_of(network: Network, kind: str) -> list[Record]:
    """The records of one kind beside a run, of all its checkpoints, by step. Raises `RunError`."""
    folder = network.run.path / RECORDS
    files = folder.glob("*.json") if folder.is_dir() else []
    stamps = tuple(sorted((path.name, path.stat().st_mtime_ns) for path in files))
    found = [record for record in _all_records(network, stamps) if record.kind == kind]
    return sorted(found, key=lambda record: record.step)


@remembered
def _all_records(network: Network, stamps: tuple[tuple[str, int], ...]) -> list[Record]:
    """By the names and times of their files too, which say when they change."""
    return read_records(network.run)


def lines_at(records: Sequence[Record], step: int) -> list["Line"]:
    """The lines of probe records about one checkpoint."""
    from probes.analyses.probe import lines_of

    return [line for one in records if one.step == step for line in lines_of(one)]


# ---------------------------------------------------------------------- maps


def kinds_of(lines: Sequence["Line"]) -> list[tuple[str, str]]:
    """Kinds of probe and of split, each pair once."""
    return list(dict.fromkeys((line.probe, line.split) for line in lines))


def limit_of(lines: Sequence["Line"], shown: Shown) -> float | None:
    """The end of the scale that maps side by side share; None where the scale is fixed."""
    if shown.scale != "signed":
        return None
    values = [value for line in lines if (value := shown.read(line)) is not None]
    return max([LEAST_LIMIT, *map(abs, values)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LineMap:
    """A heat map of one variable, and the line behind each of its cells."""

    chart: HeatMap
    lines: tuple["Line | None", ...]
    """By the row of the chart's table."""


def map_of(
    lines: Sequence["Line"],
    shown: Shown,
    *,
    sites: Sequence[str],
    columns: Sequence[str],
    limit: float | None,
) -> LineMap:
    """One variable's lines by one kind of probe: rows sites as they are passed, columns positions.

    Args:
        sites: the order of hooks; those without a line are left out.
        columns: what stands at each position of an example.
        limit: of a signed scale.
    """
    hooks = [*sites, *(line.hook for line in lines)]
    places = sorted(
        {line.place: line for line in lines}.values(),
        key=lambda line: (hooks.index(line.hook), line.head or 0),
    )
    rows = [line.place for line in places]
    positions = sorted({line.position for line in lines})
    at = {(line.place, line.position): line for line in lines}
    cells = tuple(at.get((row, position)) for row in rows for position in positions)
    shape = (len(rows), len(positions))
    ends: dict[str, Any] = {}
    if (interval := shown.interval) is not None:
        low = _grid(cells, lambda line: interval(line)[0], shape)
        if not bool(low.isnan().all()):
            ends = {"low": low, "high": _grid(cells, lambda line: interval(line)[1], shape)}
    first = lines[0]
    chart = HeatMap(
        name=f"probe-{_plain(first.variable)}-{_plain(shown.title)}",
        alt=f"{shown.measure}, of {first.variable} by {first.probe} probes, at every site and "
        "position; its numbers are in the table",
        values=_grid(cells, shown.read, shape),
        rows=tuple(rows),
        columns=tuple(position_name(position, columns) for position in positions),
        row_axis="site",
        column_axis="position",
        measure=shown.measure,
        scale=shown.scale,
        limit=limit,
        details=tuple(
            (name, tuple(DASH if line is None else text(line) for line in cells))
            for name, text in COLUMNS
        ),
        **ends,
    )
    return LineMap(chart=chart, lines=cells)


def position_name(position: int, columns: Sequence[str]) -> str:
    """A position, with the token of an example that stands there."""
    return f"{position}: {columns[position]}" if position < len(columns) else str(position)


def _grid(
    cells: Sequence["Line | None"], read: Callable[["Line"], float | None], shape: tuple[int, int]
) -> torch.Tensor:
    found = [None if line is None else read(line) for line in cells]
    values = [math.nan if one is None else one for one in found]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def _plain(text: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in text.lower())


# ---------------------------------------------------------------------- one line


def share(value: float | None) -> str:
    """A share as text."""
    return DASH if value is None else f"{value:.3f}"


def share_in(value: float | None, ends: Ends) -> str:
    """A share as text, with its interval where there is one: `0.100 [0.050, 0.150]`."""
    low, high = ends
    return (
        share(value) if low is None or high is None else f"{share(value)} [{low:.3f}, {high:.3f}]"
    )


def verdict(line: "Line") -> str:
    """What the rule says of a line: `decodable, selective, not used`."""
    said = [
        f"{word}{'?' if holds is None else ''}" if holds is not False else f"not {word}"
        for word, holds in (
            ("decodable", line.decodable),
            ("selective", line.selective),
            ("used", line.used),
        )
    ]
    return ", ".join(said)


def accuracy_text(line: "Line") -> str:
    """A probe's accuracy with its interval."""
    return share_in(line.accuracy, (line.low, line.high))


def control_text(line: "Line") -> str:
    """The same on the control task."""
    return share_in(line.control_accuracy, (line.control_low, line.control_high))


def shuffled_text(line: "Line") -> str:
    """The same on shuffled labels."""
    return share_in(line.shuffled_accuracy, (line.shuffled_low, line.shuffled_high))


def untrained_text(line: "Line") -> str:
    """The same in untrained networks; the interval is over those."""
    return share_in(line.untrained_accuracy, line.untrained_interval or (None, None))


COLUMNS: tuple[tuple[str, Callable[["Line"], str]], ...] = (
    ("accuracy [95 %]", accuracy_text),
    ("n", lambda line: f"{line.n:,}"),
    ("control task [95 %]", control_text),
    ("shuffled labels [95 %]", shuffled_text),
    ("untrained [95 %]", untrained_text),
    ("untrained, bound", lambda line: share(line.untrained_bound)),
    ("q", lambda line: share(line.q)),
    ("right when erased", lambda line: share(line.erased_accuracy)),
    ("right when as much is erased at random", lambda line: share(line.random_erased_accuracy)),
    ("rule", verdict),
)
"""Further columns of a map's table, the same whatever the map shows."""

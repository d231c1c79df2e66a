"""What probing says of a network, as charts: maps of sites and positions, and one line in full.

All of it comes from `probes.summary.Line`s, those of a record or of a sweep; nothing is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, Scale, Series
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
    interval: bool = False
    """Whether the line's interval is of this number."""


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
            interval=True,
        ),
        Shown(
            title="Control task",
            measure="accuracy on the control task",
            scale="share",
            read=lambda line: line.control_accuracy,
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
    if shown.interval:
        ends = {
            "low": _grid(cells, lambda line: line.low, shape),
            "high": _grid(cells, lambda line: line.high, shape),
        }
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


COLUMNS: tuple[tuple[str, Callable[["Line"], str]], ...] = (
    ("accuracy [95 %]", lambda line: f"{line.accuracy:.3f} [{line.low:.3f}, {line.high:.3f}]"),
    ("n", lambda line: f"{line.n:,}"),
    ("control task", lambda line: share(line.control_accuracy)),
    ("shuffled labels", lambda line: share(line.shuffled_accuracy)),
    ("untrained, bound", lambda line: share(line.untrained_bound)),
    ("q", lambda line: share(line.q)),
    ("right when erased", lambda line: share(line.erased_accuracy)),
    ("right when as much is erased at random", lambda line: share(line.random_erased_accuracy)),
    ("rule", verdict),
)
"""Further columns of a map's table, the same whatever the map shows."""


def accuracy_bars(line: "Line") -> BarChart:
    """How well one probe reads its variable, beside its controls."""
    untrained = f"untrained ({line.n_untrained or 0})"
    bars: list[tuple[str, float | None, float | None, float | None]] = [
        ("probe", line.accuracy, line.low, line.high),
        ("control task", line.control_accuracy, None, None),
        ("shuffled labels", line.shuffled_accuracy, None, None),
        ("commonest class", line.majority_accuracy, None, None),
        ("random subspace", line.random_subspace_accuracy, None, None),
        ("noise", line.norm_matched_accuracy, None, None),
        (untrained, line.untrained_accuracy, line.untrained_accuracy, line.untrained_bound),
    ]
    return _bars(
        bars,
        name="probe-controls",
        alt=f"accuracy of the {line.probe} probe of {line.variable} beside its controls",
        x_axis="measured on",
        y_axis="accuracy",
    )


def erasure_bars(line: "Line") -> BarChart | None:
    """What erasing the variable costs, beside what erasing other things costs; None unmeasured."""
    if line.erased_accuracy is None:
        return None
    bars = [
        ("nothing", line.answer_accuracy, None, None),
        ("the variable", line.erased_accuracy, line.erased_low, line.erased_high),
        ("random, mean", line.random_erased_accuracy, None, None),
        ("random, worst", line.random_erased_lowest, None, None),
        ("functions, mean", line.control_erased_accuracy, None, None),
        ("functions, worst", line.control_erased_lowest, None, None),
    ]
    return _bars(
        bars,
        name="erasure-controls",
        alt=f"right answers with {line.variable} erased, beside erasing as many other directions",
        x_axis="erased",
        y_axis="right answers",
    )


def _bars(
    bars: Sequence[tuple[str, float | None, float | None, float | None]],
    *,
    name: str,
    alt: str,
    x_axis: str,
    y_axis: str,
) -> BarChart:
    """Only what was measured."""
    kept = [bar for bar in bars if bar[1] is not None]
    series = Series(
        name=y_axis,
        y=tuple(bar[1] for bar in kept),
        low=tuple(bar[2] for bar in kept),
        high=tuple(bar[3] for bar in kept),
    )
    return BarChart(
        name=name,
        alt=alt,
        names=tuple(bar[0] for bar in kept),
        series=(series,),
        x_axis=x_axis,
        y_axis=y_axis,
        y_range=(0.0, max([1.0, *(bar[3] for bar in kept if bar[3] is not None)])),
    )


def facts(line: "Line") -> list[dict[str, str]]:
    """Everything else that a line says, as rows of a table."""
    asked = DASH if line.n_asked is None else f"{line.n_asked:,}"
    swap = DASH
    if line.interchange_accuracy is not None:
        swap = f"{share(line.interchange_accuracy)} (controls: {share(line.interchange_control)})"
    told = {
        "probe, split": f"{line.probe}, {line.split}",
        "inputs probed": f"{line.n:,}",
        "accuracy [95 %]": f"{line.accuracy:.4f} [{line.low:.4f}, {line.high:.4f}]",
        "selectivity": share(line.selectivity),
        "p, q": f"{share(line.p)}, {share(line.q)}",
        "untrained: mean, sd, bound": ", ".join(
            map(share, (line.untrained_accuracy, line.untrained_sd, line.untrained_bound))
        ),
        "directions erased": DASH if line.rank is None else str(line.rank),
        "inputs asked when erased": asked,
        "swaps that change the answer": swap,
        "by the rule": verdict(line),
    }
    return [{"what": what, "value": value} for what, value in told.items()]

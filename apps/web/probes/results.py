"""What a sweep has found so far, as data: its rows, its lines, and charts of several networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, Series
from apps.web.probes.lines import DASH, VALUES, accuracy_text, control_text, share, verdict

if TYPE_CHECKING:
    import pyarrow as pa

    from probes.summary import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is finished of a sweep."""

    networks: dict[tuple[str, int], list["Line"]]
    """By run and step, in the order of the plan."""
    hooks: tuple[str, ...]
    """In the order of the plan."""
    rows: bytes
    """All numbers, as an Arrow stream (`table_of_rows`)."""


def found_in(results: Path) -> Found:
    """What is finished in a results directory. Raises `SweepError`."""
    from probes.batch import Results

    at = Results(results)
    return _found(results, at.plan().fingerprint, tuple(at.keys()))


@remembered
def _found(results: Path, fingerprint: str, finished: tuple[str, ...]) -> Found:
    """By what is finished, which decides what there is."""
    import pyarrow as pa

    from probes.sweep import SweepResults

    at = SweepResults(results)
    networks: dict[tuple[str, int], list[Line]] = {}
    for which, line in at.summary():
        networks.setdefault((which["run"], which["step"]), []).append(line)
    sink, table = pa.BufferOutputStream(), at.table()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    hooks = dict.fromkeys(spec["hook"] for spec in at.plan().shards)
    return Found(networks=networks, hooks=tuple(hooks), rows=sink.getvalue().to_pybytes())


def table_of_rows(found: Found) -> "pa.Table":
    """All numbers of what was found."""
    import pyarrow as pa

    return pa.ipc.open_stream(found.rows).read_all()


def networks_map(found: Found, value: str, *, probe: str, split: str) -> HeatMap:
    """Rows networks, columns variables, each cell of the site where the variable is read best.

    Args:
        value: a name of `VALUES`.
    """
    shown = VALUES[value]
    of_kind = {
        which: [line for line in lines if (line.probe, line.split) == (probe, split)]
        for which, lines in found.networks.items()
    }
    variables = list(dict.fromkeys(line.variable for some in of_kind.values() for line in some))
    best: list[Line | None] = [
        max(
            (line for line in lines if line.variable == variable),
            key=lambda line: (line.selective is True, line.accuracy),
            default=None,
        )
        for lines in of_kind.values()
        for variable in variables
    ]
    read = [None if line is None else shown.read(line) for line in best]
    numbers = [float("nan") if one is None else one for one in read]
    values = torch.tensor(numbers, dtype=torch.float64).reshape(len(of_kind), len(variables))
    columns: tuple[tuple[str, Any], ...] = (
        ("best site", lambda line: f"{line.place}, position {line.position}"),
        ("accuracy [95 %]", accuracy_text),
        ("n", lambda line: f"{line.n:,}"),
        ("control task [95 %]", control_text),
        ("q", lambda line: share(line.q)),
        ("rule", verdict),
    )
    return HeatMap(
        name="sweep-networks",
        alt=f"{shown.measure}, at the site where each variable is read best, for every network",
        values=values,
        rows=short_names(list(of_kind)),
        columns=tuple(variables),
        row_axis="network",
        column_axis="variable",
        measure=shown.measure,
        scale=shown.scale,
        details=(
            ("run", tuple(run for run, _ in of_kind for _ in variables)),
            *(
                (name, tuple(DASH if line is None else text(line) for line in best))
                for name, text in columns
            ),
        ),
    )


def short_names(networks: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """Networks in words, without the beginning that all their names share, which hides the rest."""
    runs = list(dict.fromkeys(run for run, _ in networks))
    words = [run.split("-") for run in runs]
    same = sum(1 for _ in takewhile(lambda found: len(set(found)) == 1, zip(*words, strict=False)))
    cut = sum(len(word) + 1 for word in words[0][:same]) if len(runs) > 1 else 0
    return tuple(
        f"{'…' if 0 < cut < len(run) else ''}{run[cut:] or run}, step {step:,}"
        for run, step in networks
    )


def strength_bars(rows: "pa.Table", which: tuple[str, int], line: "Line") -> BarChart | None:
    """A probe's accuracy at every strength that was tried, mean over splits; None for one alone."""
    import pyarrow.compute as compute

    wanted: dict[str, Any] = {
        "run": which[0],
        "step": which[1],
        **{name: getattr(line, name) for name in ("hook", "position", "variable", "probe")},
        "control": "none",
        "metric": "accuracy",
    }
    kept = compute.is_valid(rows["strength"])
    for name, value in wanted.items():
        kept = compute.and_(kept, compute.equal(rows[name], value))
    some = rows.filter(kept).select(["head", "split", "strength", "value"]).to_pylist()
    by_strength: dict[float, list[float]] = {}
    for row in some:
        if row["head"] == line.head and row["split"].startswith(f"{line.split}/"):
            by_strength.setdefault(row["strength"], []).append(row["value"])
    if len(by_strength) < 2:
        return None
    strengths = sorted(by_strength)
    means = tuple(sum(by_strength[one]) / len(by_strength[one]) for one in strengths)
    return BarChart(
        name="probe-strengths",
        alt=f"accuracy of the {line.probe} probe of {line.variable} at every strength tried",
        names=tuple(f"{one:g}" for one in strengths),
        series=(
            Series(
                name="mean over splits",
                y=means,
                low=tuple(min(by_strength[one]) for one in strengths),
                high=tuple(max(by_strength[one]) for one in strengths),
            ),
        ),
        x_axis="strength",
        y_axis="accuracy (ends: splits)",
        y_range=(0.0, 1.0),
    )


def networks_of(found: Found) -> Sequence[str]:
    """Every network in words, in the order of `Found.networks`."""
    return [f"{run}, step {step:,}" for run, step in found.networks]

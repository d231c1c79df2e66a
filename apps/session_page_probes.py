"""Probes on a session's page: maps over sites and positions, and levels across training."""

from collections.abc import Mapping, Sequence

import torch

from apps.figures import Mark, Series, finite_limit, line_chart
from apps.page import DASH, count, details, escaped, figure, interval, number, table, words
from apps.probe_drawing import PANELS, Panel
from apps.session_page_drawing import grid
from probes.summary import Line
from probes.training_times import AcrossTraining, Kind, Measure

LISTED = 200
"""Rows of a table."""
LEAST = 0.05
"""The colour scale of differences reaches at least this far, so that next to nothing is pale."""
CHARTED = 24
"""Charts of a record across training."""
COLUMNS: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "interval": "95 % interval",
    "n": "n",
    "q": "q",
    "control_accuracy": "Control task",
    "shuffled_accuracy": "Shuffled labels",
    "untrained_accuracy": "Untrained",
    "majority_accuracy": "Commonest class",
    "erased_accuracy": "Right, erased",
    "random_erased_accuracy": "Random erased",
    "interchange_accuracy": "Interchange",
    "interchange_control": "Its control",
}


def line_maps(lines: Sequence[Line], columns: Sequence[str] = ()) -> str:
    """Every number of some probes, as maps and as a table.

    Args:
        columns: what stands at each position of an example input.
    """
    kinds = list(dict.fromkeys((line.variable, line.probe, line.split) for line in lines))
    maps = []
    for variable, probe, split in kinds:
        some = [
            line
            for line in lines
            if (line.variable, line.probe, line.split) == (variable, probe, split)
        ]
        what = f"{variable}, {probe} probe, {split} split, n = {some[0].n:,}"
        for panel in PANELS:
            if any(panel.value(line) is not None for line in some):
                maps.append(_map(some, panel, what, columns))
    rows = [_row(line) for line in lines[:LISTED]]
    heads = ("Variable, site, position", *COLUMNS.values(), "Rules that hold")
    summary = f"{len(rows)} of {len(lines)} measurements as numbers"
    return "".join(maps) + details(summary, table(heads, rows))


def _map(lines: Sequence[Line], panel: Panel, what: str, columns: Sequence[str]) -> str:
    places = list(dict.fromkeys(line.place for line in lines))
    positions = sorted({line.position for line in lines})
    values = torch.full((len(places), len(positions)), torch.nan, dtype=torch.float64)
    marked = torch.zeros(values.shape, dtype=torch.bool)
    for line in lines:
        at, value = (places.index(line.place), positions.index(line.position)), panel.value(line)
        values[at] = torch.nan if value is None else value
        marked[at] = panel.mark(line) is True
    names = [f"{at} {columns[at]}" if 0 <= at < len(columns) else f"{at}" for at in positions]
    picture = grid(
        values,
        places,
        names,
        label=f"{what}: {panel.title}, by site and position; as a table below",
        signed=panel.signed,
        limit=max(LEAST, finite_limit(values)) if panel.signed else 1.0,
        marked=marked,
    )
    sign = " Blue is above zero, orange below." if panel.signed else ""
    return figure(picture, f"{escaped(what)}: {escaped(panel.title)}. Columns: position.{sign}")


def _row(line: Line) -> tuple[str, ...]:
    cells = []
    for key in COLUMNS:
        if key == "interval":
            cells.append(interval((line.low, line.high)))
        else:
            value = getattr(line, key)
            cells.append(count(value) if key == "n" else number(value))
    held = [name for name in ("decodable", "selective", "used") if getattr(line, name) is True]
    at = f"{escaped(line.variable)} <code>{escaped(line.place)}</code> @{escaped(line.position)}"
    return (at, *cells, ", ".join(held) or DASH)


# ---------------------------------------------------------------------- across training


def across_charts(found: AcrossTraining) -> str:
    """Each measure at each site over the checkpoints, beside the hardest control."""
    pairs = [(site, kind) for site in found.sites for kind in found.kinds]
    charts = "".join(_chart(found, site, kind) for site, kind in pairs[:CHARTED])
    rows = [
        (
            f"step {one.step:,}, <code>{escaped(measure.site)}</code>, {words(measure.kind)}",
            number(measure.level.value),
            interval((measure.level.low, measure.level.high)),
            count(measure.level.n),
            number(_hardest(measure)),
        )
        for one in found.checkpoints
        for measure in one.measures
    ]
    heads = ("Checkpoint, site, measure", "Value", "95 % interval", "n", "Hardest control")
    summary = f"{min(len(rows), LISTED)} of {len(rows):,} measurements as numbers"
    return f'<div class="panels">{charts}</div>' + details(summary, table(heads, rows[:LISTED]))


def _chart(found: AcrossTraining, site: str, kind: Kind) -> str:
    series, times = found.series(site, kind), found.times(site, kind)
    marks = [Mark(times.holds, "holds")] if times.holds is not None else []
    since = "never" if times.holds is None else f"from step {times.holds:,}"
    what = f"{found.variable} at {site}, {kind.replace('_', ' ')}: holds {since}"
    chart = line_chart(
        [
            Series(
                "measure",
                [(s, m.level.value) for s, m in zip(found.steps, series, strict=True)],
                "first",
            ),
            Series(
                "control",
                [(s, _hardest(m)) for s, m in zip(found.steps, series, strict=True)],
                "second",
            ),
        ],
        label=what,
        x_title="step",
        y_title="share",
        y_range=(-0.02, 1.04),
        dots=len(series) <= 60,
        marks=marks,
    )
    return figure(chart, f"{escaped(what)}. Dashed: the control that is hardest to beat.")


def _hardest(measure: Measure) -> float:
    values = [level.value for level in measure.controls.values()]
    best = min if measure.kind == "erased" else max
    return best(values, default=float("nan"))

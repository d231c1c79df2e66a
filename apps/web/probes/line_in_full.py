"""One line of probing in full: its numbers beside its controls, as bars and as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apps.web.charts.chart import BarChart, Series
from apps.web.probes.lines import (
    DASH,
    control_text,
    share,
    shuffled_text,
    untrained_text,
    verdict,
)

if TYPE_CHECKING:
    from probes.summary import Line

Bar = tuple[str, float | None, float | None, float | None]
"""A name, a value, and the ends of its interval."""


def accuracy_bars(line: "Line") -> BarChart:
    """How well one probe reads its variable, beside its controls, each with its 95 % interval."""
    untrained, m = line.untrained_interval or (None, None), line.n_untrained or 0
    bars: list[Bar] = [
        ("probe", line.accuracy, line.low, line.high),
        ("control task", line.control_accuracy, line.control_low, line.control_high),
        ("shuffled", line.shuffled_accuracy, line.shuffled_low, line.shuffled_high),
        ("commonest", line.majority_accuracy, None, None),
        (
            *("subspace", line.random_subspace_accuracy),
            *(line.random_subspace_low, line.random_subspace_high),
        ),
        ("noise", line.norm_matched_accuracy, line.norm_matched_low, line.norm_matched_high),
        (f"untrained ({m})", line.untrained_accuracy, *untrained),
        ("its bound", line.untrained_bound, None, None),
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
    bars: list[Bar] = [
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
    bars: Sequence[Bar],
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
        "control task [95 %]": control_text(line),
        "shuffled labels [95 %]": shuffled_text(line),
        "selectivity": share(line.selectivity),
        "p, q": f"{share(line.p)}, {share(line.q)}",
        "untrained [95 %]": untrained_text(line),
        "untrained: sd, bound": f"{share(line.untrained_sd)}, {share(line.untrained_bound)}",
        "directions erased": DASH if line.rank is None else str(line.rank),
        "inputs asked when erased": asked,
        "swaps that change the answer": swap,
        "by the rule": verdict(line),
    }
    return [{"what": what, "value": value} for what, value in told.items()]

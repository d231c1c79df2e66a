"""Loss and accuracy of runs by step, also while they train."""

import math
from collections.abc import Mapping, Sequence

import streamlit as st

from apps.web.charts.chart import LineChart, Series
from apps.web.charts.show import show
from apps.web.choice import runs_folder
from apps.web.train.runs import history
from workbench.train import GROKKED, Metrics, grokking_step

EVERY = 1.0
"""Seconds between two looks at runs that train."""
MOST = 3
"""Runs in one picture, unless others are chosen."""
HEIGHT = 280

Histories = Mapping[str, Sequence[Metrics]]
"""By seed, as it is written beside a line: `seed 0`."""


def draw_curves(runs: Mapping[str, str], *, key: str, live: bool) -> None:
    """The curves of runs by label; where they train, drawn again by themselves.

    Args:
        runs: label, such as `seed 0`, to the name of a run.
    """
    shown = dict(runs)
    if len(runs) > MOST:
        labels = st.multiselect(
            f"Shown, of {len(runs)} seeds",
            list(runs),
            default=list(runs)[:MOST],
            key=f"{key}_shown",
            help="The others train as well.",
        )
        shown = {label: runs[label] for label in labels}
    draw = st.fragment(_draw, run_every=EVERY) if live else _draw
    draw(tuple(shown.items()), key)


def _draw(runs: tuple[tuple[str, str], ...], key: str) -> None:
    histories = {label: history(runs_folder() / name) for label, name in runs}
    if not any(histories.values()):
        st.caption("No curve yet: it begins with the first evaluation, after a second or two.")
        return
    left, right = st.columns(2)
    with left:
        show(loss_chart(histories), key=f"{key}_loss", height=HEIGHT)
    with right:
        show(accuracy_chart(histories), key=f"{key}_accuracy", height=HEIGHT)


def loss_chart(histories: Histories) -> LineChart:
    """Cross-entropy by step, on a logarithmic axis."""
    return LineChart(
        name="loss-by-step",
        alt=f"Loss in nats by training step, on a logarithmic axis. {_last(histories, 'loss')}",
        x=_steps(histories),
        series=_series(histories, "loss"),
        x_axis="training step",
        y_axis="loss (nats)",
        log_y=True,
    )


def accuracy_chart(histories: Histories) -> LineChart:
    """Accuracy by step, the line of 99.9 %, and the steps from which it was passed for good."""
    steps = _steps(histories)
    line = Series(name="99.9 %", y=(GROKKED,) * len(steps), dash="dotted")
    marks = []
    for label, rows in histories.items():
        step = grokking_step(rows)
        if step is not None:
            marks.append((float(step), f"{_of(label, histories)}grokking, step {step:,}"))
    return LineChart(
        name="accuracy-by-step",
        alt=f"Accuracy by training step. {_last(histories, 'accuracy')}",
        x=steps,
        series=(*_series(histories, "accuracy"), line),
        x_axis="training step",
        y_axis="accuracy",
        y_range=(0.0, 1.0),
        marks=tuple(marks),
    )


def _steps(histories: Histories) -> tuple[float, ...]:
    """Every step at which any was evaluated."""
    return tuple(sorted({float(row.step) for rows in histories.values() for row in rows}))


def _series(histories: Histories, what: str) -> tuple[Series, ...]:
    """Trained on (dashed) and held out, of every run that has been evaluated."""
    steps = _steps(histories)
    series = []
    for label, rows in histories.items():
        for words, part, dash in (("trained on", "train", "dashed"), ("held out", "held_out", "")):
            values = {float(row.step): getattr(row, f"{part}_{what}") for row in rows}
            y = tuple(_drawable(values.get(step), what) for step in steps)
            if any(value is not None for value in y):
                name = f"{_of(label, histories)}{words}"
                series.append(Series(name=name, y=y, dash="dashed" if dash else "solid"))
    return tuple(series)


def _of(label: str, histories: Histories) -> str:
    return f"{label}, " if len(histories) > 1 else ""


def _drawable(value: float | None, what: str) -> float | None:
    """None for what was not measured, and for a loss that a logarithmic axis has no place for."""
    if value is None or not math.isfinite(value) or (what == "loss" and value <= 0):
        return None
    return value


def _last(histories: Histories, what: str) -> str:
    """The last numbers, in words."""
    words = []
    for label, rows in histories.items():
        if rows:
            last, style = rows[-1], ".2%" if what == "accuracy" else ".4f"
            values = [getattr(last, f"{part}_{what}") for part in ("train", "held_out")]
            train, held_out = ("not measured" if math.isnan(v) else f"{v:{style}}" for v in values)
            words.append(
                f"{_of(label, histories)}at step {last.step:,}: {train} on what it trained on, "
                f"{held_out} on what was held out."
            )
    return " ".join(words)

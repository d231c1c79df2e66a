"""Accuracy and loss over the training, with the checkpoint marked."""

from typing import Any

import streamlit as st

from apps.web.cache import remembered
from apps.web.charts.chart import Dash, LineChart, Series
from apps.web.charts.show import show
from apps.web.choice import Network
from workbench.manifest import METRICS

KINDS: tuple[tuple[str, str, Dash], ...] = (
    ("train", "training inputs", "dashed"),
    ("held_out", "held-out inputs", "solid"),
)


def draw_training(network: Network) -> None:
    """Two charts, where the run has its training with it."""
    charts = training_charts(network, network.run.manifest.files[METRICS].sha256, network.step)
    if charts is None:
        st.info(
            "This network came without the story of its training. Train one on the Train page to "
            "see accuracy and loss rise and fall."
        )
        return
    st.caption(
        "Where training inputs are right long before held-out ones, the network memorised first. "
        "The vertical line is the checkpoint chosen at the left."
    )
    for column, chart in zip(st.columns(2), charts, strict=True):
        with column:
            show(chart, key=f"network_{chart.name}")


@remembered
def training_charts(network: Network, digest: str, step: int) -> tuple[LineChart, LineChart] | None:
    """Accuracy and loss; `digest` is that of the metrics, which grow while a network trains."""
    rows = network.run.metrics()
    if not rows:
        return None
    marks = ((float(step), f"step {step:,}"),)
    x = tuple(float(row["step"]) for row in rows)
    accuracy = LineChart(
        name="accuracy-over-training",
        alt=f"Accuracy on training and held-out inputs over {len(rows)} training steps; at the end "
        f"{rows[-1].get('held_out_accuracy')} on held-out inputs.",
        x=x,
        series=_series(rows, "accuracy"),
        x_axis="training step",
        y_axis="accuracy",
        y_range=(0.0, 1.0),
        marks=marks,
    )
    loss = LineChart(
        name="loss-over-training",
        alt="Loss on training and held-out inputs over the training, on a log scale.",
        x=x,
        series=_series(rows, "loss"),
        x_axis="training step",
        y_axis="loss (nats)",
        log_y=True,
        marks=marks,
    )
    return accuracy, loss


def _series(rows: list[dict[str, Any]], what: str) -> tuple[Series, ...]:
    return tuple(
        Series(name=words, y=tuple(row.get(f"{kind}_{what}") for row in rows), dash=dash)
        for kind, words, dash in KINDS
        if any(row.get(f"{kind}_{what}") is not None for row in rows)
    )

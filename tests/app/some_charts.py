"""Charts of every kind for tests, small and with names that would like to be markup."""

import math

import torch
from torch import Tensor

from apps.web.charts.chart import (
    BarChart,
    Chart,
    CircuitGraph,
    Gallery,
    GraphEdge,
    GraphNode,
    HeatMap,
    LineChart,
    Scale,
    ScatterChart,
    Series,
)

HOSTILE = "<img src=x onerror=alert(1)>{c}"


def heat_map(
    values: Tensor,
    *,
    scale: Scale = "signed",
    limit: float | None = None,
    columns: tuple[str, ...] | None = None,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> HeatMap:
    """A heat map with rows r0, r1, ... and columns c0, c1, ..."""
    return HeatMap(
        name="effects",
        alt="Effects of patching every head at every position",
        values=values,
        rows=tuple(f"r{i}" for i in range(values.shape[0])),
        columns=columns or tuple(f"c{i}" for i in range(values.shape[1])),
        row_axis="head",
        column_axis="position",
        measure="effect (nats)",
        scale=scale,
        limit=limit,
        low=low,
        high=high,
    )


def circuit(label: str = "head 0") -> CircuitGraph:
    """Three nodes above each other; scores 1, -2, 0.5 and a dead end."""
    nodes = (
        GraphNode(name="embed", label="embed", kind="embedding", x=0, y=0),
        GraphNode(name="a0.h0", label=label, kind="head", x=0, y=1, pinned=True),
        GraphNode(name="logits", label="logits", kind="logits", x=0, y=2),
    )
    edges = tuple(
        GraphEdge(name=f"embed->a0.h0<{port}>", writer="embed", reader="a0.h0", score=score)
        for port, score in (("q", 1.0), ("k", -2.0), ("v", 0.5))
    )
    dead = GraphEdge(name="a0.h0->logits", writer="a0.h0", reader="logits", score=0.1, live=False)
    return CircuitGraph(
        name="circuit", alt="The circuit", nodes=nodes, edges=(*edges, dead), measure="score (nats)"
    )


def all_charts() -> list[Chart]:
    """One of every kind, with gaps, intervals and hostile names."""
    values = torch.tensor([[1.0, -2.0, math.nan], [math.inf, 0.25, 4.0]], dtype=torch.float64)
    line = Series(name=HOSTILE, y=(1.0, None), low=(0.5, None), high=(2.0, math.nan))
    control = Series(name="control", y=(0.1, 0.2), dash="dashed")
    return [
        heat_map(values, limit=3.0, columns=("a", "a", HOSTILE), low=values - 1, high=values + 1),
        heat_map(torch.tensor([[True, False]]), scale="right_wrong"),
        LineChart(
            name="loss", alt="Loss", x=(0.0, 1.0), series=(line, control), x_axis="step",
            y_axis=HOSTILE, marks=((0.5, HOSTILE),),
        ),
        BarChart(
            name="accuracy", alt="Accuracy", names=("m0", HOSTILE), series=(line, control),
            x_axis="site", y_axis="accuracy", y_range=(0.0, 1.0),
        ),
        ScatterChart(
            name="circle", alt="A circle", x=(1.0, math.nan), y=(0.0, 1.0), labels=("0", HOSTILE),
            x_axis="cos", y_axis=HOSTILE, colour=(0.0, math.nan),
        ),
        Gallery(
            name="neurons", alt="Neurons", maps=(heat_map(values), heat_map(values, limit=3.0)),
            titles=("neuron 0", HOSTILE), details=(("frequency", ("3", HOSTILE)),),
        ),
        circuit(HOSTILE),
    ]  # fmt: skip

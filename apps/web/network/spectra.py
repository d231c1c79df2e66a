"""Spectra of embeddings, logits and neurons, each beside an untrained network of the same shape."""

from collections.abc import Sequence

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, LineChart, Series
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.network.data import (
    Shape,
    best_of,
    control_best,
    control_spectra,
    shape_of,
    spectra_of,
)
from apps.web.shell import escaped
from apps.web.words import help_of
from circuits.fourier.neurons import PURE
from circuits.fourier.parts import KEY_SHARE
from workbench.task import Task

CONTROL = "untrained network"


def draw_spectra(network: Network) -> None:
    """Three charts, for tasks that add in a cyclic group."""
    reason = why_none(network.task)
    if reason is not None:
        st.info(f"No spectra here: {escaped(reason)}", icon=":material/info:")
        return
    with st.spinner("Taking the spectra of this checkpoint…", show_time=True):
        keys = spectra_of(network).key_frequencies
        charts = spectrum_charts(network, shape_of(network))
    named = ", ".join(map(str, keys)) or "none"
    st.markdown(f"Key frequencies: **{named}**", help=f"{help_of('key frequency', 'spectrum')}")
    st.caption(
        f"A frequency is key where it carries at least {KEY_SHARE:.0%} of the logits' variance "
        f"over {_inputs(network.task)}, strongest first. {_logarithms(network.task)}The dashed "
        f"control is one {CONTROL} of the same shape (n = 1)."
    )
    for chart in charts:
        show(chart, key=f"network_{chart.name}".replace("-", "_"), height=280)
    _draw_neurons(network)


def _draw_neurons(network: Network) -> None:
    model = network.run.config.model
    if not model.d_mlp:
        st.caption("This network has no MLP, so it has no neurons.")
        return
    layer = pick_layer(network, key="network_spectrum_layer")
    with st.spinner("Taking the spectrum of every neuron…", show_time=True):
        chart = neuron_chart(network, shape_of(network), layer)
        pure, control = (
            float((one.share >= PURE).double().mean())
            for one in (best_of(network, layer), control_best(shape_of(network), layer))
        )
    st.subheader("Neurons")
    st.caption(
        f"Share of each neuron's variance over {_inputs(network.task)} that its best frequency "
        f"explains. At least {PURE:.0%} in {pure:.1%} of {model.d_mlp} neurons; in the {CONTROL} "
        f"in {control:.1%}. The Neurons section shows them one by one."
    )
    show(chart, key="network_neuron_spectrum", height=300)


def why_none(task: Task) -> str | None:
    """Why a task has no spectra, or None where it has."""
    if task.cyclic() is None:
        return (
            f"{task.label} adds in no cyclic group that the library knows, so there is no set of "
            "frequencies to look at."
        )
    if not task.enumerable:
        return f"{task.label} has too many inputs to list; choose a smaller p."
    return None


def pick_layer(network: Network, *, key: str) -> int:
    """The layer of neurons to look at; asked only where there are several."""
    layers = network.run.config.model.n_layers
    if layers == 1:
        return 0
    return st.selectbox(
        "Layer",
        range(layers),
        key=key,
        bind="query-params",
        help="Layers count from 0, at the embedding.",
    )


@remembered
def spectrum_charts(network: Network, shape: Shape) -> tuple[BarChart, BarChart]:
    """Embedding and logit spectra, key frequencies apart from the others, control dashed."""
    own, control = spectra_of(network), control_spectra(shape)
    keys = own.key_frequencies
    words = ", ".join(map(str, keys)) or "none"
    embedding = _spectrum_chart(
        "embedding-spectrum",
        f"Share of the embeddings' variance by frequency; key frequencies: {words}.",
        "share of the embeddings' variance",
        own.embedding,
        control.embedding,
        keys,
    )
    logits = _spectrum_chart(
        "logit-spectrum",
        f"Share of the logits' variance by frequency; key frequencies: {words}.",
        "share of the logits' variance",
        own.logits,
        control.logits,
        keys,
    )
    return embedding, logits


def _spectrum_chart(
    name: str,
    alt: str,
    axis: str,
    own: torch.Tensor,
    control: torch.Tensor,
    keys: Sequence[int],
) -> BarChart:
    values = own.tolist()
    split = [
        tuple(value if (k in keys) == key else None for k, value in enumerate(values, 1))
        for key in (True, False)
    ]
    return BarChart(
        name=name,
        alt=alt,
        names=tuple(str(k) for k in range(1, len(values) + 1)),
        series=(
            Series(name="key frequency", y=split[0]),
            Series(name="other frequency", y=split[1]),
            Series(name=CONTROL, y=tuple(control.tolist()), dash="dashed"),
        ),
        x_axis="frequency",
        y_axis=axis,
    )


@remembered
def neuron_chart(network: Network, shape: Shape, layer: int) -> LineChart:
    """Neurons in the order of the share that their best frequency explains."""
    own = best_of(network, layer).share.sort(descending=True).values
    control = control_best(shape, layer).share.sort(descending=True).values
    return LineChart(
        name="neuron-shares",
        alt=f"Share of variance explained by one frequency, over {len(own)} neurons of layer "
        f"{layer}: median {float(own.median()):.2f}, in the untrained network "
        f"{float(control.median()):.2f}.",
        x=tuple(float(i) for i in range(1, len(own) + 1)),
        series=(
            Series(name="this network", y=tuple(own.tolist())),
            Series(name=CONTROL, y=tuple(control.tolist()), dash="dashed"),
        ),
        x_axis="neurons, the purest first",
        y_axis="share of variance",
        y_range=(0.0, 1.0),
    )


def _inputs(task: Task) -> str:
    return f"all {task.domain_size:,} inputs"


def _logarithms(task: Task) -> str:
    """How elements are numbered where they do not number themselves."""
    cyclic = task.cyclic()
    assert cyclic is not None, task.name
    if torch.equal(cyclic.elements, cyclic.logs):
        return ""
    return "Frequencies are of the operands' discrete logarithms, in which this task adds. "

"""The circle of a frequency, with its turn, and the neurons that serve it."""

import math

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.charts.chart import Gallery, HeatMap, ScatterChart
from apps.web.charts.show import show
from apps.web.choice import Network, subject
from apps.web.parts.data import board, coordinates
from apps.web.parts.switches import Grid
from apps.web.words import help_of
from circuits.fourier.parts import structure
from circuits.fourier.switchboard import Switches
from circuits.neuron_maps import neuron_maps

SHOWN = 6
"""Neurons in the gallery: those that vary most."""
TILE = 40
"""Elements a side that a small map shows: the first ones."""
OPERANDS = ("a", "b")
SCATTER = (
    "Each point is the embedding of one number, seen in this plane alone. A network that adds on "
    "this circle has its numbers on a ring, and their colours go round it in order. In a network "
    "that learned nothing they are a cloud: step back to the first checkpoint to compare. Turning "
    "the plane of a turns its ring."
)


def draw(network: Network, seed: int, grid: Grid, switches: Switches) -> None:
    """Draw the plane that is chosen, and on demand its neurons."""
    st.subheader("A plane and its neurons")
    counts = {row.frequency: row.neurons for row in grid.rows}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        frequency = st.segmented_control(
            "Frequency",
            list(counts),
            default=next(iter(counts)),
            required=True,
            key="parts_plane",
            bind="query-params",
            help=help_of("key frequency"),
        )
        operand = st.segmented_control(
            "Operand",
            OPERANDS,
            default="a",
            required=True,
            key="parts_operand",
            bind="query-params",
            help="Only operand a is turned.",
        )
    if frequency not in counts:  # a link to another network
        frequency = next(iter(counts))
    left, right = st.columns([1.7, 1], gap="medium")  # a square picture has room at 1280 pixels
    with left:
        show(scatter(network, seed, switches, frequency, operand or "a"), key="parts_scatter")
    with right:
        st.caption(SCATTER)
    if not counts[frequency]:
        st.caption(f"No neuron was named for frequency {frequency}.")
    elif st.toggle(
        f"Show neurons of frequency {frequency} ({counts[frequency]:,} there are)",
        key="parts_gallery",
        bind="query-params",
        help=help_of("neurons of a frequency"),
    ):
        with st.spinner("Reading its neurons on every input..."):
            gallery = _gallery(network, seed, frequency)
        show(gallery, key="parts_neurons")


def scatter(
    network: Network, seed: int, switches: Switches, frequency: int, operand: str
) -> ScatterChart:
    """Every number's embedding in a plane, on the axes that it has with nothing switched."""
    place = OPERANDS.index(operand)
    points = coordinates(network, seed, switches, frequency)[place]
    own = coordinates(network, seed, Switches(), frequency)[place]
    cyclic = structure(board(network, seed).study.subject)
    phase = (frequency * cyclic.logs % cyclic.order).double() * (2 * math.pi / cyclic.order)
    phase = torch.where(phase > math.pi, phase - 2 * math.pi, phase)
    shift = dict(switches.rotated).get(frequency, 0) if operand == "a" else 0
    turned = f", turned by {shift}" if shift else ""
    return ScatterChart(
        name=f"plane-{frequency}",
        alt=f"Embeddings of operand {operand} in the plane of frequency {frequency}{turned}; "
        f"colour is the angle 2 pi {frequency} x / {cyclic.order} that a circle would have.",
        x=tuple(points[:, 0].tolist()),
        y=tuple(points[:, 1].tolist()),
        labels=tuple(f"{operand} = {x}" for x in cyclic.elements.tolist()),
        x_axis=f"along cos, frequency {frequency}",
        y_axis="along sin",
        colour=tuple(phase.tolist()),
        reach=float(own.abs().max()),  # a plane that is switched off shrinks, and is seen to
    )


@remembered
def _gallery(network: Network, seed: int, frequency: int) -> Gallery:
    """The neurons of a frequency that vary most, over all inputs."""
    config, own = network.run.config.model, board(network, seed)
    named = own.study.parts.neuron_frequencies.reshape(config.n_layers, -1)
    maps, titles = [], []
    for layer in range(config.n_layers):
        values = neuron_maps(subject(network), layer)
        found = (named[layer] == frequency).nonzero()[:, 0]
        order = values[found].flatten(1).var(1).argsort(descending=True)
        for neuron in found[order][:SHOWN].tolist():
            titles.append(f"m{layer}.{neuron}")
            maps.append(_neuron_map(network, values[neuron, :TILE, :TILE], titles[-1]))
    return Gallery(
        name=f"neurons-{frequency}",
        alt=f"Activations over a and b of neurons named for frequency {frequency}: "
        + ", ".join(titles),
        maps=tuple(maps[:SHOWN]),
        titles=tuple(titles[:SHOWN]),
    )


def _neuron_map(network: Network, values: torch.Tensor, title: str) -> HeatMap:
    cyclic = network.task.cyclic()
    assert cyclic is not None
    names = tuple(map(str, cyclic.elements[:TILE].tolist()))
    return HeatMap(
        name="neuron",
        alt=title,
        values=values,
        rows=names,
        columns=names,
        row_axis="a",
        column_axis="b",
        measure="activation",
        scale="size",
    )

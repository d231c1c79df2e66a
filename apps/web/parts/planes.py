"""The circle of a frequency, with its turn, and the neurons that serve it."""

import math

import streamlit as st
import torch
from streamlit.delta_generator import DeltaGenerator

from apps.web.cache import remembered
from apps.web.charts.chart import Gallery, HeatMap, ScatterChart
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.network.data import maps_of, shares_of
from apps.web.parts.data import board, coordinates
from apps.web.parts.switches import Grid
from apps.web.words import help_of
from circuits.fourier.parts import structure
from circuits.fourier.switchboard import Switches

PER_PAGE = 6
"""Neurons on each page of the gallery."""
PLANE, GALLERY = "parts_plane", "parts_gallery"
PAGE = "parts_page"
"""Key of the number of the page, before its frequency."""
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
            key=PLANE,
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
        key=GALLERY,
        bind="query-params",
        help=help_of("neurons of a frequency"),
    ):
        _draw_neurons(network, seed, frequency)


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


def _draw_neurons(network: Network, seed: int, frequency: int) -> None:
    """A page of the neurons of a frequency, and what turns to the others."""
    with st.spinner("Reading its neurons on every input..."):
        found = neurons_of(network, seed, frequency)
        turned = st.container(
            horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
        )
        first = PER_PAGE * (_page(turned, frequency, len(found)) - 1)
        gallery = neuron_gallery(network, frequency, found[first : first + PER_PAGE])
    last = min(first + PER_PAGE, len(found))
    size = len(structure(board(network, seed).study.subject).elements)
    part = f" Maps show the first {TILE} of {size} values." if size > TILE else ""
    turned.caption(
        f"Neurons {first + 1:,} to {last:,} of {len(found):,}, those that vary most first.{part}"
    )
    show(gallery, key="parts_neurons")


def _page(place: DeltaGenerator, frequency: int, count: int) -> int:
    """The page that is chosen, from 1."""
    pages = -(-count // PER_PAGE)
    if pages == 1:
        return 1
    key = f"{PAGE}{frequency}"
    if st.session_state.get(key, 1) > pages:  # a link to another network
        st.session_state[key] = pages
    return place.pagination(pages, key=key, bind="query-params")


@remembered
def neurons_of(network: Network, seed: int, frequency: int) -> tuple[tuple[int, int], ...]:
    """The neurons of a frequency, each its layer and its number: those that vary most first."""
    layers = network.run.config.model.n_layers
    named = board(network, seed).study.parts.neuron_frequencies.reshape(layers, -1)
    varied = torch.stack([maps_of(network, layer, 0).var((1, 2)) for layer in range(layers)])
    order = varied.flatten().argsort(descending=True, stable=True).tolist()
    width = named.shape[1]
    return tuple(divmod(i, width) for i in order if named[divmod(i, width)] == frequency)


@remembered
def neuron_gallery(
    network: Network, frequency: int, neurons: tuple[tuple[int, int], ...]
) -> Gallery:
    """Some neurons of a frequency over all inputs."""
    titles = tuple(f"m{layer}.{neuron}" for layer, neuron in neurons)
    values = [maps_of(network, layer, 0)[neuron] for layer, neuron in neurons]
    shares = [shares_of(network, layer)[frequency - 1, neuron] for layer, neuron in neurons]
    return Gallery(
        name=f"neurons-{frequency}",
        alt=f"Activations over a and b of neurons named for frequency {frequency}: "
        + ", ".join(titles),
        maps=tuple(
            _neuron_map(network, one[:TILE, :TILE], title)
            for one, title in zip(values, titles, strict=True)
        ),
        titles=titles,
        details=(
            ("variance", tuple(f"{float(one.var()):.4g}" for one in values)),
            (f"share at frequency {frequency}", tuple(f"{float(one):.1%}" for one in shares)),
        ),
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

"""The gallery of neurons over a and b, and one neuron in large."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import streamlit as st
import torch
from jaxtyping import Int
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, Gallery, HeatMap, Series
from apps.web.charts.show import show, table
from apps.web.choice import Network, subject
from apps.web.inputs import text_of
from apps.web.network.answers import grid_of, size_text
from apps.web.network.data import best_of, maps_of, measured_inputs, shares_of, variances
from apps.web.network.spectra import pick_layer, why_none
from apps.web.words import help_of
from circuits.neuron_maps import direct_logit_weights
from workbench.task import Task

PER_PAGE = 12
TOP = 10
"""Inputs listed for one neuron."""
Sort = Literal["share of its frequency", "variance", "index"]
SORTS: tuple[Sort, ...] = ("share of its frequency", "variance", "index")
EVERY = "every frequency"
NEURON = "network_neuron"
_SEEN = "network_gallery_seen"


class Choice(NamedTuple):
    """Which neurons, in which order."""

    layer: int
    answer: int
    sort: Sort
    frequency: int | None
    """None for every one."""
    column: int | None = None
    """Of the digits that the map is over; None where it is over the operands themselves."""


def draw_neurons(network: Network) -> None:
    """Choices, the gallery, and the clicked neuron."""
    model = network.run.config.model
    if not model.d_mlp:
        st.info("This network has no MLP, so it has no neurons. Look at its heads: Attention.")
        return
    if grid_of(network.task) is None and not digit_columns(network.task):
        st.info(
            f"No maps of neurons here: {size_text(network.task)} inputs are too many to list, and "
            "they have no digits to sum them up by. Look at the heads: Attention."
        )
        return
    with st.spinner("Running every input through the neurons…", show_time=True):
        choice, place = _choice(network)
        chosen = neurons_of(network, choice)
    if not len(chosen):
        st.info("No neuron has this best frequency; choose another one.")
        return
    with place:
        page = _page(len(chosen))
    shown = chosen[page * PER_PAGE : (page + 1) * PER_PAGE].tolist()
    if choice.column is not None:
        st.caption(
            f"Mean activation by the digits of both operands worth {10**choice.column:,}, over "
            f"{len(measured_inputs(network.task)):,} sampled inputs, about 100 for each pair."
        )
    chart = neuron_gallery(network, choice, tuple(shown))
    clicked = show(chart, key="network_gallery", select=True)
    _draw_neuron(network, choice, _pick_neuron(shown, clicked, model.d_mlp))


def _pick_neuron(shown: list[int], clicked: int | None, count: int) -> int:
    """The neuron in large: the one clicked last or typed, at whatever checkpoint and order."""
    neuron = None if clicked is None else shown[clicked]
    named = _SEEN not in st.session_state and NEURON in st.query_params
    if neuron is not None and neuron != st.session_state.get(_SEEN) and not named:
        st.session_state[NEURON] = neuron
    st.session_state[_SEEN] = neuron
    _keep_within(NEURON, count - 1)
    typed = st.number_input(
        "Neuron in large",
        min_value=0,
        max_value=count - 1,
        value=None,
        placeholder=str(shown[0]),
        key=NEURON,
        bind="query-params",
        help="Click one above, or write its number: it stays while checkpoints change.",
    )
    return shown[0] if typed is None else int(typed)


def _keep_within(key: str, most: int) -> None:
    """Forget a number that was chosen where there was more to choose from."""
    value = st.session_state.get(key)
    if value is not None and value > most:
        st.session_state[key] = None if key == NEURON else most


def _choice(network: Network) -> tuple[Choice, DeltaGenerator]:
    """What is asked for, and where the number of the page goes."""
    fourier = why_none(network.task) is None
    columns = st.columns(3)
    with columns[0]:
        layer = pick_layer(network, key="network_layer")
        sort = st.selectbox(
            "Sort by",
            SORTS if fourier else SORTS[1:],
            key="network_sort",
            bind="query-params",
            help=f"{help_of('neuron', 'spectrum')}  \nThe largest come first; indices ascend.",
        )
    frequency = None
    if fourier:
        known = best_of(network, layer).frequency
        counts = torch.bincount(known)
        offered = [str(k) for k in counts.nonzero()[:, 0].tolist() if k]
        with columns[1]:
            picked = st.selectbox(
                "Best frequency",
                [EVERY, *offered],
                key="network_frequency",
                bind="query-params",
                help="Only neurons that this frequency explains best.",
            )
        frequency = None if picked == EVERY else int(picked)
    column = None
    if grid_of(network.task) is None:
        column = columns[1].selectbox(
            "Digits",
            digit_columns(network.task),
            key="network_column",
            bind="query-params",
            help="Which digits of a and b the maps are over: 0 the ones, 1 the tens, and so on.",
        )
    return Choice(layer, _answer(network, columns[2]), sort, frequency, column), columns[2]


def digit_columns(task: Task) -> tuple[int, ...]:
    """The columns k of which a task names both digits, `a_k` and `b_k`."""
    known = task.variables(task.sample(1, torch.Generator().manual_seed(0)))
    found = [int(name[2:]) for name in known if name.startswith("a_") and name[2:].isdigit()]
    return tuple(k for k in sorted(found) if f"b_{k}" in known)


def _answer(network: Network, column: DeltaGenerator) -> int:
    count = len(network.task.answer_positions)
    if count == 1:
        return 0
    return column.selectbox(
        "Answer token",
        range(count),
        format_func=lambda i: str(i + 1),
        key="network_token",
        bind="query-params",
        help="Neurons are read where this token of the answer is read.",
    )


def _page(count: int) -> int:
    pages = -(-count // PER_PAGE)
    number = 1
    if pages > 1:
        _keep_within("network_page", pages)
        number = st.number_input(
            f"Page, of {pages}",
            min_value=1,
            max_value=pages,
            key="network_page",
            bind="query-params",
            help=f"{count} neurons, {PER_PAGE} on each page.",
        )
    return int(number) - 1


@remembered
def neurons_of(network: Network, choice: Choice) -> Int[Tensor, " neuron"]:
    """The neurons chosen, in order."""
    maps = maps_of(network, choice.layer, choice.answer, choice.column)
    if choice.sort == "index":
        order = torch.arange(len(maps))
    elif choice.sort == "variance":
        order = variances(network, choice.layer, choice.answer, choice.column).argsort(
            descending=True, stable=True
        )
    else:
        order = best_of(network, choice.layer).share.argsort(descending=True, stable=True)
    if choice.frequency is None:
        return order
    return order[best_of(network, choice.layer).frequency[order] == choice.frequency]


@remembered
def neuron_gallery(network: Network, choice: Choice, neurons: tuple[int, ...]) -> Gallery:
    """Maps of some neurons, with what is known of each."""
    maps = tuple(neuron_map(network, choice, neuron) for neuron in neurons)
    spread = variances(network, choice.layer, choice.answer, choice.column)
    details = [("variance", tuple(f"{float(spread[i]):.4g}" for i in neurons))]
    titles = tuple(f"neuron {i}" for i in neurons)
    if why_none(network.task) is None:
        best = best_of(network, choice.layer)
        details += [
            ("best frequency", tuple(str(int(best.frequency[i])) for i in neurons)),
            ("share of variance", tuple(f"{float(best.share[i]):.1%}" for i in neurons)),
        ]
    return Gallery(
        name="neurons",
        alt=f"Activations of {len(neurons)} neurons of layer {choice.layer} over a and b.",
        maps=maps,
        titles=titles,
        details=tuple(details),
    )


@remembered
def neuron_map(network: Network, choice: Choice, neuron: int) -> HeatMap:
    """One neuron over a (downwards) and b, or their digits."""
    rows, columns = _axes(network.task, choice)
    a, b = ("a", "b") if choice.column is None else (f"a_{choice.column}", f"b_{choice.column}")
    values = maps_of(network, choice.layer, choice.answer, choice.column)[neuron].clone()
    return HeatMap(
        name=f"neuron-{choice.layer}-{neuron}",
        alt=f"Activation of neuron {neuron} of layer {choice.layer} over {a} and {b}.",
        values=values,
        rows=tuple(map(str, rows)),
        columns=tuple(map(str, columns)),
        row_axis=a,
        column_axis=b,
        measure="activation" if choice.column is None else "mean activation",
        scale="signed" if bool((values < 0).any()) else "size",
    )


def _draw_neuron(network: Network, choice: Choice, neuron: int) -> None:
    """One neuron: its whole map, spectrum, top inputs, and what it writes on its own."""
    st.subheader(f"Neuron {neuron} of layer {choice.layer}")
    show(neuron_map(network, choice, neuron), key="network_neuron_map")
    place = st.container()
    if why_none(network.task) is None:
        left, place = st.columns([3, 2])
        with left:
            st.caption("Share of its variance by frequency")
            show(spectrum_chart(network, choice.layer, neuron), key="network_wave", height=280)
    with place:
        st.caption(f"The {TOP} cells in which it is largest")
        table(top_inputs(network, choice, neuron), key="network_top", alt=f"Top inputs of {neuron}")
    st.caption(
        "What one unit of its activation adds to each answer's logit on its own, centred over the "
        f"answers. {_norm_words(network)}"
    )
    show(weights_chart(network, choice.layer, neuron), key="network_weights", height=240)


@remembered
def spectrum_chart(network: Network, layer: int, neuron: int) -> BarChart:
    """Share of one neuron's variance by frequency."""
    shares = shares_of(network, layer)[:, neuron]
    return BarChart(
        name=f"neuron-{layer}-{neuron}-spectrum",
        alt=f"Share of the variance of neuron {neuron} of layer {layer} by frequency; most at "
        f"{int(shares.argmax()) + 1}, {float(shares.max()):.1%}.",
        names=tuple(str(k) for k in range(1, len(shares) + 1)),
        series=(Series(name="share of variance", y=tuple(shares.tolist())),),
        x_axis="frequency",
        y_axis="share of variance",
        y_range=(0.0, 1.0),
    )


@remembered
def weights_chart(network: Network, layer: int, neuron: int) -> BarChart:
    """Direct logit weights of one neuron."""
    weights = direct_logit_weights(subject(network), layer, neuron)
    names = network.task.answer_text if len(network.task.answer_positions) == 1 else None
    tokens = torch.arange(len(weights))
    return BarChart(
        name=f"neuron-{layer}-{neuron}-weights",
        alt=f"What neuron {neuron} of layer {layer} adds to each answer's logit per unit; most to "
        f"{int(weights.argmax())}.",
        names=tuple(names(tokens[:, None]) if names else map(str, tokens.tolist())),
        series=(Series(name="logit per unit", y=tuple(weights.tolist())),),
        x_axis="answer",
        y_axis="logit (nats) per unit",
    )


@remembered
def top_inputs(network: Network, choice: Choice, neuron: int) -> list[dict[str, str]]:
    """The inputs on which a neuron is largest."""
    task = network.task
    first, second = _axes(task, choice)
    values = maps_of(network, choice.layer, choice.answer, choice.column)[neuron].flatten()
    found = values.topk(min(TOP, len(values)))
    rows = []
    for value, index in zip(found.values.tolist(), found.indices.tolist(), strict=True):
        row, column = divmod(index, len(second))
        operands = (first[row], second[column])
        if choice.column is not None:
            digits = f"{operands[0]} and {operands[1]}"
            rows.append({"digits of a and b": digits, "mean activation": f"{value:.3f}"})
            continue
        answer = task.answer_text(task.solve(torch.tensor([operands])))[0]
        written = text_of(task, operands)
        rows.append({"input": written, "right answer": answer, "activation": f"{value:.3f}"})
    return rows


def _axes(task: Task, choice: Choice) -> tuple[Sequence[int], Sequence[int]]:
    """The values that a map's rows and columns stand for."""
    grid = grid_of(task)
    if choice.column is not None or grid is None:
        return range(10), range(10)
    return grid.a, grid.b


def _norm_words(network: Network) -> str:
    if network.run.config.model.normalization is None:
        return ""
    return "The final LayerNorm also divides by a number that depends on the input."

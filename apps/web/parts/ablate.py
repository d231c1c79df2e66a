"""The Parts page of a network whose mechanism is not known: ablations beside controls."""

import streamlit as st
import torch
from jaxtyping import Bool
from torch import Tensor

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, Series
from apps.web.charts.show import show
from apps.web.choice import Network, subject
from apps.web.shell import escaped
from apps.web.words import help_of
from circuits.ablations import Ablated, head_names, mlp_names, other_parts, right_without
from circuits.neuron_maps import operand_grid
from workbench.errors import AppError
from workbench.subject import untrained
from workbench.task import Inputs

MOST_INPUTS = 1024
"""Of a larger domain a sample is taken."""
DRAWS = 5


def draw(network: Network) -> None:
    """Draw the switches, what they did, and the controls."""
    st.info(
        f"No mechanism is known for {escaped(network.task.name)}, so nothing is predicted here. "
        "Switch parts off beside others, trace what matters on the Trace page, or read variables "
        "on the Probes page.",
        icon=":material/help:",
    )
    ablated = _switches(network)
    found = _right(network, ablated)
    own = _right(network, Ablated())
    n = len(found)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        grid = operand_grid(network.task)
        if grid is not None and n == network.task.domain_size:
            shape = (len(grid.a), len(grid.b))
            show(_map(found.reshape(shape), grid.a, grid.b), key="parts_input", height=430)
        else:
            st.metric("Right answers", f"{found.double().mean():.1%}")
            st.caption(f"n = {n:,} sampled inputs.")
    with right:
        bars = st.container()
        if ablated == Ablated(zero=ablated.zero):
            bars.caption("Switch a part off: what it does appears here, beside others.")
            return
        with bars, st.spinner("Switching off other parts, as a control..."):
            controls = [_elsewhere(network, ablated, draw) for draw in range(DRAWS)]
            blank = _untrained(network, ablated)
        with bars:
            _bars(own, found, [one for one in controls if one is not None], blank)


def _switches(network: Network) -> Ablated:
    config = network.run.config.model
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        heads = _pills("Heads off", head_names(config), "parts_heads")
        mlps = _pills("MLPs off", mlp_names(config), "parts_mlps")
        typed = ""
        if config.d_mlp:
            typed = st.text_input(
                f"Neurons of m{config.n_layers - 1} off",
                key="parts_neurons_off",
                bind="query-params",
                placeholder="such as 3, 17, 40-63",
                max_chars=400,
                width=260,
                help=help_of("neuron"),
            )
        fill = st.segmented_control(
            "Put in place",
            ("mean", "zero"),
            default="mean",
            required=True,
            key="parts_fill",
            bind="query-params",
            help=help_of("ablation"),
        )
    neurons = neurons_of(typed, config.d_mlp)
    return Ablated(heads=heads, mlps=mlps, neurons=neurons, zero=fill == "zero")


def neurons_of(text: str, width: int) -> tuple[int, ...]:
    """Neurons from text such as `3, 17, 40-63`. Raises `AppError`."""
    found: set[int] = set()
    for part in (one.strip() for one in text.split(",") if one.strip()):
        ends = part.split("-")
        if len(ends) > 2 or not all(
            end.strip().isascii() and end.strip().isdigit() for end in ends
        ):
            raise AppError(f"cannot read neurons {part!r}; write them as 3, 17, 40-63")
        first, last = int(ends[0]), int(ends[-1])
        if not first <= last < width:
            raise AppError(f"no neurons {part!r}; there are 0 to {width - 1}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def _pills(label: str, names: tuple[str, ...], key: str) -> tuple[str, ...]:
    kept = [name for name in st.session_state.get(key) or () if name in names]
    if key in st.session_state and list(st.session_state[key] or ()) != kept:
        st.session_state[key] = kept  # a link to another network
    if not names:
        return ()
    chosen = st.pills(
        label,
        names,
        selection_mode="multi",
        key=key,
        bind="query-params",
        help=help_of("ablation"),
    )
    return tuple(name for name in names if name in chosen)


@remembered
def _inputs(network: Network) -> Inputs:
    task = network.task
    if task.domain_size <= 4 * MOST_INPUTS:
        return task.domain()
    return task.sample(MOST_INPUTS, torch.Generator().manual_seed(0))


@remembered
def _right(network: Network, ablated: Ablated) -> Bool[Tensor, " input"]:
    return right_without(subject(network), _inputs(network), [ablated])[0]


@remembered
def _elsewhere(network: Network, ablated: Ablated, draw: int) -> float | None:
    others = other_parts(network.run.config.model, ablated, draw=draw, seed=0)
    return None if others is None else float(_right(network, others).double().mean())


@remembered
def _untrained(network: Network, ablated: Ablated) -> float:
    fresh = untrained(subject(network), 0)
    return float(right_without(fresh, _inputs(network), [ablated])[0].double().mean())


def _map(right: Tensor, a: tuple[int, ...], b: tuple[int, ...]) -> HeatMap:
    return HeatMap(
        name="parts-right",
        alt=f"Right answers over all {right.numel():,} inputs with the parts off: "
        f"{right.double().mean():.2%}.",
        values=right,
        rows=tuple(map(str, a)),
        columns=tuple(map(str, b)),
        row_axis="a",
        column_axis="b",
        measure="right",
        scale="right_wrong",
    )


def _bars(own: Tensor, found: Tensor, controls: list[float], blank: float) -> None:
    names, values = ["nothing off", "these parts off"], [own.double().mean(), found.double().mean()]
    lows: list[float | None] = [None, None]
    highs: list[float | None] = [None, None]
    shares = [float(value) for value in values]
    if controls:
        names.append("as many others off")
        shares.append(sum(controls) / len(controls))
        lows.append(min(controls))
        highs.append(max(controls))
    chart = BarChart(
        name="parts-controls",
        alt="Share of right answers: "
        + ", ".join(f"{name} {value:.1%}" for name, value in zip(names, shares, strict=True))
        + f", untrained network {blank:.1%}",
        names=(*names, "untrained network"),
        series=(
            Series(
                name="right",
                y=(*shares, blank),
                low=(*lows, None),
                high=(*highs, None),
            ),
        ),
        x_axis="",
        y_axis="share right",
        y_range=(0.0, 1.0),
    )
    show(chart, key="parts_bars", height=300)
    st.markdown(
        f"Right on **{shares[0]:.1%}** before and **{shares[1]:.1%}** after, of {len(found):,} "
        "inputs. "
        + (
            f"With as many other parts off: {shares[2]:.1%}, from {min(controls):.1%} to "
            f"{max(controls):.1%} in {len(controls)} draws."
            if controls
            else "There are not as many other parts to compare with."
        )
    )

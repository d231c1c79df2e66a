"""The Parts page of a network that may add on circles: switches, what happened, controls."""

import streamlit as st
import torch
from jaxtyping import Bool
from torch import Tensor

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, LineChart, Series
from apps.web.charts.show import chosen_of, show
from apps.web.choice import Network
from apps.web.inputs import carry, input_choice, text_of
from apps.web.parts import planes as parts_planes
from apps.web.parts import words as parts_words
from apps.web.parts.data import (
    before,
    board,
    elsewhere,
    logits_on,
    predicted_on,
    prediction,
    switched,
    whole_explanation,
)
from apps.web.parts.switches import Grid, draw_presets, draw_switches, grid_of
from apps.web.words import help_of
from circuits.fourier.switch_controls import (
    OTHER_PARTS,
    RANDOM,
    UNTRAINED,
    ControlDraw,
    SwitchControl,
    control_kinds,
)
from circuits.fourier.switchboard import Switches
from circuits.fourier.switches import Outcome
from workbench.record import Record

DRAWS, UNTRAINED_DRAWS = 5, 2
"""Of each control."""
SHORT = {OTHER_PARTS: "others", RANDOM: "random", UNTRAINED: "untrained"}
"""The controls, as charts have room for them."""
RIGHT, AS_PREDICTED = "Right answers", "As predicted"


def seed_of(record: Record | None) -> int:
    """The seed that the parts were named with."""
    seed = None if record is None else record.parameters.get("seed")
    return seed if isinstance(seed, int) else 0


def draw(network: Network) -> None:
    """Draw the switches and everything that hangs on them."""
    record = whole_explanation(network)
    seed = seed_of(record)
    with st.spinner("Naming the parts on the training pairs..."):
        board(network, seed)
    grid = grid_of(network, seed)
    _carry_clicked(network)
    presets = st.container()
    left, right = st.columns([1.15, 1], gap="small")
    with left:
        switches = draw_switches(grid)
    with presets:  # after the switches, whose values an address brings when they are drawn
        draw_presets(grid)
    found = switched(network, seed, switches)
    with right:
        _map(network, seed, switches)
    sentence = st.empty()
    sentence.markdown(_said(network, seed, grid, switches, found, None, record))
    left, right = st.columns([1.15, 1], gap="medium")
    with left:
        numbers = st.container()
    with right:
        _one_input(network, seed, switches)
    if grid.rows:
        parts_planes.draw(network, seed, grid, switches)
    with numbers:
        controls = _controls(network, seed, switches)
        _bars(network, found, controls)
    sentence.markdown(_said(network, seed, grid, switches, found, controls, record))


def _said(
    network: Network,
    seed: int,
    grid: Grid,
    switches: Switches,
    found: Outcome,
    controls: tuple[SwitchControl, ...] | None,
    record: Record | None,
) -> str:
    said, own = prediction(network, seed, switches), before(network, seed)
    return parts_words.sentence(grid, switches, said, own, found, controls, record)


# ---------------------------------------------------------------------- the map


def _map(network: Network, seed: int, switches: Switches) -> None:
    """Where the network is right, or as predicted, over all inputs."""
    options = (RIGHT, AS_PREDICTED)
    shown = st.segmented_control(
        "Map of",
        options,
        default=RIGHT,
        required=True,
        key="parts_map",
        bind="query-params",
        label_visibility="collapsed",
        help="As predicted: the answer that the formula gives with these switches. Where it says "
        "chance: inputs that were right and no longer are.",
    )
    if shown == AS_PREDICTED and switched(network, seed, switches).as_predicted is None:
        st.caption("Nothing is predicted while heads are off.")
        shown = RIGHT
    chart = _map_of(network, seed, switches, shown or RIGHT)
    show(chart, key="parts_input", select=True, height=310)


@remembered
def _map_of(network: Network, seed: int, switches: Switches, shown: str) -> HeatMap:
    """Kept, as the browser's picture of a chart is kept with the chart."""
    found = switched(network, seed, switches)
    values = found.right if shown == RIGHT else found.as_predicted
    assert values is not None
    return accuracy_map(network, values, shown)


def accuracy_map(network: Network, values: Bool[Tensor, " batch"], shown: str) -> HeatMap:
    """Truth values over all inputs: whether right, or whether as predicted."""
    inputs = network.task.domain()
    cyclic = network.task.cyclic()
    assert cyclic is not None
    names = tuple(map(str, cyclic.elements.tolist()))
    share = float(values.double().mean())
    return HeatMap(
        name=f"parts-{shown.split()[0].lower()}",
        alt=f"{shown} over all {len(inputs):,} inputs with the switches set: {share:.2%} of them.",
        values=values.reshape(len(names), -1),
        rows=names,
        columns=names,
        row_axis="a",
        column_axis="b",
        measure="right" if shown == RIGHT else "as predicted",
        scale="right_wrong",
        words=("right", "wrong") if shown == RIGHT else ("predicted", "other"),
    )


def _carry_clicked(network: Network) -> None:
    """A cell that was clicked becomes the input, once."""
    chosen, slot = chosen_of("parts_input"), "parts_carried"
    if chosen is not None and chosen != st.session_state.get(slot, chosen):
        inputs = network.task.domain()
        if chosen < len(inputs):
            carry(network, "clean", tuple(inputs[chosen].tolist()))
    st.session_state[slot] = chosen


# ---------------------------------------------------------------------- controls


def _controls(network: Network, seed: int, switches: Switches) -> tuple[SwitchControl, ...]:
    """The controls, a draw at a time, so that a click need not wait for them all."""
    kinds = control_kinds(switches)
    made = []
    with st.spinner("Setting the same switches elsewhere, as a control..."):
        for kind in kinds:
            draws: list[ControlDraw] = []
            for draw in range(UNTRAINED_DRAWS if kind == UNTRAINED else DRAWS):
                _ = "parts_map" in st.session_state  # where Streamlit lets a click interrupt
                one = elsewhere(network, seed, switches, kind, draw)
                if one is None:
                    break
                draws.append(one)
            if draws:
                made.append(SwitchControl(name=kind, draws=tuple(draws)))
    return tuple(made)


def _bars(network: Network, found: Outcome, controls: tuple[SwitchControl, ...]) -> None:
    """Every number beside its controls."""
    if not controls:
        st.caption("Set a switch: what it does appears here, beside the same done elsewhere.")
        return
    measures = [("right", found.accuracy, 0)]
    if found.share is not None:
        measures.append(("as predicted", found.share, 1))
    if found.lost is not None:
        measures.append(("amplitude lost", found.lost, 2))
    own = Series(name="named", y=tuple(value for _, value, _ in measures))
    chart = BarChart(
        name="parts-controls",
        alt="What the switches did at the named parts, beside the same at other places: "
        + ", ".join(f"{name} {value:.1%}" for name, value, _ in measures),
        names=tuple(name for name, _, _ in measures),
        series=(own, *(_control_series(one, [i for _, _, i in measures]) for one in controls)),
        x_axis="",
        y_axis="share",
        y_range=(0.0, 1.0) if found.lost is None or 0 <= found.lost <= 1.05 else None,
    )
    show(chart, key="parts_bars", height=260)
    st.caption(
        f"n = {len(found.right):,} inputs, all there are. Controls: mean of {DRAWS} draws "
        f"({UNTRAINED_DRAWS} untrained networks), from the lowest to the highest.",
        help=help_of("control", "amplitude"),
    )


def _control_series(control: SwitchControl, columns: list[int]) -> Series:
    values = [[value for one in control.draws if (value := one[i]) is not None] for i in columns]
    return Series(
        name=SHORT[control.name],
        y=tuple(sum(some) / len(some) if some else None for some in values),
        low=tuple(min(some) if some else None for some in values),
        high=tuple(max(some) if some else None for some in values),
        dash="dashed",
    )


# ---------------------------------------------------------------------- one input


def _one_input(network: Network, seed: int, switches: Switches) -> None:
    """What the switches do to the chosen input."""
    task = network.task
    chosen = input_choice(network, "clean")
    own = logits_on(network, seed, Switches(), chosen)
    now = logits_on(network, seed, switches, chosen)
    right = int(task.solve(torch.tensor([chosen]))[0, 0])
    expected = predicted_on(network, seed, switches, chosen)
    answers = st.columns(4)
    answers[0].metric("Right", right, help=help_of("answer"))
    answers[1].metric("Before", int(own.argmax()), help="The answer with every part on.")
    shown = " or ".join(map(str, expected[:3])) + (" ..." if len(expected) > 3 else "")
    answers[2].metric("Predicted", shown or "-", help="What the formula says with these switches.")
    answers[3].metric("After", int(now.argmax()), help="The answer with the switches set.")
    cyclic = task.cyclic()
    assert cyclic is not None
    elements = cyclic.elements
    marks = ((float(expected[0]), "predicted"),) if expected else ()
    chart = LineChart(
        name="parts-logits",
        alt=f"Logits of {text_of(task, chosen)} before and after: the answer was "
        f"{int(own.argmax())} and is {int(now.argmax())}.",
        x=tuple(float(x) for x in elements.tolist()),
        series=(
            Series(name="before", y=_centred(own[elements]), dash="dashed"),
            Series(name="after", y=_centred(now[elements])),
        ),
        x_axis="answer",
        y_axis="logit, less its mean (nats)",
        marks=marks,
    )
    show(chart, key="parts_logits", height=230)


def _centred(logits: Tensor) -> tuple[float | None, ...]:
    return tuple((logits - logits.mean()).tolist())

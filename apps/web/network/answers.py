"""What the network answers: a map over all inputs, or shares by kind of input, and one input."""

from dataclasses import replace

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, Series
from apps.web.charts.show import choose, chosen_of, show
from apps.web.choice import Network
from apps.web.inputs import Operands, carry, operands, text_of
from apps.web.network.data import (
    answer_to,
    answers_of,
    carries,
    held_out_mask,
    measured_inputs,
)
from apps.web.shell import escaped
from apps.web.words import help_of
from circuits.neuron_maps import Grid, operand_grid
from workbench.answers import Share, share_by
from workbench.task import Task

MAP = "network_map"
"""Key of the accuracy map; its rows are the domain, in order."""
_SEEN = "network_map_seen"
SHOWN = ("right or wrong", "margin")


def take_click(network: Network) -> None:
    """Make a clicked cell of the map the input looked at. Call it before the input's box."""
    grid = grid_of(network.task)
    if grid is None:
        return
    chosen, there = chosen_of(MAP), operands(network, "clean")
    first = _SEEN not in st.session_state
    if chosen is None or chosen == st.session_state.get(_SEEN) or (first and there is not None):
        return
    if chosen < len(grid.a) * len(grid.b):
        row, column = divmod(chosen, len(grid.b))
        carry(network, "clean", (grid.a[row], grid.b[column]))


def follow_box(network: Network) -> None:
    """Choose the cell of the input in the box, if any. Call it after the box, before the map."""
    grid, there = grid_of(network.task), operands(network, "clean")
    wanted = None
    if grid is not None and there is not None:
        wanted = grid.a.index(there[0]) * len(grid.b) + grid.b.index(there[1])
    # A cell that was clicked a second time is chosen no more, and stays so.
    if grid is not None and chosen_of(MAP) != wanted and st.session_state.get(_SEEN, -1) != wanted:
        choose(MAP, wanted)
    st.session_state[_SEEN] = wanted


def draw_input(network: Network, clean: Operands) -> None:
    """One input: the answer given, the right one, the margin, and whether it was trained on."""
    answers = answer_to(network, clean)
    given, right = given_text(network.task, answers.given[0]), _right_text(network.task, clean)
    margin = float(answers.least_margin[0])
    said = f"answers **{escaped(given)}**"
    said += ", which is right" if given == right else f"; right is **{escaped(right)}**"
    st.markdown(
        f"{escaped(text_of(network.task, clean))} {said}. Margin {margin:+.2f} nats; "
        f"{_trained_on(network, clean)}."
    )


def draw_answers(network: Network) -> None:
    """The map over all inputs, or shares by number of carries and by position."""
    if grid_of(network.task) is None:
        _draw_shares(network)
    else:
        _draw_map(network)


def _draw_map(network: Network) -> None:
    place, words = st.columns([2, 5], vertical_alignment="center")
    shown = place.segmented_control(
        "Shown for every input",
        SHOWN,
        default=SHOWN[0],
        required=True,
        key="network_shown",
        bind="query-params",
        label_visibility="collapsed",
    )
    with st.spinner("Answering every input with this checkpoint…", show_time=True):
        chart = answer_map(network, shown == SHOWN[1])
    answers = answers_of(network)
    wrong = int((~answers.all_right).sum())
    least, most = (float(one) for one in answers.least_margin.aminmax())
    words.caption(
        f"{len(answers.right):,} inputs, {wrong:,} answered wrongly; margins from {least:+.2f} to "
        f"{most:+.2f} nats. Click an input, or choose it in the table: it becomes the input looked "
        "at here and on the other pages.",
        help=help_of("margin"),
    )
    show(chart, key=MAP, select=True)


@remembered
def answer_map(network: Network, margins: bool) -> HeatMap:
    """Right and wrong, or the margin, over a (downwards) and b."""
    task, answers = network.task, answers_of(network)
    grid = grid_of(task)
    assert grid is not None, task.label
    shape = (len(grid.a), len(grid.b))
    right = answers.all_right
    found = f"{int(right.sum()):,} of {len(right):,} inputs are answered rightly"
    chart = HeatMap(
        name="right-and-wrong",
        alt=f"Right and wrong answers over the operands a and b: {found}.",
        values=right.reshape(shape),
        rows=tuple(map(str, grid.a)),
        columns=tuple(map(str, grid.b)),
        row_axis="a",
        column_axis="b",
        measure="answered rightly",
        scale="right_wrong",
        details=(("answer", tuple(given_texts(task, answers.given))),),
    )
    if not margins:
        return chart
    return replace(
        chart,
        name="margins",
        alt=f"Margin of the right answer over the operands a and b: {found}.",
        values=answers.least_margin.reshape(shape),
        measure="margin (nats)",
        scale="signed",
    )


def _draw_shares(network: Network) -> None:
    """Where inputs cannot be listed: by number of carries, and by answer token."""
    distributions = network.task.distributions
    drawn = distributions[0]
    if len(distributions) > 1:
        drawn = st.segmented_control(
            "Inputs drawn",
            distributions,
            default=drawn,
            required=True,
            key="network_drawn",
            bind="query-params",
            help="`uniform`: all inputs are as likely. `carry_heavy`: long chains of carries are "
            "common.",
        )
    with st.spinner("Answering 10,000 sampled inputs…", show_time=True):
        charts = share_charts(network, drawn)
    st.caption(
        f"{size_text(network.task)} inputs are too many for a map: these are "
        f"{len(answers_of(network, drawn).right):,} drawn ones, with 95 % intervals."
    )
    for chart in charts:
        key = f"network_{chart.name}".replace("-", "_")
        show(chart, key=key, height=260, open_table=True)


@remembered
def share_charts(network: Network, distribution: str) -> tuple[BarChart, ...]:
    """Shares of right answers by what makes a sum hard, where the task says, and by position."""
    task, answers = network.task, answers_of(network, distribution)
    columns = torch.arange(answers.right.shape[1]).expand_as(answers.right)
    by_token = _share_chart(
        "accuracy-by-position",
        "answer token, in the order of writing",
        share_by(answers.right.flatten(), columns.flatten()),
        first=1,
    )
    inputs = measured_inputs(task, distribution)
    if not any(name.startswith("carry_") for name in task.variables(inputs[:1])):
        return (by_token,)
    by_carries = _share_chart(
        "accuracy-by-carries",
        "columns that receive a carry",
        share_by(answers.all_right, carries(task, inputs)),
        first=0,
    )
    return by_carries, by_token


def _share_chart(name: str, axis: str, shares: list[Share], *, first: int) -> BarChart:
    ends = [one.interval or (one.value, one.value) for one in shares]
    lowest = min(shares, key=lambda one: one.value)
    return BarChart(
        name=name,
        alt=f"Share of right answers by {axis}: at least {lowest.value:.1%}.",
        names=tuple(f"{one.group + first} (n = {one.n:,})" for one in shares),
        series=(
            Series(
                name="share right",
                y=tuple(one.value for one in shares),
                low=tuple(end[0] for end in ends),
                high=tuple(end[1] for end in ends),
            ),
        ),
        x_axis=axis,
        y_axis="share of right answers",
        y_range=(0.0, 1.0),
    )


@remembered
def grid_of(task: Task) -> Grid | None:
    """The operands' grid, or None where the task has none."""
    return operand_grid(task)


def size_text(task: Task) -> str:
    """How many inputs a task has."""
    return f"{task.domain_size:,}" if task.domain_size < 1e12 else f"{task.domain_size:.0e}"


def given_text(task: Task, given: torch.Tensor) -> str:
    """An answer as a person writes it."""
    return given_texts(task, given[None])[0]


def given_texts(task: Task, given: torch.Tensor) -> list[str]:
    """Answers as a person writes them; token by token where one is no answer at all."""
    texts = task.answer_text(given.clamp(max=task.n_answer_tokens - 1))
    odd = (given >= task.n_answer_tokens).any(1)
    for row in odd.nonzero()[:, 0].tolist():
        texts[row] = " ".join(token_text(task, int(one)) for one in given[row])
    return texts


def token_text(task: Task, token: int) -> str:
    """An output token; those that are no answer in the words of the input vocabulary."""
    if token < len(task.vocabulary) and token >= task.n_answer_tokens:
        return f"token {task.vocabulary[token]!r}"
    return str(token)


def _right_text(task: Task, clean: Operands) -> str:
    return task.answer_text(task.solve(torch.tensor([clean])))[0]


def _trained_on(network: Network, clean: Operands) -> str:
    config, task = network.run.config, network.task
    if config.seed is None or config.train_fraction is None:
        return "whether it was trained on is not known"
    grid = grid_of(task)
    if grid is None:
        mask = task.held_out_mask(
            torch.tensor([clean]), seed=config.seed, train_fraction=config.train_fraction
        )
        if not bool(mask[0]):  # of so many that hardly any one was drawn
            return "not held out: training draws from such inputs"
        held_out = True
    else:
        row = grid.a.index(clean[0]) * len(grid.b) + grid.b.index(clean[1])
        held_out = bool(held_out_mask(task, config.seed, config.train_fraction)[row])
    return "a held-out input" if held_out else "a training input"

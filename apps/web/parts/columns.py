"""The Parts page of a network that adds digit by digit: heads that bring digits and carries."""

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.charts.chart import BarChart, HeatMap, Series
from apps.web.charts.show import show
from apps.web.choice import Network, subject
from apps.web.inputs import input_choice, text_of
from apps.web.parts.data import whole_explanation
from apps.web.shell import escaped
from apps.web.words import help_of
from circuits.digit_columns import all_heads, answer_index
from circuits.digit_switches import (
    IDLE,
    NAMED,
    UNTRAINED,
    HeadOutcome,
    HeadSwitch,
    OneAnswer,
    head_name,
    head_outcomes,
    named_switch,
    one_answer,
    shares_by_head,
    variable_of,
    variables_of,
)
from circuits.mechanisms.column_addition import OTHER_HEADS
from workbench.errors import PairError
from workbench.record import Record
from workbench.tasks.digit_addition import DigitAddition

PAIRS, DRAWS, SEED = 200, 5, 1
"""Drawn anew, apart from the pairs that the heads were named on."""


def draw(network: Network) -> None:
    """Draw the variable, its heads, what patching them changes, and the controls."""
    record = whole_explanation(network)
    switch = _switches(network, record)
    with st.spinner("Patching the heads, and others as a control..."):
        found = _outcomes(network, switch)
    st.markdown(_sentence(network, switch, found))
    left, right = st.columns([1.3, 1], gap="medium")
    with left:
        show(_changes(network, switch, found), key="parts_changes", height=260)
    with right:
        show(_bars(found), key="parts_bars", height=260)
    st.caption(
        f"n = {found[0].n} pairs. Controls: {DRAWS} draws of as many other heads, in the mean and "
        "from the lowest to the highest; the same heads patched from idle twins, in which the "
        "variable is the same; an untrained network.",
        help=help_of("control"),
    )
    _one_input(network, switch)
    st.subheader("Each head alone")
    with st.spinner("Patching every head for every variable..."):
        chart = _overview(network)
    names = [one.name for one in variables_of(subject(network))]
    at = show(chart, key="parts_overview", select=True, height=420)
    if at is not None:
        st.button(
            f"Look at {names[at // len(chart.columns)]}",
            on_click=lambda: _choose_variable(names[at // len(chart.columns)]),
        )


def named_heads(network: Network, record: Record | None, variable: str) -> HeadSwitch:
    """The heads that bring a variable: as the record names them, or named here and now."""
    parts = {} if record is None else record.result.get("parts")
    rows = parts.get("variables") if isinstance(parts, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("variable") == variable:
            heads = row.get("heads")
            known = {head_name(head) for head in all_heads(subject(network))}
            if isinstance(heads, list) and known.issuperset(map(str, heads)):
                return HeadSwitch(variable=variable, heads=tuple(map(str, heads)))
    return _named(network, variable)


def _switches(network: Network, record: Record | None) -> HeadSwitch:
    names = [one.name for one in variables_of(subject(network))]
    every = [head_name(head) for head in all_heads(subject(network))]
    if st.session_state.get("parts_variable") not in (None, *names):
        st.session_state["parts_variable"] = names[0]
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        variable = st.selectbox(
            "What differs in the twin",
            names,
            key="parts_variable",
            bind="query-params",
            width=220,
            help="a_k and b_k are the digits worth 10^k; carry_k is the carry into that column.",
        )
        named = named_heads(network, record, variable)
        heads = _heads(named, every)
    return HeadSwitch(variable=variable, heads=heads)


def _heads(named: HeadSwitch, every: list[str]) -> tuple[str, ...]:
    """The heads that are patched: the named ones, unless others are chosen."""
    key, state = f"parts_h_{named.variable}", st.session_state
    if key in state and any(head not in every for head in state[key] or ()):
        state[key] = [head for head in state[key] if head in every]
    chosen = st.pills(
        f"Heads patched from the twin (named: {', '.join(named.heads) or 'none'})",
        every,
        default=list(named.heads),
        selection_mode="multi",
        key=key,
        bind="query-params",
        help="Where the answer digit of this column is predicted, and nowhere else.",
    )
    return tuple(head for head in every if head in chosen)


def _sentence(network: Network, switch: HeadSwitch, found: list[HeadOutcome]) -> str:
    own, others = found[0], [one for one in found[1:] if one.share is not None]
    column = variable_of(subject(network), switch.variable).column
    assert own.share is not None
    told = []
    for one in others:
        assert one.share is not None
        told.append(f"{escaped(one.name)} {float(one.share.mean()):.1%}")
    return (
        f"**Predicted:** answer digit {column} becomes the twin's, and no other changes.  \n"
        f"**What happened:** so it was in **{float(own.share[0]):.1%}** of {own.n} pairs.  \n"
        f"**Controls:** {'; '.join(told)}."
    )


SHORT = {NAMED: "these", OTHER_HEADS: "others", IDLE: "idle twins", UNTRAINED: "untrained"}
"""What is patched, as charts have room for it."""


def _changes(network: Network, switch: HeadSwitch, found: list[HeadOutcome]) -> HeatMap:
    task = network.task
    assert isinstance(task, DigitAddition)
    column = variable_of(subject(network), switch.variable).column
    by_digit = {answer_index(task, k): k for k in range(task.n_digits + 1)}
    columns = tuple(str(by_digit[i]) for i in range(task.n_digits + 1))
    return HeatMap(
        name="parts-changes",
        alt="Share of pairs in which each answer digit changed when heads were patched from a "
        f"twin with another {switch.variable}; digit {column} should change and no other.",
        values=torch.stack([one.changed.mean(0) for one in found]),
        rows=tuple(SHORT[one.name] for one in found),
        columns=columns,
        row_axis="heads patched",
        column_axis="answer digit (worth 10^k), as written",
        measure="share of pairs in which it changed",
        scale="share",
    )


def _bars(found: list[HeadOutcome]) -> BarChart:
    shares = [(one.name, one.share) for one in found if one.share is not None]
    many = [(name, share, len(share) > 1) for name, share in shares]
    return BarChart(
        name="parts-controls",
        alt="Share of pairs that were as predicted: "
        + ", ".join(f"{name} {float(share.mean()):.1%}" for name, share in shares),
        names=tuple(SHORT[name] for name, _ in shares),
        series=(
            Series(
                name="as predicted",
                y=tuple(float(share.mean()) for _, share in shares),
                low=tuple(float(share.min()) if more else None for _, share, more in many),
                high=tuple(float(share.max()) if more else None for _, share, more in many),
            ),
        ),
        x_axis="",
        y_axis="share as predicted",
        y_range=(0.0, 1.0),
    )


def _one_input(network: Network, switch: HeadSwitch) -> None:
    st.subheader("One input")
    clean = input_choice(network, "clean")
    try:
        one = _answer(network, switch, clean)
    except PairError as error:
        st.caption(escaped(str(error)))
        return
    task, cells = network.task, st.columns([2, 1, 1, 1])
    twin = tuple(one.twin[0].tolist())
    cells[0].metric("Twin", text_of(task, twin))
    cells[1].metric("Before", task.answer_text(one.before)[0])
    cells[2].metric("Predicted", task.answer_text(one.predicted)[0])
    cells[3].metric("After", task.answer_text(one.after)[0])


def _overview(network: Network) -> HeatMap:
    shares = _by_head(network)
    return HeatMap(
        name="parts-heads",
        alt="Share of pairs that are as predicted when one head alone is patched, for every "
        "variable and head.",
        values=shares,
        rows=tuple(one.name for one in variables_of(subject(network))),
        columns=tuple(head_name(head) for head in all_heads(subject(network))),
        row_axis="variable",
        column_axis="head",
        measure="share as predicted",
        scale="share",
    )


def _choose_variable(name: str) -> None:
    st.session_state["parts_variable"] = name


@remembered
def _named(network: Network, variable: str) -> HeadSwitch:
    return named_switch(subject(network), variable)


@remembered
def _outcomes(network: Network, switch: HeadSwitch) -> list[HeadOutcome]:
    return head_outcomes(subject(network), switch, n_pairs=PAIRS, n_draws=DRAWS, seed=SEED)


@remembered
def _answer(network: Network, switch: HeadSwitch, clean: tuple[int, ...]) -> OneAnswer:
    return one_answer(subject(network), switch, torch.tensor([clean]))


@remembered
def _by_head(network: Network) -> torch.Tensor:
    return shares_by_head(subject(network), n_pairs=100, seed=SEED)

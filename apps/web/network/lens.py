"""The logit lens: what would be answered after every layer, at every position."""

import re
from collections.abc import Sequence

import streamlit as st
from torch import Tensor

from apps.web.cache import remembered
from apps.web.charts.chart import HeatMap, Scale
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.inputs import Operands, as_inputs, text_of
from apps.web.network.answers import token_text
from apps.web.network.attention import blank_labels, position_labels
from apps.web.network.data import lens_accuracy, lens_of
from apps.web.words import help_of

MEASURES = ("probability", "rank", "logit", "share right, all inputs")
ALL = MEASURES[3]


def draw_lens(network: Network, clean: Operands) -> None:
    """Layer by position, for one answer token."""
    measures, tokens = st.columns([2, 1])
    measure = measures.segmented_control(
        "Measure of the right answer",
        MEASURES,
        default=MEASURES[0],
        required=True,
        key="network_lens",
        bind="query-params",
        help=f"{help_of('logit lens')}  \nRank 1 is what would be answered.",
    )
    answer = 0
    count = len(network.task.answer_positions)
    if count > 1:
        answer = tokens.selectbox(
            "Answer token",
            range(count),
            format_func=lambda i: str(i + 1),
            key="network_token",
            bind="query-params",
            help="The answer is written token by token; each is read at a position of its own.",
        )
    position = network.task.answer_positions[answer]
    if measure == ALL:
        with st.spinner("Reading every layer for every input…", show_time=True):
            found = lens_accuracy(network, answer)
        st.caption(
            f"Share of {'all ' if found.share.low is None else ''}{found.share.n:,} inputs "
            f"whose answer is already on top. Control: one fixed answer is right for "
            f"{found.constant:.2%}. The network itself answers at position {position}, last row."
        )
        show(accuracy_map(network, answer), key="network_lens_all")
        return
    wanted = int(network.task.solve(as_inputs(clean))[0, answer])
    st.caption(
        f"The right answer token of {text_of(network.task, clean)} is {wanted}. The network "
        f"answers at position {position}, last row. A guess among all answer tokens: "
        f"{1 / network.task.n_answer_tokens:.2%}."
    )
    show(lens_map(network, clean, answer, measure), key="network_lens_map")


@remembered
def lens_map(network: Network, operands: Operands, answer: int, measure: str) -> HeatMap:
    """One measure of the right answer token, after every part (downwards) and at every position."""
    read, task = lens_of(network, operands, answer), network.task
    text = text_of(task, operands)
    chosen: dict[str, tuple[Tensor, Scale, str]] = {
        "probability": (read.probability, "share", "probability of the right token"),
        "rank": (read.rank.double(), "size", "rank of the right token (1: on top)"),
        "logit": (read.logit, "signed", "logit of the right token (nats)"),
    }
    values, scale, words = chosen[measure]
    tops = tuple(token_text(task, int(one)) for one in read.top.flatten())
    return HeatMap(
        name=f"logit-lens-{measure}",
        alt=f"Logit lens on {text}: {words} after every part of the network, at every position.",
        values=values,
        rows=place_names(network, read.places),
        columns=position_labels(task, operands),
        row_axis="after",
        column_axis="position",
        measure=words,
        scale=scale,
        details=(
            ("would answer", tops),
            ("probability", tuple(f"{one:.4f}" for one in read.probability.flatten().tolist())),
            ("rank", tuple(str(one) for one in read.rank.flatten().tolist())),
            ("logit", tuple(f"{one:.3f}" for one in read.logit.flatten().tolist())),
        ),
    )


@remembered
def accuracy_map(network: Network, answer: int) -> HeatMap:
    """Share of inputs whose answer is on top, after every part and at every position."""
    found = lens_accuracy(network, answer)
    return HeatMap(
        name="logit-lens-accuracy",
        alt="Share of inputs whose answer the logit lens already has on top, after every part of "
        "the network, at every position.",
        values=found.share.mean,
        rows=place_names(network, found.places),
        columns=blank_labels(network.task),
        row_axis="after",
        column_axis="position",
        measure="share of inputs",
        scale="share",
        low=found.share.low,
        high=found.share.high,
    )


def place_names(network: Network, hooks: Sequence[str]) -> tuple[str, ...]:
    """Places of the lens in words: `embedding`, `attention 0`, `MLP 0`."""
    last = "MLP" if network.run.config.model.d_mlp else "attention"
    words = {"mid": "attention", "post": last}
    names = []
    for hook in hooks:
        match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)", hook)
        assert match is not None, hook
        layer, part = match.groups()
        names.append("embedding" if part == "pre" else f"{words[part]} {layer}")
    return tuple(names)

"""Where every head looks, for one input and in the mean over all of them."""

from collections.abc import Sequence

import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

from apps.web.cache import remembered
from apps.web.charts.chart import Gallery, HeatMap
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.inputs import Operands, as_inputs, text_of
from apps.web.network.data import attention_to, mean_attention
from apps.web.words import help_of
from circuits.reading import head_names
from workbench.task import Task

MANY = 12
"""Positions from which on a pattern is drawn no taller than wide."""
VIEWS = ("this input", "mean over inputs")


def draw_attention(network: Network, clean: Operands) -> None:
    """All heads side by side; the clicked one in large, for this input beside the mean."""
    shown = st.segmented_control(
        "Attention of",
        VIEWS,
        default=VIEWS[0],
        required=True,
        key="network_attention",
        bind="query-params",
        help=help_of("attention"),
    )
    st.caption(
        "Rows ask, columns are looked at. Click a head, or choose it in the table, for more."
    )
    heads = head_names(network.run.config.model)
    if shown == VIEWS[0]:
        chart = one_input_gallery(network, clean)
    else:
        with st.spinner("Running every input through the heads…", show_time=True):
            chart = mean_gallery(network)
    chosen = show(chart, key="network_heads", select=True) or 0
    st.subheader(f"Head {heads[chosen]}")
    left, right = st.columns(2)
    tall = 330 if network.task.n_ctx >= MANY else None
    with left:
        st.caption(f"This input: {text_of(network.task, clean)}")
        show(one_input_gallery(network, clean).maps[chosen], key="network_head_input", height=tall)
    with right, st.spinner("Running every input through the heads…", show_time=True):
        mean = mean_gallery(network)
        st.caption(_mean_words(network))
        show(mean.maps[chosen], key="network_head_mean", height=tall)
    summary = mean_attention(network)
    varied = ", ".join(f"{float(one):.2f}" for one in summary.variation[chosen])
    st.caption(
        "How much of its attention moves with the input, by asking position (0: always the same "
        f"place, 1: as far as can be): {varied}."
    )


@remembered
def one_input_gallery(network: Network, operands: Operands) -> Gallery:
    """Every head's pattern on one input."""
    text = text_of(network.task, operands)
    labels = position_labels(network.task, operands)
    return _gallery(
        head_names(network.run.config.model),
        attention_to(network, operands),
        labels,
        name="attention",
        on=f"on the input {text}",
    )


@remembered
def mean_gallery(network: Network) -> Gallery:
    """Every head's pattern in the mean, with intervals where the inputs are a sample."""
    summary = mean_attention(network)
    weight = summary.weight
    low, high = (None if end is None else end.cpu() for end in (weight.low, weight.high))
    return _gallery(
        summary.heads,
        weight.mean.cpu(),
        blank_labels(network.task),
        name="mean-attention",
        on=f"in the mean over {weight.n:,} inputs",
        ends=None if low is None or high is None else (low, high),
    )


def position_labels(task: Task, operands: Operands) -> tuple[str, ...]:
    """Positions with their tokens: `0: 37`."""
    vocabulary = task.vocabulary
    tokens = task.encode(as_inputs(operands))[0].tolist()
    return tuple(f"{at}: {vocabulary[token]}" for at, token in enumerate(tokens))


def blank_labels(task: Task) -> tuple[str, ...]:
    """Positions with what is common to all inputs: `2: =`, and a dot for what differs."""
    vocabulary, tokens = task.vocabulary, task.encode(task.sample(64, _generator()))
    same = (tokens == tokens[:1]).all(0).tolist()
    first = tokens[0].tolist()
    return tuple(
        f"{at}: {vocabulary[token]}" if always else f"{at}: ·"
        for at, (token, always) in enumerate(zip(first, same, strict=True))
    )


def _gallery(
    heads: Sequence[str],
    patterns: Float[Tensor, "head query key"],
    labels: tuple[str, ...],
    *,
    name: str,
    on: str,
    ends: tuple[Tensor, Tensor] | None = None,
) -> Gallery:
    maps = tuple(
        HeatMap(
            name=f"{name}-{head.replace('.', '-')}",
            alt=f"Attention of head {head} {on}: asking position by position looked at.",
            values=patterns[i],
            rows=labels,
            columns=labels,
            row_axis="asking",
            column_axis="looked at",
            measure="attention (share)",
            scale="share",
            low=None if ends is None else ends[0][i],
            high=None if ends is None else ends[1][i],
        )
        for i, head in enumerate(heads)
    )
    return Gallery(
        name=f"{name}-of-heads",
        alt=f"Attention of {len(maps)} heads {on}.",
        maps=maps,
        titles=tuple(heads),
        details=(("looked at most from the last position", _most(patterns, labels)),),
    )


def _most(patterns: Float[Tensor, "head query key"], labels: Sequence[str]) -> tuple[str, ...]:
    last = patterns[:, -1]
    return tuple(f"{labels[int(one.argmax())]} ({float(one.max()):.2f})" for one in last.unbind(0))


def _mean_words(network: Network) -> str:
    n = mean_attention(network).weight.n
    return f"Mean over {'all ' if network.task.enumerable else ''}{n:,} inputs"


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

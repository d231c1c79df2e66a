"""The part behind a cell of the map: its effect pair by pair, what it reads, and what it writes."""

import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

from apps.web.charts.chart import BarChart, HeatMap, LineChart, Series
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.trace import part
from apps.web.trace.question import AskedQuestion, pairs_of
from apps.web.trace.sweep import Cell, Swept, unit_of
from apps.web.words import help_of
from circuits.reading import Average
from workbench.positions import position_names

MEAN = "all pairs, in the mean"
MOST_BARS = 30
"""Writers in one chart; further ones are in the table of heads on the Network page."""
TOP_NEURONS = 12


def draw_effect(network: Network, found: Swept, index: int) -> None:
    """What the cell is, its effect with its place among all cells, and the effect pair by pair."""
    cell, row, sweep = found.cells[index], found.row(index), found.sweep
    st.subheader(escaped(_capital(cell.name(found.positions))), anchor=False)
    sizes = sweep.mean.abs().flatten()
    place = int((sizes > sizes[index]).sum()) + 1
    tested = row["low"] is not None  # of one pair there is neither interval nor test
    ends = f" [{row['low']:.3g}, {row['high']:.3g}]" if tested else ""
    q = f"q = {row['q']:.2g}" if tested else "too few for an interval or a test"
    st.markdown(
        f"Effect **{row['effect']:+.3g} {unit_of(sweep.metric)}**"
        + escaped(
            f"{ends} over {sweep.n} pair{'s' * (sweep.n > 1)}, {q}; "
            f"place {place} of {len(found.cells)} by size."
        ),
        help=help_of("effect", "interval", "q-value"),
    )
    _draw_membership(network, cell)
    if sweep.n > 1:
        show(pairs_chart(found, index), key="trace_pairs_of_cell", height=240)


def draw_part(network: Network, asked: AskedQuestion, found: Swept, index: int) -> None:
    """What the part reads and writes: in the mean over pairs, or on one pair."""
    cell = found.cells[index]
    if not cell.components:
        _draw_lens(network, asked, cell, found.positions)
        return
    pair = _draw_pair_choice(network, asked)
    if cell.head is not None:
        _draw_attention(network, asked, found, cell, pair)
    left, right = st.columns(2, gap="medium")
    with left:
        wrote = part.written(network, asked, cell.position, pair)
        if wrote is None:
            _say_not_read(network, cell, found.positions)
            return
        _draw_written(found, cell, wrote)
    with right:
        if cell.components == (f"m{cell.layer}",):
            _draw_neurons(network, asked, cell, pair)
        else:
            _draw_promoted(network, asked, cell, pair)


def pairs_chart(found: Swept, index: int) -> LineChart:
    """Effects of all pairs in ascending order, beside the mean effect of all other cells."""
    effects = found.sweep.effects.flatten(0, -2) if found.sweep.effects.ndim > 1 else None
    assert effects is not None
    others = (effects.sum(0) - effects[index]) / max(1, len(effects) - 1)
    n, name = found.sweep.n, found.cells[index].name(found.positions)
    series = [Series(name=name, y=_ascending(effects[index]))]
    if len(effects) > 1:
        series.append(Series(name="mean of the other cells", y=_ascending(others), dash="dashed"))
    return LineChart(
        name="effects-by-pair",
        alt=f"Effect of patching {name} on each of {n} pairs, in ascending order, beside the mean "
        "effect of the other cells.",
        x=tuple(map(float, range(1, n + 1))),
        series=tuple(series),
        x_axis="pairs, in ascending order",
        y_axis=f"effect ({unit_of(found.sweep.metric)})",
    )


def attention_chart(
    pattern: Float[Tensor, "query key"], positions: tuple[str, ...], head: str, which: str
) -> HeatMap:
    """Where a head looks."""
    return HeatMap(
        name=f"attention-{head.replace('.', '-')}-{which}",
        alt=f"Attention of {head} on the {which} input: each position by what it looks at.",
        values=torch.where(_visible(pattern), pattern, torch.nan),
        rows=positions,
        columns=positions,
        row_axis="looks from",
        column_axis="at",
        measure="attention",
        scale="share",
    )


def written_chart(wrote: part.Written) -> BarChart:
    """What every writer adds to the logit difference, the largest ones."""
    order = wrote.added.mean.abs().sort(descending=True, stable=True).indices[:MOST_BARS]
    chosen = sorted(order.tolist())
    return BarChart(
        name="direct-logit-attribution",
        alt="What each part adds by itself to the answer's logit over the wrong answer's.",
        names=tuple(wrote.writers[i] for i in chosen),
        series=(_bars("adds", wrote.added, chosen),),
        x_axis="part",
        y_axis="direct logit attribution (nats)",
    )


def _draw_membership(network: Network, cell: Cell) -> None:
    """Add the part to the circuit, or say that it is in."""
    from apps.web.trace.draft import members, said

    if not cell.components:
        st.caption("A residual stream is no part of a circuit: it is the sum of what parts wrote.")
        return
    told = said()
    if told is not None and told[0] != "success":
        st.warning(escaped(told[1]))
    missing = [name for name in cell.components if name not in members(network)]
    with st.container(horizontal=True, vertical_alignment="center"):
        if missing:
            st.button(
                f"Add {_together(missing)} to the circuit",
                key="trace_add",
                icon=":material/add:",
                type="primary",
                help=help_of("circuit"),
                on_click=_add,
                args=(network, tuple(missing)),
            )
        else:
            words = f"{_together(cell.components)} in the circuit"
            st.badge(words, icon=":material/check:", color="green")
        n = len(members(network))
        if n:
            st.button(
                f"Test the circuit of {n} part{'s' * (n > 1)}",
                key="trace_to_circuit",
                icon=":material/arrow_forward:",
                help="Opens the Circuit section: how faithful is what you have added so far?",
                on_click=_open_circuit,
            )


def _open_circuit() -> None:
    st.session_state["trace_section"] = "Circuit"


def _add(network: Network, names: tuple[str, ...]) -> None:
    from apps.web.trace.draft import add_component

    for name in names:
        add_component(network, name)


def _draw_pair_choice(network: Network, asked: AskedQuestion) -> int | None:
    """Which pair is looked at; None for all of them."""
    pairs = pairs_of(network, asked)
    if len(pairs) == 1:
        return 0
    sides = zip(network.task.text(pairs.clean), network.task.text(pairs.corrupted), strict=True)
    texts = [f"{i}: {clean} / {corrupted}" for i, (clean, corrupted) in enumerate(sides, start=1)]
    chosen = st.selectbox(
        "What it reads and writes on",
        [MEAN, *texts],
        key="trace_example",
        bind="query-params",
        help="Clean / corrupted. One pair shows its tokens and the answers that are promoted.",
    )
    return None if chosen == MEAN else texts.index(chosen)


def _draw_attention(
    network: Network, asked: AskedQuestion, found: Swept, cell: Cell, pair: int | None
) -> None:
    head, pairs = cell.components[0], pairs_of(network, asked)
    words = network.task.vocabulary
    for column, corrupted in zip(st.columns(2, gap="medium"), (False, True), strict=True):
        which = "corrupted" if corrupted else "clean"
        pattern = part.attention_of(network, asked, head, pair, corrupted=corrupted)
        positions = position_names(network.task)
        text = f"mean over {len(pairs)} {which} inputs"
        if pair is not None:
            tokens = pairs.corrupted_tokens if corrupted else pairs.clean_tokens
            positions = tuple(f"{i} {words[one]}" for i, one in enumerate(tokens[pair].tolist()))
            inputs = pairs.corrupted if corrupted else pairs.clean
            text = f"{which}: {network.task.text(inputs[pair : pair + 1])[0]}"
        with column:
            st.markdown(f"**Where it looks**, {escaped(text)}")
            chart = attention_chart(pattern.cpu(), positions, head, which)
            height = max(240, 22 * len(positions) + 110)
            show(chart, key=f"trace_attention_{which}", height=height)


def _draw_written(found: Swept, cell: Cell, wrote: part.Written) -> None:
    own = sum(map(wrote.of, cell.components))
    others = wrote.of_other_heads(cell.components)
    beside = "" if others is None else f"; the other heads {others:+.3g} in the mean"
    st.markdown(
        escaped(
            f"{_together(cell.components)} writes {own:+.3g} nats to the answer over the wrong "
            f"answer{beside}. All parts together: {wrote.total:+.3g}, the logit difference."
        ),
        help=help_of("direct logit attribution"),
    )
    show(written_chart(wrote), key="trace_written", height=280)


def _draw_promoted(network: Network, asked: AskedQuestion, cell: Cell, pair: int | None) -> None:
    if pair is None:
        _draw_named(network, asked, cell)
        return
    found = part.promoted(network, asked, cell.components, cell.position, pair)
    if found is None:
        return
    st.markdown(
        escaped(
            f"Of all answers, {_together(cell.components)} promotes these most. The right one, "
            f"{found.answer}, is in place {found.rank} of {network.task.n_answer_tokens}."
        )
    )
    series = [Series(name=_together(cell.components), y=found.added)]
    if not any(value != value for value in found.by_others):
        series.append(Series(name="mean of the other heads", y=found.by_others, dash="dashed"))
    chart = BarChart(
        name="promoted-answers",
        alt=f"Answer tokens that {_together(cell.components)} promotes most, at position "
        f"{found.at}.",
        names=found.tokens,
        series=tuple(series),
        x_axis="answer token",
        y_axis="logit above the mean token",
    )
    show(chart, key="trace_promoted", height=280)


def named_chart(named: part.Named, chance: float) -> BarChart:
    """How often parts name the right answer by themselves, beside chance."""
    chosen = [i for i, name in enumerate(named.writers) if _is_part(name)]
    names = tuple(named.writers[i] for i in chosen)
    return BarChart(
        name="names-the-answer",
        alt="By part: the share of right answers that it promotes above all others, by itself.",
        names=names,
        series=(
            _bars("by itself", named.share, chosen),
            Series(name="chance", y=(chance,) * len(names), dash="dashed"),
        ),
        x_axis="part",
        y_axis="share of right answers",
        y_range=(0.0, 1.0),
    )


def _draw_named(network: Network, asked: AskedQuestion, cell: Cell) -> None:
    named = part.names_the_answer(network, asked, cell.position)
    assert named is not None
    st.markdown("How often a part promotes the right answer above all others, all by itself.")
    chance = 1 / network.task.n_answer_tokens
    show(named_chart(named, chance), key="trace_promoted", height=280)


def _draw_neurons(network: Network, asked: AskedQuestion, cell: Cell, pair: int | None) -> None:
    added = part.neurons(network, asked, cell.layer, cell.position, pair)
    assert added is not None
    sizes = added.mean.abs()
    order = sizes.sort(descending=True, stable=True).indices
    top = order[:TOP_NEURONS].tolist()
    if cell.neuron is None:
        text = f"The {len(top)} neurons of layer {cell.layer} that add most"
    else:
        place = order.tolist().index(cell.neuron) + 1
        text = (
            f"Neuron {cell.layer}.{cell.neuron} adds {float(added.mean[cell.neuron]):+.3g} nats: "
            f"place {place} of {len(order)}"
        )
    st.markdown(
        escaped(f"{text}; all neurons add {float(sizes.mean()):.3g} nats in size, in the mean.")
    )
    chart = BarChart(
        name="neurons",
        alt=f"What the neurons of layer {cell.layer} that add most add to the answer's logit over "
        "the wrong answer's.",
        names=tuple(f"{cell.layer}.{i}" for i in top),
        series=(_bars("adds", added, top),),
        x_axis="neuron",
        y_axis="direct logit attribution (nats)",
    )
    show(chart, key="trace_neurons", height=280)


def _draw_lens(
    network: Network, asked: AskedQuestion, cell: Cell, positions: tuple[str, ...]
) -> None:
    scores = part.lens(network, asked)
    position = network.task.answer_positions[0] if cell.position is None else cell.position
    answers = part.answers_at(network, position) or part.answers_at(network, None)
    right = scores.correct[:, :, position][:, :, list(answers)].float().mean((1, 2))
    control = float(scores.constant_accuracy[list(answers)].mean())
    places = tuple(place.removeprefix("blocks.").replace(".hook_", " ") for place in scores.places)
    st.markdown(
        escaped(
            f"What the stream says at position {positions[position]}, read by the unembedding: the "
            "share of clean inputs whose right answer token is on top."
        ),
        help=help_of("logit lens"),
    )
    chart = BarChart(
        name="logit-lens",
        alt=f"Share of clean inputs whose answer is on top at position {position}, by place in "
        "the network, beside the best fixed answer.",
        names=places,
        series=(
            Series(name="answer on top", y=tuple(right.tolist())),
            Series(name="best fixed answer", y=(control,) * len(places), dash="dashed"),
        ),
        x_axis="layer and place",
        y_axis="share of clean inputs",
        y_range=(0.0, 1.0),
    )
    show(chart, key="trace_lens", height=280)


def _say_not_read(network: Network, cell: Cell, positions: tuple[str, ...]) -> None:
    assert cell.position is not None
    read_at = ", ".join(positions[at] for at in network.task.answer_positions)
    st.info(
        escaped(
            f"What is written at position {positions[cell.position]} reaches the logits through "
            f"later parts alone: answers are read at {read_at}."
        ),
        icon=":material/info:",
    )


def _bars(name: str, values: Average, chosen: list[int]) -> Series:
    def picked(column: Tensor | None) -> tuple[float, ...] | None:
        return None if column is None else tuple(column[chosen].tolist())

    mean = picked(values.mean)
    assert mean is not None
    return Series(name=name, y=mean, low=picked(values.low), high=picked(values.high))


def _ascending(values: Float[Tensor, " batch"]) -> tuple[float, ...]:
    return tuple(values.sort().values.tolist())


def _visible(pattern: Float[Tensor, "query key"]) -> Tensor:
    """Keys that a query may look at: hidden ones have weight zero exactly, above the diagonal."""
    above = torch.ones_like(pattern, dtype=torch.bool).triu(1)
    hidden = above & (pattern == 0)
    return ~hidden


def _is_part(name: str) -> bool:
    """Whether a writer is a head or an MLP."""
    return ".h" in name or (name.startswith("m") and name[1:].isdigit())


def _together(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

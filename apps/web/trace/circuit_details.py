"""The chosen node or edge of a circuit: its numbers by intervention, what can be done to it."""

from collections.abc import Sequence
from functools import partial

import streamlit as st
from torch import Tensor

from apps.web.charts.show import choose
from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.trace import draft
from apps.web.trace.circuit_numbers import Measured, edges_of, effect_of, faithfulness_of, without
from apps.web.trace.circuit_picture import Picture, edge_label, known_nodes
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import Operation, State, ends_of, group_of, touching
from apps.web.trace.draft_operations import MakeGroup, Pin, Remove, Rename, Ungroup
from apps.web.trace.question import AskedQuestion
from workbench.strict import LABEL

PART = "trace_part"
"""Key of the picture, and of what is chosen in it."""


def draw_details(
    network: Network,
    asked: AskedQuestion,
    state: State,
    picture: Picture,
    chosen: int | None,
    scores: tuple[Tensor, str] | None,
) -> None:
    """Draw what is chosen in the picture or its table."""
    if chosen is None or chosen >= len(picture.parts):
        st.caption("Click a node or an edge, in the picture or in its table, to look into it.")
        return
    nodes = picture.chart.nodes
    if chosen >= len(nodes):
        line = picture.chart.edges[chosen - len(nodes)]
        edges = picture.parts[chosen]
        name = edges[0] if len(edges) == 1 else f"{line.writer}->{line.reader}"
        _draw_edge(network, asked, state, name, edges, scores)
    elif nodes[chosen].kind == "group":
        _draw_group(network, asked, state, nodes[chosen].name, picture.parts[chosen])
    else:
        _draw_node(network, asked, state, nodes[chosen].name)


def told(found: Measured) -> str:
    """A number with its interval: `0.981 [0.95, 1.01]`."""
    return with_interval(found.value, found.interval)


def with_interval(value: float, interval: Sequence[float] | None) -> str:
    """A number as `0.981 [0.95, 1.01]`; without brackets where there is no interval."""
    return _short(value) + ("" if interval is None else f" {interval_text(interval)}")


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as `[0.95, 1.01]`; `unknown` where there is none."""
    if interval is None:
        return "unknown"
    return f"[{_short(interval[0])}, {_short(interval[1])}]"


def _short(value: float) -> str:
    """Three digits, or two after the point of small numbers; never `-0`."""
    return f"{round(value, 3) + 0.0:.3g}"


def _draw_edge(
    network: Network,
    asked: AskedQuestion,
    state: State,
    name: str,
    edges: tuple[str, ...],
    scores: tuple[Tensor, str] | None,
) -> None:
    edge, several = edges[0], len(edges) > 1
    if several:
        st.markdown(f"**{escaped(name)}** ({len(edges)} edges)")
        edge = st.selectbox("Edge", edges, key="trace_edge_of_many") or edge
    _draw_title(edge, edge_label(state.marks.labels, edge))
    graph = ground_of(network).graph(state.n_pos)
    exact = effect_of(network, asked, state.n_pos, edge)
    if scores is not None:
        values, by = scores
        st.markdown(f"Score by {escaped(by)}: **{float(values[graph.index(edge)]):.3g}**")
    st.markdown(
        f"Patched in the whole network: **{escaped(told(exact))}** {escaped(asked.metric)}",
        help="The exact effect of patching this one edge, by intervention, in the mean over the "
        "pairs that edges are scored on. A score that estimates it should come near.",
    )
    st.caption(f"n = {exact.n} pairs")
    _draw_without(network, asked, state, edge)
    with st.container(horizontal=True):
        _button(network, "Remove edge", Remove(edge), "trace_remove", icon="delete", shortcut="X")
        for end in ends_of(edge):
            _pin_button(network, state, end)
    _draw_naming(network, state, edge)


def _draw_node(network: Network, asked: AskedQuestion, state: State, node: str) -> None:
    _draw_title(node, state.marks.labels.get(node, ""))
    edges = ground_of(network).circuit(state).edges
    near = touching(edges, [node])
    inwards = [edge for edge in near if ends_of(edge)[1] == node]
    st.caption(f"{len(inwards)} edges in, {len(near) - len(inwards)} out")
    if near:
        _draw_without(network, asked, state, node)
    with st.container(horizontal=True):
        _button(network, "Remove node", Remove(node), "trace_remove", icon="delete", shortcut="X")
        _pin_button(network, state, node, shortcut="P")
    _draw_naming(network, state, node)
    _draw_grouping(network, state, node)


def _draw_group(
    network: Network, asked: AskedQuestion, state: State, name: str, nodes: tuple[str, ...]
) -> None:
    st.markdown(f"Group **{escaped(name)}**")
    st.caption(escaped(", ".join(nodes)))
    _draw_group_without(network, asked, state, nodes)
    with st.container(horizontal=True):
        _button(network, "Ungroup", Ungroup(name), "trace_ungroup", icon="ungroup", shortcut="G")
        _button(network, "Remove nodes", Remove(name), "trace_remove", icon="delete", shortcut="X")


def _draw_without(network: Network, asked: AskedQuestion, state: State, name: str) -> None:
    """How faithful the circuit is with and without a part."""
    edges = edges_of(state)
    now, left = faithfulness_of(network, asked, edges), without(network, asked, edges, name)
    st.markdown(
        f"Without it the circuit's faithfulness is **{escaped(told(left))}**, "
        f"with it {escaped(told(now))}."
    )
    st.caption(f"n = {left.n} pairs that it was not found on")


def _draw_group_without(
    network: Network, asked: AskedQuestion, state: State, nodes: tuple[str, ...]
) -> None:
    from apps.web.trace.circuit_numbers import is_empty

    if is_empty(state):
        return
    ground, left = ground_of(network), state
    for node in nodes:
        left = Remove(node).apply(left, ground)
    now = faithfulness_of(network, asked, edges_of(state))
    then = faithfulness_of(network, asked, edges_of(left))
    st.markdown(
        f"Without them the circuit's faithfulness is **{escaped(told(then))}**, "
        f"with them {escaped(told(now))}."
    )
    st.caption(f"n = {then.n} pairs that it was not found on")


def _draw_title(part: str, label: str) -> None:
    st.markdown(f"**{escaped(part)}**" + (f": {escaped(label)}" if label else ""))


def _draw_naming(network: Network, state: State, part: str) -> None:
    """The label of a node or an edge, to be changed."""
    key = f"trace_label_{part}"
    st.session_state[key] = state.marks.labels.get(part, "")
    st.text_input(
        "Label",
        key=key,
        max_chars=LABEL,
        help="Your words for what this part does. They go with the finding into a saved session.",
        on_change=_rename,
        args=(network, part, key),
    )


def _rename(network: Network, part: str, key: str) -> None:
    draft.do(network, Rename(part, st.session_state[key]))


def _draw_grouping(network: Network, state: State, node: str) -> None:
    with st.popover("Group", icon=":material/select_all:"):
        group = group_of(state.marks, node)
        others = [
            one
            for one in known_nodes(ground_of(network).circuit(state), state.marks)
            if one != node
        ]
        with_them = st.multiselect(
            f"Draw {node} as one with",
            others,
            default=[one for one in group.nodes if one in others] if group is not None else [],
            key=f"trace_group_with_{node}",
        )
        name = st.text_input("Name of the group", key=f"trace_group_name_{node}", max_chars=LABEL)
        _button(
            network,
            "Make group",
            MakeGroup(name, (node, *with_them)),
            "trace_group",
            icon="select_all",
            disabled=not name.strip() or not with_them,
        )


def _pin_button(network: Network, state: State, node: str, *, shortcut: str | None = None) -> None:
    pinned = node in state.marks.pinned
    _button(
        network,
        f"{'Unpin' if pinned else 'Pin'} {node}",
        Pin(node, not pinned),
        f"trace_pin_{node}",
        icon="keep_off" if pinned else "keep",
        shortcut=shortcut,
        keeps=True,
        help="Pruning leaves the edges of pinned nodes.",
    )


def _button(
    network: Network,
    label: str,
    operation: Operation,
    key: str,
    *,
    icon: str,
    shortcut: str | None = None,
    disabled: bool = False,
    keeps: bool = False,
    help: str | None = None,
) -> None:
    """A button that does something to the draft; unless `keeps`, nothing is chosen afterwards, as
    rows of the table stand for other parts then."""
    st.button(
        label,
        key=key,
        icon=f":material/{icon}:",
        shortcut=shortcut,
        disabled=disabled,
        help=help,
        on_click=partial(_do, network, operation, keeps=keeps),
    )


def _do(network: Network, operation: Operation, *, keeps: bool) -> None:
    draft.do(network, operation)
    if not keeps:
        choose(PART, None)

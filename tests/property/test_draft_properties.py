"""Laws of a circuit's editing, whatever is done in whatever order."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.web.trace.draft_files import DraftFile
from apps.web.trace.draft_history import (
    History,
    Operation,
    begin,
    bits_of,
    did,
    nodes_of,
    redone,
    undone,
)
from apps.web.trace.draft_operations import (
    AddComponent,
    AddEdge,
    Clear,
    Keep,
    MakeGroup,
    Pin,
    PruneDeadEnds,
    Remove,
    Rename,
    Replace,
    Ungroup,
)
from circuits.circuit import circuit_of
from tests.app.draft_ground import GROUND
from workbench.errors import WorkbenchError
from workbench.storage import from_json, to_json
from workbench.strict import validated

GRAPHS = {n_pos: GROUND.graph(n_pos) for n_pos in (None, 3)}
EDGES = st.sampled_from([edge for graph in GRAPHS.values() for edge in graph.edges])
NODES = st.sampled_from([node for graph in GRAPHS.values() for node in nodes_of(graph)])
TEXTS = st.sampled_from(["", "carry", "embed", "a->b", "two\nlines", "<b>", "x" * 300, "ones"])


Call = tuple[type[Operation], tuple[Any, ...]]
"""An operation before it is made: strategies make plain data alone."""


def call(kind: type[Operation], *values: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.tuples(st.just(kind), st.tuples(*values))


def some(edges: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(edges), max_size=12, unique=True).map(tuple)


OPERATIONS = st.one_of(
    call(AddComponent, NODES),
    call(AddEdge, EDGES),
    call(Remove, st.one_of(EDGES, NODES, TEXTS)),
    call(PruneDeadEnds),
    call(Keep, some(GRAPHS[None].edges), st.just("scores")),
    call(Keep, some(GRAPHS[3].edges), st.just("scores")),
    call(Clear),
    call(Replace, some(GRAPHS[None].edges), st.none(), st.just("a circuit")),
    call(Replace, some(GRAPHS[3].edges), st.just(3), st.just("a circuit")),
    call(Pin, NODES, st.booleans()),
    call(Rename, st.one_of(EDGES, NODES), TEXTS),
    call(MakeGroup, TEXTS, st.lists(NODES, max_size=3).map(tuple)),
    call(Ungroup, TEXTS),
)


def attempted(history: History, operation: Call) -> History:
    """What comes of an operation; nothing where it is refused."""
    kind, values = operation
    try:
        return did(history, kind(*values), GROUND)
    except WorkbenchError:
        return history


def after(operations: list[Call]) -> History:
    history = begin()
    for operation in operations:
        history = attempted(history, operation)
    return history


@given(st.lists(OPERATIONS, max_size=8), OPERATIONS)
def test_undo_gives_what_was_before_and_redo_what_was_after(
    operations: list[Call], last: Call
) -> None:
    before = after(operations)
    now = attempted(before, last)
    if now is before:
        return
    assert undone(now).state == before.state
    assert redone(undone(now)) == now
    assert undone(now).done == before.done


@given(st.lists(OPERATIONS, max_size=12))
def test_undone_to_the_start_and_redone_to_the_end(operations: list[Call]) -> None:
    whole = history = after(operations)
    for _ in range(len(whole.done)):
        history = undone(history)
    assert history.state == begin().state and history.to_undo is None
    for _ in range(len(whole.done)):
        history = redone(history)
    assert history == whole


@given(st.lists(OPERATIONS, max_size=12), st.integers(0, 12))
def test_json_gives_the_same_history_back(operations: list[Call], back: int) -> None:
    history = after(operations)
    for _ in range(back):
        history = undone(history)
    digest = "0" * 64
    file = DraftFile(network=f"{digest}-{digest}", revision=3, history=history)
    data = to_json(file.model_dump(), where="a draft")
    assert from_json(data, where="a draft") == json.loads(data)
    assert validated(DraftFile, data, where="a draft", error=WorkbenchError) == file


@given(st.lists(OPERATIONS, max_size=12))
def test_edges_stay_within_the_graph_and_each_node_in_one_group(
    operations: list[Call],
) -> None:
    for step in after(operations).done:
        circuit = GROUND.circuit(step.state)
        assert set(circuit.edges) <= set(GRAPHS[step.state.n_pos].edges)
        assert bits_of(circuit) == step.state.bits
        grouped = [node for group in step.state.marks.groups for node in group.nodes]
        assert len(grouped) == len(set(grouped))
        nodes = {node for graph in GRAPHS.values() for node in nodes_of(graph)}
        edges = {edge for graph in GRAPHS.values() for edge in graph.edges}
        assert {*grouped, *step.state.marks.pinned} <= nodes
        assert {*step.state.marks.labels} <= nodes | edges


@pytest.mark.parametrize("n_pos", [None, 3])
@given(data=st.data())
def test_bits_name_every_edge(n_pos: int | None, data: st.DataObject) -> None:
    graph = GRAPHS[n_pos]
    edges = data.draw(st.lists(st.sampled_from(graph.edges), unique=True))
    circuit = circuit_of(graph, edges)
    number = sum(1 << graph.edges.index(edge) for edge in edges)
    assert int(bits_of(circuit) or "0", 16) == number

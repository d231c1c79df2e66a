"""Pictures of circuits: groups, places, dead ends, labels."""

from pathlib import Path

import pytest
import torch

from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_picture import picture_of, places_of
from apps.web.trace.draft_files import ground_of
from circuits.circuit import circuit_of
from tests.app.app_folder import FULL
from workbench.session.schema import Group, Marks


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def test_a_group_is_drawn_as_one_node(network: Network) -> None:
    graph = ground_of(network).graph(None)
    edges = ["embed->a0.h0<v>", "embed->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
    circuit = circuit_of(graph, edges)
    scores = torch.zeros(graph.is_edge.shape)
    for edge, score in zip(edges, (0.5, -2.0, 1.0, 3.0, 4.0), strict=True):
        scores[graph.index(edge)] = score
    marks = Marks(
        groups=(Group(name="heads", nodes=("a0.h0", "a0.h1")),),
        labels={"m0": "adds"},
        pinned=("a0.h1",),
    )
    picture = picture_of(
        circuit, scores, marks, name="a b", measure="score", live=circuit.pruned((2,))
    )
    nodes = {node.name: node for node in picture.chart.nodes}
    assert set(nodes) == {"embed", "heads", "m0", "logits"} and picture.chart.name == "a-b"
    assert nodes["heads"].kind == "group" and nodes["heads"].pinned
    assert nodes["m0"].label == "m0: adds"
    long = Marks(labels={"m0": "x" * 200})
    drawn_long = picture_of(circuit, None, long, name="x", measure="edge", live=circuit)
    assert max(len(node.label) for node in drawn_long.chart.nodes) == 8  # all fit in
    drawn = {edge.name: edge.score for edge in picture.chart.edges}
    assert drawn == {"embed->heads": -2.0, "heads->m0": 3.0, "m0->logits": 4.0}
    row = picture.row("a0.h1->m0")
    assert row is not None and picture.parts[row] == ("a0.h0->m0", "a0.h1->m0")
    assert picture.row("a0.h0") == picture.row("a0.h1")


def test_positions_are_columns_and_parts_rows(network: Network) -> None:
    places = places_of(3, ["embed->a0.h0<v>@0", "a0.h0->m0@2", "m0->logits@2"])
    assert places["embed@0"][0] > places["a0.h0@0"][0]  # heads stand aside
    assert places["a0.h0@2"][0] - places["a0.h0@0"][0] == 2
    rows = [places[name][1] for name in ("embed@0", "a0.h0@2", "m0@2", "logits@2")]
    assert rows == sorted(rows) and places["a0.h0@0"][1] == places["a0.h0@2"][1]


def test_dead_ends_are_drawn_as_such(network: Network) -> None:
    circuit = circuit_of(ground_of(network).graph(None), ["embed->m0", "embed->logits"])
    picture = picture_of(
        circuit, None, Marks(), name="x", measure="edge", live=circuit.pruned((2,))
    )
    assert {edge.name: edge.live for edge in picture.chart.edges} == {
        "embed->m0": False,
        "embed->logits": True,
    }

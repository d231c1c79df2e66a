"""Drawings of circuits: which arrows there are, and that they bend around boxes."""

import re

import pytest
import torch

from apps.circuit_drawing import along, box_places, boxes_hit, draw_circuit, drawn_edges, ranges
from circuits.circuit import circuit_of
from circuits.graph import Graph
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig

CONFIG = ModelConfig(
    n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=4
)
EDGES = ("embed->a0.h0<v>", "embed->a0.h0<q>", "a0.h0->m1", "m1->logits", "a0.h0->a1.h1<k>")


def test_edges_of_a_name_are_one_arrow_with_its_positions() -> None:
    graph = Graph(CONFIG, 4)
    names = ["embed->m0@0", "embed->m0@1", "embed->m0@3", "m0->logits@1", "embed->a0.h0<v>@2"]
    circuit, scores = circuit_of(graph, names), torch.zeros(graph.is_edge.shape)
    for name, score in zip(names, (1.0, -3.0, 2.0, 0.5, 4.0), strict=True):
        scores[graph.index(name)] = score
    drawn = {edge.reader: edge for edge in drawn_edges(circuit, scores)}
    assert drawn["m0"].positions == (0, 1, 3) and drawn["m0"].score == -3.0
    assert drawn["m0"].live and not drawn["a0.h0<v>"].live  # nothing reads the head


def test_positions_are_written_as_ranges() -> None:
    assert ranges((0, 2, 3, 4, 6, 8, 9)) == "0,2-4,6,8-9"


def test_an_arc_is_the_curve_that_matplotlib_draws() -> None:
    """Its middle stands aside by half of the bend times the length, to the right of the way."""
    assert along((0.0, 0.0), (0.0, 2.0), 0.5, 0.0) == (0.0, 0.0)
    assert along((0.0, 0.0), (0.0, 2.0), 0.5, 0.5) == (0.5, 1.0)
    between = {"m0": (0.0, 1.0)}
    assert boxes_hit((0.0, 0.0), (0.0, 2.0), 0.0, between) == 1
    assert boxes_hit((0.0, 0.0), (0.0, 2.0), 0.5, between) == 0


def test_boxes_stand_apart_in_rows_of_their_layer() -> None:
    places = box_places({"embed", "a0.h0", "a0.h1", "m0", "a1.h1", "m1", "logits"})
    assert len({places[name] for name in places}) == len(places)
    rows = [places[name][1] for name in ("embed", "a0.h0", "m0", "a1.h1", "m1", "logits")]
    assert rows == sorted(rows) and len(set(rows)) == 6
    assert places["a0.h0"][1] == places["a0.h1"][1]
    assert places["m0"][0] > places["a0.h1"][0]


def test_a_drawing_names_its_nodes_and_says_what_is_dotted() -> None:
    graph = Graph(CONFIG)
    circuit = circuit_of(graph, EDGES)
    svg = draw_circuit(circuit, torch.ones(graph.is_edge.shape), "svg").decode()
    comments = set(re.findall(r"<!-- (.*?) -->", svg))  # matplotlib keeps each text as a comment
    assert {"embed", "a0.h0", "a1.h1", "m1", "logits", "q", "k", "v"} <= comments
    assert f"5 of {graph.n_edges} edges; dotted: dead ends" in comments
    with pytest.raises(CircuitError, match="nothing to draw"):
        draw_circuit(circuit_of(graph, []), torch.ones(graph.is_edge.shape), "svg")

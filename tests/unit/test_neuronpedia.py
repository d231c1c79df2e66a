"""Circuits as attribution-graph JSON: what the schema and its viewer ask for, and the way back."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.method import Scores
from circuits.neuronpedia import from_neuronpedia
from tests.unit.neuronpedia_graphs import (
    MARKS,
    NO_MLPS,
    SCORES,
    TWO_LAYERS,
    by_hand,
    exported,
    through_a_file,
)
from workbench.session.schema import Group, Marks

GRAPHS = [Graph(config, n_pos) for config in (TWO_LAYERS, NO_MLPS) for n_pos in (None, 3)]


def assert_fits_the_schema(data: dict[str, Any]) -> None:
    """What graph-schema.json asks for, restated."""
    assert {"metadata", "qParams", "nodes", "links"} <= set(data)
    metadata, parameters = data["metadata"], data["qParams"]
    for key in ("slug", "scan", "prompt"):
        assert type(metadata[key]) is str
    assert all(type(token) is str for token in metadata["prompt_tokens"])
    assert {"node_threshold", "feature_details"}.isdisjoint(metadata)  # typed there; not ours
    assert all(type(text) is str for text in metadata["info"]["generator"].values())
    assert type(metadata["generation_settings"]) is type(metadata["pruning_settings"]) is dict
    assert all(type(one) is str for one in parameters["pinnedIds"])
    assert type(parameters["supernodes"]) is list
    for key in ("linkType", "clickedId", "sg_pos"):
        assert type(parameters[key]) is str
    for node in data["nodes"]:
        for key in ("node_id", "feature_type", "jsNodeId", "clerp"):
            assert type(node[key]) is str
        assert type(node["ctx_idx"]) is int
        assert type(node["feature"]) in (int, type(None))
        assert type(node["layer"]) in (str, int)
    for link in data["links"]:
        assert type(link["source"]) is type(link["target"]) is str
        assert type(link["weight"]) is float and math.isfinite(link["weight"])


def assert_can_be_shown(data: dict[str, Any]) -> None:
    """What the viewer asks for besides."""
    nodes, ids = data["nodes"], {node["node_id"] for node in data["nodes"]}
    places = {(node["layer"], node["feature"], node["ctx_idx"]) for node in nodes}
    assert len(ids) == len(places) == len({node["jsNodeId"] for node in nodes}) == len(nodes)
    assert all(0 <= node["ctx_idx"] < len(data["metadata"]["prompt_tokens"]) for node in nodes)
    rows = [node["layer"] for node in nodes if node["feature_type"] != "logit"]
    assert max(int(row) for row in rows if row != "E") >= 1
    clerps = [node["clerp"] for node in nodes if node["feature_type"] == "logit"]
    assert all(clerp == "" or "(p=" in clerp for clerp in clerps)
    ends = [(link["source"], link["target"]) for link in data["links"]]
    assert len(set(ends)) == len(ends) and {one for pair in ends for one in pair} <= ids
    assert set(data["qParams"]["pinnedIds"]) <= ids
    for name, *members in data["qParams"]["supernodes"]:
        assert type(name) is str and set(members) <= ids


def test_a_circuit_worked_out_by_hand() -> None:
    data = by_hand()
    assert_fits_the_schema(data)
    assert_can_be_shown(data)
    # two rows a layer, the logits above; everything stands at the answer, position 2 of "2 3 ="
    shown = {
        node["node_id"]: (node["feature_type"], node["layer"], node["feature"], node["clerp"])
        for node in data["nodes"]
    }
    assert shown == {
        "E_0_2": ("embedding", "E", 0, "embed"),
        "E_1_2": ("pos embedding", "E", 1, "pos_embed"),
        "1_1_2": ("attention head", "1", 1, "a0.h1: reads the first operand"),
        "2_0_2": ("mlp", "2", 0, "m0"),
        "3_0_2": ("attention head", "3", 0, "a1.h0"),
        "5_0_2": ("logit", "5", 0, "logits: the sum (p=)"),
    }
    assert data["links"] == [
        {"source": "E_0_2", "target": "1_1_2", "weight": -0.75, "reads": {"q": 0.25, "k": -1.0}},
        {"source": "E_1_2", "target": "2_0_2", "weight": 2.0},
        {"source": "1_1_2", "target": "2_0_2", "weight": 0.5},
        {"source": "2_0_2", "target": "3_0_2", "weight": -0.125, "reads": {"v": -0.125}},
        {"source": "3_0_2", "target": "5_0_2", "weight": 3.0},
    ]
    assert data["qParams"]["pinnedIds"] == ["3_0_2", "2_0_2"]
    assert data["qParams"]["supernodes"] == [["adds", "2_0_2", "3_0_2"]]
    assert data["qParams"]["sg_pos"] == ""  # or the viewer would place other nodes by it
    assert data["metadata"]["prompt_tokens"] == ["2", "3", "="]
    assert data["metadata"]["prompt"] == "2 + 3 ="
    assert data["metadata"]["slug"] == "sum"
    assert data["metadata"]["scan"] == "workbench-modular_addition"
    assert data["metadata"]["pruning_settings"] == {"n_edges": 6, "of_edges": 61}


def test_the_circuit_worked_out_by_hand_comes_back() -> None:
    graph = Graph(TWO_LAYERS)
    circuit, scores, marks = from_neuronpedia(through_a_file(by_hand()), graph)
    assert set(circuit.edges) == set(SCORES)
    assert scores == SCORES
    assert marks == MARKS


def test_positions_are_where_edges_are() -> None:
    graph = Graph(NO_MLPS, 3)
    edges = ["embed->a0.h0<k>@0", "a0.h0->a1.h0<v>@1", "a1.h0->logits@2"]
    data = exported(circuit_of(graph, edges))
    assert_can_be_shown(data)
    # without MLPs one row a layer: heads of layer 0 in row 1, the logits in row 4
    links = [(link["source"], link["target"], link["weight"]) for link in data["links"]]
    assert links == [("E_0_0", "1_0_0", 1.0), ("1_0_1", "2_0_1", 1.0), ("2_0_2", "4_0_2", 1.0)]
    circuit, scores, _ = from_neuronpedia(through_a_file(data), graph)
    assert circuit.edges == tuple(edges)
    assert scores == dict.fromkeys(edges, 1.0)


def test_what_scores_are_of_is_told() -> None:
    graph = Graph(TWO_LAYERS)
    values = torch.zeros(graph.is_edge.shape)
    values[graph.index("embed->m1")] = 0.75
    scores = Scores(
        graph=graph,
        values=values,
        method="exact",
        signed=True,
        metric="logit_difference",
        ablation="zero",
        direction="noising",
        n=64,
        seed=None,
    )
    data = exported(circuit_of(graph, ["embed->m1"]), scores)
    assert_fits_the_schema(data)
    assert data["metadata"]["generation_settings"]["method"] == "exact"
    assert data["metadata"]["generation_settings"]["n"] == 64
    assert data["links"] == [{"source": "E_0_2", "target": "4_0_2", "weight": 0.75}]


@pytest.mark.parametrize("edges", [(), ("embed->logits", "pos_embed->logits")])
def test_the_viewer_gets_a_numbered_row_where_no_head_or_mlp_is_in(edges: tuple[str, ...]) -> None:
    circuit = circuit_of(Graph(TWO_LAYERS), edges)
    data = exported(circuit)
    assert_can_be_shown(data)
    again, _, _ = from_neuronpedia(through_a_file(data), circuit.graph)
    assert again.edges == circuit.edges


# ---------------------------------------------------------------------- round trip

LABELS = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u202a\u202b\u202c\u202d"),
    max_size=20,
).filter(lambda text: not re.search("[\u202e\u2066-\u2069]", text))
NODES = st.sampled_from(["embed", "a0.h0", "a0.h0@1", "m0", "m0@2", "logits", "logits@2", "x@9"])
COORDINATES = st.floats(allow_nan=False, allow_infinity=False)
MARKINGS = st.builds(
    Marks,
    labels=st.dictionaries(NODES, LABELS, max_size=4),
    groups=st.lists(
        st.builds(Group, name=LABELS, nodes=st.lists(NODES, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    positions=st.dictionaries(NODES, st.tuples(COORDINATES, COORDINATES), max_size=3),
    pinned=st.lists(NODES, max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GRAPHS), st.data(), st.integers(0, 2**32), MARKINGS)
def test_circuit_scores_and_marks_come_back_exactly(
    graph: Graph, data: st.DataObject, seed: int, marks: Marks
) -> None:
    generator = torch.Generator().manual_seed(seed)
    share = data.draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    member = graph.is_edge & (torch.rand(graph.is_edge.shape, generator=generator) < share)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    scores = torch.randn(graph.is_edge.shape, generator=generator, dtype=dtype).exp() - 1
    circuit = Circuit(graph, member)
    written = exported(circuit, scores, marks=marks)
    assert_fits_the_schema(written)
    assert_can_be_shown(written)
    again, weights, marked = from_neuronpedia(through_a_file(written), graph)
    assert torch.equal(again.member, member)
    assert weights == {edge: float(scores[graph.index(edge)]) for edge in circuit.edges}
    assert list(weights) == list(circuit.edges)
    assert marked == marks


def test_what_the_viewer_changed_counts() -> None:
    data = by_hand()
    data["qParams"]["pinnedIds"] = ["5_0_2"]
    data["qParams"]["supernodes"] = [["reads", "1_1_2"]]
    data["nodes"][2]["clerp"] = "a head"  # a0.h1
    data["nodes"][3]["clerp"] = "m0: squares"
    _, _, marks = from_neuronpedia(data, Graph(TWO_LAYERS))
    assert marks.pinned == ("logits",)
    assert marks.groups == (Group(name="reads", nodes=("a0.h1",)),)
    assert marks.labels == {"a0.h1": "a head", "m0": "squares", "logits": "the sum"}
    assert marks.positions == MARKS.positions


def test_our_own_keys_may_be_gone() -> None:
    data = by_hand()
    del data["qParams"]["workbench"], data["metadata"]["workbench"]
    circuit, scores, marks = from_neuronpedia(data, Graph(TWO_LAYERS))
    assert scores == SCORES and set(circuit.edges) == set(SCORES)
    assert marks == MARKS.model_copy(update={"positions": {}})


def test_a_mark_of_a_head_is_shown_at_every_position() -> None:
    graph = Graph(NO_MLPS, 3)
    circuit = circuit_of(graph, [f"a0.h0->logits@{at}" for at in range(3)])
    marks = Marks(labels={"a0.h0": "all", "a0.h0@1": "one"}, pinned=("a0.h0",))
    data = exported(circuit, marks=marks)
    clerps = [node["clerp"] for node in data["nodes"] if node["feature_type"] == "attention head"]
    assert clerps == ["a0.h0: all", "a0.h0: one", "a0.h0: all"]
    assert data["qParams"]["pinnedIds"] == ["1_0_0", "1_0_1", "1_0_2"]
    assert from_neuronpedia(data, graph)[2] == marks

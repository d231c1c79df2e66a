"""Circuits as attribution-graph JSON: what the schema and its viewer ask for, and the way back."""

import copy
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits import neuronpedia
from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.method import Scores
from circuits.neuronpedia import from_neuronpedia, read_neuronpedia, to_neuronpedia
from workbench.errors import CircuitError, RunError
from workbench.model_config import ModelConfig
from workbench.session.schema import Group, Marks
from workbench.task import make_task

TASK = make_task("modular_addition", {"p": 5})
EXAMPLE = TASK.parse("2 + 3 =")
SIZES = {"d_model": 4, "d_head": 2, "d_vocab": 6, "d_vocab_out": 5, "n_ctx": 3}
TWO_LAYERS = ModelConfig(n_layers=2, n_heads=2, d_mlp=4, **SIZES)
NO_MLPS = ModelConfig(n_layers=3, n_heads=1, d_mlp=0, **SIZES)
GRAPHS = [Graph(config, n_pos) for config in (TWO_LAYERS, NO_MLPS) for n_pos in (None, 3)]

SCORES = {
    "embed->a0.h1<q>": 0.25,
    "embed->a0.h1<k>": -1.0,
    "pos_embed->m0": 2.0,
    "a0.h1->m0": 0.5,
    "m0->a1.h0<v>": -0.125,
    "a1.h0->logits": 3.0,
}
MARKS = Marks(
    labels={"a0.h1": "reads the first operand", "logits": "the sum"},
    groups=(Group(name="adds", nodes=("m0", "a1.h0")),),
    positions={"m0": (1.5, -2.0)},
    pinned=("a1.h0", "m0"),
)


def exported(
    circuit: Circuit, scores: Any = None, *, slug: str = "sum", marks: Marks | None = None
) -> dict[str, Any]:
    return to_neuronpedia(circuit, scores, task=TASK, example=EXAMPLE, slug=slug, marks=marks)


def by_hand() -> dict[str, Any]:
    return exported(circuit_of(Graph(TWO_LAYERS), SCORES), SCORES, marks=MARKS)


def through_a_file(data: dict[str, Any]) -> dict[str, Any]:
    read = json.loads(json.dumps(data, allow_nan=False))
    assert isinstance(read, dict)
    return read


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


# ---------------------------------------------------------------------- refusals

GRAPH = Graph(TWO_LAYERS)
CIRCUIT = circuit_of(GRAPH, SCORES)


@pytest.mark.parametrize("slug", ["", "a b", "../up", "ü", "a/b", "<b>", "x\n", "a" * 201])
def test_slugs_that_neuronpedia_does_not_take_are_refused(slug: str) -> None:
    with pytest.raises(CircuitError, match=r"^slug .*letters, digits"):
        exported(CIRCUIT, slug=slug)


def test_plain_slugs_are_taken() -> None:
    assert exported(CIRCUIT, slug="A_b-1.2")["metadata"]["slug"] == "A_b-1.2"


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (torch.zeros(3, 3), "do not fit the graph"),
        (torch.full(GRAPH.is_edge.shape, math.nan), "the score nan"),
        (SCORES | {"a0.h1->m0": math.inf}, "a0.h1->m0 has the score inf"),
        ({"a0.h1->m0": 1.0}, "has no score"),
        (torch.full(GRAPH.is_edge.shape, 1e308, dtype=torch.float64), "add up to inf"),
    ],
)
def test_scores_that_cannot_be_written_are_refused(
    scores: Tensor | dict[str, float], told: str
) -> None:
    with pytest.raises(CircuitError, match=re.escape(told)):
        exported(CIRCUIT, scores)


def test_an_input_of_another_length_is_refused() -> None:
    with pytest.raises(CircuitError, match="the graph has 2 positions, the input 3"):
        exported(Circuit(Graph(TWO_LAYERS, 2), torch.zeros_like(Graph(TWO_LAYERS, 2).is_edge)))


Spoil = Callable[[dict[str, Any]], Any]


def feature(kind: str) -> Spoil:
    """A node as circuit-tracer writes them."""
    return lambda data: data["nodes"].append(
        {
            "node_id": "0_253_1",
            "feature": 32384,
            "layer": "0",
            "ctx_idx": 1,
            "feature_type": kind,
            "jsNodeId": "0_253-0",
            "clerp": "",
        }
    )


def node(**changes: Any) -> Spoil:
    return lambda data: data["nodes"][2].update(changes)  # a0.h1


def link(number: int, **changes: Any) -> Spoil:
    return lambda data: data["links"][number].update(changes)


def another_node(**changes: Any) -> Spoil:
    return lambda data: data["nodes"].append(data["nodes"][2] | changes)


MALFORMED: dict[str, tuple[Spoil, str]] = {
    "no links": (lambda data: data.pop("links"), "'links': Field required"),
    "no slug": (lambda data: data["metadata"].pop("slug"), "'metadata.slug': Field required"),
    "nodes are no list": (lambda data: data.update(nodes={}), "'nodes': Input should be a valid"),
    "no ctx_idx": (lambda data: data["nodes"][0].pop("ctx_idx"), "ctx_idx': Field required"),
    "ctx_idx is text": (node(ctx_idx="2"), "ctx_idx': Input should be a valid integer"),
    "ctx_idx is true": (node(ctx_idx=True), "ctx_idx': Input should be a valid integer"),
    "a transcoder's feature": (feature("cross layer transcoder"), "a feature of another network"),
    "a transcoder's error": (feature("mlp reconstruction error"), "a feature of another network"),
    "an attention feature": (feature("lorsa"), "a feature of another network"),
    "an unknown type": (node(feature_type="neuron"), "this network has no 'neuron'"),
    "a head it lacks": (node(feature=2), "this network has no 'attention head' 2 in row '1'"),
    "a head in an MLP's row": (node(layer="2"), "this network has no 'attention head' 1 in row"),
    "a layer it lacks": (node(layer=9), "this network has no 'attention head' 1 in row 9"),
    "a position of 4000 digits": (node(ctx_idx=-(10**4000)), "at position -1000"),
    "a negative position": (node(ctx_idx=-1), "at position -1"),
    "an id twice": (another_node(), "two nodes have the id '1_1_2'"),
    "a component twice": (another_node(node_id="other"), "two nodes stand for one component"),
    "a link from nowhere": (link(0, source="9_9_9"), "no node has the id '9_9_9'"),
    "a link backwards": (
        link(2, source="3_0_2", target="2_0_2"),
        "no edge leads from a1.h0 to m0",
    ),
    "a link from the logits": (link(1, source="5_0_2"), "no edge leads from logits to m0"),
    "a link to an embedding": (link(1, target="E_0_2"), "no edge leads from pos_embed to embed"),
    "a link twice": (lambda data: data["links"].append(data["links"][0]), "is there twice"),
    "a head without reads": (lambda data: data["links"][0].pop("reads"), "which of q, k and v"),
    "an MLP with reads": (link(1, reads={"q": 2.0}), "no head reads it"),
    "reads of another letter": (link(0, reads={"o": -0.75}), "reads.o"),
    "reads nothing": (link(0, reads={}), "reads"),
    "reads that do not add up": (link(0, weight=5.0), "the weight is 5.0, `reads` sum to -0.75"),
    "weight is text": (link(1, weight="2"), "weight': Input should be a valid number"),
    "weight is NaN": (link(1, weight=math.nan), "no strict JSON"),
    "weight is too large": (link(1, weight=10**400), "Input should be a finite number"),
    "another network": (
        lambda data: data["metadata"]["workbench"].update(n_heads=4),
        "the graph is of a network with",
    ),
    "pinned is no node": (
        lambda data: data["qParams"]["pinnedIds"].append("7_7_7"),
        "'7_7_7', which is no node",
    ),
    "a group without a name": (lambda data: data["qParams"].update(supernodes=[[]]), "supernodes"),
    "a label of 201 letters": (node(clerp="a" * 201), "at most 200 characters"),
    "a label that reorders text": (node(clerp="safe \u202egnp.exe"), "U+202E is not allowed"),
    "a label that steers": (node(clerp="\x1b[2Jgone"), "U+001B is not allowed"),
    "a group's name that steers": (
        lambda data: data["qParams"].update(supernodes=[["\x1b[2J", "1_1_2"]]),
        "U+001B is not allowed",
    ),
    "a kept mark that steers": (
        lambda data: data["qParams"]["workbench"]["labels"].update({"a\x1b\n": "x"}),
        "U+001B is not allowed",
    ),
    "an unknown kind of mark": (
        lambda data: data["qParams"]["workbench"].update(script="x"),
        "Extra inputs are not permitted",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_graphs_are_refused(what: str) -> None:
    spoil, told = MALFORMED[what]
    data = copy.deepcopy(by_hand())
    from_neuronpedia(data, GRAPH)  # it was whole
    spoil(data)
    with pytest.raises(CircuitError, match=re.escape(told)) as refused:
        from_neuronpedia(data, GRAPH)
    message = str(refused.value)
    assert message.isprintable() and len(message) < 400  # one line, nothing that steers


def test_halves_of_a_graph_are_refused() -> None:
    data: dict[str, Any] = {}
    for value in ({}, {"metadata": 3}, {"nodes": [[[]]]}, {"links": {"a": {"b": None}}}):
        data = {**data, **value}
        with pytest.raises(CircuitError):
            from_neuronpedia(data, GRAPH)


def test_deep_nesting_is_refused() -> None:
    data: Any = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(CircuitError, match="strict JSON"):
        from_neuronpedia(by_hand() | {"more": data}, GRAPH)


def test_a_link_that_leaves_its_position_is_refused() -> None:
    graph = Graph(NO_MLPS, 3)
    data = exported(circuit_of(graph, ["embed->a0.h0<k>@0", "a0.h0->logits@2"]))
    data["links"][1]["source"] = "1_0_0"  # a0.h0 at position 0, to the logits at position 2
    with pytest.raises(CircuitError, match="an edge stays at its position"):
        from_neuronpedia(data, graph)


def test_positions_and_none_are_not_mixed_up() -> None:
    data = exported(circuit_of(Graph(NO_MLPS, 3), ["embed->logits@1"]))
    with pytest.raises(CircuitError, match="the graph is of a network with"):
        from_neuronpedia(data, Graph(NO_MLPS))


def test_text_in_markup_stays_text() -> None:
    marks = Marks(labels={"m0": "<img src=x onerror=alert(1)>"})
    data = through_a_file(exported(CIRCUIT, marks=marks))
    assert from_neuronpedia(data, GRAPH)[2] == marks


# ---------------------------------------------------------------------- files


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sum.json"
    path.write_text(json.dumps(by_hand()))
    assert read_neuronpedia(path) == by_hand()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a JSON list"),
        ('{"nodes": [], "nodes": []}', "the key 'nodes' appears twice"),
        ('{"weight": NaN}', "NaN is not a JSON number"),
        ('{"weight": 1e999}', "too large"),
        ("[" * 200_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_files_that_are_no_strict_json_are_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=re.escape(told)):
        read_neuronpedia(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*none\.json"):
        read_neuronpedia(tmp_path / "none.json")
    with pytest.raises(CircuitError, match="not a plain file"):
        read_neuronpedia(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    with pytest.raises(CircuitError, match="not a plain file"):
        read_neuronpedia(tmp_path / "pipe")


def test_files_over_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert neuronpedia.MOST_BYTES == 104_857_600  # 100 MiB
    monkeypatch.setattr(neuronpedia, "MOST_BYTES", 20)
    path = tmp_path / "large.json"
    path.write_bytes(b'{"a": "0123456789"}\n')  # 20 bytes
    assert read_neuronpedia(path) == {"a": "0123456789"}
    path.write_bytes(b'{"a": "01234567890"}\n')
    with pytest.raises(CircuitError, match="more than 20 bytes"):
        read_neuronpedia(path)

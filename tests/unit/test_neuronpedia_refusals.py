"""Attribution-graph JSON that cannot be written or read, and what is said of it."""

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
from torch import Tensor

from circuits import neuronpedia
from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.neuronpedia import from_neuronpedia, read_neuronpedia
from tests.unit.neuronpedia_graphs import (
    NO_MLPS,
    SCORES,
    TWO_LAYERS,
    by_hand,
    exported,
    through_a_file,
)
from workbench.errors import CircuitError, RunError
from workbench.session.schema import Marks

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
        "U+000A is not allowed",
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

"""Small circuits as attribution-graph JSON: what the tests of Neuronpedia's format share."""

import json
from typing import Any

from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.neuronpedia import to_neuronpedia
from workbench.model_config import ModelConfig
from workbench.session.schema import Group, Marks
from workbench.task import make_task

TASK = make_task("modular_addition", {"p": 5})
EXAMPLE = TASK.parse("2 + 3 =")
SIZES = {"d_model": 4, "d_head": 2, "d_vocab": 6, "d_vocab_out": 5, "n_ctx": 3}
TWO_LAYERS = ModelConfig(n_layers=2, n_heads=2, d_mlp=4, **SIZES)
NO_MLPS = ModelConfig(n_layers=3, n_heads=1, d_mlp=0, **SIZES)


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

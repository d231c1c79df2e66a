"""Tracr programs as networks with known circuits, from the files that `compile_tracr` wrote.

Pairs are inputs of one length that the compiled network gets right, drawn with a seed so that their
answers differ somewhere; the answer is read at every position after BOS where RASP gives one. A
category is measured by its logit difference (Tracr's logits are one-hot: 1 on the answer).
A number is measured under resample ablation by how far it lies towards the clean answer,

    mean over positions of (output - (clean + corrupted) / 2) * sign(clean - corrupted),

which is linear as the logit difference is; under zero ablation, which leads towards no particular
answer, by -|output - clean answer|.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from circuits.problem import Ablation
from tests.ground_truth.scoring import GroundTruth, Truth
from workbench import config as configuration
from workbench.metrics import Metric, make_metric
from workbench.model_config import ModelConfig
from workbench.params import Params, check_params
from workbench.transformer import forward

FOLDER = Path(__file__).parent / "tracr"
PAIRS = 32
TOLERANCE = 1e-2
"""A number may differ from RASP's by this much: the selectors' softmax is not quite hard."""
UNDECIDED = (
    "undecided: helpers of an Aggregate whose selector selects something, and queries and keys of "
    "a SelectorWidth that selects everything (compile_graph)"
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Every input of one length, with what RASP answers."""

    tokens: Int[Tensor, "batch pos"]
    answers: Float[Tensor, "batch answer"]
    """At the positions after BOS: the number, or the index of the category."""
    specified: Bool[Tensor, "batch answer"]
    """Where RASP answers at all."""
    wrong: Bool[Tensor, " batch"]
    """Inputs on which the compiled network does not do what RASP does."""


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """What was compiled and checked."""

    params: Params
    config: ModelConfig
    record: Mapping[str, Any]
    inputs: Mapping[int, Checked]
    """By length."""

    @property
    def numeric(self) -> bool:
        """Whether the output is a number (logit 0) or a category."""
        return bool(self.record["output"] == "number")

    def output(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch answer"]:
        """What the network answers after BOS: the number, or the index of the category."""
        logits = forward(self.params, tokens, self.config).logits[:, 1:]
        return logits[..., 0] if self.numeric else logits.argmax(-1).double()


def fixture_names() -> list[str]:
    """The programs that were compiled."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@functools.cache
def load_fixture(name: str) -> Fixture:
    """A compiled program, in float64."""
    record = json.loads((FOLDER / f"{name}.json").read_text())
    tensors = load_file(FOLDER / f"{name}.safetensors")
    config = configuration.from_dict(ModelConfig, record["model"], where=name)
    params = {key: x.double() for key, x in tensors.items() if not key.startswith("inputs.")}
    check_params(params, config)
    first, last = record["checked"]["lengths"]
    inputs = {}
    for length in range(first, last + 1):
        part = {key: tensors[f"inputs.{length}.{key}"] for key in Checked.__dataclass_fields__}
        part["tokens"], part["answers"] = part["tokens"].long(), part["answers"].double()
        inputs[length] = Checked(**part)
    return Fixture(params=params, config=config, record=record, inputs=inputs)


def tracr_networks() -> list[GroundTruth]:
    """Every compiled program as a network with known circuits."""
    return [tracr_network(name) for name in fixture_names()]


def tracr_network(name: str) -> GroundTruth:
    """One compiled program, PAIRS pairs, and its truth under resample and zero ablation."""
    fixture = load_fixture(name)
    full = fixture.inputs[fixture.record["pairs_length"]]
    clean, corrupted = _pairs(full)
    positions = tuple(range(1, full.tokens.shape[1]))
    metrics = _number_metrics if fixture.numeric else _category_metrics
    return GroundTruth(
        name=name,
        params=fixture.params,
        config=fixture.config,
        clean=full.tokens[clean],
        corrupted=full.tokens[corrupted],
        positions=positions,
        metrics=metrics(fixture, full, clean, corrupted),
        truths=_truths(fixture.record),
    )


def _truths(record: Mapping[str, Any]) -> dict[Ablation, Truth]:
    edges = record["truth"]
    undecided = frozenset(edge["edge"] for edge in edges if edge["zero"] == "undecided")
    return {
        "resample": Truth(edges=frozenset(edge["edge"] for edge in edges if edge["resample"])),
        "zero": Truth(
            edges=frozenset(edge["edge"] for edge in edges) - undecided,
            undecided=undecided,
            note=UNDECIDED if undecided else "",
        ),
    }


def _pairs(full: Checked) -> tuple[Tensor, Tensor]:
    """Rows of clean inputs and of corrupted ones, whose answers differ somewhere."""
    generator = torch.Generator().manual_seed(0)
    right = (~full.wrong).nonzero()[:, 0]
    rows = right[torch.randint(len(right), (2, 20 * PAIRS), generator=generator)]
    keep = _scored(full, *rows).any(1)
    clean, corrupted = rows[:, keep][:, :PAIRS]
    assert len(clean) == PAIRS
    return clean, corrupted


def _scored(full: Checked, clean: Tensor, corrupted: Tensor) -> Bool[Tensor, "batch answer"]:
    """The positions at which both answers are specified and differ."""
    differ = full.answers[clean] != full.answers[corrupted]
    return differ & full.specified[clean] & full.specified[corrupted]


def _category_metrics(
    fixture: Fixture, full: Checked, clean: Tensor, corrupted: Tensor
) -> dict[Ablation, Metric]:
    tokens = full.tokens[clean]
    metric = make_metric(
        "logit_difference",
        answer=full.answers[clean].long(),
        wrong_answer=full.answers[corrupted].long(),
        clean_logits=forward(fixture.params, tokens, fixture.config).logits[:, 1:],
        scored=_scored(full, clean, corrupted),
    )
    return {"resample": metric, "zero": metric}


def _number_metrics(
    fixture: Fixture, full: Checked, clean: Tensor, corrupted: Tensor
) -> dict[Ablation, Metric]:
    answer, wrong_answer = full.answers[clean], full.answers[corrupted]
    scored = _scored(full, clean, corrupted)
    middle, sign = (answer + wrong_answer) / 2, (answer - wrong_answer).sign()

    def mean(which: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda value: (value * which).sum(-1) / which.sum(-1)

    over_scored, over_specified = mean(scored), mean(full.specified[clean])
    return {
        "resample": Metric(
            name="number_difference",
            function=lambda x: over_scored((x[..., 0] - middle) * sign),
        ),
        "zero": Metric(
            name="negative_error",
            function=lambda x: over_specified(-(x[..., 0] - answer).abs()),
        ),
    }

"""What a network with a known circuit is, and how well scores of edges recover the circuit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from circuits.circuit import circuit_of
from circuits.graph import Graph
from circuits.problem import Ablation, Problem
from workbench.metrics import Metric
from workbench.model_config import ModelConfig
from workbench.params import Params

DRAWS = 200
"""Random scorings per network: the mean of their AUROC is then known to 0.02 or better."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Which edges matter under one ablation, and why that is known."""

    edges: frozenset[str]
    undecided: frozenset[str] = frozenset()
    """Edges for which the construction does not say; they are left out of every score."""
    unique: bool = True
    """Whether cutting any one true edge alone must show. False where parts are redundant."""
    note: str = ""
    """Why the truth is not unique, or anything that a reader of a score should know."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A network whose circuit is known from how it was made, and pairs of inputs."""

    name: str
    params: Params
    config: ModelConfig
    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    positions: tuple[int, ...]
    """Where the answer is read."""
    metrics: Mapping[Ablation, Metric]
    truths: Mapping[Ablation, Truth]
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", Graph(self.config))

    def problem(self, ablation: Ablation) -> Problem:
        """What the methods are given; noising, edges at all positions together."""
        return Problem(
            params=self.params,
            config=self.config,
            clean=self.clean,
            corrupted=self.corrupted,
            metric=self.metrics[ablation],
            positions=self.positions,
            graph=self.graph,
            ablation=ablation,
        )

    def denoising(self, ablation: Ablation) -> Problem:
        """The same, from the corrupted input to the clean one."""
        return replace(self.problem(ablation), direction="denoising")

    def decided(self, ablation: Ablation) -> Bool[Tensor, "writer reader"]:
        """The edges of which it is known whether they are true."""
        return self.graph.is_edge & ~circuit_of(self.graph, self.truths[ablation].undecided).member

    def member(self, ablation: Ablation) -> Bool[Tensor, "writer reader"]:
        """The true edges."""
        return circuit_of(self.graph, self.truths[ablation].edges).member


def auroc(truth: GroundTruth, ablation: Ablation, scores: Float[Tensor, "writer reader"]) -> float:
    """Probability that a true edge has a larger |score| than one that is not; ties count half."""
    decided = truth.decided(ablation)
    labels = truth.member(ablation)[decided]
    return float(roc_auc_score(labels.numpy(), scores[decided].abs().double().numpy()))


def random_auroc(truth: GroundTruth, ablation: Ablation, generator: torch.Generator) -> list[float]:
    """AUROC of DRAWS scorings drawn from a normal distribution: what chance gives."""
    shape = truth.graph.is_edge.shape
    return [auroc(truth, ablation, torch.randn(shape, generator=generator)) for _ in range(DRAWS)]

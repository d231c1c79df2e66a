"""A way to score the edges of a graph. One file each in `circuits/methods/`, registered by name.

All methods have one signature and one sign: `score(problem)` says of each edge how much the
problem's metric changes, per pair and on average, when that edge is patched:

    score[writer, reader] = mean over pairs of  m(edge patched) - m(run that is patched)

exactly (`exact`), to first order, or by a rank that is said to stand for it (ACDC, masks).
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from circuits.graph import Graph
from circuits.mechanism import Progress
from circuits.problem import Ablation, Direction, Problem
from workbench.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A score for every edge, and everything that decided it."""

    graph: Graph
    values: Float[Tensor, "*pos writer reader"]
    """Zero where there is no edge. On the CPU."""
    method: str
    metric: str
    ablation: Ablation
    direction: Direction
    n: int
    """How many pairs the scores average over."""
    seed: int | None
    """None where the method draws nothing at random."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, edge: str) -> float:
        """The score of one edge, by name."""
        return float(self.values[self.graph.index(edge)])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the numbers, as JSON."""
        names = ("method", "metric", "ablation", "direction", "n", "seed")
        return {name: getattr(self, name) for name in names} | {"settings": dict(self.settings)}


class Method(ABC):
    """A way to score edges. Settings are fields of a frozen dataclass."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line, with the source."""
    random: ClassVar[bool] = False
    """Whether the seed matters."""

    @abstractmethod
    def _score(
        self, problem: Problem, seed: int
    ) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
        """The score of every edge."""

    def score(self, problem: Problem, *, seed: int = 0) -> Generator[Progress, None, Scores]:
        """Score every edge. Yields progress; run it with `workbench.progress.finish`."""
        from workbench import config as configuration

        values = yield from self._score(problem, seed)
        return Scores(
            graph=problem.graph,
            values=(values.detach().cpu() * problem.graph.is_edge),
            method=self.name,
            metric=problem.metric.name,
            ablation=problem.ablation,
            direction=problem.direction,
            n=len(problem.clean),
            seed=seed if self.random else None,
            settings=configuration.to_dict(self),
        )


methods: Registry[type[Method]] = Registry("method", "circuits.methods")
"""Every method, by name."""

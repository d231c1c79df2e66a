"""Evaluations: a circuit that somebody gives, judged beside random ones of its size."""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from circuits.analyses._asked import AskedOfWritten, Draws, problem_asked
from circuits.analyses._findings import (
    CIRCUIT_TOLERANCES,
    circuit_finding,
    finding_name,
    judged_on_pairs,
)
from circuits.analyses.circuit import judged_circuit
from circuits.circuit import Circuit, circuit_of
from circuits.evaluate import FEWEST_DRAWS, Evaluation, evaluate
from circuits.tracing import pairs_to_judge
from workbench.analysis import Analysis, Outcome, analyses
from workbench.pairs import Pairs
from workbench.progress import Progress
from workbench.run import Run
from workbench.strict import Label
from workbench.task import Task


@analyses.register("evaluation")
@dataclass(frozen=True, kw_only=True)
class EvaluationAnalysis(AskedOfWritten, Analysis):
    """Whether a circuit that is given does the task, as `workbench circuit --given` asks it."""

    kind = "evaluation"
    summary = "a circuit that somebody gives, judged beside random ones of its size"
    tolerances: ClassVar = CIRCUIT_TOLERANCES

    edges: Annotated[tuple[Label, ...], Field(min_length=1, max_length=100_000)]
    """Names as `circuits.circuit` has them, such as `a0.h1->m0`."""
    per_position: bool = False
    """The edges name positions, as in `a0.h1->m0@3`."""
    exhaustive: bool = False
    """Judged on every input; a small domain always is, unless pairs are written out."""
    n_random: Draws = FEWEST_DRAWS

    def words(self) -> list[str]:
        """What the finding and the drawing are called after. The order of the edges is nothing."""
        digest = hashlib.sha256("\n".join(sorted(set(self.edges))).encode()).hexdigest()
        return ["evaluation", digest[:8], *self.beside_usual()]

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """Judged on written pairs, every input or drawn pairs, by the rule of `evaluate`.

        Raises `CircuitError` for an edge that the network does not have, and what `evaluate` and
        `pairs_to_judge` raise.
        """
        pairs, exhaustive = self._pairs(run.task)
        problem = problem_asked(
            self, run, pairs, step=step, device=device, per_position=self.per_position
        )
        circuit = circuit_of(problem.graph, self.edges)
        judged = yield from evaluate(
            problem, circuit, n_random=self.n_random, seed=self.seed, exhaustive=exhaustive
        )
        live = circuit.pruned(problem.positions).n_edges
        finding = circuit_finding(
            finding_name(self.words()),
            judged,
            live=live,
            origin="as given",
            judged_on=judged_on_pairs(judged.n, exhaustive),
        )
        removal = _removal(circuit, judged)
        return Outcome(
            result=_told(circuit, live, judged, removal),
            findings=(finding,),
            arrays={"removal": removal},
        )

    def _pairs(self, task: Task) -> tuple[Pairs, bool]:
        written = self.written(task)
        if written is not None:
            return written, False
        return pairs_to_judge(
            task,
            n_pairs=self.pairs,
            corruptions=self.corruptions,
            exhaustive=self.exhaustive,
            seed=self.seed,
        )


def _removal(circuit: Circuit, judged: Evaluation) -> Tensor:
    """What the removal of each edge changes where it matters most; zero for edges outside."""
    effects = judged.minimality.effects[: circuit.n_edges]
    values = effects.new_zeros(circuit.member.shape)
    values[circuit.member] = effects  # in the graph's order, as Circuit.edges is
    return values


def _told(circuit: Circuit, live: int, judged: Evaluation, removal: Tensor) -> dict[str, Any]:
    sizes = removal[circuit.member].tolist()
    rows = zip(circuit.edges, sizes, strict=True)
    return {
        **judged_circuit(circuit, live, judged),
        "edge_list": [{"edge": edge, "removal": size} for edge, size in rows],
    }

"""Circuits: edges scored, the fewest that do the task chosen, and judged on other inputs."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from circuits.analyses._asked import Asked, Draws, problem_asked
from circuits.analyses._findings import (
    CIRCUIT_TOLERANCES,
    circuit_finding,
    finding_name,
    judged_on_others,
)
from circuits.circuit import Circuit, Selection
from circuits.circuit import circuit_of as circuit_of_edges
from circuits.evaluate import FEWEST_DRAWS, Evaluation, evaluate
from circuits.graph import Graph
from circuits.method import Scores
from circuits.tracing import circuit_steps, pairs_to_find_and_judge
from workbench.analysis import Analysis, Outcome, analyses
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig
from workbench.progress import Progress
from workbench.record import Record
from workbench.run import Run
from workbench.strict import Label


@analyses.register("circuit")
@dataclass(frozen=True, kw_only=True)
class CircuitAnalysis(Asked, Analysis):
    """Which edges do the task, as `workbench circuit` asks it."""

    kind = "circuit"
    summary = "the edges that do the task, found on some inputs and judged on others"
    tolerances: ClassVar = CIRCUIT_TOLERANCES
    added: ClassVar[tuple[str, ...]] = ("result.settings.halvings",)
    """Records made before lines were cut finer where they are steep do not have it."""

    per_position: bool = False
    """Edges of their own at every position."""
    method: Label = "eap_ig"
    """A name of `circuits.method.methods`."""
    n_edges: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """The smallest faithful circuit when None."""
    selection: Selection = "absolute"
    exhaustive: bool = False
    """Judged on every input it was not found on; a small domain always is."""
    n_random: Draws = FEWEST_DRAWS

    def words(self) -> list[str]:
        """What the finding and the drawing are called after."""
        asked = [] if self.n_edges is None else [f"{self.n_edges}_edges"]
        return ["circuit", self.method, *self.beside_usual("selection"), *asked]

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """Found on some pairs, judged on others.

        Raises `CircuitError` where no circuit is faithful or more edges were asked for than there
        are, and what `circuit_steps`, `evaluate` and `pairs_to_find_and_judge` raise.
        """
        on, others, exhaustive = pairs_to_find_and_judge(
            run.task,
            n_pairs=self.pairs,
            corruptions=self.corruptions,
            exhaustive=self.exhaustive,
            seed=self.seed,
        )
        where: dict[str, Any] = {"step": step, "device": device, "per_position": self.per_position}
        problem = problem_asked(self, run, on, **where)
        found = yield from circuit_steps(
            problem,
            method=self.method,
            n_edges=self.n_edges,
            selection=self.selection,
            seed=self.seed,
        )
        fresh = problem_asked(self, run, others, **where)
        judged = yield from evaluate(
            fresh, found.circuit, n_random=self.n_random, seed=self.seed, exhaustive=exhaustive
        )
        live = found.circuit.pruned(problem.positions).n_edges
        finding = circuit_finding(
            finding_name(self.words()),
            judged,
            live=live,
            origin=f"found by {self.method} on {found.scores.n} pairs",
            judged_on=judged_on_others(judged.n, exhaustive),
        )
        return Outcome(
            result=self._told(found.scores, found.circuit, live, judged),
            findings=(finding,),
            arrays={"scores": found.scores.values},
        )

    def _told(
        self, scores: Scores, circuit: Circuit, live: int, judged: Evaluation
    ) -> dict[str, Any]:
        return {
            **scores.to_dict(),
            **judged_circuit(circuit, live, judged),
            "pairs_for_finding": scores.n,
            "edge_list": [{"edge": edge, "score": scores.of(edge)} for edge in circuit.edges],
            "selection": self.selection,
            "edges_asked": self.n_edges,
        }


def judged_circuit(circuit: Circuit, live: int, judged: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON, its main numbers first."""
    told = judged.to_dict()
    complete, minimal = told.pop("completeness"), told.pop("minimality")
    return {
        **told,
        "edges": circuit.n_edges,
        "live_edges": live,
        "completeness": complete["worst_normalised"],
        "completeness_details": complete,
        "minimality": minimal["share"],
        "minimality_details": minimal,
        "components": list(circuit.components()),
    }


VALUES = {"circuit": "scores", "evaluation": "removal"}
"""The array that holds a number for every edge, by kind of record."""


def circuit_of(
    record: Record, arrays: Mapping[str, Tensor], config: ModelConfig
) -> tuple[Circuit, Float[Tensor, "*pos writer reader"]]:
    """The circuit that a record is of, and a number for every edge, to draw it by.

    That is the edge's score, or for a circuit that was given what its removal changes. Raises
    `CircuitError` where the record is damaged or of a network of another shape.
    """
    values = arrays.get(VALUES.get(record.kind, ""))
    names = edges_in(record)
    if values is None or names is None:
        raise CircuitError(f"{record.id} holds no whole circuit; ask again")
    n_pos = values.shape[0] if values.ndim == 3 else None
    if n_pos is not None and not 0 < n_pos <= config.n_ctx:
        raise CircuitError(f"{record.id}: {n_pos} positions; the network reads {config.n_ctx}")
    graph = Graph(config, n_pos)
    if values.shape != graph.is_edge.shape:
        raise CircuitError(
            f"{record.id}: numbers {list(values.shape)} do not fit the graph, "
            f"{list(graph.is_edge.shape)}; it is of another network"
        )
    return circuit_of_edges(graph, names), values


def edges_in(record: Record) -> list[str] | None:
    """Names of the edges of a record's circuit; None where it has none."""
    rows = record.result.get("edge_list")
    return names_in(rows) if record.kind in VALUES else None


def names_in(rows: Any) -> list[str] | None:
    """Names of edges in `[{"edge": "m0->logits", ...}, ...]`; None where it is no such list."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    names = [row.get("edge") for row in rows]
    return names if all(isinstance(name, str) for name in names) else None

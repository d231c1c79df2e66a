"""Numbers of a circuit that is being edited: on pairs that it was not found on, kept by content.

Circuits are scored and found on `finding` pairs and judged on others, as `workbench circuit` does.
What judges is `EvaluationAnalysis` of the judging pairs, written out: what the page shows is the
record that "Keep" keeps.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.choice import Network, subject
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import State
from apps.web.trace.draft_operations import Remove
from apps.web.trace.question import AskedQuestion
from circuits.analyses.circuit import CircuitAnalysis
from circuits.analyses.evaluation import EvaluationAnalysis
from circuits.circuit import Circuit
from circuits.edges import measure_circuits
from circuits.faithfulness import faithfulness, smallest_circuit
from circuits.graph import Graph
from circuits.method import Scores, methods
from circuits.problem import Problem, make_problem
from circuits.tracing import SOUGHT, pairs_to_find_and_judge
from workbench import config
from workbench.analysis import Recorded, record_steps
from workbench.device import find_device
from workbench.errors import CircuitError
from workbench.finding import Interval
from workbench.pairs import Pairs
from workbench.progress import Progress
from workbench.record import Checkpoint, Record, record_id
from workbench.records import read_records
from workbench.stats import mean_interval

MOST_JUDGED = 1000
"""Pairs that an evaluation takes written out."""
AT_ONCE = 3e9
"""Numbers computed in one process that a page may wait for; more is a job. About three seconds."""
PASSES = {"eap": 1, "eap_ig": 32, "eap_ig_activations": 200, "acdc": 150}
"""Runs of all finding pairs that a method takes, about; `exact` takes one for every edge."""
MANY_PASSES = 2500
"""Of a method that is not listed."""


T = TypeVar("T")


class Measured(NamedTuple):
    """A number over pairs."""

    value: float
    interval: Interval | None
    n: int


def drawn(asked: AskedQuestion) -> AskedQuestion:
    """The question without written pairs: one pair is too few to judge a circuit on."""
    return replace(asked, clean=(), corrupted=())


@remembered
def pairs_of(network: Network, asked: AskedQuestion) -> tuple[Pairs, Pairs]:
    """Pairs to find a circuit on, and others to judge it on: at most twice as many."""
    finding, judging, _ = pairs_to_find_and_judge(
        network.task,
        n_pairs=asked.pairs,
        corruptions=asked.corruptions or None,
        seed=asked.seed,
    )
    n = min(2 * asked.pairs, MOST_JUDGED, len(judging))
    some = Pairs(task=judging.task, clean=judging.clean[:n], corrupted=judging.corrupted[:n])
    return finding, some


@remembered
def problem_of(
    network: Network, asked: AskedQuestion, n_pos: int | None, side: Literal["finding", "judging"]
) -> Problem:
    """The problem of one side's pairs."""
    finding, judging = pairs_of(network, asked)
    return make_problem(
        subject(network),
        finding if side == "finding" else judging,
        metric=asked.metric,
        ablation=asked.ablation,
        direction=asked.direction,
        per_position=n_pos is not None,
    )


@remembered
def scores_of(network: Network, asked: AskedQuestion, n_pos: int | None, method: str) -> Scores:
    """Scores of all edges by a method. Raises what the method raises."""
    problem = problem_of(network, asked, n_pos, "finding")
    return between_clicks(methods.get(method)().score(problem, seed=asked.seed))


@remembered
def found_by(
    network: Network, asked: AskedQuestion, n_pos: int | None, method: str
) -> tuple[str, ...]:
    """Edges of the smallest faithful circuit, as `workbench circuit` finds it.

    Raises `CircuitError` where there is none.
    """
    scores = scores_of(network, asked, n_pos, method)
    problem = problem_of(network, asked, n_pos, "finding")
    found = between_clicks(smallest_circuit(problem, scores, faithfulness=SOUGHT))
    if found.circuit is None:
        raise CircuitError(
            f"no circuit by {method} reaches faithfulness {SOUGHT}; the network may not do its "
            "task: look at the accuracy map on the Network page"
        )
    return found.circuit.edges


@remembered
def faithfulness_of(network: Network, asked: AskedQuestion, state: "Edges") -> Measured:
    """Faithfulness of a circuit on the judging pairs, with its interval."""
    problem = problem_of(network, asked, state.n_pos, "judging")
    found = faithfulness(problem, [state.circuit(network)], seed=asked.seed)
    return Measured(float(found.values[0]), found.interval(0), len(found.full))


@remembered
def effect_of(network: Network, asked: AskedQuestion, n_pos: int | None, edge: str) -> Measured:
    """Exact effect of patching one edge, by intervention, on the pairs that edges are scored on."""
    problem = problem_of(network, asked, n_pos, "finding")
    keep = problem.graph.is_edge.clone()
    keep[problem.graph.index(edge)] = False
    effects = (measure_circuits(problem, keep[None].float())[0] - problem.base_metric).double()
    values = effects.cpu().tolist()
    return Measured(sum(values) / len(values), mean_interval(values), len(values))


@remembered
def without(network: Network, asked: AskedQuestion, state: "Edges", name: str) -> Measured:
    """Faithfulness of a circuit without an edge or a node."""
    ground = ground_of(network)
    left = Remove(name).apply(State(n_pos=state.n_pos, bits=state.bits), ground)
    return faithfulness_of(network, asked, Edges(n_pos=left.n_pos, bits=left.bits))


@remembered
def judged(network: Network, analysis: EvaluationAnalysis | CircuitAnalysis) -> Recorded:
    """The record of an analysis of the network, as the command line would make it."""
    steps = record_steps(analysis, network.run, step=network.step, device=find_device("auto"))
    return between_clicks(steps)


def between_clicks(steps: Generator[Progress, None, T]) -> T:
    """What work gives in the end; a click on the page meanwhile ends it.

    Streamlit stops a script where it looks at the state of its session, and only there.
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        st.session_state.get("run")


class Edges(NamedTuple):
    """The edges of a state: what its numbers depend on, its marks left out."""

    n_pos: int | None
    bits: str

    def circuit(self, network: Network) -> Circuit:
        """As a circuit."""
        return ground_of(network).circuit(State(n_pos=self.n_pos, bits=self.bits))


def edges_of(state: State) -> Edges:
    """The edges of a state."""
    return Edges(n_pos=state.n_pos, bits=state.bits)


def evaluation_of(network: Network, asked: AskedQuestion, circuit: Circuit) -> EvaluationAnalysis:
    """What is asked of an edited circuit: whether it does the task on the judging pairs.

    Raises `ConfigError` for a circuit without edges.
    """
    _, judging = pairs_of(network, asked)
    parameters = {
        **asked.drawn,
        "clean": tuple(network.task.text(judging.clean)),
        "corrupted": tuple(network.task.text(judging.corrupted)),
        "edges": circuit.edges,
        "per_position": circuit.graph.n_pos is not None,
    }
    return config.from_dict(EvaluationAnalysis, parameters, where="the circuit")


def kept_record(network: Network, analysis: EvaluationAnalysis | CircuitAnalysis) -> Record | None:
    """The record of just this question about these weights, where it was kept before."""
    checkpoint = Checkpoint(
        step=network.step, weights_sha256=network.run.weights_sha256(network.step)
    )
    asked_id = record_id(analysis.kind, config.to_dict(analysis), (checkpoint,))
    return next((one for one in read_records(network.run) if one.id == asked_id), None)


def search_of(asked: AskedQuestion, n_pos: int | None, method: str) -> CircuitAnalysis:
    """What is asked where a circuit is sought. Raises `ConfigError`."""
    parameters: dict[str, Any] = {
        **asked.drawn,
        "method": method,
        "per_position": n_pos is not None,
    }
    return config.from_dict(CircuitAnalysis, parameters, where="the search")


def is_quick(network: Network, asked: AskedQuestion, n_pos: int | None, method: str) -> bool:
    """Whether scoring by a method is done while a page waits."""
    graph = Graph(network.run.config.model, n_pos)
    passes = graph.n_edges if method == "exact" else PASSES.get(method, MANY_PASSES)
    return passes * _one_run(network, asked.pairs) <= AT_ONCE


def is_judged_at_once(network: Network, asked: AskedQuestion, circuit: Circuit) -> bool:
    """Whether a circuit is judged beside random ones while a page waits."""
    nodes = len(circuit.components())
    knocked_out = 2 * (1 + nodes + 20 + nodes * nodes / 2)
    removed = (circuit.n_edges + nodes + 20) * (nodes + 1) * 32 / (2 * asked.pairs)
    cells = 200 + knocked_out + removed
    return cells * _one_run(network, 2 * asked.pairs) <= AT_ONCE


def _one_run(network: Network, n: int) -> float:
    """Numbers written in one run of a circuit on `n` pairs."""
    shape = network.run.config.model
    writers = 2 + shape.n_layers * (shape.n_heads + bool(shape.d_mlp))
    per_row = shape.d_model * (2 * writers + 6 * shape.n_heads + 6) + 2 * shape.d_mlp
    return float(n * network.task.n_ctx * per_row * shape.n_layers)


def is_empty(state: State) -> bool:
    """Whether a state has no edge."""
    return not state.bits.strip("0")


def is_whole(circuit: Circuit) -> bool:
    """Whether a circuit is the whole network."""
    return bool(torch.equal(circuit.member.cpu(), circuit.graph.is_edge))

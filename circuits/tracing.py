"""From a run to a circuit: draw pairs, score edges, choose the circuit, judge it on other pairs.

from circuits import find_circuit, judge_circuit, problem_of
found = find_circuit(problem_of(run))
print(judge_circuit(problem_of(run, seed=1), found.circuit).faithfulness)
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from circuits.circuit import Circuit, Selection, top_edges
from circuits.evaluate import Evaluation, evaluate
from circuits.faithfulness import ranked, smallest_circuit
from circuits.method import Scores, methods
from circuits.problem import Ablation, Direction, Problem, make_problem
from workbench.errors import CircuitError, PairError
from workbench.pairs import Pairs, draw_mixed_pairs, pairs_of_all_inputs, usual_corruptions
from workbench.progress import Progress, finish
from workbench.run import Run
from workbench.subject import subject_of
from workbench.task import Task

SOUGHT = 0.93
"""Faithfulness that the smallest circuit is sought for: above 0.9 with room, for it must be at
least 0.9 on pairs that it was not found on."""
EXHAUSTIVE_UP_TO = 4096
"""Domains up to this many inputs are evaluated whole; larger ones only when asked to."""
FOUND_ON = 3
"""Of a domain that is evaluated whole, a circuit is found on at most one input in so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A circuit and the scores that it was chosen by."""

    circuit: Circuit
    scores: Scores
    selection: Selection


def problem_of(
    run: Run,
    *,
    n_pairs: int = 64,
    corruptions: Sequence[str] | None = None,
    pairs: Pairs | None = None,
    metric: str = "logit_difference",
    ablation: Ablation = "resample",
    direction: Direction = "noising",
    per_position: bool = False,
    seed: int = 0,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> Problem:
    """A problem on a run's network, with pairs drawn by the task's usual corruptions.

    Another seed draws other pairs. Raises what `subject_of`, `draw_mixed_pairs` and `make_problem`
    raise.
    """
    subject = subject_of(run, step=step, device=device)
    if pairs is None:
        generator = torch.Generator().manual_seed(seed)
        hows = corruptions or usual_corruptions(subject.task)
        pairs = draw_mixed_pairs(subject.task, hows, n_pairs, generator)
    return make_problem(
        subject,
        pairs,
        metric=metric,
        ablation=ablation,
        direction=direction,
        per_position=per_position,
    )


def pairs_to_find_and_judge(
    task: Task,
    *,
    n_pairs: int = 64,
    corruptions: Sequence[str] | None = None,
    exhaustive: bool = False,
    seed: int = 0,
) -> tuple[Pairs, Pairs, bool]:
    """Pairs to find a circuit on, others to judge it on, and whether these hold every other input.

    No clean input is in both. A small domain is listed, as any is when `exhaustive`: the circuit is
    found on at most a third of it, drawn at random, and judged on the rest. Raises `PairError`
    where there are too few inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    hows = corruptions or usual_corruptions(task)
    if exhaustive or task.domain_size <= EXHAUSTIVE_UP_TO:
        every = pairs_of_all_inputs(task, hows, generator)
        order = torch.randperm(len(every), generator=generator)
        n = min(n_pairs, len(every) // FOUND_ON)
        if not n:
            raise PairError(
                f"{len(every)} inputs: at least {FOUND_ON} are needed to find a circuit"
            )
        return _some_of(every, order[:n]), _some_of(every, order[n:]), True
    finding = draw_mixed_pairs(task, hows, n_pairs, generator)
    drawn = draw_mixed_pairs(task, hows, 2 * n_pairs, generator)
    seen = {tuple(row) for row in finding.clean.tolist()}
    fresh = [i for i, row in enumerate(drawn.clean.tolist()) if tuple(row) not in seen]
    if not fresh:
        raise PairError("no input is left that the circuit was not found on; ask for fewer pairs")
    return finding, _some_of(drawn, torch.tensor(fresh)), False


def pairs_to_judge(
    task: Task,
    *,
    n_pairs: int = 64,
    corruptions: Sequence[str] | None = None,
    exhaustive: bool = False,
    seed: int = 0,
) -> tuple[Pairs, bool]:
    """Pairs to judge a circuit on that was given, and whether these hold every input.

    A small domain is listed, as any is when `exhaustive`. Raises `PairError` or `TaskError` where
    there are too few or too many inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    hows = corruptions or usual_corruptions(task)
    if exhaustive or task.domain_size <= EXHAUSTIVE_UP_TO:
        return pairs_of_all_inputs(task, hows, generator), True
    return draw_mixed_pairs(task, hows, n_pairs, generator), False


def find_circuit(
    problem: Problem,
    *,
    method: str = "eap_ig",
    n_edges: int | None = None,
    selection: Selection = "absolute",
    seed: int = 0,
) -> Found:
    """`circuit_steps` without progress, for notebooks."""
    steps = circuit_steps(problem, method=method, n_edges=n_edges, selection=selection, seed=seed)
    return finish(steps)


def circuit_steps(
    problem: Problem,
    *,
    method: str = "eap_ig",
    n_edges: int | None = None,
    selection: Selection = "absolute",
    seed: int = 0,
) -> Generator[Progress, None, Found]:
    """Score the edges and take the best `n_edges`, or the fewest that are faithful.

    Raises `UnknownName` for a method, `CircuitError` for more edges than there are, where no
    circuit is faithful or its faithfulness is undefined, and what `Method.score` raises.
    """
    scorer = methods.get(method)()
    total = problem.graph.n_edges
    if n_edges is not None and not 0 < n_edges <= total:
        raise CircuitError(f"{n_edges} edges asked for; the graph has {total} edges")
    scores = yield from scorer.score(problem, seed=seed)
    if n_edges is not None:
        order = ranked(problem, scores, selection)
        circuit = top_edges(problem.graph, order, n_edges, selection=selection)
        return Found(circuit=circuit, scores=scores, selection=selection)
    found = yield from smallest_circuit(problem, scores, faithfulness=SOUGHT, selection=selection)
    if found.circuit is None:
        raise CircuitError(
            f"no circuit by {method} reaches faithfulness {SOUGHT}; the network may not do its "
            "task: see `workbench explain`"
        )
    return Found(circuit=found.circuit, scores=scores, selection=selection)


def judge_circuit(problem: Problem, circuit: Circuit, *, seed: int = 0) -> Evaluation:
    """`circuits.evaluate.evaluate` without progress, for notebooks."""
    return finish(evaluate(problem, circuit, seed=seed))


def _some_of(pairs: Pairs, rows: torch.Tensor) -> Pairs:
    return Pairs(task=pairs.task, clean=pairs.clean[rows], corrupted=pairs.corrupted[rows])

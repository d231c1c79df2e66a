"""Patching and circuits from the command line: what is asked, and what is written beside a run."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apps.explain import join_finding
from circuits.cells import Subject
from circuits.circuit import Circuit, Selection
from circuits.evaluate import Evaluation, evaluate
from circuits.mechanism import Progress
from circuits.method import Scores
from circuits.patching import Sweep, sweep
from circuits.problem import Ablation, Direction, Problem, make_problem
from circuits.tracing import circuit_steps, subject_of
from workbench.errors import CircuitError, PairError
from workbench.finding import Control, Finding, Interval
from workbench.pairs import (
    Pairs,
    draw_mixed_pairs,
    pairs_from_text,
    pairs_of_all_inputs,
    usual_corruptions,
)
from workbench.run import Run
from workbench.storage import atomic_write, to_json
from workbench.version import __version__

EXHAUSTIVE_UP_TO = 4096
"""Domains up to this many inputs are evaluated whole; larger ones only when asked to."""
SIGNIFICANT = 0.05
"""False discovery rate below which an effect counts."""
PATCH_RULE = f"supported where q < {SIGNIFICANT} and its interval lies above the other parts' mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the person asked: which pairs, which metric, what patching means."""

    metric: str = "logit_difference"
    ablation: Ablation = "resample"
    direction: Direction = "noising"
    pairs: int = 64
    corruptions: tuple[str, ...] = ()
    """The task's usual ones where empty."""
    clean: tuple[str, ...] = ()
    corrupted: tuple[str, ...] = ()
    """Inputs as text, instead of drawn ones."""
    seed: int = 0
    step: int | None = None
    per_position: bool = False
    exhaustive: bool = False


def patch_run(
    run: Run,
    question: Question,
    site: str,
    by: Sequence[str] | None,
    device: torch.device,
) -> Generator[Progress, None, tuple[dict[str, Any], Sweep]]:
    """Sweep a run's network; the strongest effect joins the run's findings."""
    subject = subject_of(run, step=question.step, device=device)
    pairs = _pairs(subject, question, torch.Generator().manual_seed(question.seed))
    problem = _problem(subject, question, pairs)
    found = yield from sweep(problem, site, by=by)
    told = found.to_dict(seed=question.seed)
    document = _document(run, question.step, told)
    if found.mean.numel() > 1:
        finding = _patch_finding(found, told)
        join_finding(run, question.step, finding)
    return document, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A circuit with everything that was found out about it."""

    document: dict[str, Any]
    circuit: Circuit
    scores: Scores


def trace_circuit(
    run: Run,
    question: Question,
    method: str,
    n_edges: int | None,
    selection: Selection,
    device: torch.device,
    *,
    n_random: int = 100,
) -> Generator[Progress, None, Traced]:
    """Find a circuit on some pairs and evaluate it on others.

    Without `n_edges` the smallest faithful one is sought. Raises `CircuitError` where there is
    none, or more edges were asked for than there are.
    """
    subject = subject_of(run, step=question.step, device=device)
    generator = torch.Generator().manual_seed(question.seed)
    problem = _problem(subject, question, _pairs(subject, question, generator))
    found = yield from circuit_steps(
        problem, method=method, n_edges=n_edges, selection=selection, seed=question.seed
    )
    circuit, scores = found.circuit, found.scores
    held_out, exhaustive = _evaluation_pairs(subject, question, generator)
    fresh = _problem(subject, question, held_out)
    judged = yield from evaluate(
        fresh, circuit, n_random=n_random, seed=question.seed, exhaustive=exhaustive
    )
    told = _circuit_document(scores, circuit, judged, selection)
    document = _document(run, question.step, told)
    join_finding(run, question.step, _circuit_finding(method, judged))
    name = f"circuit-{method}.json"
    content = document | {"circuit": circuit.to_dict()}
    atomic_write(run.path / name, to_json(content, where=name, indent=1))
    return Traced(document=document, circuit=circuit, scores=scores)


def _pairs(subject: Subject, question: Question, generator: torch.Generator) -> Pairs:
    if question.clean or question.corrupted:
        return pairs_from_text(subject.task, question.clean, question.corrupted)
    hows = question.corruptions or usual_corruptions(subject.task)
    return draw_mixed_pairs(subject.task, hows, question.pairs, generator)


def _evaluation_pairs(
    subject: Subject, question: Question, generator: torch.Generator
) -> tuple[Pairs, bool]:
    """Pairs to judge a circuit on, and whether they hold every input."""
    task = subject.task
    if question.clean:
        raise PairError(
            "a circuit is evaluated on other pairs than it was found on, so it needs more than "
            "the ones written out; leave --clean and --corrupted out"
        )
    hows = question.corruptions or usual_corruptions(task)
    if question.exhaustive or task.domain_size <= EXHAUSTIVE_UP_TO:
        return pairs_of_all_inputs(task, hows, generator), True
    return draw_mixed_pairs(task, hows, 2 * question.pairs, generator), False


def _problem(subject: Subject, question: Question, pairs: Pairs) -> Problem:
    return make_problem(
        subject,
        pairs,
        metric=question.metric,
        ablation=question.ablation,
        direction=question.direction,
        per_position=question.per_position,
    )


def _document(run: Run, step: int | None, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "workbench": __version__,
        "task": run.task.to_dict(),
        "run": str(run.path),
        "weights_sha256": run.weights_sha256(step),
        "step": run.steps[-1] if step is None else step,
        **told,
    }


def _circuit_document(
    scores: Scores, circuit: Circuit, judged: Evaluation, selection: Selection
) -> dict[str, Any]:
    told = judged.to_dict()
    complete, minimal = told.pop("completeness"), told.pop("minimality")
    return {
        **scores.to_dict(),
        **told,
        "selection": selection,
        "edges": circuit.n_edges,
        "pairs_for_finding": scores.n,
        "completeness": complete["worst_normalised"],
        "completeness_details": complete,
        "minimality": minimal["share"],
        "minimality_details": minimal,
        "components": list(circuit.components()),
        "edge_list": [{"edge": edge, "score": scores.of(edge)} for edge in circuit.edges],
    }


def _circuit_finding(method: str, judged: Evaluation) -> Finding:
    return Finding(
        id=f"circuit_{method}",
        claim=f"{judged.n_edges} of {judged.total_edges} edges, found by {method}, do the task",
        measure=f"faithfulness in {judged.metric}, {judged.ablation} ablation, {judged.direction}: "
        "1 is the whole network, 0 no edge at all",
        value=judged.faithfulness,
        n=judged.n,
        interval=judged.faithfulness_interval,
        held_out=None if judged.exhaustive else judged.faithfulness,
        controls=(
            Control(
                name="random circuits of as many edges",
                value=judged.random_mean,
                n=judged.n_random,
                interval=judged.random_interval,
            ),
            Control(
                name="random circuits without dead ends",
                value=judged.connected_mean,
                n=judged.n_random,
                interval=judged.connected_interval,
            ),
        ),
        verdict=judged.verdict,
        rule=judged.rule,
        details={
            "random percentile": judged.random_percentile,
            "connected percentile": judged.connected_percentile,
        },
    )


def _patch_finding(found: Sweep, told: dict[str, Any]) -> Finding:
    """The part with the largest effect, beside the mean of all others."""
    rows = told["rows"]
    best = max(range(len(rows)), key=lambda i: abs(rows[i]["effect"]))
    row = rows[best]
    sign = 1 if row["effect"] >= 0 else -1
    others = [sign * other["effect"] for i, other in enumerate(rows) if i != best]
    control = sum(others) / len(others)
    low, high = row["low"], row["high"]
    interval: Interval | None = None
    if low is not None:
        interval = (low, high) if sign > 0 else (-high, -low)
    sure = row["q"] < SIGNIFICANT and interval is not None and interval[0] > control
    where = ", ".join(f"{axis} {row[axis]}" for axis in found.axes)
    return Finding(
        id=f"patch_{found.site}",
        claim=f"of all parts, {found.site} at {where} moves {found.metric} most when patched",
        measure=f"mean effect, towards {'more' if sign > 0 else 'less'} {found.metric}; "
        f"{found.ablation} ablation, {found.direction}",
        value=sign * row["effect"],
        n=found.n,
        interval=interval,
        held_out=None,
        controls=(
            Control(
                name="mean of the other parts",
                value=control,
                n=len(others),
                interval=None,
                unit="parts",
            ),
        ),
        verdict="supported" if sure else "not supported",
        rule=PATCH_RULE,
        details={"q": row["q"]},
    )


def output_kind(path: Path) -> str:
    """The format that a file's name asks for. Raises `CircuitError` for any but three."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "csv"):
        raise CircuitError(f"--out {path}: end its name in .png, .svg or .csv")
    return kind

"""Patching, circuits and evaluations as analyses: records that draw the same, replays that hold."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from circuits import tracing
from circuits.analyses._asked import MetricName
from circuits.analyses.circuit import CircuitAnalysis, circuit_of
from circuits.analyses.evaluation import EvaluationAnalysis
from circuits.analyses.patching import PatchingAnalysis, sweep_of, without_rounding
from circuits.evaluate import FEWEST_DRAWS
from circuits.graph import Graph
from circuits.knockouts import minimality
from circuits.patching import Sweep
from circuits.tracing import find_circuit, pairs_to_judge, problem_of
from tests.unit.small_run import MODEL, train
from workbench.analysis import Analysis, Recorded, analysis_from, record_steps
from workbench.errors import CircuitError, ConfigError, PairError
from workbench.metrics import METRICS
from workbench.pairs import pairs_of_all_inputs
from workbench.progress import finish
from workbench.run import Run, open_run
from workbench.session.comparing import compare
from workbench.subject import Subject, subject_of
from workbench.task import make_task

CPU = torch.device("cpu")
EDGES = ("embed->m0", "a0.h1->logits", "embed->a0.h1<v>")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of untrained networks that add modulo 5."""
    path: Path = tmp_path_factory.mktemp("analyses") / "run"
    train(path, last=1)
    return open_run(path)


def asked(run: Run, analysis: Analysis) -> Recorded:
    return finish(record_steps(analysis, run, step=None, device=CPU))


# ---------------------------------------------------------------------- parameters


def test_the_choices_are_those_there_are() -> None:
    assert get_args(MetricName) == METRICS
    assert FEWEST_DRAWS == 100  # the lower bound of `Draws`


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("patching", {"metric": "loss"}),
        ("patching", {"direction": "denoise"}),
        ("patching", {"pairs": 0}),
        ("patching", {"pairs": 1_000_001}),
        ("patching", {"seed": 2**32}),
        ("patching", {"site": "x" * 201}),
        ("patching", {"site": "head\x1b[2J"}),
        ("patching", {"clean": ["1 + 2 ="] * 1001}),
        ("patching", {"corruptions": ["change_a"] * 9}),
        ("circuit", {"n_edges": -1}),
        ("circuit", {"n_random": 99}),
        ("circuit", {"n_random": 10_001}),
        ("circuit", {"selection": "largest"}),
        ("evaluation", {"edges": []}),
        ("evaluation", {"edges": "embed->m0"}),
        ("evaluation", {"edges": ["embed->m0"] * 100_001}),
        ("evaluation", {}),
    ],
)
def test_absurd_parameters_are_refused(kind: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"parameters of {kind}"):
        analysis_from(kind, parameters)


def test_a_given_circuit_is_called_after_its_edges_in_any_order() -> None:
    one = EvaluationAnalysis(edges=EDGES)
    assert one.words() == EvaluationAnalysis(edges=(*EDGES[::-1], EDGES[0])).words()
    assert one.words() != EvaluationAnalysis(edges=EDGES[:2]).words()
    assert len(one.words()) == 2 and len(one.words()[1]) == 8
    further = EvaluationAnalysis(edges=EDGES, metric="accuracy", direction="denoising")
    assert further.words() == [*one.words(), "accuracy", "denoising"]


# ---------------------------------------------------------------------- sweeps


def test_a_sweep_comes_back_from_its_record(run: Run) -> None:
    """Every number is in the file: mean effects, intervals and p-values are computed again."""
    recorded = asked(run, PatchingAnalysis(by=("position",), pairs=9, seed=4, ablation="mean"))
    found = sweep_of(*recorded)
    assert found.effects.shape == (1, 2, 3, 9)  # layer, head, position, pair
    again = found.to_dict(seed=4)
    assert again == recorded.record.result
    assert found.axes == ("layer", "head", "position")
    assert found.labels == ((0,), (0, 1), (0, 1, 2))


def test_a_damaged_sweep_is_told(run: Run) -> None:
    record, arrays = asked(run, PatchingAnalysis(pairs=2))
    cut = {**arrays, "effects": arrays["effects"][0]}
    with pytest.raises(CircuitError, match="do not fit the axes"):
        sweep_of(record, cut)
    with pytest.raises(CircuitError, match="no whole sweep"):
        sweep_of(record, {"effects": arrays["effects"]})
    with pytest.raises(CircuitError, match="no whole sweep"):
        sweep_of(record.model_copy(update={"result": {"axes": ["layer"]}}), arrays)
    with pytest.raises(CircuitError, match="no whole circuit"):
        circuit_of(record, arrays, MODEL)


def test_effects_of_rounding_are_none() -> None:
    """16 roundings of 100 in float32 are 1.9e-4; a cell of such noise has p = 1 and no sign."""
    noise = torch.full((1, 10), 1.5e-4)
    real = torch.full((1, 10), 2.5e-4)
    found = without_rounding(
        Sweep(
            site="resid_pre",
            axes=("layer",),
            labels=((0, 1),),
            effects=torch.cat([noise, -real]),
            base_metric=torch.full((10,), -100.0),
            other_metric=torch.zeros(10),
            metric="logit_difference",
            ablation="resample",
            direction="noising",
        )
    )
    assert torch.equal(found.effects, torch.cat([torch.zeros(1, 10), -real]))
    p = found.p_values()
    assert p[0] == 1.0 and p[1] == pytest.approx(2 / 2**10)  # all signs, or all the other way
    assert without_rounding(found).effects.equal(found.effects)


# ---------------------------------------------------------------------- circuits


@pytest.mark.parametrize("per_position", [False, True])
def test_a_circuit_comes_back_from_its_record(run: Run, per_position: bool) -> None:
    analysis = CircuitAnalysis(method="eap", n_edges=6, pairs=8, per_position=per_position)
    recorded = asked(run, analysis)
    circuit, scores = circuit_of(*recorded, MODEL)
    on, _, _ = tracing.pairs_to_find_and_judge(run.task, n_pairs=8)
    problem = problem_of(run, pairs=on, per_position=per_position)
    found = find_circuit(problem, method="eap", n_edges=6)
    assert circuit.edges == found.circuit.edges and circuit.n_edges == 6
    assert torch.equal(scores, found.scores.values)
    assert circuit.graph == Graph(MODEL, 3 if per_position else None)


def test_an_evaluation_holds_what_each_removal_changes(run: Run) -> None:
    """Beside `minimality` on the same 25 inputs, of which it takes 32, that is all."""
    recorded = asked(run, EvaluationAnalysis(edges=EDGES))
    circuit, removal = circuit_of(*recorded, MODEL)
    assert set(circuit.edges) == set(EDGES)
    generator = torch.Generator().manual_seed(0)
    pairs = pairs_of_all_inputs(run.task, ("change_a", "change_b"), generator)
    assert recorded.record.result["n"] == len(pairs) == 25
    problem = problem_of(run, pairs=pairs)
    effects = finish(minimality(problem, circuit, n_sets=0))
    expected = dict(zip(effects.members, effects.effects.tolist(), strict=True))
    for edge in circuit.graph.edges:
        wanted = expected[edge] if edge in EDGES else 0.0
        assert float(removal[circuit.graph.index(edge)]) == wanted, edge
    (finding,) = recorded.record.findings
    assert "on every input, 25" in finding.measure and finding.claim.startswith("3 of 21 edges")


def test_a_circuit_of_another_network_or_a_cut_one_is_told(run: Run) -> None:
    record, arrays = asked(run, EvaluationAnalysis(edges=EDGES))
    with pytest.raises(CircuitError, match="do not fit the graph"):
        circuit_of(record, arrays, replace(MODEL, n_heads=1))
    with pytest.raises(CircuitError, match="no whole circuit"):
        circuit_of(record, {}, MODEL)
    many = {"removal": torch.zeros(2**30, 0, 0)}  # a graph of so many positions fills any memory
    with pytest.raises(CircuitError, match="1073741824 positions; the network reads 3"):
        circuit_of(record, many, MODEL)
    with pytest.raises(CircuitError, match="no edge 'm0->m0'"):
        asked(run, EvaluationAnalysis(edges=("m0->m0",)))


def test_written_pairs_are_judged_as_they_are(run: Run) -> None:
    clean, corrupted = ("1 + 2 =", "3 + 4 ="), ("1 + 3 =", "2 + 4 =")
    analysis = EvaluationAnalysis(edges=EDGES, clean=clean, corrupted=corrupted)
    record = asked(run, analysis).record
    assert record.result["n"] == 2 and record.result["exhaustive"] is False
    assert record.findings[0].id.endswith("_written_pairs")
    with pytest.raises(PairError, match="1 clean and 0 corrupted"):
        asked(run, PatchingAnalysis(clean=("1 + 2 =",)))


def test_large_domains_are_judged_whole_only_when_asked() -> None:
    large = make_task("modular_addition", {"p": 71})  # 5041 inputs
    drawn, whole = pairs_to_judge(large, n_pairs=10)
    assert (len(drawn), whole) == (10, False)
    every, whole = pairs_to_judge(large, n_pairs=10, exhaustive=True)
    assert whole and sorted(every.clean.tolist()) == large.domain().tolist()


# ---------------------------------------------------------------------- replays


ASKED: list[Analysis] = [
    PatchingAnalysis(site="resid_pre", pairs=32),
    PatchingAnalysis(site="neuron", pairs=32, metric="kl_divergence", direction="noising"),
    CircuitAnalysis(n_edges=8, pairs=8),
    EvaluationAnalysis(edges=EDGES),
]


@pytest.mark.parametrize("analysis", ASKED, ids=lambda one: "_".join(one.beside_usual()) or "usual")
def test_a_replay_in_float64_agrees_and_an_edited_number_does_not(
    run: Run, analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Double precision stands for another device: it rounds otherwise, everywhere."""
    recorded = asked(run, analysis)

    def doubled(run: Run, *, step: int | None, device: torch.device | str) -> Subject:
        subject = subject_of(run, step=step, device=device)
        return replace(subject, params={n: x.double() for n, x in subject.params.items()})

    monkeypatch.setattr(tracing, "subject_of", doubled)
    again = asked(run, analysis)
    # The dtype of the arrays shows that it was another computation; for the rest it does not count.
    kept = {name: x.to(recorded.arrays[name].dtype) for name, x in again.arrays.items()}
    found = compare(recorded, again._replace(arrays=kept), analysis.tolerances)
    assert not found.differences, [str(one) for one in found.differences]
    assert 0 < found.closeness <= 0.5  # tolerances leave room, and are not beside the point
    finding = recorded.record.findings[0]
    moved = replace(finding, value=finding.value + 0.001 * max(1.0, abs(finding.value)))
    edited = recorded.record.model_copy(update={"findings": (moved,)})
    differences = compare(Recorded(edited, recorded.arrays), recorded, analysis.tolerances)
    assert [one.path for one in differences.differences] == ["findings.0.value"]
    assert math.isclose(abs(moved.value - finding.value), differences.differences[0].by or 0)


def test_a_record_from_before_lines_were_halved_agrees(run: Run) -> None:
    """Its settings hold the steps, what they were sought within, and no halvings."""
    analysis = CircuitAnalysis(n_edges=8, pairs=8)
    now = asked(run, analysis)
    settings = dict(now.record.result["settings"])
    assert settings.pop("halvings") == 0 and settings["most_steps"] == 1024
    older = now.record.model_copy(update={"result": now.record.result | {"settings": settings}})
    found = compare(Recorded(older, now.arrays), now, analysis.tolerances, added=analysis.added)
    assert not found.differences
    other = now.record.result | {"settings": settings | {"halvings": 3}}
    changed = Recorded(now.record.model_copy(update={"result": other}), now.arrays)
    (found_one,) = compare(changed, now, analysis.tolerances, added=analysis.added).differences
    assert found_one.path == "result.settings.halvings"

"""Numbers of a circuit that is being edited: those that the record has, on other pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from apps.web.choice import Network, find_run, network_of, subject
from apps.web.trace.circuit import number_rows
from apps.web.trace.circuit_numbers import (
    Edges,
    effect_of,
    evaluation_of,
    faithfulness_of,
    judged,
    pairs_of,
    scores_of,
    without,
)
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import bits_of
from circuits.circuit import Circuit, circuit_of
from circuits.evaluate import evaluate
from circuits.method import methods
from circuits.problem import make_problem
from circuits.tracing import pairs_to_find_and_judge
from tests.app.app_folder import FULL
from tests.app.trace_circuits import ASKED, whole
from workbench.progress import finish


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def test_live_numbers_are_those_of_the_evaluation_on_pairs_it_was_not_found_on(
    network: Network,
) -> None:
    finding, judging = pairs_of(network, ASKED)
    expected = pairs_to_find_and_judge(network.task, n_pairs=16)
    assert torch.equal(finding.clean, expected[0].clean)
    assert torch.equal(judging.clean, expected[1].clean[:32])
    seen = {tuple(row) for row in finding.clean.tolist()}
    assert not seen & {tuple(row) for row in judging.clean.tolist()}
    edges = ("embed->m0", "embed->a0.h0<v>", "a0.h0->m0", "m0->logits")
    circuit = circuit_of(ground_of(network).graph(None), edges)
    record = judged(network, evaluation_of(network, ASKED, circuit)).record
    problem = make_problem(subject(network), judging, direction="denoising")
    direct = finish(evaluate(problem, circuit, seed=0))
    result: Any = record.result
    assert result["n"] == 32 and result["verdict"] == direct.verdict
    assert result["faithfulness"] == pytest.approx(direct.faithfulness, abs=1e-6)
    assert result["random_percentile"] == direct.random_percentile
    assert result["connected_mean"] == pytest.approx(direct.connected_mean, abs=1e-6)
    assert result["completeness"] == pytest.approx(
        direct.completeness.to_dict()["worst_normalised"], abs=1e-5
    )
    live = faithfulness_of(network, ASKED, Edges(n_pos=None, bits=bits_of(circuit)))
    assert live.value == pytest.approx(direct.faithfulness, abs=1e-6) and live.n == 32
    assert live.interval == pytest.approx(direct.faithfulness_interval, abs=1e-6)
    rows = {row["number"]: row["value"] for row in number_rows(record)}
    assert rows["Faithfulness"].startswith(f"{round(direct.faithfulness, 3) + 0.0:.3g} [")
    assert rows["Nearer to 1 than"] == f"{direct.random_percentile:.4g} % of random"


def test_nothing_is_faithful_0_and_everything_1(network: Network) -> None:
    for n_pos in (None, network.task.n_ctx):
        bits = bits_of(whole(network, n_pos))
        everything = faithfulness_of(network, ASKED, Edges(n_pos=n_pos, bits=bits))
        nothing = faithfulness_of(network, ASKED, Edges(n_pos=n_pos, bits=""))
        assert everything.value == pytest.approx(1, abs=1e-9)
        assert nothing.value == pytest.approx(0, abs=1e-9)


def test_the_effect_of_an_edge_is_the_exact_score(network: Network) -> None:
    finding, _ = pairs_of(network, ASKED)
    problem = make_problem(subject(network), finding, direction="denoising")
    exact = finish(methods.get("exact")().score(problem))
    for edge in ("embed->m0", "a0.h1->m0", "m0->logits", "embed->a0.h0<k>"):
        found = effect_of(network, ASKED, None, edge)
        assert found.value == pytest.approx(exact.of(edge), abs=2e-4) and found.n == 16


def test_without_a_node_is_the_circuit_less_its_edges(network: Network) -> None:
    circuit = whole(network)
    left = circuit.without_component("a0.h0")
    found = without(network, ASKED, Edges(n_pos=None, bits=bits_of(circuit)), "a0.h0")
    direct = faithfulness_of(network, ASKED, Edges(n_pos=None, bits=bits_of(left)))
    assert found == direct and found.value != 1


@pytest.mark.parametrize("which", ["untrained", "random"])
def test_what_does_not_do_the_task_is_not_supported(network: Network, which: str) -> None:
    if which == "untrained":
        network = network_of(network.run, network.run.steps[0])
        scores = scores_of(network, ASKED, None, "eap_ig").values
        graph = ground_of(network).graph(None)
        best = scores.abs().flatten().argsort(descending=True)[:12]
        member = torch.zeros_like(graph.is_edge)
        member.view(-1)[best] = True
        circuit = Circuit(graph, member & graph.is_edge)
        reason = "the network does not do its task"
    else:
        edges = whole(network).edges
        order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(3))
        circuit = circuit_of(ground_of(network).graph(None), [edges[i] for i in order[:12]])
        reason = "its faithfulness is"
    record = judged(network, evaluation_of(network, ASKED, circuit)).record
    assert record.findings[0].verdict == "not supported"
    assert reason in str(record.result["reason"])

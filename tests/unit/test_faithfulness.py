"""Faithfulness: networks whose circuit is known, and identities on random ones.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit, circuit_of
from circuits.edges import measure_circuits
from circuits.evaluate import evaluate
from circuits.faithfulness import (
    FaithfulnessCurve,
    cmd,
    cpr,
    faithfulness,
    faithfulness_curve,
    oriented,
    smallest_circuit,
)
from circuits.knockouts import completeness
from circuits.method import methods
from circuits.problem import ABLATIONS
from circuits.random_circuits import random_circuits
from tests.unit.test_edges import problem as random_problem
from tests.unit.test_evaluate import PLANTED, close, or_gate, paths, planted
from workbench.errors import CircuitError
from workbench.metrics import Metric
from workbench.progress import finish


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("seed", range(6))
def test_faithfulness_is_one_for_all_edges_and_zero_for_none(seed: int, direction: str) -> None:
    made = replace(random_problem(seed, per_position=seed % 2 == 1), direction=direction)
    whole = Circuit(made.graph, made.graph.is_edge)
    found = faithfulness(made, [whole, whole.complement()])
    close(found.values, [1.0, 0.0])
    close(found.full, made.base_metric)
    close(found.empty, made.other_metric)
    # Both ends move with every redrawn pair, so the ratio never leaves 1 and 0.
    assert found.bounds is not None
    close(found.bounds, [[1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("seed", [4, 7])
def test_faithfulness_divides_means_by_means(seed: int, ablation: str) -> None:
    """Circuits of a random network, dead ends and all, against single runs."""
    made = replace(random_problem(seed), ablation=ablation)
    circuits = random_circuits(made.graph, 9, 4, seed=3)
    found = faithfulness(made, circuits)
    nothing = measure_circuits(made, 0 * circuits[0].keep)[0]
    for index, circuit in enumerate(circuits):
        metric = measure_circuits(made, circuit.keep)[0]
        close(found.circuits[index], metric)
        expected = (metric.mean() - nothing.mean()) / (made.base_metric.mean() - nothing.mean())
        close(found.values[index], expected)


def test_the_planted_circuit_is_faithful_and_half_of_it_is_not() -> None:
    made = planted()
    graph = made.graph
    edges = [PLANTED, PLANTED[:1], PLANTED[1:], (*PLANTED, "embed->logits")]
    found = faithfulness(made, [circuit_of(graph, some) for some in edges])
    # Per pair m(M) = 1 - 0 and m(none) = 0 - 1; half a path carries nothing.
    close(found.full, [1.0] * 20)
    close(found.empty, [-1.0] * 20)
    close(found.values, [1.0, 0.0, 0.0, 1.0])


def test_the_interval_agrees_with_the_delta_method() -> None:
    """600 pairs whose circuit metric is 0.6 of the gap plus noise.

    To first order the ratio's standard error is sd(above - 0.6 gap) / (sqrt(n) mean(gap)). The
    2.5th percentile of 1000 draws is off by 0.085 standard errors (one sigma), and the noise's
    own sd by 3 %: 0.35 standard errors are four sigma.
    """
    n = 600
    generator = torch.Generator().manual_seed(0)
    gap = 2 + torch.randn(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    cells = torch.stack([0.6 * gap + noise, gap, 0 * gap])
    made = or_gate()
    rows = torch.ones(n, 1, dtype=torch.long)

    def metric(logits: Tensor) -> Tensor:
        # As many heads as are kept, 0 to 2, choose which row of numbers is told.
        level = logits[..., 0, 0].round().long()
        return cells[torch.tensor([2, 0, 1])[level], torch.arange(n)]

    made = replace(
        made, clean=rows, corrupted=0 * rows, metric=Metric(name="told", function=metric)
    )
    found = faithfulness(made, [paths(made, "a0.h0")])
    error = float(noise.std() / (n**0.5 * gap.mean()))
    value = float(found.values[0])
    assert value == pytest.approx(0.6 + float(noise.mean() / gap.mean()), abs=1e-10)
    low, high = found.interval(0) or (0.0, 0.0)
    assert low == pytest.approx(value - 1.96 * error, abs=0.35 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.35 * error)


def test_a_zero_gap_is_an_error() -> None:
    made = planted()
    same = replace(made, corrupted=made.clean)
    circuit = circuit_of(made.graph, PLANTED)
    for call in (
        lambda: faithfulness(same, [circuit]),
        lambda: finish(completeness(same, circuit)),
        lambda: finish(faithfulness_curve(same, torch.ones(made.graph.is_edge.shape))),
        lambda: finish(evaluate(same, circuit)),
    ):
        with pytest.raises(CircuitError, match="normalised effects are undefined"):
            call()
    with pytest.raises(CircuitError, match="own graph"):
        faithfulness(made, [circuit_of(or_gate().graph, [])])


def test_areas_of_a_curve_worked_out_by_hand() -> None:
    values = torch.tensor([0.0, 0.5, 1.2, 1.0], dtype=torch.float64)
    curve = FaithfulnessCurve(sizes=(0, 1, 2, 4), values=values, selection="signed", n=1)
    # Widths 1/4, 1/4, 1/2; f averages 0.25, 0.85, 1.1 and |1 - f| averages 0.75, 0.35, 0.1.
    assert cpr(curve) == pytest.approx(0.0625 + 0.2125 + 0.55, abs=1e-12)
    assert cmd(curve) == pytest.approx(0.1875 + 0.0875 + 0.05, abs=1e-12)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("selection", ["signed", "absolute"])
def test_the_curve_of_the_planted_network(selection: str, direction: str) -> None:
    made = replace(planted(), direction=direction)
    found = finish(methods.get("exact")().score(made))
    scores = found.values
    # Noising lowers the metric, denoising raises it; signed selection looks the right way.
    sign = 1 if direction == "denoising" else -1
    assert oriented(made, scores).max() == sign * scores[made.graph.index("embed->m0")] == 2
    assert torch.equal(oriented(made, found), oriented(made, scores))
    # What has no sign is not turned round.
    assert torch.equal(oriented(made, replace(found, signed=False)), scores)
    curve = finish(faithfulness_curve(made, scores, [2, 1], selection=selection))
    total = made.graph.n_edges
    assert (curve.sizes, curve.selection, curve.n) == ((0, 1, 2, total), selection, 20)
    if direction == "noising":  # one edge carries nothing
        close(curve.values, [0.0, 0.0, 1.0, 1.0])
    close(curve.values[[0, 2, 3]], [0.0, 1.0, 1.0])
    close(curve.shares, [0, 1 / total, 2 / total, 1])


def test_the_smallest_circuit_is_the_planted_one_or_none() -> None:
    made = planted()
    scores = finish(methods.get("exact")().score(made)).values
    found = finish(smallest_circuit(made, scores, selection="signed"))
    assert found.circuit is not None and found.circuit.edges == PLANTED
    assert found.faithfulness == pytest.approx(1, abs=1e-10)
    none = finish(smallest_circuit(made, scores, max_edges=1))
    assert none.circuit is None and none.faithfulness is None and set(none.tried) == {1}


def test_the_smallest_circuit_is_found_between_the_sizes_of_the_grid() -> None:
    made = planted()
    graph = made.graph
    assert graph.n_edges == 61  # the grid takes every second size
    scores = torch.zeros(graph.is_edge.shape)
    places = [place for place in graph.is_edge.nonzero().tolist()]
    others = [place for place in places if graph.name(tuple(place)) not in PLANTED]
    order = [*others[:40], list(graph.index(PLANTED[0])), *others[40:46]]
    order += [list(graph.index(PLANTED[1])), *others[46:]]
    for rank, place in enumerate(order):
        scores[tuple(place)] = 61 - rank
    found = finish(smallest_circuit(made, scores))
    # The second planted edge is the 48th.
    assert min(n for n, value in found.tried.items() if value > 0.9) == 48
    assert found.tried[47] == pytest.approx(0, abs=1e-10)
    assert found.circuit is not None and set(PLANTED) <= set(found.circuit.edges)
    assert found.circuit.n_edges == found.circuit.pruned().n_edges < 48

"""Hypothesis tests for circuits: known answers, scipy as oracle, and how often they err."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy import stats

from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.hypotheses import (
    equivalence,
    holm,
    hsic_independence,
    independence,
    minimality,
    partial_necessity,
    sign_equivalence,
    sufficiency,
)
from circuits.problem import Problem
from circuits.random_circuits import inflate, random_circuits, random_path
from tests.reference.networks import random_config
from tests.unit.test_edges import problem as random_problem
from tests.unit.test_evaluate import PLANTED, planted
from workbench.errors import CircuitError
from workbench.progress import finish


def graded() -> Problem:
    """The planted network, louder for later tokens, so that scores differ from pair to pair."""
    made = planted()
    loud = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    params = made.params | {"embed.W_E": made.params["embed.W_E"] * loud}
    return replace(made, params=params)


def whole(made: Problem) -> Circuit:
    return Circuit(made.graph, made.graph.is_edge)


def scores_with(above: int, below: int, tied: int) -> tuple[torch.Tensor, torch.Tensor]:
    model = torch.linspace(1, 2, above + below + tied)
    shift = torch.cat([torch.ones(above), -torch.ones(below), torch.zeros(tied)])
    return model + shift, model


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("above", "below"), [(0, 20), (20, 0), (11, 10), (14, 6), (3, 4), (9, 9)])
def test_equivalence_sums_the_binomial_tails(above: int, below: int, epsilon: float) -> None:
    n = above + below
    found = sign_equivalence(*scores_with(above, below, 0), epsilon=epsilon)
    binomial = stats.binom(n, 0.5 + epsilon)
    tails = sum(binomial.pmf(k) for k in range(n + 1) if abs(2 * k - n) >= abs(2 * above - n))
    # Sums of at most 21 probabilities, in another order.
    assert found.p_value == pytest.approx(tails, abs=1e-12)
    assert found.statistic == pytest.approx(abs(above / n - 0.5), abs=1e-12)
    assert (found.n, found.rejected) == (n, tails <= 0.05)
    if epsilon == 0:  # then it is the exact two-sided sign test
        assert found.p_value == pytest.approx(stats.binomtest(above, n).pvalue, abs=1e-12)


@pytest.mark.parametrize("share", [0.4, 0.45, 0.5, 0.6])
def test_equivalence_errs_no_more_often_than_its_level(share: float) -> None:
    """Exactly, by going through every count that 60 pairs can give under the null hypothesis."""
    n = 60
    rejected = [
        sign_equivalence(*scores_with(k, n - k, 0), epsilon=0.1).rejected for k in range(n + 1)
    ]
    error = sum(stats.binom(n, share).pmf(k) for k in range(n + 1) if rejected[k])
    assert error <= 0.05
    assert rejected[0] and rejected[n] and not rejected[n // 2]


def test_ties_count_half_for_either_side() -> None:
    found = sign_equivalence(*scores_with(3, 1, 6))
    assert found.statistic == pytest.approx(abs((3 + 6 / 2) / 10 - 0.5), abs=1e-12)
    assert found.details["share_tied"] == 0.6
    with pytest.raises(CircuitError, match="below"):
        sign_equivalence(*scores_with(1, 1, 0), epsilon=0.5)


def test_the_whole_network_is_equivalent_to_itself_and_nothing_is_not() -> None:
    made = planted()
    for circuit in (whole(made), circuit_of(made.graph, PLANTED)):
        found = equivalence(made, circuit)
        assert (found.p_value, found.passes, found.details["share_tied"]) == (1.0, True, 1.0)
    empty = equivalence(made, circuit_of(made.graph, []))
    # All 20 pairs are worse.
    assert empty.p_value == pytest.approx(0.4**20 + 0.6**20, rel=1e-9)
    assert empty.rejected and not empty.passes
    assert empty.to_dict()["passes"] is False and empty.to_dict()["n"] == 20


def test_the_independence_statistic_is_the_trace_that_defines_it() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 15, generator=generator, dtype=torch.float64)
    kernels = []
    for values in (x, y):
        distance = (values[:, None] - values[None]).abs()
        width = torch.tensor([float(distance[i, j]) for i in range(15) for j in range(i)]).median()
        kernels.append((-(distance**2) / (2 * width**2)).exp())
    centring = torch.eye(15, dtype=torch.float64) - 1 / 15
    expected = torch.trace(kernels[0] @ centring @ kernels[1] @ centring) / 15**2
    found = hsic_independence(x, y, generator=generator, n_permutations=10)
    # The median above passed through float32.
    assert found.statistic == pytest.approx(float(expected), rel=1e-6)


def test_independence_errs_at_its_level_and_sees_what_correlation_misses() -> None:
    generator = torch.Generator().manual_seed(0)
    p_values = []
    for _ in range(300):
        x, y = torch.randn(2, 25, generator=generator)
        p_values.append(hsic_independence(x, y, generator=generator, n_permutations=99).p_value)
    # p is uniform on 0.01 ... 1: 15 of 300 at 0.05 (sd 3.8) and mean 0.505 (sd 0.0167); 4 sd.
    assert 0 < sum(p <= 0.05 for p in p_values) <= 30
    assert sum(p_values) / 300 == pytest.approx(0.505, abs=0.067)
    x = torch.randn(60, generator=generator)
    found = hsic_independence(x, x**2, generator=generator, n_permutations=199)
    assert found.p_value == 1 / 200 and found.rejected
    constant = hsic_independence(0 * x, x, generator=generator)
    assert (constant.statistic, constant.p_value, constant.passes) == (0, 1, True)


def test_what_is_left_of_the_planted_network_is_independent_of_it() -> None:
    made = replace(graded(), ablation="zero")
    assert independence(made, circuit_of(made.graph, PLANTED)).passes
    # Without a useless edge the network does just what it did.
    useless = independence(made, circuit_of(made.graph, ["embed->logits"]))
    assert useless.p_value == 1 / 1001 and not useless.passes


def test_minimality_finds_the_edge_that_is_not_needed() -> None:
    made = planted()
    found = finish(minimality(made, circuit_of(made.graph, PLANTED)))
    assert found.test.passes and found.idle == () and found.test.statistic == 100
    # Either end of the path takes m from 1 to -1; no added edge does anything.
    assert found.effects.tolist() == [2, 2] and found.random_effects.abs().max() == 0
    more = finish(minimality(made, circuit_of(made.graph, [*PLANTED, "embed->m1", "m1->logits"])))
    assert set(more.idle) == {"embed->m1", "m1->logits"} and not more.test.passes
    # An idle edge exceeds none of 100 draws: 0.1^100, of which the smallest of four is reported.
    assert more.test.p_value == pytest.approx(4 * 0.1**100, rel=1e-9)
    with pytest.raises(CircuitError, match="without edges"):
        finish(minimality(made, circuit_of(made.graph, [])))
    with pytest.raises(CircuitError, match="no path adds"):
        finish(minimality(made, whole(made), n_random=1))


def test_minimality_counts_as_a_binomial_test_does() -> None:
    made = random_problem(4)
    circuit = random_circuits(made.graph, 10, 1, seed=0, kind="connected")[0]
    found = finish(minimality(made, circuit, n_random=40, quantile=0.7))
    exceeded = (found.effects[:, None] > found.random_effects).sum(-1).tolist()
    assert 0 < max(exceeded) and min(exceeded) < 40
    plain = [stats.binomtest(k, 40, 0.7, alternative="less").pvalue for k in exceeded]
    order = sorted(range(len(plain)), key=plain.__getitem__)
    reached = 0.0
    for rank, index in enumerate(order):
        reached = max(reached, min(1.0, plain[index] * (len(plain) - rank)))
        assert float(found.p_values[index]) == pytest.approx(reached, rel=1e-9, abs=0)


def test_holm_by_hand() -> None:
    p_values = torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)
    expected = torch.tensor([0.03, 0.06, 0.06], dtype=torch.float64)
    torch.testing.assert_close(holm(p_values), expected, atol=1e-12, rtol=0)


def test_the_planted_circuit_is_sufficient_and_an_empty_one_is_not() -> None:
    made = planted()
    found = finish(sufficiency(made, circuit_of(made.graph, PLANTED)))
    # No other pair of 61 edges does anything.
    assert found.statistic == 1 and found.passes
    oracle = stats.binomtest(100, 100, 0.9, alternative="greater").pvalue
    assert found.p_value == pytest.approx(oracle, rel=1e-9)
    empty = finish(sufficiency(made, circuit_of(made.graph, [])))
    assert (empty.statistic, empty.p_value, empty.passes) == (0, 1, False)


def test_the_network_misses_the_planted_circuit() -> None:
    made = planted()
    circuit = circuit_of(made.graph, PLANTED)
    outside = finish(partial_necessity(made, circuit, drawn_from="complement"))
    assert outside.statistic == 1 and outside.passes
    # A random circuit with either planted edge is missed just as much.
    drawn = random_circuits(made.graph, 2, 100, seed=0)
    without = sum(not set(PLANTED) & set(other.edges) for other in drawn)
    found = finish(partial_necessity(made, circuit))
    assert found.statistic == without / 100 < 1
    oracle = stats.binomtest(without, 100, 0.9, alternative="greater").pvalue
    assert found.p_value == pytest.approx(oracle, rel=1e-9)
    half = circuit_of(made.graph, ["embed->logits", "m1->logits"])
    assert not finish(partial_necessity(made, half, drawn_from="complement")).passes
    with pytest.raises(CircuitError, match="at most the 0 edges"):
        finish(partial_necessity(made, whole(made), drawn_from="complement"))


@pytest.mark.parametrize("n_pos", [None, 4])
@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_random_paths_lead_from_an_embedding_to_the_logits(
    n_pos: int | None, attention_dir: str
) -> None:
    graph = Graph(replace(random_config(1), attention_dir=attention_dir, n_ctx=4), n_pos)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        places = random_path(graph, [1, 2], generator)
        path = circuit_of(graph, [graph.name(place) for place in places])
        assert path.pruned().edges == path.edges
        if n_pos is not None:
            assert places[-1][0] in (1, 2)
            steps = [after[0] - before[0] for before, after in pairwise(places)]
            assert attention_dir == "bidirectional" or all(step >= 0 for step in steps)
    base = circuit_of(graph, [graph.edges[0]])
    inflated, added = inflate(base, 20, 0, positions=[1, 2])
    assert (added.flatten(1).sum(-1) == 1).all() and not (added & base.member).any()
    assert (added & ~inflated).sum() == 0 and (inflated & base.member).flatten(1).any(-1).all()

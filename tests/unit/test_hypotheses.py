"""Hypothesis tests for circuits: known answers, scipy as oracle, and how often they err."""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import median_low
from typing import Any, get_args

import pytest
import torch
from scipy import stats

from circuits.circuit import Circuit, circuit_of
from circuits.edges import circuit_logits
from circuits.graph import Graph
from circuits.hsic import Width
from circuits.hypotheses import (
    Distance,
    HypothesisTest,
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
from tests.unit.test_evaluate import PLANTED, V, planted, task_problem, zeros
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig
from workbench.progress import finish


def graded() -> Problem:
    """The planted network, louder for later tokens, so that scores differ from pair to pair."""
    made = planted()
    loud = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    params = made.params | {"embed.W_E": made.params["embed.W_E"] * loud}
    return replace(made, params=params)


def whole(made: Problem) -> Circuit:
    return Circuit(made.graph, made.graph.is_edge)


def one_layer() -> Problem:
    """A single head that does nothing, and an MLP that alone carries the token to the logits."""
    config = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=2 * V,
        d_head=1,
        d_mlp=V,
        d_vocab=V,
        d_vocab_out=V,
        n_ctx=1,
        mlp_biases=False,
    )
    params, eye = zeros(config), torch.eye(V, dtype=torch.float64)
    params["embed.W_E"][:, :V] = eye
    params["blocks.0.mlp.W_in"][:V] = eye
    params["blocks.0.mlp.W_out"][:, V:] = eye
    params["unembed.W_U"][V:] = eye
    return task_problem(params, config)


def apart(made: Problem, circuit: Circuit, other: Circuit, distance: Distance) -> float:
    """Mean distance of two circuits' scores: each run alone, the mean taken pair by pair."""
    ours, others = (
        made.metric(circuit_logits(made, some.keep.double())[0]).tolist()
        for some in (circuit, other)
    )
    power = {"squared": 2, "absolute": 1}[distance]
    return sum(abs(x - y) ** power for x, y in zip(ours, others, strict=True)) / len(ours)


def exceeds(larger: float, smaller: float) -> bool:
    """By more than float64 sums in another order differ."""
    return larger > smaller and not math.isclose(larger, smaller, rel_tol=1e-9)


def agrees_with_binomtest(found: HypothesisTest, beaten: int) -> None:
    assert found.statistic == beaten / found.n
    oracle = stats.binomtest(beaten, found.n, found.details["quantile"], alternative="greater")
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert found.passes == (oracle.pvalue <= 0.05)


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


@pytest.mark.parametrize("width", ["own", "shared"])
def test_the_independence_statistic_is_the_trace_that_defines_it(width: Width) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 15, generator=generator, dtype=torch.float64)
    y = 3 * y + 1  # the sides differ in scale, and so do the two widths
    sides = x.tolist(), y.tolist()
    widths = [
        median_low(abs(side[i] - side[j]) for i in range(15) for j in range(i)) for side in sides
    ]
    if width == "shared":
        widths = [median_low(abs(a - b) for a in sides[0] for b in sides[1])] * 2
    kernels = [
        torch.tensor(
            [[math.exp(-((a - b) ** 2) / (2 * wide**2)) for a in side] for b in side],
            dtype=torch.float64,
        )
        for side, wide in zip(sides, widths, strict=True)
    ]
    centring = torch.eye(15, dtype=torch.float64) - 1 / 15
    expected = torch.trace(kernels[0] @ centring @ kernels[1] @ centring) / 15**2
    found = hsic_independence(x, y, generator=generator, n_permutations=10, width=width)
    # Sums of 225 terms of at most 1 in another order.
    assert found.statistic == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("width", ["own", "shared"])
def test_independence_errs_at_its_level_and_sees_what_correlation_misses(width: Width) -> None:
    generator = torch.Generator().manual_seed(0)
    p_values = []
    for _ in range(300):
        x, y = torch.randn(2, 25, generator=generator)
        found = hsic_independence(x, y, generator=generator, n_permutations=99, width=width)
        p_values.append(found.p_value)
    # p is uniform on 0.01 ... 1: 15 of 300 at 0.05 (sd 3.8) and mean 0.505 (sd 0.0167); 4 sd.
    assert 0 < sum(p <= 0.05 for p in p_values) <= 30
    assert sum(p_values) / 300 == pytest.approx(0.505, abs=0.067)
    x = torch.randn(60, generator=generator)
    found = hsic_independence(x, x**2, generator=generator, n_permutations=199, width=width)
    assert found.p_value == 1 / 200 and found.rejected
    constant = hsic_independence(0 * x, x, generator=generator, width=width)
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


def test_minimality_takes_the_distance_that_was_asked_for() -> None:
    made = random_problem(4)
    circuit = random_circuits(made.graph, 6, 1, seed=0, kind="connected")[0]
    for distance in get_args(Distance):
        found = finish(minimality(made, circuit, n_random=5, distance=distance))
        root = {"squared": 0.5, "absolute": 1.0}[distance]
        for edge, effect in zip(found.edges, found.effects.tolist(), strict=True):
            without = circuit.difference(circuit_of(made.graph, [edge]))
            # Sums of three pairs' scores, each of some hundred terms of order 1.
            expected = apart(made, without, circuit, distance) ** root
            assert effect == pytest.approx(expected, abs=1e-10)
    default = finish(minimality(made, circuit, n_random=5))
    squared = finish(minimality(made, circuit, n_random=5, distance="squared"))
    assert torch.equal(default.effects, squared.effects)
    assert not torch.allclose(default.effects, found.effects)
    # What random edges change, in circuits that are inflated by a path each.
    inflated, added = inflate(circuit, 5, 0, positions=[2, 0])
    for index, effect in enumerate(squared.random_effects.tolist()):
        before, after = inflated[index], inflated[index] & ~added[index]
        pair = Circuit(made.graph, before), Circuit(made.graph, after)
        assert effect == pytest.approx(apart(made, *pair, "squared") ** 0.5, abs=1e-10)


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
    # Only a random circuit with both planted edges does anything, and it does all.
    drawn = random_circuits(made.graph, 2, 100, seed=0, kind="paths")
    both = sum(set(PLANTED) <= set(other.edges) for other in drawn)
    assert both > 0 and found.passes
    agrees_with_binomtest(found, 100 - both)
    assert found.details["share_tied"] == both / 100
    assert found.details["mean_random_edges"] == sum(other.n_edges for other in drawn) / 100
    empty = finish(sufficiency(made, circuit_of(made.graph, [])))
    assert (empty.statistic, empty.p_value, empty.passes) == (0, 1, False)
    # A circuit that does nothing ties with the random ones that do nothing, and beats none.
    idle = finish(sufficiency(made, circuit_of(made.graph, ["embed->logits", "m1->logits"])))
    assert (idle.statistic, idle.passes, idle.details["share_tied"]) == (
        0,
        False,
        (100 - both) / 100,
    )


def test_a_circuit_has_to_beat_random_paths_and_not_just_random_edges() -> None:
    made = one_layer()
    circuit = circuit_of(made.graph, [*PLANTED, "embed->logits"])
    uniform = random_circuits(made.graph, 3, 400, seed=0)
    paths = random_circuits(made.graph, 3, 400, seed=0, kind="paths")
    alone = [sum(not set(PLANTED) <= set(c.edges) for c in some) for some in (uniform, paths)]
    # Of all three edges out of 13, both planted ones are in 11 of 286.
    assert stats.binomtest(alone[0], 400, 1 - 11 / 286).pvalue > 1e-4
    assert stats.binomtest(alone[0], 400, 0.9, alternative="greater").pvalue < 0.01
    found = finish(sufficiency(made, circuit, n_random=400))
    agrees_with_binomtest(found, alone[1])
    assert not found.passes
    # The first path alone is the planted one once in ten.
    assert found.statistic < 0.9


@pytest.mark.parametrize("per_position", [False, True])
def test_counts_are_those_of_scores_measured_one_circuit_at_a_time(per_position: bool) -> None:
    made = replace(random_problem(1, per_position=per_position), ablation="mean")
    graph, ends, full = made.graph, made.positions, whole(made)
    circuit = random_circuits(graph, 8, 1, seed=1, kind="connected", positions=ends)[0]
    places: dict[str, Circuit] = {"graph": full, "complement": circuit.complement()}
    drawn: dict[Any, list[Circuit]] = {
        place: random_circuits(
            graph, circuit.n_edges, 40, 7, kind="paths", within=within, positions=ends
        )
        for place, within in places.items()
    }
    chosen: dict[str, Any] = {"n_random": 40, "quantile": 0.3, "seed": 7}
    nearer = []
    for distance in get_args(Distance):
        ours = apart(made, circuit, full, distance)
        nearer.append(sum(exceeds(apart(made, c, full, distance), ours) for c in drawn["graph"]))
        found = finish(sufficiency(made, circuit, distance=distance, **chosen))
        agrees_with_binomtest(found, nearer[-1])
        missed = apart(made, circuit.complement(), full, distance)
        for place, others in drawn.items():
            more = sum(exceeds(missed, apart(made, c.complement(), full, distance)) for c in others)
            found = finish(
                partial_necessity(made, circuit, drawn_from=place, distance=distance, **chosen)
            )
            agrees_with_binomtest(found, more)
    # The two distances rank circuits differently here, so neither can pass for the other.
    assert len(set(nearer)) == 2 and all(0 < count < 40 for count in nearer)
    default = finish(sufficiency(made, circuit, **chosen))
    assert default.statistic == nearer[get_args(Distance).index("squared")] / 40


def test_the_network_misses_the_planted_circuit() -> None:
    made = planted()
    circuit = circuit_of(made.graph, PLANTED)
    outside = finish(partial_necessity(made, circuit, drawn_from="complement"))
    assert outside.statistic == 1 and outside.passes
    # A random circuit with either planted edge is missed just as much.
    drawn = random_circuits(made.graph, 2, 100, seed=0, kind="paths")
    without = sum(not set(PLANTED) & set(other.edges) for other in drawn)
    assert 0 < without < 100
    found = finish(partial_necessity(made, circuit))
    agrees_with_binomtest(found, without)
    assert found.details["share_tied"] == (100 - without) / 100
    half = circuit_of(made.graph, ["embed->logits", "m1->logits"])
    assert not finish(partial_necessity(made, half, drawn_from="complement")).passes
    with pytest.raises(CircuitError, match="at most the 0 edges on paths"):
        finish(partial_necessity(made, whole(made), drawn_from="complement"))


def test_random_paths_end_where_the_problem_scores() -> None:
    """Edges that lead to other positions alone are no random circuits, nor counted as room."""
    made = random_problem(4, per_position=True)
    first = replace(
        made, positions=(0,), metric=replace(made.metric, function=lambda x: x.sum(-1).sum(-1))
    )
    room = whole(first).pruned([0]).n_edges
    assert 0 < room < first.graph.n_edges
    finish(sufficiency(first, whole(first).pruned([0]), n_random=1))
    with pytest.raises(CircuitError, match=f"at most the {room} edges on paths"):
        finish(sufficiency(first, whole(first), n_random=1))


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

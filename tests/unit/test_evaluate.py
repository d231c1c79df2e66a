"""Evaluation: networks whose circuit is known, identities on random ones, and a clear no.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit, circuit_of, top_edges
from circuits.edges import measure_circuits
from circuits.evaluate import Evaluation, evaluate, judge
from circuits.faithfulness import (
    FaithfulnessCurve,
    cmd,
    cpr,
    faithfulness,
    faithfulness_curve,
    oriented,
    smallest_circuit,
)
from circuits.graph import Graph
from circuits.knockouts import completeness, minimality
from circuits.method import methods
from circuits.problem import ABLATIONS, Problem
from circuits.random_circuits import percentile_near_one, random_circuits, random_edges_outside
from tests.unit.test_edges import problem as random_problem
from workbench.errors import CircuitError
from workbench.metrics import Metric, logit_difference
from workbench.params import ModelConfig, Params, init_params, param_shapes
from workbench.progress import finish

V = 5
"""Tokens of the planted network."""


def close(ours: Tensor, expected: object) -> None:
    torch.testing.assert_close(
        ours, torch.as_tensor(expected, dtype=ours.dtype), atol=1e-10, rtol=0
    )


def planted_config() -> ModelConfig:
    return ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=2 * V,
        d_head=V,
        d_mlp=V,
        d_vocab=V,
        d_vocab_out=V,
        n_ctx=1,
        mlp_biases=False,
    )


def zeros(config: ModelConfig) -> Params:
    shapes = param_shapes(config).items()
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes}


def planted_params() -> Params:
    """Token x is written on axis x; m0 alone moves it to axis V + x, which the logits read."""
    params = zeros(planted_config())
    eye = torch.eye(V, dtype=torch.float64)
    params["embed.W_E"][:, :V] = eye
    params["blocks.0.mlp.W_in"][:V] = eye
    params["blocks.0.mlp.W_out"][:, V:] = eye
    params["unembed.W_U"][V:] = eye
    return params


PLANTED = ("embed->m0", "m0->logits")


def task_problem(params: Params, config: ModelConfig) -> Problem:
    """All ordered pairs of different tokens; the answer is the token itself."""
    tokens = range(config.d_vocab)
    pairs = [(a, b) for a in tokens for b in tokens if a != b]
    clean, corrupted = (torch.tensor(side)[:, None] for side in zip(*pairs, strict=True))
    scored = torch.ones_like(clean, dtype=torch.bool)
    return Problem(
        params=params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        metric=Metric(
            name="logit_difference",
            function=lambda x: logit_difference(x, clean, corrupted, scored),
        ),
        positions=(0,),
        graph=Graph(config),
    )


def planted() -> Problem:
    return task_problem(planted_params(), planted_config())


def or_gate(n_heads: int = 2) -> Problem:
    """Heads that each copy the clean token's 1 to one logit; the metric is min(1, their sum)."""
    config = ModelConfig(
        n_layers=1, n_heads=n_heads, d_model=2, d_head=1, d_mlp=0, d_vocab=2, d_vocab_out=2, n_ctx=1
    )
    params = zeros(config)
    params["embed.W_E"][1, 0] = 1
    params["blocks.0.attn.W_V"][:, 0, 0] = 1
    params["blocks.0.attn.W_O"][:, 0, 1] = 1
    params["unembed.W_U"][1, 0] = 1
    return Problem(
        params=params,
        config=config,
        clean=torch.ones(3, 1, dtype=torch.long),
        corrupted=torch.zeros(3, 1, dtype=torch.long),
        metric=Metric(name="or", function=lambda x: x[..., 0, 0].clamp(max=1)),
        positions=(0,),
        graph=Graph(config),
    )


def paths(made: Problem, *heads: str) -> Circuit:
    """The path through each of these heads of the OR gate."""
    edges = [edge for name in heads for edge in (f"embed->{name}<v>", f"{name}->logits")]
    return circuit_of(made.graph, edges)


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


def test_completeness_catches_an_or_gate_that_faithfulness_misses() -> None:
    made = or_gate()
    half, whole = paths(made, "a0.h0"), paths(made, "a0.h0", "a0.h1")
    close(faithfulness(made, [half, whole]).values, [1.0, 1.0])
    found = finish(completeness(made, half)).to_dict()
    assert (found["worst"], found["worst_normalised"]) == (1.0, 1.0)
    assert found["worst_set"] == ["a0.h0"]
    assert finish(completeness(made, whole)).to_dict()["worst"] == 0.0


def test_the_greedy_search_finds_a_set_that_no_single_component_shows() -> None:
    """Of three stand-ins the circuit holds two: only with both out does the third show."""
    made = or_gate(n_heads=3)
    circuit = paths(made, "a0.h0", "a0.h1")
    assert finish(completeness(made, circuit, n_sets=0, greedy_steps=1)).values.max() == 0
    found = finish(completeness(made, circuit, n_sets=0)).to_dict()
    assert found["worst"] == 1.0 and set(found["worst_set"]) == {"a0.h0", "a0.h1"}
    # Nothing, two single components: all chosen before looking, all zero.
    assert found["mean"] == 0.0


@pytest.mark.parametrize("per_position", [False, True])
def test_completeness_is_what_knocking_out_one_set_at_a_time_gives(per_position: bool) -> None:
    made = random_problem(7, per_position=per_position)
    circuit = random_circuits(made.graph, made.graph.n_edges // 2, 1, seed=1)[0]
    whole = Circuit(made.graph, made.graph.is_edge)
    found = finish(completeness(made, circuit, n_sets=3, greedy_steps=3))
    assert len(found.sets) > found.n_fixed == 1 + len(circuit.components()) + 3
    for names, value in zip(found.sets, found.values, strict=True):
        ours, theirs = circuit, whole
        for name in names:
            ours, theirs = ours.without_component(name), theirs.without_component(name)
        metric = measure_circuits(made, torch.cat([ours.keep, theirs.keep])).mean(-1)
        close(value, (metric[0] - metric[1]).abs())
    close(torch.tensor(found.gap), float((made.base_metric - made.other_metric).mean()))


def test_minimality_needs_the_stand_in_out_of_the_way() -> None:
    made = or_gate()
    whole = Circuit(made.graph, made.graph.is_edge)
    found = finish(minimality(made, whole, n_sets=0))
    path = {*paths(made, "a0.h0", "a0.h1").edges, "a0.h0", "a0.h1"}
    effects = dict(zip(found.members, found.effects.tolist(), strict=True))
    assert effects == {name: float(name in path) for name in (*whole.edges, "a0.h0", "a0.h1")}
    sets = dict(zip(found.members, found.sets, strict=True))
    assert sets["a0.h0"] == ("a0.h1",) and sets["a0.h1->logits"] == ("a0.h0",)
    # 2 writers into 3 readers of 2 heads and 4 into the logits; no edge is outside.
    assert found.share == 6 / (16 + 2) and found.threshold == 0 and not len(found.outside)


def test_minimality_of_the_planted_circuit_with_a_useless_edge() -> None:
    made = planted()
    found = finish(minimality(made, circuit_of(made.graph, [*PLANTED, "embed->logits"])))
    effects = dict(zip(found.members, found.effects.tolist(), strict=True))
    # m falls from 1 to -1 with any part of the path; nothing outside adds anything.
    assert effects == {"embed->m0": 2, "m0->logits": 2, "embed->logits": 0, "m0": 2}
    assert found.to_dict()["share"] == 0.75 and found.threshold == 0


@pytest.mark.parametrize("per_position", [False, True])
def test_minimality_is_what_removing_one_member_at_a_time_gives(per_position: bool) -> None:
    made = random_problem(1, per_position=per_position)
    graph = made.graph
    circuit = random_circuits(graph, 20, 1, seed=2, kind="connected")[0]
    found = finish(minimality(made, circuit, n_sets=0, n_outside=5))
    tried = [(), *((name,) for name in circuit.components())]
    places = random_edges_outside(circuit, 5, 0).tolist()
    outside = [circuit_of(graph, [graph.name(tuple(place))]) for place in places]
    changed = [circuit.difference(circuit_of(graph, [edge])) for edge in circuit.edges]
    changed += [circuit.without_component(name) for name in circuit.components()]
    changed += [circuit.union(edge) for edge in outside]

    def without(some: Circuit, names: tuple[str, ...]) -> Tensor:
        for name in names:
            some = some.without_component(name)
        return some.keep

    kept = torch.cat([without(some, names) for some in (circuit, *changed) for names in tried])
    means = measure_circuits(made, kept).mean(-1).reshape(1 + len(changed), len(tried))
    expected = (means[1:] - means[0]).abs().amax(-1)
    close(torch.cat([found.effects, found.outside]), expected)
    assert len(found.outside) == len(places) > 3 and found.threshold == float(found.outside.max())


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
    scores = finish(methods.get("exact")().score(made)).values
    # Noising lowers the metric, denoising raises it; signed selection looks the right way.
    sign = 1 if direction == "denoising" else -1
    assert oriented(made, scores).max() == sign * scores[made.graph.index("embed->m0")] == 2
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


def test_random_circuits_take_every_edge_alike() -> None:
    graph = or_gate().graph
    drawn = random_circuits(graph, 3, 2000, seed=0)
    assert {circuit.n_edges for circuit in drawn} == {3}
    counts = torch.stack([circuit.member for circuit in drawn]).sum(0)[graph.is_edge]
    # 2000 * 3/16 = 375 each, sd sqrt(375 * 13/16) = 17.5; 5 sd for the largest of 16.
    assert (counts - 375).abs().max() < 88
    again = random_circuits(graph, 3, 5, seed=0)
    assert [circuit.edges for circuit in again] == [circuit.edges for circuit in drawn[:5]]
    with pytest.raises(CircuitError, match="at most the 16 edges"):
        random_circuits(graph, 17, 1, seed=0)


@pytest.mark.parametrize("per_position", [False, True])
def test_connected_random_circuits_have_no_dead_ends(per_position: bool) -> None:
    graph = random_problem(7, per_position=per_position).graph
    drawn = random_circuits(graph, 20, 30, seed=1, kind="connected")
    sizes = [circuit.n_edges for circuit in drawn]
    assert [circuit.pruned().n_edges for circuit in drawn] == sizes
    # One more edge revives a few others at most.
    assert 18 <= sum(sizes) / 30 <= 22 and min(sizes) > 0
    assert len({circuit.edges for circuit in drawn}) == 30


def test_the_percentile_counts_distance_from_one_and_halves_ties() -> None:
    others = torch.tensor([0.2, 0.95, 1.5, 0.9, 1.1], dtype=torch.float64)
    # 0.9 is nearer than 0.2 and 1.5, ties with 0.9 and 1.1, farther than 0.95.
    assert percentile_near_one(0.9, others) == pytest.approx(100 * (2 + 2 / 2) / 5)


def test_the_planted_circuit_is_supported() -> None:
    made = planted()
    found = finish(evaluate(made, circuit_of(made.graph, PLANTED)))
    assert found.verdict == "supported"
    assert (found.n_edges, found.total_edges, found.n, found.gap_share) == (2, 61, 20, 1.0)
    assert found.faithfulness == pytest.approx(1, abs=1e-10)
    assert found.random_percentile >= 99 and found.random_mean < 0.1
    data = json.loads(json.dumps(found.to_dict()))
    assert data["completeness"]["worst"] == pytest.approx(0, abs=1e-10)
    assert data["minimality"]["share"] == 1.0 and data["verdict"] == "supported"
    assert set(data) == set(Evaluation.__dataclass_fields__)
    assert (
        finish(evaluate(made, circuit_of(made.graph, PLANTED), exhaustive=True)).to_dict()[
            "faithfulness_interval"
        ]
        is None
    )


def test_wrong_circuits_of_the_planted_network_are_not_supported() -> None:
    made = planted()
    whole = Circuit(made.graph, made.graph.is_edge)
    everything = finish(evaluate(made, whole, n_random=20))
    # All edges are perfectly faithful, and so is every other circuit of that size.
    assert everything.faithfulness == pytest.approx(1, abs=1e-10)
    assert everything.random_percentile == 50 and everything.verdict == "not supported"
    half = finish(evaluate(made, circuit_of(made.graph, PLANTED[:1]), n_random=20))
    assert half.verdict == "not supported"


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_supported_on_an_untrained_network(seed: int) -> None:
    config = replace(planted_config(), d_vocab=8, d_vocab_out=8)
    params = init_params(config, torch.Generator().manual_seed(seed))
    made = task_problem({name: tensor.double() for name, tensor in params.items()}, config)
    scores = finish(methods.get("exact")().score(made)).values
    found = finish(evaluate(made, top_edges(made.graph, scores, 6).pruned()))
    assert found.verdict == "not supported" and found.gap_share < 0.9


def test_the_verdict_follows_its_rule() -> None:
    assert judge(0.91, 99.0, 95.0, gap_share=1.0, n=20)[0] == "supported"
    assert judge(1.09, 99.0, 95.0, gap_share=0.9, n=20)[0] == "supported"
    for wrong in (
        judge(0.89, 99.0, 95.0, gap_share=1.0, n=20)[0],
        judge(1.11, 99.0, 95.0, gap_share=1.0, n=20)[0],
        judge(0.91, 98.9, 95.0, gap_share=1.0, n=20)[0],
        judge(0.91, 99.0, 94.9, gap_share=1.0, n=20)[0],
        judge(0.91, 99.0, 95.0, gap_share=0.89, n=100)[0],
        # 7 of 7 pairs: 2 / 2^7 = 0.016 by chance; 8 of 8: 0.008.
        judge(0.91, 99.0, 95.0, gap_share=1.0, n=7)[0],
    ):
        assert wrong == "not supported"
    assert judge(0.91, 99.0, 95.0, gap_share=1.0, n=8)[0] == "supported"

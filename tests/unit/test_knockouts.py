"""Completeness and minimality: gates whose stand-ins are known, and slow oracles.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit, circuit_of
from circuits.edges import measure_circuits
from circuits.faithfulness import faithfulness
from circuits.knockouts import completeness, minimality
from circuits.random_circuits import random_circuits, random_edges_outside
from tests.unit.test_edges import problem as random_problem
from tests.unit.test_evaluate import PLANTED, close, or_gate, paths, planted
from workbench.progress import finish


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
    assert found.to_dict()["n"] == 20


@pytest.mark.parametrize("per_position", [False, True])
def test_minimality_is_what_removing_one_member_at_a_time_gives(per_position: bool) -> None:
    made = random_problem(1, per_position=per_position)
    graph = made.graph
    circuit = random_circuits(graph, 20, 1, seed=2, kind="connected")[0]
    found = finish(minimality(made, circuit, n_sets=0, n_outside=5))
    tried = [(), *((name,) for name in circuit.components())]
    places = random_edges_outside(circuit, 5, 0, positions=made.positions).tolist()
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


def test_minimality_of_some_pairs_is_that_of_a_problem_of_these_pairs() -> None:
    made = random_problem(7)
    circuit = random_circuits(made.graph, 15, 1, seed=2, kind="connected")[0]
    some = finish(minimality(made, circuit, n_sets=0, n_outside=0, n_pairs=2, seed=5))
    rows = torch.randperm(3, generator=torch.Generator().manual_seed(5))[:2]
    changed = [circuit.difference(circuit_of(made.graph, [edge])) for edge in circuit.edges]
    tried = [(), *((name,) for name in circuit.components())]
    kept = []
    for names in tried:
        for one in (circuit, *changed):
            for name in names:
                one = one.without_component(name)
            kept.append(one.keep)
    means = measure_circuits(made, torch.cat(kept))[:, rows].mean(-1).reshape(len(tried), -1)
    expected = (means[:, 1:] - means[:, :1]).abs().amax(0)
    close(some.effects[: circuit.n_edges], expected)
    assert some.n == 2 and finish(minimality(made, circuit, n_pairs=9)).n == 3

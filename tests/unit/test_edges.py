"""Edges: the identities that any implementation must satisfy, and exact patching.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit, circuit_from_dict, circuit_of, edges_above, top_edges
from circuits.edges import circuit_logits, measure_circuits
from circuits.graph import Graph
from circuits.method import methods
from circuits.problem import ABLATIONS, Problem
from circuits.random_circuits import random_circuits, random_edges_outside, random_path
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from workbench.errors import CircuitError, HookError
from workbench.metrics import Metric
from workbench.model_config import ModelConfig
from workbench.progress import finish
from workbench.transformer import forward


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def problem(seed: int, *, per_position: bool = False, config: ModelConfig | None = None) -> Problem:
    """A random network, random pairs, and a nonlinear metric of two positions' logits."""
    config = config or random_config(seed)
    positions = (config.n_ctx - 1, 0)
    weights = torch.randn(2, config.d_vocab_out, generator=torch.Generator().manual_seed(seed))
    return Problem(
        params=random_params(config, seed),
        config=config,
        clean=random_tokens(config, seed, batch=3),
        corrupted=random_tokens(config, seed + 1, batch=3),
        metric=Metric(name="odd", function=lambda x: (x.tanh() * weights).sum((-1, -2))),
        positions=positions,
        graph=Graph(config, config.n_ctx if per_position else None),
    )


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:8])
def test_all_edges_kept_is_the_base_run_and_none_is_the_other(
    seed: int, per_position: bool
) -> None:
    made = problem(seed, per_position=per_position)
    member = made.graph.is_edge
    keep = torch.stack([member, member & False, member]).double()
    logits = circuit_logits(made, keep)
    for cell, tokens in ((0, made.clean), (1, made.corrupted), (2, made.clean)):
        run = forward(made.params, tokens, made.config, positions=made.positions)
        assert_close(logits[cell], run.logits)
    flipped = replace(made, direction="denoising")
    assert_close(measure_circuits(flipped, keep)[0], made.other_metric)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("seed", [1, 4, 7])
def test_exact_patching_is_a_circuit_without_that_edge(
    seed: int, ablation: str, per_position: bool
) -> None:
    """Two ways that share no code: interventions at readers, and all edges but one kept."""
    made = replace(problem(seed, per_position=per_position), ablation=ablation)
    scores = finish(methods.get("exact")().score(made))
    places = made.graph.is_edge.nonzero()
    keep = made.graph.is_edge.double().expand(len(places), *made.graph.is_edge.shape).clone()
    for cell, place in enumerate(places.tolist()):
        keep[(cell, *place)] = 0
    effects = (measure_circuits(made, keep) - made.base_metric).mean(-1)
    assert_close(scores.values[tuple(places.T)], effects)
    assert scores.n == 3 and scores.seed is None
    assert (scores.values[~made.graph.is_edge] == 0).all()


def test_patching_an_edge_between_equal_inputs_changes_nothing() -> None:
    made = problem(3)
    same = replace(made, corrupted=made.clean)
    values = finish(methods.get("exact")().score(same)).values
    assert_close(values, torch.zeros_like(values))


def test_the_edges_of_a_small_graph_by_name() -> None:
    config = ModelConfig(
        n_layers=2, n_heads=2, d_model=4, d_head=2, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=3
    )
    graph = Graph(config)
    assert graph.writers == ("embed", "pos_embed", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    # embed and pos_embed to 6 + 1 readers, then m0 also reads 2 heads; 5 writers to 6 readers,
    # 7 to m1, 8 to the logits.
    assert graph.n_edges == 2 * 6 + 4 + 5 * 6 + 7 + 8
    assert "a0.h1->a1.h0<q>" in graph.edges and "a0.h1->a0.h0<q>" not in graph.edges
    assert all(graph.name(graph.index(edge)) == edge for edge in graph.edges)
    positional = Graph(config, 3)
    assert positional.n_edges == 3 * graph.n_edges
    assert positional.index("m0->logits@2") == (2, 4, 13 + 1)
    for wrong in ("m0->logits", "a0.h1->a0.h0<q>@0", "m0->logits@3"):
        with pytest.raises(CircuitError, match="no edge"):
            positional.index(wrong)


def test_the_algebra_of_circuits() -> None:
    graph = Graph(random_config(1))
    first, second = graph.edges[0], graph.edges[-1]
    left, right = circuit_of(graph, [first]), circuit_of(graph, [first, second])
    assert left.union(right).edges == right.edges == (first, second)
    assert right.difference(left).edges == (second,)
    assert left.intersection(right).edges == (first,)
    assert left.complement().n_edges == graph.n_edges - 1
    assert circuit_from_dict(right.to_dict()).edges == right.edges
    scores = torch.zeros(graph.is_edge.shape)
    scores[graph.index(second)] = -2.0
    scores[graph.index(first)] = 1.0
    assert top_edges(graph, scores, 1).edges == (second,)
    assert top_edges(graph, scores, 1, selection="signed").edges == (first,)
    assert edges_above(graph, scores, 1.5).edges == (second,)
    with pytest.raises(CircuitError, match="the graph has"):
        top_edges(graph, scores, graph.n_edges + 1)
    with pytest.raises(CircuitError, match="NaN"):
        top_edges(graph, scores * torch.nan, 1)


def test_dead_ends_are_pruned() -> None:
    config = ModelConfig(
        n_layers=2, n_heads=1, d_model=4, d_head=4, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=3
    )
    for n_pos, at in ((None, ""), (3, "@1")):
        graph = Graph(config, n_pos)
        alive = [f"embed->a0.h0<v>{at}", f"a0.h0->m1{at}", f"m1->logits{at}"]
        dead = [f"embed->m0{at}", f"a1.h0->logits{at}", f"a0.h0->a1.h0<k>{at}"]
        # a1.h0 is reached through its keys and writes to the logits: that path lives.
        assert set(circuit_of(graph, alive + dead).pruned().edges) == {*alive, *dead[1:]}
        assert set(circuit_of(graph, alive + dead[:2]).pruned().edges) == set(alive)
    assert Circuit(graph, graph.is_edge).pruned().n_edges == graph.n_edges
    assert circuit_of(graph, [f"m0->m1{at}"]).pruned().n_edges == 0


def names_on_paths(circuit: Circuit, ends: Sequence[int]) -> set[str]:
    """Edges on a path, by following names (component, position) one step at a time."""
    graph = circuit.graph
    causal = graph.config.attention_dir == "causal"

    def next_nodes(edge: str) -> set[tuple[str, int]]:
        reader, pos = edge.split("->")[1].split("@")
        at = int(pos)
        if reader == "logits":
            return {("end", at)} if at in ends else set()
        name, _, letter = reader.partition("<")
        if letter in ("k>", "v>"):
            return {(name, to) for to in range(at if causal else 0, graph.n_pos or 0)}
        return {(name, at)}

    steps = {}
    for edge in circuit.edges:
        name, pos = edge.split("->")[0], int(edge.split("@")[1])
        steps[edge] = ((name, pos), next_nodes(edge))
    reached = {(name, at) for name in ("embed", "pos_embed") for at in range(graph.n_pos or 0)}
    leading = {("end", at) for at in ends}
    for _ in range(len(graph.writers) + 1):  # a path takes one step per component at most
        for source, targets in steps.values():
            reached |= targets if source in reached else set()
            leading |= {source} if targets & leading else set()
    return {
        edge for edge, (source, targets) in steps.items() if source in reached and targets & leading
    }


def random_circuit(graph: Graph, seed: int, share: float) -> Circuit:
    draw = torch.rand(graph.is_edge.shape, generator=torch.Generator().manual_seed(seed))
    return Circuit(graph, graph.is_edge & (draw < share))


def test_paths_per_position_end_where_logits_are_scored_and_never_go_back() -> None:
    config = ModelConfig(
        n_layers=1, n_heads=1, d_model=4, d_head=4, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=16
    )
    graph = Graph(config, 16)
    early = circuit_of(graph, ["embed->m0@0", "m0->logits@0"])
    assert early.pruned().n_edges == early.pruned([-16]).n_edges == 2
    assert early.pruned([11, 15]).n_edges == 0
    back = ["embed->a0.h0<v>@15", "a0.h0->logits@11"]
    assert circuit_of(graph, back).pruned().n_edges == 0
    both = Graph(replace(config, attention_dir="bidirectional"), 16)
    assert circuit_of(both, back).pruned([11]).n_edges == 2
    for letter, at, alive in (("k", 11, 2), ("k", 3, 2), ("q", 11, 2), ("q", 3, 0), ("q", 15, 0)):
        path = [f"embed->a0.h0<{letter}>@{at}", "a0.h0->logits@11"]
        assert circuit_of(graph, path).pruned([11]).n_edges == alive
    for wrong in ([16], [-17], []):
        with pytest.raises(CircuitError, match="positions 0 to 15"):
            early.pruned(wrong)


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_pruning_keeps_what_lies_on_a_path_by_name(seed: int) -> None:
    config = random_config(seed)
    graph = Graph(config, config.n_ctx)
    kept = 0
    for share in (0.05, 0.15, 0.3, 1.0):
        circuit = random_circuit(graph, seed, share)
        for ends in ([config.n_ctx - 1], [0, 1], list(range(config.n_ctx))):
            pruned = circuit.pruned(ends)
            assert set(pruned.edges) == names_on_paths(circuit, ends)
            kept += 0 < pruned.n_edges < circuit.n_edges
        assert circuit.pruned().edges == pruned.edges
    assert kept >= 2  # neither nothing nor everything


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:8])
def test_dead_ends_carry_nothing(seed: int, per_position: bool) -> None:
    """Logits at the scored positions are the same without them: the network decides."""
    made = problem(seed, per_position=per_position)
    circuits = [random_circuit(made.graph, seed, share) for share in (0.1, 0.3, 0.6)]
    pruned = [circuit.pruned(made.positions) for circuit in circuits]
    before, after = (torch.cat([c.keep for c in some]).double() for some in (circuits, pruned))
    assert not torch.equal(before, after)
    assert_close(circuit_logits(made, after), circuit_logits(made, before))


def test_random_controls_of_a_graph_per_position_are_alive() -> None:
    config = replace(random_config(1), n_layers=2, attention_dir="causal")
    graph, ends = Graph(config, config.n_ctx), [config.n_ctx - 2]
    drawn = random_circuits(graph, 20, 20, seed=1, kind="connected", positions=ends)
    for circuit in drawn:
        assert names_on_paths(circuit, ends) == set(circuit.edges)
    # One more edge revives a few others at most.
    assert 18 <= sum(circuit.n_edges for circuit in drawn) / 20 <= 22
    circuit = drawn[0]
    found = random_edges_outside(circuit, graph.n_edges, 0, positions=ends)
    names = {graph.name(tuple(place)) for place in found.tolist()}
    expected = set()
    for edge in circuit.complement().edges:
        if edge in names_on_paths(circuit.union(circuit_of(graph, [edge])), ends):
            expected.add(edge)
    assert names == expected and 0 < len(names) < circuit.complement().n_edges
    assert torch.equal(random_edges_outside(circuit, 3, 0, positions=ends), found[:3])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        path = random_path(graph, [at - config.n_ctx for at in ends], generator)
        edges = circuit_of(graph, [graph.name(place) for place in path])
        assert edges.pruned(ends).edges == edges.edges


def test_positions_that_inputs_do_not_have() -> None:
    made = problem(0)
    keep = made.graph.is_edge[None].double()
    with pytest.raises(HookError, match="position 99; the inputs have positions 0 to"):
        circuit_logits(replace(made, positions=(99,)), keep)


def test_no_cells_are_measured_as_none() -> None:
    made = problem(0)
    keep = torch.zeros(0, *made.graph.is_edge.shape, dtype=torch.float64)
    assert measure_circuits(made, keep).shape == (0, 3)

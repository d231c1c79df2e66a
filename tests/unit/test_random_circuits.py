"""Random circuits made of paths: what they hold by brute force, and how often each is drawn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from circuits.circuit import Circuit, circuit_of
from circuits.graph import Graph
from circuits.random_circuits import random_circuits
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig

Path = tuple[str, ...]


def small_graph(n_pos: int | None = None, n_layers: int = 1, n_heads: int = 1) -> Graph:
    config = ModelConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=4,
        d_head=4,
        d_mlp=4,
        d_vocab=5,
        d_vocab_out=5,
        n_ctx=3,
    )
    return Graph(config, n_pos)


def all_paths(
    edges: Sequence[str], graph: Graph, ends: Sequence[int], start: str | None = None
) -> list[tuple[Path, Fraction]]:
    """Every path through these edges and its chance, by names alone, one step at a time.

    A path starts at any embedding from which one leads to the end, and takes any such step, all
    with equal chances; a key or value then leads to any position that may read it and leads on.
    """
    last = graph.n_pos or 1

    def walks(node: tuple[str, int]) -> list[tuple[Path, Fraction]]:
        if node[0] == "logits":
            return [((), Fraction(1))] if node[1] in ends else []
        onward = []
        for edge in edges:
            arrow, _, at = edge.partition("@")
            writer, reader = arrow.split("->")
            if (writer, int(at or 0)) != node:
                continue
            name, _, letter = reader.partition("<")
            moves = letter in ("k>", "v>")
            causal = graph.config.attention_dir == "causal"
            to = range(node[1] if causal else 0, last) if moves else [node[1]]
            after = [found for pos in to if (found := walks((name, pos)))]
            onward.append(
                [((edge, *rest), chance / len(after)) for found in after for rest, chance in found]
            )
        leading = [found for found in onward if found]
        return [(path, chance / len(leading)) for found in leading for path, chance in found]

    starts = [(name, pos) for name in ("embed", "pos_embed") for pos in range(last)]
    leading = [found for node in starts if (found := walks(node))]
    return [(path, chance / len(leading)) for found in leading for path, chance in found]


def is_union_of_paths(circuit: Circuit, ends: Sequence[int]) -> bool:
    found = all_paths(circuit.edges, circuit.graph, ends)
    return {edge for path, _ in found for edge in path} == set(circuit.edges)


def room_size(edges: Sequence[str], graph: Graph, ends: Sequence[int]) -> int:
    return len({edge for path, _ in all_paths(edges, graph, ends) for edge in path})


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n_pos=st.sampled_from([None, 2]),
    n_layers=st.integers(1, 2),
    n_heads=st.integers(1, 2),
    causal=st.booleans(),
    share=st.floats(0, 1),
)
def test_circuits_are_unions_of_whole_paths(
    seed: int, n_pos: int | None, n_layers: int, n_heads: int, causal: bool, share: float
) -> None:
    graph = small_graph(n_pos, n_layers if n_pos is None else 1, n_heads)
    graph = replace(
        graph,
        config=replace(graph.config, attention_dir="causal" if causal else "bidirectional"),
    )
    ends = [0] if n_pos is None else [-1]
    counted = [0] if n_pos is None else [n_pos - 1]
    size = round(share * room_size(graph.edges, graph, counted))
    for circuit in random_circuits(graph, size, 3, seed, kind="paths", positions=ends):
        assert is_union_of_paths(circuit, counted)
        # The last path takes at most one step per component and one to the logits.
        assert size <= circuit.n_edges < size + max(1, 2 * n_layers + 1)


@pytest.mark.parametrize("n_pos", [None, 2])
def test_circuits_within_another_run_through_its_edges_alone(n_pos: int | None) -> None:
    graph = small_graph(n_pos, n_layers=2 if n_pos is None else 1)
    ends = [0] if n_pos is None else [1]
    for seed in range(5):
        out_of_m0 = circuit_of(graph, [edge for edge in graph.edges if edge.startswith("m0->")])
        inner = random_circuits(graph, graph.n_edges // 4, 1, seed)[0].union(out_of_m0)
        outside = inner.complement()
        room = room_size(outside.edges, graph, ends)
        assert 0 < room < outside.n_edges  # what leads into m0 leads nowhere
        for size in (room // 2, room):
            drawn = random_circuits(
                graph, size, 10, seed, kind="paths", within=outside, positions=ends
            )
            for circuit in drawn:
                assert not set(circuit.edges) & set(inner.edges)
                assert is_union_of_paths(circuit, ends) and size <= circuit.n_edges <= room
        with pytest.raises(CircuitError, match=f"at most the {room} edges on paths$"):
            random_circuits(graph, room + 1, 1, seed, kind="paths", within=outside, positions=ends)


@pytest.mark.parametrize("within_another", [False, True])
@pytest.mark.parametrize(
    ("n_pos", "attention_dir"), [(None, "causal"), (3, "causal"), (3, "bidirectional")]
)
def test_paths_are_drawn_with_equal_chances_at_every_step(
    n_pos: int | None, attention_dir: Literal["causal", "bidirectional"], within_another: bool
) -> None:
    config = replace(small_graph().config, attention_dir=attention_dir)
    graph = Graph(config, n_pos)
    ends = [0] if n_pos is None else [1, 2]
    room = Circuit(graph, graph.is_edge)
    if within_another:
        removed = ["m0->logits", "embed->a0.h0<q>"]
        if n_pos is not None:  # heads lead on at two positions, and one embedding nowhere
            removed = ["a0.h0->logits@1", "embed->a0.h0<v>@0"]
            removed += [edge for edge in graph.edges if edge.startswith("embed->") and "@1" in edge]
        room = room.difference(circuit_of(graph, removed))
    expected = {
        tuple(sorted(path)): float(chance) for path, chance in all_paths(room.edges, graph, ends)
    }
    assert sum(expected.values()) == pytest.approx(1, abs=1e-12) and len(expected) > 5
    # One edge asked for: a circuit is its first path.
    drawn = random_circuits(graph, 1, 3000, 0, kind="paths", within=room, positions=ends)
    counts = Counter(tuple(sorted(circuit.edges)) for circuit in drawn)
    assert set(counts) <= set(expected)
    found = [counts[path] for path in expected]
    fit = stats.chisquare(found, [3000 * chance for chance in expected.values()])
    # Below once in a hundred thousand seeds.
    assert fit.pvalue > 1e-5


def test_edges_that_paths_hardly_take_are_reached_all_the_same() -> None:
    """Deep edges lie on few paths; drawing paths until they turn up would take thousands."""
    graph = small_graph(n_layers=4, n_heads=2)
    paths = random_circuits(graph, 1, 1000, 0, kind="paths")
    taken = {edge for path in paths for edge in path.edges}
    assert len(taken) < graph.n_edges - 5
    for size in (graph.n_edges - 5, graph.n_edges):
        drawn = random_circuits(graph, size, 3, 0, kind="paths")
        assert all(size <= circuit.n_edges <= graph.n_edges for circuit in drawn)
        assert all(circuit.pruned().n_edges == circuit.n_edges for circuit in drawn)


def test_a_circuit_of_no_paths_and_paths_by_seed() -> None:
    graph = small_graph()
    assert [c.n_edges for c in random_circuits(graph, 0, 2, 0, kind="paths")] == [0, 0]
    drawn = [random_circuits(graph, 5, 20, seed, kind="paths") for seed in (1, 1, 2)]
    first, again, other = ([circuit.edges for circuit in some] for some in drawn)
    assert first == again != other and len(set(first)) > 1
    assert torch.equal(drawn[0][3].member, random_circuits(graph, 5, 4, 1, kind="paths")[3].member)
    with pytest.raises(CircuitError, match=f"at most the {graph.n_edges} edges on paths"):
        random_circuits(graph, graph.n_edges + 1, 1, 0, kind="paths")

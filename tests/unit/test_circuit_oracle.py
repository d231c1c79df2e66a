"""Circuits of random networks beside a pass written from the definition alone, both ways.

float64: sums of some hundred terms of order 1 in another order are off by 1e-14, divided by a gap
of more than 1e-3 by 1e-11; 1e-10 covers both.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.edges import measure_circuits
from circuits.faithfulness import faithfulness
from circuits.method import methods
from circuits.problem import ABLATIONS, Direction, Problem
from circuits.random_circuits import random_circuits
from tests.circuit_oracle import metric_slowly, run_slowly
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from tests.unit.test_edges import problem as random_problem
from workbench.metrics import METRICS, make_metric
from workbench.progress import finish
from workbench.transformer import forward

DIRECTIONS: tuple[Direction, ...] = ("noising", "denoising")
SMALL = [seed for seed in SEEDS if random_config(seed).n_layers <= 3][:9]
"""Random networks of one to three layers."""


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def asked(seed: int, ablation: str, direction: str, *, per_position: bool) -> Problem:
    """A random network and three pairs; means are over five other inputs on odd seeds."""
    made = random_problem(seed, per_position=per_position)
    means = random_tokens(made.config, seed + 100, batch=5) if seed % 2 else None
    return replace(made, ablation=ablation, direction=direction, reference=means)


def some_circuits(made: Problem, seed: int) -> list[Circuit]:
    """Random circuits of three sizes, dead ends and all, and one without dead ends."""
    n = made.graph.n_edges
    sizes = (n // 4, n // 2, n - 2)
    found = [random_circuits(made.graph, size, 1, seed=seed)[0] for size in sizes]
    return [*found, found[1].pruned(made.positions)]


@pytest.mark.parametrize("seed", SMALL)
def test_with_all_edges_it_is_the_network(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    slow = [run_slowly(params, config, row, lambda *edge: True, {}).logits for row in tokens]
    close(forward(params, tokens, config).logits, torch.stack(slow))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SMALL[::2])
def test_faithfulness_of_random_circuits(
    seed: int, per_position: bool, ablation: str, direction: str
) -> None:
    made = asked(seed, ablation, direction, per_position=per_position)
    circuits = some_circuits(made, seed)
    found = faithfulness(made, circuits, n_bootstrap=0)
    full, empty = metric_slowly(made, set(made.graph.edges)), metric_slowly(made, set())
    close(found.full, full)
    close(found.empty, empty)
    gap = full.mean() - empty.mean()
    assert abs(gap) > 1e-3
    moved = 0
    for i, circuit in enumerate(circuits):
        metric = metric_slowly(made, set(circuit.edges))
        close(found.circuits[i], metric)
        close(found.values[i], (metric.mean() - empty.mean()) / gap)
        moved += bool((metric - full).abs().max() > 1e-3 and (metric - empty).abs().max() > 1e-3)
    assert moved  # by some circuit neither end


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SMALL[::3])
def test_the_effect_of_patching_one_edge(
    seed: int, per_position: bool, ablation: str, direction: str
) -> None:
    """By an intervention at the reader, and by a circuit of all other edges."""
    made = asked(seed, ablation, direction, per_position=per_position)
    edges = made.graph.edges
    scores = finish(methods.get("exact")().score(made))
    base = metric_slowly(made, set(edges))
    for edge in edges[:: max(1, len(edges) // 6)]:
        effects = metric_slowly(made, set(edges) - {edge}) - base
        assert scores.of(edge) == pytest.approx(float(effects.mean()), abs=1e-10)
        keep = made.graph.is_edge.double()[None].clone()
        keep[(0, *made.graph.index(edge))] = 0
        close(measure_circuits(made, keep)[0] - made.base_metric, effects)


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("seed", SMALL[:4])
def test_denoising_is_noising_with_the_inputs_swapped(seed: int, metric: str) -> None:
    """The runs swap, the metric does not: what counts as the answer stays that of the clean run."""
    config = random_config(seed)
    params, clean = random_params(config, seed), random_tokens(config, seed, batch=4)
    corrupted, positions = random_tokens(config, seed + 1, batch=4), (config.n_ctx - 1, 0)
    logits, others = (
        forward(params, tokens, config, positions=positions).logits for tokens in (clean, corrupted)
    )
    made = replace(
        asked(seed, "resample", "denoising", per_position=False),
        params=params,
        clean=clean,
        corrupted=corrupted,
        positions=positions,
        metric=make_metric(
            metric,
            answer=logits.argmax(-1),
            wrong_answer=others.argmin(-1),
            clean_logits=logits,
            scored=torch.ones(4, 2, dtype=torch.bool),
        ),
    )
    swapped = replace(made, clean=corrupted, corrupted=clean, direction="noising")
    for circuit in some_circuits(made, seed):
        found = measure_circuits(made, circuit.keep)[0]
        assert torch.equal(found, measure_circuits(swapped, circuit.keep)[0])
        close(found, metric_slowly(made, set(circuit.edges)))


@pytest.mark.parametrize("seed", SMALL[:6])
def test_patching_clean_activations_into_a_circuit_is_one_minus_its_complement(seed: int) -> None:
    """The corrupted run with a circuit's edges clean, and how far that goes to the clean run.

    That is how others denoise a circuit (edge patching of Miller et al. 2024); here it is what the
    complement lacks.
    """
    made = asked(seed, "resample", "denoising", per_position=seed % 2 == 1)
    circuit = some_circuits(made, seed)[1]
    everything = set(made.graph.edges)
    clean, corrupted = metric_slowly(made, set()), metric_slowly(made, everything)
    restored = metric_slowly(made, everything - set(circuit.edges))
    share = (restored.mean() - corrupted.mean()) / (clean.mean() - corrupted.mean())
    found = faithfulness(made, [circuit.complement(), circuit], n_bootstrap=0)
    close(1 - found.values[0], share)
    assert abs(float(found.values[1] - share)) > 1e-3  # and not the circuit's own faithfulness

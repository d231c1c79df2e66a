"""ACDC beside its plain algorithm, and learned masks beside the distribution they are drawn from.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.edges import measure_circuits
from circuits.methods.acdc import Acdc, acdc_circuit, survivors
from circuits.methods.edge_masks import EdgeMasks, hard_concrete, not_zero
from circuits.methods.exact import Exact
from circuits.problem import Problem
from tests.contract.test_methods import planted_problem
from tests.reference.networks import random_config
from tests.unit.test_edges import problem
from workbench.errors import CircuitError
from workbench.progress import finish


def assert_close(ours: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_acdc_is_the_plain_algorithm_at_every_threshold(seed: int, per_position: bool) -> None:
    """Thresholds side by side, against one at a time written out plainly."""
    config = replace(random_config(seed), n_heads=1, n_layers=1 + seed % 2, n_ctx=3)
    made = problem(seed, config=config)
    if per_position:
        config = replace(config, n_layers=1, n_ctx=2)
        made = problem(seed, per_position=True, config=config)
    sizes = finish(Exact().score(made)).values.abs()[made.graph.is_edge]
    sizes = sizes[sizes > 1e-6]  # not rounding error, which is another in every chunk
    thresholds = [float(sizes.quantile(q)) for q in (0.3, 0.8)]
    kept = finish(survivors(made, torch.tensor(thresholds, dtype=torch.float64)))
    for threshold, ours in zip(thresholds, kept, strict=True):
        expected = acdc_slowly(made, threshold)
        names = {made.graph.name(tuple(place)) for place in ours.nonzero().tolist()}
        assert names == expected and 0 < len(expected) < made.graph.n_edges
    assert set(finish(acdc_circuit(made, threshold)).edges) == expected


def acdc_slowly(made: Problem, threshold: float) -> set[str]:
    """Algorithm 1 of Conmy et al. 2023 by names, one circuit at a time."""
    graph = made.graph

    def measure(edges: set[str]) -> float:
        keep = torch.zeros(1, *graph.is_edge.shape).double()
        for edge in edges:
            keep[(0, *graph.index(edge))] = 1
        return float(measure_circuits(made, keep).mean())

    positions = [""] if graph.n_pos is None else [f"@{pos}" for pos in range(graph.n_pos)]
    edges = set(graph.edges)
    for reader in reversed(graph.readers):
        for at in reversed(positions):
            for writer in reversed(graph.writers):
                edge = f"{writer}->{reader}{at}"
                if edge in edges and abs(measure(edges - {edge}) - measure(edges)) < threshold:
                    edges.remove(edge)
    return edges


def test_an_edge_scores_the_largest_threshold_it_survives() -> None:
    made = problem(0, config=replace(random_config(0), n_heads=1))
    scores = finish(Acdc(n_thresholds=5, lowest=0.01, highest=1.0).score(made))
    none = torch.zeros(1, *made.graph.is_edge.shape).double()
    whole = float((measure_circuits(made, none)[0] - made.base_metric).abs().mean())
    thresholds = [whole * 10 ** (-2 + k / 2) for k in range(5)]  # by hand: 0.01 to 1, five points
    left = [acdc_slowly(made, threshold) for threshold in thresholds]
    for edge in made.graph.edges:
        survived = [t for t, edges in zip(thresholds, left, strict=True) if edge in edges]
        assert scores.of(edge) == pytest.approx(max(survived, default=0.0), rel=1e-12)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(CircuitError, match="must be a positive number"):
            finish(acdc_circuit(made, wrong))


def test_hard_concrete_masks_have_the_distribution_of_the_paper() -> None:
    """Shares of exact zeros and ones against equation 12, of which ones are the mirror image."""
    generator, n = torch.Generator().manual_seed(0), 200_000
    log_alpha = torch.tensor([-1.0, 0.0, 1.5]).double()
    uniform = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    masks = hard_concrete(log_alpha, uniform, 2 / 3, 0.1)
    assert masks.min() == 0 and masks.max() == 1
    # Six standard errors of a share of 200,000 draws: 6 * 0.5 / sqrt(n) = 0.007.
    assert_close((masks > 0).double().mean(0), not_zero(log_alpha, 2 / 3, 0.1), atol=0.007)
    assert_close((masks == 1).double().mean(0), 1 - not_zero(-log_alpha, 2 / 3, 0.1), atol=0.007)
    # By hand for log alpha = 0: sigmoid(-2/3 log(0.1/1.1)) = 1 / (1 + 11^(-2/3)) = 0.8318.
    assert float(not_zero(log_alpha, 2 / 3, 0.1)[1]) == pytest.approx(0.83182, abs=1e-5)


def test_gradients_flow_through_the_masks_between_0_and_1_only() -> None:
    log_alpha = torch.zeros(3).double().requires_grad_()
    uniform = torch.tensor([[1e-4, 0.4, 1 - 1e-4]], dtype=torch.float64)
    masks = hard_concrete(log_alpha, uniform, 2 / 3, 0.1)
    (gradient,) = torch.autograd.grad(masks.sum(), log_alpha)
    # d/dx of 1.2 sigmoid(x / (2/3)) at the middle draw, where x = log(0.4 / 0.6).
    soft = 1 / (1 + math.exp(-1.5 * math.log(0.4 / 0.6)))
    assert_close(gradient, torch.tensor([0, 1.8 * soft * (1 - soft), 0], dtype=torch.float64))


def test_learned_masks_find_a_planted_circuit() -> None:
    """Every edge of the circuit above every other one: an AUROC of 1, where chance is 0.5."""
    made, truth = planted_problem()
    scores = finish(EdgeMasks(steps=40, lr=0.2).score(made, seed=1))
    inside = torch.tensor([scores.of(edge) for edge in truth])
    outside = torch.tensor([scores.of(edge) for edge in made.graph.edges if edge not in truth])
    assert inside.min() > 0.9
    assert outside.max() < inside.min()
    assert outside.median() < 0.5


def test_masks_learn_from_few_pairs_at_a_time() -> None:
    made, truth = planted_problem()
    scores = finish(EdgeMasks(batch=3, samples=2, steps=20, lr=0.2).score(made))
    assert min(scores.of(edge) for edge in truth) > max(
        scores.of(edge) for edge in made.graph.edges if edge not in truth
    )


def test_masks_of_equal_inputs_all_close() -> None:
    """Nothing is lost by closing any mask, and each open one is penalised."""
    made, _ = planted_problem()
    same = replace(made, corrupted=made.clean)
    values = finish(EdgeMasks(steps=10, lr=0.5).score(same)).values[made.graph.is_edge]
    torch.testing.assert_close(values, values[0].expand_as(values), atol=1e-3, rtol=0)
    assert values.max() < 0.6  # from 0.97 at first

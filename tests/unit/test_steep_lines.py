"""Lines on which the metric moves in narrow places, beside integrals worked out on paper.

The network copies one number: the logit is x = W_E[token] (a token for each number), read by one
edge from the embedding. A metric f(x) then has the EAP-IG score f(other) - f(base) on
`embed->logits`, whatever f is, and nothing on any other edge.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits import edge_attribution, steep_lines
from circuits.graph import Graph
from circuits.method import Scores
from circuits.methods.eap_ig import DEEPEST, EapIg, IntegratedMethod
from circuits.methods.eap_ig_activations import EapIgActivations
from circuits.problem import Problem
from tests.ground_truth.scoring import auroc
from tests.ground_truth.tracr_networks import tracr_network
from tests.unit.test_edges import problem as random_problem
from workbench.metrics import Metric
from workbench.model_config import ModelConfig, param_shapes
from workbench.progress import finish

NUMBERS = (0.0, 1.0, 2.0, -1.0)
METHODS = (EapIg, EapIgActivations)


def copying(function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> Problem:
    """From the number 0 to 1, to 2 and to -1."""
    config = ModelConfig(
        n_layers=1, n_heads=1, d_model=2, d_head=1, d_mlp=0, d_vocab=4, d_vocab_out=2, n_ctx=1
    )
    params = {name: torch.zeros(shape, dtype=dtype) for name, shape in param_shapes(config).items()}
    params["embed.W_E"][:, 0] = torch.tensor(NUMBERS)
    params["unembed.W_U"][0, 0] = 1
    return Problem(
        params=params,
        config=config,
        clean=torch.zeros(3, 1, dtype=torch.long),
        corrupted=torch.tensor([[1], [2], [3]]),
        metric=Metric(name="f", function=lambda x: function(x[..., 0, 0])),
        positions=(0,),
        graph=Graph(config),
    )


def ramp(x: Tensor, at: float, width: float) -> Tensor:
    """0 below, 1 above, a straight line over `width`."""
    return ((x - at) / width).clamp(0, 1)


def assert_all_of(scores: Scores, expected: float, off: float) -> None:
    rest = scores.values.clone()
    rest[scores.graph.index("embed->logits")] = 0
    assert scores.of("embed->logits") == pytest.approx(expected, abs=off)
    assert torch.equal(rest, torch.zeros_like(rest))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-9])
def test_one_narrow_step_is_found_however_narrow(
    method: type[IntegratedMethod], width: float
) -> None:
    """At 0.3 on the way to 1 and to 2, and not on the way to -1: 2/3 in the mean."""
    scores = finish(method().score(copying(lambda x: ramp(x, 0.3, width))))
    assert (scores.settings["steps"], scores.settings["halvings"]) == (128, DEEPEST)
    # A hundredth of the gap, 2/3, is what may be missing.
    assert_all_of(scores, 2 / 3, 0.01)


def test_steps_that_cancel_are_both_found() -> None:
    """Up at 0.3 and down by a half at 0.7 and 1.9; and the slope of 0.1 x between them."""

    def steps(x: Tensor) -> Tensor:
        down = ramp(x, 0.7, 1e-7) + ramp(x, 1.9, 1e-7)
        return ramp(x, 0.3, 1e-7) - down / 2 + 0.1 * x

    # To 1: 1/2 + 0.1; to 2: 0 + 0.2; to -1: -0.1.
    assert_all_of(finish(EapIg().score(copying(steps))), 0.7 / 3, 0.01)


def test_smooth_lines_are_not_cut() -> None:
    made = copying(lambda x: x**3)
    scores = finish(EapIg().score(made))
    steps = scores.settings["steps"]
    assert steps < 128 and scores.settings["halvings"] == 0
    # (1 + 8 - 1) / 3; the midpoint rule is off by f''' / 24 steps^2 = 8 * 6 / 24 / steps^2 at most.
    assert_all_of(scores, 8 / 3, 2 / steps**2)
    given = finish(EapIg(steps=128).score(copying(lambda x: ramp(x, 0.3, 1e-3))))
    assert given.settings["halvings"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_of_the_scores_give_the_scores_again(method: type[IntegratedMethod]) -> None:
    made = copying(lambda x: ramp(x, 0.3, 1e-6))
    scores = finish(method().score(made))
    again = finish(method(**scores.settings).score(made))
    assert torch.equal(again.values, scores.values) and again.settings == scores.settings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_halving_ends_where_the_metric_is_noise(dtype: torch.dtype) -> None:
    """A gap of 0.01 on a metric of 1e4, whose rounding in float32 is 1e-3."""
    made = copying(lambda x: 1e4 + 0.01 * x.clamp(max=1.5), dtype)
    values = finish(EapIg(steps=64, halvings=DEEPEST).score(made)).values
    # (0.01 + 0.015 - 0.01) / 3, from gradients alone; a piece of 1/64 of 2 holds the corner.
    assert float(values.sum()) == pytest.approx(0.005, abs=0.02 / 64)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", [1, 4, 5])
def test_pieces_that_all_pass_are_the_midpoint_rule(seed: int, per_position: bool) -> None:
    made = random_problem(seed, per_position=per_position)
    for method in METHODS:
        plain = finish(method(steps=7).score(made)).values
        cut = finish(method(steps=7, halvings=5, tolerance=1e9).score(made)).values
        torch.testing.assert_close(cut, plain, atol=1e-10, rtol=0)
        # All fail at first, and are halved once: nothing was lost on the way.
        twice = finish(method(steps=7, halvings=1, tolerance=1e-30).score(made)).values
        fine = finish(method(steps=14).score(made)).values
        assert float((twice - fine).norm()) < 0.05 * float(fine.norm())


def test_chunks_of_pairs_and_points_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(random_problem(4), ablation="mean")
    how = EapIg(steps=9, halvings=3, tolerance=1e-4)
    expected = finish(how.score(made)).values
    monkeypatch.setattr(edge_attribution, "CPU_BUDGET", 1)
    monkeypatch.setattr(steep_lines, "POINTS_AT_ONCE", 2)
    torch.testing.assert_close(finish(how.score(made)).values, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_pair_is_cut_as_finely_alone_as_beside_others(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1 and to 2 there is a step, to -1 nothing: what others do ends no pair's halving."""
    made = copying(lambda x: sum((ramp(x, at / 10, 1e-6) for at in (1, 3, 6, 9)), 0 * x))
    how = EapIg(steps=steps, halvings=DEEPEST)
    together = finish(how.score(made))
    assert_all_of(together, 8 / 3, 0.03)
    monkeypatch.setattr(edge_attribution, "CPU_BUDGET", 1)
    alone = finish(how.score(made))
    torch.testing.assert_close(alone.values, together.values, atol=1e-10, rtol=0)


def test_a_gradient_without_end_in_the_middle_of_a_piece_that_fails_does_not_count() -> None:
    """d/dx of the root is infinite at 1/2, the middle of the line to 1; to 2 and -1 it is not."""

    def root(x: Tensor) -> Tensor:
        return (x - 0.5).sign() * (x - 0.5).abs().clamp(min=0).sqrt()

    scores = finish(EapIg(steps=1, halvings=DEEPEST).score(copying(root)))
    # (f(1) + f(2) + f(-1)) / 3 - f(0); a hundredth of the mean change, below 1.5, may be missing.
    expected = (0.5**0.5 + 1.5**0.5 - 1.5**0.5) / 3 + 0.5**0.5
    assert_all_of(scores, expected, 0.015)


def test_the_program_whose_steps_lie_within_steps_is_recovered() -> None:
    truth = tracr_network("count_less_freq")
    problem = truth.problem("resample").of_pairs(torch.arange(8))
    equal = finish(EapIg(steps=128).score(problem))
    assert auroc(truth, "resample", equal.values) < 0.7
    scores = finish(EapIg().score(problem))
    assert auroc(truth, "resample", scores.values) >= 0.95
    gap = float((problem.other_metric - problem.base_metric).mean())
    assert float(scores.values[:2].sum()) == pytest.approx(gap, rel=0.01)

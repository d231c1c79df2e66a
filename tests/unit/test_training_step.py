"""The gradient written out, against autograd's through the forward pass: the same bits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import workbench.train
from tests.unit.small_training import ADDITION, CPU, network, recipe
from workbench import gradients, one_block
from workbench.batches import Batch
from workbench.gradients import Objective, by_autograd, by_hand, find_gradient, kept_neurons
from workbench.model_config import ModelConfig, n_params
from workbench.one_block import Workspace, suits
from workbench.recipe import default_model
from workbench.task import make_task
from workbench.train import fit

SMALL = network(ADDITION)
P113 = default_model(make_task("modular_addition"))


def weights_of(config: ModelConfig, n_seeds: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(n_seeds)
    return torch.randn(n_seeds, n_params(config), generator=generator, dtype=dtype) * 0.2


def objective_of(
    config: ModelConfig, n_seeds: int, n_inputs: int, *, dropout: float = 0.0, **changes: Any
) -> Objective:
    """Random tokens that end in the same one, and random answers."""
    generator = torch.Generator().manual_seed(n_inputs)
    tokens = torch.randint(config.d_vocab, (n_seeds, n_inputs, 3), generator=generator)
    tokens[..., -1] = config.d_vocab - 1
    answers = torch.randint(config.d_vocab_out, (n_seeds, n_inputs, 1), generator=generator)
    settings: dict[str, Any] = {
        "config": config,
        "batch": Batch(tokens, answers),
        "positions": (2,),
        "smoothing": 0.0,
        "uneven": 0.0,
        "kept": kept_neurons(config, dropout, range(n_seeds), 5, like=torch.empty(0)),
    }
    return Objective(**{**settings, **changes})


# ---------------------------------------------------------------------- one gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [{}, {"smoothing": 0.1}, {"uneven": 0.5}, {"smoothing": 0.03, "uneven": 0.02, "dropout": 0.3}],
    ids=["plain", "smoothed", "evened", "everything"],
)
@pytest.mark.parametrize(
    ("config", "n_seeds", "n_inputs"),
    [
        (SMALL, 1, 40),
        (SMALL, 3, 9),
        (replace(SMALL, n_heads=3, d_head=5, d_model=11, d_mlp=7), 2, 300),
        (replace(SMALL, n_ctx=6, d_vocab_out=5, attention_dir="bidirectional"), 2, 33),
        (P113, 1, 1024),
        (P113, 2, 501),
    ],
    ids=["small", "three seeds", "odd sizes", "longer context", "p113", "p113 twice"],
)
def test_by_hand_and_by_autograd_are_the_same_bits(
    config: ModelConfig, n_seeds: int, n_inputs: int, settings: Any, dtype: torch.dtype
) -> None:
    objective = objective_of(config, n_seeds, n_inputs, **settings)
    weights = weights_of(config, n_seeds, dtype)
    assert suits(config, objective.batch.tokens, objective.positions)
    before = weights.clone()
    found, expected = by_hand(weights, objective, Workspace()), by_autograd(weights, objective)
    assert torch.equal(found, expected) and found.dtype == dtype
    assert torch.equal(weights, before)
    for part in gradients.unflatten(expected, config).values():
        assert (part != 0).any(), "nothing to compare"


def test_it_is_the_slope_of_the_loss() -> None:
    """Central differences in float64, of the loss through `forward`, along every kind of weight."""
    config = replace(SMALL, n_heads=2)
    objective = objective_of(config, 2, 30, smoothing=0.1, uneven=0.7, dropout=0.4)
    weights = weights_of(config, 2, torch.float64)
    found = gradients.unflatten(by_hand(weights, objective, Workspace()), config)
    generator = torch.Generator().manual_seed(3)

    def loss(at: Tensor) -> float:
        logits = gradients.forward(
            objective.params(at), objective.batch.tokens, config, positions=(2,)
        ).logits
        return objective.loss(logits).item()

    for name, part in found.items():
        along = torch.zeros_like(weights)
        direction = gradients.unflatten(along, config)[name]
        direction.copy_(torch.randn(part.shape, generator=generator, dtype=torch.float64))
        slope = (loss(weights + 1e-6 * along) - loss(weights - 1e-6 * along)) / 2e-6
        assert (part * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_what_lies_in_the_workspace_does_not_matter() -> None:
    """Gradients of batches large and small, one after another, and after rubbish."""
    work = Workspace()
    for n_seeds, n_inputs in [(2, 60), (1, 20), (3, 60), (2, 60)]:
        objective = objective_of(SMALL, n_seeds, n_inputs)
        weights = weights_of(SMALL, n_seeds)
        expected = by_autograd(weights, objective)
        for _ in range(2):
            assert torch.equal(by_hand(weights, objective, work), expected)
            for kept in work._kept.values():
                kept.fill_(torch.nan)


def test_a_workspace_hands_out_the_same_memory() -> None:
    work, like = Workspace(), torch.empty(0)
    first = work.empty("a", like, 4, 6)
    assert work.empty("a", like, 3, 2).data_ptr() == first.data_ptr()
    assert work.empty("b", like, 4, 6).data_ptr() != first.data_ptr()
    assert work.empty("a", like, 5, 6).shape == (5, 6)
    assert work.empty("a", like.double(), 5, 6).dtype == torch.float64


# ---------------------------------------------------------------------- where it does not suit


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layers": 2},
        {"act_fn": "gelu"},
        {"normalization": "LN"},
        {"attention_rate": 0.5},
        {"d_mlp": 0},
        {"attn_biases": True},
        {"mlp_biases": False},
        {"unembed_bias": True},
    ],
    ids=str,
)
def test_other_networks_go_through_autograd(changes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, **changes)
    objective = objective_of(config, 2, 40, dropout=0.2)
    monkeypatch.setattr(gradients, "by_hand", None)
    weights = weights_of(config, 2)
    found = find_gradient(weights, objective, Workspace())
    assert torch.equal(found, by_autograd(weights, objective))


def test_other_inputs_go_through_autograd() -> None:
    tokens = objective_of(SMALL, 2, 40).batch.tokens
    assert suits(SMALL, tokens, (2,)) and suits(SMALL, tokens, (-1,))
    assert not suits(SMALL, tokens, (1,))
    assert not suits(SMALL, tokens, (1, 2))
    assert not suits(SMALL, tokens[:, : SMALL.d_vocab], (2,))
    for at in (0, 1):  # one input of one seed asks with another token
        other = tokens.clone()
        other[at, 7, -1] = 0
        assert not suits(SMALL, other, (2,))
    assert not suits(SMALL, tokens.to("meta"), (2,))


# ---------------------------------------------------------------------- whole trainings


@pytest.mark.parametrize(
    "changes",
    [
        {"evenness": ((0, 0.0), (5, 0.1)), "neuron_dropout": ((0, 0.0), (10, 0.3))},
        {"batch_size": 9, "random_labels": 0.5},
        {"stop_train_loss": 1.6, "stop_sustained": 1},
        {"restart_at": 10, "restart_above": 0.0, "restarts": 1},
    ],
    ids=["penalties", "minibatches", "early stop", "restarts"],
)
@pytest.mark.parametrize("together", [True, False], ids=["one pass", "several"])
def test_training_ends_in_the_same_bits(
    changes: Any, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr(workbench.train, "CPU_BYTES", 2 * 4 * 14 * 48)  # two seeds a pass
    how, taken = recipe(train_fraction=0.3, **changes), []
    real = gradients.by_hand
    monkeypatch.setattr(gradients, "by_hand", lambda *args: taken.append(1) or real(*args))
    found = states(how)
    assert len(taken) >= 10
    monkeypatch.setattr(one_block, "suits", lambda *args: False)
    before, expected = len(taken), states(how)
    assert len(taken) == before
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def states(how: Any) -> list[list[Tensor]]:
    """The state at every evaluation."""
    steps = fit(ADDITION, SMALL, how, [0, 1, 2], device=CPU)
    return [[tensor.clone() for tensor in snapshot.state] for snapshot in steps]

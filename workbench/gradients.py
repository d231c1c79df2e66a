"""The gradient of a training step, for many seeds at once.

Weights and gradients are rows of numbers, one row per seed. `find_gradient` goes the quick way
where there is one: `workbench.one_block` gives the bits of `by_autograd`, which goes through the
forward pass that everything else goes through.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import one_block
from workbench.batches import Batch, generator_for
from workbench.losses import exact_loss, unevenness
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params
from workbench.transformer import forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a step lowers, apart from the weights: networks of one shape, each on its own batch."""

    config: ModelConfig
    batch: Batch
    positions: Sequence[int]
    """Where answers are read."""
    smoothing: float
    uneven: float
    """Weight of `unevenness`."""
    kept: Mapping[str, Float[Tensor, "seed d_mlp 1"]]
    """Factors of W_out, by its name: 0 for neurons that are silenced, above 1 for the others."""

    def params(self, weights: Float[Tensor, "seed param"]) -> Params:
        """The parameters that these weights stand for, neurons silenced."""
        params = unflatten(weights, self.config)
        return params | {name: params[name] * factor for name, factor in self.kept.items()}

    def loss(self, logits: Float[Tensor, "seed batch answer d_vocab_out"]) -> Float[Tensor, ""]:
        """The sum over seeds of each one's loss, in nats."""
        loss = exact_loss(logits, self.batch.answers, self.smoothing).mean((1, 2))
        if self.uneven:
            loss = loss + self.uneven * unevenness(logits, self.batch.answers)
        return loss.sum()


def find_gradient(
    weights: Float[Tensor, "seed param"], objective: Objective, work: one_block.Workspace
) -> Float[Tensor, "seed param"]:
    """The gradient of the objective's loss by the weights; `work` is memory from step to step."""
    if one_block.suits(objective.config, objective.batch.tokens, objective.positions):
        return by_hand(weights, objective, work)
    return by_autograd(weights, objective)


def by_autograd(
    weights: Float[Tensor, "seed param"], objective: Objective
) -> Float[Tensor, "seed param"]:
    """The gradient of any network."""
    leaf = weights.detach().requires_grad_()
    logits = forward(
        objective.params(leaf),
        objective.batch.tokens,
        objective.config,
        positions=objective.positions,
    ).logits
    return torch.autograd.grad(objective.loss(logits), leaf)[0]


def by_hand(
    weights: Float[Tensor, "seed param"], objective: Objective, work: one_block.Workspace
) -> Float[Tensor, "seed param"]:
    """The same, for what `one_block.suits`."""

    def slope(logits: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = logits[:, :, None].requires_grad_()
            return torch.autograd.grad(objective.loss(leaf), leaf)[0][:, :, 0]

    config = objective.config
    with torch.no_grad():
        params = objective.params(weights)
        found = one_block.gradient(params, objective.batch.tokens, config, slope, work)
        found |= {name: found[name] * factor for name, factor in objective.kept.items()}
        return torch.cat([found[name].flatten(1) for name in param_shapes(config)], 1)


def kept_neurons(
    config: ModelConfig, share: float, seeds: Sequence[int], step: int, *, like: Tensor
) -> dict[str, Float[Tensor, "seed d_mlp 1"]]:
    """`Objective.kept` where a share of each layer's neurons is silenced, by seed and step."""
    kept = {}
    for layer in range(config.n_layers if share and config.d_mlp else 0):
        draws = [
            torch.rand(
                config.d_mlp, generator=generator_for(seed, -2 - layer - config.n_layers * step)
            )
            for seed in seeds
        ]
        stays = (torch.stack(draws) >= share).to(like) / (1 - share)
        kept[f"blocks.{layer}.mlp.W_out"] = stays[..., None]
    return kept


def unflatten(flat: Float[Tensor, "seed param"], config: ModelConfig) -> Params:
    """Rows of numbers as stacked parameters (views)."""
    shapes = param_shapes(config)
    parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()], dim=1)
    return {
        name: part.view(len(flat), *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def flatten_params(params: Params, config: ModelConfig) -> Float[Tensor, " param"]:
    """The inverse of `unflatten` for one network."""
    return torch.cat([params[name].flatten() for name in param_shapes(config)])

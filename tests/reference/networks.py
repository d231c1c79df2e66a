"""Random networks, from a table that reaches every option of the configuration."""

import random

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params

SEEDS = range(24)


def random_config(seed: int) -> ModelConfig:
    """A small configuration; n_heads * d_head is rarely d_model."""
    draw = random.Random(seed)
    return ModelConfig(
        n_layers=[1, 2, 1, 3, 1, 4][seed % 6],
        n_heads=draw.choice([1, 2, 3]),
        d_model=draw.choice([6, 8, 12]),
        d_head=draw.choice([1, 4, 5]),
        d_mlp=draw.choice([0, 10, 16]),
        d_vocab=draw.choice([7, 11]),
        d_vocab_out=draw.choice([5, 7, 13]),
        n_ctx=draw.choice([3, 4, 6]),
        act_fn=draw.choice(["relu", "gelu"]),
        normalization=draw.choice(["LN", None]),
        attention_dir=draw.choice(["causal", "bidirectional"]),
        attention_rate=draw.choice([0.0, 0.39, 1.0]),
        attn_biases=draw.choice([True, False]),
        mlp_biases=draw.choice([True, False]),
        unembed_bias=draw.choice([True, False]),
    )


def random_params(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Every parameter random, biases and LayerNorm included: none can hide behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    params: Params = {}
    for name, shape in param_shapes(config).items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        leaf = name.rsplit(".", 1)[1]
        if leaf == "w":
            noise = 1 + 0.2 * noise
        elif leaf.startswith("b"):
            noise = 0.2 * noise
        else:
            noise = 0.7 * noise / config.d_model**0.5
        params[name] = noise.to(dtype)
    return params


def random_tokens(config: ModelConfig, seed: int, *, batch: int) -> Int[Tensor, "batch pos"]:
    """Random inputs of full length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.d_vocab, (batch, config.n_ctx), generator=generator)

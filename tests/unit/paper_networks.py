"""Networks small enough to work out by hand: what the tests of the forward pass share."""

import math

import torch
from torch import Tensor

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, init_params

REFERENCE = ModelConfig(
    n_layers=1, n_heads=4, d_model=128, d_head=32, d_mlp=512, d_vocab=114, d_vocab_out=114, n_ctx=3
)

SMALL = ModelConfig(
    n_layers=2,
    n_heads=2,
    d_model=6,
    d_head=3,
    d_mlp=8,
    d_vocab=5,
    d_vocab_out=4,
    n_ctx=4,
    attn_biases=True,
)


def numbers(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def zeros(config: ModelConfig) -> Params:
    return {name: torch.zeros(s, dtype=torch.float64) for name, s in param_shapes(config).items()}


def random_params(config: ModelConfig, seed: int = 0) -> Params:
    """Fresh parameters with noise on top, so that no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    params = init_params(config, generator)
    noise = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
    return {name: p.double() + 0.1 * noise[name] for name, p in params.items()}


ONE_HEAD = ModelConfig(
    n_layers=1, n_heads=1, d_model=2, d_head=1, d_mlp=0, d_vocab=2, d_vocab_out=2, n_ctx=2
)
TOKENS = torch.tensor([[0, 1]])


def one_head() -> Params:
    """Token 1 asks, token 0 answers with score ln 3; values are 4 and 8; the head writes (1, 2)."""
    return zeros(ONE_HEAD) | {
        "embed.W_E": numbers([1, 0], [0, 1]),
        "blocks.0.attn.W_Q": numbers([[0], [1]]),
        "blocks.0.attn.W_K": numbers([[math.log(3)], [0]]),
        "blocks.0.attn.W_V": numbers([[4], [8]]),
        "blocks.0.attn.W_O": numbers([[1, 2]]),
        "unembed.W_U": numbers([1, 0], [0, 1]),
    }

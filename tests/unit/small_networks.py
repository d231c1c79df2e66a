"""Networks written down by hand, and what tests of reading them share."""

import torch
from torch import Tensor

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params

CONFIG = ModelConfig(
    n_layers=1, n_heads=1, d_model=2, d_head=2, d_mlp=0, d_vocab=2, d_vocab_out=2, n_ctx=2
)


def assert_close(ours: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zeros(config: ModelConfig, **given: Tensor) -> Params:
    """A network of zeros but for what is given, by the last part of its name."""
    params = {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }
    for name in params:
        leaf = name.rsplit(".", 1)[1]
        if leaf in given:
            params[name] = given[leaf].double()
    return params

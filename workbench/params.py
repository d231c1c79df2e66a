"""A network's numbers: initialisation, checks, stacks.

Parameters are a plain dictionary named as TransformerLens names them (`embed.W_E`,
`blocks.0.attn.W_Q` ...). Networks of one shape are stacked along a new leading `seed` axis.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workbench.errors import WeightsError
from workbench.model_config import ModelConfig, param_shapes

Params = dict[str, Tensor]
"""Parameters by TransformerLens name; each may have a leading `seed` axis, all or none."""


def init_params(
    config: ModelConfig,
    generator: torch.Generator,
    *,
    scale: float = 1.0,
    query_key_scale: float = 1.0,
) -> Params:
    """Fresh parameters: matrices Gaussian of standard deviation scale / sqrt(d_model).

    W_Q and W_K are multiplied by `query_key_scale` besides. Biases start at zero and LayerNorm at
    the identity. Drawn on the CPU in float32, in the order of `param_shapes`, so that a seed means
    the same network on every device.
    """
    std = scale / math.sqrt(config.d_model)
    params: Params = {}
    for name, shape in param_shapes(config).items():
        leaf = name.rsplit(".", 1)[1]
        if leaf == "w":
            params[name] = torch.ones(shape)
        elif leaf.startswith("b"):
            params[name] = torch.zeros(shape)
        else:
            factor = query_key_scale if leaf in ("W_Q", "W_K") else 1.0
            params[name] = torch.randn(shape, generator=generator) * (std * factor)
    return params


def check_params(params: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise `WeightsError` unless names, shapes and dtypes fit `config` and all is finite."""
    expected = param_shapes(config)
    missing, extra = expected.keys() - params.keys(), params.keys() - expected.keys()
    if missing or extra:
        raise WeightsError(
            f"weights do not match the configuration: missing {sorted(missing) or 'none'}, "
            f"unexpected {sorted(extra) or 'none'}; check n_layers, d_mlp, normalization, biases"
        )
    for name, shape in expected.items():
        tensor = params[name]
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"weights {name}: shape {list(tensor.shape)}, the configuration says {list(shape)}"
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise WeightsError(f"weights {name}: dtype {tensor.dtype}; convert to float32")
        if tensor.dtype != params["embed.W_E"].dtype:
            raise WeightsError(
                f"weights {name}: dtype {tensor.dtype} beside {params['embed.W_E'].dtype} of "
                "embed.W_E; convert all to one"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"weights {name}: NaN or Inf inside; export the network again")


def stack(networks: Sequence[Mapping[str, Tensor]]) -> Params:
    """Several networks of one configuration as one, along a new leading `seed` axis."""
    return {name: torch.stack([params[name] for params in networks]) for name in networks[0]}


def unstack(params: Mapping[str, Tensor]) -> list[Params]:
    """The inverse of `stack`."""
    n_seeds = next(iter(params.values())).shape[0]
    return [{name: tensor[i] for name, tensor in params.items()} for i in range(n_seeds)]

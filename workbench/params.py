"""A network's shape and its numbers: configuration, parameter names, initialisation, checks.

Parameters are a plain dictionary named as TransformerLens names them (`embed.W_E`,
`blocks.0.attn.W_Q` ...). Networks of one shape are stacked along a new leading `seed` axis.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.errors import WeightsError

Params = dict[str, Tensor]
"""Parameters by TransformerLens name; each may have a leading `seed` axis, all or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a transformer. `d_mlp = 0` is attention only."""

    n_layers: Annotated[int, Field(ge=1)]
    n_heads: Annotated[int, Field(ge=1)]
    d_model: Annotated[int, Field(ge=1)]
    d_head: Annotated[int, Field(ge=1)]
    d_mlp: Annotated[int, Field(ge=0)]
    d_vocab: Annotated[int, Field(ge=2)]
    d_vocab_out: Annotated[int, Field(ge=2)]
    n_ctx: Annotated[int, Field(ge=1)]
    act_fn: Literal["relu", "gelu"] = "relu"
    normalization: Literal["LN"] | None = None
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    attention_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    attn_biases: bool = False
    mlp_biases: bool = True
    unembed_bias: bool = False


def param_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of a network of this configuration, in order."""
    d, heads, d_head, d_mlp = config.d_model, config.n_heads, config.d_head, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (config.d_vocab, d),
        "pos_embed.W_pos": (config.n_ctx, d),
    }
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        if config.normalization == "LN":
            shapes |= {f"{block}.ln1.w": (d,), f"{block}.ln1.b": (d,)}
        for letter in "QKV":
            shapes[f"{block}.attn.W_{letter}"] = (heads, d, d_head)
        shapes[f"{block}.attn.W_O"] = (heads, d_head, d)
        if config.attn_biases:
            shapes |= {f"{block}.attn.b_{letter}": (heads, d_head) for letter in "QKV"}
            shapes[f"{block}.attn.b_O"] = (d,)
        if d_mlp == 0:
            continue
        if config.normalization == "LN":
            shapes |= {f"{block}.ln2.w": (d,), f"{block}.ln2.b": (d,)}
        shapes |= {f"{block}.mlp.W_in": (d, d_mlp), f"{block}.mlp.W_out": (d_mlp, d)}
        if config.mlp_biases:
            shapes |= {f"{block}.mlp.b_in": (d_mlp,), f"{block}.mlp.b_out": (d,)}
    if config.normalization == "LN":
        shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    shapes["unembed.W_U"] = (d, config.d_vocab_out)
    if config.unembed_bias:
        shapes["unembed.b_U"] = (config.d_vocab_out,)
    return shapes


def n_params(config: ModelConfig) -> int:
    """How many numbers a network of this configuration has."""
    return sum(math.prod(shape) for shape in param_shapes(config).values())


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

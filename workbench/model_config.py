"""A network's shape: configuration, and the name and shape of every parameter. Needs no torch."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


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

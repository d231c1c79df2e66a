"""The residual stream as a sum of writers: embeddings, heads, attention biases and MLPs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import forward, hook_names


def residual_writers(
    params: Params, tokens: Int[Tensor, "*seed batch pos"], config: ModelConfig
) -> tuple[list[str], Float[Tensor, "writer *seed batch pos d_model"]]:
    """The final residual stream as a sum: every writer's name and what it wrote.

    Writers are `embed`, `pos_embed`, `a{layer}.h{head}`, `a{layer}.bias` (only where the
    attention output has a bias) and `m{layer}`. Their sum is the last `hook_resid_post`.
    """
    taps = [name for name in hook_names(config) if name.endswith(_WRITER_HOOKS)]
    activations = forward(params, tokens, config, taps=taps).activations
    names, written = ["embed", "pos_embed"], [activations["hook_embed"]]
    written.append(activations["hook_pos_embed"].expand_as(written[0]))
    for layer in range(config.n_layers):
        result = activations[f"blocks.{layer}.attn.hook_result"]
        for head in range(config.n_heads):
            names.append(f"a{layer}.h{head}")
            written.append(result[..., head, :])
        bias = params.get(f"blocks.{layer}.attn.b_O")
        if bias is not None:
            names.append(f"a{layer}.bias")
            written.append(bias[..., None, None, :].expand_as(written[0]))
        if config.d_mlp:
            names.append(f"m{layer}")
            written.append(activations[f"blocks.{layer}.hook_mlp_out"])
    return names, torch.stack(written)


_WRITER_HOOKS = ("hook_embed", "hook_pos_embed", "hook_result", "hook_mlp_out")

"""What writers and neurons say to the logits by themselves: every answer token, and every neuron.

`circuits.logit_attribution` gives what each writer adds to one logit. Here are the logits that each
writer adds to all tokens, so that one sees which answer a head writes, and the share of an MLP that
each of its neurons writes. LayerNorm is frozen as there: the scale is that of this very run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, reduce
from jaxtyping import Float, Int
from torch import Tensor

from circuits.reading import check_positions, find, layer_norm_scale
from workbench.model_config import ModelConfig
from workbench.pairs import Pairs
from workbench.params import Params
from workbench.subject import Subject
from workbench.transformer import forward
from workbench.writers import residual_writers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectLogits:
    """What every writer adds to every logit."""

    writers: tuple[str, ...]
    values: Float[Tensor, "writer batch answer d_vocab_out"]
    """In logits, less their mean over tokens, which changes no answer."""

    def of(self, writer: str) -> Float[Tensor, "batch answer d_vocab_out"]:
        """What one writer adds, by name."""
        return self.values[find("writer", writer, self.writers)]


@torch.no_grad()
def direct_logits(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    *,
    positions: Sequence[int],
) -> DirectLogits:
    """What every writer adds to the logits at `positions`, by its own output alone.

    Raises `HookError` for a position outside the input.
    """
    where = check_positions(positions, tokens.shape[1])
    names, written = residual_writers(params, tokens, config)
    written = written[:, :, where]
    if config.normalization is not None:
        scale = layer_norm_scale(written.sum(0))
        written = (written - written.mean(-1, keepdim=True)) / scale * params["ln_final.w"]
    logits = written @ params["unembed.W_U"]
    return DirectLogits(writers=tuple(names), values=logits - logits.mean(-1, keepdim=True))


@torch.no_grad()
def neuron_attribution(
    subject: Subject, pairs: Pairs, layer: int
) -> Float[Tensor, "neuron batch answer"]:
    """What each neuron adds to the clean answer's logit minus the corrupted's, on clean inputs.

    Their sum is what the MLP adds (`circuits.logit_attribution`), but for its bias b_out. Raises
    `HookError` where the network has no MLP.
    """
    params, config = subject.params, subject.config
    tokens, answer, wrong = (
        x.to(subject.device) for x in (pairs.clean_tokens, pairs.answer, pairs.wrong_answer)
    )
    hooks = (f"blocks.{layer}.mlp.hook_post", f"blocks.{config.n_layers - 1}.hook_resid_post")
    read = forward(params, tokens, config, taps=hooks).activations
    post, residual = (read[hook][:, list(subject.task.answer_positions)] for hook in hooks)
    W_U, W_out = params["unembed.W_U"], params[f"blocks.{layer}.mlp.W_out"]
    direction = W_U.T[answer] - W_U.T[wrong]
    if config.normalization is not None:
        direction = direction * params["ln_final.w"] / layer_norm_scale(residual)
        W_out = W_out - reduce(W_out, "neuron d -> neuron 1", "mean")
    equation = "batch answer neuron, neuron d, batch answer d -> neuron batch answer"
    return einsum(post, W_out, direction, equation)

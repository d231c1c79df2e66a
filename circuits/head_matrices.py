"""QK and OV circuits: what a head would do, read off its weights alone.

With rows times matrices, a head's score between a query that reads x and a key that reads y is
x W_Q W_K^T y^T / sqrt(d_head), and where it looks at y it writes y W_V W_O. Put the embeddings in,
and the unembedding behind, and these are tables over the vocabulary and the positions (Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits", on splitting attention heads into
circuits and on detecting copying). They are the direct path: what earlier heads and MLPs write into
what the head reads is not in them.

Biases count as one more thing that is read, called `bias`: in a first layer without LayerNorm the
nine QK tables (token, position, bias on either side) sum exactly to the attention scores.

LayerNorm is ((x - mean(x)) / sigma) * w + b. Centring and w are folded into the matrices that read,
b into the biases, and heads write centred, since no reader sees the mean (TransformerLens does so
with `fold_ln` and `center_writing_weights`). Only sigma, which depends on the whole input, is left;
it is *frozen* at a given value (`LayerNormScales`), such as its mean over inputs. Without one, the
tables of a network with LayerNorm are refused.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from circuits.reading import Baseline, check_positions, head_names, layer_norm_scale
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import forward

Kind = Literal["token", "position", "bias"]
"""What is read: a row per token, a row per position, or the one row of the bias."""


class HeadMatrices(NamedTuple):
    """The weights of every head of every layer, with LayerNorm folded in."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_head"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerNormScales:
    """What LayerNorms divide by, frozen: one number per layer's attention, one at the end."""

    attention: Float[Tensor, " layer"]
    final: Float[Tensor, ""]
    spread: float = 0.0
    """Largest standard deviation over inputs and positions, as a share of the mean: how far
    freezing is from the truth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CopyingScores:
    """How far heads raise the very token that they look at."""

    heads: tuple[str, ...]
    scores: Float[Tensor, " head"]
    """Sum of the OV circuit's eigenvalues over the sum of their sizes, from -1 to 1: 1 where all
    are positive. NaN where a head's circuit has no eigenvalue but zero."""
    baseline: Baseline


def head_matrices(params: Params, config: ModelConfig) -> HeadMatrices:
    """Every head's weights; with LayerNorm, what reads is folded and what writes is centred.

    What a head reads is then the residual stream divided by sigma, and nothing else; biases that
    are absent are zeros.
    """
    read = [_reading(params, config, letter) for letter in "QKV"]
    W_O = _all_layers(params, config, "attn.W_O")
    if config.normalization is not None:
        W_O = W_O - W_O.mean(-1, keepdim=True)
    (W_Q, b_Q), (W_K, b_K), (W_V, b_V) = read
    return HeadMatrices(W_Q, W_K, W_V, W_O, b_Q, b_K, b_V)


def folded_unembedding(params: Params, config: ModelConfig) -> Float[Tensor, "d_model d_vocab_out"]:
    """W_U, with the final LayerNorm's centring and w folded in."""
    W_U = params["unembed.W_U"]
    if config.normalization is None:
        return W_U
    folded = params["ln_final.w"][:, None] * W_U
    return folded - folded.mean(0, keepdim=True)


@torch.no_grad()
def layer_norm_scales(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    *,
    positions: tuple[int, ...] | None = None,
) -> LayerNormScales:
    """The mean scales over these inputs: at all positions before attention, at `positions` (all
    when None) in the end.

    Raises `CircuitError` for a network without LayerNorm, `HookError` for a position outside.
    """
    if config.normalization is None:
        raise CircuitError("the network has no LayerNorm; leave its scales out")
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(config.n_layers)]
    last = f"blocks.{config.n_layers - 1}.hook_resid_post"
    read = forward(params, tokens, config, taps=[*hooks, last]).activations
    end = read[last]
    if positions is not None:
        end = end[:, check_positions(positions, tokens.shape[1])]
    scales = [layer_norm_scale(x).flatten() for x in (*(read[hook] for hook in hooks), end)]
    means = torch.stack([scale.mean() for scale in scales])
    spread = max(float(scale.std(correction=0) / scale.mean()) for scale in scales)
    return LayerNormScales(attention=means[:-1], final=means[-1], spread=spread)


def qk_circuit(
    params: Params,
    config: ModelConfig,
    *,
    query: Kind = "token",
    key: Kind = "token",
    scales: LayerNormScales | None = None,
) -> Float[Tensor, "head query key"]:
    """What every head adds to its score for every query and key.

    For tokens W_E W_Q W_K^T W_E^T / sqrt(d_head), without the causal mask. Rows are all tokens or
    positions that ask, columns those looked at.

    Raises `CircuitError` where the network has LayerNorm and no scales are given, or the reverse.
    """
    heads = head_matrices(params, config)
    asking = _project(params, config, query, heads.W_Q, heads.b_Q, scales)
    looked_at = _project(params, config, key, heads.W_K, heads.b_K, scales)
    products = einsum(asking, looked_at, "head query e, head key e -> head query key")
    return products / math.sqrt(config.d_head)


def ov_circuit(
    params: Params,
    config: ModelConfig,
    *,
    source: Kind = "token",
    scales: LayerNormScales | None = None,
) -> Float[Tensor, "head source d_vocab_out"]:
    """What every head adds to every logit by looking at every source: W_E W_V W_O W_U.

    For full attention (weight 1). Raises `CircuitError` as `qk_circuit` does.
    """
    heads = head_matrices(params, config)
    values = _project(params, config, source, heads.W_V, heads.b_V, scales)
    out = einsum(heads.W_O, folded_unembedding(params, config), "head e d, d v -> head e v")
    table = einsum(values, out, "head source e, head e v -> head source v")
    return table if scales is None else table / scales.final


@torch.no_grad()
def copying_scores(
    params: Params,
    config: ModelConfig,
    generator: torch.Generator,
    *,
    inputs: Int[Tensor, " input_token"] | None = None,
    outputs: Int[Tensor, " output_token"] | None = None,
    n_draws: int = 200,
) -> CopyingScores:
    """Elhage et al.'s copying score of every head's OV circuit, beside random heads.

    Eigenvalues of W_E W_V W_O W_U are, but for zeros, those of W_O W_U W_E W_V, of size d_head.
    LayerNorm's scale cancels. The baseline keeps this network's embedding and unembedding and
    draws Gaussian W_V and W_O.

    Args:
        inputs: input tokens, the i-th meaning the same as the i-th of `outputs`; where both are
            None, all, which needs one vocabulary for input and output.

    Raises `CircuitError` where tokens do not go together.
    """
    W_E, W_U = params["embed.W_E"], folded_unembedding(params, config)
    rows, columns = _same_tokens(config, inputs, outputs)
    through = W_U[:, columns] @ W_E[rows]  # [d_model, d_model]: out at a token, in again
    heads = head_matrices(params, config)
    shape = (2, n_draws, *heads.W_V.shape[1:])
    W_V, W_O = torch.randn(shape, generator=generator, dtype=torch.float64).to(W_E)
    if config.normalization is not None:
        W_V = W_V - W_V.mean(-2, keepdim=True)
    return CopyingScores(
        heads=head_names(config),
        scores=_copying(heads.W_V, heads.W_O, through),
        baseline=Baseline(
            what=f"heads with Gaussian W_V and W_O between this network's embeddings, {n_draws}",
            draws=_copying(W_V, W_O.mT, through),
        ),
    )


def _same_tokens(
    config: ModelConfig, inputs: Tensor | None, outputs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ids of the same tokens on the way in and on the way out."""
    if inputs is None and outputs is None:
        if config.d_vocab != config.d_vocab_out:
            raise CircuitError(
                f"{config.d_vocab} input and {config.d_vocab_out} output tokens: give inputs= and "
                "outputs=, ids of the same tokens on either side"
            )
        inputs = outputs = torch.arange(config.d_vocab)
    if inputs is None or outputs is None or len(inputs) != len(outputs) or not len(inputs):
        raise CircuitError("inputs= and outputs= must be as many ids, of the same tokens in order")
    for ids, n, side in ((inputs, config.d_vocab, "in"), (outputs, config.d_vocab_out, "out")):
        if not 0 <= int(ids.min()) <= int(ids.max()) < n:
            raise CircuitError(f"{side}puts= must be ids from 0 to {n - 1}")
    return inputs, outputs


def _copying(
    W_V: Float[Tensor, "head d_model d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    through: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, " head"]:
    small = einsum(W_O, through, W_V, "head e d, d c, head c f -> head e f")
    eigenvalues = torch.linalg.eigvals(small)
    copying: Tensor = eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)
    return copying


def _all_layers(params: Params, config: ModelConfig, leaf: str) -> Tensor:
    """A parameter of every head, or of every layer, along one axis."""
    layers = torch.stack([params[f"blocks.{layer}.{leaf}"] for layer in range(config.n_layers)])
    return layers.flatten(0, 1)


def _reading(params: Params, config: ModelConfig, letter: str) -> tuple[Tensor, Tensor]:
    """A matrix that reads, and its bias, with LayerNorm folded in."""
    W = _all_layers(params, config, f"attn.W_{letter}")
    bias = W.new_zeros(W.shape[0], W.shape[2])
    if config.attn_biases:
        bias = _all_layers(params, config, f"attn.b_{letter}")
    if config.normalization is None:
        return W, bias
    per_layer = rearrange(W, "(layer head) d e -> layer head d e", layer=config.n_layers)
    w, b = (
        rearrange(_all_layers(params, config, f"ln1.{part}"), "(layer d) -> layer d", d=W.shape[1])
        for part in "wb"
    )
    folded_bias = einsum(b, per_layer, "layer d, layer head d e -> layer head e")
    folded = einsum(w, per_layer, "layer d, layer head d e -> layer head d e").flatten(0, 1)
    return folded - folded.mean(-2, keepdim=True), bias + folded_bias.flatten(0, 1)


def _project(
    params: Params,
    config: ModelConfig,
    kind: Kind,
    W: Float[Tensor, "head d_model d_head"],
    bias: Float[Tensor, "head d_head"],
    scales: LayerNormScales | None,
) -> Float[Tensor, "head row d_head"]:
    """Queries, keys or values of every token or position, or the bias alone."""
    if (config.normalization is None) != (scales is None):
        raise CircuitError(
            "the network has LayerNorm, whose scale depends on the input; freeze it with scales="
            "layer_norm_scales(params, tokens, config)"
            if scales is None
            else "the network has no LayerNorm; leave scales out"
        )
    if kind == "bias":
        return bias[:, None]
    rows = params["embed.W_E" if kind == "token" else "pos_embed.W_pos"]
    read = einsum(rows, W, "row d, head d e -> head row e")
    if scales is None:
        return read
    per_head = scales.attention.to(read).repeat_interleave(config.n_heads)
    return read / per_head[:, None, None]

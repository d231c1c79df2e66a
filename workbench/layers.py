"""The arithmetic of a transformer's layers, without hooks: what every kind of forward pass shares.

Functions take the parameters of the whole network and the layer they are about. Activations have
at least two leading axes, `[*seed, batch, pos, ...]`; with a leading `seed` axis on every parameter
each network computes on its own slice. Conventions are those of `workbench.transformer`.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.model_config import ModelConfig
from workbench.params import Params

LAYER_NORM_EPS = 1e-5

SHORT_CONTEXT = 16
"""Up to this many (query, key) pairs, broadcasting beats thousands of tiny matrix products.

Scores and pattern then lie in memory with the head last; their axes are in order all the same.
"""
FEW_KEYS = 15
"""Up to this many keys, torch's softmax fills no vector register; sums over the keys are faster."""


def layer_norm(
    params: Params, config: ModelConfig, name: str, x: Float[Tensor, "*lead d_model"], axes: int = 2
) -> Float[Tensor, "*lead d_model"]:
    """LayerNorm (Ba et al. 2016) with TransformerLens' eps; the identity where there is none.

    `axes` counts the axes between a network's own and d_model: 2 for `[batch, pos]`, 3 where each
    head reads its own copy of the residual stream.
    """
    if config.normalization is None:
        return x
    w, b = (params[f"{name}.{part}"] for part in "wb")
    between = (slice(None),) * (w.ndim - 1) + (None,) * axes
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS) * w[between] + b[between]


def project_heads(
    params: Params, config: ModelConfig, layer: int, letter: str, x: Float[Tensor, "*lead d_model"]
) -> Float[Tensor, "*lead head d_head"]:
    """q, k or v of every head, from what they read in common."""
    name = f"blocks.{layer}.attn"
    bias = params.get(f"{name}.b_{letter}")
    flat = linear(
        x,
        rearrange(params[f"{name}.W_{letter}"], "... head d e -> ... d (head e)"),
        None if bias is None else rearrange(bias, "... head e -> ... (head e)"),
    )
    return rearrange(flat, "... (head e) -> ... head e", head=config.n_heads)


def project_split_heads(
    params: Params, layer: int, letter: str, x: Float[Tensor, "*lead head d_model"]
) -> Float[Tensor, "*lead head d_head"]:
    """q, k or v of every head, each from its own copy of what it reads."""
    name = f"blocks.{layer}.attn"
    projected = einsum(
        x, params[f"{name}.W_{letter}"], "... b pos head d, ... head d e -> ... b pos head e"
    )
    bias = params.get(f"{name}.b_{letter}")
    return projected if bias is None else projected + bias[..., None, None, :, :]


def attention_scores(
    q: Float[Tensor, "*lead query head d_head"], k: Float[Tensor, "*lead key head d_head"]
) -> Float[Tensor, "*lead head query key"]:
    """Unscaled products of queries and keys."""
    if q.shape[-3] * k.shape[-3] > SHORT_CONTEXT:
        return einsum(q, k, "... query head e, ... key head e -> ... head query key")
    products = (q[..., :, None, :, :] * k[..., None, :, :, :]).sum(-1)
    return rearrange(products, "... query key head -> ... head query key")


def mask_scores(
    scores: Float[Tensor, "*lead head query key"],
    config: ModelConfig,
    hidden: Bool[Tensor, "query key"] | None,
) -> Float[Tensor, "*lead head query key"]:
    """Scores divided by sqrt(d_head), with the hidden keys at minus infinity."""
    scores = scores / math.sqrt(config.d_head)
    return scores if hidden is None else scores.masked_fill(hidden, -torch.inf)


def attention_pattern(
    scores: Float[Tensor, "*lead head query key"],
    config: ModelConfig,
    hidden: Bool[Tensor, "query key"] | None,
) -> Float[Tensor, "*lead head query key"]:
    """attention_rate * softmax + (1 - attention_rate) on the keys that are not hidden."""
    pattern = _softmax(scores)
    if config.attention_rate == 1.0:
        return pattern
    uniform = torch.ones_like(pattern) if hidden is None else (~hidden).to(pattern.dtype)
    return config.attention_rate * pattern + (1 - config.attention_rate) * uniform


def hidden_keys(
    config: ModelConfig, n_key: int, queries: list[int], device: torch.device
) -> Bool[Tensor, "query key"] | None:
    """Which keys lie after each query of a causal network; None when no key does."""
    if config.attention_dir != "causal" or all(query == n_key - 1 for query in queries):
        return None
    key = torch.arange(n_key, device=device)
    return key > torch.tensor(queries, device=device)[:, None]


def mix_values(
    pattern: Float[Tensor, "*lead head query key"], v: Float[Tensor, "*lead key head d_head"]
) -> Float[Tensor, "*lead query head d_head"]:
    """z: values, weighted by the pattern."""
    if pattern.shape[-2] * pattern.shape[-1] > SHORT_CONTEXT:
        return einsum(pattern, v, "... head query key, ... key head e -> ... query head e")
    weights = rearrange(pattern, "... head query key -> ... query key head 1")
    return (weights * v[..., None, :, :, :]).sum(-3)


def head_results(
    params: Params, layer: int, z: Float[Tensor, "*lead head d_head"]
) -> Float[Tensor, "*lead head d_model"]:
    """What each head writes to the residual stream."""
    W_O = params[f"blocks.{layer}.attn.W_O"]
    return einsum(z, W_O, "... b pos head e, ... head e d -> ... b pos head d")


def sum_results(
    params: Params, layer: int, results: Float[Tensor, "*lead head d_model"]
) -> Float[Tensor, "*lead d_model"]:
    """What attention writes, from what its heads write: their sum and the output bias."""
    bias, out = params.get(f"blocks.{layer}.attn.b_O"), results.sum(-2)
    return out if bias is None else out + bias[..., None, None, :]


def merge_heads(
    params: Params, layer: int, z: Float[Tensor, "*lead head d_head"]
) -> Float[Tensor, "*lead d_model"]:
    """What attention writes, in one product: `sum_results` of `head_results`."""
    name = f"blocks.{layer}.attn"
    return linear(
        rearrange(z, "... head e -> ... (head e)"),
        rearrange(params[f"{name}.W_O"], "... head e d -> ... (head e) d"),
        params.get(f"{name}.b_O"),
    )


def activate(
    config: ModelConfig, pre: Float[Tensor, "..."], *, inplace: bool
) -> Float[Tensor, "..."]:
    """The MLP's nonlinearity; `inplace` may reuse the memory of `pre`."""
    return F.relu(pre, inplace=inplace) if config.act_fn == "relu" else F.gelu(pre)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight + bias` for x `[*seed, batch, pos, d_in]`, weight `[*seed, d_in, d_out]`."""
    if weight.ndim == 2:
        return F.linear(x, weight.T, bias)  # the same product, with fewer steps on the way
    return unflatten(affine(flatten(x), weight, bias), x.shape[-2])


def affine(flat: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`flat @ weight + bias` for flat `[*seed, row, d_in]`, weight `[*seed, d_in, d_out]`."""
    if bias is None:
        return flat @ weight
    if weight.ndim == 2:
        return torch.addmm(bias, flat, weight)
    return torch.baddbmm(bias[:, None], flat, weight)


def flatten(x: Tensor) -> Tensor:
    """`[*seed, batch, pos, d]` as rows."""
    return rearrange(x, "... batch pos d -> ... (batch pos) d")


def unflatten(flat: Tensor, n_pos: int) -> Tensor:
    """The inverse of `flatten`."""
    return rearrange(flat, "... (batch pos) d -> ... batch pos d", pos=n_pos)


def gather_rows(
    table: Float[Tensor, "*seed row d"], rows: Int[Tensor, "*seed batch pos"]
) -> Tensor:
    """`table[rows]`, through `embedding`, whose backward pass sums in a fixed order on the CPU."""
    if table.ndim == 3:
        n_seeds, n_rows, _ = table.shape
        offset = torch.arange(n_seeds, device=rows.device)[:, None, None] * n_rows
        rows, table = rows + offset, table.flatten(0, 1)
    return F.embedding(rows, table)


def _softmax(scores: Float[Tensor, "*lead head query key"]) -> Tensor:
    """Over the keys, without first transposing what `attention_scores` left in memory."""
    if scores.shape[-1] <= FEW_KEYS and not scores.requires_grad:
        raised = (scores - scores.amax(-1, keepdim=True)).exp_()
        return raised.div_(raised.sum(-1, keepdim=True))
    if scores.shape[-2] * scores.shape[-1] > SHORT_CONTEXT:
        return scores.softmax(-1)
    in_memory = rearrange(scores, "... head query key -> ... query key head")
    return rearrange(in_memory.softmax(-2), "... query key head -> ... head query key")

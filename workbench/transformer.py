"""The transformer: one functional forward pass with taps, for one network or many at once.

`forward(params, tokens, config)` is what training, patching, probing and the app all call.
Parameters are a plain dictionary named as TransformerLens names them (`embed.W_E`,
`blocks.0.attn.W_Q` ...). When every parameter has one more leading axis (`seed`), many networks
run together and every activation carries that axis first.

Conventions: rows times matrices (`x @ W`); pre-norm blocks (`x + attn(ln1(x))`, then
`x + mlp(ln2(x))`); learned absolute positions; scores divided by sqrt(d_head);
pattern = attention_rate * softmax(scores) + (1 - attention_rate) on the visible positions
(Zhong et al. 2023, arXiv:2306.17844, section 4). A bias that is absent counts as zero.

Activations carry TransformerLens' hook names and layouts: q, k, v, z `[batch, pos, head, d_head]`,
pattern and scores `[batch, head, query, key]`, result `[batch, pos, head, d_model]`.

Two savings never change a value beyond rounding: with `positions`, the last block computes
queries, MLP and unembedding only there; and when nothing upstream is tapped or edited, the first
block's keys and values are computed once per (token, position) and gathered.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import HookError, TaskError
from workbench.params import ModelConfig, Params
from workbench.registry import unknown

Edit = Callable[[Tensor], Tensor]
"""What an intervention does to one activation: takes it, returns its replacement (same shape).

It must not write into what it is given, which may be a view of a parameter or of another tap.
"""

LAYER_NORM_EPS = 1e-5


class Forward(NamedTuple):
    """What a forward pass returns."""

    logits: Float[Tensor, "*seed batch pos d_vocab_out"]
    activations: dict[str, Tensor]
    """The tapped activations, by hook name."""


def hook_names(config: ModelConfig) -> list[str]:
    """Every hook name that a network of this configuration has, in the order they fire."""
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        names.append(f"{block}.hook_resid_pre")
        names += [
            f"{block}.attn.hook_{part}"
            for part in ("q", "k", "v", "attn_scores", "pattern", "z", "result")
        ]
        names.append(f"{block}.hook_attn_out")
        if config.d_mlp:
            names += [f"{block}.hook_resid_mid", f"{block}.mlp.hook_pre"]
            names += [f"{block}.mlp.hook_post", f"{block}.hook_mlp_out"]
        names.append(f"{block}.hook_resid_post")
    return names


def forward(
    params: Params,
    tokens: Int[Tensor, "*seed batch pos"],
    config: ModelConfig,
    *,
    positions: Sequence[int] | None = None,
    taps: Collection[str] = (),
    edits: Mapping[str, Edit] | None = None,
) -> Forward:
    """Run one network, or many along a leading `seed` axis of every parameter.

    Args:
        params: as `param_shapes`, each with or without a leading `seed` axis.
        tokens: `[batch, pos]`, shared by all networks, or `[seed, batch, pos]`.
        positions: where logits are wanted (all when None), in any order; negative ones count
            from the end. In the last block everything that reads only its own position (q,
            scores, z, MLP ...) exists at these alone.
        taps: hook names whose activations to return.
        edits: hook name -> function that replaces the activation. Edits act before taps read.

    Raises `HookError` for a hook name that this network does not have, and `TaskError` for
    tokens that it cannot read.
    """
    edits = edits or {}
    _check_tokens(tokens, config)
    known = set(hook_names(config))
    for name in (*taps, *edits):
        if name not in known:
            raise HookError(unknown("hook", name, known))
    stacked = params["embed.W_E"].ndim == 3
    if stacked and tokens.ndim == 2:
        tokens = tokens.expand(params["embed.W_E"].shape[0], *tokens.shape)
    run = _Run(params, config, frozenset(taps), edits, {})
    where = None if positions is None else [range(tokens.shape[-1])[at] for at in positions]
    residual = _embed(run, tokens, where if _lean(run, tokens) else None)
    for layer in range(config.n_layers):
        queries = where if layer == config.n_layers - 1 else None
        residual = _block(run, layer, residual, tokens, queries)
    residual = _layer_norm(run, "ln_final", residual)
    logits = _linear(residual, params["unembed.W_U"], params.get("unembed.b_U"))
    return Forward(logits, run.activations)


class _Run(NamedTuple):
    """One forward pass under way: what it reads, and what it has recorded."""

    params: Params
    config: ModelConfig
    taps: frozenset[str]
    edits: Mapping[str, Edit]
    activations: dict[str, Tensor]

    def at(self, name: str, value: Tensor) -> Tensor:
        """Pass an activation through its hook: edit it, record it, hand it on."""
        if name in self.edits:
            edited = self.edits[name](value)
            if edited.shape != value.shape:
                raise HookError(
                    f"the edit at {name} returned shape {list(edited.shape)}, "
                    f"it must keep {list(value.shape)}"
                )
            value = edited
        if name in self.taps:
            self.activations[name] = value
        return value

    def watched(self, *names: str) -> bool:
        """Whether any of these hooks is tapped or edited."""
        return any(name in self.taps or name in self.edits for name in names)


def _check_tokens(tokens: Tensor, config: ModelConfig) -> None:
    """Raise `TaskError` for a token or position that has no embedding.

    Tokens are looked at on the CPU only: elsewhere that would wait for the device.
    """
    n_pos = tokens.shape[-1]
    if n_pos > config.n_ctx:
        raise TaskError(f"inputs of {n_pos} tokens, but the network reads n_ctx = {config.n_ctx}")
    if tokens.device.type != "cpu" or tokens.numel() == 0:
        return
    lowest, highest = (int(bound) for bound in tokens.aminmax())
    if lowest < 0 or highest >= config.d_vocab:
        raise TaskError(
            f"tokens from {lowest} to {highest}, but the network knows 0 to {config.d_vocab - 1}"
        )


def _embed(run: _Run, tokens: Tensor, positions: list[int] | None) -> Tensor:
    """The first residual stream, at all positions or at some."""
    where = list(range(tokens.shape[-1])) if positions is None else positions
    read = tokens if positions is None else tokens[..., positions]
    embedded = run.at("hook_embed", _gather_rows(run.params["embed.W_E"], read))
    positional = run.params["pos_embed.W_pos"][..., None, where, :].expand_as(embedded)
    return embedded + run.at("hook_pos_embed", positional)


def _block(
    run: _Run, layer: int, residual: Tensor, tokens: Tensor, queries: list[int] | None
) -> Tensor:
    """One block; with `queries`, only those positions come out."""
    name = f"blocks.{layer}"
    residual = run.at(f"{name}.hook_resid_pre", residual)
    if layer == 0 and _table_pays(run, tokens):
        scores, v = _gather_scores_values(run, tokens, queries)
    else:
        normed = _layer_norm(run, f"{name}.ln1", residual)
        read = normed if queries is None else normed[..., queries, :]
        q = run.at(f"{name}.attn.hook_q", _heads(run, layer, "Q", read))
        k = run.at(f"{name}.attn.hook_k", _heads(run, layer, "K", normed))
        v = run.at(f"{name}.attn.hook_v", _heads(run, layer, "V", normed))
        scores = _scores(q, k)
    if queries is not None and not _lean(run, tokens):
        residual = residual[..., queries, :]
    residual = residual + _attention(run, layer, scores, v, queries)
    if run.config.d_mlp:
        residual = run.at(f"{name}.hook_resid_mid", residual)
        residual = residual + _mlp(run, layer, residual)
    return run.at(f"{name}.hook_resid_post", residual)


def _table_pays(run: _Run, tokens: Tensor) -> bool:
    """Whether the first block may read a table over (position, token): nobody looks upstream."""
    upstream = ("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre")
    return tokens.shape[-2] > run.config.d_vocab and not run.watched(*upstream)


def _lean(run: _Run, tokens: Tensor) -> bool:
    """Whether the residual stream is needed only where logits are: one block, keys tabulated."""
    return run.config.n_layers == 1 and _table_pays(run, tokens)


def _gather_scores_values(
    run: _Run, tokens: Tensor, queries: list[int] | None
) -> tuple[Tensor, Tensor]:
    """First-block scores and values, from q, k, v computed once per (position, token).

    Where every input asks from the same token (an `=`), there is one score per key's row.
    """
    n_pos = tokens.shape[-1]
    embed = rearrange(run.params["embed.W_E"], "... token d_model -> ... 1 token d_model")
    positional = run.params["pos_embed.W_pos"][..., :n_pos, :]
    table = embed + rearrange(positional, "... pos d_model -> ... pos 1 d_model")
    normed = _layer_norm(run, "blocks.0.ln1", table)
    rows = tokens + torch.arange(n_pos, device=tokens.device) * run.config.d_vocab

    def tabulate(letter: str) -> Tensor:
        heads = _heads(run, 0, letter, normed)
        return rearrange(heads, "... pos token head e -> ... (pos token) (head e)")

    def gather(flat: Tensor, wanted: Tensor) -> Tensor:
        gathered = _gather_rows(flat, wanted)
        return rearrange(gathered, "... (head e) -> ... head e", head=run.config.n_heads)

    v = run.at("blocks.0.attn.hook_v", gather(tabulate("V"), rows))
    asking = rows if queries is None else rows[..., queries]
    hooks = ("blocks.0.attn.hook_q", "blocks.0.attn.hook_k")
    if _one_question(asking) and not run.watched(*hooks):
        q = gather(tabulate("Q"), asking[..., :1, :])[..., 0, 0, :, :]
        keys = rearrange(
            tabulate("K"), "... row (head e) -> ... row head e", head=run.config.n_heads
        )
        by_row = (q[..., None, :, :] * keys).sum(-1)
        gathered = _gather_rows(by_row, rows)
        return rearrange(gathered, "... batch key head -> ... batch head 1 key"), v
    q = run.at(hooks[0], gather(tabulate("Q"), asking))
    return _scores(q, run.at(hooks[1], gather(tabulate("K"), rows))), v


def _one_question(asking: Tensor) -> bool:
    """Whether all inputs have one query, and it is the same (position, token)."""
    return asking.shape[-1] == 1 and bool((asking == asking[..., :1, :]).all())


def _attention(
    run: _Run, layer: int, scores: Tensor, v: Tensor, queries: list[int] | None
) -> Tensor:
    """What attention writes, from unscaled scores `[batch, head, query, key]` and values."""
    name, config = f"blocks.{layer}", run.config
    attn = f"{name}.attn"
    scores = scores / math.sqrt(config.d_head)
    hidden = _hidden(scores, queries) if config.attention_dir == "causal" else None
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    scores = run.at(f"{attn}.hook_attn_scores", scores)
    pattern = _softmax(scores)
    if config.attention_rate != 1.0:
        uniform = torch.ones_like(pattern) if hidden is None else (~hidden).to(pattern.dtype)
        pattern = config.attention_rate * pattern + (1 - config.attention_rate) * uniform
    pattern = run.at(f"{attn}.hook_pattern", pattern)
    z = run.at(f"{attn}.hook_z", _mix(pattern, v))
    return run.at(f"{name}.hook_attn_out", _attention_out(run, layer, z))


def _hidden(scores: Tensor, queries: list[int] | None) -> Tensor | None:
    """Which keys lie after each query, `[query, key]`; None when no key does."""
    n_key = scores.shape[-1]
    queries = list(range(n_key)) if queries is None else queries
    if all(query == n_key - 1 for query in queries):
        return None
    key = torch.arange(n_key, device=scores.device)
    return key > torch.tensor(queries, device=scores.device)[:, None]


SHORT_CONTEXT = 16
"""Up to this many (query, key) pairs, broadcasting beats thousands of tiny matrix products.

Scores and pattern then lie in memory with the head last; their axes are in order all the same.
"""


def _scores(
    q: Float[Tensor, "*lead query head d_head"], k: Float[Tensor, "*lead key head d_head"]
) -> Float[Tensor, "*lead head query key"]:
    if q.shape[-3] * k.shape[-3] > SHORT_CONTEXT:
        return einsum(q, k, "... query head e, ... key head e -> ... head query key")
    products = (q[..., :, None, :, :] * k[..., None, :, :, :]).sum(-1)
    return rearrange(products, "... query key head -> ... head query key")


def _softmax(scores: Float[Tensor, "*lead head query key"]) -> Tensor:
    """Over the keys, without first transposing what `_scores` left in memory."""
    if scores.shape[-2] * scores.shape[-1] > SHORT_CONTEXT:
        return scores.softmax(-1)
    in_memory = rearrange(scores, "... head query key -> ... query key head")
    return rearrange(in_memory.softmax(-2), "... query key head -> ... head query key")


def _mix(
    pattern: Float[Tensor, "*lead head query key"], v: Float[Tensor, "*lead key head d_head"]
) -> Float[Tensor, "*lead query head d_head"]:
    if pattern.shape[-2] * pattern.shape[-1] > SHORT_CONTEXT:
        return einsum(pattern, v, "... head query key, ... key head e -> ... query head e")
    weights = rearrange(pattern, "... head query key -> ... query key head 1")
    return (weights * v[..., None, :, :, :]).sum(-3)


def _attention_out(run: _Run, layer: int, z: Tensor) -> Tensor:
    """Heads to the residual stream; per head only when somebody looks."""
    name = f"blocks.{layer}.attn"
    W_O, bias = run.params[f"{name}.W_O"], run.params.get(f"{name}.b_O")
    if run.watched(f"{name}.hook_result"):
        result = einsum(z, W_O, "... pos head e, ... head e d -> ... pos head d")
        out = run.at(f"{name}.hook_result", result).sum(-2)
        return out if bias is None else out + bias[..., None, None, :]
    return _linear(
        rearrange(z, "... head e -> ... (head e)"),
        rearrange(W_O, "... head e d -> ... (head e) d"),
        bias,
    )


def _mlp(run: _Run, layer: int, residual: Tensor) -> Tensor:
    name, params = f"blocks.{layer}", run.params
    W_in, W_out = params[f"{name}.mlp.W_in"], params[f"{name}.mlp.W_out"]
    n_pos = residual.shape[-2]
    flat = _flatten(_layer_norm(run, f"{name}.ln2", residual))
    pre = _affine(flat, W_in, params.get(f"{name}.mlp.b_in"))
    watched = run.watched(f"{name}.mlp.hook_pre")
    if watched:
        pre = _flatten(run.at(f"{name}.mlp.hook_pre", _unflatten(pre, n_pos)))
    relu = run.config.act_fn == "relu"
    post = F.relu(pre, inplace=not watched) if relu else F.gelu(pre)
    if run.watched(f"{name}.mlp.hook_post"):
        post = _flatten(run.at(f"{name}.mlp.hook_post", _unflatten(post, n_pos)))
    out = _affine(post, W_out, params.get(f"{name}.mlp.b_out"))
    return run.at(f"{name}.hook_mlp_out", _unflatten(out, n_pos))


def _heads(run: _Run, layer: int, letter: str, x: Tensor) -> Tensor:
    """Project the residual stream to one of Q, K, V: `[..., pos, head, d_head]`."""
    name = f"blocks.{layer}.attn"
    bias = run.params.get(f"{name}.b_{letter}")
    flat = _linear(
        x,
        rearrange(run.params[f"{name}.W_{letter}"], "... head d e -> ... d (head e)"),
        None if bias is None else rearrange(bias, "... head e -> ... (head e)"),
    )
    return rearrange(flat, "... (head e) -> ... head e", head=run.config.n_heads)


def _layer_norm(run: _Run, name: str, x: Tensor) -> Tensor:
    """LayerNorm (Ba et al. 2016) with TransformerLens' eps; the identity where there is none."""
    if run.config.normalization is None:
        return x
    w, b = (run.params[f"{name}.{part}"] for part in "wb")
    x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
    return x * w[..., None, None, :] + b[..., None, None, :]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight + bias` for x `[*seed, batch, pos, d_in]`, weight `[*seed, d_in, d_out]`."""
    return _unflatten(_affine(_flatten(x), weight, bias), x.shape[-2])


def _affine(flat: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`flat @ weight + bias` for flat `[*seed, row, d_in]`, weight `[*seed, d_in, d_out]`."""
    if bias is None:
        return flat @ weight
    if weight.ndim == 2:
        return torch.addmm(bias, flat, weight)
    return torch.baddbmm(bias[:, None], flat, weight)


def _flatten(x: Tensor) -> Tensor:
    return rearrange(x, "... batch pos d -> ... (batch pos) d")


def _unflatten(flat: Tensor, n_pos: int) -> Tensor:
    return rearrange(flat, "... (batch pos) d -> ... batch pos d", pos=n_pos)


def _gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """`table[rows]` for table `[*seed, row, d]` and rows `[*seed, batch, pos]`.

    Through `embedding`, whose backward pass sums in a fixed order on the CPU.
    """
    if table.ndim == 3:
        n_seeds, n_rows, _ = table.shape
        offset = torch.arange(n_seeds, device=rows.device)[:, None, None] * n_rows
        rows, table = rows + offset, table.flatten(0, 1)
    return F.embedding(rows, table)

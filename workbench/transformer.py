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
pattern and scores `[batch, head, query, key]`, result and {q,k,v}_input
`[batch, pos, head, d_model]`. What a reader reads has a hook of its own, before LayerNorm:
`hook_q_input`, `hook_k_input`, `hook_v_input` (one copy of the residual stream per head) and
`hook_mlp_in`; editing one changes what that reader reads and nothing else.

Two savings never change a value beyond rounding: with `positions`, the last block computes
queries, MLP and unembedding only there; and when nothing upstream is tapped or edited, the first
block's keys and values are computed once per (token, position) and gathered.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench import layers
from workbench.errors import HookError, TaskError
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.registry import unknown

Edit = Callable[[Tensor], Tensor]
"""What an intervention does to one activation: takes it, returns its replacement (same shape).

It must not write into what it is given, which may be a view of a parameter or of another tap.
"""


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
        names += [f"{block}.hook_{letter}_input" for letter in "qkv"]
        names += [
            f"{block}.attn.hook_{part}"
            for part in ("q", "k", "v", "attn_scores", "pattern", "z", "result")
        ]
        names.append(f"{block}.hook_attn_out")
        if config.d_mlp:
            names += [f"{block}.hook_resid_mid", f"{block}.hook_mlp_in", f"{block}.mlp.hook_pre"]
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
    return Forward(unembed(params, config, residual), run.activations)


def unembed(
    params: Params, config: ModelConfig, residual: Float[Tensor, "*seed batch pos d_model"]
) -> Float[Tensor, "*seed batch pos d_vocab_out"]:
    """Logits of a final residual stream."""
    normed = layers.layer_norm(params, config, "ln_final", residual)
    return layers.linear(normed, params["unembed.W_U"], params.get("unembed.b_U"))


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
    embedded = run.at("hook_embed", layers.gather_rows(run.params["embed.W_E"], read))
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
        scores, v = _scores_values(run, layer, residual, queries)
    if queries is not None and not _lean(run, tokens):
        residual = residual[..., queries, :]
    residual = residual + _attention(run, layer, scores, v, queries)
    if run.config.d_mlp:
        residual = run.at(f"{name}.hook_resid_mid", residual)
        read = residual.view_as(residual)  # a tensor of its own: its gradient is the MLP's alone
        residual = residual + _mlp(run, layer, run.at(f"{name}.hook_mlp_in", read))
    return run.at(f"{name}.hook_resid_post", residual)


def _scores_values(
    run: _Run, layer: int, residual: Tensor, queries: list[int] | None
) -> tuple[Tensor, Tensor]:
    """Unscaled scores and values of a block, from the residual stream."""
    name, inputs = f"blocks.{layer}", {}
    normed = layers.layer_norm(run.params, run.config, f"{name}.ln1", residual)
    for letter in "qkv":
        cut = letter == "q" and queries is not None
        read = residual[..., queries, :] if cut else residual
        if run.watched(f"{name}.hook_{letter}_input"):
            inputs[letter] = _split_input(run, layer, letter, read)
        else:
            read = normed[..., queries, :] if cut else normed
            inputs[letter] = layers.project_heads(
                run.params, run.config, layer, letter.upper(), read
            )
    q, k, v = (run.at(f"{name}.attn.hook_{letter}", inputs[letter]) for letter in "qkv")
    return layers.attention_scores(q, k), v


def _split_input(run: _Run, layer: int, letter: str, residual: Tensor) -> Tensor:
    """q, k or v where each head reads its own copy of the residual stream."""
    name, heads = f"blocks.{layer}", run.config.n_heads
    copies = residual[..., None, :].expand(*residual.shape[:-1], heads, residual.shape[-1])
    read = run.at(f"{name}.hook_{letter}_input", copies)
    normed = layers.layer_norm(run.params, run.config, f"{name}.ln1", read, axes=3)
    return layers.project_split_heads(run.params, layer, letter.upper(), normed)


def _table_pays(run: _Run, tokens: Tensor) -> bool:
    """Whether the first block may read a table over (position, token): nobody looks upstream."""
    upstream = ["hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"]
    upstream += [f"blocks.0.hook_{letter}_input" for letter in "qkv"]
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
    normed = layers.layer_norm(run.params, run.config, "blocks.0.ln1", table)
    rows = tokens + torch.arange(n_pos, device=tokens.device) * run.config.d_vocab

    tabulate, gather = partial(_tabulated, run, normed), partial(_gathered, run)
    v = run.at("blocks.0.attn.hook_v", gather(tabulate("V"), rows))
    asking = rows if queries is None else rows[..., queries]
    hooks = ("blocks.0.attn.hook_q", "blocks.0.attn.hook_k")
    if _one_question(asking) and not run.watched(*hooks):
        q = gather(tabulate("Q"), asking[..., :1, :])[..., 0, 0, :, :]
        keys = rearrange(
            tabulate("K"), "... row (head e) -> ... row head e", head=run.config.n_heads
        )
        by_row = (q[..., None, :, :] * keys).sum(-1)
        gathered = layers.gather_rows(by_row, rows)
        return rearrange(gathered, "... batch key head -> ... batch head 1 key"), v
    q = run.at(hooks[0], gather(tabulate("Q"), asking))
    return layers.attention_scores(q, run.at(hooks[1], gather(tabulate("K"), rows))), v


def _tabulated(run: _Run, normed: Tensor, letter: str) -> Tensor:
    """q, k or v of the first block, a row per (position, token)."""
    heads = layers.project_heads(run.params, run.config, 0, letter, normed)
    return rearrange(heads, "... pos token head e -> ... (pos token) (head e)")


def _gathered(run: _Run, flat: Tensor, wanted: Tensor) -> Tensor:
    """Some rows of such a table, split into heads."""
    gathered = layers.gather_rows(flat, wanted)
    return rearrange(gathered, "... (head e) -> ... head e", head=run.config.n_heads)


def _one_question(asking: Tensor) -> bool:
    """Whether all inputs have one query, and it is the same (position, token)."""
    return asking.shape[-1] == 1 and bool((asking == asking[..., :1, :]).all())


def _attention(
    run: _Run, layer: int, scores: Tensor, v: Tensor, queries: list[int] | None
) -> Tensor:
    """What attention writes, from unscaled scores `[batch, head, query, key]` and values."""
    name, config = f"blocks.{layer}", run.config
    attn, n_key = f"{name}.attn", scores.shape[-1]
    asked = list(range(n_key)) if queries is None else queries
    hidden = layers.hidden_keys(config, n_key, asked, scores.device)
    scores = run.at(f"{attn}.hook_attn_scores", layers.mask_scores(scores, config, hidden))
    pattern = layers.attention_pattern(scores, config, hidden)
    pattern = run.at(f"{attn}.hook_pattern", pattern)
    z = run.at(f"{attn}.hook_z", layers.mix_values(pattern, v))
    if run.watched(f"{attn}.hook_result"):  # per head only when somebody looks
        results = run.at(f"{attn}.hook_result", layers.head_results(run.params, layer, z))
        out = layers.sum_results(run.params, layer, results)
    else:
        out = layers.merge_heads(run.params, layer, z)
    return run.at(f"{name}.hook_attn_out", out)


def _mlp(run: _Run, layer: int, residual: Tensor) -> Tensor:
    name, params = f"blocks.{layer}", run.params
    W_in, W_out = params[f"{name}.mlp.W_in"], params[f"{name}.mlp.W_out"]
    n_pos = residual.shape[-2]
    flat = layers.flatten(layers.layer_norm(params, run.config, f"{name}.ln2", residual))
    pre = layers.affine(flat, W_in, params.get(f"{name}.mlp.b_in"))
    watched = run.watched(f"{name}.mlp.hook_pre")
    if watched:
        pre = layers.flatten(run.at(f"{name}.mlp.hook_pre", layers.unflatten(pre, n_pos)))
    post = layers.activate(run.config, pre, inplace=not watched)
    if run.watched(f"{name}.mlp.hook_post"):
        post = layers.flatten(run.at(f"{name}.mlp.hook_post", layers.unflatten(post, n_pos)))
    out = layers.affine(post, W_out, params.get(f"{name}.mlp.b_out"))
    return run.at(f"{name}.hook_mlp_out", layers.unflatten(out, n_pos))

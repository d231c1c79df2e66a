"""The gradient of a training step of the modular tasks' network, written out.

That network is one block without LayerNorm, read at its last position, which holds the same token
in every input. `gradient` gives what autograd finds through `forward`, to the last bit: every
product and every sum has the operands and the order that it has there. It is quicker because large
activations stay in one place from step to step, gradients overwrite what nothing needs any more,
and views, taps and the value of the loss cost nothing.

`workbench.gradients.by_autograd` is the oracle. Names: `d_x` is the gradient with respect to `x`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.model_config import ModelConfig
from workbench.params import Params

ATTENTION, MLP = "blocks.0.attn", "blocks.0.mlp"

_relu_backward = torch.ops.aten.threshold_backward.grad_input
_softmax_backward = torch.ops.aten._softmax_backward_data


class Workspace:
    """Memory for large activations, kept from step to step: the system hands out new memory slowly.

    What was asked for under a name is overwritten by the next that asks under it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def empty(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A tensor of this shape and of any content, with the dtype and device of `like`."""
        kept, n = self._kept.get(name), math.prod(shape)
        if kept is None or len(kept) < n or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._kept[name] = like.new_empty(n)
        return kept[:n].view(shape)

    def product(
        self,
        name: str,
        left: Float[Tensor, "seed row inner"],
        right: Float[Tensor, "seed inner column"],
    ) -> Float[Tensor, "seed row column"]:
        """`left @ right`."""
        out = self.empty(name, left, *left.shape[:2], right.shape[-1])
        return torch.bmm(left, right, out=out)


def suits(
    config: ModelConfig, tokens: Int[Tensor, "seed batch pos"], positions: Sequence[int]
) -> bool:
    """Whether `gradient` can do it: the network and the inputs are as this file says."""
    _, n_inputs, n_pos = tokens.shape
    return (
        tokens.device.type == "cpu"  # elsewhere nobody has compared the bits
        and (config.n_layers, config.act_fn, config.normalization) == (1, "relu", None)
        and config.attention_rate == 1
        and config.d_mlp > 0
        and (config.attn_biases, config.mlp_biases, config.unembed_bias) == (False, True, False)
        and [range(n_pos)[at] for at in positions] == [n_pos - 1]
        and n_inputs > config.d_vocab  # `forward` tabulates keys and values from here on
        and bool((tokens[..., -1] == tokens[0, 0, -1]).all())
    )


def gradient(
    params: Params,
    tokens: Int[Tensor, "seed batch pos"],
    config: ModelConfig,
    slope: Callable[[Tensor], Tensor],
    work: Workspace,
) -> Params:
    """The gradient of a loss by every parameter, for networks and inputs that `suits` accepts.

    Args:
        params: stacked along a leading `seed` axis.
        slope: the loss's gradient by the logits `[seed, batch, d_vocab_out]`, from these logits.
        work: where large activations are put.
    """
    tables = _tabulate(params, tokens, config)
    pattern, z = _mix(tables, tokens, config, work)
    W_O = rearrange(params[f"{ATTENTION}.W_O"], "seed head e d -> seed (head e) d")
    asking = tables.read[:, tables.question, None]  # the residual stream before the block
    mid = work.product("mid", z, W_O).add_(asking)
    final, post = _mlp(params, mid, work)

    d_logits = slope(torch.bmm(final, params["unembed.W_U"]))
    d_W_U = torch.bmm(final.mT, d_logits)
    d_final = work.product("d_final", d_logits, params["unembed.W_U"].mT)
    d_mid, of_mlp = _mlp_backward(params, mid, post, d_final, work)
    d_W_O = torch.bmm(z.mT, d_mid)
    d_z = work.product("d_final", d_mid, W_O.mT)
    d_rows = _mix_backward(tables, pattern, d_z, work)
    d_read, of_tables = _tabulate_backward(tables, config, d_rows)
    return {
        **_embed_backward(params, tokens, config, d_read, d_mid),
        **of_tables,
        f"{ATTENTION}.W_O": d_W_O.view_as(params[f"{ATTENTION}.W_O"]),
        **of_mlp,
        "unembed.W_U": d_W_U,
    }


class _Tables(NamedTuple):
    """What the block reads, a row per (position, token), and its queries, keys and values."""

    rows: Int[Tensor, " token"]
    """The row of every token of every input, in the tables of all seeds one after another."""
    question: int
    """The row that every input asks from."""
    read: Float[Tensor, "seed row d_model"]
    W: dict[str, Tensor]
    """W_Q, W_K and W_V by letter, `[seed, d_model, (head d_head)]`."""
    q: Float[Tensor, "seed 1 head d_head"]
    k: Float[Tensor, "seed row head d_head"]
    v: Float[Tensor, "seed row head_d_head"]


def _tabulate(params: Params, tokens: Tensor, config: ModelConfig) -> _Tables:
    n_pos = tokens.shape[-1]
    embed = rearrange(params["embed.W_E"], "seed token d -> seed 1 token d")
    positional = rearrange(params["pos_embed.W_pos"][:, :n_pos], "seed pos d -> seed pos 1 d")
    read = rearrange(embed + positional, "seed pos token d -> seed (pos token) d")
    rows = tokens + torch.arange(n_pos) * config.d_vocab
    W = {
        letter: rearrange(params[f"{ATTENTION}.W_{letter}"], "seed head d e -> seed d (head e)")
        for letter in "QKV"
    }
    q, k, v = (torch.bmm(read, W[letter]) for letter in "QKV")
    question = int(rows[0, 0, -1])
    return _Tables(
        _stacked(rows, read.shape[1]),
        question,
        read,
        W,
        rearrange(q[:, [question]], "seed row (head e) -> seed row head e", head=config.n_heads),
        rearrange(k, "seed row (head e) -> seed row head e", head=config.n_heads),
        v,
    )


def _stacked(rows: Int[Tensor, "seed batch pos"], n_rows: int) -> Int[Tensor, " token"]:
    """Rows of each seed's own table as rows of all tables, one after another."""
    return (rows + torch.arange(len(rows))[:, None, None] * n_rows).flatten()


def _mix(
    tables: _Tables, tokens: Tensor, config: ModelConfig, work: Workspace
) -> tuple[Tensor, Tensor]:
    """The pattern, `[seed, batch, key, head]`, and z, `[seed, batch, (head d_head)]`."""
    by_row = (tables.q * tables.k).sum(-1).flatten(0, 1)
    scores = by_row[tables.rows].view(*tokens.shape, config.n_heads) / math.sqrt(config.d_head)
    pattern = scores.softmax(-2)
    weighted = _values(tables, pattern, work).mul_(pattern[..., None])
    z = work.empty("z", weighted, *weighted.shape[:2], *weighted.shape[3:])
    torch.sum(weighted, 2, out=z)
    return pattern, z.flatten(2)


def _mix_backward(
    tables: _Tables, pattern: Tensor, d_z: Tensor, work: Workspace
) -> Float[Tensor, "seed row d_v_and_by_row"]:
    """The gradients by a row's values, and after them by its score for each head.

    They lie side by side so that one summation over the inputs serves both.
    """
    n_heads, (n_seeds, n_rows, width) = pattern.shape[-1], tables.v.shape
    by_head = rearrange(d_z, "seed batch (head e) -> seed batch 1 head e", head=n_heads)
    d_pattern = _values(tables, pattern, work).mul_(by_head).sum(-1)
    d_scores = _softmax_backward(d_pattern, pattern, -2, pattern.dtype)
    both = work.empty("d_neurons", d_z, *pattern.shape[:-1], width + n_heads)
    d_v = rearrange(
        both[..., :width], "seed batch key (head e) -> seed batch key head e", head=n_heads
    )
    torch.mul(by_head, pattern[..., None], out=d_v)
    torch.div(d_scores, math.sqrt(width // n_heads), out=both[..., width:])
    summed = _sum_rows(both.flatten(0, 2), tables.rows, n_seeds * n_rows)
    return rearrange(summed, "(seed row) width -> seed row width", seed=n_seeds)


def _values(tables: _Tables, pattern: Tensor, work: Workspace) -> Tensor:
    """Values, `[seed, batch, key, head, d_head]`, where neurons are not yet or no longer."""
    width = tables.v.shape[-1]
    v = work.empty("neurons", tables.v, len(tables.rows), width)
    torch.index_select(tables.v.flatten(0, 1), 0, tables.rows, out=v)
    return v.view(*pattern.shape, width // pattern.shape[-1])


def _mlp(params: Params, mid: Tensor, work: Workspace) -> tuple[Tensor, Tensor]:
    """The final residual stream, and the neurons' activations."""
    W_in, W_out = params[f"{MLP}.W_in"], params[f"{MLP}.W_out"]
    post = work.empty("neurons", mid, *mid.shape[:2], W_in.shape[-1])
    torch.baddbmm(params[f"{MLP}.b_in"][:, None], mid, W_in, out=post).relu_()
    final = work.empty("final", mid, *mid.shape)
    torch.baddbmm(params[f"{MLP}.b_out"][:, None], post, W_out, out=final)
    return final.add_(mid), post


def _mlp_backward(
    params: Params, mid: Tensor, post: Tensor, d_final: Tensor, work: Workspace
) -> tuple[Tensor, Params]:
    """`d_mid`, in the memory of the final residual stream, and the parameters' gradients."""
    d_pre = work.product("d_neurons", d_final, params[f"{MLP}.W_out"].mT)
    _relu_backward(d_pre, post, 0, grad_input=d_pre)
    found = {
        f"{MLP}.W_in": torch.bmm(mid.mT, d_pre),
        f"{MLP}.b_in": d_pre.sum(1),
        f"{MLP}.W_out": torch.bmm(post.mT, d_final),
        f"{MLP}.b_out": d_final.sum(1),
    }
    return work.product("final", d_pre, params[f"{MLP}.W_in"].mT).add_(d_final), found


def _tabulate_backward(
    tables: _Tables, config: ModelConfig, d_rows: Tensor
) -> tuple[Tensor, Params]:
    """`d_read`, and the gradients of W_Q, W_K and W_V, from what `_mix_backward` returns."""
    width = tables.v.shape[-1]
    d_products = d_rows[..., width:, None].expand(tables.k.shape)
    d_k = (d_products * tables.q).flatten(2)
    d_q = torch.zeros_like(d_k)
    d_q[:, tables.question] = (d_products * tables.k).sum(1).flatten(1)
    by_letter = {"K": d_k, "Q": d_q, "V": d_rows[..., :width].contiguous()}
    d_read = torch.zeros_like(tables.read)
    found = {}
    for letter, d in by_letter.items():  # autograd adds them in this order
        d_read += torch.bmm(d, tables.W[letter].mT)
        found[f"{ATTENTION}.W_{letter}"] = rearrange(
            torch.bmm(tables.read.mT, d),
            "seed d (head e) -> seed head d e",
            head=config.n_heads,
        )
    return d_read, found


def _embed_backward(
    params: Params, tokens: Tensor, config: ModelConfig, d_read: Tensor, d_mid: Tensor
) -> Params:
    """The gradients of W_E and W_pos, through the tables and through the residual stream."""
    n_seeds, _, n_pos = tokens.shape
    by_token = rearrange(d_read, "seed (pos token) d -> seed pos token d", pos=n_pos)
    last = _stacked(tokens[..., -1:], config.d_vocab)
    direct = _sum_rows(d_mid.flatten(0, 1), last, n_seeds * config.d_vocab)
    d_W_pos = torch.zeros_like(params["pos_embed.W_pos"])
    d_W_pos[:, :n_pos] = by_token.sum(2)
    d_W_pos[:, n_pos - 1] += d_mid.sum(1)
    d_W_E = by_token.sum(1) + direct.view(n_seeds, config.d_vocab, -1)
    return {"embed.W_E": d_W_E, "pos_embed.W_pos": d_W_pos}


def _sum_rows(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """The sum of each row's values, in the order of the inputs: `embedding`'s backward pass."""
    return values.new_zeros(n_rows, values.shape[-1]).index_add_(0, rows, values)

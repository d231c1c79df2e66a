"""Circuits the slow way: one example, one reader and one writer at a time, from the definition.

A reader reads the sum of all writers before it: along an edge that is kept what the writer writes
in this very pass, along any other edge what is patched in. Biases of attention's output belong to
no writer and stay. Nothing of `circuits` or of `workbench.transformer` is called; of a `Problem`
only what it was given is read, of a `Circuit` only the names of its edges.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.problem import Problem
from workbench.model_config import ModelConfig
from workbench.params import Params

Written = dict[tuple[str, int], Tensor]
"""What each writer writes at each position, `[d_model]`."""
Keeps = Callable[[str, str, int], bool]
"""Whether the edge from a writer to a reader is kept at a position."""

EPS = 1e-5
"""Of LayerNorm, as in TransformerLens."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over one example came to."""

    logits: Tensor
    """`[pos, d_vocab_out]`."""
    written: Written


def metric_slowly(problem: Problem, edges: set[str]) -> Tensor:
    """The metric of every pair where only the named edges carry the run that is patched."""
    base, other = problem.clean, problem.corrupted
    if problem.direction == "denoising":
        base, other = other, base
    per_position = problem.graph.n_pos is not None

    def keeps(writer: str, reader: str, pos: int) -> bool:
        at = f"@{pos}" if per_position else ""
        return f"{writer}->{reader}{at}" in edges

    rows = []
    patches = _patches(problem, other)
    for i, tokens in enumerate(base):
        patch = patches[i] if len(patches) > 1 else patches[0]
        logits = run_slowly(problem.params, problem.config, tokens, keeps, patch).logits
        rows.append(torch.stack([logits[at] for at in problem.positions]))
    return problem.metric(torch.stack(rows))


def run_slowly(
    params: Params, config: ModelConfig, tokens: Tensor, keeps: Keeps, patch: Written
) -> Pass:
    """One example through the network, of which only the edges that `keeps` names are kept."""
    places = range(len(tokens))
    written: Written = {}
    writers: list[str] = []
    biases = torch.zeros(config.d_model, dtype=params["embed.W_E"].dtype)

    def read(reader: str, pos: int) -> Tensor:
        total = biases.clone()
        for writer in writers:
            source = written if keeps(writer, reader, pos) else patch
            total = total + source[writer, pos]
        return total

    for pos in places:
        written["embed", pos] = params["embed.W_E"][tokens[pos]]
        written["pos_embed", pos] = params["pos_embed.W_pos"][pos]
    writers += ["embed", "pos_embed"]
    for layer in range(config.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(config.n_heads)]
        for head, name in enumerate(heads):
            for pos, value in enumerate(_head(params, config, layer, head, len(tokens), read)):
                written[name, pos] = value
        writers += heads
        bias = params.get(f"blocks.{layer}.attn.b_O")
        biases = biases if bias is None else biases + bias
        if config.d_mlp:
            for pos in places:
                written[f"m{layer}", pos] = _mlp(params, config, layer, read(f"m{layer}", pos))
            writers.append(f"m{layer}")
    logits = []
    for pos in places:
        normed = _normed(params, config, "ln_final", read("logits", pos))
        logits.append(normed @ params["unembed.W_U"] + _bias(params, "unembed.b_U"))
    return Pass(torch.stack(logits), written)


def _patches(problem: Problem, other: Tensor) -> list[Written]:
    """What is patched in: for each pair, or one for all pairs."""
    inputs = other
    if problem.ablation in ("mean", "mean_positional") and problem.reference is not None:
        inputs = problem.reference
    runs = [
        run_slowly(problem.params, problem.config, tokens, lambda *edge: True, {}).written
        for tokens in inputs
    ]
    if problem.ablation == "resample":
        return runs
    if problem.ablation == "zero":
        return [{place: torch.zeros_like(value) for place, value in runs[0].items()}]
    means = {place: sum(run[place] for run in runs) / len(runs) for place in runs[0]}
    if problem.ablation == "mean_positional":
        return [means]
    assert problem.ablation == "mean"
    n_pos = inputs.shape[1]
    return [
        {(name, pos): sum(means[name, at] for at in range(n_pos)) / n_pos for name, pos in means}
    ]


def _head(
    params: Params,
    config: ModelConfig,
    layer: int,
    head: int,
    n_pos: int,
    read: Callable[[str, int], Tensor],
) -> list[Tensor]:
    """What one head writes at each position."""
    attn = f"blocks.{layer}.attn"

    def projected(letter: str, pos: int) -> Tensor:
        seen = read(f"a{layer}.h{head}<{letter}>", pos)
        normed = _normed(params, config, f"blocks.{layer}.ln1", seen)
        upper = letter.upper()
        bias = params.get(f"{attn}.b_{upper}")
        made = normed @ params[f"{attn}.W_{upper}"][head]
        return made if bias is None else made + bias[head]

    q, k, v = ([projected(letter, pos) for pos in range(n_pos)] for letter in "qkv")
    out = []
    for query in range(n_pos):
        seen = range(query + 1) if config.attention_dir == "causal" else range(n_pos)
        raised = [math.exp(float(q[query] @ k[key]) / math.sqrt(config.d_head)) for key in seen]
        rate, z = config.attention_rate, torch.zeros_like(v[0])
        for key, one in zip(seen, raised, strict=True):
            z = z + (rate * one / sum(raised) + 1 - rate) * v[key]
        out.append(z @ params[f"{attn}.W_O"][head])
    return out


def _mlp(params: Params, config: ModelConfig, layer: int, seen: Tensor) -> Tensor:
    name = f"blocks.{layer}"
    normed = _normed(params, config, f"{name}.ln2", seen)
    pre = normed @ params[f"{name}.mlp.W_in"] + _bias(params, f"{name}.mlp.b_in")
    if config.act_fn == "relu":
        post = torch.where(pre > 0, pre, 0.0)
    else:
        post = pre * (1 + torch.erf(pre / math.sqrt(2))) / 2
    return post @ params[f"{name}.mlp.W_out"] + _bias(params, f"{name}.mlp.b_out")


def _normed(params: Params, config: ModelConfig, name: str, x: Tensor) -> Tensor:
    if config.normalization is None:
        return x
    centred = x - x.sum() / len(x)
    scale = torch.sqrt((centred * centred).sum() / len(x) + EPS)
    return centred / scale * params[f"{name}.w"] + params[f"{name}.b"]


def _bias(params: Mapping[str, Tensor], name: str) -> Tensor:
    return params.get(name, torch.zeros((), dtype=torch.float64))

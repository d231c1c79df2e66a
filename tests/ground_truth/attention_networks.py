"""Hand-built networks of attention alone: a copy head, and an induction circuit of four heads."""

import itertools
import math

import torch
from jaxtyping import Int
from torch import Tensor

from tests.ground_truth.building import (
    SOFT,
    copy_directions,
    look_by_position,
    make_ground_truth,
    zeros,
)
from tests.ground_truth.scoring import GroundTruth
from workbench.model_config import ModelConfig
from workbench.params import Params


def copy_head() -> GroundTruth:
    """One head of two, attention only, copies the first of three tokens to the last position.

    Attention is soft: scores of 6 against 0, so 1 / (1 + 2 exp(-6)) = 0.995 on the first position.
    """
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=13,
        d_head=5,
        d_mlp=0,
        d_vocab=5,
        d_vocab_out=5,
        n_ctx=3,
    )
    params = zeros(config)
    params["embed.W_E"][:, :5] = torch.eye(5)
    look_by_position(params, config, 0, ({2: 0},), first=10, score=SOFT)
    copy_directions(params, 0, 0, 0, 5, 5)
    params["unembed.W_U"][5:10] = torch.eye(5)
    tokens = torch.cartesian_prod(*(torch.arange(5) for _ in range(3)))
    pairs = tokens[None].expand(125, 125, 3), tokens[:, None].expand(125, 125, 3)
    clean, corrupted = (side.reshape(-1, 3) for side in pairs)
    differ = (clean[:, 0] != corrupted[:, 0]).nonzero()[:, 0]
    chosen = differ[torch.randperm(len(differ), generator=torch.Generator().manual_seed(0))[:64]]
    clean, corrupted = clean[chosen], corrupted[chosen]
    reads = frozenset({"embed->a0.h0<v>", "a0.h0->logits"})
    where = {"pos_embed->a0.h0<q>", "pos_embed->a0.h0<k>"}
    return make_ground_truth(
        "copy_head",
        (params, config),
        (clean, corrupted),
        (2,),
        (reads, reads | where),
        answers=(clean[:, :1], corrupted[:, :1]),
    )


START = 5
"""The first token of every input of `induction`; it has no embedding."""


def induction() -> GroundTruth:
    """An induction circuit joined through queries, keys and values, each by a head of its own.

    Input: START and five tokens, the last of which stood before; the answer is what followed it.
    In block 0 head 0 writes the previous token, heads 1 and 2 their own token, each to directions
    of their own. In block 1 head 0 asks with what head 1 wrote (Q) for what head 0 wrote (K) and
    copies what head 2 wrote (V). Its attention is soft: a score of 6 on the match, 0 elsewhere.
    """
    words = 5
    config = ModelConfig(
        n_layers=2,
        n_heads=3,
        d_model=5 * words + 6,
        d_head=6,
        d_mlp=0,
        d_vocab=words + 1,
        d_vocab_out=words,
        n_ctx=6,
    )
    params = _induction_params(config, words)
    reads = {f"embed->a0.h{head}<v>" for head in range(3)}
    reads |= {"a0.h0->a1.h0<k>", "a0.h1->a1.h0<q>", "a0.h2->a1.h0<v>", "a1.h0->logits"}
    where = {f"pos_embed->a0.h{head}<{letter}>" for head in range(3) for letter in "qk"}
    inputs, answers = induction_inputs()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    other = order.roll(1)
    differ = (answers[order] != answers[other])[:, 0]
    clean, corrupted = order[differ][:64], other[differ][:64]
    return make_ground_truth(
        "induction",
        (params, config),
        (inputs[clean], inputs[corrupted]),
        (5,),
        (frozenset(reads), frozenset(reads | where)),
        answers=(answers[clean], answers[corrupted]),
    )


def _induction_params(config: ModelConfig, words: int) -> Params:
    """The weights, as the docstring of `induction` has them."""
    params = zeros(config)
    token, previous, asked, copied, answer = (words * i for i in range(5))
    params["embed.W_E"][:words, :words] = torch.eye(words)
    before = {pos: max(pos - 1, 0) for pos in range(6)}
    itself = {pos: pos for pos in range(6)}
    look_by_position(params, config, 0, (before, itself, itself), first=5 * words)
    for head, write in enumerate((previous, asked, copied)):
        copy_directions(params, 0, head, token, write, words)
    sharp = SOFT * math.sqrt(config.d_head)
    params["blocks.1.attn.W_Q"][0, asked : asked + words, :words] = sharp * torch.eye(words)
    params["blocks.1.attn.W_K"][0, previous : previous + words, :words] = torch.eye(words)
    copy_directions(params, 1, 0, copied, answer, words)
    params["unembed.W_U"][answer : answer + words] = torch.eye(words)
    return params


def induction_inputs() -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch 1"]]:
    """All 360 inputs of `induction`: four different tokens, then one of the first three again."""
    rows = [
        (START, *four, four[again], four[again + 1])
        for four in itertools.permutations(range(5), 4)
        for again in range(3)
    ]
    table = torch.tensor(rows)
    return table[:, :-1], table[:, -1:]

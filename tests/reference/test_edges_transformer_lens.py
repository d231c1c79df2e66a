"""Our edge attribution against TransformerLens' own, on the same weights.

TransformerLens scores edges of a GPT-2 that transformers builds (not of the networks it trains).
A tiny random one is made here, its weights are read into our names, and both score every edge at
every position. TransformerLens takes the gradient on the corrupted run and moves towards the clean
one, (clean - corrupted) . d m / d read: our `denoising`. It has no writer for the positional
embedding, which no pair of inputs changes: under resample ablation we score its edges 0.

float64; 1e-10 is far below the scores (checked to exceed 0.01) and far above rounding.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    Node,
    attribution_patch,
)
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.graph import Graph
from circuits.methods.eap import Eap
from circuits.node_attribution import node_attribution
from circuits.problem import Problem
from tests.reference.networks import random_tokens
from workbench.metrics import Metric
from workbench.model_config import ModelConfig
from workbench.params import Params, check_params
from workbench.progress import finish
from workbench.transformer import forward

N_PAIRS = 3
POSITION = 4
"""Where logits are measured: not the last, so that what comes after must score 0."""


def published(activation: str) -> tuple[GPT2LMHeadModel, GPT2Config, ModelConfig]:
    """A random GPT-2, large enough weights for scores of order 1, and its shape in our words."""
    theirs = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=8,
        n_positions=6,
        vocab_size=11,
        activation_function=activation,
    )
    model = GPT2LMHeadModel(theirs).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            centre = float(".ln_" in name and name.endswith("weight"))
            parameter.copy_(centre + 0.3 * noise)
    ours = ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=8,
        d_head=4,
        d_mlp=32,
        d_vocab=11,
        d_vocab_out=11,
        n_ctx=6,
        act_fn="gelu" if activation == "gelu" else "relu",
        normalization="LN",
        attn_biases=True,
    )
    return model, theirs, ours


def our_params(model: GPT2LMHeadModel, config: ModelConfig) -> Params:
    """GPT-2's weights under our names."""
    theirs = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    params: Params = {
        "embed.W_E": theirs["transformer.wte.weight"],
        "pos_embed.W_pos": theirs["transformer.wpe.weight"],
        "ln_final.w": theirs["transformer.ln_f.weight"],
        "ln_final.b": theirs["transformer.ln_f.bias"],
        "unembed.W_U": theirs["transformer.wte.weight"].T,  # tied
    }
    heads = config.n_heads
    for layer in range(config.n_layers):
        block, name = f"blocks.{layer}", f"transformer.h.{layer}"
        for i in "12":
            params[f"{block}.ln{i}.w"] = theirs[f"{name}.ln_{i}.weight"]
            params[f"{block}.ln{i}.b"] = theirs[f"{name}.ln_{i}.bias"]
        weights = theirs[f"{name}.attn.c_attn.weight"].chunk(3, dim=1)
        biases = theirs[f"{name}.attn.c_attn.bias"].chunk(3)
        for letter, weight, bias in zip("QKV", weights, biases, strict=True):
            split = rearrange(weight, "d (head e) -> head d e", head=heads)
            params[f"{block}.attn.W_{letter}"] = split
            params[f"{block}.attn.b_{letter}"] = rearrange(bias, "(head e) -> head e", head=heads)
        out = theirs[f"{name}.attn.c_proj.weight"]
        params[f"{block}.attn.W_O"] = rearrange(out, "(head e) d -> head e d", head=heads)
        params[f"{block}.attn.b_O"] = theirs[f"{name}.attn.c_proj.bias"]
        for ours, layer_name in (("in", "c_fc"), ("out", "c_proj")):
            params[f"{block}.mlp.W_{ours}"] = theirs[f"{name}.mlp.{layer_name}.weight"]
            params[f"{block}.mlp.b_{ours}"] = theirs[f"{name}.mlp.{layer_name}.bias"]
    return params


def name_of(node: Node) -> str:
    """TransformerLens' node in the words of our graph."""
    if node.kind == "attn_head_out":
        return f"a{node.layer}.h{node.head}"
    if node.kind in ("q_input", "k_input", "v_input"):
        return f"a{node.layer}.h{node.head}<{node.kind[0]}>"
    return f"m{node.layer}" if node.kind in ("mlp_in", "mlp_out") else node.kind


def curved(logits: Tensor) -> Tensor:
    """Any function of one input's logits `[..., d_vocab_out]`."""
    return logits[..., 3] - logits[..., 5].tanh() * logits[..., 7]


@pytest.fixture(params=["relu", "gelu"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Problem]:
    """TransformerLens' model and our problem on the same weights and inputs."""
    model, theirs, config = published(request.param)
    params = our_params(model, config)
    check_params(params, config)
    bridge = build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=theirs)
    problem = Problem(
        params=params,
        config=config,
        clean=random_tokens(config, 0, batch=N_PAIRS),
        corrupted=random_tokens(config, 1, batch=N_PAIRS),
        metric=Metric(name="curved", function=lambda x: curved(x[..., 0, :])),
        positions=(POSITION,),
        graph=Graph(config, config.n_ctx),
        direction="denoising",
    )
    return bridge.eval(), problem


def test_both_run_the_same_network(pair: tuple[Any, Problem]) -> None:
    bridge, problem = pair
    expected = bridge(problem.clean).detach()
    ours = forward(problem.params, problem.clean, problem.config).logits
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("per_position", [True, False])
def test_every_edge_scores_as_in_transformer_lens(
    pair: tuple[Any, Problem], per_position: bool
) -> None:
    bridge, problem = pair
    result = attribution_patch(
        bridge,
        problem.clean,
        problem.corrupted,
        _of_one_input(curved),
        EdgeAttributionConfig(granularity="edge"),
    )
    expected: dict[str, float] = {}
    for (writer, reader), score in result.edge_scores.items():
        assert writer.position == reader.position
        at = f"@{writer.position}" if per_position else ""
        edge = f"{name_of(writer)}->{name_of(reader)}{at}"
        expected[edge] = expected.get(edge, 0.0) + score
    if not per_position:
        problem = replace(problem, graph=Graph(problem.config))
    scores = finish(Eap().score(problem))
    for edge in problem.graph.edges:
        theirs = 0.0 if edge.startswith("pos_embed->") else expected.pop(edge)
        assert abs(scores.of(edge) - theirs) < 1e-10, edge
    assert not expected  # every edge that TransformerLens knows is one of ours
    assert scores.values.abs().max() > 0.01


def test_every_node_scores_as_in_transformer_lens(pair: tuple[Any, Problem]) -> None:
    bridge, problem = pair
    result = attribution_patch(
        bridge, problem.clean, problem.corrupted, _of_one_input(curved), EdgeAttributionConfig()
    )
    scores = node_attribution(problem).mean(0)
    writers = problem.graph.writers
    compared = set()
    for node, theirs in result.node_scores.items():
        ours = float(scores[node.position, writers.index(name_of(node))])
        assert abs(ours - theirs) < 1e-10, node
        compared.add((node.position, name_of(node)))
    assert len(compared) == problem.config.n_ctx * (len(writers) - 1)


def _of_one_input(metric: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """TransformerLens hands a metric one pair's logits, `[1, pos, d_vocab_out]`."""
    return lambda logits: metric(logits[0, POSITION])

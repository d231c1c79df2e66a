"""A tiny random GPT-2 that TransformerLens and the Workbench both run: there its edges work."""

from typing import Any

import torch
from einops import rearrange

from workbench.model_config import ModelConfig
from workbench.params import Params


def gpt2(config: ModelConfig, device: torch.device) -> tuple[Any, Params]:
    """A random GPT-2 in TransformerLens, and its weights in our names."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)  # transformers draws its weights from the global state
    shape = GPT2Config(
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_embd=config.d_model,
        n_inner=config.d_mlp,
        vocab_size=config.d_vocab,
        n_positions=config.n_ctx,
        activation_function=config.act_fn,
        initializer_range=0.2,
    )
    module = GPT2LMHeadModel(shape).eval().to(device)
    state, params = module.state_dict(), {}
    params["embed.W_E"], params["pos_embed.W_pos"] = (
        state[f"transformer.{name}.weight"] for name in ("wte", "wpe")
    )
    params["unembed.W_U"] = state["lm_head.weight"].T
    norms = {"ln_final": "ln_f"}
    for layer in range(config.n_layers):
        there, here = f"transformer.h.{layer}", f"blocks.{layer}"
        norms |= {f"{here}.ln1": f"h.{layer}.ln_1", f"{here}.ln2": f"h.{layer}.ln_2"}
        weights = state[f"{there}.attn.c_attn.weight"].chunk(3, 1)
        biases = state[f"{there}.attn.c_attn.bias"].chunk(3)
        for letter, weight, bias in zip("QKV", weights, biases, strict=True):
            by_head = {"head": config.n_heads}
            params[f"{here}.attn.W_{letter}"] = rearrange(
                weight, "d (head e) -> head d e", **by_head
            )
            params[f"{here}.attn.b_{letter}"] = rearrange(bias, "(head e) -> head e", **by_head)
        out = state[f"{there}.attn.c_proj.weight"]
        params[f"{here}.attn.W_O"] = rearrange(out, "(head e) d -> head e d", head=config.n_heads)
        params[f"{here}.attn.b_O"] = state[f"{there}.attn.c_proj.bias"]
        for ours, theirs in (("in", "c_fc"), ("out", "c_proj")):
            params[f"{here}.mlp.W_{ours}"] = state[f"{there}.mlp.{theirs}.weight"]
            params[f"{here}.mlp.b_{ours}"] = state[f"{there}.mlp.{theirs}.bias"]
    for here, there in norms.items():
        for ours, theirs in (("w", "weight"), ("b", "bias")):
            params[f"{here}.{ours}"] = state[f"transformer.{there}.{theirs}"]
    model = build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=shape)
    return model.eval(), {name: tensor.clone() for name, tensor in params.items()}


def edge_name(writer: Any, reader: Any) -> str:
    """An edge of TransformerLens in our names."""
    return f"{node_name(writer)}->{node_name(reader)}@{reader.position}"


def node_name(node: Any) -> str:
    """A node of TransformerLens in our names."""
    if node.kind in ("embed", "logits"):
        return str(node.kind)
    if node.kind in ("mlp_out", "mlp_in"):
        return f"m{node.layer}"
    head = f"a{node.layer}.h{node.head}"
    return head if node.kind == "attn_head_out" else f"{head}<{node.kind[0]}>"

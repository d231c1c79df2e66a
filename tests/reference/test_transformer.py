"""Our forward pass against TransformerLens: same weights, same everything.

The oracle is a natively booted `TransformerBridge`. Tolerances: both sides do the same sums in
another order, so float64 agrees to 1e-12 (logits are of order 1) and float32 to 1e-5.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from einops import einsum
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from workbench.bridge import from_bridge, to_bridge
from workbench.model_config import ModelConfig
from workbench.params import Params, stack, unstack
from workbench.transformer import forward, hook_names
from workbench.writers import residual_writers

READERS = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")
"""TransformerLens' names for what one reader reads; they do not fire on native models."""
NOT_ON_THE_BRIDGE = ("hook_result", "hook_attn_scores", *READERS)
"""On native models hook_attn_scores holds the pattern and the others never fire."""

SMALL, LARGE = 5, 40
"""Batches below and above every d_vocab: without and with the table of the first block."""


@cache
def bridge(seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """The oracle for one row of the table. Tests leave it without hooks of their own."""
    config = random_config(seed)
    return to_bridge(random_params(config, seed, dtype), config)


def shared_hooks(config: ModelConfig) -> list[str]:
    return [name for name in hook_names(config) if not name.endswith(NOT_ON_THE_BRIDGE)]


def assert_close(ours: Tensor, theirs: Tensor, *, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def test_the_table_reaches_every_option() -> None:
    configs = [random_config(seed) for seed in SEEDS]
    options = {
        "n_layers": {1, 2, 3, 4},
        "act_fn": {"relu", "gelu"},
        "normalization": {"LN", None},
        "attention_dir": {"causal", "bidirectional"},
        "attention_rate": {0.0, 0.39, 1.0},
        "attn_biases": {True, False},
        "mlp_biases": {True, False},
        "unembed_bias": {True, False},
    }
    for field, values in options.items():
        assert {getattr(config, field) for config in configs} == values
    assert any(config.d_mlp == 0 for config in configs)
    assert any(config.d_vocab_out != config.d_vocab for config in configs)
    assert any(config.n_heads * config.d_head != config.d_model for config in configs)


@pytest.mark.parametrize("batch", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_logits(seed: int, dtype: torch.dtype, atol: float, batch: int) -> None:
    config = random_config(seed)
    tokens = random_tokens(config, seed, batch=batch)
    logits = forward(random_params(config, seed, dtype), tokens, config).logits
    assert logits.dtype == dtype
    assert_close(logits, bridge(seed, dtype)(tokens), atol=atol)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_activation(seed: int) -> None:
    config = random_config(seed)
    tokens = random_tokens(config, seed, batch=LARGE)
    ours = forward(random_params(config, seed), tokens, config, taps=hook_names(config))
    _, theirs = bridge(seed).run_with_cache(tokens)
    assert [*ours.activations] == hook_names(config)
    for name in shared_hooks(config):
        assert_close(ours.activations[name], theirs[name])
    for layer in range(config.n_layers):
        attn = f"blocks.{layer}.attn"
        W_O = bridge(seed).blocks[layer].attn.W_O
        result = einsum(theirs[f"{attn}.hook_z"], W_O, "b p head e, head e d -> b p head d")
        assert_close(ours.activations[f"{attn}.hook_result"], result)
        block = f"blocks.{layer}"
        resid_pre = theirs[f"{block}.hook_resid_pre"]
        for letter in "qkv":
            copies = resid_pre[:, :, None].expand(-1, -1, config.n_heads, -1)
            assert_close(ours.activations[f"{block}.hook_{letter}_input"], copies)
        if config.d_mlp:
            resid_mid = theirs[f"{block}.hook_resid_mid"]
            assert_close(ours.activations[f"{block}.hook_mlp_in"], resid_mid)


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_what_one_reader_reads_reaches_that_reader_alone(seed: int) -> None:
    """Patching q, k or v of one head by what the bridge's own weights make of the new input."""
    config = random_config(seed)
    params, layer, head = random_params(config, seed), config.n_layers - 1, config.n_heads - 1
    tokens = random_tokens(config, seed, batch=SMALL)
    block = f"blocks.{layer}"
    _, theirs = bridge(seed).run_with_cache(tokens)
    read = theirs[f"{block}.hook_resid_pre"] + torch.linspace(-1, 1, config.d_model).double()
    normed = read
    if config.normalization == "LN":
        centred = read - read.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normed = centred / scale * params[f"{block}.ln1.w"] + params[f"{block}.ln1.b"]
    for letter in "qkv":
        made = normed @ params[f"{block}.attn.W_{letter.upper()}"][head]
        if config.attn_biases:
            made = made + params[f"{block}.attn.b_{letter.upper()}"][head]
        edits = {f"{block}.hook_{letter}_input": with_head(head, read)}
        ours = forward(params, tokens, config, edits=edits).logits
        hook = with_head(head, made)
        patched = [(f"{block}.attn.hook_{letter}", lambda x, hook, edit=hook: edit(x))]
        assert_close(ours, bridge(seed).run_with_hooks(tokens, fwd_hooks=patched))


def with_head(head: int, value: Tensor) -> Callable[[Tensor], Tensor]:
    """The edit that gives one head of `[batch, pos, head, d]` another value."""

    def edit(activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[:, :, head] = value
        return activation

    return edit


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if random_config(seed).attention_rate])
def test_scores_are_what_the_pattern_is_the_softmax_of(seed: int) -> None:
    config = random_config(seed)
    tokens = random_tokens(config, seed, batch=SMALL)
    taps = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(config.n_layers)]
    ours = forward(random_params(config, seed), tokens, config, taps=taps).activations
    _, theirs = bridge(seed).run_with_cache(tokens)
    for layer in range(config.n_layers):
        scores = ours[f"blocks.{layer}.attn.hook_attn_scores"]
        visible = torch.isfinite(scores)
        uniform = visible.to(scores.dtype)
        mixed = config.attention_rate * scores.softmax(-1) + (1 - config.attention_rate) * uniform
        assert_close(mixed, theirs[f"blocks.{layer}.attn.hook_pattern"])


@pytest.mark.parametrize("name", NOT_ON_THE_BRIDGE)
def test_what_the_bridge_lacks(name: str) -> None:
    """When this fails, TransformerLens has learnt it: compare it above."""
    seed = 1
    _, theirs = bridge(seed).run_with_cache(random_tokens(random_config(seed), seed, batch=SMALL))
    attn = "blocks.0.attn"
    if name != "hook_attn_scores":
        assert f"{attn}.{name}" not in theirs and f"blocks.0.{name}" not in theirs
    else:
        assert_close(theirs[f"{attn}.{name}"], theirs[f"{attn}.hook_pattern"])


@pytest.mark.parametrize("batch", [SMALL, LARGE])
@pytest.mark.parametrize("positions", [[2], [-1], [0, 2], [2, 1, 0], [1, 1, 2, 0]], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 4, 7, 8, 12])
def test_positions(seed: int, positions: list[int], batch: int) -> None:
    config = random_config(seed)
    tokens = random_tokens(config, seed, batch=batch)[:, :3]
    logits = forward(random_params(config, seed), tokens, config, positions=positions).logits
    assert_close(logits, bridge(seed)(tokens)[:, positions])


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_a_stack_of_networks(seed: int) -> None:
    """Three networks at once give, one by one, the bridge's logits and activations."""
    config = random_config(seed)
    networks = [random_params(config, 100 * seed + i) for i in range(3)]
    bridges = [to_bridge(params, config) for params in networks]
    for batch in (SMALL, LARGE):
        per_seed = [random_tokens(config, seed + i, batch=batch) for i in range(3)]
        shared = [per_seed[0]] * 3
        for inputs, tokens in ((shared, shared[0]), (per_seed, torch.stack(per_seed))):
            taps = shared_hooks(config)
            together = forward(stack(networks), tokens, config, taps=taps)
            last = forward(stack(networks), tokens, config, positions=[-1]).logits
            for i in range(3):
                logits, cache = bridges[i].run_with_cache(inputs[i])
                assert_close(together.logits[i], logits)
                assert_close(last[i], logits[:, [-1]])
                for name in taps:
                    assert_close(together.activations[name][i], cache[name])


@pytest.mark.parametrize("seed", [0, 1, 6, 9, 14, 23])
def test_an_edit_anywhere_is_the_same_hook(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=LARGE)
    clean = forward(params, tokens, config).logits
    for name in shared_hooks(config):
        ours = forward(params, tokens, config, edits={name: torch.cos}).logits
        if name.endswith("hook_resid_mid"):
            theirs = edit_resid_mid(bridge(seed), tokens, name)
        else:
            theirs = bridge(seed).run_with_hooks(
                tokens, fwd_hooks=[(name, lambda activation, hook: torch.cos(activation))]
            )
        assert_close(ours, theirs)
        if not name.endswith(("hook_q", "hook_k", "hook_v")):  # a rate of 0 ignores q and k
            assert (ours - clean).abs().max() > 1e-3, name


def edit_resid_mid(model: Any, tokens: Tensor, name: str) -> Tensor:
    """The bridge's hook there edits what the MLP reads alone: go through the attention output."""
    pre, attn_out = (name.replace("resid_mid", other) for other in ("resid_pre", "attn_out"))
    _, cache = model.run_with_cache(tokens)
    return model.run_with_hooks(
        tokens, fwd_hooks=[(attn_out, lambda out, hook: torch.cos(cache[pre] + out) - cache[pre])]
    )


def test_the_bridge_edits_resid_mid_for_the_mlp_alone() -> None:
    """When this fails, TransformerLens has mended it: drop `edit_resid_mid`."""
    seed = 1
    tokens = random_tokens(random_config(seed), seed, batch=SMALL)
    name = f"blocks.{random_config(seed).n_layers - 1}.hook_resid_mid"
    with bridge(seed).hooks(fwd_hooks=[(name, lambda mid, hook: 0 * mid)]):
        _, cache = bridge(seed).run_with_cache(tokens)
    block = name.removesuffix(".hook_resid_mid")
    post = cache[f"{block}.hook_resid_pre"] + cache[f"{block}.hook_attn_out"]
    assert_close(cache[f"{block}.hook_resid_post"], post + cache[f"{block}.hook_mlp_out"])
    assert post.abs().max() > 0.1


def zero_head_1(z: Tensor) -> Tensor:
    return torch.cat([z[..., :1, :], torch.zeros_like(z[..., 1:2, :]), z[..., 2:, :]], dim=-2)


def look_at_the_first(pattern: Tensor) -> Tensor:
    return torch.eye(pattern.shape[-1], dtype=pattern.dtype)[0].expand_as(pattern)


def steer(residual: Tensor) -> Tensor:
    return residual + torch.arange(residual.shape[-1], dtype=residual.dtype)


@pytest.mark.parametrize("batch", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("attn.hook_z", zero_head_1),
        ("attn.hook_pattern", look_at_the_first),
        ("hook_resid_pre", steer),
    ],
)
@pytest.mark.parametrize("layer", [0, 1])
def test_interventions(layer: int, name: str, edit: Callable[[Tensor], Tensor], batch: int) -> None:
    seed = 1
    config = replace(random_config(seed), n_heads=3)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=batch)
    hook = f"blocks.{layer}.{name}"
    ours = forward(params, tokens, config, edits={hook: edit}, positions=[-1]).logits
    theirs = to_bridge(params, config).run_with_hooks(
        tokens, fwd_hooks=[(hook, lambda activation, hook: edit(activation))]
    )
    assert_close(ours, theirs[:, [-1]])
    assert (ours - forward(params, tokens, config, positions=[-1]).logits).abs().max() > 1e-2


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_residual_writers_sum_to_the_last_residual_stream(seed: int) -> None:
    config = random_config(seed)
    tokens = random_tokens(config, seed, batch=LARGE)
    names, written = residual_writers(random_params(config, seed), tokens, config)
    expected = ["embed", "pos_embed"]
    for layer in range(config.n_layers):
        expected += [f"a{layer}.h{head}" for head in range(config.n_heads)]
        expected += [f"a{layer}.bias"] if config.attn_biases else []
        expected += [f"m{layer}"] if config.d_mlp else []
    assert names == expected
    _, cache = bridge(seed).run_with_cache(tokens)
    assert_close(written.sum(0), cache[f"blocks.{config.n_layers - 1}.hook_resid_post"])


def bridge_gradients(model: Any, tokens: Tensor, answer: Tensor) -> Params:
    """Its gradients, named and laid out as our parameters: written over its weights and read."""
    cross_entropy(model(tokens)[:, -1], answer).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    return from_bridge(model)[0]


@pytest.mark.parametrize("batch", [SMALL, LARGE])
@pytest.mark.parametrize("seed", [0, 1, 3, 4, 8, 12, 16, 20])
def test_gradients(seed: int, batch: int) -> None:
    """One-layer rows at the large batch take the lean path: the residual stream at one position."""
    config = random_config(seed)
    params = {name: p.requires_grad_() for name, p in random_params(config, seed).items()}
    tokens = random_tokens(config, seed, batch=batch)
    answer = tokens[:, 0] % config.d_vocab_out
    theirs = bridge_gradients(to_bridge(params, config), tokens, answer)
    cross_entropy(forward(params, tokens, config, positions=[-1]).logits[:, 0], answer).backward()
    assert params.keys() == theirs.keys()
    for name, parameter in params.items():
        assert parameter.grad is not None
        assert_close(parameter.grad, theirs[name], atol=1e-10)


@pytest.mark.parametrize("batch", [SMALL, LARGE])
def test_gradients_of_a_stack(batch: int) -> None:
    config = random_config(0)
    networks = [random_params(config, i) for i in range(3)]
    tokens = random_tokens(config, 0, batch=batch)
    answer = tokens[:, 0] % config.d_vocab_out
    params = {name: p.requires_grad_() for name, p in stack(networks).items()}
    logits = forward(params, tokens, config, positions=[-1]).logits
    sum(cross_entropy(logits[i, :, 0], answer) for i in range(3)).backward()
    gradients = unstack({name: p.grad for name, p in params.items()})
    for own, gradient in zip(networks, gradients, strict=True):
        theirs = bridge_gradients(to_bridge(own, config), tokens, answer)
        for name in theirs:
            assert_close(gradient[name], theirs[name], atol=1e-10)

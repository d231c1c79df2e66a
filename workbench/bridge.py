"""To TransformerLens and back: the same weights, hook names and logits on the other side.

`to_bridge` makes a natively booted `TransformerBridge` of a network, so that every TransformerLens
tool and notebook works on our runs; `from_bridge` brings a network trained there here. This is
the only module of the package that imports TransformerLens (seconds): import it late.

Where the two differ, on a natively booted model (TransformerLens 4.3):

- `hook_result` and what single readers read (`hook_{q,k,v}_input`, `hook_mlp_in`) never fire
  there, and its `hook_attn_scores` fires late and holds the pattern. Ours hold what they say.
  Every other name of `workbench.transformer.hook_names` is there with the same activation in the
  same layout.
- An edit at its `hook_resid_mid` that returns a copy reaches the MLP alone, not the residual
  stream (one that writes in place, as TransformerLens' own patching does, reaches both); ours
  reaches both. Edits at every other shared name do the same on both sides.
- A bias that our network lacks is there as zeros, frozen (`requires_grad = False`), so that
  training the bridge keeps the network's shape. `from_bridge` reads it as absent again.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from workbench import config as configs
from workbench.errors import ConfigError, WeightsError
from workbench.layers import LAYER_NORM_EPS
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, check_params
from workbench.transformer import forward


def to_bridge(params: Params, config: ModelConfig) -> TransformerBridge:
    """A TransformerLens model with exactly these weights and the same logits.

    Its device and dtype are those of `params`, which it copies. The global random state is left
    as found.

    An `attention_rate` other than 1 lives in a permanent hook at every `hook_pattern`. It
    survives `reset_hooks()` and hooks added later see the mixed pattern, but
    `reset_hooks(including_permanent=True)` removes it, and the logits change. It knows the causal
    mask and not a padding mask. Rows of its pattern do not sum to 1, so that folding value biases
    changes the logits: `enable_compatibility_mode(fold_value_biases=False)` keeps them.

    Raises `ConfigError` for a configuration outside its ranges and `WeightsError` where weights
    do not fit it or are a stack of networks.
    """
    config = configs.from_dict(ModelConfig, configs.to_dict(config), where="model")
    if params.get("embed.W_E", torch.empty(0, 0)).ndim == 3:
        raise WeightsError("a bridge holds one network, got a stack; pick one of unstack(params)")
    check_params(params, config)
    embed = params["embed.W_E"]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = TransformerBridge.boot_native(
            _bridge_config(config, embed), device=embed.device, dtype=embed.dtype
        )
    if config.unembed_bias:
        _make_trainable_unembed_bias(model)
    full = _with_every_bias(config)
    weights = {name: params.get(name, embed.new_zeros(full[name])).detach() for name in full}
    model.load_state_dict({_state_name(name): _to_state(name, weights[name]) for name in full})
    state = model.state_dict(keep_vars=True)
    for name in full.keys() - params.keys():
        state[_state_name(name)].requires_grad_(False)
    if config.attention_rate != 1.0:
        hook = partial(_mix_uniform, rate=config.attention_rate, direction=config.attention_dir)
        for layer in range(config.n_layers):
            model.add_perma_hook(f"blocks.{layer}.attn.hook_pattern", hook)
    return model


def from_bridge(model: TransformerBridge) -> tuple[Params, ModelConfig]:
    """The weights (copied) and configuration of a natively booted TransformerLens model.

    A bias counts as absent where it is frozen at zero in every layer, as `to_bridge` leaves it.
    The result has been run beside the model: it gives the same logits.

    Raises `ConfigError` for what our transformer does not have (gated MLPs, RMS norms, rotary
    positions, grouped keys and values, soft caps ...) and for attached hooks.
    """
    _refuse_unsupported(model)
    state = model.state_dict(keep_vars=True)
    config = _model_config(model, state)
    params = {
        name: _from_state(name, state[_state_name(name)], config).detach().clone()
        for name in param_shapes(config)
    }
    check_params(params, config)
    _refuse_different_logits(model, params, config)
    return params, config


def _bridge_config(config: ModelConfig, like: Tensor) -> TransformerBridgeConfig:
    return TransformerBridgeConfig(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.d_head,
        d_mlp=config.d_mlp or None,
        attn_only=config.d_mlp == 0,
        d_vocab=config.d_vocab,
        d_vocab_out=config.d_vocab_out,
        n_ctx=config.n_ctx,
        act_fn=config.act_fn,
        normalization_type=config.normalization,
        eps=LAYER_NORM_EPS,
        attention_dir=config.attention_dir,
        init_weights=False,
        device=str(like.device),
        dtype=like.dtype,
    )


def _make_trainable_unembed_bias(model: TransformerBridge) -> None:
    """TransformerLens keeps the unembedding's bias as a buffer, which no optimiser would see."""
    head = model.unembed.original_component
    bias = head.bias
    del head.bias
    head.bias = torch.nn.Parameter(bias)


def _with_every_bias(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The parameters of a native model of this configuration: it always has every bias."""
    return param_shapes(replace(config, attn_biases=True, mlp_biases=True, unembed_bias=True))


_STATE = {
    "W_E": ("weight", "token d -> token d"),
    "W_pos": ("weight", "pos d -> pos d"),
    "w": ("weight", "d -> d"),
    "b": ("bias", "d -> d"),
    "W_Q": ("q.weight", "(head e) d -> head d e"),
    "W_K": ("k.weight", "(head e) d -> head d e"),
    "W_V": ("v.weight", "(head e) d -> head d e"),
    "W_O": ("o.weight", "d (head e) -> head e d"),
    "b_Q": ("q.bias", "(head e) -> head e"),
    "b_K": ("k.bias", "(head e) -> head e"),
    "b_V": ("v.bias", "(head e) -> head e"),
    "b_O": ("o.bias", "d -> d"),
    "W_in": ("in.weight", "d_mlp d -> d d_mlp"),
    "W_out": ("out.weight", "d d_mlp -> d_mlp d"),
    "b_in": ("in.bias", "d_mlp -> d_mlp"),
    "b_out": ("out.bias", "d -> d"),
    "W_U": ("weight", "token d -> d token"),
    "b_U": ("bias", "token -> token"),
}
"""Where the bridge's state dictionary keeps each parameter, and the layout there -> here."""


def _state_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    return f"{module}.{_STATE[leaf][0]}"


def _to_state(name: str, tensor: Tensor) -> Tensor:
    there, here = _STATE[name.rsplit(".", 1)[1]][1].split(" -> ")
    return rearrange(tensor, f"{here} -> {there}")


def _from_state(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    layout = _STATE[name.rsplit(".", 1)[1]][1]
    return rearrange(tensor, layout, **({"head": config.n_heads} if "head" in layout else {}))


def _mix_uniform(
    pattern: Float[Tensor, "batch head query key"], hook: HookPoint, *, rate: float, direction: str
) -> Float[Tensor, "batch head query key"]:
    """`rate * pattern + (1 - rate)` on the visible positions, as `workbench.transformer` does."""
    visible = torch.ones_like(pattern)
    if direction == "causal":
        visible = visible.tril()
    return rate * pattern + (1 - rate) * visible


def _refuse_unsupported(model: TransformerBridge) -> None:
    """Raise `ConfigError` for the first setting that our transformer cannot express."""
    cfg = model.cfg
    if cfg.architecture != "TransformerLensNative":
        raise ConfigError(
            f"a bridge around {cfg.architecture} cannot be imported; "
            "only models from TransformerBridge.boot_native can"
        )
    supported = {
        "act_fn": ("relu", "gelu"),
        "normalization_type": (None, "LN"),
        "positional_embedding_type": ("standard",),
        "gated_mlp": (False,),
        "final_rms": (False,),
        "n_key_value_heads": (None, cfg.n_heads),
        "attn_scores_soft_cap": (-1.0, 0.0),
        "output_logits_soft_cap": (-1.0, 0.0),
        "attn_scale": (-1.0, math.sqrt(cfg.d_head)),
        "layer_norm_folding": (False,),
        "eps": (cfg.eps if cfg.normalization_type is None else LAYER_NORM_EPS,),
    }
    for field, values in supported.items():
        if getattr(cfg, field) not in values:
            allowed = " or ".join(repr(value) for value in values)
            raise ConfigError(
                f"bridge {field} = {getattr(cfg, field)!r}: our transformer has only {allowed}"
            )
    for name, point in model.hook_dict.items():
        if any(_rate(handle.user_hook) is None for handle in point.fwd_hooks):
            raise ConfigError(
                f"a hook at {name} may change what the bridge computes; remove it "
                "(model.reset_hooks(including_permanent=True)) and import again"
            )


def _rate(hook: object) -> float | None:
    """The attention rate that a hook of ours applies; None for anybody else's hook."""
    if isinstance(hook, partial) and hook.func is _mix_uniform:
        return float(hook.keywords["rate"])
    return None


def _model_config(model: TransformerBridge, state: Mapping[str, Tensor]) -> ModelConfig:
    cfg = model.cfg
    handles = [block.attn.hook_pattern.fwd_hooks for block in model.blocks]
    rates = {tuple(_rate(handle.user_hook) for handle in layer) for layer in handles}
    if len(rates) > 1 or any(len(layer) > 1 for layer in rates):
        raise ConfigError(
            f"bridge with a different attention_rate in each layer, {sorted(rates)}; "
            "our transformer has one for all"
        )

    def has_bias(suffix: str) -> bool:
        found = [tensor for name, tensor in state.items() if name.endswith(suffix)]
        return any(tensor.requires_grad or bool(tensor.any()) for tensor in found)

    data = {
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "d_model": cfg.d_model,
        "d_head": cfg.d_head,
        "d_mlp": 0 if cfg.attn_only else cfg.d_mlp,
        "d_vocab": cfg.d_vocab,
        "d_vocab_out": state["unembed.weight"].shape[0],
        "n_ctx": cfg.n_ctx,
        "act_fn": cfg.act_fn,
        "normalization": cfg.normalization_type,
        "attention_dir": "causal" if cfg.attention_dir == "causal" else "bidirectional",
        "attention_rate": next((rate for layer in rates for rate in layer), 1.0),
        "attn_biases": any(has_bias(f".attn.{part}.bias") for part in "qkvo"),
        "mlp_biases": cfg.attn_only or any(has_bias(f".mlp.{part}.bias") for part in ("in", "out")),
        "unembed_bias": has_bias("unembed.bias"),
    }
    return configs.from_dict(ModelConfig, data, where="model")


def _refuse_different_logits(model: TransformerBridge, params: Params, config: ModelConfig) -> None:
    """Run both on a few inputs: whatever the settings say, the function must be the same."""
    n_pos = min(config.n_ctx, 32)
    rows = torch.arange(4 * n_pos, device=params["embed.W_E"].device)
    tokens = rearrange(rows % config.d_vocab, "(batch pos) -> batch pos", pos=n_pos)
    with torch.no_grad():
        ours, theirs = forward(params, tokens, config).logits, model(tokens)
    difference = float((ours - theirs).abs().max())
    if difference > 1e-4 * max(1.0, float(theirs.abs().max())):
        raise ConfigError(
            f"the bridge computes something else than its settings say: logits differ by "
            f"{difference:.3g} from those of the imported weights; boot it again, unprocessed"
        )

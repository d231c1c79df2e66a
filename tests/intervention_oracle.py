"""Interventions the slow way: one whole forward pass per cell, edited hook by hook."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.intervene import (
    Cell,
    Function,
    Intervention,
    Mean,
    MeanPositional,
    OtherInput,
    Resample,
    Value,
    Zero,
)
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import forward


@torch.no_grad()
def intervene_slowly(
    params: Params,
    tokens: Tensor,
    config: ModelConfig,
    cells: Sequence[Cell],
    *,
    other: Tensor | None = None,
    reference: Tensor | None = None,
    positions: Sequence[int] | None = None,
) -> Tensor:
    """What `workbench.intervene.intervene` returns."""
    out = []
    for cell in cells:
        hooks = {made.site.hook: [] for made in cell}
        for made in cell:
            hooks[made.site.hook].append(made)
        edits = {
            hook: lambda x, made=made: _edit(params, config, x, made, tokens, other, reference)
            for hook, made in hooks.items()
        }
        logits = forward(params, tokens, config, edits=edits).logits
        out.append(logits if positions is None else logits[:, list(positions)])
    return torch.stack(out)


def _edit(
    params: Params,
    config: ModelConfig,
    activation: Tensor,
    interventions: list[Intervention],
    tokens: Tensor,
    other: Tensor | None,
    reference: Tensor | None,
) -> Tensor:
    for made in interventions:
        site, source = made.site, made.source
        per_query = site.hook.endswith(("hook_attn_scores", "hook_pattern"))
        # [batch, pos, ...] whatever the hook, heads third
        x = activation.permute(0, 2, 1, 3) if per_query else activation
        new = _source(params, config, site.hook, per_query, x, source, tokens, other, reference)
        n_pos = x.shape[1]
        chosen_pos = range(n_pos) if site.positions is None else [p % n_pos for p in site.positions]
        features = site.heads if site.heads is not None else site.neurons
        x = x.clone()
        for pos in chosen_pos:
            if isinstance(source, Value | Function):
                held = x[:, list(chosen_pos)]
                held = held if features is None else held[:, :, list(features)]
                value = source.value if isinstance(source, Value) else source.function(held)
                value = value.to(held).expand_as(held)[:, list(chosen_pos).index(pos)]
                target = x[:, pos].clone()
                if features is None:
                    target = value.clone()
                else:
                    target[:, list(features)] = value
            else:
                target = new[:, pos]
            if site.subspace is not None:
                basis = site.subspace.to(x)
                target = x[:, pos] + (target - x[:, pos]) @ basis.T @ basis
            if features is None:
                x[:, pos] = target
            else:
                x[:, pos, list(features)] = target[:, list(features)]
        activation = x.permute(0, 2, 1, 3) if per_query else x
    return activation


def _source(
    params: Params,
    config: ModelConfig,
    hook: str,
    per_query: bool,
    x: Tensor,
    source: object,
    tokens: Tensor,
    other: Tensor | None,
    reference: Tensor | None,
) -> Tensor:
    def run(inputs: Tensor) -> Tensor:
        got = forward(params, inputs, config, taps=[hook]).activations[hook]
        return got.permute(0, 2, 1, 3) if per_query else got

    reference = tokens if reference is None else reference
    if isinstance(source, OtherInput):
        assert other is not None
        return run(other)
    if isinstance(source, Mean):
        return run(reference).mean((0, 1), keepdim=True).expand_as(x)
    if isinstance(source, MeanPositional):
        return run(reference).mean(0, keepdim=True).expand_as(x)
    if isinstance(source, Resample):
        generator = torch.Generator().manual_seed(source.seed)
        drawn = torch.randint(len(reference), (len(tokens),), generator=generator)
        return run(reference)[drawn]
    assert isinstance(source, Zero | Value | Function)
    return torch.zeros_like(x)

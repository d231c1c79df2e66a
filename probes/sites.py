"""Where probes look: one hook at one position, of one head where the hook has heads.

blocks.0.hook_resid_post@2     blocks.0.attn.hook_z[1]@2
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import HookError, ProbeError
from workbench.intervene import Site, has_heads, last_axis
from workbench.memory import halving_chunks
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.registry import unknown
from workbench.transformer import forward, hook_names

READ_BYTES = 256 * 2**20
"""Bytes of activations that one forward pass may hold while they are read."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ProbeSite:
    """One vector per input: a hook at a position, and a head where it has heads."""

    hook: str
    position: int
    """Counted from 0."""
    head: int | None = None

    @property
    def place(self) -> str:
        """The site without its position: `blocks.0.attn.hook_z[1]`."""
        return self.hook if self.head is None else f"{self.hook}[{self.head}]"

    def __str__(self) -> str:
        return f"{self.place}@{self.position}"

    def intervention_site(self) -> Site:
        """The same place for `workbench.intervene`."""
        heads = None if self.head is None else (self.head,)
        return Site(hook=self.hook, positions=(self.position,), heads=heads)


def parse_site(text: str, config: ModelConfig) -> ProbeSite:
    """The site written as text. Raises `HookError` with the nearest known name."""
    match = re.fullmatch(r"([\w.]+?)(?:\[(\d+)\])?@(-?\d+)", text.strip())
    if match is None:
        raise HookError(f"cannot read site {text!r}; write it as 'blocks.0.hook_resid_post@2'")
    head = None if match[2] is None else int(match[2])
    return _checked(match[1], int(match[3]), head, config, config.n_ctx)


def residual_hooks(config: ModelConfig) -> list[str]:
    """The residual stream from the embeddings to the end, in order."""
    hooks = ["blocks.0.hook_resid_pre"]
    for layer in range(config.n_layers):
        hooks += [f"blocks.{layer}.hook_resid_mid"] if config.d_mlp else []
        hooks.append(f"blocks.{layer}.hook_resid_post")
    return hooks


def make_sites(
    config: ModelConfig,
    *,
    hooks: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    n_pos: int | None = None,
) -> list[ProbeSite]:
    """Every combination of hook (each head of those that have heads) and position, in order.

    `hooks` None is the residual stream, `positions` None is all of them; negative positions count
    from the end. Raises `HookError` for a hook or position that there is not, or a hook whose
    vectors differ in meaning from position to position (scores and patterns).
    """
    length = config.n_ctx if n_pos is None else n_pos
    chosen = range(length) if positions is None else positions
    sites = []
    for hook in residual_hooks(config) if hooks is None else hooks:
        heads: Iterable[int | None] = range(config.n_heads) if has_heads(hook) else [None]
        sites += [_checked(hook, at, head, config, length) for head in heads for at in chosen]
    return list(dict.fromkeys(sites))


def width_of(config: ModelConfig, hook: str) -> int:
    """How many numbers a site at this hook holds."""
    width = last_axis(config, hook)
    assert width is not None
    return width


def read_activations(
    params: Params,
    tokens: Int[Tensor, "n pos"],
    config: ModelConfig,
    sites: Sequence[ProbeSite],
    *,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "site n d"]:
    """The activations at these sites, in their order; `dtype` None keeps the network's.

    Raises `HookError` for a site that there is not, `ProbeError` for sites of different widths,
    none, or activations that are not finite; `ResourceError` where not even one input fits in
    memory.
    """
    widths = {site: width_of(config, site.hook) for site in sites}
    if len(set(widths.values())) != 1:
        listed = ", ".join(f"{site} ({width})" for site, width in list(widths.items())[:4])
        raise ProbeError(f"sites of one width go together, got {listed or 'none'}; read them apart")
    hooks = sorted({site.hook for site in sites})
    dtype = dtype or params["embed.W_E"].dtype
    made = torch.empty(
        len(sites), len(tokens), next(iter(widths.values())), dtype=dtype, device=tokens.device
    )

    def read(rows: slice) -> None:
        with torch.no_grad():
            tapped = forward(params, tokens[rows], config, taps=hooks).activations
        for i, site in enumerate(sites):
            at = tapped[site.hook][:, site.position]
            made[i, rows] = (at if site.head is None else at[:, site.head]).to(dtype)
            if not bool(made[i, rows].isfinite().all()):
                raise ProbeError(
                    f"activations at {site} hold NaN or infinity; the network may have diverged: "
                    "use an earlier checkpoint"
                )

    per_input = 4 * tokens.shape[1] * (len(hooks) + 8) * (config.d_model + config.d_mlp)
    for _ in halving_chunks([per_input] * len(tokens), READ_BYTES, read, one="one input"):
        pass
    return made


def _checked(
    hook: str, position: int, head: int | None, config: ModelConfig, n_pos: int
) -> ProbeSite:
    known = hook_names(config)
    if hook not in known:
        raise HookError(unknown("hook", hook, known))
    if last_axis(config, hook) is None:
        raise HookError(f"{hook}: scores and patterns hold keys, not features; probe hook_z")
    if (head is None) == has_heads(hook) or (head or 0) >= config.n_heads:
        raise HookError(
            f"{hook}: it has {config.n_heads} heads, name one as in {hook}[0]@2"
            if has_heads(hook)
            else f"{hook} has no head axis; leave [{head}] out"
        )
    if not -n_pos <= position < n_pos:
        raise HookError(f"position {position} at {hook}: inputs have positions 0 to {n_pos - 1}")
    return ProbeSite(hook=hook, position=range(n_pos)[position], head=head)

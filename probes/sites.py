"""Where probes look: one hook at one position, of one head where the hook has heads.

blocks.0.hook_resid_post@2     blocks.0.attn.hook_z[1]@2
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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

READ_BYTES = 2**26
"""Bytes of activations that one forward pass may hold while they are read."""
OWN_TOKEN = (
    *("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"),
    *(f"blocks.0.hook_{letter}_input" for letter in "qkv"),
    *(f"blocks.0.attn.hook_{letter}" for letter in "qkv"),
)
"""Hooks that have seen no token but their own."""
FEW_ROWS = 8
"""Matrix products with fewer rows may round in another way than those with more."""
UNREAD = ("unembed.W_U", "unembed.b_U")
"""Parameters that no hook reads."""


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
    dtype = dtype or params["embed.W_E"].dtype
    made = torch.empty(
        len(sites), len(tokens), next(iter(widths.values())), dtype=dtype, device=tokens.device
    )
    for reading in _readings(tokens, config, sites):
        _read(reading, params, tokens, config, sites, made)
    for site, found in zip(sites, made, strict=True):
        # A sum is NaN or infinite where anything is, or where it overflowed.
        if not bool(found.sum().isfinite()) and not bool(found.isfinite().all()):
            raise ProbeError(
                f"activations at {site} hold NaN or infinity; the network may have diverged: "
                "use an earlier checkpoint"
            )
    return made


# ---------------------------------------------------------------------- reading


@dataclass(slots=True, kw_only=True, eq=False)
class _Reading:
    """Sites that are read together, from as many inputs as differ there."""

    inputs: Int[Tensor, " m"] | None
    """One input for each activation that there is; None for all inputs."""
    of: Int[Tensor, " n"] | None
    """Which of these activations each input has."""
    sites: list[int] = field(default_factory=list)


def _readings(
    tokens: Int[Tensor, "n pos"], config: ModelConfig, sites: Sequence[ProbeSite]
) -> list[_Reading]:
    """Where a site has seen one token alone, each of its activations is computed once."""
    whole = _Reading(inputs=None, of=None)
    known: dict[int, _Reading] = {}
    for i, site in enumerate(sites):
        first = site.position == 0 and config.attention_dir == "causal"
        reading = whole
        if first or site.hook in OWN_TOKEN:
            if site.position not in known:
                known[site.position] = _shared(tokens[:, site.position]) or whole
            reading = known[site.position]
        reading.sites.append(i)
    readings = {id(reading): reading for reading in (*known.values(), whole)}
    return [reading for reading in readings.values() if reading.sites]


def _shared(token: Int[Tensor, " n"]) -> _Reading | None:
    """One input of each token; None where most inputs have their own."""
    values, of = torch.unique(token, return_inverse=True)
    if 2 * len(values) > len(token):
        return None
    each = torch.arange(len(token), device=token.device)
    inputs = each.new_zeros(len(values)).scatter_reduce_(0, of, each, "amax")
    if len(inputs) < FEW_ROWS:
        inputs = inputs.repeat(FEW_ROWS)
    return _Reading(inputs=inputs, of=of)


def _read(
    reading: _Reading,
    params: Params,
    tokens: Int[Tensor, "n pos"],
    config: ModelConfig,
    sites: Sequence[ProbeSite],
    made: Float[Tensor, "site n d"],
) -> None:
    """Put the activations at the sites of a reading into their places."""
    here = [sites[i] for i in reading.sites]
    hooks, positions = ({getattr(site, part) for site in here} for part in ("hook", "position"))
    wanted = sorted(positions)
    asked = tokens if reading.inputs is None else tokens[reading.inputs]
    shared = reading.of is not None
    found = made.new_empty(len(here), len(asked), made.shape[2]) if shared else made
    into = range(len(here)) if shared else reading.sites
    params = {**params, **{name: params[name][..., :0] for name in UNREAD if name in params}}

    def read(rows: slice) -> None:
        with torch.no_grad():
            tapped = forward(params, asked[rows], config, positions=wanted, taps=hooks).activations
        for i, site in zip(into, here, strict=True):
            everywhere = tapped[site.hook].shape[1] == tokens.shape[1]
            at = site.position if everywhere else wanted.index(site.position)
            vector = tapped[site.hook][:, at]
            found[i, rows] = (vector if site.head is None else vector[:, site.head]).to(found)

    per_input = 4 * tokens.shape[1] * (len(hooks) + 8) * (config.d_model + config.d_mlp)
    for _ in halving_chunks([per_input] * len(asked), READ_BYTES, read, one="one input"):
        pass
    if reading.of is not None:
        for i, vectors in zip(reading.sites, found, strict=True):
            made[i] = vectors[reading.of]


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

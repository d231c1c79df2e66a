"""What a chunk of cells puts where: the unpatched run, the sources, and the plan by hook.

Activations are held as rows, `[pos, batch, ...]`; `slot = cell * n_pos + pos` numbers the rows of
a chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import layers
from workbench.errors import HookError
from workbench.intervene import (
    Cell,
    Function,
    Intervention,
    Mean,
    MeanPositional,
    OtherInput,
    Resample,
    Site,
    Value,
    Zero,
    has_heads,
)
from workbench.params import ModelConfig, Params
from workbench.transformer import forward, hook_names


def as_rows(hook: str, activation: Tensor) -> Tensor:
    """`[batch, pos, ...]` as `[pos, batch, ...]`; scores and patterns by their query."""
    if hook.endswith(("hook_attn_scores", "hook_pattern")):
        return rearrange(activation, "batch head query key -> query batch head key")
    return activation.transpose(0, 1)


class Unpatched:
    """The run that cells differ from: every activation, as rows."""

    def __init__(
        self, params: Params, tokens: Tensor, config: ModelConfig, wanted: list[int]
    ) -> None:
        self.params, self.config, self.wanted = params, config, wanted
        self.batch, self.n_pos = tokens.shape
        self.device = tokens.device
        taps = [name for name in hook_names(config) if not name.endswith(_DERIVED)]
        run = forward(params, tokens, config, taps=taps)
        self.logits = run.logits[:, wanted]
        self.activations = {name: as_rows(name, x) for name, x in run.activations.items()}
        self._by_head: dict[str, Tensor] = {}

    def rows(self, hook: str) -> Tensor:
        """An activation `[pos, batch, ...]`; those per head and reader are made when asked for."""
        if not hook.endswith(_DERIVED):
            return self.activations[hook]
        block = hook.split(".hook_")[0].removesuffix(".attn")
        if hook.endswith("hook_result"):
            z = self.activations[f"{block}.attn.hook_z"]
            return layers.head_results(self.params, int(block.split(".")[1]), z)
        read = self.activations[f"{block}.hook_resid_pre"]
        return read[..., None, :].expand(*read.shape[:-1], self.config.n_heads, read.shape[-1])

    def by_head(self, hook: str) -> Float[Tensor, "batch head pos d_head"]:
        """q, k or v as attention multiplies them, in one piece of memory."""
        if hook not in self._by_head:
            rows = self.activations[hook]
            turned = rearrange(rows, "pos batch head e -> batch head pos e")
            self._by_head[hook] = turned.contiguous()
        return self._by_head[hook]


_DERIVED = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input")


@dataclass
class Sources:
    """What is put at sites, `[pos or 1, batch or 1, ...]` per hook; computed once per call."""

    params: Params
    config: ModelConfig
    base: Unpatched
    other: Tensor | None
    reference: Tensor
    hooks: frozenset[str]
    """Where sources may be wanted."""
    known: dict[tuple[str, object], Tensor] = field(default_factory=dict)
    runs: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def at(self, hook: str, source: object) -> Tensor:
        """The rows of a source that does not depend on the cell."""
        key = (hook, source)
        if key not in self.known:
            self.known[key] = self._make(hook, source)
        return self.known[key]

    def _make(self, hook: str, source: object) -> Tensor:
        if isinstance(source, OtherInput):
            assert self.other is not None
            return as_rows(hook, self._run(hook, self.other, "other"))
        if isinstance(source, Zero):
            return torch.zeros((), dtype=self.base.logits.dtype, device=self.base.device)
        rows = as_rows(hook, self._run(hook, self.reference, "reference"))
        if isinstance(source, Resample):
            generator = torch.Generator().manual_seed(source.seed)
            drawn = torch.randint(len(self.reference), (self.base.batch,), generator=generator)
            return rows[:, drawn.to(rows.device)]
        mean = rows.mean(1, keepdim=True)
        if isinstance(source, MeanPositional):
            return mean
        assert isinstance(source, Mean)
        if hook.endswith(("hook_attn_scores", "hook_pattern")):
            raise HookError(f"{hook}: keys differ by position; use the positional mean there")
        return mean.mean(0, keepdim=True)

    def _run(self, hook: str, tokens: Tensor, which: str) -> Tensor:
        if which not in self.runs:
            run = forward(self.params, tokens, self.config, taps=self.hooks)
            self.runs[which] = run.activations
        return self.runs[which][hook]


class Round(NamedTuple):
    """At one hook, at most one intervention per cell: those of the same source."""

    source: object
    slots: Int[Tensor, " touched"]
    mask: Bool[Tensor, "touched feature"] | None
    """Which heads or neurons; None for all."""
    site: Site | None
    """Of the one intervention here, where its source or subspace is its own."""


Plan = dict[str, list[Round]]
"""Interventions by hook, in rounds: the i-th of every cell at a hook, by its source."""


def make_plan(cells: Sequence[Cell], base: Unpatched) -> Plan:
    """What the cells of a chunk put at each hook."""
    groups: dict[tuple[str, int, object], list[tuple[int, Intervention]]] = {}
    for index, cell in enumerate(cells):
        seen: dict[str, int] = {}
        for made in cell:
            hook = made.site.hook
            turn = seen.get(hook, 0)
            seen[hook] = turn + 1
            alone = isinstance(made.source, Value | Function) or made.site.subspace is not None
            kind: object = (index, turn) if alone else made.source
            groups.setdefault((hook, turn, kind), []).append((index, made))
    plan: Plan = {}
    for (hook, _, kind), members in sorted(groups.items(), key=lambda item: item[0][1]):
        plan.setdefault(hook, []).append(_round(hook, members, base, isinstance(kind, tuple)))
    return plan


def _round(
    hook: str, members: list[tuple[int, Intervention]], base: Unpatched, alone: bool
) -> Round:
    n_pos = base.n_pos
    slots: list[int] = []
    owner: list[int] = []
    for i, (cell, made) in enumerate(members):
        for at in range(n_pos) if made.site.positions is None else made.site.positions:
            slots.append(cell * n_pos + at % n_pos)
            owner.append(i)
    chosen = [_features(made.site) for _, made in members]
    mask = None
    if any(indices is not None for indices in chosen):
        length = base.config.n_heads if has_heads(hook) else base.config.d_mlp
        mask = torch.zeros(len(members), length, dtype=torch.bool)
        for i, indices in enumerate(chosen):
            mask[i, slice(None) if indices is None else list(indices)] = True
        mask = mask[owner].to(base.device)
    where = torch.tensor(slots, device=base.device)
    return Round(members[0][1].source, where, mask, members[0][1].site if alone else None)


def patched(hook: str, round: Round, old: Tensor, sources: Sources) -> Tensor:
    """What takes the place of `old` `[touched, batch, ...]`."""
    new = _new(hook, round, old, sources)
    if round.site is not None and round.site.subspace is not None:
        basis = round.site.subspace.to(old)
        new = old + ((new - old) @ basis.T) @ basis
    if round.mask is None:
        return new
    mask = round.mask[:, None, :]
    return torch.where(mask[..., None] if has_heads(hook) else mask, new, old)


def _new(hook: str, round: Round, old: Tensor, sources: Sources) -> Tensor:
    if isinstance(round.source, Value | Function):
        return _made(hook, round, old)
    source = sources.at(hook, round.source)
    if source.ndim and source.shape[0] > 1:
        source = source[round.slots % sources.base.n_pos]
    return source.to(old).expand_as(old)


def _made(hook: str, round: Round, old: Tensor) -> Tensor:
    """What a value or function of one site makes of it, seen as `[batch, pos, ...]`."""
    assert round.site is not None
    chosen = _features(round.site)
    held = (old if chosen is None else old[:, :, list(chosen)]).transpose(0, 1)
    if isinstance(round.source, Value):
        made = round.source.value.to(held)
    else:
        assert isinstance(round.source, Function)
        made = round.source.function(held)
    try:
        made = made.expand_as(held).transpose(0, 1)
    except RuntimeError:
        raise HookError(
            f"what is put at {hook} has shape {list(made.shape)}; the site holds "
            f"{list(held.shape)} [batch, pos, ...]"
        ) from None
    if chosen is None:
        return made
    return old.index_copy(2, torch.tensor(chosen, device=old.device), made.to(old))


def _features(site: Site) -> tuple[int, ...] | None:
    return site.heads if site.heads is not None else site.neurons

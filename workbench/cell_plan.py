"""What cells put where: checks, the unpatched run, the sources, and the plan of a chunk by hook.

Activations are held as rows, `[pos, batch, ...]`; `slot = cell * n_pos + pos` numbers the rows of
a chunk.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import layers
from workbench.errors import HookError, PairError
from workbench.intervene import (
    Affine,
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
    last_axis,
)
from workbench.memory import needs_memory
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.registry import unknown
from workbench.transformer import forward, hook_names

NEURON_HOOKS = ("pre", "post")

ORTHONORMAL = 1e-4
"""How far the products of a subspace's directions may be from 0 and 1."""


def check_cells(
    cells: Sequence[Cell], config: ModelConfig, *, n_pos: int, has_other: bool = True
) -> None:
    """Raise `HookError` or `PairError` for the first site or source that cannot be."""
    if not cells:
        raise HookError("no cells to run; give at least one tuple of interventions")
    known = set(hook_names(config))
    for cell in cells:
        for made in cell:
            _check_site(made.site, config, known, n_pos)
            if isinstance(made.source, OtherInput) and not has_other:
                raise PairError(
                    f"the activation at {made.site.hook} is to come from another input, but none "
                    "was given; pass other="
                )
            if isinstance(made.source, Value):
                _check_value(made.site.hook, made.source.value)
            if isinstance(made.source, Affine):
                _check_affine(made, config)


def as_rows(hook: str, activation: Tensor) -> Tensor:
    """`[batch, pos, ...]` as `[pos, batch, ...]`; scores and patterns by their query."""
    if hook.endswith(("hook_attn_scores", "hook_pattern")):
        return rearrange(activation, "batch head query key -> query batch head key")
    return activation.transpose(0, 1)


class Merged(NamedTuple):
    """A projection of all heads of a layer as one matrix."""

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"] | None

    def of(self, x: Tensor) -> Tensor:
        """`[row, batch, d_in]` projected."""
        return layers.linear(x, self.weight, self.bias)


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
        self._weights: dict[tuple[int, str], Merged] = {}

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

    def weights(self, layer: int, letter: str) -> Merged:
        """The projection of all heads of a layer to Q, K, V or O, as one product."""
        if (layer, letter) not in self._weights:
            name = f"blocks.{layer}.attn"
            weight, bias = self.params[f"{name}.W_{letter}"], self.params.get(f"{name}.b_{letter}")
            if letter == "O":
                merged = rearrange(weight, "head e d -> (head e) d")
            else:
                merged = rearrange(weight, "head d e -> d (head e)").contiguous()
                bias = None if bias is None else bias.flatten()
            self._weights[layer, letter] = Merged(merged, bias)
        return self._weights[layer, letter]


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

    def run_for(self, sources: Iterable[object]) -> None:
        """Run what these sources are taken from. Raises `ResourceError` where that does not fit."""
        for kind in {type(source) for source in sources}:
            if issubclass(kind, OtherInput):
                assert self.other is not None
                self._run("other", self.other)
            elif issubclass(kind, Mean | MeanPositional | Resample):
                self._run("reference", self.reference)

    def _make(self, hook: str, source: object) -> Tensor:
        if isinstance(source, OtherInput):
            assert self.other is not None
            return as_rows(hook, self._run("other", self.other)[hook])
        if isinstance(source, Zero):
            return torch.zeros((), dtype=self.base.logits.dtype, device=self.base.device)
        rows = as_rows(hook, self._run("reference", self.reference)[hook])
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

    def _run(self, which: str, tokens: Tensor) -> dict[str, Tensor]:
        if which not in self.runs:
            with needs_memory(f"the run of {len(tokens)} {which} inputs"):
                run = forward(self.params, tokens, self.config, taps=self.hooks)
            self.runs[which] = run.activations
        return self.runs[which]


def _check_site(site: Site, config: ModelConfig, known: set[str], n_pos: int) -> None:
    if site.hook not in known:
        raise HookError(unknown("hook", site.hook, known))
    leaf = site.hook.rsplit("hook_", 1)[-1]
    limits = (
        ("position", site.positions, n_pos, True),
        ("head", site.heads, config.n_heads, has_heads(site.hook)),
        ("neuron", site.neurons, config.d_mlp, ".mlp." in site.hook and leaf in NEURON_HOOKS),
    )
    for what, chosen, length, applies in limits:
        if chosen is None:
            continue
        if not applies:
            raise HookError(f"{site.hook} has no {what} axis; leave {what}s out")
        lowest = -length if what == "position" else 0
        wrong = [index for index in chosen if not lowest <= index < length]
        if wrong or not chosen:
            raise HookError(
                f"{what} {wrong[0] if wrong else '()'} at {site.hook}: there are {length}, "
                f"counted from 0"
            )
    if site.subspace is not None:
        _check_subspace(site, config)


def _check_value(hook: str, value: Tensor) -> None:
    """Refuse what would turn every logit to NaN; scores of -inf hide a key, and are let through."""
    if not isinstance(value, Tensor):
        raise HookError(f"the value for {hook} is {value!r}; make it a tensor, torch.tensor(...)")
    finite = value.isfinite()
    if hook.endswith("hook_attn_scores"):
        finite |= value == -torch.inf
    if not bool(finite.all()):
        raise HookError(
            f"the value for {hook} holds NaN or infinity in {int((~finite).sum())} of "
            f"{value.numel()} places; put numbers there"
        )


def _check_affine(made: Intervention, config: ModelConfig) -> None:
    assert isinstance(made.source, Affine)
    hook, matrix, offset = made.site.hook, made.source.matrix, made.source.offset
    width = last_axis(config, hook)
    if width is None or made.site.neurons is not None:
        raise HookError(f"{hook}: an affine map needs a whole feature axis; leave one out")
    wanted = (width,) if matrix is None else (width, width)
    given = offset if matrix is None else matrix
    if tuple(given.shape) != wanted or tuple(offset.shape) != (width,):
        raise HookError(
            f"the affine map at {hook} has matrix {None if matrix is None else list(matrix.shape)} "
            f"and offset {list(offset.shape)}; the site holds {width} features"
        )
    for part in (matrix, offset):
        if part is not None:
            _check_value(hook, part)


def _check_subspace(site: Site, config: ModelConfig) -> None:
    assert site.subspace is not None
    length = last_axis(config, site.hook)
    basis = site.subspace.double()
    if length is None or site.neurons is not None:
        raise HookError(f"{site.hook}: a subspace needs a whole feature axis; leave one out")
    if basis.ndim != 2 or basis.shape[1] != length:
        raise HookError(
            f"the subspace at {site.hook} has shape {list(basis.shape)}; it needs rows of {length}"
        )
    gram = basis @ basis.T
    off = float((gram - torch.eye(len(basis), dtype=gram.dtype, device=gram.device)).abs().max())
    if not off <= ORTHONORMAL:
        raise HookError(
            f"the directions of the subspace at {site.hook} are not orthonormal (off by {off:.2g});"
            " take the Q of torch.linalg.qr of their transpose"
        )


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
            alone = (
                isinstance(made.source, Value | Affine | Function) or made.site.subspace is not None
            )
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
        every = range(length)
        places = [
            (i, at) for i, given in enumerate(chosen) for at in (every if given is None else given)
        ]
        mask = torch.zeros(len(members), length, dtype=torch.bool)
        mask[tuple(torch.tensor(places).T)] = True
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
    if isinstance(round.source, Value | Affine | Function):
        return _made(hook, round, old)
    source = sources.at(hook, round.source)
    if source.ndim and source.shape[0] > 1:
        source = source[round.slots % sources.base.n_pos]
    return source.to(old).expand_as(old)


def _made(hook: str, round: Round, old: Tensor) -> Tensor:
    """What a value, map or function of one site makes of it, seen as `[batch, pos, ...]`."""
    assert round.site is not None
    chosen = _features(round.site)
    held = (old if chosen is None else old[:, :, list(chosen)]).transpose(0, 1)
    if isinstance(round.source, Value):
        made = round.source.value.to(held)
    elif isinstance(round.source, Affine):
        matrix = round.source.matrix
        moved = held if matrix is None else held @ matrix.to(held)
        made = moved + round.source.offset.to(held)
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

"""Interventions: what is changed in a network, where, and what is put there instead. As data.

An *intervention* is a site (a hook name and, there, some positions, heads, neurons or a subspace)
and a source (another input's activation, zero, a mean, a resampled activation, a value). A *cell*
is a tuple of interventions made together, in their order. `intervene` runs many cells at once:

    cells = [(Intervention(site=Site(hook="blocks.0.attn.hook_z", heads=(h,)), source=Zero()),)
             for h in range(4)]
    logits = intervene(params, tokens, config, cells)       # [cell, batch, pos, d_vocab_out]

How it is computed is in `workbench.patched_forward`: the unpatched run once, then of every cell
only the rows that differ from it. What a cell answers never depends on the cells beside it.

Every intervention but one with a `Function` travels as JSON (`to_dict`, `intervention_from_dict`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import ConfigError, HookError, PairError
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.registry import unknown

CPU_BUDGET = 32 * 2**20
"""Bytes of activations that the cells of one chunk may take; small enough for the caches."""
CUDA_BUDGET = 4 * 2**30

HEAD_HOOKS = (
    *("q", "k", "v", "z", "attn_scores", "pattern", "result"),
    *("q_input", "k_input", "v_input"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """A place in a network. What is None is not narrowed down."""

    hook: str
    """A TransformerLens hook name."""
    positions: tuple[int, ...] | None = None
    """Token positions; negative ones count from the end. Queries, for scores and patterns."""
    heads: tuple[int, ...] | None = None
    """For hooks with a head axis."""
    neurons: tuple[int, ...] | None = None
    """For `mlp.hook_pre` and `mlp.hook_post`."""
    subspace: Float[Tensor, "direction feature"] | None = None
    """Orthonormal rows in the activation's last axis: only the component in their span changes."""

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON; what is not narrowed down is left out."""
        given = {
            "hook": self.hook,
            "positions": _list(self.positions),
            "heads": _list(self.heads),
            "neurons": _list(self.neurons),
            "subspace": None if self.subspace is None else self.subspace.tolist(),
        }
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class OtherInput:
    """The same activation on another input, given beside the tokens (its row of `other`)."""


@dataclass(frozen=True, slots=True)
class Zero:
    """Zero. Biases added later, such as b_O, stay."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over reference inputs and positions."""


@dataclass(frozen=True, slots=True)
class MeanPositional:
    """The mean over reference inputs, at each position."""


@dataclass(frozen=True, slots=True)
class Resample:
    """The activation on a reference input drawn at random for each input."""

    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A given value, broadcast to what the site holds: `[pos, ...]` after heads or neurons."""

    value: Float[Tensor, "..."]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What is there, mapped along its last axis: `x @ matrix + offset`. Erasing, turning, steering.

    `matrix` None is the identity.
    """

    matrix: Float[Tensor, "feature feature_out"] | None
    offset: Float[Tensor, " feature_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """What a function makes of what the site holds, `[batch, pos, ...]`. Not for JSON."""

    function: Callable[[Tensor], Tensor]


Source = OtherInput | Zero | Mean | MeanPositional | Resample | Value | Affine | Function
"""What is put at a site."""

SOURCES: Mapping[str, type[Any]] = {
    "input": OtherInput,
    "zero": Zero,
    "mean": Mean,
    "mean_positional": MeanPositional,
    "resample": Resample,
    "value": Value,
    "affine": Affine,
}
"""The sources that JSON knows, by name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervention:
    """Put `source` at `site`."""

    site: Site
    source: Source

    def to_dict(self) -> dict[str, Any]:
        """The intervention as JSON. Raises `ConfigError` where it holds a function."""
        for name, kind in SOURCES.items():
            if isinstance(self.source, kind):
                source: dict[str, Any] = {"kind": name}
                if isinstance(self.source, Resample):
                    source["seed"] = self.source.seed
                if isinstance(self.source, Value):
                    source["value"] = self.source.value.tolist()
                if isinstance(self.source, Affine):
                    matrix = self.source.matrix
                    source["matrix"] = None if matrix is None else matrix.tolist()
                    source["offset"] = self.source.offset.tolist()
                return {"site": self.site.to_dict(), "source": source}
        raise ConfigError(
            f"the function at {self.site.hook} cannot be written as JSON; use another source"
        )


Cell = tuple[Intervention, ...]
"""Interventions made together, in their order."""


def intervention_from_dict(data: Mapping[str, Any]) -> Intervention:
    """The inverse of `Intervention.to_dict`. Raises `ConfigError`."""
    site, source = (_object(data, key) for key in ("site", "source"))
    _refuse_unknown("intervention", data, ("site", "source"))
    _refuse_unknown("site", site, ("hook", "positions", "heads", "neurons", "subspace"))
    if not isinstance(site.get("hook"), str):
        raise ConfigError(f"site hook = {site.get('hook')!r}: it must be a hook name")
    kind = str(source.get("kind"))
    if kind not in SOURCES:
        raise ConfigError(unknown("source", kind, SOURCES))
    extra = {"resample": ["seed"], "value": ["value"], "affine": ["matrix", "offset"]}
    _refuse_unknown(f"source {kind}", source, ["kind", *extra.get(kind, [])])
    subspace = site.get("subspace")
    return Intervention(
        site=Site(
            hook=site["hook"],
            positions=_whole_numbers(site, "positions"),
            heads=_whole_numbers(site, "heads"),
            neurons=_whole_numbers(site, "neurons"),
            subspace=None if subspace is None else _numbers("site subspace", subspace),
        ),
        source=_source_from_dict(kind, source),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some of the cells of a call, run together."""

    cells: list[int]
    """Which cells, by their index in the call."""
    logits: Float[Tensor, "cell batch wanted d_vocab_out"]


def intervene(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    cells: Sequence[Cell],
    *,
    other: Int[Tensor, "other_batch other_pos"] | None = None,
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    positions: Sequence[int] | None = None,
    gradients: bool = False,
    budget: int | None = None,
) -> Float[Tensor, "cell batch wanted d_vocab_out"]:
    """Logits of every cell on every input, at `positions` (all when None).

    Args:
        tokens: the inputs that are run and patched.
        other: what `OtherInput` takes its activations from, row by row.
        reference: what means and resampled activations are taken from; `tokens` when None.
        gradients: let gradients flow to parameters, values and functions.
        budget: bytes of activations that the cells of a chunk may take; None for the default of
            the device.

    Raises `HookError` for a site or position that this network does not have, or a value that is
    not finite; `PairError` for inputs that do not fit together, or none; `ConfigError` for a budget
    below 1; `ResourceError` where not even one cell, or an unpatched run, fits in memory.
    """
    chunks = intervene_in_chunks(
        params,
        tokens,
        config,
        cells,
        other=other,
        reference=reference,
        positions=positions,
        gradients=gradients,
        budget=budget,
    )
    parts = list(chunks)
    order = torch.tensor([cell for part in parts for cell in part.cells], dtype=torch.long)
    if len(parts) == 1 and parts[0].cells == list(range(len(cells))):
        return parts[0].logits
    return torch.cat([part.logits for part in parts])[order.argsort().to(tokens.device)]


def intervene_in_chunks(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    cells: Sequence[Cell],
    *,
    other: Int[Tensor, "other_batch other_pos"] | None = None,
    reference: Int[Tensor, "reference reference_pos"] | None = None,
    positions: Sequence[int] | None = None,
    gradients: bool = False,
    budget: int | None = None,
) -> Iterator[Chunk]:
    """As `intervene`, a chunk at a time: for long sweeps and progress bars."""
    from workbench.cell_plan import check_cells
    from workbench.patched_forward import run_chunks

    wanted = wanted_positions(positions, tokens.shape[-1])
    if budget is not None and budget < 1:
        raise ConfigError(f"budget = {budget}: give at least 1 byte, or None for the default")
    check_cells(cells, config, n_pos=tokens.shape[-1], has_other=other is not None)
    for name, given in (("inputs", tokens), ("reference inputs", reference)):
        if given is not None and not len(given):
            raise PairError(f"no {name}, got {list(given.shape)}; give at least one")
    for name, given in (("other", other), ("reference", reference)):
        rows = given is not None and (name == "reference" or given.shape[0] == tokens.shape[0])
        if given is not None and not (rows and given.shape[1:] == tokens.shape[1:]):
            raise PairError(
                f"inputs {list(tokens.shape)} and {name} {list(given.shape)} must have one length "
                "and go together row by row; make pairs with task.corrupt()"
            )
    return run_chunks(
        params,
        tokens,
        config,
        cells,
        other=other,
        reference=tokens if reference is None else reference,
        wanted=wanted,
        gradients=gradients,
        budget=budget,
    )


def wanted_positions(positions: Sequence[int] | None, n_pos: int) -> list[int]:
    """Positions counted from 0, all when None. Raises `HookError` for one that inputs lack."""
    chosen = range(n_pos) if positions is None else positions
    wrong = [at for at in chosen if not -n_pos <= at < n_pos]
    if wrong or not len(chosen):
        raise HookError(
            f"logits asked for at position {wrong[0] if wrong else '()'}; the inputs have "
            f"positions 0 to {n_pos - 1}"
        )
    return [range(n_pos)[at] for at in chosen]


def has_heads(hook: str) -> bool:
    """Whether activations at this hook have a head axis."""
    return hook.rsplit("hook_", 1)[-1] in HEAD_HOOKS


def last_axis(config: ModelConfig, hook: str) -> int | None:
    """Length of the last axis of an activation; None where it counts keys."""
    leaf = hook.rsplit("hook_", 1)[-1]
    if leaf in ("attn_scores", "pattern"):
        return None
    if leaf in ("q", "k", "v", "z"):
        return config.d_head
    return config.d_mlp if ".mlp." in hook else config.d_model


def _source_from_dict(kind: str, source: Mapping[str, Any]) -> Source:
    if kind == "resample":
        seed = source.get("seed", 0)
        if type(seed) is not int:
            raise ConfigError(f"source resample seed = {seed!r}: it must be a whole number")
        return Resample(seed)
    if kind == "value":
        return Value(_numbers("source value", source.get("value")))
    if kind == "affine":
        matrix = source.get("matrix")
        offset = _numbers("source affine offset", source.get("offset"))
        if matrix is not None:
            matrix = _numbers("source affine matrix", matrix)
        if offset.ndim != 1 or (matrix is not None and matrix.ndim != 2):
            raise ConfigError("source affine: matrix is rows of numbers (or null), offset a list")
        return Affine(matrix, offset)
    made: Source = SOURCES[kind]()
    return made


def _object(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(value, Mapping):
        raise ConfigError(f"intervention {key} = {value!r}: it must be an object {{...}}")
    return value


def _refuse_unknown(where: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            raise ConfigError(unknown(f"{where} key", key, known))


def _whole_numbers(site: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    value = site.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ConfigError(f"site {key} = {value!r}: it must be a list of whole numbers")
    return tuple(value)


def _numbers(where: str, value: Any) -> Tensor:
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{where} = {value!r}: it must be numbers in lists") from None


def _list(value: tuple[int, ...] | None) -> list[int] | None:
    return None if value is None else list(value)

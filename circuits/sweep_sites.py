"""Where a sweep patches: the sites by name, the axes they are split over, and their cells.

Every site has axes of its own (its layer, for heads also the head, for neurons the neuron) and may
be split further by position. A cell patches one combination of indices and, along the axes it is
not split over, everything.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from circuits.problem import Problem
from workbench.errors import CircuitError
from workbench.intervene import (
    Cell,
    Intervention,
    Mean,
    MeanPositional,
    OtherInput,
    Site,
    Source,
    Zero,
)
from workbench.registry import unknown
from workbench.transformer import hook_names

AXES = ("layer", "head", "neuron", "position")
"""Every axis, in the order in which a sweep lays them out."""

SOURCES: Mapping[str, Source] = {
    "resample": OtherInput(),
    "zero": Zero(),
    "mean": Mean(),
    "mean_positional": MeanPositional(),
}
"""What an ablation puts at a site."""


class SweepSite(NamedTuple):
    """A hook of every layer, and how a sweep over it is split."""

    hook: str
    """After `blocks.{layer}.`."""
    own: tuple[str, ...]
    """Axes it is always split over."""
    usual: tuple[str, ...]
    """Axes it is split over as well where nobody says otherwise."""


STREAM = (("layer",), ("position",))
HEAD = (("layer", "head"), ())
NEURON = (("layer", "neuron"), ())

SITES: Mapping[str, SweepSite] = {
    "resid_pre": SweepSite("hook_resid_pre", *STREAM),
    "resid_mid": SweepSite("hook_resid_mid", *STREAM),
    "resid_post": SweepSite("hook_resid_post", *STREAM),
    "attn_out": SweepSite("hook_attn_out", *STREAM),
    "mlp_in": SweepSite("hook_mlp_in", *STREAM),
    "mlp_out": SweepSite("hook_mlp_out", *STREAM),
    "head": SweepSite("attn.hook_z", *HEAD),
    "head_q": SweepSite("attn.hook_q", *HEAD),
    "head_k": SweepSite("attn.hook_k", *HEAD),
    "head_v": SweepSite("attn.hook_v", *HEAD),
    "head_pattern": SweepSite("attn.hook_pattern", *HEAD),
    "neuron": SweepSite("mlp.hook_post", *NEURON),
}
"""Every site, by name. `mlp_in` is what the MLP alone reads of `resid_mid`; a position of
`head_pattern` is that of the query."""


class Grid(NamedTuple):
    """The cells of a sweep, the last axis fastest."""

    axes: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    """The indices along each axis."""
    cells: list[Cell]


def sweep_grid(problem: Problem, site: str, by: Sequence[str] | None) -> Grid:
    """The cells of a sweep over `site`. Raises `CircuitError` for what there is not."""
    config = problem.config
    place = _find_site(problem, site)
    allowed = (*place.own, "position")
    for axis in by or ():
        if axis not in allowed:
            raise CircuitError(unknown(f"axis of site {site}", axis, allowed))
    chosen = {*place.own, *(place.usual if by is None else by)}
    axes = tuple(axis for axis in AXES if axis in chosen)
    lengths = {
        "layer": config.n_layers,
        "head": config.n_heads,
        "neuron": config.d_mlp,
        "position": problem.base.shape[1],
    }
    labels = tuple(tuple(range(lengths[axis])) for axis in axes)
    cells: list[Cell] = []
    for indices in itertools.product(*labels):
        at = dict(zip(axes, indices, strict=True))
        where = Site(
            hook=f"blocks.{at['layer']}.{place.hook}",
            positions=_one(at, "position"),
            heads=_one(at, "head"),
            neurons=_one(at, "neuron"),
        )
        cells.append((Intervention(site=where, source=SOURCES[problem.ablation]),))
    return Grid(axes, labels, cells)


def _find_site(problem: Problem, site: str) -> SweepSite:
    hooks = hook_names(problem.config)
    known = [name for name, place in SITES.items() if f"blocks.0.{place.hook}" in hooks]
    if site in SITES and site not in known:
        names = ", ".join(sorted(known))
        raise CircuitError(f"site {site} needs an MLP, and this network has none; known: {names}")
    if site not in SITES:
        raise CircuitError(unknown("site", site, known))
    return SITES[site]


def _one(at: Mapping[str, int], axis: str) -> tuple[int, ...] | None:
    return (at[axis],) if axis in at else None

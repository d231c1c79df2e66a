"""How much a question about one network is, before it is asked: counted, not tried."""

from typing import NamedTuple

from probes.causal import SCREENING
from probes.method import methods
from probes.sites import make_sites, residual_hooks, width_of
from probes.spec import ProbeSpec
from workbench.model_config import ModelConfig

LABEL_CONTROLS = ("control_task", "shuffled")
"""Controls with other labels: one set of each per seed."""
SPACE_CONTROLS = ("random_subspace", "norm_matched")
"""Controls with other activations, fitted in every split."""


class Amount(NamedTuple):
    """How much is computed."""

    sites: int
    """Hooks x heads x positions."""
    probes: int
    """Fitted: per site, variable, kind, strength and split, controls included."""
    forward_passes: int
    """Times that the network is asked with something erased, at least."""


def amount_of(spec: ProbeSpec, model: ModelConfig, *, n_pos: int) -> Amount:
    """Count what `probe_network` does with inputs of `n_pos` tokens.

    Raises `HookError` for a hook or a position that there is not, `UnknownName` for a kind of
    probe.
    """
    sites, probes = 0, 0
    for hook in dict.fromkeys(residual_hooks(model) if spec.hooks is None else spec.hooks):
        here = len(make_sites(model, hooks=[hook], positions=spec.positions, n_pos=n_pos))
        kinds = [methods.get(name) for name in spec.probes]
        tried = sum(len(spec.grid(kind.name, width_of(model, hook))) for kind in kinds)
        sites += here
        probes += here * tried * len(spec.variables) * _fits_of_a_strength(spec)
    screened = 1 + min(SCREENING, spec.n_random_erasures)
    return Amount(sites, probes, sites * len(spec.variables) * screened * spec.erase)


def _fits_of_a_strength(spec: ProbeSpec) -> int:
    """Of one variable at one site: itself and its controls, in every split."""
    seeds, kinds = len(spec.seeds), len(spec.splits)
    labels = 1 + seeds * sum(control in spec.controls for control in LABEL_CONTROLS)
    spaces = sum(control in spec.controls for control in SPACE_CONTROLS)
    twins = spec.n_untrained * ("untrained" in spec.controls)
    return kinds * (seeds * (labels + spaces) + twins)

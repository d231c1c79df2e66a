"""Asking small questions of small networks, for the tests of probing."""

from typing import Any

from probes.probing import ProbeReport, probe_network
from probes.spec import ProbeSpec
from tests.unit.probed_networks import random_subject
from workbench.progress import finish
from workbench.subject import Subject
from workbench.task import make_task

RESID = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post")
ADDITION = make_task("modular_addition", {"p": 7})
SMALL = random_subject(ADDITION, seed=1, scale=3.0)


def spec_of(*variables: str, **changes: Any) -> ProbeSpec:
    """Small, exact and reproducible."""
    settings: dict[str, Any] = {"n_permutations": 39, "n_random_erasures": 3, "dtype": "float64"}
    return ProbeSpec(variables=variables, **{**settings, **changes})


def probe(subject: Subject, spec: ProbeSpec, **options: Any) -> ProbeReport:
    return finish(probe_network(subject, spec, **options))

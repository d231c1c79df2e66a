"""Probing a run in one call, for notebooks.

for line in probe_run(run, ProbeSpec(variables=("carry_2",))):
    print(line.place, line.position, line.accuracy, line.control_accuracy, line.used)
"""

import torch

from probes.analyses.probe import probe_subject
from probes.spec import ProbeSpec
from probes.summary import Line
from workbench.progress import finish
from workbench.run import Run
from workbench.subject import subject_of


def probe_run(
    run: Run, spec: ProbeSpec, *, step: int | None = None, device: torch.device | str = "cpu"
) -> list[Line]:
    """Every variable of the question at every site of a run's network, beside its controls.

    Raises what `probe_network` raises, and `RunError` for an incomplete run without `step`.
    """
    subject = subject_of(run, step=step, device=device)
    return finish(probe_subject(run, subject, spec)).lines

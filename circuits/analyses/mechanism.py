"""Explaining: the mechanism known for the task, its parts named, tested and judged."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from circuits.explanation import case_of
from circuits.mechanism import Explanation, mechanism_for
from workbench.accuracy import measure_accuracy
from workbench.analysis import Analysis, Outcome, analyses
from workbench.progress import Progress
from workbench.record import Tolerance
from workbench.run import Run
from workbench.subject import subject_of


@analyses.register("mechanism")
@dataclass(frozen=True, kw_only=True)
class MechanismAnalysis(Analysis):
    """Which known mechanism does the task, as `workbench explain` asks it."""

    kind = "mechanism"
    summary = "the mechanism known for the task, its parts named, tested and judged"
    tolerances: ClassVar = {
        "*": Tolerance(absolute=1e-3, relative=1e-3),  # one and two threads agree to 1e-11
        "findings.*.controls.*": Tolerance(absolute=0.01),  # one is a network trained anew
    }

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the draws that the controls take."""
    n_draws: Annotated[int, Field(ge=2, le=1000)] = 20
    """How many each takes."""

    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """Where no mechanism is known, how often the network is right, and where to look on."""
        mechanism = mechanism_for(run.task)
        if mechanism is None:
            return Outcome(result=_unexplained(run, step, device), findings=())
        case = case_of(run, step=step, device=device)
        found = yield from mechanism.explain(case, seed=self.seed, n_draws=self.n_draws)
        return Outcome(result=_told(found), findings=found.findings, arrays=found.figures)


def _told(found: Explanation) -> dict[str, Any]:
    return {
        "n_inputs": found.n_inputs,
        "exhaustive": found.exhaustive,
        "accuracy": found.accuracy,
        "accuracy_interval": found.accuracy_interval,
        "held_out_accuracy": found.held_out_accuracy,
        "min_margin": found.min_margin,
        "mechanism": found.mechanism,
        "verdict": found.verdict,
        "reason": found.reason,
        "key_frequencies": list(found.key_frequencies),
        "parts": found.parts,
    }


def _unexplained(run: Run, step: int | None, device: torch.device) -> dict[str, Any]:
    subject = subject_of(run, step=step, device=device)
    accuracy = measure_accuracy(subject.params, subject.config, subject.task)
    return {
        "n_inputs": accuracy.n,
        "exhaustive": accuracy.exhaustive,
        "accuracy": accuracy.value,
        "accuracy_interval": accuracy.interval,
        "held_out_accuracy": None,
        "min_margin": None,
        "mechanism": None,
        "verdict": "not identified",
        "reason": f"no mechanism is known for {run.task.name}; trace it with `workbench circuit` "
        "or probe it with `workbench probe`",
        "key_frequencies": [],
        "parts": {},
    }

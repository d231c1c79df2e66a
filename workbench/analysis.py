"""An analysis: a question about a run's network that can be asked again, by anyone.

Each kind is a frozen dataclass whose fields are its parameters (JSON by `workbench.config`), in one
file of `circuits/analyses/` or `probes/analyses/`, registered by name. `record_steps` asks one and
makes a record of what came out; `workbench.session` replays records. A finding that did not come
from an analysis cannot be saved in a session.
"""

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from workbench import config
from workbench.errors import RunError
from workbench.finding import Finding, finding_to_dict
from workbench.progress import Progress
from workbench.record import (
    Arrays,
    Checkpoint,
    MadeWith,
    Record,
    TensorShape,
    Tolerance,
    record_id,
)
from workbench.registry import Registry
from workbench.run import Run
from workbench.storage import sha256, to_json
from workbench.strict import validated
from workbench.tensor_files import tensors_to_bytes
from workbench.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an analysis found."""

    result: dict[str, Any]
    """JSON, finite numbers only. No paths, no times: what a replay is compared with."""
    findings: tuple[Finding, ...]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    """Further numbers, by name: grids, scores, weights of probes."""


class Analysis(ABC):
    """A question about a run. Subclasses are frozen dataclasses of JSON parameters."""

    kind: ClassVar[str]
    """The name it is registered under."""
    summary: ClassVar[str]
    """One line."""
    tolerances: ClassVar[Mapping[str, Tolerance]]
    """How near a replay on another machine must come; see `workbench.record.Tolerances`. A file may
    record tighter ones, not looser ones."""

    added: ClassVar[tuple[str, ...]] = ()
    """Patterns of paths in a record, such as `result.rows.*.control_low`, that records made before
    there was such a number lack; a replay is not held to them."""

    @abstractmethod
    def ask(
        self, run: Run, *, step: int | None, device: torch.device
    ) -> Generator[Progress, None, Outcome]:
        """Ask it of a run's network at a checkpoint (the last when None). Nothing is written."""

    def steps(self, run: Run, step: int | None) -> list[int]:
        """The checkpoints that are looked at, ascending.

        Raises `RunError` for one there is not, or for an incomplete run where none is named.
        """
        if step is None and run.steps and not run.complete:
            raise RunError(
                f"{run.path} is incomplete; run the same `workbench train` again to resume it, or "
                f"name a checkpoint with --step (there are: {', '.join(map(str, run.steps))})"
            )
        if not run.steps or (step is not None and step not in run.steps):
            run.params(step)  # raises, and says which there are
        return [run.steps[-1] if step is None else step]


analyses: Registry[type[Analysis]] = Registry("analysis", "circuits.analyses", "probes.analyses")
"""Every kind of analysis, by name."""


def analysis_from(kind: str, parameters: Mapping[str, Any]) -> Analysis:
    """An analysis from a record. Raises `UnknownName`, or `ConfigError` for its parameters."""
    return config.from_json(analyses.get(kind), dict(parameters), where=f"parameters of {kind}")


class Recorded(NamedTuple):
    """A record and the arrays that go with it."""

    record: Record
    arrays: dict[str, Tensor]


def record_steps(
    analysis: Analysis, run: Run, *, step: int | None, device: torch.device
) -> Generator[Progress, None, Recorded]:
    """Ask, and make a record of the outcome. Nothing is written; see `workbench.records`.

    Raises `ConfigError` for parameters that could not be read back, and what the analysis raises.
    """
    parameters = config.to_dict(analysis)
    analysis_from(analysis.kind, parameters)
    checkpoints = tuple(
        Checkpoint(step=one, weights_sha256=run.weights_sha256(one))
        for one in analysis.steps(run, step)
    )
    started = time.monotonic()
    outcome = yield from analysis.ask(run, step=step, device=device)
    seconds = time.monotonic() - started
    arrays = {name: _plain(tensor) for name, tensor in outcome.arrays.items()}
    record = {
        "id": record_id(analysis.kind, parameters, checkpoints),
        "kind": analysis.kind,
        "parameters": parameters,
        "checkpoints": [one.model_dump() for one in checkpoints],
        "result": outcome.result,
        "findings": [finding_to_dict(finding) for finding in outcome.findings],
        "arrays": None if not arrays else arrays_of(arrays).model_dump(),
        "tolerances": {name: one.model_dump() for name, one in analysis.tolerances.items()},
        "made_with": made_with(device).model_dump(),
        "seconds": round(seconds, 2),
    }
    data = to_json(record, where=f"the record of {analysis.kind}")
    return Recorded(validated(Record, data, where=analysis.kind, error=RunError), arrays)


def arrays_of(arrays: Mapping[str, Tensor]) -> Arrays:
    """What a record says of its arrays."""
    data = tensors_to_bytes(arrays)
    return Arrays(
        size=len(data),
        sha256=sha256(data),
        tensors={
            name: TensorShape(
                dtype=str(tensor.dtype).removeprefix("torch."),  # type: ignore[arg-type]
                shape=tuple(tensor.shape),
            )
            for name, tensor in arrays.items()
        },
    )


def made_with(device: torch.device) -> MadeWith:
    """The versions and the device of this process."""
    cuda = device.type == "cuda"
    return MadeWith(
        workbench=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        device=torch.cuda.get_device_name(device) if cuda else device.type,
        threads=torch.get_num_threads(),
    )


def _plain(tensor: Tensor) -> Tensor:
    """As files hold it: contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous()

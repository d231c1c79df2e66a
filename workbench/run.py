"""A run directory: one network, how it came to be, and its checkpoints. This is the reading side.

    config.json                          task, model, recipe, seed, versions
    metrics.jsonl                        one JSON object a line, only ever appended to
    checkpoints/step-000200.safetensors  weights after 200 steps, float32
    resume/step-000200.safetensors       the trainer's state there, until the run is complete
    manifest.json                        size and SHA-256 of each file above, and of itself

The manifest is the truth. It is replaced last, so a run killed at any moment is what the manifest
before or after says, and everything else (later lines of metrics.jsonl, unlisted checkpoints) is
ignored. `open_run` checks every byte against it. Writing is `workbench.run_writer`.
"""

import functools
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field

from workbench import config as configuration
from workbench.errors import ConfigError, RunError, WorkbenchError
from workbench.manifest import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    METRICS,
    Manifest,
    read_recorded,
    refuse_newer,
    step_path,
)
from workbench.model_config import ModelConfig
from workbench.params import Params, check_params
from workbench.storage import explained, from_json, read_file
from workbench.task import Split, Task, task_from_dict
from workbench.tensor_files import tensors_from_bytes, weights_digest
from workbench.version import __version__

C = TypeVar("C")

READ_ATTEMPTS = 100
"""How often a run that is being written is read again before giving up."""


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What a run is of, and everything needed to make it again."""

    task: dict[str, Any]
    """`Task.to_dict()`."""
    model: ModelConfig
    recipe: dict[str, Any] | None = None
    """The training recipe as JSON; None for an imported network."""
    seed: int | None = None
    train_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    random_labels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced (a control)."""
    source: dict[str, str | int | float] | None = None
    """Where an imported network is from, in its publisher's words."""
    versions: dict[str, str] = field(default_factory=_versions)
    workbench: str = __version__
    format: Literal[1] = 1

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON."""
        return {**configuration.to_dict(self), "model": configuration.to_dict(self.model)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str) -> "RunConfig":
        """The inverse of `to_dict`. Raises `ConfigError`: every key must be there, and typed."""
        missing = [key for key in configuration.keys(cls) if key not in data]
        if missing:
            raise ConfigError(f"{where} lacks {', '.join(missing)}; restore it from a copy")
        if not isinstance(data["model"], dict):
            raise ConfigError(f"{where} model = {data['model']!r}: it must be an object {{...}}")
        model = configuration.from_json(ModelConfig, data["model"], where=f"{where} model")
        return configuration.from_json(cls, {**data, "model": model}, where=where)


# ---------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run whose files were all checked when it was opened, and are again when read."""

    path: Path
    config: RunConfig
    task: Task
    manifest: Manifest

    @property
    def complete(self) -> bool:
        """Whether training reached its end; an incomplete run can be resumed."""
        return self.manifest.complete

    @property
    def stopped(self) -> str | None:
        """Why training stopped, in words."""
        return self.manifest.stopped

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return self.manifest.steps(CHECKPOINTS)

    def params(self, step: int | None = None) -> Params:
        """The weights at a checkpoint (the last when None). Raises `RunError`, `WeightsError`."""
        if not self.steps:
            raise RunError(f"{self.path} has no checkpoint yet; run the same training to resume it")
        step = self.steps[-1] if step is None else step
        if step not in self.steps:
            known = ", ".join(map(str, self.steps))
            raise RunError(f"{self.path} has no checkpoint at step {step}; there are: {known}")
        name = step_path(CHECKPOINTS, step)
        data = read_recorded(self.path, self.manifest, name)
        params = tensors_from_bytes(data, where=str(self.path / name))
        check_params(params, self.config.model)
        return params

    def weights_sha256(self, step: int | None = None) -> str:
        """`weights_digest` of a checkpoint (the last when None), worked out once for a content.

        Raises what `params` raises.
        """
        if not self.steps or (step is not None and step not in self.steps):
            self.params(step)  # raises, and says which there are
        step = self.steps[-1] if step is None else step
        content = self.manifest.files[step_path(CHECKPOINTS, step)].sha256
        return _digest(_Checkpoint(content=content, run=self, step=step))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows recorded during training, in order."""
        lines = read_recorded(self.path, self.manifest, METRICS).splitlines()
        return [
            from_json(line, where=f"{self.path / METRICS} line {number}")
            for number, line in enumerate(lines, start=1)
        ]

    def split(self) -> Split | None:
        """Training and held-out inputs; None where the network came without them."""
        if self.config.seed is None or self.config.train_fraction is None:
            return None
        return self.task.split(self.config.seed, self.config.train_fraction)

    def model(self, step: int | None = None, device: torch.device | str = "cpu") -> Any:
        """The network as a TransformerLens `TransformerBridge`, with the same logits."""
        from workbench.bridge import to_bridge  # TransformerLens takes seconds to import

        params = {name: tensor.to(device) for name, tensor in self.params(step).items()}
        return to_bridge(params, self.config.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkpoint:
    """A checkpoint as the key of a cache: equal where the file's bytes are."""

    content: str
    run: Run = field(compare=False)
    step: int = field(compare=False)


@functools.lru_cache(maxsize=1000)  # pages that list records ask for the same ones at every click
def _digest(checkpoint: _Checkpoint) -> str:
    return weights_digest(checkpoint.run.params(checkpoint.step))


def open_run(path: Path | str) -> Run:
    """Open a run and check every byte of it.

    Raises `RunError`: missing, not a run, from a newer version, half-written or damaged.
    """
    path = Path(path)
    checked: Checked = {}
    for _ in range(READ_ATTEMPTS):
        data = read_manifest(path)
        try:
            return _open(path, Manifest.from_bytes(data, where=str(path / MANIFEST)), checked)
        except RunError:
            if read_manifest(path) == data:
                raise
        # Training went on while we read; what we saw was consistent, but is no longer there.
        # What was checked once is not read again, so that we catch up with a fast writer.
    raise RunError(f"{path} is being written faster than it can be read; try again later")


def list_runs(directory: Path | str) -> list[Run | RunError]:
    """Every run in a directory, by name; one that cannot be opened as its error."""
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"no directory {directory}; train or import something first")
    with explained("list", directory):
        paths = sorted(directory.iterdir())
    runs: list[Run | RunError] = []
    for path in paths:
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            runs.append(open_run(path))
        except RunError as error:
            runs.append(error)
    return runs


def is_run(path: Path) -> bool:
    """Whether a directory claims to be a run (it may still be damaged)."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> bytes:
    """The bytes of a run's manifest. Raises `RunError` saying what else is there."""
    if is_run(path):
        return read_file(path, MANIFEST)
    if not path.is_dir():
        what = "a file" if path.exists() else "missing"
        raise RunError(f"no run at {path}: it is {what}; `workbench runs` lists what there is")
    if (path / "weights.safetensors").is_file():
        raise RunError(
            f"{path} is a network, not a run; make it one with `workbench import {path}`"
        )
    if (path / CONFIG).is_file():
        raise RunError(
            f"{path} is half-written: it has {CONFIG} but no {MANIFEST}; if training was stopped "
            "at its start, train again; if the file was lost, restore it from a copy"
        )
    raise RunError(f"{path} is not a run: it has no {CONFIG} and no {MANIFEST}")


Checked = dict[tuple[str, str], bytes]
"""Contents already read and checked, by name and digest."""


def _open(path: Path, manifest: Manifest, checked: Checked) -> Run:
    _refuse_newer_config(path)
    contents = {}
    for name, record in manifest.files.items():
        key = (name, record.sha256)
        if key not in checked:
            checked[key] = read_recorded(path, manifest, name)
        contents[name] = checked[key]
    where = str(path / CONFIG)
    try:
        config = RunConfig.from_dict(from_json(contents[CONFIG], where=where), where=where)
        task = task_from_dict(config.task)
    except WorkbenchError as error:
        raise RunError(f"{path}: {error}") from error
    return Run(path=path, config=config, task=task, manifest=manifest)


def _refuse_newer_config(path: Path) -> None:
    try:
        content = from_json(read_file(path, CONFIG), where=str(path / CONFIG))
    except RunError:
        return  # the manifest knows better what is wrong
    refuse_newer(content, where=path / CONFIG)

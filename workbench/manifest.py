"""The manifest of a run directory: which files count, how long they are, and their SHA-256.

It is the one file that decides what a run is. It is replaced atomically and last, so a run killed
at any moment is what the manifest before or the manifest after says; whatever it does not list
(a checkpoint, later lines of metrics.jsonl) has not happened. It holds a digest of itself.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from workbench import config as configuration
from workbench.errors import ConfigError, RunError
from workbench.storage import from_json, read_file, sha256, to_json

FORMAT = 1
"""The version of the files, raised when an older Workbench could misread them."""

CONFIG, METRICS, MANIFEST = "config.json", "metrics.jsonl", "manifest.json"
CHECKPOINTS, RESUME = "checkpoints", "resume"
_STEP = re.compile(rf"({CHECKPOINTS}|{RESUME})/step-([0-9]{{6,}})\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What the manifest promises of one file."""

    size: int
    """Bytes that count; of metrics.jsonl, anything beyond is not yet written."""
    sha256: str

    @staticmethod
    def of(data: bytes) -> "FileRecord":
        """The record of a file with these contents."""
        return FileRecord(size=len(data), sha256=sha256(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The state of a run directory at one moment."""

    files: dict[str, FileRecord]
    complete: bool = False
    stopped: str | None = None
    """Why training stopped, in words; None while it may go on."""
    format: Literal[1] = 1

    @property
    def resume_step(self) -> int | None:
        """Step of the newest resume state."""
        return max(self.steps(RESUME), default=None)

    def steps(self, folder: str) -> list[int]:
        """Steps of the files in `checkpoints` or `resume`, ascending."""
        return sorted(step_of(name) for name in self.files if name.startswith(f"{folder}/"))

    def to_bytes(self) -> bytes:
        """The one way to write this manifest, with its own digest inside."""
        content = {
            "format": self.format,
            "complete": self.complete,
            "stopped": self.stopped,
            "resume_step": self.resume_step,
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }
        digest = sha256(to_json(content, where=MANIFEST))
        return to_json({**content, "digest": digest}, where=MANIFEST, indent=1)

    @staticmethod
    def from_bytes(data: bytes, *, where: str) -> "Manifest":
        """The inverse of `to_bytes`. Raises `RunError` for any byte out of place."""
        try:
            content = from_json(data, where=where)
        except RunError as error:
            raise damaged(where, str(error)) from None
        refuse_newer(content, where=where)
        stated = {key: content[key] for key in content if key not in ("digest", "resume_step")}
        try:
            manifest = configuration.from_dict(Manifest, stated, where=where)
        except ConfigError as error:
            raise damaged(where, str(error)) from None
        for name in manifest.files.keys() - {CONFIG, METRICS}:
            if _STEP.fullmatch(name) is None:
                raise damaged(where, f"it lists {name!r}, which no run has")
        if not {CONFIG, METRICS} <= manifest.files.keys():
            raise damaged(where, f"it lists no {CONFIG} or no {METRICS}")
        if manifest.to_bytes() != data:
            raise damaged(where, "its digest does not match its content")
        return manifest


def step_path(folder: str, step: int) -> str:
    """Name of a checkpoint or a resume state in its run directory."""
    return f"{folder}/step-{step:06d}.safetensors"


def step_of(name: str) -> int:
    """The inverse of `step_path`."""
    match = _STEP.fullmatch(name)
    assert match is not None, f"{name} is not the name of a checkpoint or a resume state"
    return int(match[2])


def damaged(where: Path | str, how: str) -> RunError:
    """The error for a file that is not what it was when it was written."""
    return RunError(
        f"{where} is damaged: {how}; restore it from a copy, "
        "or delete the run and train or import it again"
    )


def read_recorded(path: Path, manifest: Manifest, name: str) -> bytes:
    """A file of a run, if it is what the manifest promises. Raises `RunError`."""
    record, data = manifest.files[name], read_file(path, name)
    if len(data) < record.size or (name != METRICS and len(data) > record.size):
        raise damaged(path / name, f"{len(data)} bytes long, {MANIFEST} says {record.size}")
    counts = data[: record.size]
    if sha256(counts) != record.sha256:
        raise damaged(path / name, f"its SHA-256 is not the one in {MANIFEST}")
    return counts


def refuse_newer(data: dict[str, Any], *, where: Path | str) -> None:
    """Raise `RunError` where a file's `format` is beyond what this Workbench reads."""
    version = data.get("format")
    if type(version) is int and version > FORMAT:
        raise RunError(
            f"{where} was written by a newer Workbench (format {version}, this one reads "
            f"{FORMAT}); upgrade with pip install --upgrade mechinterp-workbench"
        )

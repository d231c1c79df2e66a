"""Recording a run: append metrics, save checkpoints and resume states, and commit.

Nothing counts until `commit` has replaced the manifest (see `workbench.manifest`). A kill
before that leaves the previous commit; `reopen` cuts off and removes what came after it. A
checkpoint that the manifest lists is never overwritten.

One process at a time writes into a directory: `RunWriter` holds a lock that ends with the
process, so a kill never leaves it behind.

Many seeds train together, each into its own directory, and a kill may fall between their commits.
So each directory keeps its two newest resume states; the trainer picks the newest step that all
directories have (`resume_steps`), and `replay_to` forgets in each what came after it.

Training may also begin again from nothing (`begin_again`). What it then has to remember is a
resume state at step 0 under a name of its own: the one of the step 0 before is still listed until
the manifest is replaced, and must stay as it is.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

from workbench.errors import RunError
from workbench.manifest import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    METRICS,
    RESUME,
    FileRecord,
    Manifest,
    read_recorded,
    step_of,
    step_path,
)
from workbench.params import Params, check_params
from workbench.run import RunConfig, is_run, open_run, read_manifest
from workbench.storage import (
    LOCK,
    atomic_write,
    explained,
    from_json,
    lock_directory,
    sync_directory,
    to_json,
    write_at,
)
from workbench.tensor_files import as_float32, tensors_from_bytes, tensors_to_bytes

RESUME_STATES_KEPT = 2
BEGINNING = f"{RESUME}/step-0000000.safetensors"
"""What `begin_again` keeps: before step 0 has been looked at, so no step to go on from."""

_OURS = re.compile(r"step-[0-9]{6,}\.safetensors|metrics\.jsonl|config\.json|manifest\.json")
_TEMPORARY = re.compile(rf"\.({_OURS.pattern})\.[0-9]+-[0-9a-f]+\.tmp")

_MAY_CHANGE = ("workbench", "versions")
"""Keys that say who made the run, not what it is: a newer version may resume it."""


class ResumeState(NamedTuple):
    """What the trainer saved in order to go on."""

    step: int
    tensors: Params


class _Rows(NamedTuple):
    """The metrics so far. Replaced as a whole, so that Ctrl-C cannot fall between its parts."""

    digest: "hashlib._Hash"
    size: int
    last_step: int

    @staticmethod
    def of(written: bytes) -> "_Rows":
        lines = written.splitlines()
        last_step = int(from_json(lines[-1], where=METRICS)["step"]) if lines else 0
        return _Rows(hashlib.sha256(written), len(written), last_step)

    def record(self) -> FileRecord:
        return FileRecord(size=self.size, sha256=self.digest.hexdigest())


class RunWriter:
    """The right to write into one run directory; a context manager that gives it back."""

    def __init__(self, path: Path, config: RunConfig, manifest: Manifest, lock: int) -> None:
        """Take over a locked directory at a manifest; use `create`, `reopen` or `open`."""
        self.path = path
        self.config = config
        self._lock = lock
        self._files = dict(manifest.files)
        self._rows = _Rows.of(read_recorded(path, manifest, METRICS))
        with explained("write", path):
            for folder in (CHECKPOINTS, RESUME):  # a copy by git or zip may lack empty ones
                (path / folder).mkdir(exist_ok=True)
            self._metrics = os.open(path / METRICS, os.O_RDWR)

    @classmethod
    def create(cls, path: Path | str, config: RunConfig) -> "RunWriter":
        """Begin a run in a new or empty directory, or where one was stopped at its very start.

        Raises `RunError` where there is something else, or another process.
        """
        path = Path(path)
        _refuse_occupied(path)
        with explained("create", path):
            path.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(path)
        try:
            _refuse_occupied(path)
            return cls(path, config, _begin(path, config), lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def reopen(cls, path: Path | str, config: RunConfig) -> "RunWriter":
        """Go on with an incomplete run at its last commit; what came after is removed.

        Raises `RunError` where it is missing, damaged, complete, of another configuration (the
        message names the keys), or being written by another process.
        """
        path = Path(path)
        read_manifest(path)  # a directory that is no run gets its message, and no lock file
        lock = lock_directory(path)
        try:
            run = open_run(path)
            _refuse_other(path, run.config, config)
            writer = cls(path, run.config, run.manifest, lock)
        except BaseException:
            os.close(lock)
            raise
        try:
            writer._forget_uncommitted()
            if run.complete:
                raise RunError(f"{path} is complete; open it, or choose another --runs directory")
        except BaseException:
            writer.close()
            raise
        return writer

    @classmethod
    def open(cls, path: Path | str, config: RunConfig) -> "RunWriter":
        """`reopen` where there is a run, `create` where there is none."""
        return cls.reopen(path, config) if is_run(Path(path)) else cls.create(path, config)

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of JSON values; each has a whole-number `step`, and steps never fall.

        Raises `RunError` for NaN or Infinity, and when the disk is full (nothing is lost then).
        """
        for row in rows:
            assert type(row.get("step")) is int, f"a metrics row needs its step: {row}"
        steps = [self._rows.last_step, *(row["step"] for row in rows)]
        assert steps == sorted(steps), f"metrics rows out of order: {steps}"
        data = b"".join(to_json(dict(row), where=f"metrics {dict(row)}") for row in rows)
        with explained("write", self.path / METRICS):
            write_at(self._metrics, self._rows.size, data)
        digest = self._rows.digest.copy()
        digest.update(data)
        self._rows = _Rows(digest, self._rows.size + len(data), steps[-1])

    def save_checkpoint(self, step: int, params: Mapping[str, Tensor]) -> None:
        """Save the weights after `step` steps. Raises `WeightsError` for NaN or a wrong shape."""
        check_params(params, self.config.model)
        self._stage(step_path(CHECKPOINTS, step), tensors_to_bytes(as_float32(params)))

    def save_resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Save what training needs in order to go on after `step` steps."""
        self._stage(step_path(RESUME, step), tensors_to_bytes(tensors))

    def commit(self, *, complete: bool = False, stopped: str | None = None) -> None:
        """Make everything so far count, at once. A complete run keeps no resume state."""
        if complete and not Manifest(files=self._files).steps(CHECKPOINTS):
            raise RunError(f"{self.path}: a complete run needs a checkpoint; save one first")
        with explained("write", self.path / METRICS):
            os.fsync(self._metrics)
        files = {**self._files, METRICS: self._rows.record()}
        kept = [] if complete else self.resume_steps[-RESUME_STATES_KEPT:]
        self._publish(files, kept, complete=complete, stopped=stopped)
        self._remove_unlisted()

    @property
    def resume_steps(self) -> list[int]:
        """Steps whose resume state is there, ascending."""
        return Manifest(files=_without_beginning(self._files)).steps(RESUME)

    def load_beginning(self) -> Params | None:
        """What `begin_again` kept; None if never called, or committed over since."""
        if BEGINNING not in self._files:
            return None
        data = read_recorded(self.path, Manifest(files=self._files), BEGINNING)
        return tensors_from_bytes(data, where=str(self.path / BEGINNING))

    def load_resume(self, step: int | None = None) -> ResumeState | None:
        """The resume state at `step` (the newest when None); None where there is none at all."""
        if step is None:
            if not self.resume_steps:
                return None
            step = self.resume_steps[-1]
        self._require_resume(step)
        name = step_path(RESUME, step)
        data = read_recorded(self.path, Manifest(files=self._files), name)
        return ResumeState(step, tensors_from_bytes(data, where=str(self.path / name)))

    def replay_to(self, step: int) -> None:
        """Forget every row, checkpoint and resume state after `step`, which has a resume state.

        Call it before training on from `load_resume(step)`; it is one commit.
        """
        self._require_resume(step)
        rows = self._rows_up_to(step)
        files = {**self._files, METRICS: FileRecord.of(rows)}
        for folder in (CHECKPOINTS, RESUME):
            for later in Manifest(files=self._files).steps(folder):
                if later > step:
                    del files[step_path(folder, later)]
        kept = [earlier for earlier in self.resume_steps if earlier <= step]
        self._publish(files, kept, complete=False, stopped=None)
        self._rows = _Rows.of(rows)
        self._forget_uncommitted()

    def begin_again(self, tensors: Mapping[str, Tensor]) -> None:
        """Forget every row, checkpoint and resume state, and keep `tensors`; it is one commit.

        `load_beginning` gives them back, until the next commit with a resume state.
        """
        self._stage(BEGINNING, tensors_to_bytes(tensors))
        files = {name: self._files[name] for name in (CONFIG, BEGINNING)}
        self._publish({**files, METRICS: FileRecord.of(b"")}, [], complete=False, stopped=None)
        self._rows = _Rows.of(b"")
        self._forget_uncommitted()

    def close(self) -> None:
        """Let the directory go. What was not committed is as if it had never been."""
        if self._lock >= 0:
            os.close(self._metrics)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _rows_up_to(self, step: int) -> bytes:
        manifest = Manifest(files={METRICS: self._rows.record()})
        lines = read_recorded(self.path, manifest, METRICS).splitlines(keepends=True)
        return b"".join(line for line in lines if from_json(line, where=METRICS)["step"] <= step)

    def _stage(self, name: str, data: bytes) -> None:
        """Write a file that the next commit will list."""
        record = FileRecord.of(data)
        if self._files.get(name) == record:
            return
        if name in self._files:  # overwriting it would break the last commit
            raise RunError(f"{self.path / name} is there with other contents; replay_to() first")
        atomic_write(self.path / name, data)
        self._files[name] = record

    def _require_resume(self, step: int) -> None:
        if step not in self.resume_steps:
            known = ", ".join(map(str, self.resume_steps)) or "none"
            raise RunError(f"{self.path} has no resume state at step {step}; there are: {known}")

    def _publish(
        self, files: dict[str, FileRecord], kept: list[int], *, complete: bool, stopped: str | None
    ) -> None:
        """Replace the manifest; only then may anything it listed before be removed."""
        listed = {
            name: record
            for name, record in _without_beginning(files).items()
            if not name.startswith(f"{RESUME}/") or step_of(name) in kept
        }
        if not kept and not complete and BEGINNING in files:
            listed[BEGINNING] = files[BEGINNING]
        manifest = Manifest(files=listed, complete=complete, stopped=stopped)
        atomic_write(self.path / MANIFEST, manifest.to_bytes())
        self._files = listed

    def _forget_uncommitted(self) -> None:
        """Cut off and remove what the manifest does not count."""
        self._remove_unlisted()
        with explained("write", self.path / METRICS):
            os.ftruncate(self._metrics, self._rows.size)

    def _remove_unlisted(self) -> None:
        with explained("tidy", self.path):
            for name in (CHECKPOINTS, RESUME):
                for file in (self.path / name).iterdir():
                    if _OURS.fullmatch(file.name) and f"{name}/{file.name}" not in self._files:
                        file.unlink()
            _remove_temporary(self.path)


def _without_beginning(files: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    return {name: record for name, record in files.items() if name != BEGINNING}


def _begin(path: Path, config: RunConfig) -> Manifest:
    """The first files of a run, the manifest last."""
    where = str(path / CONFIG)
    written = to_json(config.to_dict(), where=where, indent=1)
    RunConfig.from_dict(from_json(written, where=where), where=where)  # what we write, we can read
    with explained("tidy", path):
        _remove_temporary(path)
    atomic_write(path / CONFIG, written)
    atomic_write(path / METRICS, b"")
    manifest = Manifest(files={CONFIG: FileRecord.of(written), METRICS: FileRecord.of(b"")})
    atomic_write(path / MANIFEST, manifest.to_bytes())
    with explained("write into", path.parent):
        sync_directory(path.parent)
    return manifest


def _remove_temporary(path: Path) -> None:
    """Remove what a killed writer was about to write; the lock is ours, so nobody needs it."""
    for folder in (path, path / CHECKPOINTS, path / RESUME):
        for file in folder.iterdir() if folder.is_dir() else ():
            if _TEMPORARY.fullmatch(file.name):
                file.unlink()


def _refuse_occupied(path: Path) -> None:
    """Raise `RunError` unless a run can begin here without losing anything."""
    if not path.is_dir():
        return  # what else may be there, mkdir explains
    if is_run(path):
        raise RunError(f"{path} is a run already; resume it, or choose another --runs directory")
    with explained("read", path):
        foreign = sorted(file.name for file in path.iterdir() if not _is_leftover(file))
    if foreign:
        raise RunError(
            f"{path} is not empty (it has {', '.join(foreign[:3])}) and is not a run; "
            "choose another --runs directory, or move it away"
        )


def _is_leftover(file: Path) -> bool:
    """Whether a run stopped at its very start may have left this, with nothing of value in it."""
    if file.name in (CHECKPOINTS, RESUME):
        return file.is_dir() and not any(file.iterdir())
    if file.name == METRICS:
        return file.stat().st_size == 0
    return file.name in (LOCK, CONFIG) or _TEMPORARY.fullmatch(file.name) is not None


def _refuse_other(path: Path, stored: RunConfig, config: RunConfig) -> None:
    there, here = stored.to_dict(), config.to_dict()
    here = from_json(to_json(here, where="the configuration"), where="the configuration")
    for key in _MAY_CHANGE:
        there[key] = here[key] = None
    different = [f"{key} is {a!r} there, {b!r} here" for key, a, b in _differences(there, here)]
    if different:
        raise RunError(
            f"{path} is a run of another configuration: {'; '.join(different[:3])}; "
            "choose another --runs directory, or remove that run"
        )


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both values (None for an absent one)."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(there.keys() | here.keys()):
        a, b = there.get(key), here.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found

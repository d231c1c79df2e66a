"""Read a whole session file: every digest, every bound, every number. No torch.

Members are read piece by piece, so that memory does not grow with the file. What comes out says
that the file is as it was written; it does not say who wrote it, nor that its findings hold.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.model_config import param_shapes
from workbench.record import Checkpoint, Record, TensorShape
from workbench.session import limits
from workbench.session.archive import Archive, Window, network_shape, open_as, opened
from workbench.session.refusal import refusal
from workbench.session.schema import (
    SESSION,
    TRAINING,
    Manifest,
    SessionDocument,
    arrays_path,
    weights_path,
)
from workbench.session.tensor_members import (
    Data,
    Header,
    Stretch,
    check_headers,
    check_tensors,
    check_values,
    tensor_headers,
    weights_sha256,
)
from workbench.session.zip_format import OpenFile

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""As `workbench.strict.Name`."""
STEPS = 10**9
"""As `workbench.record.Step`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedMember:
    """One member that is sound."""

    path: str
    size: int
    """In bytes."""
    what: str
    """Such as `network at step 400: 8 tensors, 226,816 numbers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A session file whose every byte was read and is sound."""

    manifest: Manifest
    document: SessionDocument
    size: int
    """Bytes of the file."""
    members: tuple[VerifiedMember, ...]


def verify(path: Path | str) -> Verified:
    """Read every member of a session file and check it. Raises `SessionError`.

    Besides what `open_archive` checks: every member's digest; names, types and shapes of all
    tensors as `session.json` says; that every number is finite; the digest of every network.
    """
    return verify_as(path, str(path))


def verify_as(path: Path | str, where: str) -> Verified:
    """`verify` with another name for the file in messages."""
    archive = open_as(path, where)
    with opened(path, where) as file:
        if file.size != archive.size:
            raise refusal(where, "it changed while it was read", mend="try again")
        whats = _checked_arrays(archive, file)
    whats[SESSION] = _plural(len(archive.document.records), "record")
    listed = archive.manifest.members
    return Verified(
        manifest=archive.manifest,
        document=archive.document,
        size=archive.size,
        members=tuple(
            VerifiedMember(path=one.path, size=one.size, what=whats[one.path]) for one in listed
        ),
    )


def check_training(data: Data, rows: int, *, where: str) -> int:
    """How many columns `arrays/training.safetensors` has, all sound, of one entry a row.

    They are `step`, whole numbers from 0 that never fall, and what was measured there. Raises
    `SessionError`.
    """
    headers = tensor_headers(data, where=where)
    if "step" not in headers:
        raise refusal(where, "no column 'step'")
    if len(headers) > limits.COLUMNS:
        raise refusal(where, f"{len(headers)} columns; at most {limits.COLUMNS}")
    if strange := [name for name in headers if not _NAME.fullmatch(name)]:
        raise refusal(where, f"a column called {strange[0]!r}")
    number = TensorShape(dtype="float64", shape=(rows,))
    step = TensorShape(dtype="int64", shape=(rows,))
    check_headers(headers, {**dict.fromkeys(headers, number), "step": step}, where=where)
    check_values(data, headers, where=where)
    _check_steps(data, headers["step"], where)
    return len(headers)


def _check_steps(data: Data, header: Header, where: str) -> None:
    import numpy as np  # here, as in `check_values`

    last = 0
    for start in range(header.start, header.stop, limits.CHUNK):
        stop = min(start + limits.CHUNK, header.stop)
        chunk = data.at(start, stop) if isinstance(data, Stretch) else data[start:stop]
        steps = np.frombuffer(chunk, "<i8")
        for bad in (steps < 0, steps >= STEPS):
            if bad.any():
                raise refusal(where, f"step {steps[bad][0]}; steps lie from 0 to below {STEPS}")
        before = np.concatenate(([last], steps[:-1]))
        if (fall := steps < before).any():
            raise refusal(where, f"step {steps[fall][0]} behind step {before[fall][0]}")
        last = int(steps[-1])


def _checked_arrays(archive: Archive, file: OpenFile) -> dict[str, str]:
    """What each member besides `session.json` is, after all of it was checked."""
    document, whats = archive.document, {}
    for member in archive.manifest.members:
        if member.path != SESSION:
            archive.digest(file, member)
    shapes = param_shapes(network_shape(document.network, file.where))
    weights = {name: TensorShape(dtype="float32", shape=shape) for name, shape in shapes.items()}
    for checkpoint in document.checkpoints:
        path = weights_path(checkpoint.step)
        window = Window(file, archive.entries[path])
        whats[path] = _checked_weights(window, checkpoint, weights, f"{file.where}: {path}")
    if document.training_rows is not None:
        window = Window(file, archive.entries[TRAINING])
        rows, where = document.training_rows, f"{file.where}: {TRAINING}"
        columns = check_training(window, rows, where=where)
        whats[TRAINING] = f"training: {_plural(columns, 'column')}, {_plural(rows, 'row')}"
    for record in document.records:
        if record.arrays is not None:
            path = arrays_path(record.id)
            window = Window(file, archive.entries[path])
            whats[path] = _checked_record(window, record, f"{file.where}: {path}")
    return whats


def _checked_weights(
    window: Window, checkpoint: Checkpoint, expected: Mapping[str, TensorShape], where: str
) -> str:
    check_tensors(window, expected, where=where)
    if weights_sha256(window, where=where) != checkpoint.weights_sha256:
        raise refusal(where, "not the weights that session.json speaks of: their digest differs")
    return f"network at step {checkpoint.step}: {_counted(expected.values())}"


def _checked_record(window: Window, record: Record, where: str) -> str:
    assert record.arrays is not None
    check_tensors(window, record.arrays.tensors, where=where)
    return f"arrays of {record.id}: {_counted(record.arrays.tensors.values())}"


def _counted(shapes: Iterable[TensorShape]) -> str:
    sizes = [math.prod(one.shape) for one in shapes]
    return f"{_plural(len(sizes), 'tensor')}, {_plural(sum(sizes), 'number')}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"

"""Bytes on disk that can be believed: atomic writes, digests, strict JSON, one lock. No torch.

Nothing is ever unpickled: tensors are safetensors, everything else is JSON. Reading is strict
(no duplicate keys, no NaN, nothing outside the directory asked for); writing goes to a temporary
name in the same directory, is flushed to the disk, and only then takes the real name, so a
reader sees the old file or the new one and never a mixture.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import RunError

LOCK = ".lock"


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------- writing


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, wholly or not at all, and durably.

    Whatever goes wrong, the old file stays whole and no temporary file remains (save after a
    kill, when one may remain and means nothing). Raises `RunError` saying what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with explained("write", path):
        try:
            _write_new(temporary, data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_at(descriptor, 0, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write all of `data` at `offset` (one system call may write less)."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync_directory(path: Path) -> None:
    """Make renames and removals inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot, and say so
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into a `RunError` that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot {doing} {path}: {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{reason}; free some space and run the same command again, what was saved is whole"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; mend the permissions, or choose another directory"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{reason}; a file is where a directory should be, choose another directory"
    return f"{reason}; mend that and run the same command again"


def lock_directory(path: Path) -> int:
    """Hold the only right to write into a run directory; `os.close` what comes back to let go.

    The lock belongs to the open file, so it ends with the process however that ends. Raises
    `RunError` when somebody else holds it.
    """
    with explained("write into", path):
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunError(
                f"another process is training into {path}; "
                "wait for it, or choose another --runs directory"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


# ---------------------------------------------------------------------- reading


def read_file(directory: Path, name: str) -> bytes:
    """The bytes of a plain file inside `directory`; a link that leads out of it is refused.

    Raises `RunError`.
    """
    path = directory / name
    with explained("read", path):
        try:
            target = path.resolve(strict=True)
        except (FileNotFoundError, RuntimeError):  # RuntimeError: links in a circle
            raise RunError(f"{path} is missing; restore it from a copy") from None
        if not target.is_relative_to(directory.resolve()):
            raise RunError(f"{path} is a link out of its directory; put the file itself there")
        if not target.is_file():
            raise RunError(f"{path} is not a plain file; restore it from a copy")
        return target.read_bytes()


# ---------------------------------------------------------------------- JSON


def to_json(value: Any, *, where: str, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """Strict JSON with a newline at the end. Raises `RunError` for NaN or what is not JSON."""
    try:
        return (
            json.dumps(value, allow_nan=False, indent=indent, sort_keys=sort_keys) + "\n"
        ).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"cannot store {where}: {error}; use finite numbers, text, lists and dictionaries"
        ) from None


def from_json(data: bytes, *, where: str) -> dict[str, Any]:
    """One JSON object, strictly: no duplicate key, no NaN or Infinity. Raises `RunError`."""
    try:
        value = strict_json(data.decode())
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{where} is not valid JSON ({error}); restore it from a copy, or correct it"
        ) from None
    if not isinstance(value, dict):
        raise RunError(f"{where} holds a JSON {type(value).__name__}; it must be an object {{...}}")
    return value


def strict_json(text: str) -> Any:
    """What JSON text says. Raises `ValueError` for a duplicate key, NaN or a number too large,
    and `RecursionError` for brackets inside each other."""
    return json.loads(
        text,
        object_pairs_hook=_unique_keys,
        parse_constant=_refuse_number,
        parse_float=_finite,
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        unique[key] = value
    return unique


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value

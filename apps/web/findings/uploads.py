"""Session files that somebody opens in the app: checked, and kept to be read, beside the runs.

    digest = keep_session(runs, data)         # refused in one line, or verified whole
    session = opened_session(runs, digest)    # the same bytes, for as long as they are kept

A file lies in `<runs>/.opened/` under the SHA-256 of its bytes and nothing else: no name and no
path from outside is ever used. It is no run: nothing changes it, and the list of runs does not have
it. The last ones are kept; a page that speaks of another asks to open the file again.
"""

import contextlib
import functools
import os
import re
import secrets
from pathlib import Path

from apps.app import UPLOAD_MB
from workbench.errors import AppError
from workbench.session import Session, open_session
from workbench.session.verifying import verify_as
from workbench.storage import atomic_write, explained, sha256

OPENED, SUFFIX = ".opened", ".workbench"
MIB = 2**20
LARGEST = UPLOAD_MB * MIB
"""Bytes of a file."""
MOST, MOST_BYTES = 20, 1024 * MIB
"""Files that are kept, and bytes of all of them."""
STALE = ".waiting-"
"""How the name of a file begins that is not checked yet."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def keep_session(runs: Path, data: bytes) -> str:
    """Check a session file, every byte of it, and keep it; its digest.

    Raises `SessionError` saying what is wrong with it, `AppError` where it is too large, and
    `RunError` where it cannot be written. Of a file that is refused nothing stays.
    """
    if len(data) > LARGEST:
        raise AppError(
            f"the file has {len(data):,} bytes; at most {LARGEST:,} here: open it with "
            "`workbench session open FILE`"
        )
    folder, digest = runs / OPENED, sha256(data)
    with explained("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / f"{STALE}{secrets.token_hex(8)}"
    try:
        atomic_write(waiting, data)
        verify_as(waiting, "the file")
        with explained("write", folder):
            waiting.replace(_path(runs, digest))
    finally:
        with contextlib.suppress(OSError):
            waiting.unlink(missing_ok=True)
    _drop_oldest(runs)
    return digest


def opened_session(runs: Path, digest: str) -> Session:
    """A session that is kept, by the digest of its file. Raises `AppError` where it is not.

    Raises `SessionError` where its file was damaged since.
    """
    if not _DIGEST.fullmatch(digest):
        raise AppError("a session is named by 64 hexadecimal digits; open its file again")
    path = _path(runs, digest)
    try:
        status = path.stat()
        os.utime(path)  # what is looked at is not dropped
    except OSError:
        raise AppError("this session is not kept any more; open its file again") from None
    return _opened(path, status.st_size)


def opened_digests(runs: Path) -> list[str]:
    """The sessions that are kept, the last looked at first."""
    return [path.stem for _, _, path in _kept(runs)]


def session_bytes(runs: Path, digest: str) -> bytes:
    """The file itself. Raises `AppError`."""
    opened_session(runs, digest)
    with explained("read", _path(runs, digest)):
        return _path(runs, digest).read_bytes()


def forget_session(runs: Path, digest: str) -> None:
    """Remove a session that is kept. Raises `AppError`."""
    opened_session(runs, digest)
    with explained("remove", _path(runs, digest)):
        _path(runs, digest).unlink(missing_ok=True)


@functools.lru_cache(maxsize=4)  # one may take some 50 MB
def _opened(path: Path, size: int) -> Session:
    """By its path, which is its content; the size tells one that was cut off since."""
    return open_session(path)


def _path(runs: Path, digest: str) -> Path:
    return runs / OPENED / f"{digest}{SUFFIX}"


def _kept(runs: Path) -> list[tuple[float, int, Path]]:
    """When each was looked at last, its size, and the file; the last looked at first."""
    found = []
    with contextlib.suppress(FileNotFoundError), explained("list", runs / OPENED):
        for path in (runs / OPENED).glob(f"*{SUFFIX}") if (runs / OPENED).is_dir() else ():
            if _DIGEST.fullmatch(path.stem):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
    return sorted(found, key=lambda one: (-one[0], one[2].name))


def _drop_oldest(runs: Path) -> None:
    """Remove what goes beyond the bounds, but never the newest."""
    total = 0
    for i, (_, size, path) in enumerate(_kept(runs)):
        total += size
        if i and (i >= MOST or total > MOST_BYTES):
            with explained("remove", path):
                path.unlink(missing_ok=True)

"""What a person names after `workbench session`, checked before any work."""

import os
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import SessionError
from workbench.strict import one_line

LONGEST_NAME, LONGEST_PATH = 200, 4000
"""Bytes of the name of a file to write, and of all of its path: a temporary name adds to it."""
LIMIT = 600
"""Seconds that the replay of one record may take where nobody says otherwise."""


def named_findings(only: Sequence[str] | None) -> list[str] | None:
    """`--only a,b` and `--only a --only b` alike; None where nothing was named.

    Raises `SessionError` for an empty name.
    """
    if only is None:
        return None
    names = [name.strip() for text in only for name in text.split(",")]
    if not all(names):
        raise SessionError("--only with an empty name; name findings such as sufficiency,circuit")
    return list(dict.fromkeys(names))


def written_note(note: str | None) -> str | None:
    """`--note`. Raises `SessionError` where it says nothing."""
    if note is not None and not note.strip():
        raise SessionError("--note is empty; write something, or leave it out")
    return note


def session_output(path: Path) -> Path:
    """Where to save a session. Raises `SessionError`."""
    return _output(path, ".workbench")


def page_output(
    path: Path, *, only: Sequence[str] | None, replay: bool, limit: int | None
) -> tuple[Path, int]:
    """Where to write a page or a graph, and how long the replay of a record may take.

    Raises `SessionError` for a place, and for options that mean nothing there.
    """
    path = _output(path, ".html", ".json")
    shown = one_line(str(path))
    if path.suffix == ".json" and replay:
        raise SessionError(f"-o {shown}: --replay is for a page; drop it, or end in .html")
    if path.suffix == ".html" and only is not None:
        raise SessionError(
            f"-o {shown}: a page tells every finding, --only names the circuit of a graph; drop "
            "it, or end in .json"
        )
    if limit is not None and not replay:
        raise SessionError("--limit is for a replay; drop it, or add --replay")
    return path, LIMIT if limit is None else limit


def _output(path: Path, *suffixes: str) -> Path:
    shown, folder = one_line(str(path), longest=120), one_line(str(path.parent), longest=120)
    if path.suffix not in suffixes:
        raise SessionError(f"-o {shown}: end its name in {' or '.join(suffixes)}")
    for what, text, most in (("name", path.name, LONGEST_NAME), ("path", path, LONGEST_PATH)):
        if (long := len(os.fsencode(text))) > most:
            raise SessionError(
                f"-o {shown}: a {what} of {long} bytes; choose one of at most {most}"
            )
    try:
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SessionError(f"-o {shown}: {reason}; choose another place") from None
    if is_folder:
        raise SessionError(f"-o {shown}: this is a folder; name a file")
    if not has_folder:
        raise SessionError(f"-o {shown}: there is no folder {folder}; make it first")
    return path

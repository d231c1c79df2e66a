"""What a person names after `workbench session`, checked before any work."""

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import SessionError


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


def session_output(path: Path) -> Path:
    """Where to save a session. Raises `SessionError`."""
    return _output(path, ".workbench")


def page_output(path: Path) -> Path:
    """Where to write a page, or a graph. Raises `SessionError`."""
    return _output(path, ".html", ".json")


def _output(path: Path, *suffixes: str) -> Path:
    if path.suffix not in suffixes:
        raise SessionError(f"-o {path}: end its name in {' or '.join(suffixes)}")
    if path.is_dir():
        raise SessionError(f"-o {path}: this is a folder; name a file")
    if not path.parent.is_dir():
        raise SessionError(f"-o {path}: there is no folder {path.parent}; make it first")
    return path

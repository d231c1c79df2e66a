"""Readers of session files, one a schema version. A published one never changes or goes away."""

from collections.abc import Callable
from typing import Any, NamedTuple

from workbench.session.readers import v1
from workbench.session.refusal import refusal
from workbench.session.schema import FORMAT, Manifest, SessionDocument


class Reader(NamedTuple):
    """Models from JSON data; each takes `where`, for messages, and raises `SessionError`."""

    manifest: Callable[[dict[str, Any], str], Manifest]
    document: Callable[[dict[str, Any], str], SessionDocument]


READERS = {1: Reader(v1.manifest, v1.document)}


def reader_for(manifest: dict[str, Any], where: str) -> Reader:
    """The reader of the version that a manifest names. Raises `SessionError`."""
    kind, version = manifest.get("format"), manifest.get("schema_version")
    if kind != FORMAT:
        raise refusal(where, f"format {kind!r} where {FORMAT!r} must be")
    if type(version) is not int or version < 1:
        raise refusal(where, f"schema_version {version!r} where a number from 1 must be")
    if version not in READERS:
        raise refusal(
            where,
            f"schema version {version}, this Workbench reads up to {max(READERS)}",
            mend="upgrade with pip install --upgrade mechinterp-workbench",
        )
    return READERS[version]

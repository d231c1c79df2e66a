"""Sessions before they are packed: what hostile files are made of, and what must become of them."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from tests.session import making
from tests.session.raw_zip import DEFLATED, Part, pack, part

Data = dict[str, Any]


class Case(NamedTuple):
    """A file and what must become of it."""

    name: str
    content: bytes
    outcome: Literal["refused", "inert"]
    says: str = ""
    """Words in the message of the refusal."""


class Parts(NamedTuple):
    """A session before it is packed; everything that is derived is derived when it is packed."""

    manifest: Data
    document: Data
    arrays: dict[str, bytes]


def parts() -> Parts:
    """Those of the small session."""
    manifest = {
        "format": "workbench-session",
        "schema_version": 1,
        "oldest_reader": 1,
        "id": making.IDENTIFIER,
        "parent": None,
        "created": "2026-11-20T18:53:06Z",
        "made_with": dict(making.MADE_WITH),
    }
    return Parts(manifest, making.document_data(), dict(small_members()))


@functools.cache
def small_members() -> tuple[tuple[str, bytes], ...]:
    """The small session's members besides the JSON ones."""
    return tuple(making.small_members())


def members_of(session: Parts, *, document: bytes | None = None) -> dict[str, bytes]:
    """Every member's bytes; the manifest lists what is there, whatever it is."""
    text = json.dumps(session.document).encode() if document is None else document
    members = {"session.json": text, **session.arrays}
    listed = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in members.items()
    ]
    return {
        "manifest.json": json.dumps({"members": listed, **session.manifest}).encode(),
        **members,
    }


def zip_parts(members: Mapping[str, bytes]) -> list[Part]:
    """The members as they are packed: `session.json` deflated, where that is no bomb."""
    listed = [part(name.encode(), data) for name, data in members.items()]
    for at, one in enumerate(listed):
        if one.name == b"session.json":
            smaller = part(one.name, one.packed, method=DEFLATED)
            listed[at] = smaller if one.size <= 200 * len(smaller.packed) else one
    return listed


def packed(session: Parts, *, document: bytes | None = None) -> bytes:
    """The file, with every digest in the manifest right."""
    return pack(zip_parts(members_of(session, document=document)))


def with_array(path: str, data: bytes, *, told: bool = True) -> Parts:
    """Another member in place of this; a record that is `told` speaks of the new one."""
    session = parts()
    session.arrays[path] = data
    record = session.document["records"][0]
    if told and path == record_path():
        record["arrays"] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return session


def record_path() -> str:
    """The member with the record's arrays."""
    return small_members()[-1][0]


def refused(name: str, content: bytes, says: str) -> Case:
    """A file that must be refused with these words."""
    return Case(name, content, "refused", says)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON data."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for at, value in enumerate(data):
            yield from places(value, (*path, at))


def get(data: Any, path: tuple[Any, ...]) -> Any:
    """The value there."""
    return functools.reduce(lambda value, key: value[key], path, data)


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value there."""
    get(data, path[:-1])[path[-1]] = value


def edited(name: str, path: tuple[Any, ...], value: Any, *, says: str = "") -> Case:
    """A session with one value of `session.json` changed."""
    session = parts()
    put(session.document, path, value)
    return refused(f"document: {name}", packed(session), says)

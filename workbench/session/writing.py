"""Write a session file: wholly or not at all, and nothing that the reader would refuse. No torch.

The same document, members, id and time give the same bytes on one machine (the packing of
`session.json` may differ between versions of zlib).
"""

import contextlib
import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from workbench.errors import SessionError
from workbench.session import limits
from workbench.session.refusal import DISTRUST, refused
from workbench.session.schema import (
    FORMAT,
    MANIFEST,
    OLDEST_READER,
    SCHEMA_VERSION,
    SESSION,
    Manifest,
    Member,
    SessionDocument,
)
from workbench.session.verifying import verify_as
from workbench.session.zip_format import (
    DEFLATED,
    STORED,
    Entry,
    central_directory,
    local_header,
)
from workbench.storage import sync_directory, to_json
from workbench.strict import one_line, validated

_WIDEST = 10 ** len(str(limits.FILE)) - 1
"""A size that takes as many digits as any."""


def write_archive(
    path: Path | str,
    document: SessionDocument,
    members: Iterable[tuple[str, bytes]],
    *,
    parent: str | None,
    made_with: Mapping[str, str],
    created: datetime | None = None,
    identifier: str | None = None,
) -> Manifest:
    """Replace `path` by a session, wholly or not at all, and durably; returns its manifest.

    Args:
        members: path and bytes of every member that `document.member_paths` names besides
            `session.json`, in any order; taken one at a time.
        parent: id of the session that this one was made from.
        created: written in UTC and whole seconds; now when None.
        identifier: 32 hexadecimal digits; random when None.

    What was written is verified as a reader would before it takes its name. Raises `SessionError`
    where that fails, or where the file cannot be written; the old file then stays whole, and no
    temporary file remains (save after a kill, when one may remain and means nothing).
    """
    path = Path(path)
    unknown = (Member(path=one, size=_WIDEST, sha256="0" * 64) for one in _paths(document, path))
    fields = {
        "id": identifier or secrets.token_hex(16),
        "parent": parent,
        "created": f"{(created or datetime.now(UTC)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "made_with": dict(made_with),
    }
    with refused("write", str(path)):
        made = _manifest(unknown, fields)
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            manifest = _write_new(temporary, made, _all_members(document, members))
            _require_readable(temporary, path)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    return manifest


def _paths(document: SessionDocument, path: Path) -> list[str]:
    paths = document.member_paths()
    if len(paths) >= limits.MEMBERS:
        raise SessionError(
            f"{one_line(str(path))}: {len(paths)} members; a session has fewer than "
            f"{limits.MEMBERS}: leave out some findings or checkpoints"
        )
    return paths


def _manifest(members: Iterable[Member], fields: Mapping[str, object]) -> Manifest:
    said = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "oldest_reader": OLDEST_READER,
        **fields,
        "members": [one.model_dump() for one in members],
    }
    return validated(Manifest, to_json(said, where=MANIFEST), where=MANIFEST, error=SessionError)


def _all_members(
    document: SessionDocument, members: Iterable[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes]]:
    yield SESSION, to_json(document.model_dump(mode="json"), where=SESSION)
    yield from members


def _write_new(path: Path, made: Manifest, members: Iterable[tuple[str, bytes]]) -> Manifest:
    """Write the file in one go; the manifest, first in it, goes last into the room kept for it.

    How long the manifest may get is known from the start; where sizes take fewer digits than they
    might, spaces follow it.
    """
    room = len(_json(made))
    first = Entry(MANIFEST, STORED, 0, room, room, 0)
    with path.open("xb") as file:
        file.seek(first.stop)
        entries, listed = _write_members(file, first.stop, made, members)
        manifest = made.model_copy(update={"members": tuple(listed)})
        text = _json(manifest).ljust(room)
        first = first._replace(crc=zlib.crc32(text))
        file.write(central_directory([first, *entries], entries[-1].stop))
        file.seek(0)
        file.write(local_header(first) + text)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _write_members(
    file: BinaryIO, position: int, made: Manifest, members: Iterable[tuple[str, bytes]]
) -> tuple[list[Entry], list[Member]]:
    """Write every member that the manifest names, once, from `position` on."""
    due = {one.path for one in made.members}
    entries: list[Entry] = []
    listed: list[Member] = []
    for name, data in members:
        if name not in due:
            raise SessionError(
                f"a member {name!r} twice, or one that session.json does not speak of; "
                "write each of document.member_paths() once"
            )
        due.remove(name)
        entry, packed = _entry(name, data, position)
        position = entry.stop
        if position > limits.FILE - limits.DIRECTORY:
            raise SessionError(f"more than {limits.FILE} bytes; leave out some checkpoints")
        file.write(local_header(entry))
        file.write(packed)
        entries.append(entry)
        listed.append(Member(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    if due:
        raise SessionError(f"{min(due)} was not given, which session.json speaks of; add it")
    return entries, listed


def _json(manifest: Manifest) -> bytes:
    return to_json(manifest.model_dump(mode="json"), where=MANIFEST)


def _entry(name: str, data: bytes, header: int) -> tuple[Entry, bytes]:
    """A member's headers and its bytes as they go into the file."""
    packed, method = data, STORED
    if name == SESSION:
        stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        deflated = stream.compress(data) + stream.flush()
        if len(data) <= limits.RATIO * len(deflated):
            packed, method = deflated, DEFLATED
    return Entry(name, method, zlib.crc32(data), len(packed), len(data), header), packed


def _require_readable(temporary: Path, path: Path) -> None:
    """Raise `SessionError` where a reader would refuse what was written."""
    try:
        verify_as(temporary, str(path))
    except SessionError as error:
        said = str(error).removesuffix(f"; {DISTRUST}")
        raise SessionError(f"cannot write this session, nobody could open it: {said}") from None

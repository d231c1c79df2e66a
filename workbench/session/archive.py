"""Open a session file: its structure, its digests' list and its models. No torch, no array read.

What is opened here has the form of a session and keeps to every bound; `verifying.verify` reads
the arrays too. A SHA-256 shows that the file is as it was written, not who wrote it.
"""

import contextlib
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import ConfigError
from workbench.model_config import ModelConfig, n_params
from workbench.record import Record
from workbench.session import limits
from workbench.session.json_text import read_json
from workbench.session.readers import reader_for
from workbench.session.refusal import refusal, refused
from workbench.session.schema import (
    MANIFEST,
    SESSION,
    Manifest,
    Member,
    Network,
    SessionDocument,
    arrays_path,
    weights_path,
)
from workbench.session.zip_format import STORED, Entry, OpenFile, read_entries

_TENSORS_A_LAYER = 4
"""At least: `param_shapes` of an attention-only network."""


class Window:
    """A member's bytes where they lie in the file."""

    def __init__(self, file: OpenFile, entry: Entry) -> None:
        self._file, self._start = file, entry.start
        self.size = entry.size

    def at(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`."""
        return self._file.at(self._start + start, self._start + stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A session file that was opened. It is read when asked; nothing stays open."""

    path: Path
    manifest: Manifest
    document: SessionDocument
    size: int
    """Bytes of the file."""
    entries: Mapping[str, Entry] = field(repr=False)
    """Where each member lies."""

    def read(self, member: str) -> bytes:
        """One member's bytes, counted and checked against its SHA-256. Raises `SessionError`."""
        entry = self.entries.get(member)
        if entry is None:
            raise refusal(str(self.path), f"there is no member {member!r}", mend="ask for another")
        with opened(self.path, str(self.path)) as file:
            data = _unpacked(file, entry, limits.FILE)
        listed = next((one for one in self.manifest.members if one.path == member), None)
        if listed is not None:
            _require_listed(data, listed, str(self.path))
        return data

    def digest(self, file: OpenFile, member: Member) -> None:
        """Check the SHA-256 of a stored member piece by piece. Raises `SessionError`."""
        window, digest = Window(file, self.entries[member.path]), hashlib.sha256()
        check = 0
        for at in range(0, window.size, limits.CHUNK):
            part = window.at(at, min(at + limits.CHUNK, window.size))
            digest.update(part)
            check = zlib.crc32(part, check)
        if digest.hexdigest() != member.sha256 or check != self.entries[member.path].crc:
            raise _damaged(member.path, file.where)


def open_archive(path: Path | str) -> Archive:
    """Open a session file. Raises `SessionError` for one that is not exactly as it must be.

    Checks the ZIP's structure, `manifest.json` and `session.json` with digests, models and what
    must agree between them. Reads no array.
    """
    return open_as(path, str(path))


def open_as(path: Path | str, where: str) -> Archive:
    """`open_archive` with another name for the file in messages."""
    with opened(path, where) as file:
        entries = {entry.name: entry for entry in read_entries(file)}
        if next(iter(entries)) != MANIFEST:
            raise refusal(where, f"the first member is {next(iter(entries))!r}, not {MANIFEST}")
        text = _unpacked(file, entries[MANIFEST], limits.MANIFEST)
        said = read_json(text, where=f"{where}: {MANIFEST}")
        reader = reader_for(said, f"{where}: {MANIFEST}")
        manifest = reader.manifest(said, f"{where}: {MANIFEST}")
        del text, said
        listed = _require_members(manifest, entries, where)
        text = _unpacked(file, entries[SESSION], limits.SESSION)
        _require_listed(text, listed[SESSION], where)
        said = read_json(text, where=f"{where}: {SESSION}")
        del text
        document = reader.document(said, f"{where}: {SESSION}")
        _require_agreement(document, listed, where)
    return Archive(
        path=Path(path), manifest=manifest, document=document, size=file.size, entries=entries
    )


@contextlib.contextmanager
def opened(path: Path | str, where: str) -> Iterator[OpenFile]:
    """The file, to read by offset; whatever goes wrong inside becomes a `SessionError`."""
    with refused("read", where), contextlib.closing(OpenFile(path, where)) as file:
        yield file


def _require_members(
    manifest: Manifest, entries: Mapping[str, Entry], where: str
) -> dict[str, Member]:
    """The manifest's members by path, where the archive holds exactly these, in this order."""
    paths = [one.path for one in manifest.members]
    if len(set(paths)) < len(paths):
        raise refusal(where, f"{MANIFEST} lists a member twice")
    if strange := sorted(entries.keys() - set(paths) - {MANIFEST}):
        raise refusal(where, f"a member {strange[0]!r} that {MANIFEST} does not list")
    if missing := sorted(set(paths) - entries.keys()):
        raise refusal(where, f"{missing[0]} is missing, which {MANIFEST} lists")
    if paths != list(entries)[1:]:
        raise refusal(where, f"members in another order than {MANIFEST} lists them")
    if SESSION not in paths:
        raise refusal(where, f"{SESSION} is missing")
    for one in manifest.members:
        entry = entries[one.path]
        if entry.size != one.size:
            raise refusal(where, f"{one.path}: {entry.size} bytes where {MANIFEST} says {one.size}")
        if one.path != SESSION and entry.method != STORED:
            raise refusal(where, f"{one.path} is packed; arrays are stored as they are")
    return {one.path: one for one in manifest.members}


def _require_agreement(document: SessionDocument, listed: Mapping[str, Member], where: str) -> None:
    """What `session.json` speaks of is in the archive, and could be what it says."""
    due = set(document.member_paths())
    if missing := sorted(due - listed.keys()):
        raise refusal(where, f"{missing[0]} is missing, which {SESSION} speaks of")
    if strange := sorted(listed.keys() - due):
        raise refusal(where, f"a member {strange[0]!r} that {SESSION} does not speak of")
    _require_shape(document, listed, where)
    for record in document.records:
        _require_arrays(record, listed, where)


def _require_shape(document: SessionDocument, listed: Mapping[str, Member], where: str) -> None:
    """The network's shape can be, and is no larger than the weights that are there."""
    shape = network_shape(document.network, where)
    size = 4 * n_params(shape)
    for one in document.checkpoints:
        member = listed[weights_path(one.step)]
        if not 0 < member.size - size <= 8 + limits.TENSOR_HEADER:
            raise refusal(
                where, f"{member.path} has {member.size} bytes; the model's weights take {size}"
            )


def network_shape(network: Network, where: str) -> ModelConfig:
    """The network's shape, of no more tensors than may be. Raises `SessionError`."""
    try:
        shape = network.shape
    except ConfigError as error:
        raise refusal(f"{where}: {SESSION}", str(error)) from None
    if shape.n_layers * _TENSORS_A_LAYER > limits.TENSORS:  # before a name is made for each
        raise refusal(where, f"a model of {shape.n_layers} layers; at most {limits.TENSORS // 4}")
    return shape


def _require_arrays(record: Record, listed: Mapping[str, Member], where: str) -> None:
    if record.arrays is None:
        return
    member = listed[arrays_path(record.id)]
    if (member.size, member.sha256) != (record.arrays.size, record.arrays.sha256):
        raise refusal(where, f"{member.path} is not the file that its record speaks of")


# ---------------------------------------------------------------------- bytes of a member


def _unpacked(file: OpenFile, entry: Entry, most: int) -> bytes:
    """A member's bytes, never more than `most`, whatever the headers say."""
    where = f"{file.where}: {entry.name}"
    if entry.size > most or entry.packed > most:
        raise refusal(where, f"{max(entry.size, entry.packed)} bytes; at most {most}")
    packed = file.at(entry.start, entry.stop)
    data = packed if entry.method == STORED else _inflated(packed, entry.size, where)
    if zlib.crc32(data) != entry.crc:
        raise _damaged(entry.name, file.where)
    return data


def _inflated(packed: bytes, size: int, where: str) -> bytes:
    if size > limits.RATIO * len(packed):
        raise refusal(where, f"{size} bytes from {len(packed)}, more than {limits.RATIO} to one")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise refusal(where, f"its packed bytes are damaged ({error})") from None
    if len(data) != size or not stream.eof or stream.unused_data:
        raise refusal(where, f"does not unpack to the {size} bytes that its header says")
    return data


def _require_listed(data: bytes, listed: Member, where: str) -> None:
    if len(data) != listed.size or hashlib.sha256(data).hexdigest() != listed.sha256:
        raise _damaged(listed.path, where)


def _damaged(member: str, where: str) -> Exception:
    return refusal(
        where,
        f"{member} does not have the digest that was written for it: it was damaged or changed",
    )

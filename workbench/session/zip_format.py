"""The one kind of ZIP that a session is: read and written exactly, so that nothing can hide in it.

Members lie one after another from the first byte to the central directory, without gaps; each is a
plain file with ASCII name, the same two headers, no extra fields, no comment, and the time
1980-01-01. The end record is the last 22 bytes. Source: PKWARE APPNOTE 6.3.10, sections 4.3.7
(local header), 4.3.12 (central directory) and 4.3.16 (end record).
"""

import os
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from workbench.session import limits
from workbench.session.refusal import refusal

STORED, DEFLATED = 0, 8

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

_NEEDED, _MADE_BY = 20, 3 << 8 | 20
"""ZIP 2.0, on Unix."""
_TIME, _DATE = 0, 0x21
"""1980-01-01 00:00."""
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
_ENCRYPTED, _SIZES_LATER = 1, 8
_ALL_16, _ALL_32 = 0xFFFF, 0xFFFFFFFF


class Entry(NamedTuple):
    """One member: what its headers say, and where its bytes lie."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int
    """Offset of its local header."""

    @property
    def start(self) -> int:
        """Offset of its bytes."""
        return self.header + _LOCAL.size + len(self.name)

    @property
    def stop(self) -> int:
        """Offset behind its bytes."""
        return self.start + self.packed


class OpenFile:
    """A file that is read by offset; close it with `close`."""

    def __init__(self, path: str | os.PathLike[str], where: str) -> None:
        """Raises `SessionError` for what is not a plain file, `OSError`."""
        self.where = where
        try:  # non-blocking: a pipe that nobody writes into must not hold us up
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._descriptor = os.open(path, flags)
        except ValueError as error:  # a NUL in the name
            raise refusal(where, str(error), mend="give the name of a file") from None
        found = os.fstat(self._descriptor)
        self.size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise refusal(where, "not a plain file", mend="give the name of a session file")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def at(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`. Raises `SessionError` where the file ends before."""
        parts, position = [], start
        while position < stop:
            part = os.pread(self._descriptor, stop - position, position)
            if not part:
                raise refusal(self.where, f"ends at byte {position}, before byte {stop}")
            parts.append(part)
            position += len(part)
        return b"".join(parts)


# ---------------------------------------------------------------------- reading


def read_entries(file: OpenFile) -> tuple[Entry, ...]:
    """Every member, in order, of a file whose structure is exactly right. Raises `SessionError`."""
    count, start, size = _end_record(file)
    entries = tuple(_central_entries(file.at(start, start + size), count, file.where))
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise refusal(file.where, f"two members are called {twice!r}")
    position = 0
    for entry in entries:
        if entry.header != position:
            raise refusal(
                file.where,
                f"{entry.name} is at byte {entry.header} where byte {position} is next: members "
                "overlap, or something lies between them",
            )
        position = entry.stop
    if position != start:
        raise refusal(file.where, f"members end at byte {position}, their list is at {start}")
    for entry in entries:
        if file.at(entry.header, entry.start) != local_header(entry):
            raise refusal(file.where, f"{entry.name}: its two headers differ, or one is unusual")
    return entries


def _end_record(file: OpenFile) -> tuple[int, int, int]:
    """Number of members, and offset and size of the central directory."""
    where = file.where
    if file.size > limits.FILE:
        raise refusal(where, f"{file.size} bytes; a session has at most {limits.FILE}")
    if file.size < _END.size:
        raise refusal(where, f"{file.size} bytes, too few for a session; it is empty or cut short")
    if file.at(0, 4) != _LOCAL_MARK:
        raise refusal(where, "does not begin as a session (a ZIP archive) does")
    mark, *numbers, comment = _END.unpack(file.at(file.size - _END.size, file.size))
    if mark != _END_MARK:
        raise refusal(where, "no ZIP end record in its last 22 bytes; it is cut short or added to")
    disk, first_disk, here, count, size, start = numbers
    if _ALL_16 in (disk, first_disk, here, count) or _ALL_32 in (size, start):
        raise refusal(where, "a ZIP64 archive, which no session is")
    if comment or disk or first_disk or here != count:
        raise refusal(where, "a ZIP with a comment or in several parts, which no session is")
    if not 1 <= count <= limits.MEMBERS or size > limits.DIRECTORY:
        most = f"at most {limits.MEMBERS} in {limits.DIRECTORY}"
        raise refusal(where, f"a list of {count} members in {size} bytes; {most}")
    if start + size + _END.size != file.size:
        raise refusal(where, "the ZIP's list of members is not where its end record says")
    return count, start, size


def _central_entries(directory: bytes, count: int, where: str) -> Iterator[Entry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise refusal(where, "the ZIP's list of members is cut short")
        fields = _CENTRAL.unpack_from(directory, position)
        mark, made_by, needed, flags, method, time, date, crc, packed, size = fields[:10]
        length, extra, comment, disk, internal, mode, header = fields[10:]
        if mark != _CENTRAL_MARK:
            raise refusal(where, "the ZIP's list of members is damaged")
        position += _CENTRAL.size
        name = _name(directory[position : position + length], where)
        position += length
        _require_plain(name, flags, method, mode, where)
        if extra or comment:
            raise refusal(where, f"{name}: extra fields or a comment, which no session has")
        if _ALL_32 in (packed, size, header):
            raise refusal(where, f"{name}: ZIP64 sizes, which no session has")
        got = (made_by, needed, time, date, disk, internal, mode)
        if got != (_MADE_BY, _NEEDED, _TIME, _DATE, 0, 0, _PLAIN_FILE):
            raise refusal(where, f"{name}: its ZIP header is not one that the Workbench writes")
        if method == STORED and packed != size:
            raise refusal(where, f"{name}: stored, and yet {packed} bytes packed and {size} not")
        yield Entry(name, method, crc, packed, size, header)
    if position != len(directory):
        raise refusal(where, "something lies behind the ZIP's list of members")


def _name(raw: bytes, where: str) -> str:
    """A member's name: `manifest.json` or what `schema.MemberPath` allows, checked later."""
    name = raw.decode("ascii", "backslashreplace")
    wrong = [
        (not raw, "no name"),
        (len(raw) > limits.NAME, f"a name of {len(raw)} bytes"),
        (b"\0" in raw, "a NUL in its name"),
        (b"\\" in raw, "a backslash in its name"),
        (not raw.isascii(), "a name outside ASCII"),
        (raw[:1] == b"/" or raw[1:2] == b":", "an absolute name"),
        (b".." in raw.split(b"/"), "a name that leads out of the archive"),
        (raw[-1:] == b"/", "the name of a folder"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            raise refusal(where, f"a member with {what}: {name[: limits.NAME]!r}")
    return name


def _require_plain(name: str, flags: int, method: int, mode: int, where: str) -> None:
    kind = stat.S_IFMT(mode >> 16)
    wrong = [
        (flags & _ENCRYPTED, "encrypted"),
        (flags & _SIZES_LATER, "of a size that only follows its bytes"),
        (flags, f"marked with the ZIP flags {flags:#06x}"),
        (method not in (STORED, DEFLATED), f"packed by method {method}"),
        (kind == stat.S_IFLNK, "a symbolic link"),
        (kind == stat.S_IFDIR or mode & 0x10, "a folder"),
        (kind != stat.S_IFREG, "not a plain file"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            raise refusal(where, f"{name} is {what}, which nothing in a session is")


# ---------------------------------------------------------------------- writing


def local_header(entry: Entry) -> bytes:
    """What lies before a member's bytes, its name included."""
    sizes = (entry.crc, entry.packed, entry.size)
    versions = (_NEEDED, 0, entry.method, _TIME, _DATE)
    head = _LOCAL.pack(_LOCAL_MARK, *versions, *sizes, len(entry.name), 0)
    return head + entry.name.encode("ascii")


def central_directory(entries: list[Entry], start: int) -> bytes:
    """The list of members and the end record, for a file whose members end at `start`."""
    parts = []
    for one in entries:
        versions = (_MADE_BY, _NEEDED, 0, one.method, _TIME, _DATE)
        lengths = (len(one.name), 0, 0, 0, 0)
        sizes = (one.crc, one.packed, one.size)
        parts.append(
            _CENTRAL.pack(_CENTRAL_MARK, *versions, *sizes, *lengths, _PLAIN_FILE, one.header)
            + one.name.encode("ascii")
        )
    listed = b"".join(parts)
    count = (0, 0, len(entries), len(entries))
    return listed + _END.pack(_END_MARK, *count, len(listed), start, 0)

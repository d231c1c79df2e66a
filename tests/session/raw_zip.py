"""A ZIP packer that lies when told to; shares nothing with the packer under test."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

STORED, DEFLATED = 0, 8
PLAIN = 0o100644 << 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """A member: its packed bytes, and what both headers say (`local` and `central` differ)."""

    name: bytes
    packed: bytes
    size: int
    crc: int
    method: int = STORED
    flags: int = 0
    mode: int = PLAIN
    extra: bytes = b""
    comment: bytes = b""
    local: Mapping[str, int] = field(default_factory=dict)
    central: Mapping[str, int] = field(default_factory=dict)


def part(name: bytes, data: bytes, *, method: int = STORED) -> Part:
    """An honest member."""
    packed = deflated(data) if method == DEFLATED else data
    return Part(name=name, packed=packed, size=len(data), crc=zlib.crc32(data), method=method)


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def changed(parts: Sequence[Part], index: int, **what: object) -> list[Part]:
    """The parts, one of them changed."""
    return [
        replace(one, **what) if at == index else one  # type: ignore[arg-type]
        for at, one in enumerate(parts)
    ]


def pack(
    parts: Sequence[Part],
    *,
    before: bytes = b"",
    between: bytes = b"",
    after_members: bytes = b"",
    comment: bytes = b"",
    after: bytes = b"",
    shift: bool = True,
    end: Mapping[str, int] | None = None,
) -> bytes:
    """The archive. `shift`: whether offsets count what lies before."""
    body, listed = before, b""
    base = 0 if shift else len(before)
    for one in parts:
        header = {
            "made_by": 0x314,
            "needed": 20,
            "flags": one.flags,
            "method": one.method,
            "time": 0,
            "date": 0x21,
            "crc": one.crc,
            "packed": len(one.packed),
            "size": one.size,
            "name": len(one.name),
            "extra": len(one.extra),
            "comment": len(one.comment),
            "disk": 0,
            "internal": 0,
            "mode": one.mode,
            "offset": len(body) - base,
        }
        body += _local({**header, **one.local}) + one.name + one.extra + one.packed + between
        listed += _central({**header, **one.central}) + one.name + one.extra + one.comment
    body += after_members
    last = {"disk": 0, "first": 0, "here": len(parts), "count": len(parts)}
    last |= {"size": len(listed), "start": len(body) - base, "comment": len(comment)}
    last |= end or {}
    return body + listed + struct.pack("<4s4H2IH", b"PK\5\6", *last.values()) + comment + after


def _local(h: Mapping[str, int]) -> bytes:
    names = ["needed", "flags", "method", "time", "date"]
    names += ["crc", "packed", "size", "name", "extra"]
    return struct.pack("<4s5H3I2H", b"PK\3\4", *(h[name] for name in names))


def _central(h: Mapping[str, int]) -> bytes:
    names = ["made_by", "needed", "flags", "method", "time", "date", "crc", "packed", "size"]
    names += ["name", "extra", "comment", "disk", "internal", "mode", "offset"]
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *(h[name] for name in names))

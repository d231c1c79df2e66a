"""Hostile archives: bytes, ZIP headers, names, bombs; and members that are not as listed."""

import json
import struct
from collections.abc import Iterator

from tests.session.changing import (
    Case,
    members_of,
    packed,
    parts,
    record_path,
    refused,
    with_array,
    zip_parts,
)
from tests.session.raw_zip import DEFLATED, PLAIN, Part, changed, deflated, pack, part
from workbench.session.schema import weights_path


def cut_and_flipped() -> Iterator[Case]:
    """Cut at every percent; one byte changed in every part of every structure."""
    whole = packed(parts())
    yield refused("empty", b"", "too few")
    for percent in range(1, 100):
        cut = whole[: len(whole) * percent // 100]
        yield refused(f"cut at {percent} %", cut, "cut short" if len(cut) > 4 else "too few")
    members = zip_parts(members_of(parts()))
    position = 0
    for one in members:
        name, header = one.name.decode(), 30 + len(one.name)
        for at in (0, 4, 6, 8, 10, 12, 14, 18, 22, 26, 28, 30):
            yield _flipped(whole, position + at, f"local header of {name} byte {at}")
        length = len(one.packed)
        for at in sorted({0, 7, 9, length // 3, length // 2, length - 1}):
            yield _flipped(whole, position + header + at, f"{name} byte {at}")
        position += header + length
    for at in range(position, len(whole) - 22, 7):
        yield _flipped(whole, at, f"central directory byte {at - position}")
    for at in range(22):
        yield _flipped(whole, len(whole) - 22 + at, f"end record byte {at}")


def _flipped(whole: bytes, at: int, what: str) -> Case:
    content = whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
    return refused(f"flipped {what}", content, "")


def zip_headers() -> Iterator[Case]:
    """Headers that no session has."""
    base = zip_parts(members_of(parts()))
    link, folder, pipe = 0o120777 << 16, 0o040755 << 16, 0o010644 << 16
    tweaks: list[tuple[str, dict[str, object], str]] = [
        ("symbolic link", {"mode": link}, "a symbolic link"),
        ("folder by mode", {"mode": folder}, "a folder"),
        ("folder by DOS bit", {"mode": PLAIN | 0x10}, "a folder"),
        ("pipe", {"mode": pipe}, "not a plain file"),
        ("no mode", {"mode": 0}, "not a plain file"),
        ("executable", {"mode": 0o100755 << 16}, "not one that the Workbench writes"),
        ("set-user-id", {"mode": 0o104644 << 16}, "not one that the Workbench writes"),
        ("encrypted", {"flags": 1}, "encrypted"),
        ("strongly encrypted", {"flags": 0x41}, "encrypted"),
        ("sizes later", {"flags": 8}, "only follows"),
        ("UTF-8 flag", {"flags": 0x800}, "flags 0x0800"),
        ("bzip2", {"method": 12}, "packed by method 12"),
        ("LZMA", {"method": 14}, "packed by method 14"),
        ("deflate64", {"method": 9}, "packed by method 9"),
        ("extra field", {"extra": b"\x01\0\0\0"}, "extra fields"),
        ("comment on a member", {"comment": b"hello"}, "a comment"),
        ("ZIP64 size", {"central": {"size": 0xFFFFFFFF}}, "ZIP64"),
        ("ZIP64 offset", {"central": {"offset": 0xFFFFFFFF}}, "ZIP64"),
        ("another time", {"central": {"time": 1}}, "not one that the Workbench writes"),
        ("another disk", {"central": {"disk": 1}}, "not one that the Workbench writes"),
        ("made on Windows", {"central": {"made_by": 20}}, "not one that the Workbench writes"),
        ("local name length", {"local": {"name": 3}}, "two headers differ"),
        ("local extra length", {"local": {"extra": 4}}, "two headers differ"),
        ("local method", {"local": {"method": 8}}, "two headers differ"),
        ("local size", {"local": {"size": 1}}, "two headers differ"),
        ("local flags", {"local": {"flags": 1}}, "two headers differ"),
        ("central name length", {"central": {"name": 4}}, "list of members is damaged"),
        ("central name beyond", {"central": {"name": 60_000}}, ""),
        ("central extra beyond", {"central": {"extra": 60_000}}, "extra fields"),
        ("stored of another size", {"size": 10}, "stored, and yet"),
        ("wrong CRC", {"crc": 1}, "digest"),
        ("local offset", {"central": {"offset": 7}}, "overlap, or something lies between"),
    ]
    for name, tweak, says in tweaks:
        yield refused(f"header: {name}", pack(changed(base, 3, **tweak)), says)
    for at, member in enumerate(["manifest.json", "session.json"]):
        wrong = pack(changed(base, at, crc=1))
        yield refused(f"header: wrong CRC of {member}", wrong, f"{member} does not have the digest")
    yield from _zip_layouts(base)


def _zip_layouts(base: list[Part]) -> Iterator[Case]:
    gap, ends = "something lies between", "no ZIP end record"
    html, png = b"<html><script>alert(1)</script>", b"\x89PNG\r\n\x1a\n" + bytes(64)
    layouts = [
        ("archive comment", pack(base, comment=b"hello"), ends),
        ("comment length only", pack(base, end={"comment": 9}), "a comment"),
        ("bytes after", pack(base, after=b"\0"), ends),
        ("two archives", pack(base) + pack(base), "list of members is not where"),
        ("bytes between", pack(base, between=b"?"), gap),
        ("bytes before the list", pack(base, after_members=b"hidden"), "members end at"),
        ("behind HTML", pack(base, before=html), "does not begin as"),
        ("behind HTML, not counted", pack(base, before=html, shift=False), "does not begin as"),
        ("behind PNG", pack(base, before=png), "does not begin as"),
        ("behind another ZIP", pack(base, before=pack(base[:1])), gap),
        ("behind another ZIP, not counted", pack(base, before=pack(base[:1]), shift=False), "list"),
        ("ZIP64 count", pack(base, end={"count": 0xFFFF}), "ZIP64"),
        ("ZIP64 start", pack(base, end={"start": 0xFFFFFFFF}), "ZIP64"),
        ("ZIP64 records", pack(base, after_members=b"PK\6\6" + bytes(72)), "members end at"),
        ("several disks", pack(base, end={"disk": 1}), "in several parts"),
        ("counts differ", pack(base, end={"here": 1}), "in several parts"),
        ("no members", pack([], before=b"PK\3\4"), "a list of 0 members"),
        ("only an end record", pack([]), "does not begin as"),
        ("fewer than listed", pack(base, end={"here": 2, "count": 2}), "behind the ZIP's list"),
        ("more than listed", pack(base, end={"here": 9, "count": 9}), "is cut short"),
        ("list longer", pack(base, end={"size": 2000}), "not where"),
        ("list elsewhere", pack(base, end={"start": 0}), "not where"),
        ("duplicate member", pack([*base, base[-1]]), "two members are called"),
        ("duplicate manifest", pack([base[0], *base]), "two members are called"),
        ("members in another order", pack([base[0], *reversed(base[1:])]), "another order"),
        ("manifest last", pack([*base[1:], base[0]]), "the first member"),
    ]
    for name, content, says in layouts:
        yield refused(f"layout: {name}", content, says)


def zip_names() -> Iterator[Case]:
    """Names that are not on the list."""
    base = zip_parts(members_of(parts()))
    out = "leads out of the archive"
    names = [
        (b"/etc/passwd", "absolute"),
        (b"C:/windows/win.ini", "absolute"),
        (b"../../../home/.bashrc", out),
        (b"arrays/../../x", out),
        (b"arrays/..", out),
        (b"arrays\\..\\x", "backslash"),
        (b"arrays/x\0.safetensors", "NUL"),
        (b"", "no name"),
        (b"a" * 101, "a name of 101 bytes"),
        (b"a" * 65_000, "a name of 65000 bytes"),
        ("arrays/weights-000\u0661.safetensors".encode(), "outside ASCII"),
        (b"arrays/\x1b[2J.safetensors", "does not list"),
        (b"arrays/", "a folder"),
        (b"arrays/<script>.safetensors", "does not list"),
        (b"arrays/weights-000001.safetensors", "does not list"),
        (b"Session.json", "does not list"),
        (b"./session.json", "does not list"),
        (b"session.json ", "does not list"),
        (b"x.pkl", "does not list"),
    ]
    for name, says in names:
        yield refused(f"name: {name[:40]!r} {len(name)}", pack([*base, part(name, b"x")]), says)


def zip_bombs() -> Iterator[Case]:
    """Little that unpacks to much, and lies about sizes."""
    base = zip_parts(members_of(parts()))
    zeros = deflated(bytes(100_000_000))
    bomb = Part(name=b"session.json", packed=zeros, size=100_000_000, crc=0, method=DEFLATED)
    yield refused("bomb: 100 MB of zeros", pack([base[0], bomb, *base[2:]]), "where manifest")
    for size in (10, 16 * 2**20):
        session = parts()
        manifest = json.loads(members_of(session)["manifest.json"])
        manifest["members"][0]["size"] = size
        first = part(b"manifest.json", json.dumps(manifest).encode())
        lying = changed([first, bomb], 1, size=size)
        yield refused(
            f"bomb: said to be {size} bytes", pack([*lying, *base[2:]]), "does not unpack"
        )
    padded = deflated(b"{" + b" " * 8_000_000 + b"}")
    big = Part(name=b"manifest.json", packed=padded, size=8_000_002, crc=0, method=DEFLATED)
    yield refused("bomb: manifest", pack([big, *base[1:]]), "at most 2097152")
    small = changed([big], 0, size=2_000_000)
    yield refused("bomb: manifest that lies", pack([*small, *base[1:]]), "200 to one")
    yield refused("bomb: arrays packed", _packed_arrays(), "arrays are stored")
    nested = members_of(parts())["session.json"]
    for _ in range(3):
        nested = pack([part(b"session.json", nested, method=DEFLATED)] * 50)
    yield refused("bomb: nested archives", packed(parts(), document=nested), "outside ASCII")
    yield refused("bomb: overlapping members", _overlapping(), "overlap")
    many = [part(b"arrays/%d" % n, b"") for n in range(4098)]
    yield refused("bomb: 4,098 members", pack(many), "a list of 4098 members")
    short = changed(base, 1, packed=base[1].packed[:-9])
    yield refused("packed bytes cut", pack(short), "does not unpack")
    longer = changed(base, 1, packed=base[1].packed + b"hidden")
    yield refused("bytes behind the packed ones", pack(longer), "does not unpack")
    twice = changed(base, 1, packed=base[1].packed + base[1].packed)
    yield refused("packed twice", pack(twice), "does not unpack")
    yield refused("packed bytes damaged", pack(changed(base, 1, packed=b"\xff" * 99)), "")


def _packed_arrays() -> bytes:
    members = members_of(parts())
    return pack([part(name.encode(), data, method=DEFLATED) for name, data in members.items()])


def _overlapping() -> bytes:
    """Many members in the list, all with the same bytes (D. Fifield, WOOT 2019)."""
    kernel = Part(name=b"a000", packed=deflated(bytes(2**20)), size=2**20, crc=0, method=DEFLATED)
    first = pack([kernel])
    body, entry = first[: -22 - 46 - 4], first[-22 - 46 - 4 : -22 - 4]
    listed = b"".join(entry + b"a%03d" % n for n in range(1000))
    end = (0, 0, 1000, 1000, len(listed), len(body), 0)
    return body + listed + struct.pack("<4s4H2IH", b"PK\5\6", *end)


def members_and_digests() -> Iterator[Case]:
    """Members and digests that do not go together."""
    for path in members_of(parts()):
        if path != "manifest.json":
            yield from _wrong_lists(path)
    weights = weights_path(400)
    members = members_of(parts())
    extra = {**members, weights_path(800): members[weights]}
    yield refused("extra member, not listed", pack(zip_parts(extra)), "does not list")
    session = parts()
    session.arrays[weights_path(800)] = members[weights]
    yield refused("extra member, listed", packed(session), "does not speak of")
    session = with_array(weights, members[weights_path(0)])
    yield refused("weights swapped, manifest right", packed(session), "digest differs")
    session = parts()
    session.document["checkpoints"][1]["weights_sha256"] = "0" * 64
    yield refused("checkpoint digest, record's not", packed(session), "not in the file")
    session.document["records"][0]["checkpoints"][0]["weights_sha256"] = "0" * 64
    yield refused("checkpoint digest and record's", packed(session), "digest differs")
    session = with_array(record_path(), members[record_path()] + b"\0", told=False)
    yield refused("record's arrays changed, manifest right", packed(session), "is not the file")
    twice = json.loads(members["manifest.json"])
    twice["members"].append(twice["members"][0])
    text = {**members, "manifest.json": json.dumps(twice).encode()}
    yield refused("member listed twice", pack(zip_parts(text)), "lists a member twice")
    twice["members"][-1] |= {"path": "arrays/../session.json"}
    text = {**members, "manifest.json": json.dumps(twice).encode()}
    yield refused("member path that leads out", pack(zip_parts(text)), "path")


def _wrong_lists(path: str) -> Iterator[Case]:
    """A manifest that is wrong about one member."""
    members = members_of(parts())
    at = list(members).index(path) - 1
    for what, says in [
        ({"sha256": "0" * 64}, "is not the file" if path == record_path() else "digest"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"size": 1}, "manifest.json says 1"),
        ({"size": -1}, "size"),
        ({"size": 10**30}, "manifest.json says 1000"),
        ({"size": "9"}, "size"),
        ({"link": "/etc/passwd"}, "link"),
    ]:
        manifest = json.loads(members["manifest.json"])
        manifest["members"][at] |= what
        text = {**members, "manifest.json": json.dumps(manifest).encode()}
        yield refused(f"{path} listed with {what}", pack(zip_parts(text)), says)
    without = {name: data for name, data in members.items() if name != path}
    yield refused(f"without {path}", pack(zip_parts(without)), "is missing")
    session = parts()
    if path != "session.json":
        del session.arrays[path]
        yield refused(f"without {path}, not listed", packed(session), "is missing")
    edited = members[path].replace(b"2", b"3")
    yield refused(
        f"{path} edited",
        pack(zip_parts({**members, path: edited})),
        "digest" if edited != members[path] else "",
    )

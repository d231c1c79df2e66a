"""Change valid sessions at random and verify them: only a `SessionError` may come out.

`python -m tests.session.fuzz --minutes 60 --seed 0` prints its progress, keeps every file that did
something else (another exception, more than 2 s of the processor, more than 200 MB) in
`--crashes`, and exits with 1 if there was any. `--only N` makes the Nth file of a seed again.

Changes are made to bytes, ZIP headers, JSON values and texts, safetensors headers and values; most
of them are hashed again, so that digests are right and what lies behind them is reached. What is
accepted must be read the same by `zipfile`, and must be written again.
"""

import argparse
import copy
import json
import random
import string
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.session import changing, making
from tests.session.raw_zip import DEFLATED, changed, pack
from tests.session.refusing import peak_memory
from workbench.errors import SessionError
from workbench.session.archive import open_archive
from workbench.session.verifying import verify
from workbench.session.writing import write_archive

SECONDS, MEMORY = 2.0, 200.0
Draw = random.Random

WORDS = [
    "",
    "a",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "\U0001f600",
    "__metadata__",
    "../../x",
    "arrays/weights-000400.safetensors",
    "F32",
    "float64",
    "NaN",
    "1",
    "2026-11-20T18:53:06Z",
    "0" * 32,
    "f" * 64,
    "<script>alert(1)</script>",
    "a" * 201,
    "b" * 100_001,
    "\n\t",
]
NUMBERS = [0, 1, -1, 2, 3, 4, 5, 8, 255, 400, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30]
NUMBERS += [10**39, 10**45]
OTHERS: list[Any] = [None, True, False, 0.0, -0.0, 0.5, 1e308, 5e-324, [], {}, [[]], [0, 0]]
LARGE: list[Any] = [[0] * 60_000, [{}] * 15_000, {str(n): 0 for n in range(30_000)}, "c" * 10**6]


# ---------------------------------------------------------------------- bytes and values


def any_value(draw: Draw) -> Any:
    """Some JSON value, seldom a large one."""
    kind = draw.random()
    if kind < 0.01:
        return copy.deepcopy(draw.choice(LARGE))
    if kind < 0.3:
        return draw.choice(WORDS)
    if kind < 0.6:
        return draw.choice(NUMBERS)
    if kind < 0.9:
        return copy.deepcopy(draw.choice(OTHERS))
    return [any_value(draw) for _ in range(draw.randrange(4))]


def other_bytes(data: bytes, draw: Draw) -> bytes:
    """The bytes with a few changes."""
    changing = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        at = draw.randrange(len(changing) + 1)
        stop = min(len(changing), at + draw.choice([1, 2, 4, 8, 100]))
        kind = draw.randrange(6)
        if kind == 0 and at < len(changing):
            changing[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changing[at:stop] = draw.choice([b"\0", b"\xff", b"\x7f"]) * (stop - at)
        elif kind == 2:
            changing[at:at] = draw.randbytes(draw.choice([1, 4, 50]))
        elif kind == 3:
            del changing[at:stop]
        elif kind == 4:
            source = draw.randrange(len(changing) + 1)
            changing[at:stop] = changing[source : source + 30]
        else:
            changing[at:stop] = draw.choice([b'"', b"\\", b"[", b"{", b"}", b",", b":", b"1e999"])
    return bytes(changing)


def change_json(data: Any, draw: Draw) -> None:
    """Change a few places of JSON data, in place."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        places = [path for path in changing.places(data) if path]
        if not places:
            return
        path = draw.choice(places)
        holder, last = changing.get(data, path[:-1]), path[-1]
        kind = draw.randrange(7)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice([*WORDS, *holder])] = any_value(draw)
        elif kind == 2 and isinstance(holder, dict):
            holder[draw.choice(WORDS)] = holder.pop(last)
        elif kind == 3 and isinstance(holder, list):
            holder.insert(last, copy.deepcopy(draw.choice(holder)))
        elif kind == 4:
            holder[last] = copy.deepcopy(changing.get(data, draw.choice(places)))
        elif kind == 5 and isinstance(holder[last], str) and holder[last]:
            text, at = holder[last], draw.randrange(len(holder[last]))
            holder[last] = text[:at] + draw.choice(string.printable) + text[at + 1 :]
        else:
            holder[last] = any_value(draw)


# ---------------------------------------------------------------------- kinds of change


def whole_file(draw: Draw) -> bytes:
    return other_bytes(changing.packed(changing.parts()), draw)


def zip_headers(draw: Draw) -> bytes:
    """Headers that lie."""
    parts = changing.zip_parts(changing.members_of(changing.parts()))
    at = draw.randrange(len(parts))
    names = ["flags", "method", "crc", "packed", "size", "name", "extra"]
    bounds = {"crc": 2**32, "packed": 2**32, "size": 2**32, "offset": 2**32, "mode": 2**32}
    small = draw.choice([1, 8, 30, 2**16, 2**32])

    def lie(name: str) -> dict[str, int]:
        return {name: draw.randrange(min(small, bounds.get(name, 2**16)))}

    kind = draw.randrange(6)
    if kind == 0:
        parts = changed(parts, at, local=lie(draw.choice([*names, "needed", "time", "date"])))
    elif kind == 1:
        more = ["made_by", "comment", "disk", "internal", "mode", "offset", "time", "date"]
        parts = changed(parts, at, central=lie(draw.choice([*names, *more])))
    elif kind == 2:
        parts = changed(parts, at, name=other_bytes(parts[at].name, draw))
    elif kind == 3:
        parts = changed(parts, at, packed=other_bytes(parts[at].packed, draw))
    elif kind == 4:
        parts = changed(parts, at, method=DEFLATED if parts[at].method == 0 else 0)
    else:
        draw.shuffle(parts)
        parts = parts[: draw.randrange(len(parts) + 1)] + draw.choices(parts, k=draw.randrange(3))
    end = lie(draw.choice(["disk", "first", "here", "count", "size", "start", "comment"]))
    end = {name: n % 2 ** (32 if name in ("size", "start") else 16) for name, n in end.items()}
    return pack(parts, end=end if draw.random() < 0.2 else None)


def manifest_values(draw: Draw) -> bytes:
    members = changing.members_of(changing.parts())
    manifest = json.loads(members["manifest.json"])
    change_json(manifest, draw)
    text = json.dumps(manifest).encode()
    return pack(changing.zip_parts({**members, "manifest.json": text}))


def document_values(draw: Draw) -> bytes:
    session = changing.parts()
    change_json(session.document, draw)
    return changing.packed(session)


def json_texts(draw: Draw) -> bytes:
    """`session.json` or `manifest.json` as text."""
    session = changing.parts()
    text = json.dumps(session.document).encode()
    if draw.random() < 0.5:
        return changing.packed(session, document=other_bytes(text, draw))
    members = changing.members_of(session)
    text = other_bytes(members["manifest.json"], draw)
    return pack(changing.zip_parts({**members, "manifest.json": text}))


def array_bytes(draw: Draw) -> bytes:
    """A member's bytes, header or values, with every digest of the file right."""
    path = draw.choice(list(changing.parts().arrays))
    data = other_bytes(changing.parts().arrays[path], draw)
    return changing.packed(changing.with_array(path, data))


def array_headers(draw: Draw) -> bytes:
    """A safetensors header as JSON."""
    path = draw.choice(list(changing.parts().arrays))
    data = changing.parts().arrays[path]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change_json(header, draw)
    text = json.dumps(header).encode()
    said = len(text) if draw.random() < 0.9 else draw.choice(NUMBERS) % 2**64
    data = said.to_bytes(8, "little") + text + data[8 + length :]
    return changing.packed(changing.with_array(path, data))


def array_values(draw: Draw) -> bytes:
    """Weights of any bits, with the digest that they have."""
    weights = making.weights(400)
    array = weights[draw.choice(list(weights))]
    raw = bytearray(array.tobytes())
    for _ in range(draw.choice([0, 1, 5])):
        raw[draw.randrange(len(raw))] = draw.choice([0x00, 0x7F, 0x80, 0xFF])
    array.reshape(-1).view("uint8")[:] = list(raw)
    session = changing.with_array(
        "arrays/weights-000400.safetensors", making.safetensors_bytes(weights)
    )
    digest = making.weights_digest(weights)
    session.document["checkpoints"][1]["weights_sha256"] = digest
    session.document["records"][0]["checkpoints"][0]["weights_sha256"] = digest
    return changing.packed(session)


CHANGES: list[Callable[[Draw], bytes]] = [
    whole_file,
    zip_headers,
    manifest_values,
    document_values,
    document_values,
    json_texts,
    array_bytes,
    array_headers,
    array_values,
]


# ---------------------------------------------------------------------- running


def changed_session(seed: int, number: int) -> tuple[str, bytes]:
    """The name of the change, and the file."""
    draw = Draw(f"{seed} {number}")
    change = draw.choice(CHANGES)
    return change.__name__, change(draw)


def judge(path: Path) -> str:
    """Read the file in every way. Raises whatever comes out, save `SessionError`."""
    try:
        archive = open_archive(path)
        for member in archive.manifest.members:
            archive.read(member.path)
    except SessionError as error:
        require_message(error)
    try:
        verified = verify(path)
    except SessionError as error:
        require_message(error)
        return "refused"
    members = [(one.path, archive.read(one.path)) for one in verified.members]
    with zipfile.ZipFile(path) as other:
        assert other.namelist() == ["manifest.json", *(name for name, _ in members)]
        assert all(other.read(name) == data for name, data in members)
    again = path.with_name("again.workbench")
    write_archive(again, verified.document, members[1:], parent=None, made_with={})
    assert open_archive(again).document == verified.document
    return "accepted"


def require_message(error: SessionError) -> None:
    """One printable line that is not too long."""
    assert str(error).isprintable() and len(str(error)) < 1500, f"message: {str(error)!r}"


def attempt(path: Path) -> tuple[str, str]:
    """What became of a file, and what is wrong with that (nothing, as a rule)."""
    reset_peak()
    before, started = peak_memory(), time.process_time()
    try:
        outcome, wrong = judge(path), ""
    except Exception:
        outcome, wrong = "crashed", traceback.format_exc()
    taken, grown = time.process_time() - started, peak_memory() - before
    if taken > SECONDS:
        wrong += f"took {taken:.1f} s of the processor\n"
    if grown > MEMORY:
        wrong += f"took {grown:.0f} MB\n"
    return outcome, wrong


def reset_peak() -> None:
    """Start the count of `peak_memory` again at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def fuzz(minutes: float, seed: int, crashes: Path) -> int:
    """Try files until the time is over; how many did what they must not."""
    counts: Counter[str] = Counter()
    ends, shown = time.monotonic() + 60 * minutes, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.workbench"
        while time.monotonic() < ends:
            name, content = changed_session(seed, counts["files"])
            path.write_bytes(content)
            outcome, wrong = attempt(path)
            if wrong:
                crashes.mkdir(parents=True, exist_ok=True)
                kept = crashes / f"{seed}-{counts['files']}-{name}"
                kept.with_suffix(".workbench").write_bytes(content)
                kept.with_suffix(".txt").write_text(wrong)
                say(f"CRASH {kept}: {wrong.strip().splitlines()[-1]}")
            counts.update(["files", outcome, f"{name} {outcome}"] + ["wrong"] * bool(wrong))
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                say(f"{dict(counts)}")
    say(f"done: {dict(sorted(counts.items()))}")
    return counts["wrong"]


def say(line: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("--only", type=int, help="make this file of the seed, and try it")
    given = parser.parse_args()
    if given.only is None:
        return int(fuzz(given.minutes, given.seed, given.crashes) > 0)
    name, content = changed_session(given.seed, given.only)
    path = Path(f"{given.seed}-{given.only}-{name}.workbench")
    path.write_bytes(content)
    say(f"{path}: {attempt(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

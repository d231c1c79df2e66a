"""Hostile JSON: manifests, texts, values of `session.json`, models, and script in every text."""

import json
import pickle
from collections.abc import Iterator
from typing import Any

from tests.session.changing import (
    Case,
    Data,
    edited,
    get,
    members_of,
    packed,
    parts,
    places,
    put,
    refused,
    zip_parts,
)
from tests.session.raw_zip import pack

MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![](http://example.com/a.png)",
    "[a](javascript:alert(1))",
    "{{7*7}}${7*7}`id`$(id)",
    "'\"><svg/onload=alert(1)>",
    "</script><!-- ]]>",
    "=1+1,- a",
]
LINES = "=1+1\t\n- a\u2028# b"
"""What may stand in paragraphs, and not in a label."""
_OPEN = ("task", "recipe", "parameters", "result")
"""Objects that hold any JSON."""


def manifests() -> Iterator[Case]:
    """Wrong manifests."""
    edits: list[tuple[str, Data, str]] = [
        ("another format", {"format": "zip"}, "format 'zip'"),
        ("no format", {"format": None}, "format None"),
        ("version 3", {"schema_version": 3}, "schema version 3, this Workbench reads up to 1"),
        ("version 0", {"schema_version": 0}, "a number from 1"),
        ("version in words", {"schema_version": "1"}, "a number from 1"),
        ("version true", {"schema_version": True}, "a number from 1"),
        ("version 1.0", {"schema_version": 1.0}, "a number from 1"),
        ("version of 10**30", {"schema_version": 10**30}, "upgrade with pip"),
        ("version a list", {"schema_version": [1]}, "a number from 1"),
        ("extra key", {"author": "me"}, "author"),
        ("extra key with a line end", {"a\nb": 1}, "a\\nb"),
        ("bad id", {"id": "../x"}, "id"),
        ("parent a number", {"parent": 3}, "parent"),
        ("bad time", {"created": "yesterday"}, "created"),
        ("time with a line end", {"created": "2026-11-20T18:53:06Z\n"}, "created"),
        ("made_with a list", {"made_with": []}, "made_with"),
        ("made_with too long", {"made_with": {f"a{n}": "1" for n in range(21)}}, "made_with"),
        ("made_with escape", {"made_with": {"torch": "\x1b[31m2"}}, "U+001B"),
        ("members none", {"members": []}, "members"),
        ("members in words", {"members": "all"}, "members"),
        ("member a number", {"members": [1, 2]}, "members"),
        ("members without end", {"members": [1] * 49_000}, "49001 faults"),
        ("oldest_reader in words", {"oldest_reader": "1"}, "oldest_reader"),
        ("oldest_reader 0", {"oldest_reader": 0}, "oldest_reader"),
    ]
    for name, edit, says in edits:
        session = parts()
        yield refused(
            f"manifest: {name}", packed(session._replace(manifest=session.manifest | edit)), says
        )
    members = members_of(parts())
    for name, text, says in [
        ("a list", b"[]", "JSON list"),
        ("a word", b'"workbench-session"', "JSON str"),
        ("empty", b"", "not valid JSON"),
        ("null", b"null", "JSON NoneType"),
        ("pickle", pickle.dumps({"a": 1}), "outside ASCII"),
        ("nested deep", b"[" * 100_000, "inside each other"),
        ("duplicate format", b'{"format":1,' + members["manifest.json"][1:], "twice"),
    ]:
        yield refused(
            f"manifest: {name}", pack(zip_parts({**members, "manifest.json": text})), says
        )


def json_texts() -> Iterator[Case]:
    """JSON that should not be read, in place of a value or of the whole file."""
    text = json.dumps(parts().document)
    record = text.replace('"skipped": []', '"skipped": %s')
    deep = "[" * 61 + "]" * 61
    wide = "[" + "0," * 260_000 + "0]"
    hidden = json.dumps({"a": [{} for _ in range(130_000)]})
    values = [
        ("NaN", "NaN", "NaN is not a JSON number"),
        ("Infinity", "[Infinity]", "Infinity is not a JSON number"),
        ("-Infinity", "[-Infinity]", "Infinity is not a JSON number"),
        ("1e999", "[1e999]", "too large"),
        ("number of 5,000 digits", "[" + "9" * 5000 + "]", "more than 40 characters"),
        ("number of 2 million digits", "[" + "9" * 2_000_000 + "]", "more than 40 characters"),
        ("61 deep", deep, "inside each other"),
        ("200,000 deep", "[" * 200_000, "inside each other"),
        ("260,000 numbers", wide, "more than 250000 values"),
        ("17 MB of numbers", "[" + "0," * 8_500_000 + "0]", "at most 16777216"),
        ("130,000 objects", hidden, "more than 250000 values"),
        ("2 million empty strings", "[" + '""' * 2_000_000 + "]", "more than 250000 values"),
        ("15 MB of escaped quotes", '"' + '\\"' * 7_500_000, "not valid JSON"),
        ("3 MB of backslashes", '"' + "\\" * 3_000_000, "not valid JSON"),
        ("3 MB of closing brackets", "[]" + "]" * 3_000_000, "none opened"),
        ("string of 200,000", json.dumps("a" * 200_000), "text of 200000 characters"),
        ("string of 3 million", json.dumps("a" * 3_000_000), "text of 3000000 characters"),
        ("duplicate key", '{"a": 1, "a": 2}', "twice"),
        ("duplicate key by escape", '{"a": 1, "\\u0061": 2}', "twice"),
        ("raw control character", '"\x01"', "not valid JSON"),
        ("raw line end", '"a\nb"', "not valid JSON"),
        ("single quotes", "'a'", "not valid JSON"),
        ("comment", "[] // a", "not valid JSON"),
        ("trailing comma", "[1,]", "not valid JSON"),
        ("bare word", "undefined", "not valid JSON"),
        ("hexadecimal", "0x10", "not valid JSON"),
        ("lone surrogate", '"\\ud800"', "U+D800"),
        ("bad escape", '"\\x41"', "not valid JSON"),
        ("raw é", '"é"', "outside ASCII"),
    ]
    slow = json.dumps({**{str(n): 0 for n in range(100_000)}, "x": 0})[:-1] + ', "x": 1}'
    values.append(("duplicate behind 100,000 keys", slow, "twice"))
    for name, value, says in values:
        content = packed(parts(), document=(record.replace("%s", value)).encode())
        yield refused(f"JSON: {name}", content, says)
    whole = [
        ("byte order mark", b"\xef\xbb\xbf" + text.encode(), "outside ASCII"),
        ("UTF-16", text.encode("utf-16"), "outside ASCII"),
        ("UTF-16 without mark", text.encode("utf-16-le"), "not valid JSON"),
        ("cut", text[:-30].encode(), "not valid JSON"),
        ("two objects", text.encode() * 2, "not valid JSON"),
        ("a list", b"[]", "JSON list"),
        ("empty", b"", "not valid JSON"),
        ("NUL bytes", bytes(5000), ""),
        ("spaces", b" " * 3000, "not valid JSON"),
        ("HTML", b"<html><script>alert(1)</script></html>", "not valid JSON"),
        ("pickle", pickle.dumps(parts().document), ""),
    ]
    for name, data, says in whole:
        yield refused(f"JSON: whole file {name}", packed(parts(), document=data), says)


def _is_open(path: tuple[Any, ...]) -> bool:
    return any(name in path for name in _OPEN) or path[:2] == ("network", "source")


def documents() -> Iterator[Case]:
    """Wrong types and further keys at every place of `session.json` that is not open."""
    plain = parts().document
    maps = {"labels", "positions", "view", "details", "tolerances", "tensors"}
    for path in places(plain):
        if not path or _is_open(path):
            continue
        value, where = get(plain, path), ".".join(map(str, path))
        wrong: Any = {"a": []} if isinstance(value, list) else [[]]
        yield edited(f"type of {where}", path, wrong)
        if isinstance(value, dict) and path[-1] not in maps:
            yield edited(f"further key in {where}", (*path, "further"), 1, says="further")
        if isinstance(value, int) and not isinstance(value, bool) and "view" not in path:
            yield edited(f"{where} in words", path, str(value))
            yield edited(f"{where} true", path, True)
    yield from _wrong_values()


def _wrong_values() -> Iterator[Case]:
    first = ("records", 0)
    many = [0] * 49_000
    plain = parts().document
    record = plain["records"][0]
    edits: list[tuple[str, tuple[Any, ...], Any, str]] = [
        ("no checkpoints", ("checkpoints",), [], "checkpoints"),
        ("descending", ("checkpoints",), plain["checkpoints"][::-1], "ascend"),
        ("twice the same step", ("checkpoints",), plain["checkpoints"][:1] * 2, "ascend"),
        ("step below 0", ("checkpoints", 0, "step"), -1, "step"),
        ("step of 10**9", ("checkpoints", 1, "step"), 10**9, "step"),
        ("one checkpoint gone", ("checkpoints",), plain["checkpoints"][1:], "does not speak of"),
        ("record twice", ("records",), [record, record], "same id"),
        ("2,001 records", ("records",), [0] * 2001, "2001 records"),
        ("records of zeros", ("records",), [0], "records.0"),
        ("record id leads out", (*first, "id"), "../x-0123456789abcdef", "id"),
        ("record id of another", (*first, "id"), "patching-0123456789abcdef", "is missing"),
        ("record about another", (*first, "checkpoints", 0, "step"), 7, "not in the file"),
        ("huge checkpoints", (*first, "checkpoints"), many, "faults"),
        ("60,001 values", (*first, "findings"), [0] * 60_001, "values"),
        ("30,000 objects", (*first, "findings"), [{}] * 30_000, "objects and lists"),
        ("20,000 findings", (*first, "findings"), [{"a": 0}] * 20_000, "objects and lists"),
        ("9,000 findings of one key", (*first, "findings"), [{"a": 0}] * 9_000, "faults"),
        (
            "49,000 further keys",
            (*first, "tolerances"),
            {str(n): 0 for n in range(49_000)},
            "faults",
        ),
        ("verdict", (*first, "findings", 0, "verdict"), "proved", "verdict"),
        ("interval of one", (*first, "findings", 0, "interval"), [1.0], "interval"),
        ("text too long", (*first, "findings", 0, "claim"), "a" * 20_001, "claim"),
        ("label too long", (*first, "made_with", "device"), "a" * 201, "device"),
        ("seed below 0", ("network", "seed"), -1, "seed"),
        ("seed of 2**63", ("network", "seed"), 2**63, "seed"),
        ("fraction of 1", ("network", "train_fraction"), 1.0, "train_fraction"),
        ("labels of 2", ("network", "random_labels"), 2.0, "random_labels"),
        ("task key", ("network", "task", "<b>"), 1, "task"),
        ("parameter key", (*first, "parameters", "A b"), 1, "parameters"),
        ("negative rows", ("training_rows",), -1, "training_rows"),
        ("no rows", ("training_rows",), None, "does not speak of"),
        ("other rows", ("training_rows",), 4, "must be"),
        ("2**31 rows", ("training_rows",), 2**31, "training_rows"),
        ("no arrays", (*first, "arrays"), None, "does not speak of"),
        ("no tensors", (*first, "arrays", "tensors"), {}, "tensors"),
        (
            "tensor gone",
            (*first, "arrays", "tensors"),
            {"order": {"dtype": "int64", "shape": [3]}},
            "nothing speaks of",
        ),
        (
            "tensor more",
            (*first, "arrays", "tensors", "more"),
            {"dtype": "bool", "shape": []},
            "'more' is missing",
        ),
        ("tensor dtype", (*first, "arrays", "tensors", "order", "dtype"), "float64", "must be"),
        (
            "tensor dtype unknown",
            (*first, "arrays", "tensors", "order", "dtype"),
            "object",
            "dtype",
        ),
        ("tensor shape", (*first, "arrays", "tensors", "order", "shape"), [4], "must be"),
        (
            "tensor name",
            (*first, "arrays", "tensors", "../x"),
            {"dtype": "bool", "shape": []},
            "tensors",
        ),
        (
            "tolerance below 0",
            (*first, "tolerances", "a"),
            {"absolute": -1.0, "relative": 0.0},
            "absolute",
        ),
        (
            "position of three",
            ("notebook", "marks", "positions", "a"),
            [1.0, 2.0, 3.0],
            "positions",
        ),
        ("bad note time", ("notebook", "notes", 0, "created"), "now", "created"),
        ("view of lists", ("notebook", "view", "tab"), [1], "view"),
    ]
    for name, path, value, says in edits:
        yield edited(name, path, value, says=says)
    session = parts()  # as much of everything as the limits allow
    worst = session.document["records"][0]
    worst["findings"] = [{"a": 0}] * 9_000
    worst["result"] = {"a": [{"a": 0}] * 100_000}
    session.document["network"]["task"]["a"] = ["a" * 90_000] * 50
    yield refused("document: everything at once", packed(session), "faults")


def foreign_text() -> Iterator[Case]:
    """Text that a stranger wrote, in every place that takes any."""
    first = ("records", 0)
    places: list[tuple[Any, ...]] = [
        ("notebook", "notes", 0, "text"),
        ("notebook", "marks", "labels", "a0.h1"),
        ("notebook", "marks", "groups", 0, "name"),
        ("notebook", "marks", "groups", 0, "nodes", 0),
        ("notebook", "marks", "pinned", 0),
        ("notebook", "view", "tab"),
        (*first, "findings", 0, "id"),
        (*first, "findings", 0, "claim"),
        (*first, "findings", 0, "measure"),
        (*first, "findings", 0, "rule"),
        (*first, "findings", 0, "controls", 0, "name"),
        (*first, "findings", 0, "controls", 0, "unit"),
        (*first, "made_with", "device"),
        (*first, "result", "rows", 0, "node"),
        (*first, "parameters", "metric"),
        ("network", "task", "name"),
        ("network", "recipe", "lr"),
    ]
    for at, path in enumerate(places):
        session = parts()
        put(session.document, path, MARKUP[at % len(MARKUP)])
        yield Case(f"script in {'.'.join(map(str, path))}", packed(session), "inert")
    session = parts()
    session.document["network"]["source"] = {MARKUP[0]: MARKUP[1]}
    session.document["notebook"]["marks"]["labels"] = {one: one for one in MARKUP}
    session.document["records"][0]["result"] = {one: one for one in MARKUP}
    session.manifest["made_with"]["device"] = MARKUP[0]
    yield Case("script in keys", packed(session), "inert")
    session = parts()
    session.document["notebook"]["notes"][0]["text"] = LINES
    session.document["records"][0]["findings"][0] |= dict.fromkeys(("claim", "rule"), LINES)
    session.document["records"][0]["result"] = {LINES: LINES}
    yield Case("script in lines", packed(session), "inert")
    session = parts()
    session.document["records"][0]["kind"] = "kind_of_tomorrow"
    yield Case("kind that nobody knows", packed(session), "inert")
    steering = {"\x1b[2J": "U+001B", "\x00": "U+0000", "\x9b31m": "U+009B", "\r": "U+000D"}
    steering |= {"\u202egnp": "U+202E", "\u2066": "U+2066", "\x7f": "U+007F"}
    for character, says in steering.items():
        for path in places[::3]:
            name = f"{says} in {'.'.join(map(str, path))}"
            yield edited(name, path, f"a{character}b", says=says)
        yield edited(f"{says} in a key", (*first, "result", character), 1, says=says)


def models() -> Iterator[Case]:
    """Networks that cannot be, or are not there."""
    wrong: list[tuple[Data, str]] = [
        ({"n_layers": 10**9}, "layers"),
        ({"n_layers": 10**30}, "layers"),
        ({"n_layers": 2501}, "layers"),
        ({"n_layers": 2500}, "weights take"),
        ({"n_layers": 2}, "is missing"),
        ({"n_layers": 0}, "n_layers"),
        ({"n_layers": -1}, "n_layers"),
        ({"n_layers": "1"}, "n_layers"),
        ({"n_layers": True}, "n_layers"),
        ({"n_layers": 1.5}, "n_layers"),
        ({"d_model": 10**12}, "weights take"),
        ({"d_vocab": 2**62, "d_model": 2**62}, "weights take"),
        ({"d_vocab": 7}, ""),
        ({"d_head": 4, "n_heads": 1}, "must be"),
        ({"act_fn": "exec"}, "act_fn"),
        ({"act_fn": "x" * 50_000}, "act_fn"),
        ({"attention_rate": 2.0}, "attention_rate"),
        ({"normalization": "LN"}, ""),
        ({"unknown": 1}, "unknown"),
    ]
    for edit, says in wrong:
        session = parts()
        session.document["network"]["model"] |= edit
        yield refused(f"model: {str(edit)[:60]}", packed(session), says)
    session = parts()
    session.document["network"]["model"] = {}
    yield refused("model: nothing", packed(session), "n_layers")

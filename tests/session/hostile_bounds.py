"""Hostile amounts: more than a person can look at, findings that hide others, lines that forge."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.session import making
from tests.session.changing import Case, Data, edited, packed, parts, put, refused, with_array
from workbench.session.schema import TRAINING

FIRST = ("records", 0)
LABELS: list[tuple[Any, ...]] = [
    ("notebook", "marks", "labels", "a0.h1"),
    ("notebook", "marks", "groups", 0, "name"),
    ("notebook", "marks", "groups", 0, "nodes", 0),
    ("notebook", "marks", "pinned", 0),
    ("notebook", "view", "tab"),
    (*FIRST, "findings", 0, "id"),
    (*FIRST, "findings", 0, "controls", 0, "name"),
    (*FIRST, "findings", 0, "controls", 0, "unit"),
    (*FIRST, "made_with", "device"),
    ("network", "task", "name"),
    ("network", "task", "modulus"),
    ("network", "recipe", "lr"),
]
"""Places of a label."""


def findings() -> Iterator[Case]:
    """Findings of one name, and more of them, or of what goes with them, than a record may hold."""
    (honest,) = parts().document["records"][0]["findings"]
    forged = {**honest, "claim": "It multiplies.", "value": 99.0}
    where = (*FIRST, "findings")
    differ = "finding ids must differ, and two are 'heads.read_b'"
    yield edited("finding forged behind another", where, [honest, forged], says=differ)
    yield edited("finding twice", where, [honest, honest], says=differ)
    apart = [*_findings(50), honest, *_findings(50, start=50), honest]
    yield edited("finding twice, far apart", where, apart, says=differ)
    yield _inert("200 findings", where, _findings(200))
    yield edited("201 findings in a record", where, _findings(201), says="at most 200 items")
    controls = (*where, 0, "controls")
    yield _inert("100 controls", controls, _controls(100))
    for n in (101, 620):
        yield edited(f"{n} controls", controls, _controls(n), says="at most 100 items")
    details = (*where, 0, "details")
    yield _inert("100 details", details, _details(100))
    yield edited("101 details", details, _details(101), says="at most 100 items")
    tolerances = (*FIRST, "tolerances")
    for n in (101, 2500):
        yield edited(f"{n} tolerances", tolerances, _tolerances(n), says="at most 100 items")
    yield _inert("100 tolerances", tolerances, _tolerances(100))


def much_to_show() -> Iterator[Case]:
    """Every record within bounds, and all of them together not."""
    too_many = "2001 findings; at most 2000"
    yield refused("bounds: 2,001 findings", _many_records(2001), too_many)
    yield Case("bounds: 2,000 findings, 10,000 details", _many_records(2000, details=5), "inert")
    asides = "{} controls and details of findings; at most 10000"
    for name, content, n in [
        ("101 findings of 100 controls", _many_records(101, controls=100), 10_100),
        ("101 findings of 100 details", _many_records(101, details=100), 10_100),
        ("63 findings of 80 of each", _many_records(63, controls=80, details=80), 10_080),
        ("1,251 findings of 4 of each", _many_records(1251, controls=4, details=4), 10_008),
    ]:
        yield refused(f"bounds: {name}", content, asides.format(n))
    for name, texts, says in [
        ("201 notes", [""] * 201, "at most 200 items"),
        ("1,001 notes", ["a"] * 1001, "at most 200 items"),
        ("notes of a million and one", ["a" * 20_000] * 50 + ["a"], "notes of 1000001 characters"),
    ]:
        yield edited(name, ("notebook", "notes"), _notes(texts), says=says)
    yield _inert("200 notes", ("notebook", "notes"), _notes(["a\nb"] * 200))
    yield _inert("notes of a million", ("notebook", "notes"), _notes(["a" * 20_000] * 50))


def forged_lines() -> Iterator[Case]:
    """What would be one line in a terminal, and passes for several."""
    breaks = {"\n": "U+000A", "\t": "U+0009", "\u2028": "U+2028", "\u2029": "U+2029"}
    for character, says in breaks.items():
        for path in LABELS if character == "\n" else LABELS[::5]:
            forged = f"honest{character}adds_on_a_circle  1.0  supported"
            yield edited(f"{says} in {'.'.join(map(str, path))}", path, forged, says=says)
    for name, path, value in [
        ("a task's list", ("network", "task", "digits"), [1, ["a\nb"]]),
        ("a task's object", ("network", "task", "digits"), {"a": {"b": "a\nb"}}),
        ("a key of a task's object", ("network", "task", "digits"), {"a\nb": 1}),
        ("a recipe's list", ("network", "recipe", "lr"), [[0, "a\nb"]]),
        ("a source", ("network", "source"), {"paper": "a\nb"}),
        ("a key of a source", ("network", "source"), {"a\nb": "paper"}),
        ("a detail", (*FIRST, "findings", 0, "details", "a\nb"), 1.0),
        ("a tolerance", (*FIRST, "tolerances", "a\nb"), {"absolute": 0.0, "relative": 0.0}),
    ]:
        yield edited(f"line end in {name}", path, value, says="U+000A")
    for path in [("network", "task", "digits"), ("network", "recipe", "lr")]:
        yield edited(f"long text in {path[1]}", path, ["a" * 201], says="text of 201 characters")
    session = parts()
    session.manifest["made_with"]["torch"] = "2.13.0\nmade with workbench 9"
    yield refused("line end in the manifest", packed(session), "U+000A")


def steps() -> Iterator[Case]:
    """Steps of training that no training has."""
    lie = "steps lie from 0 to below 1000000000"
    for name, values, says in [
        ("fall, below 0, of 2**62", [5, 3, -7, 2**62], f"step -7; {lie}"),
        ("fall", [0, 400, 200], "step 200 behind step 400"),
        ("below 0", [-1, 0, 1], f"step -1; {lie}"),
        ("of -2**63", [-(2**63), 0, 1], f"step -9223372036854775808; {lie}"),
        ("of 10**9", [0, 1, 10**9], f"step 1000000000; {lie}"),
        ("of 2**63 - 1", [0, 1, 2**63 - 1], f"step 9223372036854775807; {lie}"),
    ]:
        yield refused(f"training: steps {name}", _training(values), says)
    yield Case("training: steps that stay", _training([7, 7, 10**9 - 1]), "inert")
    yield Case("training: no rows", _training([]), "inert")


# ---------------------------------------------------------------------- made


def _inert(name: str, path: tuple[Any, ...], value: Any) -> Case:
    session = parts()
    put(session.document, path, value)
    return Case(f"bounds: {name}", packed(session), "inert")


def _findings(n: int, *, start: int = 0, controls: int = 0, details: int = 0) -> list[Data]:
    (one,) = parts().document["records"][0]["findings"]
    one |= {"controls": _controls(controls), "details": _details(details)}
    return [{**copy.deepcopy(one), "id": f"finding {start + at}"} for at in range(n)]


def _controls(n: int) -> list[Data]:
    return [
        {"name": f"control {at}", "value": 0.5, "n": 8, "interval": None, "unit": "draws"}
        for at in range(n)
    ]


def _details(n: int) -> dict[str, float]:
    return {f"detail {at}": 0.5 for at in range(n)}


def _tolerances(n: int) -> dict[str, Data]:
    return {f"{'*a' * 20}{at}": {"absolute": 1.0, "relative": 1.0} for at in range(n)}


def _notes(texts: list[str]) -> list[Data]:
    return [{"text": text, "created": "2026-11-20T18:53:06Z"} for text in texts]


def _many_records(n: int, *, controls: int = 0, details: int = 0) -> bytes:
    """A session with so many findings, in records of 40 beside the first, which has none."""
    session = parts()
    first = session.document["records"][0]
    first["findings"] = []
    for start in range(0, n, 40):
        some = _findings(min(40, n - start), start=start, controls=controls, details=details)
        named = {"id": f"patching-{start:016x}", "arrays": None, "findings": some}
        session.document["records"].append({**first, **named})
    return packed(session)


def _training(values: list[int]) -> bytes:
    rows = {"step": np.array(values, "int64"), "train_loss": np.zeros(len(values))}
    session = with_array(TRAINING, making.safetensors_bytes(rows))
    session.document["training_rows"] = len(values)
    return packed(session)

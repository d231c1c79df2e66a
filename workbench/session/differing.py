"""Two sessions side by side: what one has that the other has not, and what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.finding import Finding, finding_to_dict
from workbench.record import Record
from workbench.session.session import Session
from workbench.storage import to_json

Where = Literal["network", "weights", "findings", "results", "circuits", "notes"]
ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is not the same in both."""

    where: Where
    what: str
    first: str
    """In the first session; a dash where it has nothing of the kind."""
    second: str


def diff(first: Session, second: Session) -> list[Change]:
    """Everything that differs: network, weights, findings, results, circuits, notes and marks.

    Of the weights only digests are compared, and they are read where these differ. How long an
    analysis took and with what versions is no difference. Raises what reading raises.
    """
    a, b = (_by_question(session) for session in (first, second))
    both = [(key, a[key], b[key]) for key in a if key in b]
    return [
        *_changes("network", *(_flat(one.network.model_dump()) for one in (first, second))),
        *_weights(first, second),
        *(change for key in dict.fromkeys([*a, *b]) for change in _findings(key, a, b)),
        *(change for key, one, two in both for change in _results(key, one, two)),
        *(change for key, one, two in both for change in _circuits(key, one, two)),
        *_notes(first, second),
    ]


def _weights(first: Session, second: Session) -> list[Change]:
    a, b = (
        {one.step: one.weights_sha256 for one in session.archive.document.checkpoints}
        for session in (first, second)
    )
    found = []
    for step in sorted(a.keys() | b.keys()):
        what = f"step {step}"
        if step in a and step in b and a[step] != b[step]:
            farthest = _farthest(first, second, step)
            found.append(_change("weights", what, a[step][:12], f"{b[step][:12]}{farthest}"))
        elif a.get(step) != b.get(step):
            sides = (one.get(step, ABSENT)[:12] for one in (a, b))
            found.append(_change("weights", what, *sides))
    return found


def _farthest(first: Session, second: Session, step: int) -> str:
    """Which parameter changed most, as a share of its size."""
    a, b = first.params(step), second.params(step)
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return " (another shape)"
    changes = {
        name: float((b[name] - a[name]).double().norm() / a[name].double().norm().clamp(min=1e-30))
        for name in a
    }
    name = max(changes, key=lambda key: changes[key])
    return f" (most: {name} by {changes[name]:.3g} of its norm)"


Records = Mapping[str, Record]


def _by_question(session: Session) -> dict[str, Record]:
    """Records by step, kind and what was asked; the last digits tell like questions apart."""
    found: dict[str, Record] = {}
    for record in session.records:
        method = record.parameters.get("method")
        name = f"{record.kind} {method}" if isinstance(method, str) else record.kind
        asked = to_json(record.parameters, where=record.id, sort_keys=True).decode()
        found[f"step {record.step}, {name}\0{asked}"] = record
    return found


def _named(key: str, id: str, records: Records) -> str:
    """A question as people read it: with its parameters only where another has this finding too."""
    name, _, asked = key.partition("\0")
    like = [
        other
        for other, record in records.items()
        if other.partition("\0")[0] == name and any(one.id == id for one in record.findings)
    ]
    return name if len(like) < 2 else f"{name} {asked.strip()}"


def _findings(key: str, a: Records, b: Records) -> list[Change]:
    """Findings one by one: their numbers, or whatever else of them is not the same."""
    sides: list[dict[str, Finding]] = [
        {finding.id: finding for finding in records[key].findings} if key in records else {}
        for records in (a, b)
    ]
    found: list[Change] = []
    for id in dict.fromkeys([*sides[0], *sides[1]]):
        one, two = (side.get(id) for side in sides)
        if one == two:
            continue
        name = _named(key, id, {**a, **b})
        told = [ABSENT if finding is None else _told(finding) for finding in (one, two)]
        if told[0] != told[1] or one is None or two is None:
            found.append(_change("findings", f"{name}: {id}", *told))
        else:
            trees = (_flat(finding_to_dict(finding)) for finding in (one, two))
            found += _changes("findings", *trees, prefix=f"{name}: {id} ")
    return found


def _told(finding: Finding) -> str:
    controls = [control.value for control in finding.controls]
    beside = f", controls {min(controls):.4g} to {max(controls):.4g}" if controls else ""
    return f"{finding.verdict}: {finding.value:.4g} (n = {finding.n:,}{beside})"


def _results(key: str, one: Record, two: Record) -> list[Change]:
    """How many numbers besides the findings are others: to see which, replay."""
    a, b = (_flat(record.result) for record in (one, two))
    changed = [path for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)]
    found = []
    if changed:
        path, name = changed[0], key.partition("\0")[0]
        what = f"{name}: {len(changed)} of {len(a)} entries, first {path}"
        found.append(_change("results", what, a.get(path, ABSENT), b.get(path, ABSENT)))
    digests = [ABSENT if one.arrays is None else one.arrays.sha256 for one in (one, two)]
    if digests[0] != digests[1]:
        what = f"{key.partition(chr(0))[0]}: arrays"
        found.append(_change("results", what, *(digest[:12] for digest in digests)))
    return found


def _circuits(key: str, one: Record, two: Record) -> list[Change]:
    """Edges that only one of two circuits has."""
    a, b = (_edges(record) for record in (one, two))
    if a == b:
        return []
    sides = (_only(sorted(a - b)), _only(sorted(b - a)))
    return [_change("circuits", key.partition("\0")[0], *sides)]


def _edges(record: Record) -> set[str]:
    rows = record.result.get("edge_list")
    if not isinstance(rows, list):
        return set()
    return {str(row["edge"]) for row in rows if isinstance(row, dict) and "edge" in row}


def _only(names: list[str]) -> str:
    return f"only here: {', '.join(names)}" if names else ABSENT


def _notes(first: Session, second: Session) -> list[Change]:
    a, b = (
        {
            **_numbered([(note.created, note.text) for note in session.notebook.notes]),
            **_flat(session.notebook.marks.model_dump(), "marks"),
        }
        for session in (first, second)
    )
    return _changes("notes", a, b)


def _numbered(notes: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Notes by when they were written; of one second, in their order."""
    found: dict[str, str] = {}
    for created, text in notes:
        name, n = f"note of {created}", 2
        while name in found:
            name, n = f"note {n} of {created}", n + 1
        found[name] = text
    return found


def _changes(
    where: Where, a: Mapping[str, str], b: Mapping[str, str], *, prefix: str = ""
) -> list[Change]:
    return [
        _change(where, f"{prefix}{key}", a.get(key, ABSENT), b.get(key, ABSENT))
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]


def _change(where: Where, what: str, first: str, second: str) -> Change:
    return Change(where=where, what=what, first=first, second=second)


def _flat(tree: Any, path: str = "") -> dict[str, str]:
    """Leaves as text, by dotted key."""
    found: dict[str, str] = {}
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            found |= _flat(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: to_json(tree, where=path).decode().strip()}

"""Two sessions side by side: what one has that the other has not, and what changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workbench.finding import Finding
from workbench.session.session import Session
from workbench.storage import to_json

Where = Literal["network", "weights", "findings", "circuits", "notes"]
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
    """Everything that differs, in the order network, weights, findings, circuits, notes.

    Weights are compared by digest, and read only where these differ. Raises what reading raises.
    """
    return [
        *_network(first, second),
        *_weights(first, second),
        *_findings(first, second),
        *_circuits(first, second),
        *_notes(first, second),
    ]


def _network(first: Session, second: Session) -> list[Change]:
    a, b = (_flat(one.network.model_dump()) for one in (first, second))
    return _changes("network", a, b)


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
    if any(a[name].shape != b[name].shape for name in a.keys() & b.keys()) or a.keys() != b.keys():
        return " (another shape)"
    changes = {
        name: float((b[name] - a[name]).double().norm() / a[name].double().norm().clamp(min=1e-30))
        for name in a
    }
    name = max(changes, key=lambda key: changes[key])
    return f" (most: {name} by {changes[name]:.3g} of its norm)"


def _findings(first: Session, second: Session) -> list[Change]:
    a, b = (_by_question(session) for session in (first, second))
    return _changes("findings", a, b)


def _by_question(session: Session) -> dict[str, str]:
    """Findings by step, kind and id; those of two questions of one kind by parameters as well."""
    found: dict[str, str] = {}
    for record in session.records:
        for finding in record.findings:
            key = f"step {record.step}, {record.kind}: {finding.id}"
            if key in found:
                key = f"{key} ({record.id})"
            found[key] = _told(finding)
    return found


def _told(finding: Finding) -> str:
    controls = [control.value for control in finding.controls]
    beside = f", controls {min(controls):.4g} to {max(controls):.4g}" if controls else ""
    return f"{finding.verdict}: {finding.value:.4g} (n = {finding.n:,}{beside})"


def _circuits(first: Session, second: Session) -> list[Change]:
    """Edges of the circuits of the same question."""
    a, b = (_circuit_edges(session) for session in (first, second))
    found = []
    for key in sorted(a.keys() & b.keys()):
        lost, gained = sorted(a[key] - b[key]), sorted(b[key] - a[key])
        if lost or gained:
            found.append(_change("circuits", key, _edges(lost), _edges(gained)))
    return found


def _circuit_edges(session: Session) -> dict[str, set[str]]:
    found = {}
    for record in session.records:
        edges = record.result.get("edge_list")
        if isinstance(edges, list):
            names = {str(row["edge"]) for row in edges if isinstance(row, dict) and "edge" in row}
            found[f"step {record.step}, {_question(record.kind, record.parameters)}"] = names
    return found


def _question(kind: str, parameters: Mapping[str, Any]) -> str:
    method = parameters.get("method")
    return f"{kind} {method}" if method else kind


def _edges(names: list[str]) -> str:
    return f"only here: {', '.join(names)}" if names else ABSENT


def _notes(first: Session, second: Session) -> list[Change]:
    a, b = (
        {
            **{f"note of {note.created}": note.text for note in session.notebook.notes},
            **_flat(session.notebook.marks.model_dump(), "marks"),
        }
        for session in (first, second)
    )
    return _changes("notes", a, b)


def _changes(where: Where, a: Mapping[str, str], b: Mapping[str, str]) -> list[Change]:
    return [
        _change(where, key, a.get(key, ABSENT), b.get(key, ABSENT))
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]


def _change(where: Where, what: str, first: str, second: str) -> Change:
    return Change(where=where, what=what, first=first, second=second)


def _flat(tree: Any, path: str = "") -> dict[str, str]:
    """Leaves as text, by dotted key."""
    if isinstance(tree, Mapping):
        found: dict[str, str] = {}
        for key, value in tree.items():
            found |= _flat(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: to_json(tree, where=path).decode().strip()}

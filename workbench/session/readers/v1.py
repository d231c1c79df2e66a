"""Schema version 1: its models from JSON data, in pieces, so that memory stays bounded.

pydantic takes up to 4 kB for a value that it reads from text. So what a model leaves open (any JSON
value: parameters, results, a task) is taken from the data as it is, and only its keys go through
the model; what remains is read a record at a time.
"""

from collections.abc import Iterable
from typing import Any

import pydantic

from workbench.record import Record
from workbench.session import limits
from workbench.session.json_text import model_of
from workbench.session.refusal import refusal
from workbench.session.schema import Manifest, SessionDocument, in_labels

RECORDS = 2000
"""As in `SessionDocument.records`."""


def manifest(data: dict[str, Any], where: str) -> Manifest:
    """`manifest.json`. Raises `SessionError`."""
    return model_of(Manifest, data, where=where)


def document(data: dict[str, Any], where: str) -> SessionDocument:
    """`session.json`. Raises `SessionError`."""
    rows = data.get("records")
    if not isinstance(rows, list) or len(rows) > RECORDS:
        got = f"{len(rows)} records" if isinstance(rows, list) else type(rows).__name__
        raise refusal(where, f"records must be a list of at most {RECORDS}, got {got}")
    network = data.get("network")
    keys, open_parts = _keys_only(network, ("task", "model", "recipe"))
    head = model_of(SessionDocument, {**data, "network": keys, "records": []}, where=where)
    fields = {name: getattr(head, name) for name in SessionDocument.model_fields}
    fields["records"] = tuple(_record(row, f"{where}: records.{n}") for n, row in enumerate(rows))
    _require_few(fields["records"], where)
    for name in ("task", "recipe"):  # `Network.shape` looks at the model
        _require_labels(open_parts.get(name, {}), f"{where}: network.{name}")
    fields["network"] = head.network.model_copy(update=open_parts)
    try:
        return SessionDocument(**fields)
    except pydantic.ValidationError as wrong:
        raise refusal(where, wrong.errors(include_url=False)[0]["msg"]) from None


def json_schemas() -> dict[str, dict[str, Any]]:
    """The published JSON Schemas of this version, by file name."""
    return {
        "manifest-1.json": _published(Manifest, "manifest.json of a Workbench session"),
        "session-1.json": _published(SessionDocument, "session.json of a Workbench session"),
    }


def _record(row: Any, where: str) -> Record:
    keys, open_parts = _keys_only(row, ("parameters", "result"))
    return model_of(Record, keys, where=where).model_copy(update=open_parts)


def _require_few(records: Iterable[Record], where: str) -> None:
    """No more to show than a person can look at; each record alone is within bounds."""
    findings = [finding for record in records for finding in record.findings]
    asides = sum(len(finding.controls) + len(finding.details) for finding in findings)
    for n, what, most in [
        (len(findings), "findings", limits.FINDINGS),
        (asides, "controls and details of findings", limits.ASIDES),
    ]:
        if n > most:
            fewer = "whoever saves it must leave some out (--only)"
            raise refusal(where, f"{n} {what}; at most {most} in a session", mend=fewer)


def _require_labels(data: dict[str, Any], where: str) -> None:
    try:
        in_labels(data)
    except ValueError as error:
        raise refusal(where, str(error)) from None


def _keys_only(data: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The data with null for every value inside these objects, and the objects taken out."""
    if not isinstance(data, dict):
        return data, {}
    taken = {name: data[name] for name in names if isinstance(data.get(name), dict)}
    return {**data, **{name: dict.fromkeys(value) for name, value in taken.items()}}, taken


def _published(model: type[pydantic.BaseModel], title: str) -> dict[str, Any]:
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **model.model_json_schema(), "title": title}

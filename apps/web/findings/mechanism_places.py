"""The switches of the Parts page that a finding about a mechanism is about.

    switches = switches_of(record, finding)
    if switches and st.button("See it happen", on_click=partial(set_switches, switches, step)):
        st.switch_page(page_of("parts"), query_params=switches_address(switches))

Set so, they do on the page what the test did, on every input and beside its controls.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from apps.web.parts.circles import AS_PREDICTED
from apps.web.parts.planes import GALLERY, PLANE
from apps.web.parts.switches import (
    EMBEDDING,
    LOGITS,
    NEURONS,
    REST_EMBEDDING,
    REST_LOGITS,
    TURN,
)
from workbench.finding import Finding
from workbench.record import Record

SHIFT = 1
"""By how much a link turns every named plane; the test turns them by many."""
MOST = 100
"""Frequencies that an address names, at most."""
MAP = "parts_map"
OWN = "parts_"
"""How the names begin of what the Parts page keeps."""
Switched = dict[str, bool | int | str]
Parts = Mapping[str, Any]
"""Of a record's result; may be a stranger's."""


def switches_of(record: Record, finding: Finding) -> Switched | None:
    """A finding's switches, by their keys; None for what no switch shows.

    What is on stays on. The page drops whatever its network does not have.
    """
    parts = record.result.get("parts")
    read = _READ.get(finding.id) if record.kind == "mechanism" else None
    return (read(parts) or None) if read is not None and isinstance(parts, dict) else None


def set_switches(switches: Switched, step: int | None) -> None:
    """Set these switches of the Parts page and no others, at a checkpoint (as it is when None). In
    a callback; the tab keeps what was set there before, and a link would leave that as it was."""
    for key in [str(key) for key in st.session_state]:
        if key.startswith(OWN):
            del st.session_state[key]
    for key, value in switches.items():
        st.session_state[key] = value
    if step is not None:
        st.session_state["step"] = step


def switches_address(switches: Switched) -> dict[str, str]:
    """The same as an address, for whoever shares the page or loads it again."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in switches.items()
    }


def _only_planes(parts: Parts) -> Switched:
    return {REST_EMBEDDING: False} if _embedded(parts) else {}


def _without_planes(parts: Parts) -> Switched:
    return {f"{EMBEDDING}{k}": False for k in _embedded(parts)}


def _only_logits(parts: Parts) -> Switched:
    return {REST_LOGITS: False} if _key(parts) else {}


def _without_logits(parts: Parts) -> Switched:
    return {f"{LOGITS}{k}": False for k in _key(parts)}


def _turned(parts: Parts) -> Switched:
    turns: Switched = {f"{TURN}{k}": SHIFT for k in _embedded(parts)}
    return turns | {MAP: AS_PREDICTED} if turns else {}


def _gallery(parts: Parts) -> Switched:
    """The neurons of the frequency that has the most."""
    return {PLANE: k, GALLERY: True} if (k := _busiest(parts)) else {}


def _without_neurons(parts: Parts) -> Switched:
    return {f"{NEURONS}{k}": False} if (k := _busiest(parts)) else {}


def _variable(start: str) -> Callable[[Parts], Switched]:
    """The first variable of a name, of a network that adds digit by digit: its heads are set."""

    def read(parts: Parts) -> Switched:
        names = [row.get("variable") for row in _rows(parts.get("variables"))]
        found = [name for name in names if isinstance(name, str) and name.startswith(start)]
        return {"parts_variable": found[0]} if found else {}

    return read


_READ: dict[str, Callable[[Parts], Switched]] = {
    "sufficiency": _only_planes,
    "necessity": _without_planes,
    "sufficiency_logits": _only_logits,
    "necessity_logits": _without_logits,
    "edit": _turned,
    "neurons": _gallery,
    "neuron_ablation": _without_neurons,
    "digits": _variable("a_"),
    "carry": _variable("carry_"),
}


def _embedded(parts: Parts) -> list[int]:
    return _numbers(parts.get("embedding_frequencies"))


def _key(parts: Parts) -> list[int]:
    return _numbers(parts.get("key_frequencies"))


def _busiest(parts: Parts) -> int | None:
    """The named frequency that has the most neurons, if any has one."""
    named = {*_embedded(parts), *_key(parts)}
    found = [
        (row["neurons"], row["frequency"])
        for row in _rows(parts.get("planes"))
        if _numbers([row.get("neurons"), row.get("frequency")]) and row["frequency"] in named
    ]
    most, frequency = max(found, default=(0, 0))
    return frequency if most > 0 else None


def _numbers(value: object) -> list[int]:
    """Whole numbers; none where any of them is something else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MOST:
        return []
    whole = [one for one in value if isinstance(one, int) and not isinstance(one, bool)]
    return whole if len(whole) == len(value) else []


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

"""Circuits that were kept, drafts and those of records: their identities, and their names in menus.

A draft's identity is `draft-<id>`, a record's is its own. In the address stand identities; a menu
shows labels, each of which is of one circuit.
"""

from collections.abc import Mapping

import streamlit as st

from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.trace.draft_files import draft_ids, ground_of, read_draft
from apps.web.trace.draft_operations import Replace
from circuits.analyses.circuit import VALUES, circuit_of
from workbench.errors import AppError, WorkbenchError
from workbench.record import Record
from workbench.records import read_arrays, read_records

DRAFT = "draft-"
"""What the identity of a draft begins with."""
MOST_DRAFTS = 20
"""In a menu, those saved last."""
FEWEST_DIGITS = 6
"""Of an identity, in a label."""


def records_with_circuits(network: Network) -> list[Record]:
    """Records beside a run that hold a circuit of the checkpoint looked at."""
    records = read_records(network.run, network.step)
    return [one for one in records if one.kind in VALUES]


def record_titles(network: Network) -> dict[str, str]:
    """What every record with a circuit claims and whether it holds, by identity."""
    return {one.id: _title(one) for one in records_with_circuits(network)}


def draft_titles(network: Network, *, edited: str | None, least: int = 0) -> dict[str, str]:
    """What the drafts of a network are, by identity; those that cannot be opened are left out.

    Args:
        edited: id of the draft that is edited now, which is said beside it.
        least: edges of a draft that is listed.
    """
    titles = {}
    for one in draft_ids(network)[:MOST_DRAFTS]:
        try:
            history = read_draft(network, one).history
        except WorkbenchError:
            continue  # of other weights
        n = ground_of(network).circuit(history.state).n_edges
        this = ", the one edited" if one == edited else ""
        if n >= least:
            titles[DRAFT + one] = f"{n} edges{this}; last: {history.done[-1].words}"
    return titles


def labelled(titles: Mapping[str, str]) -> dict[str, str]:
    """Titles as labels of a menu: `finding ac9f53: ...`, with digits enough to tell all apart."""
    digits = {one: one.rpartition("-")[2] for one in titles}
    apart = [
        n for n in range(FEWEST_DIGITS, 17) if len({d[:n] for d in digits.values()}) == len(digits)
    ]
    if not apart:  # of two kinds of records: only whole identities differ
        return {one: f"{one}: {title}" for one, title in titles.items()}
    kind = {one: "draft" if one.startswith(DRAFT) else "finding" for one in titles}
    return {one: f"{kind[one]} {digits[one][: apart[0]]}: {title}" for one, title in titles.items()}


def taking(network: Network, record_id: str) -> Replace:
    """The operation that takes the circuit of a record.

    Raises `AppError` where there is no such record, and what reading it raises.
    """
    named = [one for one in records_with_circuits(network) if one.id == record_id]
    if not named:
        raise AppError(f"no record {record_id[:60]!r} of a circuit; it may have been replaced")
    arrays = read_arrays(network.run, named[0])
    circuit, _ = circuit_of(named[0], arrays, network.run.config.model)
    words = f"{circuit.n_edges} edges of {record_id}"
    return Replace(circuit.edges, circuit.graph.n_pos, words, scored_by=record_id)


def choose_kept(label: str, titles: Mapping[str, str], *, key: str, usual: int, help: str) -> str:
    """Draw a menu of kept circuits; the identity of the chosen one, in the address under `key`.

    Held by hand: a bound widget puts what it shows into the address, which is no identity.
    """
    names, options, held = list(titles), labelled(titles), st.session_state.get(f"_{key}")
    asked = st.query_params.get(key, held)
    if asked not in options:
        if asked not in (None, held):
            st.warning(escaped(f"No circuit {asked[:60]!r} of this run is kept (any more)."))
        asked = names[min(usual, len(names) - 1)]
    _hold(key, asked)
    menu = f"{key}_menu"
    st.session_state[menu] = asked
    st.selectbox(
        label,
        names,
        format_func=lambda one: options.get(one, one),
        key=menu,
        on_change=lambda: _hold(key, st.session_state[menu]),
        help=help,
    )
    return asked


def _hold(key: str, identity: str) -> None:
    """Remember a choice, also where another page clears the address."""
    st.session_state[f"_{key}"] = identity
    if st.query_params.get(key) != identity:
        st.query_params[key] = identity


def _title(record: Record) -> str:
    about = record.findings[0] if record.findings else None
    return record.id if about is None else f"{about.claim}: {about.verdict}"

"""The draft that the Trace page edits: in the address as `?trace_draft=...`, saved at every click.

The address also names the record that it was taken from, `?trace_kept=...`. A link that names just
a record opens its circuit as a new draft, which is not saved before it is changed.

    add_component(network, "a0.h1")     # in a callback, or before the circuit is drawn
    members(network)                    # heads and MLPs that are in, at once up to date

What a draft is, is in `draft_history`; its files are in `draft_files`.
"""

import streamlit as st

from apps.web.choice import Network
from apps.web.trace.circuit_kept import taking
from apps.web.trace.draft_files import Draft, ground_of, read_draft, write_draft
from apps.web.trace.draft_history import History, Operation, State, begin, did, redone, undone
from apps.web.trace.draft_operations import AddComponent
from circuits.circuit import Circuit
from workbench.errors import WorkbenchError

ADDRESS, KEPT = "trace_draft", "trace_kept"
SAID = "trace_draft_said"
"""What is to be told once, where the circuit is drawn: kind and text."""
FORKED = (
    "Another tab changed this draft since you saw it. Its change stands; yours is in a draft of "
    "its own, which you see here."
)


def add_component(network: Network, name: str) -> None:
    """Add a head or MLP such as `a0.h1` to the draft, with its edges to those that are in."""
    do(network, AddComponent(name))


def members(network: Network) -> tuple[str, ...]:
    """Names of the heads and MLPs that are in the draft, in the order in which they write."""
    return circuit(network).components()


def circuit(network: Network) -> Circuit:
    """The draft's circuit."""
    return ground_of(network).circuit(state(network))


def state(network: Network) -> State:
    """How the draft stands."""
    return current(network).history.state


def current(network: Network) -> Draft:
    """The draft of this tab: the one it edits, else that in the address, else an empty one."""
    held: Draft | None = st.session_state.get(_slot(network))
    if held is None:
        held = _from_address(network)
    elif _is_linked():
        held = _of_record(network, st.query_params[KEPT]) or held
    st.session_state[_slot(network)] = held
    _put_into_address(held)
    return held


def do(network: Network, operation: Operation) -> None:
    """Do something to the draft and save it. What cannot be done is told where it is drawn."""
    try:
        draft = current(network)
        _save(network, draft, did(draft.history, operation, ground_of(network)))
    except (WorkbenchError, OSError) as error:
        say("error", str(error))


def undo(network: Network) -> None:
    """Take the last operation back."""
    _change(network, undone(current(network).history))


def redo(network: Network) -> None:
    """Do again what was undone last."""
    _change(network, redone(current(network).history))


def open_draft(network: Network, draft_id: str) -> None:
    """Edit a draft that was saved before."""
    try:
        st.session_state[_slot(network)] = read_draft(network, draft_id)
        current(network)
    except (WorkbenchError, OSError) as error:
        say("error", str(error))


def new_draft(network: Network) -> None:
    """Begin an empty draft. The one before stays in the list."""
    st.session_state[_slot(network)] = _empty()
    current(network)


def say(kind: str, text: str) -> None:
    """Tell something once, where the circuit is drawn: `error`, `warning` or `success`."""
    st.session_state[SAID] = (kind, text)


def said() -> tuple[str, str] | None:
    """What is to be told, once."""
    told: tuple[str, str] | None = st.session_state.pop(SAID, None)
    return told


def _change(network: Network, history: History) -> None:
    try:
        _save(network, current(network), history)
    except (WorkbenchError, OSError) as error:
        say("error", str(error))


def _save(network: Network, draft: Draft, history: History) -> None:
    if history == draft.history:
        return
    saved = write_draft(network, Draft(id=draft.id, revision=draft.revision, history=history))
    if draft.id is not None and saved.id != draft.id:
        say("warning", FORKED)
    st.session_state[_slot(network)] = saved
    _put_into_address(saved)


def _from_address(network: Network) -> Draft:
    """The draft that is named; where there is none such, that of the record that is named."""
    draft_id, record_id = st.query_params.get(ADDRESS), st.query_params.get(KEPT)
    fault = ""
    if draft_id and not any(one.id == draft_id for one in _held()):
        try:
            return read_draft(network, draft_id)
        except (WorkbenchError, OSError) as error:
            fault = str(error)
            say("warning", fault)
    if not record_id or any(_record_of(one) == record_id for one in _held()):
        return _empty()
    found = _of_record(network, record_id)
    if fault and found is not None:
        say("warning", f"{fault}. Here is the finding that it was taken from.")
    return found or _empty()


def _is_linked() -> bool:
    """Whether the address names a record alone, and not one that this tab has opened already.

    After a change of network it may name a record of the one before.
    """
    record_id = st.query_params.get(KEPT)
    if not record_id or ADDRESS in st.query_params:
        return False
    return not any(one.id is None and _record_of(one) == record_id for one in _held())


def _of_record(network: Network, record_id: str) -> Draft | None:
    """The circuit of a record as a draft that is not saved; None after saying why there is none."""
    try:
        history = did(begin(), taking(network, record_id), ground_of(network))
    except (WorkbenchError, OSError) as error:
        say("warning", str(error))
        return None
    return Draft(id=None, revision=0, history=history)


def _held() -> list[Draft]:
    """The drafts of this tab, of all networks that it looked at."""
    held = [value for key, value in st.session_state.items() if str(key).startswith(ADDRESS)]
    return [one for one in held if isinstance(one, Draft)]


def _record_of(draft: Draft) -> str:
    return draft.history.state.scored_by


def _put_into_address(draft: Draft) -> None:
    for key, value in ((ADDRESS, draft.id), (KEPT, _record_of(draft))):
        if not value:
            st.query_params.pop(key, None)
        elif st.query_params.get(key) != value:
            st.query_params[key] = value


def _slot(network: Network) -> str:
    return f"{ADDRESS}_of_{network.name}_{network.content[-16:]}"


def _empty() -> Draft:
    return Draft(id=None, revision=0, history=begin())

"""The draft that the Trace page edits: in the address as `?trace_draft=...`, saved at every click.

    add_component(network, "a0.h1")     # in a callback, or before the circuit is drawn
    members(network)                    # heads and MLPs that are in, at once up to date

What a draft is, is in `draft_history`; its files are in `draft_files`.
"""

import streamlit as st

from apps.web.choice import Network
from apps.web.trace.draft_files import Draft, ground_of, read_draft, write_draft
from apps.web.trace.draft_history import History, Operation, State, begin, did, redone, undone
from apps.web.trace.draft_operations import AddComponent
from circuits.circuit import Circuit
from workbench.errors import WorkbenchError

ADDRESS = "trace_draft"
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
    named = st.query_params.get(ADDRESS)
    if not named or _is_of_another(named):
        return _empty()
    try:
        return read_draft(network, named)
    except (WorkbenchError, OSError) as error:
        say("warning", str(error))
        return _empty()


def _is_of_another(draft_id: str) -> bool:
    """Whether the draft in the address is this tab's draft of another network, looked at before."""
    held = [value for key, value in st.session_state.items() if str(key).startswith(ADDRESS)]
    return any(isinstance(one, Draft) and one.id == draft_id for one in held)


def _put_into_address(draft: Draft) -> None:
    if draft.id is None:
        st.query_params.pop(ADDRESS, None)
    elif st.query_params.get(ADDRESS) != draft.id:
        st.query_params[ADDRESS] = draft.id


def _slot(network: Network) -> str:
    return f"{ADDRESS}_of_{network.name}_{network.content[-16:]}"


def _empty() -> Draft:
    return Draft(id=None, revision=0, history=begin())

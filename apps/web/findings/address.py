"""The address of the Findings page: `?section=open&session=<digest>`.

Held by hand, not by bound widgets: those put a session's title into the address where its digest
belongs, and leave out what a link, and not a click, has chosen.
"""

import streamlit as st

RUN, OPEN, COMPARE = "This network", "Open a session", "Compare"
WORDS = {RUN: "network", OPEN: "open", COMPARE: "compare"}
"""Of each section in the address; the first is left out."""
SECTION = "findings_section"
"""Key of the control that turns to a section."""
_PART, _SESSION = "section", "session"
_KEPT_PART, _KEPT = "_findings_section", "_findings_session"
"""What this tab looked at last: a change of page clears the address."""


def section() -> str:
    """The section that is shown; an address that names just a session shows that."""
    other = OPEN if _SESSION in st.query_params else st.session_state.get(_KEPT_PART, RUN)
    said = st.query_params.get(_PART)
    return next((name for name, word in WORDS.items() if word == said), other)


def turn_to(name: str) -> None:
    """Show a section. The address names a session only where one is shown."""
    st.session_state[_KEPT_PART] = name
    _put(_PART, None if name == RUN else WORDS[name])
    _put(_SESSION, named_session() if name == OPEN else None)


def named_session() -> str | None:
    """The session that is named, by the digest of its file; it need not be kept any more."""
    kept: str | None = st.session_state.get(_KEPT)
    return st.query_params.get(_SESSION, kept) or None


def name_session(digest: str | None) -> None:
    """Show a session, or none."""
    st.session_state[_KEPT] = digest
    st.session_state[_KEPT_PART] = OPEN
    _put(_PART, WORDS[OPEN])
    _put(_SESSION, digest)


def _put(name: str, value: str | None) -> None:
    if value is None:
        if name in st.query_params:
            del st.query_params[name]
    elif st.query_params.get(name) != value:
        st.query_params[name] = value

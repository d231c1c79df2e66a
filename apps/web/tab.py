"""Which tab of the browser this is: a token that its session storage keeps through a refresh.

Whoever knows the token may cancel the jobs of the tab; jobs keep only its digest. A tab that is
duplicated by the browser takes the token along.
"""

import re
import secrets

import streamlit as st
from streamlit.errors import StreamlitDuplicateElementKey

TOKEN, MADE, COMPONENT = "_tab_token", "_tab_made", "_tab_component"
"""Keys of the session state: what the tab answered, what was made for it, the component."""
_FORM = re.compile(r"[0-9a-f]{32}")

_SCRIPT = """
export default function ({ data, setStateValue }) {
  const name = "workbench_tab";
  let token = data.token;
  try {
    const kept = window.sessionStorage.getItem(name);
    if (/^[0-9a-f]{32}$/.test(kept ?? "")) token = kept;
    else window.sessionStorage.setItem(name, token);
  } catch {
    // no storage: a refresh is another tab then
  }
  setStateValue("token", token);
}
"""
_component = st.components.v2.component("workbench_tab", js=_SCRIPT)


def tab() -> str:
    """The token of this tab. Until the browser has answered, one made for it here."""
    made: str = st.session_state.setdefault(MADE, secrets.token_hex(16))
    kept = st.session_state.get(TOKEN)
    if kept is None:
        try:
            _component(key=COMPONENT, data={"token": made}, on_token_change=_answered)
        except StreamlitDuplicateElementKey:
            pass  # asked for already in this run of the page
    return kept or made


def tab_tokens() -> tuple[str, ...]:
    """Every token that stands for this tab: a job may have been started before it answered."""
    return tuple({tab(), st.session_state[MADE]})


def _answered() -> None:
    token = st.session_state[COMPONENT].get("token")
    if isinstance(token, str) and _FORM.fullmatch(token):
        st.session_state[TOKEN] = token

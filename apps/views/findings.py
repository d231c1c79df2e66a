"""Findings: everything that is claimed so far, and what makes it travel."""

import streamlit as st

from apps.web.findings.address import COMPARE, OPEN, RUN, SECTION, section, turn_to
from apps.web.findings.compare import draw_compare
from apps.web.findings.opened import draw_opened
from apps.web.findings.run import draw_run
from apps.web.shell import guarded
from apps.web.view import View, views

SECTIONS = {RUN: draw_run, OPEN: draw_opened, COMPARE: draw_compare}


def draw() -> None:
    """One of the three sections, as the address says."""
    turn_to(section())
    st.session_state[SECTION] = section()
    st.segmented_control(
        "Section",
        list(SECTIONS),
        required=True,
        key=SECTION,
        on_change=lambda: turn_to(st.session_state[SECTION]),
        label_visibility="collapsed",
    )
    with st.expander("What am I looking at?"):
        st.markdown(WHAT)
    guarded(SECTIONS[section()])


WHAT = """
- A **finding** is a claim, a number that an intervention gave, and the same number measured where
  the claim should fail: the **controls**. A written rule makes the **verdict** of them; nobody
  decides it by eye.
- *Exact* means that everything there is was measured (all inputs, or all neurons). Otherwise a 95 %
  interval stands beside the number. *Held out* is the same number over inputs that neither
  training nor naming saw.
- A **session** is one file with findings, the weights they speak of, and notes. Anyone can open it,
  ask every question again on their own machine (**replay**), and see which answers hold. Nothing in
  it is run, and a session that was opened changes nothing here until you accept it.
"""

views.register("findings")(
    View(
        title="Findings",
        icon=":material/fact_check:",
        order=5,
        summary="Read what is claimed beside its controls, add notes, save it all as one file, or "
        "open and replay somebody else's.",
        needs_network=True,
        draw=draw,
    )
)

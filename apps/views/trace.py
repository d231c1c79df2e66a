"""Trace: from an effect to the part behind it, and from parts to a circuit."""

import streamlit as st

from apps.web.choice import required_network
from apps.web.trace.question import draw_question
from apps.web.view import View, views

SECTIONS = ("Effects", "Circuit", "Compare")
"""As the address spells them; only the chosen one is computed."""


def draw() -> None:
    """Draw the question and the chosen section."""
    network = required_network()
    if network is None:
        return
    sections, about = st.columns([2, 3], gap="medium")
    section = sections.segmented_control(
        "Section",
        SECTIONS,
        default=SECTIONS[0],
        required=True,
        key="trace_section",
        bind="query-params",
        label_visibility="collapsed",
    )
    with about.expander("What am I looking at?"):
        st.markdown(ABOUT)
    with st.container(border=True):
        asked = draw_question(network, of_circuit=section != "Effects")
    if section == "Effects":
        from apps.web.trace import effects as trace_effects

        trace_effects.draw(network, asked)
        return
    from apps.web.trace import circuit as trace_circuit

    if section == "Circuit":
        trace_circuit.draw(network)
    else:
        trace_circuit.compare(network)


ABOUT = """
A network answers a *clean* input rightly. A *corrupted* input looks almost alike and has another
answer. **Patching** takes the activation of one part from one run and puts it into the other run:

- *denoising* puts the clean activation into the run on the corrupted input. If the clean answer
  comes back, the part is enough for it;
- *noising* puts the corrupted activation into the run on the clean input. If the answer breaks, the
  part was needed for it.

The **effect** is how far the metric moves. Each cell of the map is one part, patched alone; blue
moves the metric up, orange down. A large effect means something only beside its controls: the
runner-up on pairs that neither was chosen on, and the same sweep on untrained networks.

Click a cell to see what the part reads and writes, and add it to a circuit. **Circuit** tests
whether the parts you chose do the task without the rest.
"""

views.register("trace")(
    View(
        title="Trace",
        icon=":material/account_tree:",
        order=2,
        summary="Patch one part after another, click the strongest, and build the circuit that "
        "does the task.",
        needs_network=True,
        draw=draw,
    )
)

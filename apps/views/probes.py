"""Probes: where a network's variables can be read, beside controls, and whether it uses them."""

import streamlit as st

from apps.web.choice import required_network, run_names
from apps.web.probes.network import draw_network
from apps.web.probes.sweeps import draw_sweeps
from apps.web.probes.training import draw_training
from apps.web.view import View, views

NETWORK, TRAINING, SWEEPS = "This network", "Across training", "Sweeps"


def draw() -> None:
    """Draw the page: one of its three sections."""
    with st.expander("What am I looking at?"):
        st.markdown(EXPLANATION)
    section = st.segmented_control(
        "Section",
        [NETWORK, TRAINING, SWEEPS],
        default=NETWORK,
        key="probes_section",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
    )
    if section == SWEEPS and run_names():
        draw_sweeps()
        return
    network = required_network()
    if network is None:
        return
    if section == TRAINING:
        draw_training(network)
    else:
        draw_network(network)


EXPLANATION = """
A **probe** is a small model that tries to read a variable, such as a carry, off one activation.
Reading well proves little on its own: a wide layer lets a probe read almost any function of the
tokens it has seen. So every accuracy stands beside controls that should fail:

- the **control task**: random classes of the same tokens, read by the same kind of probe;
- **shuffled** labels, the **commonest class**, and the same probe in **untrained** networks.

*Selective* means better than all of these. Whether the network **uses** what a probe reads is asked
apart: the variable is erased, and the network answers again, beside erasures of as many random
directions.

**Across training** asks from which checkpoint on that is so; a **sweep** asks many networks at
once.
"""

views.register("probes")(
    View(
        title="Probes",
        icon=":material/sensors:",
        order=4,
        summary="Choose a variable to see where it can be read, beside what should fail; click a "
        "cell for everything measured there.",
        needs_network=True,
        draw=draw,
    )
)

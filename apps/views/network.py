"""Network: what one network answers, where it looks, and what its parts are made of."""

from collections.abc import Callable

import streamlit as st

from apps.web.choice import Network, required_network
from apps.web.inputs import Operands, input_choice
from apps.web.network.answers import draw_answers, draw_input, follow_box, take_click
from apps.web.network.attention import draw_attention
from apps.web.network.header import draw_header
from apps.web.network.lens import draw_lens
from apps.web.network.neurons import draw_neurons
from apps.web.network.spectra import draw_spectra
from apps.web.network.training import draw_training
from apps.web.view import View, views

SECTIONS: dict[str, Callable[[Network, Operands], None]] = {
    "Answers": lambda network, clean: draw_answers(network),
    "Training": lambda network, clean: draw_training(network),
    "Attention": draw_attention,
    "Logit lens": draw_lens,
    "Spectra": lambda network, clean: draw_spectra(network),
    "Neurons": lambda network, clean: draw_neurons(network),
}
"""What the page offers; only the chosen one is computed."""
HELP = """
A network reads an input such as `37 + 92 =` as tokens and gives every token a score, its logit;
the largest is its answer. **Answers** shows on which inputs that is right, **Training** how it came
to be so. **Attention** shows which tokens its heads look at, the **Logit lens** from which layer on
the answer can be read. **Spectra** and **Neurons** look for waves: a network that adds on a circle
carries few frequencies. An untrained one carries all of them, which is why it stands beside.
What is seen here is a hint. Trace and Parts test it by intervening.
"""


def draw() -> None:
    """The header, the input looked at, and the chosen section."""
    network = required_network()
    if network is None:
        return
    draw_header(network)
    with st.expander("What am I looking at?", icon=":material/help:"):
        st.markdown(HELP)
    section = st.segmented_control(
        "Section",
        list(SECTIONS),
        default="Answers",
        required=True,
        key="network_section",
        bind="query-params",
        label_visibility="collapsed",
    )
    if section == "Answers":
        take_click(network)
    box, said = st.columns([1, 2], vertical_alignment="bottom")
    with box:
        clean = input_choice(network, "clean", label="Input looked at")
    with said:
        draw_input(network, clean)
    if section == "Answers":
        follow_box(network)
    SECTIONS[section](network, clean)


views.register("network")(
    View(
        title="Network",
        icon=":material/hub:",
        order=1,
        summary="Scrub through the checkpoints at the left, and click an input to look at it.",
        needs_network=True,
        draw=draw,
    )
)

"""Parts: switch the identified parts of a network and see what was predicted come true, or not."""

import streamlit as st

from apps.web.choice import Network, required_network
from apps.web.explaining import offer_explanation
from apps.web.parts.data import explanation_of
from apps.web.shell import escaped, guarded
from apps.web.view import View, views
from circuits.mechanism import mechanism_for
from workbench.record import Record
from workbench.tasks.digit_addition import DigitAddition

VERDICTS = {
    "identified": (st.success, ":material/verified:"),
    "partial": (st.info, ":material/rule:"),
    "not identified": (st.warning, ":material/block:"),
}
ABOUT = """
A network that was explained has *parts*: circles on which it embeds its numbers, neurons that
multiply them, heads that carry them. Each part has a switch here.

Set a switch and three things are told. **Predicted** is what the explanation says must happen to
every answer; it is worked out from the named parts alone. **What happened** is the network itself,
run on every input. The **controls** are the same switches at other places, where the prediction
should fail: if it comes true there too, the part was nothing special.

Where the prediction fails at the named parts, the explanation is incomplete: that is a finding.
"""


def draw() -> None:
    """Draw the verdict and the switches that fit the task."""
    network = required_network()
    if network is None:
        return
    with st.expander("What am I looking at?"):
        st.markdown(ABOUT)
    if mechanism_for(network.task) is None:
        from apps.web.parts import ablate as parts_ablate

        parts_ablate.draw(network)
        return
    guarded(lambda: _verdict(network, explanation_of(network)))
    if isinstance(network.task, DigitAddition):
        from apps.web.parts import columns as parts_columns

        parts_columns.draw(network)
        return
    from apps.web.parts import circles as parts_circles

    parts_circles.draw(network)


def _verdict(network: Network, record: Record | None) -> None:
    """What the explanation found, or the offer to make one."""
    if record is not None:
        verdict, reason = str(record.result.get("verdict")), str(record.result.get("reason"))
        box, icon = VERDICTS.get(verdict, (st.warning, ":material/help:"))
        box(f"**{escaped(verdict)}**: {escaped(reason)}.", icon=icon)
        if verdict == "not identified":
            st.caption(
                "The switches still work, on the strongest frequencies or heads there are. Expect "
                "the predictions to fail."
            )
        return
    st.markdown("The parts were named just now, and have **not been tested** yet.")
    offer_explanation(network, explained=False, page="parts")


views.register("parts")(
    View(
        title="Parts",
        icon=":material/toggle_on:",
        order=3,
        summary="Switch a part off, keep it alone, or turn it: is the answer what was predicted?",
        needs_network=True,
        draw=draw,
    )
)

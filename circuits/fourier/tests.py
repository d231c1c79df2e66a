"""Every test of the Fourier mechanism: its claim, its number, and where it should fail.

Each `Test` gives one number for one network (`value`), and the same number for interventions of
the same size elsewhere in that network (`controls`). The very same `value` is taken on control
networks, with parts named by the same procedure. Nothing is named here: the parts are frozen.
"""

from collections.abc import Callable
from typing import NamedTuple

from circuits.fourier import formula, neurons, planes
from circuits.fourier.study import Measured, Study
from workbench.finding import Control


class Test(NamedTuple):
    """One claim, how its number is measured, and where it should fail."""

    id: str
    claim: str
    """With `{key}` and `{embedding}` for the named frequencies."""
    measure: str
    value: Callable[[Study], Measured]
    controls: Callable[[Study], list[Control]]


TESTS = (
    Test(
        "sufficiency",
        "Keeping only frequencies {embedding} of the operand embeddings, the task is still done.",
        "accuracy with the other planes removed",
        planes.kept_embedding,
        planes.kept_embedding_controls,
    ),
    Test(
        "sufficiency_logits",
        "Keeping only frequencies {key} of the logits, the task is still done.",
        "accuracy with the other planes removed",
        planes.kept_logits,
        planes.kept_logits_controls,
    ),
    Test(
        "necessity",
        "Without frequencies {embedding} of the operand embeddings, nothing is left.",
        "fall in accuracy when they are removed",
        planes.removed_embedding,
        planes.removed_embedding_controls,
    ),
    Test(
        "necessity_logits",
        "Without frequencies {key} of the logits, next to nothing is left.",
        "fall in accuracy when they are removed",
        planes.removed_logits,
        planes.removed_logits_controls,
    ),
    Test(
        "neurons",
        "Each MLP neuron works for one frequency.",
        f"share of live neurons with {neurons.PURE:.0%} or more of their variance in one frequency",
        neurons.pure_neurons,
        neurons.pure_neurons_controls,
    ),
    Test(
        "neuron_ablation",
        "Ablating the neurons of one frequency takes away that frequency and not the rest.",
        "share of the frequency's logit amplitude lost with its neurons",
        neurons.ablated_neurons,
        neurons.ablated_neurons_controls,
    ),
    Test(
        "edit",
        "Rotating planes {embedding} of operand a by the angle of s makes the network answer as "
        "if a were a+s.",
        "accuracy against the answer for a+s",
        planes.rotated,
        planes.rotated_controls,
    ),
    Test(
        "formula",
        "The network's answer is argmax over c of the sum of alpha_k cos(w_k(a+b-c)), k = {key}.",
        "share of inputs on which the formula gives the network's own answer",
        formula.formula_answer,
        formula.formula_answer_controls,
    ),
    Test(
        "formula_logits",
        "The logits themselves are that sum.",
        "share of the centred logit variance explained by the frozen formula",
        formula.formula_logits,
        formula.formula_logits_controls,
    ),
)
"""Every test of the mechanism, in the order a reader wants them."""

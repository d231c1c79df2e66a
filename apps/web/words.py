"""What terms mean, for whoever meets one for the first time: help texts of widgets and columns."""

WORDS = {
    "ablation": "What is put in place of an activation: the same activation on the other input "
    "(resample), its mean over inputs (mean; mean_positional keeps positions apart), or zero.",
    "amplitude": "How strongly cos(w_k (a + b - c)) shows in the logits, over all inputs.",
    "answer": "What the network should say: the largest logit at the answer's position counts as "
    "its answer.",
    "attention": "How much a head, at one position, looks at each earlier position: shares that "
    "add up to 1.",
    "checkpoint": "The network as it was after so many training steps.",
    "circuit": "A set of edges that is claimed to do the task without the others.",
    "clean": "The input that is answered rightly; the corrupted one is its twin with another "
    "answer.",
    "completeness": "Whether the circuit holds all that matters: removing the same parts from the "
    "circuit and from the whole network should do the same. 0 is complete.",
    "control": "The same measurement where the claim should fail. A number means nothing without.",
    "control task": "What a probe could read of anything: classes dealt out at random to the very "
    "tokens that decide the variable. A probe that reads these as well reads nothing of the "
    "network's making.",
    "corrupted": "The clean input's twin: changed so that the answer is another one.",
    "denoising": "Patching the clean activation into the run on the corrupted input. Where this "
    "brings the clean answer back, the part is enough for it.",
    "direct logit attribution": "What a part writes, seen through the unembedding: how many nats "
    "it adds to the right answer's logit over the wrong one's, on its own.",
    "direction": "Denoising patches the clean activation into the corrupted run; noising the "
    "corrupted one into the clean run.",
    "edge": "From what one part writes to what another reads, such as a0.h1->m0: head 1 of layer "
    "0 into the MLP of layer 0.",
    "effect": "The metric of the patched run minus that of the run that is patched, in the mean "
    "over pairs.",
    "embedding plane": "The circle of one frequency in the embeddings of both operands. Off: what "
    "they hold of it is projected away.",
    "erasure": "Taking the directions away from which a linear probe could read a variable, and "
    "asking the network again. Beside it, as many random directions are taken.",
    "faithfulness": "How much of the network's behaviour the circuit alone keeps: 1 is the whole "
    "network, 0 is no edge at all. It may exceed 1 or fall below 0.",
    "grokking": "The network first memorises its training pairs; much later, all at once, it "
    "answers new ones.",
    "held out": "Inputs that were not trained on.",
    "interval": "95 % confidence interval. Where every input was measured there is none: the "
    "number is exact.",
    "key frequency": "A circle on which the network embeds its operands: number x at the angle 2 "
    "pi k x / p.",
    "logit difference": "Logit of the right answer minus that of the wrong one, in nats.",
    "logit lens": "What the network would answer if it stopped after this layer: the residual "
    "stream read by the final unembedding.",
    "logit plane": "What the logits, over answers, hold of one frequency. Off: it is projected "
    "away.",
    "margin": "Logit of the right answer minus the largest other logit, in nats. Positive where "
    "the answer is right; near zero it was a close call.",
    "metric": "The number that patching changes: logit difference, log probability of the answer, "
    "KL divergence to the clean run, or accuracy.",
    "neuron": "One unit of an MLP layer. Its activation is what it passes on after the "
    "nonlinearity.",
    "neurons of a frequency": "Neurons whose activation follows one frequency more than any "
    "other. Off: they are set to their mean, or to zero, at the answer.",
    "noising": "Patching the corrupted activation into the run on the clean input. Where this "
    "breaks the answer, the part was needed for it.",
    "percentile": "Share of random circuits of the same size that are less faithful. A circuit "
    "that means something is above 99.",
    "probe": "A small model that reads a variable off an activation. What it can read is there, "
    "which does not say that the network uses it.",
    "q-value": "Share of false claims to expect among all cells at least this significant.",
    "recipe": "How to train: learning rate, weight decay, steps, batches.",
    "seed": "Decides the initial weights, the training pairs and the batches. The same seed gives "
    "the same network.",
    "selectivity": "Accuracy of a probe minus its accuracy on a control task: random labels that "
    "are a function of the very same tokens.",
    "session": "One file with findings, the weights they speak of and notes, which opens anywhere "
    "and asks every question again.",
    "spectrum": "How much of something that varies over the numbers 0 to p - 1 is a wave of each "
    "frequency: frequency k goes round k times.",
    "sweep": "One question asked of many networks and checkpoints. It survives being stopped: "
    "what is finished is kept.",
    "threshold": "Edges are ranked by the size of their scores. By number: so many of the largest. "
    "By score: all from a size on, whatever the sign.",
    "turning a plane": "In the plane of a frequency, operand a gets the place of a + s (where the "
    "task multiplies: of a times g to the s). If the network adds on this circle, its answer "
    "moves too.",
    "untrained network": "A network of the same shape with fresh random weights, as this one had "
    "before training. What it shows as well is no sign of anything learned.",
    "verdict": "What a written rule makes of a number and its controls. Nobody decides it by eye.",
}
"""Term to explanation."""


def help_of(*terms: str) -> str:
    """What terms mean, as the help text of a widget. Raises `KeyError` for one that is not here."""
    return "  \n".join(WORDS[term] for term in terms)

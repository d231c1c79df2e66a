"""The program read off a network: argmax over c of sum_k alpha_k cos(w_k (a + b - c)).

A caution: with positive amplitudes that argmax is the right answer whatever the frequencies, so
agreement with a network that is always right says little by itself. The share of the logits'
variance that the formula explains is therefore tested beside it, and it does depend on them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cells import logits_of
from circuits.fourier import characters
from circuits.fourier.parts import logs_of, structure
from circuits.fourier.study import Measured, Study, average, generator_for
from workbench.finding import Control
from workbench.task import CyclicStructure, Inputs


def formula_answer(study: Study) -> Measured:
    """Share of inputs on which argmax_c sum_k alpha_k cos w_k(a+b-c) is the network's answer."""
    own = logits_of(study.subject, study.inputs).argmax(-1).cpu()
    frequencies = torch.tensor(study.parts.key_frequencies, dtype=torch.long)
    alpha = study.parts.alpha[frequencies - 1]
    agree = _formula(structure(study.subject), study.inputs, frequencies, alpha)
    chosen = structure(study.subject).elements[agree.argmax(-1)]
    same = (chosen == own).double() if len(frequencies) else torch.zeros(len(own)).double()
    return Measured(float(same.mean()), same, {})


def formula_answer_controls(study: Study) -> list[Control]:
    """The same formula, with the amplitudes that the wrong characters have in these logits."""
    cyclic = structure(study.subject)
    wrong = characters.wrong_structure(cyclic)
    inside = torch.isin(study.inputs, wrong.elements).all(1)
    inputs = study.inputs[inside]
    logits = logits_of(study.subject, inputs)
    alpha, shares = _wrong_amplitudes(wrong, inputs, logits)
    count = max(1, len(study.parts.key_frequencies))
    frequencies = shares.argsort(descending=True)[:count] + 1
    chosen = _formula(wrong, inputs, frequencies, alpha[frequencies - 1]).argmax(-1)
    same = (wrong.elements[chosen] == logits.argmax(-1).cpu()).double()
    value = float(same.mean())
    return [Control(name="wrong basis", value=value, n=len(same), interval=None, unit="inputs")]


def formula_logits(study: Study) -> Measured:
    """Share of the centred logit variance over all inputs that the frozen formula explains."""
    frequencies = torch.tensor(study.parts.key_frequencies, dtype=torch.long)
    share, per_input = _explained(study, frequencies)
    return Measured(share, per_input, {"frequencies": float(len(frequencies))})


def formula_logits_controls(study: Study) -> list[Control]:
    """The same with the amplitudes found for as many other frequencies."""
    generator = generator_for(study, "formula")
    key = set(study.parts.key_frequencies)
    others = torch.tensor([k for k in range(1, len(study.parts.alpha) + 1) if k not in key])
    if len(others) == 0:
        return []
    draws = []
    for _ in range(study.n_draws):
        drawn = others[torch.randperm(len(others), generator=generator)[: max(1, len(key))]]
        draws.append(torch.tensor(_explained(study, drawn)[0]))
    return [average("other frequencies", torch.stack(draws))]


def _formula(
    cyclic: CyclicStructure,
    inputs: Inputs,
    frequencies: Int[Tensor, " key"],
    alpha: Float[Tensor, " key"],
) -> Float[Tensor, "batch element"]:
    """sum_k alpha_k cos(w_k (a + b - c)) for every input and answer."""
    order = cyclic.order
    angles = torch.arange(order).double() * (2 * torch.pi / order)
    table = torch.zeros(order, dtype=torch.float64)
    for k, amplitude in zip(frequencies.tolist(), alpha, strict=True):
        table += amplitude * angles[k * torch.arange(order) % order].cos()
    total = logs_of(cyclic, inputs[:, 0]) + cyclic.b_sign * logs_of(cyclic, inputs[:, 1])
    return table[(total[:, None] - cyclic.logs[None]) % order]


def _explained(
    study: Study, frequencies: Int[Tensor, " key"]
) -> tuple[float, Float[Tensor, " batch"]]:
    """Share of centred logit variance explained with frozen amplitudes; also per input."""
    cyclic = structure(study.subject)
    logits = logits_of(study.subject, study.inputs)[:, cyclic.elements].double().cpu()
    logits = logits - logits.mean(1, keepdim=True)
    logits = logits - logits.mean(0, keepdim=True)
    alpha = study.parts.alpha[frequencies - 1]
    error = (logits - _formula(cyclic, study.inputs, frequencies, alpha)).square().mean(1)
    variance = logits.square().mean().clamp_min(1e-30)
    return float(1 - error.mean() / variance), 1 - error / variance


def _wrong_amplitudes(
    wrong: CyclicStructure, inputs: Inputs, logits: Float[Tensor, "batch d_vocab_out"]
) -> tuple[Float[Tensor, " frequency"], Float[Tensor, " frequency"]]:
    """Amplitude and share of every frequency of the wrong characters in these logits."""
    logs_a, logs_b = (logs_of(wrong, inputs[:, column]) for column in (0, 1))
    values = logits[:, wrong.elements].cpu()
    profile, variance = characters.sum_profile(wrong, logs_a, logs_b, values)
    alpha, beta = characters.profile_amplitudes(profile)
    return alpha, characters.amplitude_shares(alpha, beta, wrong.order, variance)

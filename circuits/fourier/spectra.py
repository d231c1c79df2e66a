"""Spectra: how much of embeddings, logits and neurons each frequency of a cyclic task carries.

For looking at; what is claimed of frequencies is named and tested in `circuits.fourier.parts` and
`circuits.fourier.tests`. Everything here is over all inputs of the group.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cells import logits_of, split_operands
from circuits.fourier import characters
from circuits.fourier.parts import KEY_SHARE, embedding_energy, logs_of, structure
from workbench.subject import Subject
from workbench.task import CyclicStructure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectra:
    """Shares by frequency, from frequency 1 on."""

    embedding: Float[Tensor, " frequency"]
    """Of the operand embeddings' variance over the elements; they sum to 1."""
    logits: Float[Tensor, " frequency"]
    """Of the centred logit variance, as a function of a + b - c (in logarithms)."""

    @property
    def key_frequencies(self) -> tuple[int, ...]:
        """Frequencies with at least 1 % of the logit variance, strongest first."""
        order = self.logits.argsort(descending=True).tolist()
        return tuple(k + 1 for k in order if float(self.logits[k]) >= KEY_SHARE)


def read_spectra(subject: Subject) -> Spectra:
    """Spectra of a network whose task adds in a cyclic group."""
    cyclic = structure(subject)
    inputs = torch.cartesian_prod(cyclic.elements, cyclic.elements)
    logits = logits_of(subject, inputs)[:, cyclic.elements].cpu()
    logs_a, logs_b = (logs_of(cyclic, inputs[:, column]) for column in (0, 1))
    profile, variance = characters.sum_profile(cyclic, logs_a, logs_b, logits)
    alpha, beta = characters.profile_amplitudes(profile)
    energy = embedding_energy(split_operands(subject))
    return Spectra(
        embedding=energy / energy.sum().clamp_min(1e-30),
        logits=characters.amplitude_shares(alpha, beta, cyclic.order, variance),
    )


def neuron_shares(
    cyclic: CyclicStructure, maps: Float[Tensor, "neuron a b"]
) -> Float[Tensor, "frequency neuron"]:
    """Share of each neuron's variance explained by each single frequency; 0 for a constant one.

    The same as `circuits.fourier.parts.frequency_shares` on all inputs, where the eight functions
    of a frequency are orthogonal: each share is a sum of squared projections, and these separate
    into a product over a and one over b. Maps are over the group's elements, ascending.
    """
    planes = characters.fourier_planes(cyclic).to(maps.dtype)
    n = len(cyclic.elements)
    centred = maps - reduce(maps, "neuron a b -> neuron 1 1", "mean")
    over_a = einsum(planes, centred, "k row a, neuron a b -> k row neuron b")
    both = einsum(over_a, planes, "k row neuron b, k column b -> k row column neuron")
    of_a = reduce(over_a, "k row neuron b -> k row neuron", "sum") / n**0.5
    sums_b = reduce(centred, "neuron a b -> neuron b", "sum") / n**0.5
    of_b = einsum(planes, sums_b, "k column b, neuron b -> k column neuron")
    explained = both.square().sum((1, 2)) + of_a.square().sum(1) + of_b.square().sum(1)
    total = rearrange(centred, "neuron a b -> neuron (a b)").square().sum(1)
    varies = total > 1e-9 * n * n
    return torch.where(varies, explained / total.clamp_min(1e-30), torch.zeros_like(explained))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BestFrequencies:
    """The frequency that explains most of each neuron's variance."""

    frequency: Int[Tensor, " neuron"]
    """0 for a neuron that never varies."""
    share: Float[Tensor, " neuron"]


def best_frequencies(shares: Float[Tensor, "frequency neuron"]) -> BestFrequencies:
    """The best frequency of each neuron, and its share."""
    best = shares.max(0)
    frequency = torch.where(best.values > 0, best.indices + 1, 0)
    return BestFrequencies(frequency=frequency, share=best.values)

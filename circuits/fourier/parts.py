"""Naming the parts of a network that adds on circles, from its training pairs alone.

Nanda et al. 2023 (arXiv:2301.05217) read modular addition off a trained transformer: operands are
embedded on circles of a few frequencies, neurons multiply them, and the logits are a sum of
cos(w_k (a + b - c)). Zhong et al. 2023 (arXiv:2306.17844) showed that embedding planes and logit
frequencies can differ: a network may embed 17 and its double, and answer with 17 alone. So both
are named, separately:

- *key frequencies*: frequencies of (a + b - c) that carry at least 1 % of the centred variance of
  the logits on the naming pairs, strongest first;
- *embedding frequencies*: the shortest prefix of the embedding spectrum that is enough to do the
  naming pairs when kept alone, and without which they are answered at chance;
- *neurons*: the one frequency that explains most of a neuron's variance on the naming pairs.

For multiplication and division everything is said of discrete logarithms. Nothing here looks at a
pair outside the naming pairs; the findings (`circuits.fourier.tests`) test what was named.
"""

import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.cells import correct, logits_of, run_cells
from circuits.fourier import characters
from workbench.subject import Subject
from workbench.task import CyclicStructure, Inputs
from workbench.transformer import forward

KEY_SHARE = 0.01
"""A frequency is key when it carries this share of the centred logit variance."""
KEPT_ENOUGH = 0.999
"""Embedding planes are enough when kept alone they give this share of the full accuracy."""
MAX_PLANES = 12
"""At most this many embedding planes are named, and never more than half of all."""
PLANE_SHARE = 1e-3
"""A plane with less than this share of the embeddings' squared norm is never named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierParts:
    """The named parts of one network."""

    key_frequencies: tuple[int, ...]
    """Frequencies of the logits, strongest first; empty where none carries 1 %."""
    embedding_frequencies: tuple[int, ...]
    """Frequencies of the operand embeddings, strongest first."""
    embedding_complete: bool
    """Whether the embedding planes passed both conditions on the naming pairs."""
    alpha: Float[Tensor, " frequency"]
    """Amplitude of cos(w_k (a + b - c)) in the logits, for every frequency."""
    logit_shares: Float[Tensor, " frequency"]
    """Share of the centred logit variance carried by each frequency of (a + b - c)."""
    embedding_shares: Float[Tensor, " frequency"]
    """Share of the centred operand embeddings' squared norm in each plane."""
    neuron_frequencies: Int[Tensor, " neuron"]
    """The frequency that explains each neuron best; 0 for a neuron that never varies."""


def structure(subject: Subject) -> CyclicStructure:
    """The task's cyclic group."""
    cyclic = subject.task.cyclic()
    assert cyclic is not None, f"{subject.task.name} is not cyclic"
    return cyclic


def logs_of(cyclic: CyclicStructure, residues: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Logarithm of each residue."""
    table = torch.zeros(int(cyclic.elements.max()) + 1, dtype=torch.long)
    table[cyclic.elements] = cyclic.logs
    return table[residues]


def name_parts(subject: Subject, inputs: Inputs, answers: Int[Tensor, " batch"]) -> FourierParts:
    """Name the parts from these pairs (and the weights). `subject` has split operands."""
    cyclic = structure(subject)
    logits = logits_of(subject, inputs)[:, cyclic.elements].cpu()
    logs_a, logs_b = (logs_of(cyclic, inputs[:, column]) for column in (0, 1))
    profile, variance = characters.sum_profile(cyclic, logs_a, logs_b, logits)
    alpha, beta = characters.profile_amplitudes(profile)
    shares = characters.amplitude_shares(alpha, beta, cyclic.order, variance)
    energy = embedding_energy(subject)
    chosen, complete = _embedding_frequencies(subject, inputs, answers, energy)
    return FourierParts(
        key_frequencies=tuple(
            int(k) + 1 for k in shares.argsort(descending=True) if shares[k] >= KEY_SHARE
        ),
        embedding_frequencies=chosen,
        embedding_complete=complete,
        alpha=alpha,
        logit_shares=shares,
        embedding_shares=energy / energy.sum().clamp_min(1e-30),
        neuron_frequencies=_neuron_frequencies(subject, inputs),
    )


def operand_rows(subject: Subject) -> Float[Tensor, "operand element d_model"]:
    """Embedding rows of both operands, over the group's elements (float64, on the CPU)."""
    elements, p = structure(subject).elements, subject.task.n_answer_tokens
    embed = subject.params["embed.W_E"].double().cpu()
    return torch.stack([embed[elements], embed[p + elements]])


def embedding_energy(subject: Subject) -> Float[Tensor, " frequency"]:
    """Squared norm of both operand embeddings in the plane of each frequency."""
    planes = characters.fourier_planes(structure(subject))
    rows = operand_rows(subject)
    return torch.stack([characters.plane_energy(planes, operand) for operand in rows]).sum(0)


def transformed_embedding(
    subject: Subject,
    transform_a: Float[Tensor, "cell element element"],
    transform_b: Float[Tensor, "cell element element"],
) -> Float[Tensor, "cell d_vocab d_model"]:
    """Embedding matrices in which the rows of each operand are mixed by a matrix, per cell."""
    elements, p = structure(subject).elements, subject.task.n_answer_tokens
    rows = operand_rows(subject)
    embed = subject.params["embed.W_E"].cpu()
    cells = embed.repeat(len(transform_a), 1, 1)
    cells[:, elements] = (transform_a @ rows[0]).to(embed.dtype)
    cells[:, p + elements] = (transform_b @ rows[1]).to(embed.dtype)
    return cells


def keep_transform(
    projector: Float[Tensor, "*cell element element"], scale: float = 1.0
) -> Float[Tensor, "*cell element element"]:
    """Keep a subspace of the tokens (scaled) and the mean, remove all else."""
    n = projector.shape[-1]
    return scale * projector + torch.full((n, n), 1.0 / n, dtype=projector.dtype)


def remove_transform(
    projector: Float[Tensor, "*cell element element"], scale: float = 1.0
) -> Float[Tensor, "*cell element element"]:
    """Remove a subspace of the tokens (scaled), keep all else."""
    return torch.eye(projector.shape[-1], dtype=projector.dtype) - scale * projector


def accuracy_at_chance(chance: float, n: int) -> float:
    """The accuracy that counts as chance on n inputs: 1.5 times it, or 3 standard errors above."""
    return max(1.5 * chance, chance + 3 * math.sqrt(chance * (1 - chance) / n))


def _embedding_frequencies(
    subject: Subject,
    inputs: Inputs,
    answers: Int[Tensor, " batch"],
    energy: Float[Tensor, " frequency"],
) -> tuple[tuple[int, ...], bool]:
    """The shortest prefix of the spectrum that suffices and is needed; else the best one."""
    planes = characters.fourier_planes(structure(subject))
    order = energy.argsort(descending=True)[: min(MAX_PLANES, max(1, len(energy) // 2))]
    order = order[: max(1, int((energy[order] >= PLANE_SHARE * energy.sum()).sum()))]
    prefixes = torch.stack(
        [characters.projector(planes[order[: m + 1]]) for m in range(len(order))]
    )
    transforms = torch.cat([keep_transform(prefixes), remove_transform(prefixes)])
    target = answers.expand(len(transforms) + 1, -1)
    transforms = torch.cat([transforms, torch.eye(transforms.shape[-1]).double()[None]])
    embed = transformed_embedding(subject, transforms, transforms)
    outcome = run_cells(subject, inputs, target, overrides={"embed.W_E": embed})
    accuracy = correct(outcome, target).double().mean(1)
    kept, removed = accuracy[: len(order)], accuracy[len(order) : -1]
    chance = accuracy_at_chance(subject.task.chance, len(inputs))
    enough: Bool[Tensor, " prefix"] = (kept >= KEPT_ENOUGH * accuracy[-1]) & (removed <= chance)
    enough &= accuracy[-1] > chance
    complete = bool(enough.any())
    best = int(enough.double().argmax()) if complete else int((kept - removed).argmax())
    return tuple(int(k) + 1 for k in order[: best + 1]), complete


def neuron_activations(subject: Subject, inputs: Inputs) -> Float[Tensor, "batch neuron"]:
    """Activations of every MLP neuron at the answer position, layers concatenated."""
    config = subject.config
    if config.d_mlp == 0:
        return torch.zeros(len(inputs), 0)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(config.n_layers)]
    tokens = subject.task.encode(inputs).to(subject.device)
    positions = subject.task.answer_positions
    with torch.no_grad():
        out = forward(subject.params, tokens, config, positions=positions, taps=names)
    return torch.cat([out.activations[name][:, -1] for name in names], dim=-1).cpu()


def frequency_shares(
    cyclic: CyclicStructure,
    inputs: Inputs,
    values: Float[Tensor, "batch column"],
) -> Float[Tensor, "frequency column"]:
    """Share of each column's variance over these inputs explained by each single frequency.

    The fit is the degree-2 polynomial of Nanda et al. 2023 (section 4.2): sines and cosines of
    w_k a and w_k b and their four products, by least squares.
    """
    centred = values.double() - values.double().mean(0)
    variance = centred.square().sum(0)
    logs = [logs_of(cyclic, inputs[:, column]) for column in (0, 1)]
    frequencies = characters.frequencies(cyclic.order)
    angles = [
        (frequencies[:, None] * log % cyclic.order).double() * (2 * math.pi / cyclic.order)
        for log in logs
    ]
    (ca, sa), (cb, sb) = [(angle.cos(), angle.sin()) for angle in angles]
    design = torch.stack([ca, sa, cb, sb, ca * cb, sa * sb, ca * sb, sa * cb], dim=1)
    design = design - design.mean(-1, keepdim=True)
    # The sines of the last frequency of an even order vanish; a tiny ridge keeps it solvable.
    ridge = 1e-9 * len(inputs) * torch.eye(design.shape[1], dtype=torch.float64)
    gram = einsum(design, design, "k one n, k two n -> k one two") + ridge
    rows = rearrange(design, "k one n -> (k one) n") @ centred
    moments = rearrange(rows, "(k one) column -> k one column", k=len(frequencies))
    shares = (moments * torch.linalg.solve(gram, moments)).sum(1) / variance.clamp_min(1e-30)
    return torch.where(variance > 1e-9 * len(inputs), shares, 0.0)


def _neuron_frequencies(subject: Subject, inputs: Inputs) -> Int[Tensor, " neuron"]:
    values = neuron_activations(subject, inputs)
    if values.shape[1] == 0:
        return torch.zeros(0, dtype=torch.long)
    shares = frequency_shares(structure(subject), inputs, values)
    best = shares.max(0)
    return torch.where(best.values > 0, best.indices + 1, 0)


@dataclass(frozen=True, slots=True)
class LogitHead:
    """Apply a matrix over answers to centred logits; tokens that are no answer get -inf."""

    elements: Int[Tensor, " element"]
    transforms: Float[Tensor, "cell element element"]

    def __call__(
        self, logits: Float[Tensor, "chunk batch d_vocab_out"], cells: Int[Tensor, " chunk"]
    ) -> Float[Tensor, "chunk batch d_vocab_out"]:
        answers = logits[..., self.elements]
        answers = answers - answers.mean(-1, keepdim=True)
        mixing = self.transforms[cells].to(answers.device, answers.dtype)
        mixed = einsum(mixing, answers, "cell c x, cell batch x -> cell batch c")
        out = torch.full_like(logits, -torch.inf)
        out[..., self.elements] = mixed
        return out


def frequencies_as_text(frequencies: tuple[int, ...]) -> str:
    """Frequencies for a sentence: `13, 16 and 21`."""
    words = [str(k) for k in frequencies]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "none"

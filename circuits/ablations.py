"""Switching off heads, MLPs and neurons of any network, beside the same done to others.

For networks whose mechanism is not known: nothing is predicted, so what an ablation does is told
beside what it does to as many other parts of the same kind, and to random ones.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import CircuitError
from workbench.intervene import Cell, Intervention, MeanPositional, Site, Zero, intervene_in_chunks
from workbench.model_config import ModelConfig
from workbench.registry import unknown
from workbench.subject import Subject
from workbench.task import Inputs

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablated:
    """What is switched off. Travels as JSON by `workbench.config`."""

    heads: tuple[str, ...] = ()
    """Such as `a0.h1`."""
    mlps: tuple[str, ...] = ()
    """Such as `m0`."""
    neurons: tuple[int, ...] = ()
    """Of the last layer's MLP."""
    zero: bool = False
    """Set to zero instead of their mean over the inputs, by position."""


def head_names(config: ModelConfig) -> tuple[str, ...]:
    """Every head, by layer."""
    return tuple(f"a{i}.h{j}" for i in range(config.n_layers) for j in range(config.n_heads))


def mlp_names(config: ModelConfig) -> tuple[str, ...]:
    """Every MLP, by layer."""
    return tuple(f"m{i}" for i in range(config.n_layers)) if config.d_mlp else ()


def right_without(
    subject: Subject, inputs: Inputs, sets: list[Ablated]
) -> Bool[Tensor, "set input"]:
    """Where the network gives the right answer, with each set of parts switched off.

    An answer of several tokens is right where all are. Raises `CircuitError` for a part that the
    network does not have.
    """
    task = subject.task
    cells = [_cell(subject.config, one) for one in sets]
    tokens = task.encode(inputs).to(subject.device)
    answers = task.solve(inputs)
    right = torch.zeros(len(sets), len(inputs), dtype=torch.bool)
    for chunk in intervene_in_chunks(
        subject.params, tokens, subject.config, cells, positions=task.answer_positions
    ):
        right[chunk.cells] = (chunk.logits.argmax(-1).cpu() == answers).all(-1)
    return right


def other_parts(config: ModelConfig, ablated: Ablated, *, draw: int, seed: int) -> Ablated | None:
    """As many other heads, MLPs and neurons, drawn at random; None where there are not as many."""
    generator = torch.Generator().manual_seed(seed * 1009 + draw)
    heads = [name for name in head_names(config) if name not in ablated.heads]
    mlps = [name for name in mlp_names(config) if name not in ablated.mlps]
    neurons = [i for i in range(config.d_mlp) if i not in set(ablated.neurons)]
    few = len(heads) < len(ablated.heads) or len(mlps) < len(ablated.mlps)
    if few or len(neurons) < len(ablated.neurons):
        return None
    return Ablated(
        heads=_drawn(heads, len(ablated.heads), generator),
        mlps=_drawn(mlps, len(ablated.mlps), generator),
        neurons=_drawn(neurons, len(ablated.neurons), generator),
        zero=ablated.zero,
    )


def _drawn(known: list[T], count: int, generator: torch.Generator) -> tuple[T, ...]:
    order = torch.randperm(len(known), generator=generator).tolist()
    return tuple(known[i] for i in order[:count])


def _cell(config: ModelConfig, ablated: Ablated) -> Cell:
    source = Zero() if ablated.zero else MeanPositional()
    sites = []
    for name in ablated.heads:
        if name not in head_names(config):
            raise CircuitError(unknown("head", name, head_names(config)))
        layer, head = (int(part[1:]) for part in name.split("."))
        sites.append(Site(hook=f"blocks.{layer}.attn.hook_z", heads=(head,)))
    for name in ablated.mlps:
        if name not in mlp_names(config):
            raise CircuitError(unknown("MLP", name, mlp_names(config)))
        sites.append(Site(hook=f"blocks.{name[1:]}.hook_mlp_out"))
    for neuron in ablated.neurons:
        if not 0 <= neuron < config.d_mlp:
            raise CircuitError(f"no neuron {neuron}; the MLP has 0 to {config.d_mlp - 1}")
    if ablated.neurons:
        hook = f"blocks.{config.n_layers - 1}.mlp.hook_post"
        sites.append(Site(hook=hook, neurons=ablated.neurons))
    return tuple(Intervention(site=site, source=source) for site in sites)

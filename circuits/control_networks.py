"""Networks that learned nothing of a task: the same tests must find nothing in them.

Three of them go beside every explanation, all of the very shape of the network explained:
one untrained, one trained to memorise random labels of the same training pairs, and the explained
network with the entries of every weight matrix shuffled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.recipe import MEMORISE
from workbench.subject import Subject, untrained, with_params
from workbench.task import Inputs, Task, randomise_labels
from workbench.train import fit


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetwork:
    """A control network, and what it was asked to do."""

    name: str
    subject: Subject
    label: Callable[[Inputs], Int[Tensor, " batch"]]
    """The answers it was asked for."""
    inputs: Inputs | None
    """The only inputs it was asked about; None for all."""


def control_networks(subject: Subject, train: Inputs, *, seed: int) -> list[ControlNetwork]:
    """The three control networks of a subject trained on these inputs."""
    label = _true_label(subject.task)
    return [
        ControlNetwork(
            name="untrained network", subject=untrained(subject, seed), label=label, inputs=None
        ),
        memorising(subject, train, seed),
        ControlNetwork(
            name="permuted weights", subject=permuted(subject, seed), label=label, inputs=None
        ),
    ]


def permuted(subject: Subject, seed: int) -> Subject:
    """The same numbers in every parameter, in random order."""
    generator = torch.Generator().manual_seed(seed)
    params = {}
    for name in sorted(subject.params):
        tensor = subject.params[name]
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        params[name] = tensor.flatten()[order].reshape(tensor.shape)
    return with_params(subject, params)


def memorising(subject: Subject, train: Inputs, seed: int) -> ControlNetwork:
    """A network of the same shape, trained until it knows random labels of these inputs."""
    task = subject.task
    for snapshot in fit(
        task, subject.config, MEMORISE, [seed], device=subject.device, inputs=train
    ):
        last = snapshot
    assert last.failures[0] is None, last.failures[0]
    params = last.params(0)
    return ControlNetwork(
        name="memorised random labels",
        subject=with_params(subject, params),
        label=lambda inputs: randomise_labels(task, inputs, fraction=1.0, seed=seed)[:, 0],
        inputs=train,
    )


def _true_label(task: Task) -> Callable[[Inputs], Int[Tensor, " batch"]]:
    return lambda inputs: task.solve(inputs)[:, 0]

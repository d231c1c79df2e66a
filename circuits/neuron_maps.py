"""Neurons over all inputs of two operands, as a map: rows are a, columns are b.

Where there are too many inputs for that, means by two variables of the task stand in.

A neuron that serves a sum shows stripes along a + b; one that serves an operand shows lines.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.accuracy import ROWS_PER_PASS
from workbench.errors import CircuitError, UnknownName
from workbench.registry import unknown
from workbench.subject import Subject
from workbench.task import Inputs, Task
from workbench.transformer import forward


class Grid(NamedTuple):
    """The values of both operands, ascending. All their pairs are the task's domain, in order."""

    a: tuple[int, ...]
    b: tuple[int, ...]


def operand_grid(task: Task) -> Grid | None:
    """The grid of a task whose inputs are all pairs of two operands; None for any other task."""
    if not task.enumerable:
        return None
    inputs = task.domain()
    if inputs.shape[1] != 2:
        return None
    a, b = torch.unique(inputs[:, 0]), torch.unique(inputs[:, 1])
    if not torch.equal(torch.cartesian_prod(a, b), inputs):
        return None
    return Grid(tuple(a.tolist()), tuple(b.tolist()))


@torch.no_grad()
def neuron_maps(subject: Subject, layer: int, *, answer: int = -1) -> Float[Tensor, "neuron a b"]:
    """Activations (after the nonlinearity) of a layer's neurons where an answer token is read.

    Args:
        answer: which answer token; the last by default.

    Raises `CircuitError` where the task has no grid or the network no such layer of neurons.
    """
    task = subject.task
    grid = operand_grid(task)
    if grid is None:
        raise CircuitError(
            f"{task.label} has no grid of two operands; choose a task with fewer inputs"
        )
    check_neuron(subject, layer, 0)
    read = _activations(subject, layer, task.domain(), answer)
    return rearrange(read, "(a b) neuron -> neuron a b", a=len(grid.a)).cpu().contiguous()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanMaps:
    """Mean activations by the values of two variables, from 0 to the largest met."""

    mean: Float[Tensor, "neuron row column"]
    """NaN where no input has these values."""
    count: Int[Tensor, "row column"]
    """How many inputs have them."""


@torch.no_grad()
def mean_maps(
    subject: Subject,
    layer: int,
    inputs: Inputs,
    variables: tuple[str, str],
    *,
    answer: int = -1,
) -> MeanMaps:
    """Mean activations of a layer's neurons by two variables of the task, such as `a_0` and `b_0`.

    For tasks with more inputs than a grid can hold. Raises `UnknownName` for a variable that the
    task does not have, `CircuitError` for a layer that the network does not have.
    """
    check_neuron(subject, layer, 0)
    known = subject.task.variables(inputs)
    for name in variables:
        if name not in known:
            raise UnknownName(unknown(f"{subject.task.name} variable", name, known))
    row, column = (known[name] for name in variables)
    height, width = int(row.max()) + 1, int(column.max()) + 1
    cell = row * width + column
    count = torch.bincount(cell, minlength=height * width)
    total = torch.zeros(height * width, subject.config.d_mlp, dtype=torch.float64)
    for start in range(0, len(inputs), ROWS_PER_PASS):
        some = slice(start, start + ROWS_PER_PASS)
        read = _activations(subject, layer, inputs[some], answer)
        total.index_add_(0, cell[some], read.double().cpu())
    mean = rearrange(total / count[:, None], "(row column) n -> n row column", row=height)
    return MeanMaps(mean=mean, count=count.reshape(height, width))


def direct_logit_weights(subject: Subject, layer: int, neuron: int) -> Float[Tensor, " answer"]:
    """What one unit of a neuron's activation adds to each answer token's logit, on its own.

    Centred over the answer tokens, as a constant changes no answer. A final LayerNorm is taken
    without its division, which depends on the input: its weights and its centring are in it.
    Raises `CircuitError` for a neuron that there is not.
    """
    check_neuron(subject, layer, neuron)
    params = subject.params
    written = params[f"blocks.{layer}.mlp.W_out"][neuron]
    if subject.config.normalization == "LN":
        written = (written - written.mean()) * params["ln_final.w"]
    weights = (written @ params["unembed.W_U"])[: subject.task.n_answer_tokens]
    return (weights - weights.mean()).cpu()


def _activations(
    subject: Subject, layer: int, inputs: Inputs, answer: int
) -> Float[Tensor, "batch neuron"]:
    """Of a layer's neurons, where an answer token is read."""
    task, config, name = subject.task, subject.config, f"blocks.{layer}.mlp.hook_post"
    tokens = task.encode(inputs).to(subject.device)
    where = (task.answer_positions[answer],)
    # The last block computes its neurons at `where` alone; the blocks before it at every position.
    read = forward(subject.params, tokens, config, positions=where, taps=[name]).activations[name]
    return read[:, 0 if layer == config.n_layers - 1 else where[0]]


def check_neuron(subject: Subject, layer: int, neuron: int) -> None:
    """Raise `CircuitError` for a neuron that the network does not have."""
    layers, width = subject.config.n_layers, subject.config.d_mlp
    if not (0 <= layer < layers and 0 <= neuron < width):
        raise CircuitError(
            f"no neuron {neuron} in layer {layer}; the network has {layers} layers of {width} "
            "neurons, counted from 0"
        )

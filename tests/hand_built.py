"""A network whose weights are worked out on paper to add on circles of known frequencies.

One layer, one head, no training. Operand x is embedded as (cos w x, sin w x) for each frequency w,
a and b in dimensions of their own; with attention_rate 0 attention copies both to the answer
position. ReLU neurons square: x^2 on [-2, 2] is joined by straight lines between KNOTS points, and

    cos a cos b = ((cos a + cos b)^2 - (cos a - cos b)^2) / 4, and likewise for the sines,

so cos w(a+b) = cos a cos b - sin a sin b and sin w(a+b) = cos a sin b + sin a cos b come out of the
MLP, each times a gain. The unembedding turns them into gain * cos(w (a+b-c)).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params
from workbench.subject import Subject
from workbench.task import CyclicStructure, Task

KNOTS = 16
"""Straight pieces per square."""
NEURONS = 8 * KNOTS
"""Neurons per frequency: eight squares."""
NOISE = 0.01
"""Standard deviation of what the embedding holds besides circles of radius 1."""


def circle_adder(task: Task, frequencies: Sequence[int], gains: Sequence[float]) -> Subject:
    """A network that does a cyclic task with logits sum_k gain_k cos(w_k (a+b-c)).

    The task must have separate vocabularies and no equals token.
    """
    cyclic = task.cyclic()
    assert cyclic is not None
    k, p = len(frequencies), task.n_answer_tokens
    config = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=10 * k,
        d_head=4 * k,
        d_mlp=k * NEURONS,
        d_vocab=2 * p,
        d_vocab_out=p,
        n_ctx=2,
        attention_dir="bidirectional",
        attention_rate=0.0,
    )
    params: Params = {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }
    # Something besides the circles, as any trained network has: otherwise what is left without
    # them is rounding error, and argmax would read meaning into it.
    noise = torch.randn(2 * p, 10 * k, generator=torch.Generator().manual_seed(0))
    params["embed.W_E"] += NOISE * noise.double()
    params["embed.W_E"][:p, : 2 * k] += _circles(cyclic, frequencies, p, sign=1)
    params["embed.W_E"][p:, 2 * k : 4 * k] += _circles(cyclic, frequencies, p, sign=cyclic.b_sign)
    params["blocks.0.attn.W_V"][0, : 4 * k] = torch.eye(4 * k)
    params["blocks.0.attn.W_O"][0, :, 4 * k : 8 * k] = torch.eye(4 * k)
    for i, gain in enumerate(gains):
        _fill_mlp(params, i, k, gain)
    params["unembed.W_U"][8 * k :] = _circles(cyclic, frequencies, p, sign=1).T
    return Subject(params=params, config=config, task=task)


def _circles(cyclic: CyclicStructure, frequencies: Sequence[int], p: int, sign: int) -> Tensor:
    """Rows per residue: cosines of every frequency, then sines; zero outside the group."""
    circles = torch.zeros(p, 2 * len(frequencies), dtype=torch.float64)
    for i, frequency in enumerate(frequencies):
        angle = cyclic.logs.double() * (2 * math.pi * frequency / cyclic.order)
        circles[cyclic.elements, i] = angle.cos()
        circles[cyclic.elements, len(frequencies) + i] = sign * angle.sin()
    return circles


def _fill_mlp(params: Params, i: int, k: int, gain: float) -> None:
    """Eight squares of frequency i: products by pairs of squares, summed into cos and sin."""
    cos_a, sin_a, cos_b, sin_b = (4 * k + i + part * k for part in range(4))
    cos_out, sin_out = 8 * k + i, 9 * k + i
    products = [
        (cos_a, cos_b, cos_out, 1.0),
        (sin_a, sin_b, cos_out, -1.0),
        (cos_a, sin_b, sin_out, 1.0),
        (sin_a, cos_b, sin_out, 1.0),
    ]
    neuron = i * NEURONS
    for left, right, out, sign in products:
        for side in (1.0, -1.0):
            _fill_square(params, neuron, left, right, side, out, sign * side * gain / 4)
            neuron += KNOTS


def _fill_square(
    params: Params, neuron: int, left: int, right: int, side: float, out: int, weight: float
) -> None:
    """`weight * (left + side * right)^2`, up to a constant, into dimension `out`."""
    width = 4 / KNOTS
    rows = slice(neuron, neuron + KNOTS)
    params["blocks.0.mlp.W_in"][left, rows] = 1.0
    params["blocks.0.mlp.W_in"][right, rows] = side
    params["blocks.0.mlp.b_in"][rows] = 2 - width * torch.arange(KNOTS).double()
    # The slope of the first piece, then how much steeper each next one is.
    slopes = torch.full((KNOTS,), 2 * width).double()
    slopes[0] = width - 4
    params["blocks.0.mlp.W_out"][rows, out] = weight * slopes

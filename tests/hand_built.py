"""A network whose weights are worked out on paper to add on circles of known frequencies.

One layer, one head, no training. Operand x is embedded as (cos w x, sin w x) for each frequency;
with attention_rate 0 attention adds both operands up; for each frequency, ReLU neurons of evenly
spaced phases phi read cos(w a + phi) + cos(w b + phi) = 2 cos(w (a+b)/2 + phi) cos(w (a-b)/2),
and their sum weighted by cos 2 phi keeps the second harmonic: a multiple of
|cos(w (a-b)/2)| cos(w (a+b)). (ReLU(cos) has second harmonic 2 / (3 pi); Zhong et al. 2023 call
this the pizza.) The unembedding turns it into a multiple of cos(w (a+b-c)).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.cells import Subject
from workbench.task import Task
from workbench.transformer import ModelConfig, Params

PHASES = 16


def circle_adder(task: Task, frequencies: Sequence[int], gains: Sequence[float]) -> Subject:
    """A network that does a cyclic task on these frequencies, each logit term scaled by a gain.

    The task must have separate vocabularies and no equals token.
    """
    cyclic = task.cyclic()
    assert cyclic is not None
    k, p = len(frequencies), task.n_answer_tokens
    width = 2 * k
    angles = torch.zeros(k, p, dtype=torch.float64)
    angles[:, cyclic.elements] = torch.outer(
        torch.tensor(frequencies, dtype=torch.float64), cyclic.logs.double()
    ) * (2 * math.pi / cyclic.order)
    inside = torch.zeros(p, dtype=torch.float64)
    inside[cyclic.elements] = 1.0
    circle = torch.cat([angles.cos(), angles.sin()]).T * inside[:, None]
    mirrored = torch.cat([angles.cos(), cyclic.b_sign * angles.sin()]).T * inside[:, None]
    config = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=3 * width,
        d_head=width,
        d_mlp=k * PHASES,
        d_vocab=2 * p,
        d_vocab_out=p,
        n_ctx=2,
        attention_dir="bidirectional",
        attention_rate=0.0,
    )
    params = _zeros(config, p, width)
    params["embed.W_E"][:p, :width] = circle
    params["embed.W_E"][p:, :width] = mirrored
    params["blocks.0.attn.W_V"][0, :width] = torch.eye(width)
    params["blocks.0.attn.W_O"][0, :, width : 2 * width] = torch.eye(width)
    _fill_mlp(params, k, width, gains)
    params["unembed.W_U"][2 * width :] = circle.T
    return Subject(params=params, config=config, task=task)


def _fill_mlp(params: Params, k: int, width: int, gains: Sequence[float]) -> None:
    """Neurons of PHASES phases per frequency; each writes its phase doubled."""
    phases = torch.arange(PHASES, dtype=torch.float64) * (2 * math.pi / PHASES)
    for i, gain in enumerate(gains):
        neurons = slice(i * PHASES, (i + 1) * PHASES)
        W_in, W_out = params["blocks.0.mlp.W_in"], params["blocks.0.mlp.W_out"]
        W_in[width + i, neurons] = phases.cos()
        W_in[width + k + i, neurons] = -phases.sin()
        W_out[neurons, 2 * width + i] = gain * (2 * phases).cos()
        W_out[neurons, 2 * width + k + i] = -gain * (2 * phases).sin()


def _zeros(config: ModelConfig, p: int, width: int) -> Params:
    from workbench.transformer import param_shapes

    made: dict[str, Tensor] = {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }
    return made

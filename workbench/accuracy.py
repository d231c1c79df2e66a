"""How often a network is right: on every input where they can be listed, else on a sample."""

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.finding import Interval
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.stats import wilson_interval
from workbench.task import Inputs, Task
from workbench.transformer import forward

ROWS_PER_PASS = 4096
SAMPLED_INPUTS = 10_000


class Accuracy(NamedTuple):
    """A share of exactly right answers."""

    value: float
    n: int
    exhaustive: bool
    interval: Interval | None
    """95 % (Wilson); None where every input was checked."""


@torch.no_grad()
def right(
    params: Params, config: ModelConfig, task: Task, inputs: Inputs
) -> Bool[Tensor, " batch"]:
    """Which inputs are answered exactly, all answer tokens right."""
    device = params["embed.W_E"].device
    found = []
    for chunk in inputs.split(ROWS_PER_PASS):  # type: ignore[no-untyped-call]
        tokens = task.encode(chunk).to(device)
        logits = forward(params, tokens, config, positions=task.answer_positions).logits
        found.append((logits.argmax(-1).cpu() == task.solve(chunk)).all(-1))
    return torch.cat(found)


def measure_accuracy(
    params: Params, config: ModelConfig, task: Task, *, distribution: str = "uniform", seed: int = 0
) -> Accuracy:
    """Accuracy over the whole domain, or over 10,000 inputs sampled from a distribution."""
    if task.enumerable and distribution == "uniform":
        correct = right(params, config, task, task.domain())
        return Accuracy(float(correct.double().mean()), len(correct), True, None)
    generator = torch.Generator().manual_seed(seed)
    inputs = task.sample(SAMPLED_INPUTS, generator, distribution=distribution)
    correct = right(params, config, task, inputs)
    n = int(correct.sum())
    return Accuracy(n / len(correct), len(correct), False, wilson_interval(n, len(correct)))

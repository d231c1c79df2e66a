"""What a network answers, token by token, how clearly, and on which kinds of input it is right."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.accuracy import ROWS_PER_PASS
from workbench.finding import Interval
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.stats import wilson_interval
from workbench.task import Inputs, Task
from workbench.transformer import forward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a network answers to each input, on the CPU."""

    given: Int[Tensor, "batch answer"]
    """The tokens with the largest logits, each after the right earlier ones."""
    right: Bool[Tensor, "batch answer"]
    margin: Float[Tensor, "batch answer"]
    """Logit of the right token minus the largest other, in nats: positive where it is right."""

    @property
    def all_right(self) -> Bool[Tensor, " batch"]:
        """Which inputs are answered exactly."""
        return self.right.all(-1)

    @property
    def least_margin(self) -> Float[Tensor, " batch"]:
        """The smallest margin of an input's answer tokens."""
        return self.margin.amin(-1)


@torch.no_grad()
def read_answers(params: Params, config: ModelConfig, task: Task, inputs: Inputs) -> Answers:
    """The answer to each input. Raises `TaskError` for inputs outside the task's domain."""
    device = params["embed.W_E"].device
    given, margin, solved = [], [], []
    for chunk in inputs.split(ROWS_PER_PASS):  # type: ignore[no-untyped-call]
        tokens = task.encode(chunk).to(device)
        logits = forward(params, tokens, config, positions=task.answer_positions).logits
        answer = task.solve(chunk)
        wanted = answer.to(device)[..., None]
        others = logits.scatter(-1, wanted, -torch.inf).amax(-1)
        given.append(logits.argmax(-1).cpu())
        margin.append((logits.gather(-1, wanted)[..., 0] - others).cpu())
        solved.append(answer)
    answers = torch.cat(given)
    return Answers(given=answers, right=answers == torch.cat(solved), margin=torch.cat(margin))


class Share(NamedTuple):
    """How often inputs of one kind are answered rightly."""

    group: int
    value: float
    n: int
    interval: Interval | None
    """95 % (Wilson); None where every input of the kind was checked."""


def share_by(
    right: Bool[Tensor, " batch"], groups: Int[Tensor, " batch"], *, exhaustive: bool = False
) -> list[Share]:
    """The share of right answers in each group of inputs, by the group's number."""
    shares = []
    for group in torch.unique(groups).tolist():
        inside = right[groups == group]
        n, found = len(inside), int(inside.sum())
        interval = None if exhaustive else wilson_interval(found, n)
        shares.append(Share(group, found / n, n, interval))
    return shares

"""Steering: add a multiple of a direction at a site, and see whether the answer moves.

    h' = h + amount * direction

beside the same amounts of the opposite direction and of random directions of the same length: an
answer that those move as often says nothing about the direction (Turner et al. 2023,
arXiv:2308.10248).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.interchange import Share
from probes.sites import ProbeSite, width_of
from workbench.errors import ProbeError
from workbench.intervene import Affine, Cell, Intervention, intervene
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.task import Inputs, Task
from workbench.transformer import forward

INPUTS_PER_PASS = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteeringResult:
    """What each amount of each direction does to each input's answer."""

    site: ProbeSite
    amounts: tuple[float, ...]
    unsteered: Int[Tensor, "input answer"]
    """The network's answer tokens with nothing added."""
    steered: Int[Tensor, "direction amount input answer"]
    """Along the direction, against it, then along each random one."""
    target: Int[Tensor, "input answer"] | None
    """The answers that the direction should lead to."""

    def changed(self) -> Bool[Tensor, "direction amount input"]:
        """Whether the answer is another one than without steering."""
        return (self.steered != self.unsteered).any(-1)

    def reached(self) -> Bool[Tensor, "direction amount input"]:
        """Whether the answer is the target. Raises `ProbeError` where none was given."""
        return (self.steered == self._wanted()).all(-1)

    def movable(self) -> Bool[Tensor, " input"]:
        """Inputs whose answer is not the target already. Raises `ProbeError` without a target."""
        return (self.unsteered != self._wanted()).any(-1)

    def share(self, amount: int, *, of: Bool[Tensor, "direction amount input"]) -> Share:
        """Of `changed()` or `reached()`: along the direction, by the amount's index."""
        return Share(right=of[0, amount])

    def against(self, amount: int, *, of: Bool[Tensor, "direction amount input"]) -> Share:
        """The same for the opposite direction."""
        return Share(right=of[1, amount])

    def random(self, amount: int, *, of: Bool[Tensor, "direction amount input"]) -> Share:
        """The same for the random directions, one after another."""
        return Share(right=of[2:, amount].flatten())

    def _wanted(self) -> Tensor:
        if self.target is None:
            raise ProbeError("steered towards no target; give steer() one")
        return self.target


def steer(
    params: Params,
    config: ModelConfig,
    task: Task,
    site: ProbeSite,
    direction: Float[Tensor, " d"],
    amounts: Sequence[float],
    inputs: Inputs,
    *,
    target: Int[Tensor, "input answer"] | None = None,
    n_random: int = 5,
    seed: int = 0,
) -> SteeringResult:
    """Add `amount * direction` at the site, for every amount, on every input.

    Args:
        direction: for instance a row of a probe's `coef`; its length counts.
        target: the answer tokens that each input should be moved to.
        n_random: random directions of the same length to compare with.

    Raises `ProbeError` for a direction of the wrong width, of length zero or not finite, no amounts
    or inputs, or targets that do not fit; `HookError` for a site that there is not.
    """
    _check(config, site, direction, amounts, inputs)
    wanted = (len(inputs), len(task.answer_positions))
    if target is not None and tuple(target.shape) != wanted:
        raise ProbeError(f"targets {list(target.shape)}; give answer tokens {list(wanted)}")
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n_random, len(direction), generator=generator, dtype=torch.float64)
    random *= direction.double().norm().cpu() / random.norm(dim=1, keepdim=True)
    directions = [direction, -direction, *random.to(direction)]
    at = site.intervention_site()
    cells: list[Cell] = [
        (Intervention(site=at, source=Affine(None, amount * along)),)
        for along in directions
        for amount in amounts
    ]
    device, unsteered, steered = params["embed.W_E"].device, [], []
    for start in range(0, len(inputs), INPUTS_PER_PASS):
        tokens = task.encode(inputs[start : start + INPUTS_PER_PASS]).to(device)
        with torch.no_grad():
            plain = forward(params, tokens, config, positions=task.answer_positions).logits
        logits = intervene(params, tokens, config, cells, positions=task.answer_positions)
        unsteered.append(plain.argmax(-1).cpu())
        steered.append(logits.argmax(-1).cpu())
    return SteeringResult(
        site=site,
        amounts=tuple(amounts),
        unsteered=torch.cat(unsteered),
        steered=rearrange(
            torch.cat(steered, dim=1),
            "(direction amount) input answer -> direction amount input answer",
            amount=len(amounts),
        ),
        target=None if target is None else target.cpu(),
    )


def _check(
    config: ModelConfig,
    site: ProbeSite,
    direction: Float[Tensor, " d"],
    amounts: Sequence[float],
    inputs: Inputs,
) -> None:
    width = width_of(config, site.hook)
    if len(direction) != width:
        raise ProbeError(f"a direction of {len(direction)} numbers at {site}, which holds {width}")
    if not bool(direction.isfinite().all()) or not bool(direction.any()):
        raise ProbeError("the direction is zero or not finite; give one that points somewhere")
    if not amounts or not len(inputs):
        raise ProbeError(f"{len(amounts)} amounts on {len(inputs)} inputs; give at least one each")

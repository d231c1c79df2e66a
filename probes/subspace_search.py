"""Train many subspaces at once: the search behind `probes.align`.

Activations of all pairs are read once; then only the layers from a site's block on are run, as a
network of their own (`probes.upper`) whose batch holds the pairs of every basis. Bases are points
of a Grassmann manifold: gradients are projected on its tangent space, Adam's steps are taken there
and brought back by the Cholesky factor of the Gram matrix (Absil, Mahony and Sepulchre 2008,
Optimization Algorithms on Matrix Manifolds, sections 3.6 and 4.1). Padding a basis with columns of
zeros lets all ranks share every product.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probes.interchange import InterchangePairs, random_subspace
from probes.sites import ProbeSite, read_activations
from probes.upper import Swapped, UpperNetwork, upper_networks
from workbench.memory import halving_chunks
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.progress import Progress

CPU_BUDGET = 32 * 2**20
"""Bytes of activations that the bases of one chunk may take."""
CUDA_BUDGET = 8 * 2**30
PROGRESS_EVERY = 10


class Plan(NamedTuple):
    """What is searched for, and how long."""

    sites: tuple[ProbeSite, ...]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]
    n_kinds: int
    """Equal parts of the pairs, each with bases of its own."""
    steps: int
    batch: int
    lr: float


class TrainingPairs(NamedTuple):
    """What bases are trained on: the pairs of the variable, then as many of the arbitrary one."""

    tokens: Int[Tensor, "row pos"]
    wanted: Int[Tensor, "row answer"]
    """The answer tokens that count."""
    difference: Float[Tensor, "site row d"]
    """Activations of the sources, less those of the bases."""


class Searched(NamedTuple):
    """The end of a search: bases of the variable and of the arbitrary function."""

    bases: Float[Tensor, "kind site rank seed d largest"]
    losses: Float[Tensor, "kind site rank seed"]


def search(
    params: Params, config: ModelConfig, pairs: InterchangePairs, plan: Plan
) -> Generator[Progress, None, Searched]:
    """Train every basis of a plan. A basis is the same whatever is trained beside it."""
    data = training_pairs(params, config, pairs, plan.sites)
    uppers = upper_networks(
        params,
        config,
        data.tokens,
        [pairs.task.answer_positions[i] for i in pairs.scored],
        plan.sites,
    )
    index = torch.cartesian_prod(
        *(torch.arange(n) for n in (plan.n_kinds, *map(len, (plan.sites, plan.ranks, plan.seeds))))
    ).reshape(-1, 4)
    rank = torch.tensor(plan.ranks)[index[:, 2]]
    bases, real = _first_bases(plan, index, data.difference)
    orders = _orders(plan, len(pairs) // plan.n_kinds)
    state, losses = _Adam.fresh(bases), []
    kept = max(1, plan.steps // 10)
    for step in range(plan.steps):
        rows = orders[index[:, 3], step] + (index[:, 0] * (len(pairs) // plan.n_kinds))[:, None]
        loss, gradient = loss_and_gradient(uppers, data, index[:, 1], rows.to(bases.device), bases)
        tangent = gradient - bases @ (bases.transpose(1, 2) @ gradient)
        move = state.step(tangent, plan.lr * (1 - step / plan.steps))
        bases = retract(bases - move * real, real)
        if step >= plan.steps - kept:
            losses.append(loss)
        if step % PROGRESS_EVERY == 0:
            yield Progress(step, plan.steps, f"training {len(rank)} subspaces")
    shape = (plan.n_kinds, len(plan.sites), len(plan.ranks), len(plan.seeds))
    return Searched(
        bases.reshape(*shape, *bases.shape[1:]), torch.stack(losses).mean(0).reshape(shape)
    )


def training_pairs(
    params: Params, config: ModelConfig, pairs: InterchangePairs, sites: Sequence[ProbeSite]
) -> TrainingPairs:
    """Everything that training reads of the pairs, on the network's device."""
    device = params["embed.W_E"].device
    base, source = (pairs.task.encode(side).to(device) for side in (pairs.base, pairs.source))
    difference = read_activations(params, source, config, sites)
    difference -= read_activations(params, base, config, sites)
    return TrainingPairs(
        tokens=base,
        wanted=pairs.answer[:, list(pairs.scored)].to(device),
        difference=difference,
    )


def loss_and_gradient(
    uppers: Sequence[UpperNetwork],
    data: TrainingPairs,
    site: Int[Tensor, " basis"],
    rows: Int[Tensor, "basis batch"],
    bases: Float[Tensor, "basis d largest"],
) -> tuple[Float[Tensor, " basis"], Float[Tensor, "basis d largest"]]:
    """Cross-entropy to the wanted answers after each swap, and its gradient in the basis.

    The loss is the mean over the pairs in `rows` and the answer tokens that count, in nats.
    """
    loss, gradient = bases.new_zeros(len(bases)), torch.zeros_like(bases)
    budget = CUDA_BUDGET if bases.device.type == "cuda" else CPU_BUDGET
    sites = site.tolist()
    for upper in uppers:
        mine = [i for i, at in enumerate(sites) if at in upper.hooks]

        def run(part: slice, upper: UpperNetwork = upper, mine: list[int] = mine) -> None:
            chosen = mine[part]
            learned = bases[chosen].detach().requires_grad_()
            at = [sites[i] for i in chosen]
            difference = data.difference[site[chosen][:, None].to(rows.device), rows[chosen]]
            with torch.enable_grad():
                logits = upper.run(rows[chosen], Swapped(at, difference, learned))
                each = torch.nn.functional.cross_entropy(
                    rearrange(logits, "basis batch answer v -> basis v batch answer"),
                    data.wanted[rows[chosen]],
                    reduction="none",
                ).mean((1, 2))
                (slope,) = torch.autograd.grad(each.sum() + 0 * learned.sum(), learned)
            loss[chosen], gradient[chosen] = each.detach(), slope

        costs = [upper.bytes_per_input * rows.shape[1]] * len(mine)
        for _ in halving_chunks(costs, budget, run, one="one basis"):
            pass
    return loss, gradient


def retract(
    moved: Float[Tensor, "basis d largest"], real: Float[Tensor, "basis 1 largest"]
) -> Float[Tensor, "basis d largest"]:
    """Orthonormal columns with the same span, by Cholesky; columns that are not `real` stay 0."""
    gram = moved.transpose(1, 2) @ moved + torch.diag_embed(1 - real[:, 0])
    factor = torch.linalg.cholesky(gram)
    turned: Tensor = torch.linalg.solve_triangular(
        factor.transpose(1, 2), moved, upper=True, left=False
    )
    return turned


@dataclass(slots=True)
class _Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with the usual constants, elementwise."""

    first: Tensor
    second: Tensor
    n: int = 0

    @classmethod
    def fresh(cls, like: Tensor) -> "_Adam":
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def step(self, gradient: Tensor, lr: float) -> Tensor:
        """What to subtract."""
        self.n += 1
        self.first.lerp_(gradient, 0.1)
        self.second.lerp_(gradient.square(), 0.001)
        scale = (self.second / (1 - 0.999**self.n)).sqrt() + 1e-8
        return lr * (self.first / (1 - 0.9**self.n)) / scale


def _first_bases(plan: Plan, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Random bases, by seed and rank alone, and which of their columns are real."""
    largest, width = max(plan.ranks), like.shape[-1]
    drawn = like.new_zeros(len(plan.ranks), len(plan.seeds), width, largest)
    for i, rank in enumerate(plan.ranks):
        for j, seed in enumerate(plan.seeds):
            generator = torch.Generator().manual_seed(seed)
            drawn[i, j, :, :rank] = random_subspace(width, rank, generator).T.to(like)
    rank_of = torch.tensor(plan.ranks)[index[:, 2]][:, None, None]
    real = (torch.arange(largest) < rank_of).to(like)
    return drawn[index[:, 2], index[:, 3]], real


def _orders(plan: Plan, n: int) -> Int[Tensor, "seed step batch"]:
    """Which pairs each seed sees at each step: all of them in turn, shuffled every time."""
    needed, drawn = plan.steps * plan.batch, []
    for seed in plan.seeds:
        generator = torch.Generator().manual_seed(seed)
        rounds = [torch.randperm(n, generator=generator) for _ in range(-(-needed // n))]
        drawn.append(torch.cat(rounds)[:needed].reshape(plan.steps, plan.batch))
    return torch.stack(drawn)

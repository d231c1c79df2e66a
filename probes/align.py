"""Distributed alignment search: learn the subspace in which swapping changes a variable.

For every (site, rank, seed) an orthonormal basis is trained so that putting the source's activation
into the base's run, inside the subspace, gives the counterfactual answer (Geiger, Wu, Potts, Icard
and Goodman 2023, arXiv:2303.02536; see `probes.interchange`). All are trained together, each as if
alone: a basis, its pairs and their order depend on its own seed only.

Search finds something almost anywhere (Arora et al. 2024, arXiv:2402.12560). So the same search,
with the same steps and seeds, is also run for an arbitrary function in place of the variable, and
on an untrained network. Inputs of held-out pairs occur in no training pair, and nothing looks at
held-out pairs before the end.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.counterfactual import Relabelling
from probes.interchange import (
    InterchangePairs,
    Share,
    Swap,
    arbitrary_pairs,
    draw_interchange_pairs,
    identity_right,
    joined,
    random_subspace,
    swapped_right,
)
from probes.sites import ProbeSite, width_of
from probes.subspace_search import Plan, search
from workbench.errors import ProbeError
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.progress import Progress
from workbench.task import Inputs, Task

SAMPLED_INPUTS = 20_000
"""Inputs drawn, where the domain is too large to list, to make pairs of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alignment:
    """Learned subspaces, one per (site, rank, seed), and what they do on held-out pairs."""

    variable: str
    sites: tuple[ProbeSite, ...]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]
    held_out: InterchangePairs
    arbitrary_held_out: InterchangePairs
    bases: Float[Tensor, "site rank seed d largest"]
    """Orthonormal columns; those beyond a basis' rank are 0."""
    losses: Float[Tensor, "site rank seed"]
    """Cross-entropy to the wanted answer over the last tenth of the training steps, in nats."""
    swapped: Bool[Tensor, "site rank seed pair"]
    """Whether the swap gave the counterfactual answer."""
    identity: Bool[Tensor, " pair"]
    """Whether the base's own output already was that answer."""
    whole: Bool[Tensor, "site pair"]
    """Whether swapping the whole activation gave it. No control: it may carry nothing else."""
    random: Bool[Tensor, "site rank seed pair"]
    """A random subspace of the same rank."""
    arbitrary: Bool[Tensor, "site rank seed arbitrary_pair"]
    """Subspaces trained for an arbitrary function in place of the variable, on its own answers."""
    untrained: Bool[Tensor, "site rank seed pair"] | None
    """Subspaces trained on an untrained network; None where none was given."""

    def accuracy(self) -> Float[Tensor, "site rank seed"]:
        """Interchange intervention accuracy on held-out pairs."""
        return self.swapped.double().mean(-1)

    def controls(self) -> dict[str, Float[Tensor, "site rank seed"]]:
        """The same number where no subspace should carry the variable."""
        shape = self.swapped.shape[:-1]
        found = {
            "identity": self.identity.double().mean().expand(shape),
            "random": self.random.double().mean(-1),
            "arbitrary": self.arbitrary.double().mean(-1),
        }
        if self.untrained is not None:
            found["untrained"] = self.untrained.double().mean(-1)
        return found

    def selective(self) -> Float[Tensor, "site rank seed"]:
        """Accuracy above the best control; 0 or less says that nothing was found."""
        return self.accuracy() - torch.stack(list(self.controls().values())).amax(0)

    def share(self, site: int, rank: int, seed: int) -> Share:
        """One subspace's held-out accuracy, by index, with n and interval."""
        return Share(right=self.swapped[site, rank, seed])

    def rows(self, site: int, rank: int, seed: int) -> Float[Tensor, "rank d"]:
        """One subspace as orthonormal rows, by index, for `interchange` and `Site.subspace`."""
        return self.bases[site, rank, seed, :, : self.ranks[rank]].T


def fit_das(
    params: Params,
    config: ModelConfig,
    task: Task,
    variable: str,
    sites: Sequence[ProbeSite],
    ranks: Sequence[int],
    seeds: Sequence[int],
    *,
    inputs: Inputs | None = None,
    scored: Sequence[int] | None = None,
    untrained: Params | None = None,
    n_pairs: int = 2048,
    n_held_out: int = 1024,
    steps: int = 400,
    batch: int = 64,
    lr: float = 0.02,
    seed: int = 0,
) -> Generator[Progress, None, Alignment]:
    """Learn a subspace for every (site, rank, seed), and its controls.

    Args:
        sites: of one width.
        seeds: of the first basis and of the order in which pairs are seen.
        inputs: what pairs are made of, half of it for held-out ones; the domain, or a sample of
            it, when None.
        scored: which answer tokens count; all when None.
        untrained: parameters of an untrained network of the same configuration.
        n_pairs: training pairs. In half of them the wanted answer certainly differs from the
            base's; in held-out pairs it always does.
        lr: first step size of Adam; it falls linearly to zero.
        seed: of the pairs, of the arbitrary function and of the random subspaces.

    Raises `ProbeError` for a variable without counterfactuals, sites of different widths, ranks
    that do not fit, or too few inputs; `HookError` for a site that there is not.
    """
    _check(config, sites, ranks, seeds, steps, batch)
    generator = torch.Generator().manual_seed(seed)
    inputs = _pool(task, generator) if inputs is None else inputs
    drawn = _draw(task, variable, inputs, generator, scored, n_pairs, n_held_out)
    plan = Plan(tuple(sites), tuple(ranks), tuple(seeds), 2, steps, batch, lr)
    both = joined([drawn.training, drawn.arbitrary_training])
    found = yield from search(params, config, both, plan)
    blank = None
    if untrained is not None:
        blank = yield from search(untrained, config, drawn.training, plan._replace(n_kinds=1))
    random = _random_bases(plan, width_of(config, sites[0].hook), generator).to(found.bases)
    yield Progress(steps, steps, "swapping on held-out pairs")
    held_out, arbitrary = drawn.held_out, drawn.arbitrary_held_out
    return Alignment(
        variable=variable,
        sites=plan.sites,
        ranks=plan.ranks,
        seeds=plan.seeds,
        held_out=held_out,
        arbitrary_held_out=arbitrary,
        bases=found.bases[0],
        losses=found.losses[0],
        swapped=_measure(params, config, held_out, plan, found.bases[0]),
        identity=identity_right(params, config, held_out),
        whole=swapped_right(params, config, held_out, [(site, None) for site in sites]),
        random=_measure(params, config, held_out, plan, random),
        arbitrary=_measure(params, config, arbitrary, plan, found.bases[1]),
        untrained=None
        if blank is None or untrained is None
        else _measure(untrained, config, held_out, plan, blank.bases[0]),
    )


class _Drawn(NamedTuple):
    """All pairs of a search; inputs of the first two occur in no pair of the last two."""

    training: InterchangePairs
    arbitrary_training: InterchangePairs
    held_out: InterchangePairs
    arbitrary_held_out: InterchangePairs


def _draw(
    task: Task,
    variable: str,
    inputs: Inputs,
    generator: torch.Generator,
    scored: Sequence[int] | None,
    n_pairs: int,
    n_held_out: int,
) -> _Drawn:
    order = torch.randperm(len(inputs), generator=generator)
    own, other = inputs[order[: len(order) // 2]], inputs[order[len(order) // 2 :]]
    relabelling = Relabelling.draw(task, variable, inputs, generator)
    draw = partial(draw_interchange_pairs, task, variable, generator=generator, scored=scored)
    differing = draw(own, (n_pairs + 1) // 2)
    any_pairs = draw(own, (n_pairs + 1) // 2, differ=False)
    training = joined([differing, any_pairs]).take(torch.arange(n_pairs))
    held_out = draw(other, n_held_out)
    arbitrary = arbitrary_pairs(held_out, relabelling, generator)
    arbitrary = arbitrary.take(arbitrary.differ)
    if not len(arbitrary):
        raise ProbeError(f"no control pair among {n_held_out} held-out pairs; take more")
    return _Drawn(training, arbitrary_pairs(training, relabelling, generator), held_out, arbitrary)


def _measure(
    params: Params,
    config: ModelConfig,
    pairs: InterchangePairs,
    plan: Plan,
    bases: Float[Tensor, "site rank seed d largest"],
) -> Bool[Tensor, "site rank seed pair"]:
    """Whether each swap gives the wanted answer."""
    swaps: list[Swap] = [
        (site, bases[i, j, k, :, :rank].T)
        for i, site in enumerate(plan.sites)
        for j, rank in enumerate(plan.ranks)
        for k in range(len(plan.seeds))
    ]
    return swapped_right(params, config, pairs, swaps).reshape(*bases.shape[:3], len(pairs))


def _random_bases(plan: Plan, width: int, generator: torch.Generator) -> Tensor:
    shape = (len(plan.sites), len(plan.ranks), len(plan.seeds), width, max(plan.ranks))
    bases = torch.zeros(shape, dtype=torch.float64)
    for site in range(shape[0]):
        for i, rank in enumerate(plan.ranks):
            for seed in range(shape[2]):
                bases[site, i, seed, :, :rank] = random_subspace(width, rank, generator).T
    return bases


def _pool(task: Task, generator: torch.Generator) -> Inputs:
    return (
        task.domain()
        if task.enumerable
        else torch.unique(task.sample(SAMPLED_INPUTS, generator), dim=0)
    )


def _check(
    config: ModelConfig,
    sites: Sequence[ProbeSite],
    ranks: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    batch: int,
) -> None:
    if not sites or not ranks or not seeds or steps < 1 or batch < 1:
        raise ProbeError("nothing to train: give at least one site, rank, seed, step and pair")
    widths = {width_of(config, site.hook) for site in sites}
    if len(widths) > 1:
        raise ProbeError(f"sites of widths {sorted(widths)}; align those of one width together")
    wrong = [rank for rank in ranks if not 1 <= rank <= min(widths)]
    if wrong:
        raise ProbeError(f"rank {wrong[0]} in a site of width {min(widths)}; choose 1 to that")

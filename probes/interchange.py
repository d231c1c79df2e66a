"""Interchange: put another input's activation into a run, and see whether the answer follows.

A *base* input is run with its activation at a site, inside a subspace, set to its value on a
*source* input:

    h' = h_base + (h_source - h_base) R R^T

If the site's subspace carries a variable, the network then gives the *counterfactual* answer: that
of the task with the variable taken from the source and everything else from the base. How often it
does is the interchange intervention accuracy (Geiger et al. 2021, arXiv:2106.02997; 2023,
arXiv:2303.02536). Every share comes beside what it would be for the wrong reasons: no intervention,
the whole site, random subspaces, an arbitrary function in place of the variable, and an untrained
network (Arora et al. 2024, arXiv:2402.12560, on why).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.counterfactual import Relabelling, counterfactual
from probes.sites import ProbeSite, width_of
from workbench.errors import ProbeError
from workbench.finding import Interval
from workbench.intervene import Cell, Intervention, OtherInput, Site, intervene
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.stats import wilson_interval
from workbench.task import Inputs, Task
from workbench.transformer import forward

ROWS_PER_PASS = 2048
"""Pairs that one call runs together; their activations are held once for all swaps."""
DRAWS_PER_PAIR = 100
"""Pairs drawn for each pair wanted before giving up."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InterchangePairs:
    """Base and source inputs, row by row, and the answer that an interchange should give."""

    task: Task
    variable: str
    base: Inputs
    source: Int[Tensor, "source source_operand"]
    answer: Int[Tensor, "pair answer"]
    """Answer tokens with the variable of the source and everything else of the base."""
    scored: tuple[int, ...]
    """Which answer tokens count, by their place in the answer."""

    def __len__(self) -> int:
        return len(self.base)

    @property
    def differ(self) -> Bool[Tensor, " pair"]:
        """Where the wanted answer is not the base's own, in the tokens that count."""
        columns = list(self.scored)
        return (self.answer != self.task.solve(self.base))[:, columns].any(-1)

    def take(self, rows: Tensor) -> "InterchangePairs":
        """Some of the pairs, by index or mask."""
        return InterchangePairs(
            task=self.task,
            variable=self.variable,
            base=self.base[rows],
            source=self.source[rows],
            answer=self.answer[rows],
            scored=self.scored,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Share:
    """How many of some examples, one by one."""

    right: Bool[Tensor, " example"]

    @property
    def n(self) -> int:
        return len(self.right)

    @property
    def value(self) -> float:
        return float(self.right.double().mean())

    @property
    def interval(self) -> Interval:
        """95 % (Wilson)."""
        return wilson_interval(int(self.right.sum()), self.n)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InterchangeResult:
    """One subspace at one site: how often the answer followed the variable, and the controls."""

    site: ProbeSite
    rank: int
    swapped: Share
    """Swapped in the subspace: the interchange intervention accuracy."""
    identity: Share
    """Nothing done: how often the base's own output is the wanted answer."""
    whole: Share
    """The whole activation swapped. No control: a site that carries nothing else gets 1."""
    random: Share
    """Random subspaces of the same rank, one after another."""
    arbitrary: Share | None
    """The same subspace, scored against an arbitrary function in place of the variable. None where
    that never asks for another answer than the base's."""
    untrained: Share | None
    """The same subspace of an untrained network; None where none was given."""

    @property
    def selective(self) -> float:
        """Accuracy above the best control; 0 or less says nothing was found."""
        controls = (self.identity, self.random, self.arbitrary, self.untrained)
        return self.swapped.value - max(c.value for c in controls if c is not None)


Swap = tuple[ProbeSite, Float[Tensor, "_ feature"] | None]
"""A site and orthonormal rows there, any number; None for the whole activation."""


def make_pairs(
    task: Task,
    variable: str,
    base: Inputs,
    source: Int[Tensor, "source source_operand"],
    *,
    scored: Sequence[int] | None = None,
) -> InterchangePairs:
    """Pairs of given inputs; `scored` names the answer tokens that count (all when None).

    Raises `ProbeError` where the inputs do not go together or the variable has no counterfactual.
    """
    if base.shape != source.shape or not len(base):
        raise ProbeError(
            f"base {list(base.shape)} and source {list(source.shape)} inputs must go together row "
            "by row, at least one"
        )
    answer = counterfactual(task, variable, base, source)
    return InterchangePairs(
        task=task,
        variable=variable,
        base=base,
        source=source,
        answer=answer,
        scored=_scored(scored, answer.shape[1]),
    )


def draw_interchange_pairs(
    task: Task,
    variable: str,
    inputs: Inputs,
    n: int,
    generator: torch.Generator,
    *,
    scored: Sequence[int] | None = None,
    differ: bool = True,
) -> InterchangePairs:
    """`n` pairs of inputs drawn with replacement from `inputs`, each side independently.

    With `differ`, only pairs that want another answer than the base's. Raises `ProbeError` where
    there are too few.
    """
    if n < 1 or len(inputs) < 2:
        raise ProbeError(f"{n} pairs from {len(inputs)} inputs; take at least 1 from at least 2")
    kept: list[InterchangePairs] = []
    for _ in range(DRAWS_PER_PAIR):
        base, source = torch.randint(len(inputs), (2, n), generator=generator)
        pairs = make_pairs(task, variable, inputs[base], inputs[source], scored=scored)
        kept.append(pairs.take(pairs.differ) if differ else pairs)
        if sum(len(some) for some in kept) >= n:
            return joined(kept).take(torch.arange(n))
    raise ProbeError(
        f"too few pairs of {task.label} in which {variable} asks for another answer; score other "
        "answer tokens or take more inputs"
    )


def arbitrary_pairs(
    pairs: InterchangePairs, relabelling: Relabelling, generator: torch.Generator
) -> InterchangePairs:
    """The same inputs, paired anew, with an arbitrary function of the variable in its place.

    The wanted answer is the task's when the variable takes the value that `relabelling` gives to
    the source's. Sources are dealt out again, so that a variable of two values, which differ in
    every pair that was chosen to differ, is not always turned back into the base's.
    """
    source = pairs.source[torch.randperm(len(pairs), generator=generator)]
    instead = relabelling.apply(pairs.task.variables(source)[pairs.variable])
    return InterchangePairs(
        task=pairs.task,
        variable=pairs.variable,
        base=pairs.base,
        source=source,
        answer=counterfactual(pairs.task, pairs.variable, pairs.base, instead),
        scored=pairs.scored,
    )


def joined(parts: Sequence[InterchangePairs]) -> InterchangePairs:
    """Several sets of pairs of one variable as one."""
    return InterchangePairs(
        task=parts[0].task,
        variable=parts[0].variable,
        base=torch.cat([part.base for part in parts]),
        source=torch.cat([part.source for part in parts]),
        answer=torch.cat([part.answer for part in parts]),
        scored=parts[0].scored,
    )


def swapped_right(
    params: Params, config: ModelConfig, pairs: InterchangePairs, swaps: Sequence[Swap]
) -> Bool[Tensor, "swap pair"]:
    """Whether each swap makes the network's answer, in all tokens that count, the wanted one.

    Raises `HookError` for a site that there is not or rows that are not orthonormal.
    """
    cells: list[Cell] = [
        (Intervention(site=_intervention_site(site, rows), source=OtherInput()),)
        for site, rows in swaps
    ]
    device, columns = params["embed.W_E"].device, list(pairs.scored)
    found = []
    for start in range(0, len(pairs), ROWS_PER_PASS):
        part = slice(start, start + ROWS_PER_PASS)
        logits = intervene(
            params,
            pairs.task.encode(pairs.base[part]).to(device),
            config,
            cells,
            other=pairs.task.encode(pairs.source[part]).to(device),
            positions=[pairs.task.answer_positions[i] for i in columns],
        )
        wanted = pairs.answer[part][:, columns].to(device)
        found.append((logits.argmax(-1) == wanted).all(-1).cpu())
    return torch.cat(found, dim=1)


@torch.no_grad()
def identity_right(
    params: Params, config: ModelConfig, pairs: InterchangePairs
) -> Bool[Tensor, " pair"]:
    """Whether the base's own output, with nothing done to it, already is the wanted answer."""
    device, columns = params["embed.W_E"].device, list(pairs.scored)
    positions = [pairs.task.answer_positions[i] for i in columns]
    found = []
    for start in range(0, len(pairs), ROWS_PER_PASS):
        part = slice(start, start + ROWS_PER_PASS)
        tokens = pairs.task.encode(pairs.base[part]).to(device)
        logits = forward(params, tokens, config, positions=positions).logits
        found.append((logits.argmax(-1).cpu() == pairs.answer[part][:, columns]).all(-1))
    return torch.cat(found)


def interchange(
    params: Params,
    config: ModelConfig,
    pairs: InterchangePairs,
    site: ProbeSite,
    subspace: Float[Tensor, "rank d"],
    *,
    relabelling: Relabelling | None = None,
    untrained: Params | None = None,
    n_random: int = 5,
    seed: int = 0,
) -> InterchangeResult:
    """Swap a given subspace, beside every control.

    Args:
        subspace: orthonormal rows, for instance from `probe_subspace`.
        relabelling: the arbitrary function; one over the values that these pairs hold when None.
        untrained: parameters of an untrained network of the same configuration.
        n_random: random subspaces to average over.

    Raises `HookError` for a site that there is not or rows that are not orthonormal.
    """
    generator, rank = torch.Generator().manual_seed(seed), len(subspace)
    width = width_of(config, site.hook)
    random = [random_subspace(width, rank, generator).to(subspace) for _ in range(n_random)]
    swaps: list[Swap] = [(site, subspace), (site, None), *((site, rows) for rows in random)]
    right = swapped_right(params, config, pairs, swaps)
    if relabelling is None:
        seen = torch.cat([pairs.base, pairs.source])
        relabelling = Relabelling.draw(pairs.task, pairs.variable, seen, generator)
    control = arbitrary_pairs(pairs, relabelling, generator)
    control = control.take(control.differ)
    own: list[Swap] = [(site, subspace)]
    arbitrary = swapped_right(params, config, control, own)[0] if len(control) else None
    blank = None if untrained is None else swapped_right(untrained, config, pairs, own)[0]
    return InterchangeResult(
        site=site,
        rank=rank,
        swapped=Share(right=right[0]),
        identity=Share(right=identity_right(params, config, pairs)),
        whole=Share(right=right[1]),
        random=Share(right=right[2:].flatten()),
        arbitrary=None if arbitrary is None else Share(right=arbitrary),
        untrained=None if blank is None else Share(right=blank),
    )


def probe_subspace(coef: Float[Tensor, "k d"], rank: int) -> Float[Tensor, "rank d"]:
    """Orthonormal rows that span the strongest `rank` directions of a linear probe's weights.

    Rows are the classes'; what they share moves every score alike and is taken off first (not
    where there is one row). Raises `ProbeError` where the weights span fewer directions.
    """
    centred = coef if len(coef) == 1 else coef - coef.mean(0)
    _, strengths, directions = torch.linalg.svd(centred, full_matrices=False)
    floor = strengths.max() * max(coef.shape) * torch.finfo(coef.dtype).eps
    spanned = int((strengths > floor).sum())
    if not 1 <= rank <= spanned:
        raise ProbeError(f"rank {rank} of a probe whose weights span {spanned} directions")
    rows: Tensor = directions[:rank]
    return rows


def random_subspace(
    width: int, rank: int, generator: torch.Generator
) -> Float[Tensor, "rank width"]:
    """Orthonormal rows of a uniformly random subspace, in float64 on the CPU.

    Raises `ProbeError` for a rank that does not fit.
    """
    if not 1 <= rank <= width:
        raise ProbeError(f"rank {rank} in a site of width {width}; choose 1 to {width}")
    drawn = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(drawn.T).Q.T.contiguous()
    return rows


def _intervention_site(site: ProbeSite, rows: Float[Tensor, "rank d"] | None) -> Site:
    plain = site.intervention_site()
    return Site(hook=plain.hook, positions=plain.positions, heads=plain.heads, subspace=rows)


def _scored(scored: Sequence[int] | None, n: int) -> tuple[int, ...]:
    chosen = tuple(range(n) if scored is None else scored)
    if not chosen or any(not 0 <= i < n for i in chosen):
        raise ProbeError(f"answer tokens {list(chosen)} of {n}; choose from 0 to {n - 1}")
    return chosen

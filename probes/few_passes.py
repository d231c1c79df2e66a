"""Binary logistic probes in few passes over the inputs, from one Gram matrix of a sample.

A pass over all inputs is what a step costs. Where classes overlap, p (1 - p) varies little among
inputs, and the Hessian is near  c X^T X + I  with c its value at the start: a sample of the inputs
is enough to know that within a factor of about 1 ± sqrt(d / sample) in every direction, and all
probes of a site share it. Preconditioned by it, conjugate gradients divide the gap by about 30 in
each step. Scores are linear in the variables, so that what the function does in the plane of the
steepest direction and the last step costs no product: each step is Newton's in that plane, with the
Hessian of all inputs, which for a quadratic function is that of conjugate gradients (Nocedal and
Wright 2006, Numerical Optimization, section 5.1).

Where classes are told apart, p (1 - p) varies, and steps bring less. Probes that get on slowly are
left to `probes/newton.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.lbfgs import PerProbe, Problem, Solution, lift_of, lifted_factor

MOST = 14
"""Steps before a probe is left to others."""
PATIENCE, SLOWEST = 2, 0.25
"""After that many steps, the gap is to have been multiplied by this, or less, in each on average:
more than that is cheaper with the Hessian of each probe."""
SAMPLE_ROWS = 24
"""Inputs per variable in the sample."""
BAGS = 3
"""Up to so many rows, sums over inputs are faster as those of an embedding than as a product."""


Solve = Callable[[Tensor, bool], Tensor]


class _Preconditioner(NamedTuple):
    """H^-1 g in two halves, for the Hessian where every input has the probability of the start.

    That is L L^T; the halves are L^-1 g, whose square is never negative, and L^-T of that.
    """

    solve: Solve
    excess: Float[Tensor, "site probe"]
    """How many times a variable's own curvature, 1 at least, its rounding may come to: no step
    need ever show it, where one variable is far larger than the others."""


class _Inputs(NamedTuple):
    """All inputs of some sites."""

    x: Float[Tensor, "site n d"]
    cost: Float[Tensor, "probe n"]
    target: Float[Tensor, "probe n"]
    bags: tuple[Tensor, Tensor] | None
    """For each row the numbers of its site's inputs, and where rows start; where sums are those of
    an embedding."""


class _State(NamedTuple):
    variables: Float[Tensor, "site probe v"]
    logits: Float[Tensor, "site probe n"]
    share: Float[Tensor, "site probe n"]
    """Probability of the second class."""
    gradient: Float[Tensor, "site probe v"]
    guided: Float[Tensor, "site probe v"]
    """The preconditioned gradient."""
    decrement: Float[Tensor, "site probe"]
    """The product of the two."""


class _Last(NamedTuple):
    """The last step."""

    step: Float[Tensor, "site probe v"]
    change: Float[Tensor, "site probe n"]
    """Of the logits."""


class _End(NamedTuple):
    """Which probes still move, and where the others ended."""

    active: Bool[Tensor, "site probe"]
    objective: PerProbe
    """When last one of them might have ended: for those that go on, more than it is by now."""
    gap: PerProbe
    steps: Int[Tensor, "site probe"]


def few_passes(
    problem: Problem,
    sample: Int[Tensor, " m"],
    start: Float[Tensor, "probe 1"],
    *,
    tolerance: float,
) -> Solution:
    """Minimise binary probes, from weights 0, until the gap is `tolerance` times the objective.

    Args:
        problem: its `x` without the column of ones, and roughly centred.
        sample: the inputs that the Gram matrix is taken of.
        start: intercepts.

    The gap is half the squared Newton decrement, with the least curvature, relative to the
    preconditioner's, of all steps, and allowing for the preconditioner's rounding. Probes that get
    on too slowly have a gap of infinity.
    """
    inputs, (solve, excess) = _inputs(problem), _preconditioner(problem, sample, start)
    state, last = _begin(inputs, start, solve), None
    limit = state.decrement * excess / 2
    softest = torch.full_like(limit, torch.inf)
    end = _End(
        active=torch.ones_like(limit, dtype=torch.bool),
        objective=_objective(inputs, state),
        gap=torch.full_like(limit, torch.inf, dtype=torch.float64),
        steps=torch.full_like(limit, MOST, dtype=torch.int64),
    )
    all_move = True
    for step in range(1, MOST + 1):
        last, curvature = _step(inputs, state, last)
        softest = torch.minimum(softest, curvature / state.decrement)
        if not all_move:
            last = _Last(*(torch.where(end.active[..., None], part, 0) for part in last))
        moved = state.variables + last.step, state.logits + last.change
        state = _arrived(inputs, *moved, solve)
        gap, limit = state.decrement * excess / (softest * 2), limit * SLOWEST
        fast = gap <= limit if step >= PATIENCE else gap.isfinite()
        if bool((fast & (gap > end.objective * tolerance)).all()):
            continue
        end = _ended(end, _objective(inputs, state), gap, fast, tolerance, step)
        all_move = bool(end.active.all())
        if not bool(end.active.any()):
            break
    return Solution(state.variables[:, :, None], end.objective, end.gap, end.steps)


def sampled_evenly(n: int, v: int, seed: int) -> Int[Tensor, " m"]:
    """Which of n inputs to sample, ascending: one at random of each of so many equal stretches."""
    wanted = SAMPLE_ROWS * v
    random = torch.rand(wanted, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((torch.arange(wanted) + random) * (n / wanted)).long().clamp(max=n - 1)


def _inputs(problem: Problem) -> _Inputs:
    x, n_probes = problem.x, len(problem.cost)
    embed = n_probes <= BAGS and x.dtype == torch.float32 and x.device.type == "cpu"
    bags = None
    if embed:
        n = x.shape[1]
        starts = torch.arange(0, len(x) * n_probes * n, n, dtype=torch.int32)
        order = torch.arange(len(x) * n, dtype=torch.int32).view(len(x), 1, n)
        bags = order.expand(-1, n_probes, -1).flatten(), starts
    return _Inputs(x, problem.cost, problem.classes.to(x), bags)


def _preconditioner(
    problem: Problem, sample: Int[Tensor, " m"], start: Float[Tensor, "probe 1"]
) -> _Preconditioner:
    some = problem.x.index_select(1, sample).float()
    n_sites, _, d = some.shape
    weight = problem.cost[0, sample].float()  # other probes' costs are proportional
    weight, half = weight / weight.sum(), d // 2
    scaled = some * weight[:, None]
    share = start[:, 0].sigmoid()
    curvature = (problem.cost.sum(1) * share * (1 - share)).float()[:, None, None]
    moments = some.new_ones(n_sites, d + 1, d + 1)
    # The block below the diagonal is the one above it: a quarter of the products is saved.
    moments[:, :half, :-1] = scaled[..., :half].mT @ some
    moments[:, half:-1, half:-1] = scaled[..., half:].mT @ some[..., half:]
    moments[:, half:-1, :half] = moments[:, :half, half:-1].mT
    moments[:, -1, :-1] = moments[:, :-1, -1] = scaled.sum(1)
    hessian = moments[:, None] * curvature
    hessian.diagonal(dim1=-2, dim2=-1)[..., :-1] += 1
    excess = 1 + lift_of(hessian).to(problem.x.dtype)
    lower = lifted_factor(hessian).to(problem.x.dtype)
    if lower.device.type != "cpu":  # substitution is the slow way there
        eye = torch.eye(d + 1, device=lower.device, dtype=lower.dtype)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
        return _Preconditioner(lambda g, second: (inverse.mT if second else inverse) @ g, excess)

    def solve(g: Tensor, second: bool) -> Tensor:
        factor = lower.mT if second else lower
        solved: Tensor = torch.linalg.solve_triangular(factor, g, upper=second)
        return solved

    return _Preconditioner(solve, excess)


def _begin(inputs: _Inputs, start: Float[Tensor, "probe 1"], solve: Solve) -> _State:
    n_sites, n, d = inputs.x.shape
    variables = inputs.x.new_zeros(n_sites, len(start), d + 1)
    variables[..., -1] = start[:, 0]
    return _arrived(inputs, variables, start.expand(n_sites, -1, n), solve)


def _arrived(
    inputs: _Inputs,
    variables: Float[Tensor, "site probe v"],
    logits: Float[Tensor, "site probe n"],
    solve: Solve,
) -> _State:
    share = logits.sigmoid()
    residual = (share - inputs.target).mul_(inputs.cost)
    gradient = torch.empty_like(variables)
    torch.add(_sums(residual, inputs), variables[..., :-1], out=gradient[..., :-1])
    torch.sum(residual, -1, out=gradient[..., -1])
    half = solve(gradient[..., None], False)
    decrement = half.square().sum((-1, -2))
    return _State(variables, logits, share, gradient, solve(half, True)[..., 0], decrement)


def _step(
    inputs: _Inputs, state: _State, last: _Last | None
) -> tuple[_Last, Float[Tensor, "site probe"]]:
    """Newton's in the plane of the preconditioned gradient and the last step.

    Also the curvature along the former.
    """
    down = -state.guided
    change = _scores(down[..., :-1], inputs).add_(down[..., -1:])
    bend = torch.addcmul(state.share, state.share, state.share, value=-1).mul_(inputs.cost)
    bent = bend * change
    own = _dot(bent, change) + _dot(down[..., :-1], down[..., :-1])
    if last is None:
        rate = (state.decrement / own)[..., None]
        return _Last(down * rate, change * rate), own
    both = _dot(bent, last.change) + _dot(down[..., :-1], last.step[..., :-1])
    other = _dot(bend.mul_(last.change), last.change)
    other = other + _dot(last.step[..., :-1], last.step[..., :-1])
    slope = _dot(state.gradient, last.step)
    area = own * other - both.square()
    flat = area <= own * other * 1e-3
    ahead = torch.where(
        flat, state.decrement / own, (state.decrement * other + slope * both) / area
    )
    along = torch.where(flat, 0.0, -(slope * own + state.decrement * both) / area)
    ahead, along = ahead[..., None], along[..., None]
    step = torch.addcmul(down * ahead, along, last.step)
    return _Last(step, torch.addcmul(change.mul_(ahead), along, last.change)), own


def _dot(left: Tensor, right: Tensor) -> Tensor:
    product: Tensor = left * right
    return product.sum(-1)


def _ended(
    end: _End, objective: PerProbe, gap: Tensor, fast: Tensor, tolerance: float, step: int
) -> _End:
    near = end.active & (gap <= objective * tolerance)
    stopped = end.active & (near | ~fast)
    return _End(
        active=end.active & ~stopped,
        objective=objective,
        gap=torch.where(near, gap.double(), end.gap),
        steps=torch.where(stopped, step, end.steps),
    )


def _objective(inputs: _Inputs, state: _State) -> PerProbe:
    each = torch.nn.functional.softplus(state.logits, threshold=60.0)  # exact above that
    each.sub_(inputs.target * state.logits).mul_(inputs.cost)
    penalty = state.variables[..., :-1].square().sum(-1, dtype=torch.float64) / 2
    return each.sum(-1, dtype=torch.float64) + penalty


def _scores(weights: Float[Tensor, "site probe d"], inputs: _Inputs) -> Tensor:
    if weights.shape[:2] == (1, 1):
        return torch.mv(inputs.x[0], weights[0, 0])[None, None]
    return weights @ inputs.x.mT


def _sums(rows: Float[Tensor, "site probe n"], inputs: _Inputs) -> Float[Tensor, "site probe d"]:
    """rows @ x; for few rows, in half the time, as sums of embeddings."""
    if inputs.bags is None:
        return rows @ inputs.x
    order, starts = inputs.bags
    summed = torch.nn.functional.embedding_bag(
        order, inputs.x.flatten(0, 1), starts, mode="sum", per_sample_weights=rows.flatten()
    )
    return summed.view(*rows.shape[:2], -1)

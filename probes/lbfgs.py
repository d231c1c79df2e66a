"""L-BFGS for many logistic probes at once, each with its own step lengths, history and end.

Every probe minimises  sum_n a_n loss(y_n, V x_n) + 1/2 |W|^2  over V = [W, b], where the last
column of x is 1 and b is not penalised. The loss is that of softmax over the rows of V, or, for a
single row, log(1 + exp(z)) - y z. All probes of a site share x, so that one matrix product serves
them all; and because scores are linear in V, trying a step length costs no product at all.

L-BFGS is Nocedal and Wright 2006, Numerical Optimization, algorithm 7.4, started from a
preconditioner that is scaled as in their equation 7.20, with steps that satisfy Armijo's condition
(their equation 3.4).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MEMORY = 16
"""Steps that the curvature is learned from."""
SUFFICIENT = 1e-4
"""Share of the first-order decrease that a step must bring."""
SHORTER = 40
"""How often a step may be shortened; each time at least by half."""

Variables = Float[Tensor, "site probe k v"]
"""Rows [W, b] of every probe; a probe here is a (strength, label set) of a site."""
PerProbe = Float[Tensor, "site probe"]
Apply = Callable[[Variables], Variables]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What the probes of some sites are to fit; `k` is 1 for two classes.

    (Plain `flatten` and `reshape`: for one site, einops would take as long as the product.)
    """

    x: Float[Tensor, "site n v"]
    """Activations, centred for the sake of rounding, and a last column of ones."""
    cost: Float[Tensor, "probe n"]
    """C times the weight of each input."""
    classes: Int[Tensor, "probe n"]
    trained: Bool[Tensor, "probe k"]
    """Classes that occur; the rows of others stay as they start."""

    @property
    def binary(self) -> bool:
        return self.trained.shape[1] == 1

    def logits(self, variables: Variables) -> Float[Tensor, "site probe k n"]:
        """Scores of every input, less the intercept's share of centring: x V^T."""
        flat = variables.flatten(1, 2) @ self.x.transpose(1, 2)
        return _split_rows(flat, variables)

    def loss(self, logits: Float[Tensor, "site probe k n"]) -> PerProbe:
        """Sum over inputs by cost, in float64 whatever the dtype of the logits."""
        if self.binary:
            z = logits[:, :, 0]
            each = torch.logaddexp(z, z.new_zeros(())) - self.classes * z
        else:
            each = logits.logsumexp(2) - logits.gather(2, self._index(logits))[:, :, 0]
        return (each * self.cost).sum(-1, dtype=torch.float64)

    def gradient(self, logits: Float[Tensor, "site probe k n"], variables: Variables) -> Variables:
        """Of loss and penalty, with respect to the variables that gave the logits."""
        if self.binary:
            residual = logits.sigmoid() - self.classes[:, None]
        else:
            index = self._index(logits)
            residual = logits.softmax(2)
            residual.scatter_add_(2, index, residual.new_full((), -1.0).expand(index.shape))
        residual *= self.cost[:, None]
        gradient = _split_rows(residual.flatten(1, 2) @ self.x, variables)
        gradient[..., :-1] += variables[..., :-1]
        if not self.binary:
            gradient *= self.trained[:, :, None]
        return gradient

    def take(self, sites: Int[Tensor, " s"], probes: Int[Tensor, " p"]) -> "Problem":
        """The same for some of the sites and probes."""
        return replace(
            self,
            x=self.x if len(sites) == len(self.x) else self.x[sites],
            cost=self.cost[probes],
            classes=self.classes[probes],
            trained=self.trained[probes],
        )

    def _index(self, logits: Float[Tensor, "site probe k n"]) -> Int[Tensor, "site probe 1 n"]:
        return self.classes.expand(len(logits), -1, -1)[:, :, None]


class Solution(NamedTuple):
    """Where the probes of some sites ended."""

    variables: Variables
    objective: PerProbe
    """Loss and penalty, in float64."""
    gap: PerProbe
    """How far above the minimum that is, as `minimise` estimates it."""
    iterations: Int[Tensor, "site probe"]


class _State(NamedTuple):
    variables: Variables
    logits: Float[Tensor, "site probe k n"]
    loss: PerProbe
    penalty: PerProbe
    gradient: Variables
    guided: Variables
    """The preconditioned gradient."""

    @property
    def objective(self) -> PerProbe:
        return self.loss + self.penalty


class _Pair(NamedTuple):
    """A step, what it did to the gradient, and how that scales the preconditioner."""

    step: Variables
    change: Variables
    inverse: Float[Tensor, "site probe 1 1"]
    """1 / step . change; 0 where the pair does not count."""
    scale: Float[Tensor, "site probe 1 1"]


class _Direction(NamedTuple):
    ahead: Variables
    gap: PerProbe
    slope: PerProbe


def minimise(
    problem: Problem,
    start: Variables,
    precondition: Apply,
    *,
    tolerance: float,
    most: int,
    margin: float = 1.0,
) -> Solution:
    """Take steps until each probe's gap is at most `tolerance` times its objective.

    `precondition` is a symmetric, positive, approximate inverse Hessian. The gap is estimated as
    half the squared Newton decrement, 1/2 g^T H^-1 g: with the inverse Hessian that the steps have
    taught, or the preconditioner alone where that gives more; and times `margin`, for
    preconditioners that may be far from the Hessian. Ends after `most` steps in any case.
    A probe that has reached the tolerance does not move while others go on.
    """
    logits = problem.logits(start)
    gradient = problem.gradient(logits, start)
    penalty = _inner(start[..., :-1], start[..., :-1]).double() / 2
    state = _State(start, logits, problem.loss(logits), penalty, gradient, precondition(gradient))
    pairs: list[_Pair] = []
    iterations = torch.zeros_like(penalty, dtype=torch.int64)
    for step in range(most + 1):
        direction = _direction(state, pairs, precondition, margin)
        active = direction.gap > tolerance * state.objective
        if step == most or not bool(active.any()):
            break
        before, state = state, _search(problem, state, direction, active, precondition)
        pairs = [*pairs[-MEMORY + 1 :], _pair(before, state)]
        iterations += active
    return Solution(state.variables, state.objective, direction.gap, iterations)


def in_rounds(
    problem: Problem,
    start: Solution,
    preconditioner: Callable[[Problem, Variables], Apply],
    *,
    tolerance: float,
    rounds: int,
    most: int,
    margin: float = 1.0,
) -> Solution:
    """`minimise` again and again, each time with a preconditioner made where the last one ended.

    Between rounds, sites and probes that are finished leave the batch.
    """
    solution = Solution(*(part.clone() for part in start))
    for _ in range(rounds):
        open_ = solution.gap > tolerance * solution.objective
        if not bool(open_.any()):
            break
        sites, probes = open_.any(1).nonzero()[:, 0], open_.any(0).nonzero()[:, 0]
        at = (sites[:, None], probes)
        left, from_ = problem.take(sites, probes), solution.variables[at]
        precondition = preconditioner(left, from_)
        some = minimise(left, from_, precondition, tolerance=tolerance, most=most, margin=margin)
        moved = open_[at]
        for old, new in zip(solution[:3], some[:3], strict=True):
            mask = moved[..., None, None] if new.ndim == 4 else moved
            old[at] = torch.where(mask, new, old[at])
        solution.iterations[at] += some.iterations * moved
    return solution


def unsolved(start: Variables) -> Solution:
    """A start for `in_rounds`."""
    objective = torch.zeros(start.shape[:2], dtype=torch.float64, device=start.device)
    return Solution(start, objective, objective + torch.inf, torch.zeros_like(objective).long())


def lifted_factor(hessian: Float[Tensor, "*batch v v"]) -> Float[Tensor, "*batch v v"]:
    """L of hessian = L L^T, lifted by a few roundings so that L exists."""
    lifted = hessian.clone()
    lifted.diagonal(dim1=-2, dim2=-1).add_(lift_of(hessian)[..., None])
    lower: Tensor = torch.linalg.cholesky_ex(lifted)[0]
    return lower


def lift_of(hessian: Float[Tensor, "*batch v v"]) -> Float[Tensor, "*batch"]:
    """A few roundings of a Hessian: what `lifted_factor` adds to its diagonal."""
    largest = hessian.diagonal(dim1=-2, dim2=-1).amax(-1)
    lift: Tensor = 4 * hessian.shape[-1] * torch.finfo(hessian.dtype).eps * largest
    return lift


def solver(lower: Float[Tensor, "site probe #k v v"]) -> Apply:
    """H^-1 g as L^-T (L^-1 g): positive whatever the rounding, which the inverse itself is not.

    By substitution on a CPU. Elsewhere L is inverted once: few steps, but one after the other, are
    the slow way there.
    """
    shared = lower.shape[2] == 1  # one factor for all rows of a probe: they are solved together
    lower = lower[:, :, 0] if shared else lower
    on_cpu = lower.device.type == "cpu"
    if not on_cpu:
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        lower = torch.linalg.solve_triangular(lower, eye, upper=False)

    def solve(gradient: Variables) -> Variables:
        given = gradient if shared else gradient[..., None, :]
        if on_cpu:
            solved = torch.cholesky_solve(given.transpose(-1, -2), lower).transpose(-1, -2)
        else:
            solved = given @ lower.transpose(-1, -2) @ lower
        return solved if shared else solved[..., 0, :]

    return solve


def _direction(state: _State, pairs: list[_Pair], precondition: Apply, margin: float) -> _Direction:
    """-H^-1 g by the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
    q, shares = state.gradient, []
    for pair in reversed(pairs):
        share = (pair.step * q).sum((-1, -2), keepdim=True) * pair.inverse
        q = torch.addcmul(q, share, pair.change, value=-1)
        shares.append(share)
    r = precondition(q) * pairs[-1].scale if pairs else state.guided
    for pair, share in zip(pairs, reversed(shares), strict=True):
        again = (pair.change * r).sum((-1, -2), keepdim=True) * pair.inverse
        r = torch.addcmul(r, share - again, pair.step)
    learned = _inner(state.gradient, r).double()
    plain = _inner(state.gradient, state.guided).double()
    return _Direction(-r, torch.maximum(learned, plain) * margin / 2, -learned)


def _search(
    problem: Problem,
    state: _State,
    direction: _Direction,
    active: Bool[Tensor, "site probe"],
    precondition: Apply,
) -> _State:
    """A step of every active probe that satisfies Armijo's condition, found by backtracking.

    Objectives closer than their rounding count as equal: near the minimum the decrease is far
    below what the dtype can show of the objective, while the gradient still tells the way.
    """
    ahead = problem.logits(direction.ahead)
    weights, change = state.variables[..., :-1], direction.ahead[..., :-1]
    towards, length = _inner(weights, change).double(), _inner(change, change).double()
    reach = state.objective * (1 + 4 * torch.finfo(ahead.dtype).eps)
    rate = active.double()
    for _ in range(SHORTER):
        moved = torch.addcmul(state.logits, rate.to(ahead)[..., None, None], ahead)
        loss = problem.loss(moved)
        penalty = state.penalty + rate * towards + rate**2 * length / 2
        enough = loss + penalty <= reach + SUFFICIENT * rate * direction.slope
        if bool((enough | ~active).all()):
            break
        excess = loss + penalty - state.objective - rate * direction.slope
        parabola = -direction.slope * rate**2 / (2 * excess)
        shorter = parabola.nan_to_num(0.0).clamp(min=rate / 10, max=rate / 2)
        rate = torch.where(enough, rate, shorter)
    variables = torch.addcmul(state.variables, rate.to(ahead)[..., None, None], direction.ahead)
    gradient = problem.gradient(moved, variables)
    return _State(variables, moved, loss, penalty, gradient, precondition(gradient))


def _pair(before: _State, after: _State) -> _Pair:
    step, change = after.variables - before.variables, after.gradient - before.gradient
    along = _inner(step, change)
    across = _inner(change, after.guided - before.guided)
    counts = (along > 0) & (across > 0)
    inverse = torch.where(counts, 1 / along, 0.0)
    scale = torch.where(counts, along / across, 1.0)
    return _Pair(step, change, inverse[..., None, None], scale[..., None, None])


def _split_rows(flat: Tensor, variables: Variables) -> Tensor:
    """`[site, probe x k, ...]` to `[site, probe, k, ...]`, as the variables have them."""
    return flat.reshape(*variables.shape[:3], flat.shape[-1])


def _inner(left: Variables, right: Variables) -> PerProbe:
    product: Tensor = left * right
    return product.sum((-1, -2))

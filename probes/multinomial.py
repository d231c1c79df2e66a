"""Logistic probes of more than two classes with many variables, by L-BFGS (`probes/lbfgs.py`)."""

from einops import einsum

from probes.lbfgs import (
    Apply,
    Problem,
    Solution,
    Variables,
    in_rounds,
    lifted_factor,
    minimise,
    solver,
)
from probes.newton import block_preconditioner

MARGIN = 1e3
"""What the gap estimated by L-BFGS is multiplied by: with many classes that hardly touch, it has
been seen a thousand times too low."""
STEPS, ROUNDS = 40, 50
"""L-BFGS steps with one preconditioner, and how often it is made anew."""


def multinomial(problem: Problem, start: Variables, tolerance: float) -> Solution:
    """L-BFGS from a Hessian with every row's own block alone, c X^T A X + I.

    With c = 1/2 it is an upper bound of the true one on rows that sum to 0 (Boehning 1992,
    "Multinomial logistic regression algorithm", lemma 1). Here c is the mean of p (1 - p) over
    inputs and classes, times K / (K - 1): the true Hessian where all scores are 0, and near it in
    size where inputs are told apart, for which the bound is far too steep.
    """
    precondition = _shared_preconditioner(problem, start)
    near = minimise(problem, start, precondition, tolerance=tolerance, most=STEPS, margin=MARGIN)
    return in_rounds(
        problem,
        near,
        block_preconditioner,
        tolerance=tolerance,
        rounds=ROUNDS,
        most=STEPS,
        margin=MARGIN,
    )


def _shared_preconditioner(problem: Problem, variables: Variables) -> Apply:
    k = variables.shape[2]
    weights = problem.cost[0] / problem.cost[0].sum()
    gram = (problem.x * weights[:, None]).transpose(1, 2) @ problem.x
    p = problem.logits(variables).softmax(2)
    spread = einsum(p * (1 - p), problem.cost, "site probe k n, probe n -> site probe")
    blocks = einsum(spread / (k - 1), gram, "site probe, site i j -> site probe i j")
    blocks.diagonal(dim1=-2, dim2=-1)[..., :-1] += 1
    return solver(lifted_factor(blocks)[:, :, None])

"""Edge attribution with gradients averaged over inputs between base and patch (EAP-IG).

Hanna et al. 2024, arXiv:2403.17806, equation 3, after integrated gradients (Sundararajan et al.
2017, arXiv:1703.01365). Both embeddings move together along a straight line from the base run
(share 0) to what is patched in (share 1); everything else follows; the gradients at the readers
are averaged over the line. As steps grow, the scores of all edges out of the embeddings sum to
m(embeddings patched) - m(base), which under resample ablation is m(other) - m(base). (Not where
LayerNorm reads nothing but zeros at the end of the line, as zero ablation makes it: its gradient
grows without bound there.)

How many steps are enough is found out (`settled_steps`), unless a number is given: five do for
smooth networks. Where none is enough, because the metric moves within a thousandth of the line or
less, the line is cut finer there and nowhere else (`circuits.steep_lines`).
"""

import math
from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from circuits.edge_attribution import INPUTS, Course, attribute_edges
from circuits.edges import measure_circuits
from circuits.method import Method, Scores, methods
from circuits.problem import Problem
from circuits.steep_lines import attribute_steep_edges
from workbench.progress import Progress

Rule = Literal["left", "midpoint"]
"""Where on the line gradients are taken.

`left` are the published points: corrupted + k/steps (clean - corrupted), k = 0 ... steps-1, for a
clean run that is patched with corrupted activations. In base and patch: shares 1 - k/steps, the
patched end among them, the base run not. `midpoint` takes the middle of each of `steps` pieces; its
error falls as 1/steps^2 where the network is smooth, that of `left` as 1/steps.
"""
FEWEST_STEPS = 4
"""Where doubling starts."""
POINTS_AT_ONCE = 64
"""Points of all lines together that go through the network side by side."""
ENOUGH_TO_CUT = 128
"""Steps after which halving finds what more of them would have to be lucky to meet."""
DEEPEST = 36
"""How often a piece of a line may be halved: float64 tells its ends apart down to 2^-50 or so."""


class Search(NamedTuple):
    """What came of looking for a number of steps."""

    steps: int
    settled: bool
    """Whether so many are enough."""


def shares_on_line(steps: int, rule: Rule) -> list[float]:
    """Shares of patch - base, each of weight 1/steps."""
    if rule == "left":
        return [1 - k / steps for k in range(steps)]
    return [(k + 0.5) / steps for k in range(steps)]


def integrate(
    problem: Problem, courses: Sequence[Course], shares: Sequence[float]
) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
    """`attribute_edges`, some points at a time so that memory does not grow with their number."""
    size = max(1, POINTS_AT_ONCE // len(courses))
    parts = [shares[start : start + size] for start in range(0, len(shares), size)]
    total = problem.patch.new_zeros(problem.graph.is_edge.shape)
    n = len(problem.base)
    for i, part in enumerate(parts):
        steps = attribute_edges(problem, courses, part)
        while True:
            try:
                seen = next(steps)
            except StopIteration as end:
                total += end.value * len(part)
                break
            yield Progress(i * n + seen.done, len(parts) * n, seen.doing)
    return total / len(shares)


def settled_steps(
    problem: Problem, courses: Sequence[Course], rule: Rule, *, tolerance: float, most: int
) -> Generator[Progress, None, Search]:
    """Steps from which twice as many change little: 4, 8, 16 ... until both hold, or `most`.

    - The edges out of what a course moves sum to m(moved) - m(base), averaged over pairs, to within
      `tolerance` times the largest mean |m(moved) - m(base)| of any course.
    - The scores differ from those with half the steps by at most `tolerance` of their norm.

    The first is what a few points cannot fake: where all of them miss a steep place, the scores do
    not change from 4 to 8 steps, but they do not sum up either.
    """
    gaps = moved_metrics(problem, courses) - problem.base_metric
    allowed = allowed_gap(gaps, tolerance)
    steps, before = min(FEWEST_STEPS, most), None
    while True:
        progress = integrate(problem, courses, shares_on_line(steps, rule))
        scores = yield from _told_of(progress, len(problem.base), steps)
        sums = torch.stack([scores[..., list(course.moved), :].sum() for course in courses])
        complete = float((sums - gaps.mean(1)).abs().max()) <= allowed
        change = math.inf if before is None else float((scores - before).norm())
        settled = complete and change <= tolerance * float(scores.norm())
        if settled or steps >= most:
            return Search(steps, settled)
        steps, before = min(2 * steps, most), scores


def allowed_gap(gaps: Float[Tensor, "course batch"], tolerance: float) -> float:
    """By how much sums of scores may miss what moving a course does."""
    return tolerance * float(gaps.abs().mean(1).max())


def moved_metrics(problem: Problem, courses: Sequence[Course]) -> Float[Tensor, "course batch"]:
    """The metric of each pair where each course is moved all the way: its writers are patched."""
    keep = problem.graph.is_edge.to(problem.patch).repeat(
        len(courses), *[1] * problem.graph.is_edge.ndim
    )
    for cell, course in enumerate(courses):
        keep[cell, ..., list(course.moved), :] = 0
    with torch.no_grad():
        return measure_circuits(problem, keep)


def _told_of(
    progress: Generator[Progress, None, Tensor], n: int, steps: int
) -> Generator[Progress, None, Tensor]:
    """The same result; nothing is done yet while the number of steps is looked for."""
    while True:
        try:
            next(progress)
        except StopIteration as end:
            result: Tensor = end.value
            return result
        yield Progress(0, n, f"looking for a number of steps: {steps}")


@dataclass(frozen=True, kw_only=True)
class IntegratedMethod(Method):
    """Edge attribution along lines, whose number of points may be found out."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Points on a line. None: as many as it takes, by `settled_steps`; the settings of the scores
    hold the number used, and scoring with that number gives the same scores."""
    rule: Rule = "midpoint"
    tolerance: Annotated[float, Field(gt=0)] = 0.01
    """What counts as settled, where the number of steps is found out."""
    most_steps: Annotated[int, Field(ge=1)] = 1024
    """Where the search ends, settled or not; at `ENOUGH_TO_CUT` if pieces may be halved then."""
    halvings: Annotated[int, Field(ge=0, le=DEEPEST)] | None = None
    """How often the pieces between points may be halved, by the midpoint rule. None: never where
    `steps` are given; where they are found out, as often as it takes, if no number was enough."""

    @abstractmethod
    def _courses(self, problem: Problem) -> list[Course]:
        """The lines."""

    def score(self, problem: Problem, *, seed: int = 0) -> Generator[Progress, None, Scores]:
        """As `Method.score`, with the steps and halvings that were used in the settings."""
        if self.steps is not None:
            given = replace(self, halvings=self.halvings or 0)
            return (yield from Method.score(given, problem, seed=seed))
        courses = self._courses(problem)
        deepest = DEEPEST if self.halvings is None and self.rule == "midpoint" else self.halvings
        most = min(self.most_steps, ENOUGH_TO_CUT) if deepest else self.most_steps
        found = yield from settled_steps(
            problem, courses, self.rule, tolerance=self.tolerance, most=most
        )
        halvings = 0 if found.settled else deepest
        chosen = replace(self, steps=found.steps, halvings=halvings)
        return (yield from chosen.score(problem, seed=seed))

    def _score(
        self, problem: Problem, seed: int
    ) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
        assert self.steps is not None
        courses = self._courses(problem)
        if not self.halvings:
            return (yield from integrate(problem, courses, shares_on_line(self.steps, self.rule)))
        gaps = moved_metrics(problem, courses) - problem.base_metric
        steep = attribute_steep_edges(
            problem,
            courses,
            pieces=self.steps,
            halvings=self.halvings,
            allowed=allowed_gap(gaps, self.tolerance),
        )
        return (yield from steep)


@methods.register("eap_ig")
@dataclass(frozen=True, kw_only=True)
class EapIg(IntegratedMethod):
    """As `eap`, with the mean gradient over inputs between base and patch."""

    name: ClassVar[str] = "eap_ig"
    summary: ClassVar[str] = "EAP with gradients integrated over the inputs (Hanna 2024)"

    def _courses(self, problem: Problem) -> list[Course]:
        return [Course(INPUTS, tuple(range(len(problem.graph.writers))))]

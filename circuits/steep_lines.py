"""Edge attribution along lines on which the metric moves in a few narrow places.

Points at equal distances miss a step of width w unless there are about 1/w of them, and where
steps follow one another (a hard softmax, then a sharp step function) the places in which there is
any gradient shrink with each. So the line is cut into pieces, and every piece is checked: from its
one end to the other the metric must change by what the gradient in its middle says (completeness of
integrated gradients, Sundararajan et al. 2017, arXiv:1703.01365, Proposition 1, piece by piece).
Pieces that fail are halved, for each pair on its own, until they pass or are `halvings` deep. This
is the midpoint rule with points where they are needed; what is integrated stays the same.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.edge_attribution import (
    Course,
    change_of_writers,
    chunks_of_rows,
    contract,
    hook_gradients,
    moved_metric,
)
from circuits.problem import Problem
from workbench.progress import Progress

POINTS_AT_ONCE = 64
"""Points of a line that go through the network side by side."""
SHARE_OF_ALLOWED = 1 / 64
"""What a piece may be off by, as a share of what the whole line may be."""
MANY = 64
"""Pieces of one pair's line that may fail and be halved again, however few it began with."""
ROUNDING = 1e4
"""In rounding errors of the metric: a piece is never asked to be more exact than that."""


class Pieces(NamedTuple):
    """Pieces of lines, all of one width, in the order of their pairs."""

    row: Int[Tensor, " piece"]
    """Which of the pairs at hand."""
    low: Float[Tensor, " piece"]
    """Where it begins: a share of patch - base."""


class Grid(NamedTuple):
    """Some pieces, laid out by pair."""

    rows: Int[Tensor, " row"]
    """Which of the pairs at hand."""
    low: Float[Tensor, "cell row"]
    known: Bool[Tensor, "cell row"]
    """Where there is a piece at all."""


def attribute_steep_edges(
    problem: Problem, courses: Sequence[Course], *, pieces: int, halvings: int, allowed: float
) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
    """`attribute_edges` with the mean gradient over each line, cut finer where that is needed.

    Args:
        pieces: equal pieces that every line is cut into at first.
        halvings: how often a piece may be halved. Halving a pair's line also ends where as
            many pieces of it fail as it began with, and `MANY`: no steep place but noise.
        allowed: by how much the sum of all edges out of what a course moves may miss what moving
            it does, in the metric's unit.
    """
    n = len(problem.base)
    values = problem.patch.new_zeros(problem.graph.is_edge.shape)
    noise = ROUNDING * torch.finfo(values.dtype).eps * float(problem.base_metric.abs().max())
    allowed = max(allowed * SHARE_OF_ALLOWED, noise)
    for i, course in enumerate(courses):

        def score(rows: Tensor, course: Course = course) -> Tensor:
            line = _Line(problem, rows, course, allowed)
            return line.integrate(pieces, halvings)

        for rows, scores in chunks_of_rows(problem, score, n_cells=POINTS_AT_ONCE):
            values += scores
            yield Progress(i * n + int(rows[-1]) + 1, len(courses) * n, "pairs")
    return values / n


class _Line:
    """One course of some pairs."""

    def __init__(self, problem: Problem, rows: Tensor, course: Course, allowed: float) -> None:
        self.problem, self.rows, self.course, self.allowed = problem, rows, course, allowed
        self.change = change_of_writers(problem, rows)
        self.moved = self.change.new_zeros(len(self.change))
        self.moved[list(course.moved)] = 1
        self.scores = problem.patch.new_zeros(problem.graph.is_edge.shape)

    def integrate(self, pieces: int, halvings: int) -> Tensor:
        """Scores of edges, summed over the pairs."""
        n, width = len(self.rows), 1 / pieces
        cuts = torch.arange(pieces, device=self.rows.device).to(self.change) * width
        row = torch.arange(n, device=self.rows.device).repeat_interleave(pieces)
        left = Pieces(row, cuts.repeat(n))
        for depth in range(halvings + 1):
            # Each pair by itself: which others share its chunk decides nothing.
            many = left.row.bincount(minlength=n) >= 2 * max(pieces, MANY)
            last = many | (depth == halvings)
            failed = [self._take(grid, width, last) for grid in _grids(left)]
            width /= 2
            left = _halved(failed, width)
            if not len(left.row):
                break
        return self.scores

    def _take(self, grid: Grid, width: float, last: Bool[Tensor, " pair"]) -> Pieces:
        """Add the scores of the pieces that pass, or are a pair's last; which do not."""
        problem, rows = self.problem, self.rows[grid.rows]
        change = self.change[:, grid.rows]
        readers = problem.graph.reading_hooks
        hooks = [reader.hook for reader in readers]
        middle = self._share(grid.low + width / 2)
        gradients = hook_gradients(problem, rows, hooks, change, middle)
        slope = torch.zeros_like(grid.low)
        for reader in readers:
            gradient = gradients[reader.hook]
            if not reader.split:
                gradient = gradients[reader.hook] = gradient[..., None, :]
            before = [w for w in self.course.moved if w < reader.writers]
            together = change[before].sum(0)
            slope += einsum(together, gradient, "row pos d, cell row pos reader d -> cell row")
        ends = (
            moved_metric(problem, rows, change, self._share(grid.low + at)) for at in (0.0, width)
        )
        start, end = ends
        passed = ((end - start - slope * width).abs() <= self.allowed) | last[grid.rows]
        counts = passed & grid.known
        weight = counts.to(slope) * width
        for reader in readers:
            at = slice(reader.start, reader.start + reader.count)
            # Zero times infinity is no zero: a gradient that does not count may be anything.
            gradient = gradients[reader.hook].where(counts[..., None, None, None], 0)
            mean = einsum(gradient, weight, "cell row pos reader d, cell row -> row pos reader d")
            writers = [w for w in self.course.scored if w < reader.writers]
            self.scores[..., writers, at] += contract(problem.graph, change[writers], mean)
        cell, row = (~passed & grid.known).nonzero().unbind(1)
        return Pieces(grid.rows[row], grid.low[cell, row])

    def _share(self, at: Float[Tensor, "cell row"]) -> Float[Tensor, "cell row writer"]:
        return at[..., None] * self.moved


def _grids(pieces: Pieces) -> Iterator[Grid]:
    """Pieces as grids of at most `POINTS_AT_ONCE` per pair, of the pairs that have any."""
    rows, column, counts = torch.unique(pieces.row, return_inverse=True, return_counts=True)
    rank = torch.arange(len(column), device=rows.device)
    rank = rank - (counts.cumsum(0) - counts)[column]
    for start in range(0, int(counts.max()), POINTS_AT_ONCE):
        here = (rank >= start) & (rank < start + POINTS_AT_ONCE)
        some = torch.unique(column[here])
        cell, row = rank[here] - start, torch.searchsorted(some, column[here])
        low = pieces.low.new_zeros(int(cell.max()) + 1, len(some))
        known = torch.zeros_like(low, dtype=torch.bool)
        low[cell, row], known[cell, row] = pieces.low[here], True
        yield Grid(rows[some], low, known)


def _halved(pieces: Sequence[Pieces], width: float) -> Pieces:
    """Both halves of each, of this width, in the order of their pairs."""
    row = torch.cat([some.row for some in pieces]).repeat(2)
    low = torch.cat([some.low for some in pieces])
    low = torch.cat([low, low + width])
    order = row.argsort(stable=True)
    return Pieces(row[order], low[order])

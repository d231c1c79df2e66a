"""Faithfulness: how much of what a network does with a metric a circuit does.

m(C) is the problem's metric where the circuit's edges carry the run that is patched (the problem's
`base`) and all other edges carry the patch; m(M) keeps all edges, m(none) keeps none. Each m is
averaged over the pairs before anything is divided or compared; per-pair values are kept.

- faithfulness  (m(C) - m(none)) / (m(M) - m(none)): 1 for all edges, 0 for none
- CPR, CMD      area under the faithfulness over circuit sizes, and between it and 1
  (Mueller et al. 2025, arXiv:2504.13151)

The direction swaps the two runs and nothing else. Under noising the circuit carries the clean run
and everything around it is broken: is the circuit enough for the answer? Under denoising the
circuit carries the *corrupted* run and everything around it is clean: is the circuit enough to
break the answer? Others call it denoising a circuit to patch the clean activation into the
circuit's own edges of the corrupted run (Miller et al. 2024, arXiv:2407.08734, tell both apart);
the share of the gap that this restores is 1 minus the denoising faithfulness of the complement.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit, Selection, top_edges
from circuits.edges import measure_in_chunks
from circuits.method import Scores
from circuits.problem import Problem
from workbench.errors import CircuitError
from workbench.finding import Interval
from workbench.progress import Progress, finish

FAITHFUL = 0.1
"""How far from 1 the faithfulness of a faithful circuit may be."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Sizes of the circuits of a curve, as shares of all edges (Mueller et al. 2025, section 4)."""
GRID = 32
"""How many circuit sizes are measured at once when the smallest circuit is sought."""
CELLS = 256
"""How many circuits are turned into numbers at once."""

EdgeScores = Scores | Float[Tensor, "*pos writer reader"]
"""A bare tensor counts as signed; `Scores` say themselves whether they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """Faithfulness of some circuits, and the metrics it is made of."""

    values: Float[Tensor, " circuit"]
    bounds: Float[Tensor, "circuit 2"] | None
    """95 % percentile bootstrap over pairs, all m resampled together; None for a single pair.
    Draws without a gap are left out; where the gap's sign is unsure the interval is wide."""
    circuits: Float[Tensor, "circuit batch"]
    full: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]

    def interval(self, circuit: int) -> Interval | None:
        """95 % interval of one circuit's faithfulness."""
        if self.bounds is None:
            return None
        return float(self.bounds[circuit, 0]), float(self.bounds[circuit, 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulnessCurve:
    """Faithfulness of the best n edges, for growing n from 0 to all."""

    sizes: tuple[int, ...]
    values: Float[Tensor, " size"]
    selection: Selection
    n: int
    """How many pairs."""

    @property
    def shares(self) -> Float[Tensor, " size"]:
        """Sizes as shares of all edges."""
        return torch.tensor(self.sizes, dtype=torch.float64) / self.sizes[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallestCircuit:
    """The smallest circuit found that is faithful enough."""

    circuit: Circuit | None
    """Without dead ends. None where no circuit of at most `max_edges` is faithful enough."""
    faithfulness: float | None
    tried: dict[int, float]
    """Faithfulness by how many of the best edges were taken, before dead ends were pruned."""
    selection: Selection


def faithfulness(
    problem: Problem, circuits: Sequence[Circuit], *, n_bootstrap: int = 1000, seed: int = 0
) -> Faithfulness:
    """Faithfulness of every circuit, all in one call.

    Raises `CircuitError` where m(M) = m(none), for which it is undefined, or for circuits of
    another graph.
    """
    members = stack_members(problem, circuits)
    return finish(faithfulness_steps(problem, members, n_bootstrap=n_bootstrap, seed=seed))


def faithfulness_steps(
    problem: Problem, members: Tensor, *, n_bootstrap: int, seed: int = 0
) -> Generator[Progress, None, Faithfulness]:
    every = problem.graph.is_edge
    cells = torch.cat([members, torch.stack([every, every & False])])
    *circuits, full, empty = yield from measure_members(problem, cells, "faithfulness")
    gap = gap_between(full, empty)
    metric = torch.stack(circuits)
    bounds = None
    if n_bootstrap and len(full) > 1:
        generator = torch.Generator().manual_seed(seed)
        bounds = _bootstrap_ratio(metric - empty, full - empty, n_bootstrap, generator)
    values = (metric.mean(-1) - empty.mean()) / gap
    return Faithfulness(values=values, bounds=bounds, circuits=metric, full=full, empty=empty)


def faithfulness_curve(
    problem: Problem,
    scores: EdgeScores,
    sizes: Sequence[int] | None = None,
    *,
    selection: Selection = "absolute",
) -> Generator[Progress, None, FaithfulnessCurve]:
    """Faithfulness of the best n edges for every size, with 0 and all edges added.

    `signed` ranks edges by how far patching them moves the metric from m(M) towards m(none),
    `absolute` by how far it moves at all; scores without a sign rank by size under both. Dead ends
    are left in. Raises `CircuitError` as
    `faithfulness` and `top_edges` do.
    """
    total = problem.graph.n_edges
    wanted = [round(share * total) for share in SHARES] if sizes is None else sizes
    chosen = sorted({0, total, *wanted})
    order = ranked(problem, scores, selection)
    members = [top_edges(problem.graph, order, n, selection=selection) for n in chosen]
    found = yield from faithfulness_steps(problem, stack_members(problem, members), n_bootstrap=0)
    return FaithfulnessCurve(
        sizes=tuple(chosen), values=found.values, selection=selection, n=len(found.full)
    )


def cpr(curve: FaithfulnessCurve) -> float:
    """Area under the faithfulness over the share of edges, by trapezoids: higher is better."""
    return float(torch.trapezoid(curve.values, curve.shares))


def cmd(curve: FaithfulnessCurve) -> float:
    """Area between the faithfulness and 1, by trapezoids of |1 - f|: 0 is best."""
    return float(torch.trapezoid((1 - curve.values).abs(), curve.shares))


def ranked(
    problem: Problem, scores: EdgeScores, selection: Selection
) -> Float[Tensor, "*pos writer reader"]:
    """What `top_edges` is to rank under a selection. Raises `CircuitError` as `oriented` does."""
    if selection == "signed":
        return oriented(problem, scores)
    return scores.values if isinstance(scores, Scores) else scores


def oriented(problem: Problem, scores: EdgeScores) -> Float[Tensor, "*pos writer reader"]:
    """Scores with the sign that makes patching towards m(none) positive.

    Scores of a method without a sign stay as they are. Raises `CircuitError` where m(M) = m(none).
    """
    values = scores.values if isinstance(scores, Scores) else scores
    if isinstance(scores, Scores) and not scores.signed:
        return values
    full, empty = finish(ends(problem))
    return values if gap_between(full, empty) < 0 else -values


def smallest_circuit(
    problem: Problem,
    scores: EdgeScores,
    *,
    faithfulness: float = 1 - FAITHFUL,
    selection: Selection = "absolute",
    max_edges: int | None = None,
) -> Generator[Progress, None, SmallestCircuit]:
    """The smallest best-n circuit, dead ends pruned, with faithfulness in [f, 2 - f].

    Sizes are measured on a grid, then on finer ones below the first that is faithful enough;
    where faithfulness does not grow steadily a smaller one may hide between.
    """
    limit = problem.graph.n_edges if max_edges is None else min(max_edges, problem.graph.n_edges)
    order = ranked(problem, scores, selection)
    circuits: dict[int, Circuit] = {}
    tried: dict[int, float] = {}
    low, high, best = 0, limit, None
    while True:
        step = max(1, -(-(high - low) // GRID))
        sizes = sorted({*range(low + step, high, step), high} - tried.keys())
        for n in sizes:
            circuits[n] = top_edges(problem.graph, order, n, selection=selection).pruned(
                problem.positions
            )
        if sizes:
            cells = stack_members(problem, [circuits[n] for n in sizes])
            found = yield from faithfulness_steps(problem, cells, n_bootstrap=0)
            tried |= dict(zip(sizes, found.values.tolist(), strict=True))
        good = [n for n, value in tried.items() if abs(1 - value) <= 1 - faithfulness]
        best = min(good, default=None)
        if best is None or step == 1:
            break
        low, high = max((n for n in tried if n < best), default=0), best
    return SmallestCircuit(
        circuit=None if best is None else circuits[best],
        faithfulness=None if best is None else tried[best],
        tried=dict(sorted(tried.items())),
        selection=selection,
    )


def ends(problem: Problem) -> Generator[Progress, None, Tensor]:
    """m(M) and m(none)."""
    every = problem.graph.is_edge
    return (yield from measure_members(problem, torch.stack([every, every & False]), "ends"))


def measure_members(
    problem: Problem, members: Bool[Tensor, "cell *pos writer reader"], doing: str
) -> Generator[Progress, None, Float[Tensor, "cell batch"]]:
    """m of every cell, per pair, in float64 on the CPU.

    Under `resample` a dead end carries just what is patched in, so cells that differ in dead ends
    alone are run once.
    """
    place = torch.arange(len(members))
    if problem.ablation == "resample":
        alive = [
            Circuit(problem.graph, member).pruned(problem.positions).member for member in members
        ]
        members, place = torch.unique(torch.stack(alive), dim=0, return_inverse=True)
    parts, done = [], 0
    for start in range(0, len(members), CELLS):
        for part in measure_in_chunks(problem, members[start : start + CELLS].float()):
            parts.append(part.double().cpu())
            done += len(part)
            yield Progress(done, len(members), doing)
    return torch.cat(parts)[place]


def gap_between(full: Tensor, empty: Tensor) -> float:
    gap = float(full.mean() - empty.mean())
    # Float32 metrics of equal runs may differ by their rounding.
    if abs(gap) <= 1e-6 * float(torch.stack([full, empty]).abs().max()):
        raise CircuitError(
            f"the metric is {float(full.mean()):.6g} with all edges and with none, so normalised "
            "effects are undefined; choose pairs or a metric that the network tells apart"
        )
    return gap


def stack_members(problem: Problem, circuits: Sequence[Circuit]) -> Tensor:
    if not circuits or any(circuit.graph != problem.graph for circuit in circuits):
        raise CircuitError("give at least one circuit, and only of the problem's own graph")
    return torch.stack([circuit.member.cpu() for circuit in circuits])


def _bootstrap_ratio(
    above: Float[Tensor, "circuit batch"],
    gaps: Float[Tensor, " batch"],
    n_draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "circuit 2"]:
    """Percentile interval of mean(above) / mean(gaps) over redrawn pairs (Efron 1979)."""
    n = len(gaps)
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    counts = torch.zeros(n_draws, n, dtype=gaps.dtype)
    counts.scatter_add_(1, drawn, torch.ones((), dtype=gaps.dtype).expand(n_draws, n))
    below = counts @ gaps
    ratios = (counts @ above.T)[below != 0] / below[below != 0, None]
    ends = torch.tensor([0.025, 0.975], dtype=gaps.dtype)
    return ratios.quantile(ends, dim=0).T

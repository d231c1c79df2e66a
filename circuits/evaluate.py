"""How good a circuit is: beside the whole network, beside nothing, and beside random circuits.

m(C) is the problem's metric where the circuit's edges carry the run that is patched (the problem's
`base`) and all other edges carry the patch; m(M) keeps all edges, m(none) keeps none. Each m is
averaged over the pairs before anything is divided or compared; per-pair values are kept.

- faithfulness  (m(C) - m(none)) / (m(M) - m(none)): 1 for all edges, 0 for none
- completeness  |m(C \\ K) - m(M \\ K)| for sets K of components: 0 is complete
- minimality    of a member v: the largest |m(C \\ K) - m(C \\ (K + v))| over tried sets K
  (all three: Wang et al. 2022, arXiv:2211.00593, section 4)
- CPR, CMD      area under the faithfulness over circuit sizes, and between it and 1
  (Mueller et al. 2025, arXiv:2504.13151)

Evaluate on pairs that the circuit was not found on.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float
from scipy import special
from torch import Tensor

from circuits.circuit import Circuit, Selection, top_edges
from circuits.edges import measure_in_chunks
from circuits.graph import Graph, component
from circuits.mechanism import Progress
from circuits.problem import Ablation, Direction, Problem
from circuits.random_circuits import (
    RandomKind,
    percentile_near_one,
    random_circuits,
    random_edges_outside,
    single_edges,
)
from workbench.errors import CircuitError
from workbench.finding import Interval, Support
from workbench.progress import finish
from workbench.stats import mean_interval

FAITHFUL = 0.1
"""How far from 1 the faithfulness of a faithful circuit may be."""
BEATS_UNIFORM = 99.0
BEATS_CONNECTED = 95.0
"""Percentiles to reach among random circuits; connected ones are few in small graphs."""
GAP_SHARE, GAP_LEVEL = 0.9, 0.01
"""Share of pairs in which m(M) - m(none) must have the sign of its mean, and level of the sign
test that it is not a coin's: an untrained network has a gap too, but one of either sign."""
RULE = (
    f"supported where m(M) - m(none) has one sign in at least {GAP_SHARE:.0%} of the pairs (sign "
    f"test at {GAP_LEVEL:g}), faithfulness is within {FAITHFUL:g} of 1, and nearer to 1 than "
    f"{BEATS_UNIFORM:g} % of random circuits and {BEATS_CONNECTED:g} % of connected random ones"
)
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Sizes of the circuits of a curve, as shares of all edges (Mueller et al. 2025, section 4)."""
GRID = 32
"""How many circuit sizes are measured at once when the smallest circuit is sought."""
CELLS = 256
"""How many circuits are turned into numbers at once."""


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
class Completeness:
    """How the circuit and the network differ once sets K of the circuit's components are out."""

    sets: tuple[tuple[str, ...], ...]
    """Every K: none, each component, random ones, then those that the greedy search tried."""
    n_fixed: int
    """How many of them were chosen before looking."""
    difference: Float[Tensor, "set batch"]
    """m(C \\ K) - m(M \\ K), per pair."""
    gap: float
    """m(M) - m(none)."""

    @property
    def values(self) -> Float[Tensor, " set"]:
        """|m(C \\ K) - m(M \\ K)| of every K."""
        return self.difference.mean(-1).abs()

    def to_dict(self) -> dict[str, Any]:
        """Worst and mean, as they are and as shares of the gap; the mean leaves the search out."""
        worst = int(self.values.argmax())
        mean = float(self.values[: self.n_fixed].mean())
        return {
            "worst": float(self.values[worst]),
            "worst_normalised": float(self.values[worst]) / abs(self.gap),
            "worst_set": list(self.sets[worst]),
            "mean": mean,
            "mean_normalised": mean / abs(self.gap),
            "n_sets": len(self.sets),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimality:
    """What the removal of each member changes where it matters most."""

    members: tuple[str, ...]
    """Every edge, then every component."""
    effects: Float[Tensor, " member"]
    """Largest |m(C \\ K) - m(C \\ (K + v))| over the tried K."""
    sets: tuple[tuple[str, ...], ...]
    """The K at which it is largest, per member."""
    outside: Float[Tensor, " outside"]
    """The same for random edges outside, each added to the circuit where it is no dead end."""

    @property
    def threshold(self) -> float:
        """95th percentile of the edges outside; 0 where there are none."""
        if not len(self.outside):
            return 0.0
        return float(self.outside.quantile(0.95, interpolation="higher"))

    @property
    def share(self) -> float:
        """Share of members whose removal matters more than the threshold."""
        return float((self.effects > self.threshold).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """The share, its threshold, and the effect of every member."""
        effects = dict(zip(self.members, self.effects.tolist(), strict=True))
        numbers = {"share": self.share, "threshold": self.threshold}
        return numbers | {"n_outside": len(self.outside), "effects": effects}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything measured of one circuit, beside random circuits, and the verdict."""

    n_edges: int
    total_edges: int
    n: int
    """How many pairs."""
    exhaustive: bool
    """Whether the pairs are all there are; then the interval is None."""
    ablation: Ablation
    direction: Direction
    metric: str
    gap: float
    gap_share: float
    """Share of pairs in which m(M) - m(none) has the sign of its mean."""
    faithfulness: float
    faithfulness_interval: Interval | None
    completeness: Completeness
    minimality: Minimality
    n_random: int
    random_percentile: float
    random_mean: float
    random_interval: Interval | None
    connected_percentile: float
    connected_mean: float
    connected_interval: Interval | None
    seed: int
    verdict: Support
    rule: str = RULE

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "completeness": self.completeness.to_dict(),
            "minimality": self.minimality.to_dict(),
        }


def faithfulness(
    problem: Problem, circuits: Sequence[Circuit], *, n_bootstrap: int = 1000, seed: int = 0
) -> Faithfulness:
    """Faithfulness of every circuit, all in one call.

    Raises `CircuitError` where m(M) = m(none), for which it is undefined, or for circuits of
    another graph.
    """
    members = _stack(problem, circuits)
    return finish(_faithfulness(problem, members, n_bootstrap=n_bootstrap, seed=seed))


def completeness(
    problem: Problem,
    circuit: Circuit,
    *,
    n_sets: int = 20,
    greedy_steps: int = 10,
    seed: int = 0,
) -> Generator[Progress, None, Completeness]:
    """Knock the same components out of circuit and network (Wang et al. 2022, section 4.1).

    K is nothing, each component, `n_sets` random sets (each component with probability 1/2), and
    what a greedy search for the worst set tries, adding one component at a time.
    """
    whole, names = _stack(problem, [circuit])[0], circuit.components()
    touching = _touching(problem.graph, names)
    full, empty = yield from _ends(problem)
    sets = _component_sets(len(names), n_sets, seed)
    found = yield from _knock_out(problem, whole, sets, touching)
    tried, differences, n_fixed = [sets], [found], len(sets)
    sets, found = sets[1 : 1 + len(names)], found[1 : 1 + len(names)]
    for _ in range(min(greedy_steps, len(names)) - 1):
        worst = sets[found.mean(-1).abs().argmax()]
        sets = worst | torch.eye(len(names), dtype=torch.bool)[~worst]
        found = yield from _knock_out(problem, whole, sets, touching)
        tried.append(sets)
        differences.append(found)
    return Completeness(
        sets=_names(names, torch.cat(tried)),
        n_fixed=n_fixed,
        difference=torch.cat(differences),
        gap=_gap(full, empty),
    )


def minimality(
    problem: Problem,
    circuit: Circuit,
    *,
    n_sets: int = 4,
    n_outside: int = 20,
    seed: int = 0,
) -> Generator[Progress, None, Minimality]:
    """Whether each edge and component matters for some K (Wang et al. 2022, section 4.2).

    K is nothing, each component and `n_sets` random sets: a member with a stand-in matters only
    once the stand-in is out. The same is measured of `n_outside` edges that are not members.
    """
    whole, names = _stack(problem, [circuit])[0], circuit.components()
    touching = _touching(problem.graph, names)
    tried = _component_sets(len(names), n_sets, seed)
    edges = single_edges(circuit.graph, whole.nonzero())
    outside = single_edges(circuit.graph, random_edges_outside(circuit, n_outside, seed))
    changed = torch.cat([edges, touching & whole, outside])
    before = _without(whole, tried, touching)
    # Members are taken out of C \ K; an edge outside is added to C before K is taken out.
    moved = changed & _without(problem.graph.is_edge, tried, touching)[:, None]
    differs = moved.flatten(2).any(-1)
    cells = torch.cat([before, (before[:, None] ^ moved)[differs]])
    means = (yield from measure_members(problem, cells, "minimality")).mean(-1)
    effects = torch.zeros(differs.shape, dtype=means.dtype)
    unchanged = means[: len(tried), None].expand(differs.shape)[differs]
    effects[differs] = (means[len(tried) :] - unchanged).abs()
    largest, where = effects.max(0)
    n_members = circuit.n_edges + len(names)
    return Minimality(
        members=(*circuit.edges, *names),
        effects=largest[:n_members],
        sets=_names(names, tried[where[:n_members]]),
        outside=largest[n_members:],
    )


def faithfulness_curve(
    problem: Problem,
    scores: Float[Tensor, "*pos writer reader"],
    sizes: Sequence[int] | None = None,
    *,
    selection: Selection = "absolute",
) -> Generator[Progress, None, FaithfulnessCurve]:
    """Faithfulness of the best n edges for every size, with 0 and all edges added.

    `signed` ranks edges by how far patching them moves the metric from m(M) towards m(none),
    `absolute` by how far it moves at all. Dead ends are left in. Raises `CircuitError` as
    `faithfulness` and `top_edges` do.
    """
    total = problem.graph.n_edges
    wanted = [round(share * total) for share in SHARES] if sizes is None else sizes
    chosen = sorted({0, total, *wanted})
    ranked = oriented(problem, scores) if selection == "signed" else scores
    members = [top_edges(problem.graph, ranked, n, selection=selection) for n in chosen]
    found = yield from _faithfulness(problem, _stack(problem, members), n_bootstrap=0)
    return FaithfulnessCurve(
        sizes=tuple(chosen), values=found.values, selection=selection, n=len(found.full)
    )


def cpr(curve: FaithfulnessCurve) -> float:
    """Area under the faithfulness over the share of edges, by trapezoids: higher is better."""
    return float(torch.trapezoid(curve.values, curve.shares))


def cmd(curve: FaithfulnessCurve) -> float:
    """Area between the faithfulness and 1, by trapezoids of |1 - f|: 0 is best."""
    return float(torch.trapezoid((1 - curve.values).abs(), curve.shares))


def oriented(
    problem: Problem, scores: Float[Tensor, "*pos writer reader"]
) -> Float[Tensor, "*pos writer reader"]:
    """Scores with the sign that makes patching towards m(none) positive. `CircuitError` at 0."""
    full, empty = finish(_ends(problem))
    return scores if _gap(full, empty) < 0 else -scores


def smallest_circuit(
    problem: Problem,
    scores: Float[Tensor, "*pos writer reader"],
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
    ranked = oriented(problem, scores) if selection == "signed" else scores
    circuits: dict[int, Circuit] = {}
    tried: dict[int, float] = {}
    low, high, best = 0, limit, None
    while True:
        step = max(1, -(-(high - low) // GRID))
        sizes = sorted({*range(low + step, high, step), high} - tried.keys())
        for n in sizes:
            circuits[n] = top_edges(problem.graph, ranked, n, selection=selection).pruned()
        if sizes:
            cells = _stack(problem, [circuits[n] for n in sizes])
            found = yield from _faithfulness(problem, cells, n_bootstrap=0)
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


def evaluate(
    problem: Problem,
    circuit: Circuit,
    *,
    n_random: int = 100,
    seed: int = 0,
    exhaustive: bool = False,
) -> Generator[Progress, None, Evaluation]:
    """Measure a circuit beside random ones of its size, and judge by `RULE`.

    The rule asks whether the network does what the metric wants at all; with `kl_divergence`,
    which wants only what the network does, it always does.
    """
    kinds: tuple[RandomKind, ...] = ("uniform", "connected")
    drawn = [
        other
        for kind in kinds
        for other in random_circuits(problem.graph, circuit.n_edges, n_random, seed, kind=kind)
    ]
    members = _stack(problem, [circuit, *drawn])
    found = yield from _faithfulness(problem, members, n_bootstrap=1000, seed=seed)
    complete = yield from completeness(problem, circuit, seed=seed)
    minimal = yield from minimality(problem, circuit, seed=seed)
    value = float(found.values[0])
    uniform, connected = found.values[1 : n_random + 1], found.values[n_random + 1 :]
    percentiles = [percentile_near_one(value, others) for others in (uniform, connected)]
    gaps = found.full - found.empty
    share = float((gaps.sign() == gaps.mean().sign()).double().mean())
    return Evaluation(
        n_edges=circuit.n_edges,
        total_edges=problem.graph.n_edges,
        n=len(gaps),
        exhaustive=exhaustive,
        ablation=problem.ablation,
        direction=problem.direction,
        metric=problem.metric.name,
        gap=float(gaps.mean()),
        gap_share=share,
        faithfulness=value,
        faithfulness_interval=None if exhaustive else found.interval(0),
        completeness=complete,
        minimality=minimal,
        n_random=n_random,
        random_percentile=percentiles[0],
        random_mean=float(uniform.mean()),
        random_interval=mean_interval(uniform.tolist()),
        connected_percentile=percentiles[1],
        connected_mean=float(connected.mean()),
        connected_interval=mean_interval(connected.tolist()),
        seed=seed,
        verdict=judge(value, percentiles[0], percentiles[1], gap_share=share, n=len(gaps)),
    )


def measure_members(
    problem: Problem, members: Bool[Tensor, "cell *pos writer reader"], doing: str
) -> Generator[Progress, None, Float[Tensor, "cell batch"]]:
    """m of every cell, per pair, in float64 on the CPU.

    Under `resample` a dead end carries just what is patched in, so cells that differ in dead ends
    alone are run once.
    """
    place = torch.arange(len(members))
    if problem.ablation == "resample":
        alive = [Circuit(problem.graph, member).pruned().member for member in members]
        members, place = torch.unique(torch.stack(alive), dim=0, return_inverse=True)
    parts, done = [], 0
    for start in range(0, len(members), CELLS):
        for part in measure_in_chunks(problem, members[start : start + CELLS].float()):
            parts.append(part.double().cpu())
            done += len(part)
            yield Progress(done, len(members), doing)
    return torch.cat(parts)[place]


def judge(
    faithfulness: float,
    random_percentile: float,
    connected_percentile: float,
    *,
    gap_share: float,
    n: int,
) -> Support:
    """The verdict by `RULE`."""
    same = round(gap_share * n)
    by_chance = 2 * float(special.bdtrc(same - 1, n, 0.5)) if same else 1.0
    supported = (
        gap_share >= GAP_SHARE
        and by_chance < GAP_LEVEL
        and abs(1 - faithfulness) <= FAITHFUL
        and random_percentile >= BEATS_UNIFORM
        and connected_percentile >= BEATS_CONNECTED
    )
    return "supported" if supported else "not supported"


def _ends(problem: Problem) -> Generator[Progress, None, Tensor]:
    """m(M) and m(none)."""
    every = problem.graph.is_edge
    return (yield from measure_members(problem, torch.stack([every, every & False]), "ends"))


def _faithfulness(
    problem: Problem, members: Tensor, *, n_bootstrap: int, seed: int = 0
) -> Generator[Progress, None, Faithfulness]:
    every = problem.graph.is_edge
    cells = torch.cat([members, torch.stack([every, every & False])])
    *circuits, full, empty = yield from measure_members(problem, cells, "faithfulness")
    gap = _gap(full, empty)
    metric = torch.stack(circuits)
    bounds = None
    if n_bootstrap and len(full) > 1:
        generator = torch.Generator().manual_seed(seed)
        bounds = _bootstrap_ratio(metric - empty, full - empty, n_bootstrap, generator)
    values = (metric.mean(-1) - empty.mean()) / gap
    return Faithfulness(values=values, bounds=bounds, circuits=metric, full=full, empty=empty)


def _gap(full: Tensor, empty: Tensor) -> float:
    gap = float(full.mean() - empty.mean())
    # Float32 metrics of equal runs may differ by their rounding.
    if abs(gap) <= 1e-6 * float(torch.stack([full, empty]).abs().max()):
        raise CircuitError(
            f"the metric is {float(full.mean()):.6g} with all edges and with none, so normalised "
            "effects are undefined; choose pairs or a metric that the network tells apart"
        )
    return gap


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


def _stack(problem: Problem, circuits: Sequence[Circuit]) -> Tensor:
    if not circuits or any(circuit.graph != problem.graph for circuit in circuits):
        raise CircuitError("give at least one circuit, and only of the problem's own graph")
    return torch.stack([circuit.member.cpu() for circuit in circuits])


def _touching(graph: Graph, names: Sequence[str]) -> Tensor:
    """Which places are from or to each component: `[component, *pos, writer, reader]`."""
    found = torch.zeros(len(names), *graph.is_edge.shape, dtype=torch.bool)
    for index, name in enumerate(names):
        found[index][..., [writer == name for writer in graph.writers], :] = True
        found[index][..., [component(reader) == name for reader in graph.readers]] = True
    return found & graph.is_edge


def _component_sets(n: int, n_random: int, seed: int) -> Bool[Tensor, "set component"]:
    """Nothing, each component, and random ones."""
    fixed = torch.cat([torch.zeros(1, n), torch.eye(n)]).bool()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_random if n else 0, n, generator=generator) < 0.5
    return torch.cat([fixed, drawn])


def _names(names: Sequence[str], sets: Tensor) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names[index] for index in row.nonzero()[:, 0].tolist()) for row in sets)


def _without(member: Tensor, sets: Tensor, touching: Tensor) -> Tensor:
    """The edges without those that touch a component of each set: `[set, ...]`."""
    touched = einsum(sets.float(), touching.float(), "set component, component ... -> set ...")
    return member & (touched == 0)


def _knock_out(
    problem: Problem, member: Tensor, sets: Tensor, touching: Tensor
) -> Generator[Progress, None, Tensor]:
    """m(C \\ K) - m(M \\ K) for every K, per pair."""
    cells = torch.cat(
        [_without(edges, sets, touching) for edges in (member, problem.graph.is_edge)]
    )
    ours, whole = (yield from measure_members(problem, cells, "completeness")).chunk(2)
    return torch.as_tensor(ours - whole)

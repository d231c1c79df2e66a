"""How good a circuit is: beside the whole network, beside nothing, and beside random circuits.

Faithfulness is of `circuits.faithfulness`, completeness and minimality of `circuits.knockouts`; the
rule that makes a verdict of them is here and nowhere else. Evaluate on pairs that the circuit was
not found on.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from scipy import special

from circuits.circuit import Circuit
from circuits.faithfulness import FAITHFUL, faithfulness_steps, stack_members
from circuits.knockouts import Completeness, Minimality, completeness, minimality
from circuits.mechanism import Progress
from circuits.problem import Ablation, Direction, Problem
from circuits.random_circuits import RandomKind, percentile_near_one, random_circuits
from workbench.finding import Interval, Support
from workbench.stats import mean_interval

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
    reason: str
    rule: str = RULE

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "completeness": self.completeness.to_dict(),
            "minimality": self.minimality.to_dict(),
        }


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
    members = stack_members(problem, [circuit, *drawn])
    found = yield from faithfulness_steps(problem, members, n_bootstrap=1000, seed=seed)
    complete = yield from completeness(problem, circuit, seed=seed)
    minimal = yield from minimality(problem, circuit, seed=seed)
    value = float(found.values[0])
    uniform, connected = found.values[1 : n_random + 1], found.values[n_random + 1 :]
    percentiles = [percentile_near_one(value, others) for others in (uniform, connected)]
    gaps = found.full - found.empty
    share = float((gaps.sign() == gaps.mean().sign()).double().mean())
    verdict, reason = judge(value, *percentiles, gap_share=share, n=len(gaps))
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
        verdict=verdict,
        reason=reason,
    )


def judge(
    faithfulness: float,
    random_percentile: float,
    connected_percentile: float,
    *,
    gap_share: float,
    n: int,
) -> tuple[Support, str]:
    """The verdict by `RULE`, and the first thing that is missing."""
    same = round(gap_share * n)
    by_chance = 2 * float(special.bdtrc(same - 1, n, 0.5)) if same else 1.0
    if gap_share < GAP_SHARE or by_chance >= GAP_LEVEL:
        reason = (
            f"the network does not do what the metric wants: only {gap_share:.0%} of {n} pairs "
            "agree on the sign of m(M) - m(none)"
        )
        return "not supported", reason
    if abs(1 - faithfulness) > FAITHFUL:
        return "not supported", f"its faithfulness is {faithfulness:.3f}"
    if random_percentile < BEATS_UNIFORM or connected_percentile < BEATS_CONNECTED:
        return "not supported", (
            f"random circuits of its size do as well: percentile {random_percentile:g}, "
            f"{connected_percentile:g} among those without dead ends"
        )
    return "supported", "it is faithful, and random circuits of its size are not"

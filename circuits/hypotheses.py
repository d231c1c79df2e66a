"""Hypothesis tests for circuits (Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in
LLMs", arXiv:2410.13032).

s(C) is the problem's metric, per pair, with the circuit's edges kept and all others patched; s(M)
is that of the whole network. Three *idealised* tests ask whether a circuit is all that a circuit
should be, and **not** rejecting speaks for it:

- equivalence: C and M outperform each other equally often
- independence: what is left without C says nothing of what M does
- minimality: no edge of C is as idle as random edges that were added to it

Two *flexible* tests compare it with random circuits, and rejecting speaks for it:

- sufficiency: C is nearer to M than most random circuits of its size
- partial necessity: the network misses C more than most random circuits of its size

The definitions were checked against the authors' code (github.com/blei-lab/circuitry): a choice
that a hypothesis leaves open is by default theirs, and where their code is at odds with the
hypothesis it states the hypothesis holds. Each is told at its function. A test that does not reject
shows nothing where the pairs are few: read n.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from circuits.circuit import Circuit
from circuits.faithfulness import measure_members
from circuits.hsic import ROUNDING, Width, permutation_test
from circuits.problem import Problem
from circuits.random_circuits import inflate, random_circuits, single_edges
from workbench.errors import CircuitError
from workbench.progress import Progress, finish

SOURCE = "Shi et al. 2024, arXiv:2410.13032"
Distance = Literal["squared", "absolute"]
"""How far two circuits' scores are apart: the root of the mean squared difference over the pairs
(it ranks circuits as the mean square does, and has the score's unit), or the mean absolute one.
The authors' code offers both and takes the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HypothesisTest:
    """One test and its decision."""

    name: str
    null: str
    """The null hypothesis, in words."""
    statistic: float
    p_value: float
    n: int
    """What the statistic counts over: pairs, or random circuits."""
    level: float
    passes_if: Literal["rejected", "not rejected"]
    """Which decision speaks for the circuit."""
    source: str = SOURCE
    details: dict[str, float] = field(default_factory=dict)

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected at the level."""
        return self.p_value <= self.level

    @property
    def passes(self) -> bool:
        """Whether the decision speaks for the circuit."""
        return self.rejected == (self.passes_if == "rejected")

    def to_dict(self) -> dict[str, Any]:
        """The test as JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"rejected": self.rejected, "passes": self.passes}


def equivalence(
    problem: Problem, circuit: Circuit, *, epsilon: float = 0.1, level: float = 0.05
) -> HypothesisTest:
    """Whether circuit and network outperform each other equally often (`sign_equivalence`)."""
    ours, whole = finish(_scores(problem, [circuit, _whole(problem)]))
    return sign_equivalence(ours, whole, epsilon=epsilon, level=level)


def sign_equivalence(
    circuit_scores: Float[Tensor, " batch"],
    model_scores: Float[Tensor, " batch"],
    *,
    epsilon: float = 0.1,
    level: float = 0.05,
) -> HypothesisTest:
    """Equivalence: with D = s(C) - s(M), H0 is |P(D > 0) - 1/2| <= epsilon.

    The statistic is |share of D > 0 - 1/2|; p is the largest probability under H0 of one at least
    as large, which a binomial share of 1/2 + epsilon attains. (The authors' code puts the mean of D
    in the place of the share; that depends on the score's unit.) The paper assumes that D is never
    0; here a tie counts half for either side, so that a circuit with the network's very outputs is
    equivalent to it. That makes p larger, never smaller.

    Raises `CircuitError` for epsilon outside [0, 1/2).
    """
    if not 0 <= epsilon < 0.5:
        raise CircuitError(f"epsilon = {epsilon}: it must be at least 0 and below 0.5")
    difference = (circuit_scores - model_scores).double()
    scale = torch.stack([circuit_scores, model_scores]).double().abs().max()
    sign = torch.where(difference.abs() <= ROUNDING * scale, 0.0, difference.sign())
    n, lead = len(sign), abs(int(sign.sum()))
    p_value = 1.0
    if lead > 0:  # |2k - n| >= lead, in whole numbers
        low, high = (n - lead) // 2, (n + lead + 1) // 2
        share = 0.5 + epsilon
        p_value = float(special.bdtr(low, n, share) + special.bdtrc(high - 1, n, share))
    return HypothesisTest(
        name="equivalence",
        null=f"the circuit outperforms the network on a share of inputs within {epsilon:g} of 1/2",
        statistic=lead / (2 * n),
        p_value=min(1.0, p_value),
        n=n,
        level=level,
        passes_if="not rejected",
        details={
            "epsilon": epsilon,
            "share_above": float((sign > 0).double().mean()),
            "share_tied": float((sign == 0).double().mean()),
        },
    )


def independence(
    problem: Problem,
    circuit: Circuit,
    *,
    n_permutations: int = 1000,
    width: Width = "shared",
    seed: int = 0,
    level: float = 0.05,
) -> HypothesisTest:
    """Whether what is left without the circuit says anything of what the network does.

    Under `resample` what is left runs on the other input of each pair: where the inputs of a pair
    have much in common, this test sees that, and another ablation is the fairer one.
    """
    rest, whole = finish(_scores(problem, [circuit.complement(), _whole(problem)]))
    generator = torch.Generator().manual_seed(seed)
    return hsic_independence(
        rest, whole, n_permutations=n_permutations, width=width, generator=generator, level=level
    )


def hsic_independence(
    rest_scores: Float[Tensor, " batch"],
    model_scores: Float[Tensor, " batch"],
    *,
    generator: torch.Generator,
    n_permutations: int = 1000,
    width: Width = "shared",
    level: float = 0.05,
) -> HypothesisTest:
    """Independence: H0 is that s(M without C) and s(M) are independent.

    The statistic is the Hilbert-Schmidt independence criterion (`circuits.hsic`), by default with
    the kernel width of the authors' code. That code divides by (n - 1)^2 in the place of n^2, which
    changes no p, and leaves the given pairing out of p, which can then be 0.
    """
    statistic, p_value = permutation_test(
        rest_scores, model_scores, generator=generator, n_permutations=n_permutations, width=width
    )
    return HypothesisTest(
        name="independence",
        null="the network without the circuit scores independently of the whole network",
        statistic=statistic,
        p_value=p_value,
        n=len(model_scores),
        level=level,
        passes_if="not rejected",
        details={"n_permutations": float(n_permutations)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimalityTest:
    """The test of every edge, and of the circuit: one idle edge is enough to reject."""

    test: HypothesisTest
    """Of the circuit. Its p-value is the smallest of the edges' adjusted ones."""
    edges: tuple[str, ...]
    effects: Float[Tensor, " edge"]
    """The distance of s(C without the edge) from s(C), as `Distance` says."""
    p_values: Float[Tensor, " edge"]
    """Adjusted for the number of edges."""
    random_effects: Float[Tensor, " draw"]
    """The same of random edges in inflated circuits."""

    @property
    def idle(self) -> tuple[str, ...]:
        """The edges that are found to be needless."""
        chosen = self.p_values <= self.test.level
        return tuple(edge for edge, idle in zip(self.edges, chosen, strict=True) if idle)


def minimality(
    problem: Problem,
    circuit: Circuit,
    *,
    n_random: int = 100,
    quantile: float = 0.9,
    distance: Distance = "squared",
    seed: int = 0,
    level: float = 0.05,
) -> Generator[Progress, None, MinimalityTest]:
    """Minimality: whether some edge is as idle as an edge added at random.

    A circuit is inflated by a random path from the embeddings to the logits, and one of the edges
    which that added is taken out again. With d(e) the change of the score when edge e is taken
    out, H0 for each edge is P(d(e) > d(random edge)) >= `quantile`; the number of random edges it
    exceeds is then binomial. p-values of the edges are adjusted by Holm's method (1979): the
    circuit's decision is that of the paper's Bonferroni correction, which the authors' code
    leaves out, and no fewer idle edges are named.

    Raises `CircuitError` for a circuit without edges, or one that no path can add to.
    """
    if not circuit.n_edges:
        raise CircuitError("a circuit without edges has none to test; give it at least one")
    alone = single_edges(circuit.graph, circuit.member.nonzero())
    ours = circuit.member.cpu()
    positions = [position % problem.base.shape[1] for position in problem.positions]
    inflated, added = inflate(circuit, n_random, seed, positions=positions)
    cells = torch.cat([ours[None], ours & ~alone, inflated, inflated & ~added])
    scores = yield from measure_members(problem, cells, "minimality")
    whole, removed, before, after = torch.split(scores, [1, circuit.n_edges, n_random, n_random])
    effects = _apart(removed, whole, distance)
    random_effects = _apart(after, before, distance)
    tolerance = ROUNDING * float(scores.abs().max())
    exceeded = (effects[:, None] > random_effects + tolerance).sum(-1)
    p_values = torch.from_numpy(special.bdtr(exceeded.numpy(), n_random, quantile))
    adjusted = holm(p_values)
    return MinimalityTest(
        test=HypothesisTest(
            name="minimality",
            null=f"each edge changes the score more than {quantile:.0%} of added random edges do",
            statistic=float(exceeded.min()),
            p_value=float(adjusted.min()),
            n=n_random,
            level=level,
            passes_if="not rejected",
            details={"quantile": quantile, "n_edges": float(circuit.n_edges)},
        ),
        edges=circuit.edges,
        effects=effects,
        p_values=adjusted,
        random_effects=random_effects,
    )


def sufficiency(
    problem: Problem,
    circuit: Circuit,
    *,
    n_random: int = 100,
    quantile: float = 0.9,
    distance: Distance = "squared",
    seed: int = 0,
    level: float = 0.05,
) -> Generator[Progress, None, HypothesisTest]:
    """Sufficiency: whether C is nearer to M than most random circuits of its size.

    Random circuits are random paths from the embeddings to the logits, added until there are at
    least as many edges (kind "paths" of `random_circuits`). H0 is P(C nearer than a random circuit)
    <= `quantile`. A tie is not nearer: so the authors word the hypothesis, but their code counts
    ties for C, and then a circuit that does nothing beats random ones that do nothing.

    Raises `CircuitError` for a circuit of more edges than are on paths: prune it first.
    """
    drawn = _random(problem, circuit, n_random, seed, within=None)
    scores = yield from _scores(problem, [_whole(problem), circuit, *drawn])
    far = _apart(scores[1:], scores[:1], distance)
    return _against_random(
        "sufficiency",
        f"at most {quantile:.0%} of random circuits of its size are farther from the network",
        far[1:] - far[0],
        scores,
        drawn,
        quantile=quantile,
        level=level,
    )


def partial_necessity(
    problem: Problem,
    circuit: Circuit,
    *,
    n_random: int = 100,
    quantile: float = 0.9,
    drawn_from: Literal["graph", "complement"] = "graph",
    distance: Distance = "squared",
    seed: int = 0,
    level: float = 0.05,
) -> Generator[Progress, None, HypothesisTest]:
    """Partial necessity: whether M misses C more than most random circuits of its size.

    Missing is a large distance of s(M without C) from s(M). H0 is P(C missed more than a random
    circuit) <= `quantile`; a tie is not more. Random circuits are made of random paths as in
    `sufficiency`, through the graph or through the edges outside C; the authors' code offers both
    and takes the first.

    Raises `CircuitError` where the edges on paths (outside C) are fewer than the circuit's.
    """
    outside = circuit.complement() if drawn_from == "complement" else None
    drawn = _random(problem, circuit, n_random, seed, within=outside)
    left = [some.complement() for some in (circuit, *drawn)]
    scores = yield from _scores(problem, [_whole(problem), *left])
    missed = _apart(scores[1:], scores[:1], distance)
    return _against_random(
        "partial necessity",
        f"the network misses it more than at most {quantile:.0%} of random circuits of its size",
        missed[0] - missed[1:],
        scores,
        drawn,
        quantile=quantile,
        level=level,
    )


def holm(p_values: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    """p-values adjusted for many tests (Holm 1979): reject those at or below the level."""
    n, order = len(p_values), p_values.argsort()
    factor = torch.arange(n, 0, -1, dtype=p_values.dtype)
    adjusted = (p_values[order] * factor).cummax(0).values.clamp(max=1)
    return torch.empty_like(adjusted).scatter_(0, order, adjusted)


def _whole(problem: Problem) -> Circuit:
    return Circuit(problem.graph, problem.graph.is_edge)


def _scores(
    problem: Problem, circuits: Sequence[Circuit]
) -> Generator[Progress, None, Float[Tensor, "circuit batch"]]:
    if any(circuit.graph != problem.graph for circuit in circuits):
        raise CircuitError("the circuit is of another graph; use the problem's own")
    members = torch.stack([circuit.member.cpu() for circuit in circuits])
    return (yield from measure_members(problem, members, "circuits"))


def _apart(scores: Tensor, others: Tensor, distance: Distance) -> Tensor:
    difference = scores - others
    if distance == "absolute":
        return difference.abs().mean(-1)
    return difference.square().mean(-1).sqrt()


def _random(
    problem: Problem, circuit: Circuit, n: int, seed: int, *, within: Circuit | None
) -> list[Circuit]:
    """Random circuits of its size, made of paths."""
    graph, ends = problem.graph, problem.positions
    return random_circuits(
        graph, circuit.n_edges, n, seed, kind="paths", within=within, positions=ends
    )


def _against_random(
    name: str,
    null: str,
    lead: Float[Tensor, " circuit"],
    scores: Float[Tensor, "cell batch"],
    drawn: Sequence[Circuit],
    *,
    quantile: float,
    level: float,
) -> HypothesisTest:
    """By how much it is better than each random circuit: a binomial test of how often."""
    n, rounding = len(drawn), ROUNDING * scores.abs().max()
    better = int((lead > rounding).sum())
    p_value = float(special.bdtrc(better - 1, n, quantile)) if better else 1.0
    return HypothesisTest(
        name=name,
        null=null,
        statistic=better / n,
        p_value=p_value,
        n=n,
        level=level,
        passes_if="rejected",
        details={
            "quantile": quantile,
            "share_tied": float((lead.abs() <= rounding).double().mean()),
            "mean_random_edges": sum(some.n_edges for some in drawn) / n,
        },
    )

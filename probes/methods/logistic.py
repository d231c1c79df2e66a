"""Logistic regression: the probability of each class, with a penalty on the squared weights.

Minimises  C sum_n w_n loss(y_n, W x_n + b) + 1/2 |W|^2  over W and b; the intercept b is not
penalised. scikit-learn's `LogisticRegression(C)`. Two classes have one row of weights; more have
one row each, of which only differences matter, so that at the minimum rows sum to 0, and so do
intercepts. Probes of two classes with many inputs are fitted in few passes (`probes/few_passes.py`)
where that works; others of two classes, or of few variables, by Newton's method
(`probes/newton.py`), the rest by L-BFGS (`probes/multinomial.py`); those of many sites, strengths
and label sets together; splits, whose inputs differ, one after another.

A class that no input of a split has gets weights 0 and intercept `ABSENT`: never predicted, at a
finite score. (Its true intercept is minus infinity.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probes.design import Design, Targets
from probes.few_passes import few_passes, sampled_evenly
from probes.lbfgs import Problem, Solution, Variables
from probes.method import Convergence, LinearFitted, Probe, methods
from probes.multinomial import multinomial
from probes.newton import Sampled, newton, sampled, sampled_rows, sampled_start
from probes.site_threads import on_threads
from workbench.errors import ProbeError
from workbench.memory import halving_chunks

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-9}
"""Relative gap at which a probe counts as fitted: far below any effect, and within reach of the
dtype's gradients. In float32 smaller gaps are rounding."""
ABSENT = -100.0
"""Intercept of a class without inputs. The others' scores have mean 0, so the largest of them is
at least 0, and such a class has probability below exp(-100)."""
JOINT = 512
"""Up to this many variables per probe, classes x (d + 1), more than two classes are fitted by
Newton's method too: its Hessian holds the square of that."""
CENTRE_ROWS = 256
"""Inputs whose mean is taken off activations, for the sake of rounding."""
CACHE_BYTES, SAMPLE_BYTES = 2**24, 2**25
"""Activations worked on at a time by a thread of a CPU: each step reads them twice, from the cache
that threads share, and sites share the cost of small operations, for which threads wait on each
other; and the same for samples, of which more fit."""
DEVICE_BYTES = 2**32
"""The same on other devices; and scores of inputs at a time, anywhere."""


@methods.register("logistic")
class Logistic(Probe):
    """Logistic regression with inverse penalty `C`.

    `tolerance` is the relative gap to stop at, `TOLERANCE` of the dtype where None. The gap is
    estimated from the Newton decrement; relative to the objective, because that grows with C and
    the inputs as the gap does, and is above 0 wherever two classes occur. A probe that did not
    get there has `converged` False.
    """

    name = "logistic"
    summary = "logistic regression; batched, by Newton's method or L-BFGS"
    strength_name = "C"
    grid = (1e-2, 1.0, 1e2)
    probabilistic = True
    binary_row = True

    def __init__(self, C: float = 1.0, tolerance: float | None = None) -> None:
        self.C = C
        self.tolerance = tolerance

    def fit_many(
        self, design: Design, targets: Targets, strengths: Sequence[float], *, seed: int = 0
    ) -> LinearFitted:
        """Fit every probe; `objective` and `gap` are in the units of the sum above (nats x C).

        Of two classes, the first has a row of zeros. Raises `ProbeError` for a strength that is
        not positive and finite, and for a split in which a label set has one class only.
        """
        _check(strengths)
        tolerance = _tolerance(self.tolerance, design.x.dtype)
        splits = [
            _fit_split(design, targets, strengths, split, tolerance, seed)
            for split in range(design.n_splits)
        ]
        parts = [torch.stack(part) for part in zip(*splits, strict=True)]
        coef, objective, gap, iterations = (
            rearrange(
                part,
                "split site (strength label) ... -> strength split site label ...",
                strength=len(strengths),
            )
            for part in parts
        )
        return LinearFitted(
            strengths=tuple(strengths),
            convergence=Convergence(
                objective=objective,
                gap=gap,
                converged=gap <= tolerance * objective,
                iterations=iterations,
            ),
            coef=coef[..., :-1],
            intercept=coef[..., -1],
        )


class _Start(NamedTuple):
    """Where the probes of some sites start."""

    sites: slice
    centre: Float[Tensor, "site d"]
    """What is taken off their activations."""
    at: Variables | Sampled


def _fit_split(
    design: Design,
    targets: Targets,
    strengths: Sequence[float],
    split: int,
    tolerance: float,
    seed: int,
) -> Solution:
    """Rows [W, b] of every site and (strength, label set), for activations as they are."""
    rows = design.weights[split].nonzero()[:, 0]
    problem, start = _problem(design, targets, strengths, split, rows)
    v = design.width + 1
    drawn = sampled_rows(len(rows), v, seed) if problem.binary else None
    drawn = None if drawn is None else drawn.to(rows.device)

    def thorough(among: range, problem: Problem, start: Tensor) -> Solution:
        parts = []
        for first in _starts(design, split, rows, problem, start, drawn, among):
            for sites, x in _activations(design, rows, first.sites, first.centre):
                at = first.at
                at = Sampled(*(t[sites] for t in at)) if isinstance(at, Sampled) else at[sites]
                parts.append(_solve(replace(problem, x=x), first.centre[sites], at, tolerance))
        return _joined(parts)

    def some(among: range) -> Solution:
        if drawn is None:
            return thorough(among, problem, start)
        sample = sampled_evenly(len(rows), v, seed).to(rows.device)
        solution = _quick(design, rows, problem, start, sample, among, tolerance)
        return _completed(solution, problem, start, among, thorough)

    return _joined(on_threads(some, design.n_sites, design.x.device))


def _quick(
    design: Design,
    rows: Int[Tensor, " n"],
    problem: Problem,
    start: Float[Tensor, "probe k"],
    sample: Int[Tensor, " m"],
    among: range,
    tolerance: float,
) -> Solution:
    """Binary probes of some sites; those that this is too slow for have a gap of infinity."""
    parts, there = [], slice(among.start, among.stop)
    centre = design.x[there, rows[sample[:: max(1, len(sample) // CENTRE_ROWS)]]].mean(1)
    for sites, x in _activations(design, rows, there, centre, ones=0):
        inputs = replace(problem, x=x)
        solution = _joined(
            [
                few_passes(inputs.take(some, probes), sample, start[probes], tolerance=tolerance)
                for some, probes in _few(inputs)
            ],
            1,
        )
        parts.append(_uncentred(solution, centre[sites]))
    return _joined(parts)


def _completed(
    solution: Solution,
    problem: Problem,
    start: Float[Tensor, "probe k"],
    among: range,
    fit: Callable[[range, Problem, Tensor], Solution],
) -> Solution:
    """With the probes fitted whose gap is infinite; neighbouring sites together."""
    open_ = solution.gap.isinf()
    sites = open_.any(1).nonzero()[:, 0].tolist()
    found = set(sites)
    first = [site for site in sites if site - 1 not in found]
    last = [site for site in sites if site + 1 not in found]
    for one, other in zip(first, last, strict=True):
        run = slice(one, other + 1)
        probes = open_[run].any(0).nonzero()[:, 0]
        left = problem.take(torch.arange(0), probes)
        made = fit(range(among.start + one, among.start + other + 1), left, start[probes])
        made = made._replace(iterations=made.iterations + solution.iterations[run, probes])
        mask = open_[run, probes]
        for old, new in zip(solution, made, strict=True):
            where = mask[..., None, None] if new.ndim == 4 else mask
            old[run, probes] = torch.where(where, new, old[run, probes])
    return solution


def _joined(parts: Sequence[Solution], axis: int = 0) -> Solution:
    return Solution(*(torch.cat(part, axis) for part in zip(*parts, strict=True)))


def _problem(
    design: Design,
    targets: Targets,
    strengths: Sequence[float],
    split: int,
    rows: Int[Tensor, " n"],
) -> tuple[Problem, Float[Tensor, "probe k"]]:
    """What a split is to fit, still without sites, and the intercepts to start from."""
    weights, classes = design.weights[split, rows], targets.classes[:, rows]
    count = weights.new_zeros(len(classes), targets.n_classes)
    count.scatter_add_(1, classes, weights.expand(len(classes), -1))
    _check_classes(count, targets, split)
    trained = count > 0
    start = _start(count)
    if targets.n_classes == 2:
        trained, start = trained[:, 1:], start[:, 1:] - start[:, :1]
    times = {"strength": len(strengths)}
    cost = repeat(weights, "n -> (strength label) n", label=len(classes), **times)
    scale = repeat(weights.new_tensor(strengths), "s -> (s label) 1", label=len(classes))
    problem = Problem(
        x=design.x.new_empty(0, len(rows), design.width + 1),
        cost=cost * scale,
        classes=repeat(classes, "label n -> (strength label) n", **times),
        trained=repeat(trained, "label k -> (strength label) k", **times),
    )
    return problem, repeat(start, "label k -> (strength label) k", **times)


def _starts(
    design: Design,
    split: int,
    rows: Int[Tensor, " n"],
    problem: Problem,
    start: Float[Tensor, "probe k"],
    drawn: Int[Tensor, " m"] | None,
    among: range,
) -> Iterator[_Start]:
    """For many sites at a time: from a sample, where the probes are binary and inputs many."""
    n_probes, k = start.shape
    v = design.width + 1
    n_sampled = 0 if drawn is None else len(drawn)
    cost = 4 * v * (2 * n_sampled + n_probes * (2 * v + 8 * n_sampled // v + k))
    budget = SAMPLE_BYTES if design.x.device.type == "cpu" else DEVICE_BYTES
    weights = design.weights[split]
    sample = problem if drawn is None else sampled(problem, drawn)
    room: list[Tensor] = []

    def run(some: slice) -> _Start:
        sites = slice(among.start + some.start, among.start + some.stop)
        variables = design.x.new_zeros(sites.stop - sites.start, n_probes, k, v)
        variables[..., -1] = start
        if drawn is None:
            return _Start(sites, weights @ design.x[sites] / weights.sum(), variables)
        x, centre = _sample(design.x[sites], rows[drawn], room)
        at = sampled_start(replace(sample, x=x), variables.float())
        return _Start(sites, centre.to(design.x), at)

    for _, made in halving_chunks([cost] * len(among), budget, run, one="the probes of one site"):
        yield made


def _sample(
    x: Float[Tensor, "site n d"], rows: Int[Tensor, " m"], room: list[Tensor]
) -> tuple[Float[Tensor, "site m+2 d+1"], Float[Tensor, "site d"]]:
    """These rows of x as `sampled_start` wants them, in float32, and the mean taken off them."""
    if not room or len(room[0]) < len(x):
        made = x.new_ones(len(x), len(rows) + 2, x.shape[2] + 1, dtype=torch.float32)
        made[:, :2, :-1] = 0
        room[:] = [made]
    some = x.index_select(1, rows).float()
    centre = some.mean(1)
    made = room[0][: len(x)]
    torch.sub(some, centre[:, None], out=made[:, 2:, :-1])
    return made, centre


def _activations(
    design: Design,
    rows: Int[Tensor, " n"],
    among: slice,
    centre: Float[Tensor, "site d"],
    ones: int = 1,
) -> Iterator[tuple[slice, Float[Tensor, "site n v"]]]:
    """Training rows of some of the sites at a time, centred, with `ones` columns of ones.

    Each overwrites the one before: a new allocation would cost as much as a step. The slice counts
    from the first of these sites.
    """
    n_sites, d = centre.shape
    cost = len(rows) * (d + 1) * design.x.element_size()
    budget = CACHE_BYTES if design.x.device.type == "cpu" else DEVICE_BYTES
    room: list[Tensor] = []

    def gather(sites: slice) -> Tensor:
        held = sites.stop - sites.start
        if not room or len(room[0]) < held:
            room[:] = [design.x.new_ones(held, len(rows), d + ones)]
        x = design.x[among][sites]
        x = x if len(rows) == x.shape[1] else x.index_select(1, rows)
        torch.sub(x, centre[sites, None], out=room[0][:held, :, :d])
        return room[0][:held]

    yield from halving_chunks([cost] * n_sites, budget, gather, one="one site's activations")


def _solve(
    problem: Problem,
    centre: Float[Tensor, "site d"],
    start: Variables | Sampled,
    tolerance: float,
) -> Solution:
    """The probes of some sites."""
    parts = []
    for every, probes in _few(problem):
        some = problem.take(every, probes)
        k, v = some.trained.shape[1], some.x.shape[2]
        if isinstance(start, Sampled):
            at = Sampled(*(t[:, probes] for t in start))
            parts.append(newton(some, at, tolerance=tolerance))
        elif problem.binary or k * v <= JOINT:
            parts.append(newton(some, start[:, probes], tolerance=tolerance))
        else:
            parts.append(multinomial(some, start[:, probes], tolerance))
    return _uncentred(_joined(parts, 1), centre)


def _few(problem: Problem) -> Iterator[tuple[Int[Tensor, " site"], Int[Tensor, " probe"]]]:
    """All sites, and some of the probes at a time where their scores are many."""
    n_sites, n, _ = problem.x.shape
    n_probes, k = problem.trained.shape
    most = max(1, DEVICE_BYTES // (8 * n_sites * n * k * problem.x.element_size()))
    sites = torch.arange(n_sites, device=problem.x.device)
    for probes in torch.split(torch.arange(n_probes, device=problem.x.device), most):
        yield sites, probes


def _uncentred(solution: Solution, centre: Float[Tensor, "site d"]) -> Solution:
    """For activations as they are. Of two classes, the first has a row of zeros."""
    shift = einsum(solution.variables[..., :-1], centre, "site probe k d, site d -> site probe k")
    solution.variables[..., -1] -= shift
    if solution.variables.shape[2] > 1:
        return solution
    rows = torch.cat([torch.zeros_like(solution.variables), solution.variables], 2)
    return solution._replace(variables=rows)


def _start(count: Float[Tensor, "label k"]) -> Float[Tensor, "label k"]:
    """Intercepts that predict how often each class occurs; weights start at 0."""
    log, occurs = count.log(), count > 0
    mean = torch.where(occurs, log, 0.0).sum(1, keepdim=True) / occurs.sum(1, keepdim=True)
    return torch.where(occurs, log - mean, ABSENT)


def _tolerance(given: float | None, dtype: torch.dtype) -> float:
    if given is None:
        return TOLERANCE.get(dtype, TOLERANCE[torch.float32])
    if not given > 0:
        raise ProbeError(f"logistic tolerance = {given}; it must be above 0, or None")
    return given


def _check(strengths: Sequence[float]) -> None:
    for strength in strengths:
        if not 0 < strength < float("inf"):
            raise ProbeError(f"logistic C = {strength}; it must be above 0 and finite")


def _check_classes(count: Float[Tensor, "label k"], targets: Targets, split: int) -> None:
    single = ((count > 0).sum(1) < 2).nonzero()
    if len(single):
        label = int(single[0])
        value = int(targets.values[count[label].argmax()])
        raise ProbeError(
            f"{targets.names[label]!r} is {value} on all training inputs of split {split}: nothing "
            "to tell apart; use another split or variable"
        )

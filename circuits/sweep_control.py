"""The control of a patching sweep: the same sweep on untrained networks of the same shape."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from circuits.patching import sweep
from circuits.problem import Ablation, Direction, make_problem
from workbench.pairs import Pairs
from workbench.progress import Progress, part
from workbench.subject import Subject, untrained


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrainedSweeps:
    """How large effects are where nothing was learned."""

    largest: tuple[float, ...]
    """The largest |mean effect| of all parts, in each untrained network, in the metric's unit."""

    @property
    def mean(self) -> float:
        """Of the largest effects."""
        return sum(self.largest) / len(self.largest)


def untrained_sweeps(
    subject: Subject,
    pairs: Pairs,
    site: str,
    *,
    by: Sequence[str] | None,
    metric: str,
    ablation: Ablation,
    direction: Direction,
    seeds: Sequence[int] = (0, 1, 2),
) -> Generator[Progress, None, UntrainedSweeps]:
    """The sweep on networks with fresh random weights, one for each seed, on the same pairs.

    Raises what `make_problem` and `sweep` raise.
    """
    largest = []
    for i, seed in enumerate(seeds):
        problem = make_problem(
            untrained(subject, seed), pairs, metric=metric, ablation=ablation, direction=direction
        )
        found = yield from part(sweep(problem, site, by=by), i, len(seeds))
        largest.append(float(found.mean.abs().max()))
    return UntrainedSweeps(largest=tuple(largest))

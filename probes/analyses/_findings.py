"""What probing a variable says, as findings: where it can be read, is used, and can be swapped."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from probes.align import Alignment
from probes.summary import RULE, Line
from probes.training_times import Level, Measure
from workbench.finding import Control, Finding
from workbench.stats import wilson_interval

ALIGN_RULE = (
    "supported: the interval lies above those of all its controls, and it is at least half way "
    "from the highest of them to 1; of the sites tried, the best"
)
"""In words what `Measure.holds` decides."""
SWAPS = {
    "identity": "nothing swapped",
    "random": "random subspaces of the same rank",
    "arbitrary": "subspaces learned for an arbitrary function in its place",
    "untrained": "subspaces learned in an untrained network",
}


def probe_findings(lines: Sequence[Line]) -> tuple[Finding, ...]:
    """Of one variable, the best site of each claim; of sites that pass the rule, if any does."""
    found = [_represented(lines)]
    erased = [line for line in lines if line.random_erased_accuracy is not None]
    if erased:
        found.append(_used(erased))
    return tuple(found)


def best_line(lines: Sequence[Line]) -> Line:
    """The line that the finding about reading one variable is about."""
    return max(lines, key=lambda line: (line.selective is True, line.accuracy))


def align_finding(alignments: Sequence[Alignment]) -> Finding:
    """Of one variable's learned subspaces of the largest rank, at the best of the sites tried.

    Nothing is chosen among ranks and seeds: a pair counts at its mean over the seeds.
    """
    tried = [(measure, found, i) for found in alignments for i, measure in enumerate(_swaps(found))]
    best, found, i = max(tried, key=lambda one: (one[0].holds, _margin(one[0])))
    site, rank = found.sites[i], max(found.ranks)
    return Finding(
        id=f"align_{found.variable}",
        claim=f"{found.variable} lies in {rank} dimensions at {site.place}, position "
        f"{site.position}: swapped there, the answer becomes that of the other value",
        measure="share of held-out pairs that the swap gives the counterfactual answer, mean over "
        f"{len(found.seeds)} learned subspaces (DAS); higher is more",
        value=best.level.value,
        n=best.level.n,
        interval=(best.level.low, best.level.high),
        held_out=None,
        controls=tuple(
            Control(
                name=SWAPS[name],
                value=level.value,
                n=level.n,
                interval=(level.low, level.high),
                unit="pairs",
            )
            for name, level in best.controls.items()
        ),
        verdict="supported" if best.holds else "not supported",
        rule=ALIGN_RULE,
        details={"rank": float(rank), "whole site": float(found.whole[i].double().mean())},
    )


def _swaps(found: Alignment) -> list[Measure]:
    """Every site beside its controls, at the largest rank."""
    rank = found.ranks.index(max(found.ranks))
    nothing = found.identity.expand(len(found.sites), 1, 1, -1)
    controls = {"identity": nothing, "random": found.random, "arbitrary": found.arbitrary}
    if found.untrained is not None:
        controls["untrained"] = found.untrained
    return [
        Measure(
            site=str(site),
            kind="swapped",
            level=_level(found.swapped[i, rank]),
            controls={
                name: _level(right[i, min(rank, right.shape[1] - 1)])
                for name, right in controls.items()
            },
            most=1.0,
        )
        for i, site in enumerate(found.sites)
    ]


def _level(right: Bool[Tensor, "seed pair"]) -> Level:
    """The mean over pairs, each at its mean over seeds, with Wilson's interval over pairs."""
    value, n = float(right.to(torch.float64).mean()), right.shape[-1]
    low, high = wilson_interval(round(value * n), n)
    return Level(value=value, low=min(low, value), high=max(high, value), n=n)


def _margin(found: Measure) -> float:
    return found.level.value - max(level.value for level in found.controls.values())


def _represented(lines: Sequence[Line]) -> Finding:
    best = best_line(lines)
    controls = [
        ("random labels of the tokens that decide it (control task)", best.control_accuracy),
        ("shuffled labels", best.shuffled_accuracy),
        (f"{best.n_untrained or 0} untrained networks, mean", best.untrained_accuracy),
        ("what one more untrained network might give", best.untrained_bound),
        ("random subspace of as many dimensions as classes", best.random_subspace_accuracy),
        ("noise of the same lengths", best.norm_matched_accuracy),
        ("always the commonest class", best.majority_accuracy),
    ]
    return Finding(
        id=f"probe_{best.variable}",
        claim=f"a {best.probe} probe reads {best.variable} at {best.place}, position "
        f"{best.position}, better than its controls",
        measure=f"accuracy on inputs that the probe was not fitted on ({best.split} split)",
        value=best.accuracy,
        n=best.n,
        interval=(best.low, best.high),
        held_out=None,
        controls=tuple(
            Control(name=name, value=value, n=best.n, interval=None, unit="inputs")
            for name, value in controls
            if value is not None
        ),
        verdict="supported" if best.selective else "not supported",
        rule=RULE,
        details={} if best.q is None else {"q": best.q},
    )


def _used(lines: Sequence[Line]) -> Finding:
    best = max(lines, key=lambda line: (line.used is True, _cost(line)))
    assert best.erased_accuracy is not None and best.answer_accuracy is not None
    assert best.random_erased_accuracy is not None and best.random_erased_lowest is not None
    return Finding(
        id=f"erase_{best.variable}",
        claim=f"the network uses {best.variable} at {best.place}, position {best.position}: "
        "erased there, right answers are lost",
        measure=f"share of right answers with {best.variable} erased (LEACE, {best.rank} "
        "directions); lower is more used",
        value=best.erased_accuracy,
        n=best.n_asked or best.n,
        interval=(best.erased_low or 0.0, best.erased_high or 1.0),
        held_out=None,
        controls=(
            Control(
                name="as many random directions erased",
                value=best.random_erased_accuracy,
                n=best.n_random or 1,
                interval=None,
            ),
            Control(
                name="the worst of those",
                value=best.random_erased_lowest,
                n=1,
                interval=None,
            ),
            *(
                Control(
                    name=f"{what} random functions of the same tokens erased",
                    value=value,
                    n=best.n_random or 1,
                    interval=None,
                )
                for what, value in (
                    ("mean of", best.control_erased_accuracy),
                    ("the worst of", best.control_erased_lowest),
                )
                if value is not None
            ),
            Control(
                name="nothing erased",
                value=best.answer_accuracy,
                n=best.n_asked or best.n,
                interval=None,
                unit="inputs",
            ),
        ),
        verdict="supported" if best.used else "not supported",
        rule=RULE,
    )


def _cost(line: Line) -> float:
    """Right answers lost beyond what the worst random erasure loses."""
    if line.random_erased_lowest is None or line.erased_accuracy is None:
        return -1.0
    return line.random_erased_lowest - line.erased_accuracy

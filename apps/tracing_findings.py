"""The findings that patching and circuits add to a run's, and their names."""

from collections.abc import Mapping
from typing import Any

from apps.question import Question
from circuits.evaluate import Evaluation
from circuits.patching import SIGNIFICANT, Strongest, Sweep
from circuits.sweep_sites import SITES
from workbench.finding import Control, Finding

PATCH_RULE = (
    "supported where, on the pairs it was not chosen on, the interval of the effect minus the "
    f"runner-up's, pair by pair, lies above 0, and q < {SIGNIFICANT} over the sweep"
)
USUAL_PATCHING, USUAL_CIRCUIT = Question(direction="denoising"), Question(direction="noising")
"""What is asked where the person says nothing else."""


def circuit_words(method: str, n_edges: int | None, question: Question) -> list[str]:
    """What a circuit's finding and files are called after."""
    asked = [] if n_edges is None else [f"{n_edges}_edges"]
    return ["circuit", method, *question.beside(USUAL_CIRCUIT), *asked]


def circuit_finding(name: str, told: Mapping[str, Any], judged: Evaluation) -> Finding:
    """A circuit's faithfulness beside that of random ones. `told` is its document."""
    live = told["live_edges"]
    without = "" if live == judged.n_edges else f" ({live} without dead ends)"
    return Finding(
        id=name,
        claim=f"{judged.n_edges} of {judged.total_edges} edges{without}, found by "
        f"{told['method']} on {told['pairs_for_finding']} pairs, do the task",
        measure=f"faithfulness in {judged.metric}, {judged.ablation} ablation, {judged.direction}, "
        f"on {judged_on(judged.n, judged.exhaustive)}: 1 is the whole network, 0 no edge at all",
        value=judged.faithfulness,
        n=judged.n,
        interval=judged.faithfulness_interval,
        held_out=None,
        controls=(
            Control(
                name="random circuits of as many edges",
                value=judged.random_mean,
                n=judged.n_random,
                interval=judged.random_interval,
            ),
            Control(
                name="random circuits without dead ends",
                value=judged.connected_mean,
                n=judged.n_random,
                interval=judged.connected_interval,
            ),
        ),
        verdict=judged.verdict,
        rule=judged.rule,
        details={
            "random percentile": judged.random_percentile,
            "connected percentile": judged.connected_percentile,
        },
    )


def judged_on(n: int, exhaustive: bool) -> str:
    """What a circuit was judged on, in words."""
    return (
        f"every input it was not found on, {n:,}"
        if exhaustive
        else f"{n:,} pairs it was not found on"
    )


def patch_finding(found: Sweep, best: Strongest, question: Question) -> Finding:
    """The part with the largest effect beside the runner-up, where neither was chosen."""
    return Finding(
        id="_".join(["patch", found.site, *question.beside(USUAL_PATCHING), *_split(found)]),
        claim=f"of all parts, {found.site} at {_place(best.winner)} moves {found.metric} most "
        "when patched",
        measure=f"mean effect, towards {'more' if best.sign > 0 else 'less'} {found.metric}, on "
        f"pairs it was not chosen on; {found.ablation} ablation, {found.direction}",
        value=best.effect,
        n=best.n,
        interval=best.interval,
        held_out=None,
        controls=(
            Control(
                name=f"runner-up, {_place(best.runner_up)}",
                value=best.runner_up_effect,
                n=best.n,
                interval=best.runner_up_interval,
                unit="pairs",
            ),
        ),
        verdict="supported" if best.supported else "not supported",
        rule=PATCH_RULE,
        details={
            "lead": best.lead,
            "lead from": best.lead_interval[0],
            "lead to": best.lead_interval[1],
            "q": best.q,
        },
    )


def _place(at: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {index}" for axis, index in at.items())


def _split(found: Sweep) -> list[str]:
    """A word for axes beyond the site's own, where they are not the usual ones."""
    place = SITES[found.site]
    further = [axis for axis in found.axes if axis not in place.own]
    return [] if set(further) == set(place.usual) else ["by_" + ("_".join(further) or "layer")]

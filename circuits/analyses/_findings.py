"""The findings of patching, circuits and evaluations, and their names."""

from collections.abc import Mapping, Sequence

from circuits.analyses._asked import MOST_WORDS
from circuits.evaluate import Evaluation
from circuits.patching import SIGNIFICANT, Strongest, Sweep
from circuits.sweep_sites import SITES
from workbench.finding import Control, Finding
from workbench.record import Tolerance

PATCH_RULE = (
    "supported where, on the pairs it was not chosen on, the interval of the effect minus the "
    f"runner-up's, pair by pair, lies above 0, and q < {SIGNIFICANT} over the sweep"
)

# Measured on eight circuits of a p = 59 network by all methods, one of a digit adder, and an
# evaluation of each. One thread and two agree to the bit. Float32 and float64 differ by:
# faithfulness, completeness and random circuits 3e-8, effects of removals 6e-6, scores 4e-5 of the
# largest and 2e-4 of themselves. No edge, verdict, percentile or worst set changed. One random
# circuit in a hundred may pass the circuit by.
CIRCUIT_TOLERANCES = {
    "*": Tolerance(absolute=2e-5, relative=2e-5),
    "*percentile": Tolerance(absolute=1.0),
    "result.edge_list.*.score": Tolerance(absolute=2e-3, relative=1e-3),
    "arrays.scores": Tolerance(relative=2e-4),
}


def finding_name(words: Sequence[str]) -> str:
    """The name of a finding."""
    return "_".join(words)[:MOST_WORDS]


def circuit_finding(
    name: str, judged: Evaluation, *, live: int, origin: str, judged_on: str
) -> Finding:
    """A circuit's faithfulness beside that of random ones.

    Args:
        live: how many of its edges are no dead ends.
        origin: where the circuit is from, as words after the number of edges.
        judged_on: the inputs, in words.
    """
    without = "" if live == judged.n_edges else f" ({live} without dead ends)"
    return Finding(
        id=name,
        claim=f"{judged.n_edges} of {judged.total_edges} edges{without}, {origin}, do the task",
        measure=f"faithfulness in {judged.metric}, {judged.ablation} ablation, {judged.direction}, "
        f"on {judged_on}: 1 is the whole network, 0 no edge at all",
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


def judged_on_others(n: int, exhaustive: bool) -> str:
    """What a circuit that was searched for was judged on, in words."""
    return (
        f"every input it was not found on, {n:,}"
        if exhaustive
        else f"{n:,} pairs it was not found on"
    )


def judged_on_pairs(n: int, exhaustive: bool) -> str:
    """What a circuit that was given was judged on, in words."""
    return f"every input, {n:,}" if exhaustive else f"{n:,} pairs"


def patch_finding(words: Sequence[str], found: Sweep, best: Strongest) -> Finding:
    """The part with the largest effect beside the runner-up, where neither was chosen.

    Args:
        words: what differs from the usual question.
    """
    return Finding(
        id=finding_name(["patch", found.site, *words, *_split(found)]),
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

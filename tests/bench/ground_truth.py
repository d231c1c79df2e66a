"""Every method on networks whose circuits are known: area under the ROC curve of |score|.

    python -m tests.bench.ground_truth                        # all networks, both ablations
    python -m tests.bench.ground_truth --method exact --network or_gate --ablation resample

Rows are hand-built networks and compiled Tracr programs (`tests.ground_truth`); columns are all
registered methods, and random scores. A true edge that a method ranks no higher than false ones
costs; the table under the first one lists the true edges to which exact patching gives no effect at
all, and says why the construction expects it or that it does not.

What an AUROC below 1 means here. In `or_gate` two paths are redundant: cutting one edge of the
clean run changes nothing, so exact patching must miss both (it finds them the other way round, from
the corrupted run). Gradients are another matter. Tracr's softmax is hard (scores 100 apart) and its
step functions rise within 1/100, so on the line between two inputs the gradient is zero almost
everywhere and large in narrow windows: EAP, which looks at one point, sees nothing through such
parts, and EAP-IG at equal distances needs many points. Where such parts follow one another windows
lie within windows: in `count_less_freq` (two selectors and two step functions in a row) the metric
makes its steps within 2^-30 of the line, and 1024 equal points see none of them (AUROC .58). So
where 128 steps are not enough, `eap_ig` halves the pieces whose own change of the metric is not
accounted for (`circuits.steep_lines`): some 130 more points per pair there, and an AUROC of 1. The
methods are run as they come, and a second table lists the steps that they began with.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from rich.console import Console

from apps.console import table
from circuits.method import Scores, methods
from circuits.problem import Ablation
from tests.ground_truth.hand_built import planted
from tests.ground_truth.scoring import GroundTruth, auroc, random_auroc
from tests.ground_truth.tracr_networks import fixture_names, tracr_network
from workbench.errors import WorkbenchError
from workbench.progress import finish

ABLATIONS: tuple[Ablation, ...] = ("resample", "zero")
GOAL = 0.95
"""What exact patching and EAP-IG are to reach where the truth is unique."""
NO_EFFECT = 1e-9
"""Effects of metrics of order 1 in float64: anything smaller is rounding."""


def main() -> None:
    """Print the table for each ablation, and what exact patching misses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", action="append", choices=methods.names(), help="repeatable")
    parser.add_argument("--network", action="append", help="repeatable; all when left out")
    parser.add_argument("--ablation", action="append", choices=ABLATIONS, help="repeatable")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    truths = networks(arguments.network)
    names = arguments.method or methods.names()
    rows = [
        row(truth, ablation, names)
        for ablation in arguments.ablation or ABLATIONS
        for truth in truths
    ]
    if arguments.json:
        print(json.dumps(rows))
        return
    console = Console(width=150)
    for ablation in arguments.ablation or ABLATIONS:
        chosen = [one for one in rows if one["ablation"] == ablation]
        console.print(auroc_table(ablation, chosen, names))
    console.print(steps_table(rows))
    console.print(missed_table(rows))


def networks(chosen: list[str] | None) -> list[GroundTruth]:
    """The networks named, or all."""
    built = {truth.name: truth for truth in planted()}
    known = [*built, *fixture_names()]
    for name in chosen or []:
        if name not in known:
            raise SystemExit(f"no network {name!r}; known: {', '.join(known)}")
    return [built[n] if n in built else tracr_network(n) for n in known if n in (chosen or known)]


def row(truth: GroundTruth, ablation: Ablation, names: list[str]) -> dict[str, Any]:
    """Everything measured about one network under one ablation."""
    known = truth.truths[ablation]
    chance = random_auroc(truth, ablation, torch.Generator().manual_seed(0))
    found: dict[str, Any] = {
        "network": truth.name,
        "ablation": ablation,
        "edges": truth.graph.n_edges,
        "true": len(known.edges),
        "undecided": len(known.undecided),
        "unique": known.unique,
        "pairs": len(truth.clean),
        "note": known.note,
        "random": {"mean": statistics.fmean(chance), "sd": statistics.stdev(chance)},
        "auroc": {},
        "seconds": {},
        "steps": {},
    }
    for name in names:
        start = time.perf_counter()
        try:
            scores = finish(methods.get(name)().score(truth.problem(ablation)))
        except WorkbenchError as error:
            found["auroc"][name] = None
            found["note"] = f"{found['note']} {name}: {error}".strip()
            continue
        found["seconds"][name] = time.perf_counter() - start
        found["auroc"][name] = auroc(truth, ablation, scores.values)
        if "steps" in scores.settings:
            found["steps"][name] = scores.settings["steps"]
        if name == "exact":
            found["missed"] = missed(truth, ablation, scores)
    return found


def missed(truth: GroundTruth, ablation: Ablation, scores: Scores) -> list[str]:
    """True edges without any effect, in the graph's order."""
    edges = truth.truths[ablation].edges
    return [e for e in truth.graph.edges if e in edges and abs(scores.of(e)) < NO_EFFECT]


def auroc_table(ablation: Ablation, rows: list[dict[str, Any]], names: list[str]) -> object:
    """One ablation: AUROC by network and method, with the goal's tally in the title."""
    listed = [
        [
            one["network"],
            f"{one['true']}/{one['edges']}",
            one["undecided"],
            "yes" if one["unique"] else "no",
            one["pairs"],
            *(one["auroc"][name] for name in names),
            f"{one['random']['mean']:.3f} ± {one['random']['sd']:.2f}",
        ]
        for one in rows
    ]
    unique = [one for one in rows if one["unique"]]
    reached = "; ".join(
        f"{name} {sum((one['auroc'][name] or 0) >= GOAL for one in unique)}/{len(unique)}"
        for name in names
    )
    title = f"AUROC under {ablation} ablation; >= {GOAL} where the truth is unique: {reached}"
    columns = ["network", "true edges", "undecided", "unique", "pairs", *names, "random (sd)"]
    return table(columns, listed, title=title)


def steps_table(rows: list[dict[str, Any]]) -> object:
    """How many steps each method took that has steps, and how long that was."""
    names = sorted({name for one in rows for name in one["steps"]})
    listed = [
        [
            one["network"],
            one["ablation"],
            *(
                f"{one['steps'][name]} ({one['seconds'][name]:.1f} s)"
                if name in one["steps"]
                else "-"
                for name in names
            ),
        ]
        for one in rows
    ]
    return table(["network", "ablation", *names], listed, title="steps taken")


def missed_table(rows: list[dict[str, Any]]) -> object:
    """True edges that exact patching cannot see, and the reason known from the construction."""
    listed = [
        [one["network"], one["ablation"], ", ".join(one["missed"]), one["note"] or "unexplained"]
        for one in rows
        if one.get("missed")
    ]
    return table(
        ["network", "ablation", "edges", "why"],
        listed,
        title="true edges to which exact patching gives no effect",
    )


if __name__ == "__main__":
    main()

"""When a² is decodable, when it is used, and when a network that learns a² + b mod p generalises.

    python -m tests.bench.across_training                     # p = 113, seed 0, about 6 minutes
    python -m tests.bench.across_training --p 59 --out across_training.svg

Trains the run first where it is not in `--runs`. Lepori, Serre and Pavlick 2024 find a² readable
(.778 at step 100, 1.000 at the end) long before interchange shows it in use (.03 until step 1,000,
.98 when the network generalises). Both curves come out here too, as `new_inputs` and `swapped`.
Beside them stand the controls. An untrained network and relabelled values are readable nearly as
well, so that the first curve says little of a². On values of a that the probe has not seen it is
read ever better while the network memorises, half way well before a² is used. Swaps succeed more
and more often in that time, as far as the network's accuracy lets them, and all do once it
generalises.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from apps.cli_training import drawn_or_listed, show_across
from apps.question import output_kind
from probes.across_training import follow_variable
from workbench.progress import finish
from workbench.recipe import Recipe, default_model, find_recipe
from workbench.run import Run
from workbench.storage import atomic_write
from workbench.task import make_task
from workbench.training import train_runs

SMALL: dict[str, Any] = {
    "train_fraction": 0.4,
    "weight_decay": ((0, 1.5),),
    "batch_size": 512,
}
"""What a small p (below 100) needs besides `quick_grokking`."""
EARLY = (0, 51)
EVERY = 100
"""Steps that are followed: the early ones, and every so many."""


def main() -> None:
    """Train where needed, follow a², print the tables, write the figure (as .csv, its numbers)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--p", type=int, default=113)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("across_training.png"))
    parser.add_argument("--no-das", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    kind = output_kind(options.out)
    run = trained(options.p, options.seed, options.runs, options.device)
    steps = [step for step in run.steps if step in EARLY or step % EVERY == 0]
    start = time.perf_counter()
    found = finish(
        follow_variable(
            run, "a_squared", steps=steps, das=not options.no_das, device=options.device
        )
    )
    seconds = time.perf_counter() - start
    atomic_write(options.out, drawn_or_listed(found, kind))
    show_across({"run": str(run.path), **found.to_dict()})
    print(f"{len(steps)} checkpoints in {seconds:.0f} s on {torch.get_num_threads()} threads")
    print(options.out)


def trained(p: int, seed: int, runs: Path, device: str) -> Run:
    """The run, trained now where it is not there."""
    task = make_task("modular_square_plus", {"p": p})
    recipe = recipe_for(p)
    steps = train_runs(
        task, default_model(task), recipe, [seed], runs=runs, device=torch.device(device)
    )
    (outcome,) = finish(steps)
    return outcome.run


def recipe_for(p: int) -> Recipe:
    """`quick_grokking`, with the changes that small p need."""
    recipe = find_recipe("quick_grokking")
    return recipe if p >= 100 else replace(recipe, **SMALL)


if __name__ == "__main__":
    main()

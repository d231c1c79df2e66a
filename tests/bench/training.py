"""Training, measured: step time beside TransformerLens, and a table of seeds.

    python -m tests.bench.training                          # everything in the README's table
    python -m tests.bench.training --task modular_addition --seeds 0:4 --no-step-time

Steps of the two are timed in turn, so that the ratio survives a machine whose speed drifts.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from apps.console import follow, table
from apps.targets import Plan, make_plan, parse_seeds
from circuits.cells import logits_of
from circuits.fourier import characters
from circuits.fourier.parts import KEY_SHARE, logs_of
from workbench import batches, train
from workbench.accuracy import measure_accuracy
from workbench.bridge import to_bridge
from workbench.one_block import Workspace
from workbench.recipe import MODULAR, at, default_model
from workbench.subject import Subject
from workbench.task import make_task
from workbench.train import fit
from workbench.training import Outcome, TrainingProgress, train_runs

MODULAR_TASKS = {
    "modular_addition": "0:32",
    "modular_subtraction": "0:8",
    "modular_multiplication": "0:8",
    "modular_division": "0:8",
}
DIGIT_TASKS = {
    "least_significant_first": "0:4",
    "most_significant_first": "0:4",
}
TOGETHER = 8
"""Seeds per training call; memory grows with it, figures do not change."""


def main() -> None:
    """Print the tables of the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=[*MODULAR_TASKS, "digit_addition"])
    parser.add_argument("--seeds", help="instead of the README's")
    parser.add_argument("--set", action="append", default=[], help="key=value, as in train")
    parser.add_argument("--no-step-time", action="store_true")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if not arguments.no_step_time:
        console.print(step_times())
    for name, seeds in MODULAR_TASKS.items():
        if arguments.task in (None, name):
            console.print(modular_table(name, parse_seeds(arguments.seeds or seeds), arguments.set))
    for order, seeds in DIGIT_TASKS.items():
        if arguments.task in (None, "digit_addition"):
            settings = [*arguments.set, f"answer_order={order}"]
            console.print(digit_table(order, parse_seeds(arguments.seeds or seeds), settings))


def step_times(rounds: int = 20) -> str:
    """A step at p = 113 beside the bridge's: the default recipe's, and on all training pairs."""
    lines = []
    for batch_size, words in (
        (MODULAR.batch_size, "the recipe's batch"),
        (None, "all 3,831 pairs"),
    ):
        bridge = bridge_step(batch_size)
        alone, together = our_step(1, batch_size), our_step(4, batch_size)
        times = [(timed(bridge), timed(alone), timed(together) / 4) for _ in range(rounds + 2)][2:]
        for i, name in ((1, "one seed"), (2, "per seed, four together")):
            ratios = sorted(row[0] / row[i] for row in times)
            ours = statistics.median(row[i] for row in times) * 1e3
            theirs = statistics.median(row[0] for row in times) * 1e3
            low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
            lines.append(
                f"step, {words}, {name}: ours {ours:.1f} ms, TransformerBridge {theirs:.1f} ms, "
                f"ratio {statistics.median(ratios):.1f} (middle 80 %: {low:.1f}-{high:.1f}, "
                f"n = {rounds})"
            )
    return "\n".join(lines)


def timed(step: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def our_step(n_seeds: int, batch_size: int | None) -> Callable[[], object]:
    """One training step, as the default recipe starts, evaluations left out."""
    task = make_task("modular_addition")
    recipe = replace(
        MODULAR, batch_size=batch_size, steps=100_000, evaluate_every=100_000, log_checkpoints=0
    )
    source = batches.Source(task, recipe, tuple(range(n_seeds)), torch.device("cpu"), None)
    config, rows = default_model(task), list(range(n_seeds))
    attempts = dict.fromkeys(rows, 0)
    state = train._initial_state(config, recipe, attempts, torch.device("cpu"))
    size = train._seeds_per_pass(config, source, torch.device("cpu"))
    work = Workspace()
    return lambda: train._step(
        state, config, recipe, task, rows, source.batch(rows, 20), 20, size, work
    )


def bridge_step(batch_size: int | None) -> Callable[[], object]:
    """The same step through TransformerBridge.boot_native and torch.optim.AdamW."""
    task = make_task("modular_addition")
    config = default_model(task)
    snapshot = next(fit(task, config, MODULAR, [0], device=torch.device("cpu")))
    model = to_bridge(snapshot.params(0), config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=2.0)
    inputs = task.split(0, MODULAR.train_fraction).train
    assert inputs is not None
    tokens, answers = task.encode(inputs), task.solve(inputs)[:, 0]
    n = batch_size or len(tokens)

    def step() -> None:
        chosen = torch.randperm(len(tokens))[:n]
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(tokens[chosen])[:, -1],
            answers[chosen],
            label_smoothing=at(MODULAR.label_smoothing, 20),
        )
        loss.backward()
        optimiser.step()

    return step


def trained(plan: Plan, seeds: list[int]) -> list[Outcome]:
    """Train into a folder that is thrown away afterwards (outcomes keep what they read)."""

    def words(progress: TrainingProgress) -> tuple[int, int, str]:
        return progress.step, progress.steps, f"seeds {progress.seeds[0]}-{progress.seeds[-1]}"

    outcomes = []
    for start in range(0, len(seeds), TOGETHER):
        folder = Path(tempfile.mkdtemp(prefix="workbench-bench-"))
        steps = train_runs(
            plan.task,
            plan.model,
            plan.recipe,
            seeds[start : start + TOGETHER],
            runs=folder,
            device=torch.device("cpu"),
        )
        quiet = not sys.stderr.isatty()
        outcomes += follow(steps, words, title=plan.task.name, quiet=quiet)
    return outcomes


def modular_table(name: str, seeds: list[int], settings: list[str]) -> object:
    """Every seed of a modular task: when it grokked, how right it is, how clean its circuit."""
    plan = make_plan(name, None, settings)
    rows = []
    for outcome in trained(plan, seeds):
        subject = Subject(params=outcome.run.params(), config=plan.model, task=plan.task)
        share, keys, margin, wrong = circuit_quality(subject)
        rows.append(
            [
                outcome.seed,
                outcome.grokking_step,
                outcome.steps,
                wrong,
                outcome.held_out_accuracy,
                margin,
                share,
                keys,
                round(outcome.seconds, 1),
            ]
        )
    grokked = [row[1] for row in rows if row[1] is not None]
    summary = (
        f"{name}, p = {plan.task.to_dict()['p']}: {len(grokked)}/{len(rows)} seeds >= 99.9 % held "
        f"out and stay there; right on all inputs: {sum(row[3] == 0 for row in rows)}/{len(rows)}; "
        f"grokking step median {statistics.median(grokked) if grokked else None}, worst "
        f"{max(grokked, default=None)}; share >= 93 %: {sum(row[6] >= 0.93 for row in rows)}"
        f"/{len(rows)} (least {min(row[6] for row in rows):.3f}); seconds per seed median "
        f"{statistics.median(row[8] for row in rows)}"
    )
    columns = ["seed", "grokked", "steps", "wrong", "held out", "min margin", "share of <= 8"]
    return table([*columns, "keys", "seconds"], rows, title=summary)


def circuit_quality(subject: Subject) -> tuple[float, str, float, int]:
    """Logit variance in at most 8 frequencies of a+b-c; key frequencies; margin; wrong answers."""
    cyclic = subject.task.cyclic()
    assert cyclic is not None
    domain = subject.task.domain()
    logits = logits_of(subject, domain)
    answers = subject.task.solve(domain)
    right: Tensor = logits.gather(1, answers)[:, 0]
    others = logits.scatter(1, answers, -torch.inf).amax(1)
    logs = [logs_of(cyclic, domain[:, column]) for column in (0, 1)]
    profile, variance = characters.sum_profile(cyclic, *logs, logits[:, cyclic.elements])
    alpha, beta = characters.profile_amplitudes(profile)
    shares = characters.amplitude_shares(alpha, beta, cyclic.order, variance)
    order = shares.argsort(descending=True)
    keys = " ".join(str(int(k) + 1) for k in order if shares[k] >= KEY_SHARE)
    wrong = int((logits.argmax(1) != answers[:, 0]).sum())
    return float(shares[order[:8]].sum()), keys, float((right - others).min()), wrong


def digit_table(order: str, seeds: list[int], settings: list[str]) -> object:
    """Every seed of five-digit addition: exact answers on uniform and on carry-heavy rows."""
    plan = make_plan("digit_addition", None, settings)
    rows = []
    for outcome in trained(plan, seeds):
        params = outcome.run.params()
        exact = [
            measure_accuracy(params, plan.model, plan.task, distribution=name)
            for name in ("uniform", "carry_heavy")
        ]
        rows.append(
            [
                outcome.seed,
                outcome.steps,
                *(
                    f"{e.value:.4f} [{e.interval[0]:.4f}, {e.interval[1]:.4f}]"
                    for e in exact
                    if e.interval
                ),
                round(outcome.seconds, 1),
            ]
        )
    columns = ["seed", "steps", "exact, uniform (n = 10,000)", "exact, carry-heavy (n = 10,000)"]
    return table([*columns, "seconds"], rows, title=f"digit_addition, {order.replace('_', ' ')}")


if __name__ == "__main__":
    main()

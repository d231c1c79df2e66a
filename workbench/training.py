"""Training into run directories: many seeds together, one directory each, resumable.

`train_runs` is a generator: it yields progress and returns the runs. What is on disk after a kill
at any moment is the last commit; asking for the same training again goes on from there, and a
run that is complete is handed back as it is.
"""

import hashlib
import json
import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from workbench import config as configuration
from workbench.errors import RunError, TrainingError
from workbench.model_config import ModelConfig
from workbench.progress import finish
from workbench.recipe import Recipe, default_model, default_recipe, find_recipe, kept_steps
from workbench.run import Run, RunConfig, is_run, open_run
from workbench.run_writer import RunWriter
from workbench.task import Task
from workbench.train import Metrics, Snapshot, State, check_training, fit, grokking_step

COMMIT_SECONDS = 5.0
"""How much training a kill may cost, at most, beyond the time between two evaluations."""
COLLAPSED = 0.9
"""A run collapsed when its training accuracy once reached 99 % and ends below this."""


class TrainingProgress(NamedTuple):
    """Where training stands."""

    step: int
    steps: int
    seeds: tuple[int, ...]
    metrics: tuple[Metrics, ...]


class Outcome(NamedTuple):
    """What became of one seed."""

    seed: int
    run: Run
    steps: int
    grokking_step: int | None
    train_accuracy: float
    held_out_accuracy: float | None
    seconds: float
    """Training time of all attempts; of seeds trained together, an equal share each."""
    warning: str | None
    """Set where training collapsed."""


BEGIN = -1
"""In place of a step: not begun."""


def run_name(task: Task, model: ModelConfig, recipe: Recipe, seed: int) -> str:
    """The directory of a run: the same training always has the same name."""
    parts = [
        task.version,
        task.to_dict(),
        configuration.to_dict(model),
        configuration.to_dict(recipe),
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"{task.label}-{digest[:6]}-seed{seed}"


def train_runs(
    task: Task,
    model: ModelConfig,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    runs: Path,
    device: torch.device,
) -> Generator[TrainingProgress, None, list[Outcome]]:
    """Train one run per seed under `runs`, together; complete ones are handed back untouched.

    Raises `RunError` where a directory is damaged, or another process trains into it, and
    `TrainingError` when seeds diverged (after the others have finished).
    """
    check_training(task, model, recipe)  # before there are directories
    paths = {seed: runs / run_name(task, model, recipe, seed) for seed in seeds}
    failures: dict[int, str] = {}
    with ExitStack() as stack:
        writers = {}
        for seed, path in paths.items():
            if is_run(path) and open_run(path).complete:
                continue
            run_config = _run_config(task, model, recipe, seed)
            writers[seed] = stack.enter_context(RunWriter.open(path, run_config))
        for step, group in _groups(writers):
            start = _resume(group, step, device)
            attempts = {seed: _beginning(writer)[0] for seed, writer in group.items()}
            snapshots = fit(
                task, model, recipe, list(group), device=device, start=start, attempts=attempts
            )
            yield from _record(snapshots, group, recipe, failures)
    if failures:
        reasons = "; ".join(f"seed {seed} {reason}" for seed, reason in failures.items())
        raise TrainingError(reasons)
    return [outcome_of(open_run(path)) for path in paths.values()]


def train(
    task: Task,
    seeds: Sequence[int] = (0,),
    *,
    runs: Path | str = "runs",
    model: ModelConfig | None = None,
    recipe: Recipe | None = None,
    device: torch.device | str = "cpu",
) -> list[Outcome]:
    """`train_runs` without the progress; the network and recipe that suit the task by default."""
    steps = train_runs(
        task,
        model or default_model(task),
        recipe or find_recipe(default_recipe(task)),
        seeds,
        runs=Path(runs),
        device=torch.device(device),
    )
    return finish(steps)


def outcome_of(run: Run) -> Outcome:
    """What a run's metrics say of it; what they lack (of a run from a session) is NaN.

    Raises `RunError` where there are none.
    """
    rows = run.metrics()
    if not rows:
        raise RunError(f"{run.path} has no metrics; run the same training to resume it")
    history = [Metrics(**{key: _number(row.get(key)) for key in Metrics._fields}) for row in rows]
    last = history[-1]
    unknown = math.isnan(last.held_out_accuracy)
    best = max(row.train_accuracy for row in history)
    warning = None
    if best >= 0.99 and last.train_accuracy < COLLAPSED:
        warning = (
            f"collapsed: training accuracy reached {best:.1%} and ended at "
            f"{last.train_accuracy:.1%}; lower weight_decay or lr, or train for fewer steps"
        )
    seed = run.config.seed
    assert seed is not None
    return Outcome(
        seed=seed,
        run=run,
        steps=last.step,
        grokking_step=grokking_step(history),
        train_accuracy=last.train_accuracy,
        held_out_accuracy=None if unknown else last.held_out_accuracy,
        seconds=_number(rows[-1].get("seconds")),
        warning=warning,
    )


def _run_config(task: Task, model: ModelConfig, recipe: Recipe, seed: int) -> RunConfig:
    return RunConfig(
        task=task.to_dict(),
        model=model,
        recipe=configuration.to_dict(recipe),
        seed=seed,
        train_fraction=recipe.train_fraction,
        random_labels=recipe.random_labels,
    )


def _groups(writers: dict[int, RunWriter]) -> list[tuple[int, dict[int, RunWriter]]]:
    """Seeds that can go on together: from the newest step that all have, else each from its own.

    A seed without a resume state begins, for the first time or again, and counts as `BEGIN`.
    """
    have = {seed: set(writer.resume_steps) or {BEGIN} for seed, writer in writers.items()}
    common = set.intersection(*have.values()) if have else set()
    if common:
        return [(max(common), writers)]
    groups: dict[int, dict[int, RunWriter]] = {}
    for seed, writer in writers.items():
        groups.setdefault(max(have[seed]), {})[seed] = writer
    return sorted(groups.items())


def _resume(
    group: dict[int, RunWriter], step: int, device: torch.device
) -> tuple[int, State] | None:
    """The state at which these seeds go on; None to begin."""
    if step == BEGIN:
        return None
    rows = []
    for writer in group.values():
        saved = writer.load_resume(step)
        assert saved is not None
        writer.replay_to(step)
        rows.append([saved.tensors[name] for name in State._fields])
    columns = [torch.stack(column).to(device) for column in zip(*rows, strict=True)]
    return step, State(*columns)


def _beginning(writer: RunWriter) -> tuple[int, float]:
    """The attempt that begins at step 0, and the seconds that those before it took."""
    kept = writer.load_beginning()
    return (0, 0.0) if kept is None else (int(kept["attempt"]), float(kept["seconds"]))


def _begin_again(snapshot: Snapshot, row: int, writer: RunWriter, seconds: float) -> None:
    """Forget this attempt, but for its number and its time. Fresh weights cost nothing to make."""
    attempt = snapshot.state.attempt[row] + 1
    writer.begin_again({"attempt": attempt, "seconds": torch.tensor(seconds, dtype=torch.float64)})


def _record(
    snapshots: Generator[Snapshot, None, None],
    group: dict[int, RunWriter],
    recipe: Recipe,
    failures: dict[int, str],
) -> Generator[TrainingProgress, None, None]:
    """Write every snapshot, commit now and then, and pass progress on."""
    kept = set(kept_steps(recipe))
    spent = {seed: _seconds(writer) for seed, writer in group.items()}
    before = committed = time.monotonic()
    first = True
    for snapshot in snapshots:
        now = time.monotonic()
        for seed in snapshot.seeds:
            spent[seed] += (now - before) / len(snapshot.seeds)
        due = first or snapshot.step in kept or now - committed >= COMMIT_SECONDS
        for row, seed in enumerate(snapshot.seeds):
            _write(snapshot, row, group[seed], spent[seed], due=due, keep=snapshot.step in kept)
            reason = snapshot.failures[row]
            if reason is not None:
                failures[seed] = reason
        yield TrainingProgress(snapshot.step, recipe.steps, snapshot.seeds, snapshot.metrics)
        before = time.monotonic()
        committed = before if due else committed
        first = False


def _write(
    snapshot: Snapshot, row: int, writer: RunWriter, seconds: float, *, due: bool, keep: bool
) -> None:
    """One seed's row, and where due its weights and state, as one commit."""
    reason = snapshot.failures[row]
    if reason is not None:
        writer.commit(stopped=reason)
        return
    if snapshot.restarting[row]:
        _begin_again(snapshot, row, writer, seconds)
        return
    if not writer.resume_steps or snapshot.step > writer.resume_steps[-1]:
        writer.append_metrics([_metrics_row(snapshot.metrics[row], seconds)])
    done = snapshot.finished[row]
    if keep or done:
        writer.save_checkpoint(snapshot.step, snapshot.params(row))
    if done:
        writer.commit(complete=True, stopped="finished")
    elif due:
        named = zip(State._fields, snapshot.state, strict=True)
        writer.save_resume(snapshot.step, {name: part[row].clone() for name, part in named})
        writer.commit()


def _metrics_row(metrics: Metrics, seconds: float) -> dict[str, Any]:
    row = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in metrics._asdict().items()
    }
    return {**row, "seconds": round(seconds, 3)}


def _seconds(writer: RunWriter) -> float:
    """Training time recorded before."""
    rows = open_run(writer.path).metrics()
    return float(rows[-1]["seconds"]) if rows else _beginning(writer)[1]


def _number(value: Any) -> Any:
    return math.nan if value is None else value

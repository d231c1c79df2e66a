"""Training in a job: what `workbench train` does, with its settings."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apps.web.jobs.order import Order, orders
from workbench.progress import Progress

if TYPE_CHECKING:
    from apps.targets import Plan
    from workbench.training import Outcome, TrainingProgress


@orders.register("train")
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder(Order):
    """Train one network per seed, together. The same order again resumes, or hands back."""

    kind: ClassVar[str] = "train"

    task: str
    recipe: str | None = None
    """The one that suits the task when None."""
    settings: tuple[str, ...] = ()
    """`key=value`, as `workbench train --set` takes them."""
    seeds: tuple[int, ...] = (0,)

    def plan(self) -> "Plan":
        """What is to be trained. Raises `UnknownName`, `ConfigError` or `TaskError`."""
        from apps.targets import make_plan

        return make_plan(self.task, self.recipe, self.settings)

    def run_names(self) -> tuple[str, ...]:
        """The names of the runs that it makes, in the order of seeds."""
        from workbench.training import run_name

        plan = self.plan()
        return tuple(run_name(plan.task, plan.model, plan.recipe, seed) for seed in self.seeds)

    def title(self) -> str:
        many = "seed" if len(self.seeds) == 1 else "seeds"
        return f"Train {self.plan().task.label}, {many} {seeds_text(self.seeds)}"

    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        from workbench.device import find_device
        from workbench.training import train_runs

        plan = self.plan()
        steps = train_runs(
            plan.task, plan.model, plan.recipe, self.seeds, runs=runs, device=find_device("auto")
        )
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return {"runs": [_row(outcome) for outcome in end.value]}
            yield Progress(progress.step, progress.steps, _words(progress))


def seeds_text(seeds: tuple[int, ...]) -> str:
    """Seeds in words: `0-3` where they follow each other, else `0, 4, 7`."""
    first, last = seeds[0], seeds[-1]
    if len(seeds) > 2 and seeds == tuple(range(first, last + 1)):
        return f"{first}-{last}"
    return ", ".join(map(str, seeds))


def _words(progress: "TrainingProgress") -> str:
    """Means over the seeds that are still training."""
    n = len(progress.metrics)
    loss = sum(row.train_loss for row in progress.metrics) / n
    accuracy = sum(row.held_out_accuracy for row in progress.metrics) / n
    seeds = "" if n == 1 else f", mean of {n} seeds"
    return f"loss {loss:.4f}, held-out accuracy {accuracy:.1%}{seeds}"


def _row(outcome: "Outcome") -> dict[str, Any]:
    row = {
        "run": outcome.run.path.name,
        "seed": outcome.seed,
        "steps": outcome.steps,
        "grokking_step": outcome.grokking_step,
        "train_accuracy": outcome.train_accuracy,
        "held_out_accuracy": outcome.held_out_accuracy,
        "seconds": outcome.seconds,
        "warning": outcome.warning,
    }
    nothing = {key for key, value in row.items() if isinstance(value, float) and math.isnan(value)}
    return {key: None if key in nothing else value for key, value in row.items()}

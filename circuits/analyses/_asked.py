"""What the analyses about pairs of inputs share: which pairs, which metric, what is patched.

Every field may come from a stranger's file, so each is a closed choice or has a bound; names that
depend on the network or the task (a site, a method, a corruption) are looked up when it is asked.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from pydantic import Field

from circuits.problem import Ablation, Direction, Problem
from circuits.tracing import problem_of
from workbench.pairs import MOST_PAIRS, Pairs, pairs_from_text
from workbench.run import Run
from workbench.strict import Label
from workbench.task import Task

MetricName = Literal["logit_difference", "log_probability", "kl_divergence", "accuracy"]
"""`workbench.metrics.METRICS`."""
Draws = Annotated[int, Field(ge=100, le=10_000)]
"""How many random circuits of each kind; `circuits.evaluate.FEWEST_DRAWS` at least."""
Texts = Annotated[tuple[Label, ...], Field(max_length=1000)]
MOST_WORDS = 200
"""Characters of a finding's name."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Pairs to draw, a metric, and what patching means."""

    metric: MetricName = "logit_difference"
    ablation: Ablation = "resample"
    direction: Direction = "noising"
    pairs: Annotated[int, Field(ge=1, le=MOST_PAIRS)] = 64
    """How many are drawn."""
    corruptions: Annotated[tuple[Label, ...], Field(max_length=8)] = ()
    """The task's usual ones where empty."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything drawn."""

    def beside_usual(self, *names: str) -> list[str]:
        """Words for what differs from the defaults: another question has another finding."""
        usual = {field.name: field.default for field in fields(self)}
        names = ("metric", "ablation", "direction", *names)
        words = [str(getattr(self, name)) for name in names if getattr(self, name) != usual[name]]
        words += ["per_position"] * bool(getattr(self, "per_position", False))
        return words + ["written_pairs"] * bool(getattr(self, "clean", ())) + [*self.corruptions]


@dataclass(frozen=True, kw_only=True)
class AskedOfWritten(Asked):
    """The same, of pairs that may be written out; nothing is drawn then."""

    clean: Texts = ()
    corrupted: Texts = ()
    """One for each clean input."""

    def written(self, task: Task) -> Pairs | None:
        """The pairs that are written out; None where they are to be drawn.

        Raises `TaskError` for what cannot be read, `PairError` for what is no pair.
        """
        if not self.clean and not self.corrupted:
            return None
        return pairs_from_text(task, self.clean, self.corrupted)


def problem_asked(
    asked: Asked,
    run: Run,
    pairs: Pairs | None,
    *,
    step: int | None,
    device: torch.device,
    per_position: bool = False,
) -> Problem:
    """The problem of these pairs; of drawn ones where there are none."""
    return problem_of(
        run,
        n_pairs=asked.pairs,
        corruptions=asked.corruptions or None,
        pairs=pairs,
        metric=asked.metric,
        ablation=asked.ablation,
        direction=asked.direction,
        per_position=per_position,
        seed=asked.seed,
        step=step,
        device=device,
    )

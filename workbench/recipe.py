"""Recipes: how to train, as data. Named recipes reproduce the figures of the README.

A schedule is a list of (step, value) knots, joined by straight lines and constant outside them.
On the command line: `--set lr=0.01` (constant) or `--set lr=0:0,10:0.01,200:0.001`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field

from workbench.errors import ConfigError, UnknownName
from workbench.registry import unknown
from workbench.task import Task
from workbench.transformer import ModelConfig


def _read_schedule(value: object) -> object:
    """Accept a bare number, or text such as `0:0,10:0.01`, where a schedule is wanted."""
    if isinstance(value, int | float):
        return ((0, float(value)),)
    if isinstance(value, str):
        knots = [part.split(":") for part in value.split(",")]
        if all(len(knot) == 1 for knot in knots) and len(knots) == 1:
            return ((0, value),)
        return tuple(tuple(knot) for knot in knots)
    return value


Schedule = Annotated[
    tuple[tuple[int, float], ...], Field(min_length=1), BeforeValidator(_read_schedule)
]
"""Knots (step, value), by ascending step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training run, apart from task, network and seed."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps, unless training stops early."""
    lr: Schedule
    weight_decay: Schedule
    """Decoupled (Loshchilov and Hutter 2019): each step shrinks weights by lr * weight_decay."""
    label_smoothing: Schedule = ((0, 0.0),)
    """Share of the target spread evenly over all outputs."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    eps: Annotated[float, Field(gt=0)] = 1e-8
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential average of the weights that is evaluated and kept; 0 for none."""
    init_scale: Annotated[float, Field(gt=0)] = 1.0
    """Initial standard deviation of every matrix, times sqrt(d_model)."""
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Inputs per step; None for all training inputs at once."""
    enriched: str | None = None
    """A distribution of the task that part of every batch is drawn from (sampled tasks)."""
    enriched_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    random_labels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the labels replaced by those of unrelated inputs: a control."""
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    evaluate_on: Annotated[int, Field(ge=1)] = 2000
    """Held-out inputs per evaluation where the domain is sampled."""
    checkpoint_steps: tuple[int, ...] = ()
    """Steps to keep besides the first and the last."""
    log_checkpoints: Annotated[int, Field(ge=0)] = 8
    """How many logarithmically spaced steps to keep as well."""
    stop_train_loss: float | None = None
    """Stop a seed when its training loss has been at most this ..."""
    stop_sustained: Annotated[int, Field(ge=1)] = 5
    """... at this many evaluations in a row."""

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "label_smoothing"):
            steps = [step for step, _ in getattr(self, name)]
            values = [value for _, value in getattr(self, name)]
            if steps != sorted(set(steps)) or min(values) < 0:
                raise ConfigError(
                    f"recipe {name} = {getattr(self, name)}: knots must have ascending steps "
                    f"and values >= 0, such as 0:0,10:0.01"
                )


def at(schedule: tuple[tuple[int, float], ...], step: int) -> float:
    """The value of a schedule at a step."""
    before = schedule[0]
    for knot in schedule:
        if knot[0] >= step:
            if knot[0] == before[0]:
                return knot[1]
            share = (step - before[0]) / (knot[0] - before[0])
            return before[1] + share * (knot[1] - before[1])
        before = knot
    return before[1]


def kept_steps(recipe: Recipe) -> list[int]:
    """The steps whose weights are kept: first, chosen, logarithmically spaced, last."""
    n = recipe.log_checkpoints
    spaced = {round(recipe.steps ** (i / n)) for i in range(1, n + 1)} if n else set()
    chosen = {step for step in recipe.checkpoint_steps if 0 <= step <= recipe.steps}
    return sorted({0, recipe.steps, *spaced, *chosen})


MODULAR = Recipe(
    steps=240,
    lr=((0, 0.0), (10, 0.01), (200, 0.01), (240, 0.001)),
    weight_decay=((0, 4.0), (170, 4.0), (190, 2.0)),
    label_smoothing=((0, 0.05), (170, 0.05), (190, 0.0)),
    average=0.9,
)
SLOW_GROKKING = Recipe(
    steps=25_000,
    lr=((0, 0.0), (10, 1e-3)),
    weight_decay=((0, 1.0),),
    evaluate_every=100,
    log_checkpoints=24,
)
"""Nanda et al. 2023: full batch, lr 1e-3, weight decay 1, betas (0.9, 0.98)."""
MEMORISE = Recipe(
    steps=400,
    lr=((0, 0.0), (10, 5e-3)),
    weight_decay=((0, 0.0),),
    random_labels=1.0,
    log_checkpoints=0,
    stop_train_loss=0.05,
    stop_sustained=1,
)
"""Fits random labels: a control that has learned nothing but its training pairs."""
DIGITS = Recipe(
    steps=600,
    lr=((0, 0.0), (50, 3e-3), (600, 0.0)),
    weight_decay=((0, 0.1),),
    train_fraction=0.9,
    batch_size=256,
    enriched="carry_heavy",
    enriched_share=0.4,
    evaluate_every=25,
)
DIGITS_MOST_SIGNIFICANT_FIRST = Recipe(
    steps=1500,
    lr=((0, 0.0), (50, 3e-3), (1500, 0.0)),
    weight_decay=((0, 0.1),),
    train_fraction=0.9,
    batch_size=256,
    enriched="carry_heavy",
    enriched_share=0.4,
    evaluate_every=25,
)

RECIPES: Mapping[str, Recipe] = {
    "modular": MODULAR,
    "slow_grokking": SLOW_GROKKING,
    "memorise": MEMORISE,
    "digits": DIGITS,
    "digits_most_significant_first": DIGITS_MOST_SIGNIFICANT_FIRST,
}
"""Every recipe, by name."""


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises `UnknownName` with the nearest."""
    if name not in RECIPES:
        raise UnknownName(unknown("recipe", name, RECIPES))
    return RECIPES[name]


def default_recipe(task: Task) -> str:
    """The recipe that suits a task: full batches where the domain is listed, else sampled."""
    if task.enumerable:
        return "modular"
    most_first = getattr(task, "answer_order", "") == "most_significant_first"
    return "digits_most_significant_first" if most_first else "digits"


def default_model(task: Task) -> ModelConfig:
    """The network that suits a task: Nanda's one-layer one, or two layers with LayerNorm."""
    n_layers = 1 if task.enumerable else 2
    return ModelConfig(
        n_layers=n_layers,
        n_heads=4,
        d_model=128,
        d_head=32,
        d_mlp=512,
        d_vocab=len(task.vocabulary),
        d_vocab_out=len(task.vocabulary),
        n_ctx=task.n_ctx,
        normalization=None if n_layers == 1 else "LN",
    )

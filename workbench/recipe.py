"""Recipes: how to train, as data. Named recipes reproduce the figures of the README.

A schedule is a list of (step, value) knots, joined by straight lines and constant outside them.
On the command line: `--set lr=0.01` (constant) or `--set lr=0:0,10:0.01,200:0.001`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from workbench.errors import ConfigError, UnknownName
from workbench.model_config import ModelConfig
from workbench.registry import unknown
from workbench.task import Task

HOW_TO_WRITE = "knots need ascending steps and finite values >= 0, such as 0.01 or 0:0,10:0.01"


def _read_schedule(value: Any) -> tuple[tuple[int, float], ...]:
    """A bare number, text such as `0:0,10:0.01`, or a list of [step, value] pairs."""
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.startswith("[") else _read_knots(value)
        if isinstance(value, int | float):
            value = [(0, value)]
        return tuple((_whole(step), _number(value)) for step, value in value)
    except (ValueError, TypeError, OverflowError):
        raise PydanticCustomError("schedule", HOW_TO_WRITE) from None


def _read_knots(text: str) -> list[tuple[int, float]] | float:
    if ":" not in text:
        return float(text)
    knots = [knot.split(":") for knot in text.split(",")]
    return [(int(step), float(value)) for step, value in knots]


def _read_steps(value: Any) -> Any:
    """Accept text such as `10,20` where steps are wanted."""
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


Schedule = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_read_schedule)]
"""Knots (step, value), by ascending step."""
Steps = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_read_steps)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training run, apart from task, network and seed."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps, unless training stops early."""
    lr: Schedule
    weight_decay: Schedule
    """Decoupled (Loshchilov and Hutter 2019): each step shrinks weights by lr * weight_decay."""
    neuron_dropout: Schedule = ((0, 0.0),)
    """Share of the MLP neurons silenced at a step, the same for its whole batch; the others are
    scaled up (Srivastava et al. 2014). Spreads each function over many neurons."""
    label_smoothing: Schedule = ((0, 0.0),)
    """Share of the target spread evenly over all outputs."""
    evenness: Schedule = ((0, 0.0),)
    """Weight of a penalty on answering some inputs more surely than others: the variance, over a
    step's inputs, of the right answer's logit above the mean logit. What was memorised is sure of
    single inputs; one function for all of them is as sure of each."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-8
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential average of the weights that is evaluated and kept; 0 for none."""
    init_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Initial standard deviation of every matrix, times sqrt(d_model)."""
    query_key_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """W_Q and W_K start this much larger. Small ones look at all positions alike, and a network
    that does cannot tell a - b from b - a."""
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
    checkpoint_steps: Steps = ()
    """Steps to keep besides the first and the last."""
    log_checkpoints: Annotated[int, Field(ge=0)] = 8
    """How many logarithmically spaced steps to keep as well."""
    restart_at: Annotated[int, Field(ge=1)] | None = None
    """Look once, at this step, at how far each training answer leads (the right logit above the
    largest other), and start again from other initial weights where ..."""
    restart_above: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """... the standard deviation of the leads is at least this many times their mean."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """At most so many times."""
    stop_train_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Stop a seed when its training loss has been at most this ..."""
    stop_sustained: Annotated[int, Field(ge=1)] = 5
    """... at this many evaluations in a row."""

    def __post_init__(self) -> None:
        highest = {
            "lr": math.inf,
            "weight_decay": math.inf,
            "evenness": math.inf,
            "label_smoothing": 1.0,
            "neuron_dropout": 0.99,
        }
        for name, limit in highest.items():
            knots = getattr(self, name)
            steps = [step for step, _ in knots]
            ascending = bool(steps) and steps == sorted(set(steps)) and steps[0] >= 0
            if not ascending or not all(0 <= v <= limit and v < math.inf for _, v in knots):
                limited = "" if limit == math.inf else f", and {name} cannot exceed {limit:g}"
                raise ConfigError(f"recipe {name} = {knots}: {HOW_TO_WRITE}{limited}")


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
    steps=480,
    batch_size=1024,
    lr=((0, 0.0), (10, 0.01), (320, 0.01), (380, 0.003), (440, 0.003), (480, 0.001)),
    weight_decay=((0, 2.0), (200, 2.0), (240, 2.6)),
    beta2=0.95,
    label_smoothing=((0, 0.03), (180, 0.03), (220, 0.0)),
    evenness=((0, 0.0), (100, 0.0), (160, 0.02)),
    neuron_dropout=((0, 0.0), (200, 0.0), (240, 0.05), (320, 0.05), (360, 0.0)),
    average=0.9,
    evaluate_every=20,
    restart_at=300,
    restart_above=0.145,
)
"""Grok under decay, while label smoothing keeps several frequencies alive; evenness and a little
neuron dropout then clear away what was memorised, before the learning rate falls. By then a few
clean frequencies make all training answers about equally sure; initial weights that led to others
show in how unequal they are."""
MODULAR_DIFFERENCE = replace(
    MODULAR,
    steps=640,
    lr=((0, 0.0), (10, 0.01), (480, 0.01), (540, 0.003), (600, 0.003), (640, 0.001)),
    weight_decay=((0, 2.0),),
    label_smoothing=((0, 0.03), (400, 0.03), (440, 0.0)),
    neuron_dropout=((0, 0.0), (380, 0.0), (420, 0.05)),
    query_key_scale=5.0,
    restart_at=400,
    restart_above=0.2,
)
"""Where b is subtracted, heads must tell it from a: their queries and keys start larger, and as
(a, b) says nothing of (b, a), grokking takes longer."""
SLOW_GROKKING = Recipe(
    steps=25_000,
    lr=((0, 0.0), (10, 1e-3)),
    weight_decay=((0, 1.0),),
    evaluate_every=100,
    log_checkpoints=24,
)
"""Nanda et al. 2023: full batch, lr 1e-3, weight decay 1, betas (0.9, 0.98)."""
QUICK_GROKKING = Recipe(
    steps=2600,
    batch_size=1024,
    lr=((0, 0.0), (10, 5e-3), (2200, 5e-3), (2600, 1e-3)),
    weight_decay=((0, 1.0),),
    average=0.9,
    train_fraction=0.35,
    evaluate_every=100,
    checkpoint_steps=tuple(range(100, 2600, 100)),
    log_checkpoints=12,
)
"""Memorise within 300 steps, generalise a thousand or more later, and keep weights of every stage.
For small p (59, say) train_fraction=0.4 weight_decay=1.5 batch_size=512 does the same."""
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
    lr=((0, 0.0), (30, 5e-3), (600, 0.0)),
    weight_decay=((0, 0.1),),
    init_scale=0.5,
    train_fraction=0.9,
    batch_size=128,
    enriched="carry_heavy",
    enriched_share=0.5,
    evaluate_every=100,
)
DIGITS_MOST_SIGNIFICANT_FIRST = Recipe(
    steps=1800,
    lr=((0, 0.0), (30, 3e-3), (1800, 0.0)),
    weight_decay=((0, 0.1),),
    init_scale=0.5,
    train_fraction=0.9,
    batch_size=256,
    enriched="carry_heavy",
    enriched_share=0.5,
    evaluate_every=200,
)

RECIPES: Mapping[str, Recipe] = {
    "modular": MODULAR,
    "modular_difference": MODULAR_DIFFERENCE,
    "slow_grokking": SLOW_GROKKING,
    "quick_grokking": QUICK_GROKKING,
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
    """The recipe that suits a task: full batches for one answer token, else small ones."""
    if len(task.answer_positions) == 1:
        cyclic = task.cyclic()
        if cyclic is None:
            return "quick_grokking"
        return "modular_difference" if cyclic.b_sign < 0 else "modular"
    most_first = getattr(task, "answer_order", "") == "most_significant_first"
    return "digits_most_significant_first" if most_first else "digits"


def default_model(task: Task) -> ModelConfig:
    """The network that suits a task.

    For a single answer token Nanda's one-layer network without LayerNorm (226,816 parameters at
    p = 113); for several, two narrower layers with LayerNorm.
    """
    single = len(task.answer_positions) == 1
    width = 128 if single else 64
    return ModelConfig(
        n_layers=1 if single else 2,
        n_heads=4,
        d_model=width,
        d_head=width // 4,
        d_mlp=4 * width,
        d_vocab=len(task.vocabulary),
        d_vocab_out=len(task.vocabulary),
        n_ctx=task.n_ctx,
        normalization=None if single else "LN",
    )

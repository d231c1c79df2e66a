"""What to train: the form, and what becomes of it (`TrainOrder`, as `workbench train` takes it)."""

import dataclasses
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import streamlit as st

from apps.orders.train import TrainOrder
from apps.targets import MOST_SEEDS
from apps.web.shell import escaped
from apps.web.words import help_of
from workbench.errors import ConfigError
from workbench.model_config import ModelConfig
from workbench.recipe import RECIPES, Recipe, default_model, default_recipe
from workbench.task import Task, make_task, tasks

USUAL_P = (23, 59, 113)
QUICK_P = 59
"""Trains in seconds."""
FRACTIONS = ((23, 0.8), (31, 0.7), (59, 0.6), (113, 0.3))
"""p, and the share of pairs from which networks generalise (measured); on a line in between."""
AUTOMATIC = "automatic"
"""In place of a recipe: the one that suits the task."""
SAID = {
    "modular": "groks addition and multiplication mod p within a few hundred steps, with clean "
    "circles.",
    "modular_difference": "the same for subtraction and division, where a and b are told apart.",
    "quick_grokking": "memorises first and generalises a thousand steps later, with a checkpoint "
    "every 100 steps: grokking in a minute or so.",
    "slow_grokking": "the classic one (full batches, learning rate 0.001, weight decay 1): "
    "25,000 steps, hundreds of times longer than the quick ones.",
    "memorise": "random labels: a control that has learned nothing but its training pairs.",
    "digits": "small batches, many with long carries, least significant digit first.",
    "digits_most_significant_first": "the same for answers written most significant digit first, "
    "which takes longer.",
}
"""Of every recipe, in a line."""
SETTINGS_SAID = {
    "p": "The modulus, a prime. 59 trains in seconds; 113 is the one that the field has studied.",
    "n_digits": "How long the numbers are. Longer ones take longer.",
    "equals_token": "Whether a last token = follows the operands, where the answer is read.",
    "separate_vocabularies": "Whether the second operand has tokens of its own.",
    "answer_order": "Which digit of the sum is written first. Carries travel from the least "
    "significant one.",
}
"""Of every setting of a task, in a line."""
LABELS = {"p": "p (a prime)"}
"""Of settings that are not called as the task calls them."""
_SEEDS = re.compile(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?")


def form() -> TrainOrder:
    """Draw the form; what it orders. Raises `WorkbenchError` for what cannot be."""
    of_task, of_size, of_recipe, of_seeds = st.columns([5, 3, 5, 2])
    name = of_task.selectbox(
        "Task",
        tasks.names(),
        index=tasks.names().index("modular_addition"),
        key="train_task",
        bind="query-params",
        help="What the network is to learn."
        + "".join(f"  \n**{one}**: {escaped(tasks.get(one).summary)}" for one in tasks),
    )
    of_task.caption(f"{escaped(tasks.get(name).summary)}.")
    seeds = of_seeds.text_input(
        "Seeds",
        "0",
        key="train_seeds",
        bind="query-params",
        help=help_of("seed") + "  \nOne network for each: 0, or 0,4,7, or 0-3.",
    )
    with of_size:
        settings = _settings(name, whole=True)
        if "p" in settings:
            _usual(settings["p"])
    recipes = [AUTOMATIC, *recipes_for(make_task(name))]
    with st.expander("More settings", icon=":material/tune:"):
        left, right = st.columns([2, 3])
        with left:
            settings |= _settings(name, whole=False)
        suits = default_recipe(make_task(name, _known(name, settings)))
        with of_recipe:
            recipe = _recipe_choice(recipes, suits)
        fraction = suggested_fraction(settings.get("p"), recipe)
        with right:
            overrides = _overrides(fraction, RECIPES[recipe], default_model(make_task(name)))
    if fraction is not None:
        overrides = {"train_fraction": fraction} | overrides
    chosen = {**_changed(name, settings), **overrides}
    return TrainOrder(
        task=name,
        recipe=None if recipe == suits else recipe,
        settings=tuple(f"{key}={value}" for key, value in chosen.items()),
        seeds=read_seeds(seeds),
    )


def read_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,4,7` or `0-3` (the end is included). Raises `ConfigError`."""
    seeds: list[int] = []
    for part in text.split(","):
        match = _SEEDS.fullmatch(part)
        first, last = (0, -1) if match is None else (int(match[1]), int(match[2] or match[1]))
        if match is None or last < first or last >= 2**32:
            raise ConfigError(f"seeds {text[:40]!r}: write 0, or 0,4,7, or 0-3 (whole numbers)")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise ConfigError(f"seeds {text[:40]!r}: at most {MOST_SEEDS} at once; take fewer")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {text[:40]!r}: one of them stands there twice; drop it")
    return tuple(seeds)


def suggested_fraction(p: int | None, recipe: str) -> float | None:
    """The share of pairs to train on for a small p; None where the recipe's own will do.

    A small p has few pairs, and from few pairs a network learns them by heart.
    """
    smallest, largest = FRACTIONS[0], FRACTIONS[-1]
    if p is None or p >= largest[0] or RECIPES[recipe].random_labels > 0:
        return None
    if p <= smallest[0]:
        return smallest[1]
    for (low, more), (high, less) in pairwise(FRACTIONS):
        if p <= high:
            fraction = round(more + (less - more) * (p - low) / (high - low), 2)
            return max(fraction, RECIPES[recipe].train_fraction)
    raise AssertionError(p)


def recipes_for(task: Task) -> list[str]:
    """The recipes that can train a task at all."""
    return [name for name, recipe in RECIPES.items() if _fits(recipe, task)]


def _fits(recipe: Recipe, task: Task) -> bool:
    known = recipe.enriched is None or recipe.enriched in task.distributions
    return known and (task.enumerable or recipe.batch_size is not None)


def _recipe_choice(recipes: list[str], suits: str) -> str:
    chosen = st.selectbox(
        "Recipe",
        recipes,
        key="train_recipe",
        bind="query-params",
        help=help_of("recipe")
        + "".join(f"  \n**{one}**: {SAID.get(one, '')}" for one in recipes[1:]),
    )
    recipe = suits if chosen == AUTOMATIC else chosen
    st.caption(f"{recipe}: {SAID.get(recipe, '')}")
    return recipe


# ---------------------------------------------------------------------- settings of the task


def _settings(name: str, *, whole: bool) -> dict[str, Any]:
    """The settings of a task that are whole numbers, or those that are not."""
    return {
        field.name: _setting(field, kind)
        for field, kind in _fields(name)
        if (kind is int) is whole and (kind in (int, bool) or get_origin(kind) is Literal)
    }


def _setting(field: Any, kind: Any) -> Any:
    """The field of one setting; what it is set to."""
    label = LABELS.get(field.name, field.name.removeprefix("n_").replace("_", " ").capitalize())
    common: dict[str, Any] = {
        "key": f"train_{field.name}",
        "bind": "query-params",
        "help": SETTINGS_SAID.get(field.name),
    }
    if kind is int:
        default = QUICK_P if field.name == "p" else field.default
        return st.number_input(label, min_value=1, max_value=9999, value=default, step=1, **common)
    if kind is bool:
        return st.toggle(label, value=field.default, **common)
    options = list(get_args(kind))
    return st.selectbox(label, options, index=options.index(field.default), **common)


def _usual(p: int) -> None:
    """Values of p to choose with one click."""
    st.session_state["train_usual"] = p if p in USUAL_P else None
    st.pills(
        "Usual values of p",
        USUAL_P,
        key="train_usual",
        on_change=_take_usual,
        label_visibility="collapsed",
    )


def _take_usual() -> None:
    p = st.session_state["train_usual"]
    if p is not None:
        st.session_state["train_p"] = p


def _fields(name: str) -> list[tuple[Any, Any]]:
    """The settings of a task, and their types."""
    cls = tasks.get(name)
    kinds = get_type_hints(cls)
    return [(field, kinds[field.name]) for field in dataclasses.fields(cls)]


def _known(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a recipe may depend on: not numbers, which may not fit the task yet."""
    return {key: value for key, value in settings.items() if not isinstance(value, int)}


def _changed(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the task's defaults, as the command line would be told them."""
    defaults = {field.name: field.default for field, _ in _fields(name)}
    return {key: value for key, value in settings.items() if value != defaults[key]}


# ---------------------------------------------------------------------- overrides


class _Override(NamedTuple):
    """A setting of the recipe or the network that may be filled in."""

    column: int
    label: str
    least: float
    """A whole number where the setting is one."""
    most: float
    said: str
    step: float | None = None


_OVERRIDES = {
    "train_fraction": _Override(
        *(0, "Share trained on", 0.01, 0.99),
        "The other inputs are held out. With a small p there are few pairs, and from few pairs a "
        "network learns them by heart: 0.8 for p = 23, 0.7 for 31, 0.6 for 59, 0.3 for 113 is what "
        "it takes to generalise.",
        0.05,
    ),
    "steps": _Override(
        *(0, "Steps", 1, 1_000_000),
        "Of the optimiser. The recipe's schedules are by step: fewer cut them off.",
    ),
    "d_model": _Override(
        *(1, "Width (d_model)", 1, 4096), "Length of the residual stream at each position."
    ),
    "n_heads": _Override(
        *(1, "Heads", 1, 64),
        "Attention heads in each layer. The width of a head stays as it is.",
    ),
    "n_layers": _Override(*(2, "Layers", 1, 12), "Blocks of attention and MLP."),
}


def _overrides(fraction: float | None, recipe: Recipe, model: ModelConfig) -> dict[str, Any]:
    """Settings of the recipe and the network that were filled in."""
    usual = {
        "train_fraction": recipe.train_fraction if fraction is None else fraction,
        "steps": recipe.steps,
        **{name: getattr(model, name) for name in ("d_model", "n_heads", "n_layers")},
    }
    columns = st.columns(3)
    values = {
        name: columns[one.column].number_input(
            one.label,
            min_value=one.least,
            max_value=one.most,
            value=None,
            step=one.step,
            placeholder=f"{usual[name]:g}" if name == "train_fraction" else f"{usual[name]}",
            key=f"train_{name}",
            bind="query-params",
            help=one.said,
        )
        for name, one in _OVERRIDES.items()
    }
    return {name: value for name, value in values.items() if value is not None}

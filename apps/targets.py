"""What a person may name on the command line, turned into tasks, recipes, seeds and runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench import config
from workbench.errors import ConfigError, UnknownName
from workbench.importing import import_network
from workbench.model_config import ModelConfig, n_params
from workbench.recipe import Recipe, default_model, default_recipe, find_recipe
from workbench.registry import unknown
from workbench.run import Run, is_run, open_run
from workbench.task import Task, make_task, tasks

MOST_SEEDS = 1024
MOST_PARAMS = 100_000_000
FOLLOWS_FROM_TASK = ("d_vocab", "d_vocab_out", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train."""

    task: Task
    model: ModelConfig
    recipe: Recipe
    recipe_name: str


def make_plan(task_name: str, recipe_name: str | None, settings: Sequence[str]) -> Plan:
    """A task, network and recipe, with `key=value` settings applied to whichever has the key.

    Raises `UnknownName` or `ConfigError` with the nearest known name.
    """
    values = parse_settings(settings)
    task_keys = config.keys(tasks.get(task_name))
    model_keys, recipe_keys = config.keys(ModelConfig), config.keys(Recipe)
    for key in values:
        if key not in (*task_keys, *model_keys, *recipe_keys):
            known = (*task_keys, *model_keys, *recipe_keys)
            raise ConfigError(unknown("setting", key, known))
        if key in FOLLOWS_FROM_TASK:
            raise ConfigError(f"{key} follows from the task and cannot be set")
    task = config.override(
        make_task(task_name),
        {key: text for key, text in values.items() if key in task_keys},
        where=f"task {task_name}",
    )
    name = recipe_name or default_recipe(task)
    model = config.override(
        default_model(task),
        {key: text for key, text in values.items() if key in model_keys},
        where="model",
    )
    if n_params(model) > MOST_PARAMS:
        raise ConfigError(
            f"a network of {n_params(model):,} parameters is too large (at most {MOST_PARAMS:,}); "
            "choose a smaller d_model, d_mlp or n_layers"
        )
    return Plan(
        task=task,
        model=model,
        recipe=config.override(
            find_recipe(name),
            {key: text for key, text in values.items() if key in recipe_keys},
            where="recipe",
        ),
        recipe_name=name,
    )


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """`["p=31", "lr=0.01"]` as a dictionary. Raises `ConfigError`."""
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting!r}: write it as key=value, such as --set p=31")
        values[key.strip()] = value.strip()
    return values


def parse_seeds(text: str) -> list[int]:
    """`3`, `0,4,7` or `0:16` (the end is not included). Raises `ConfigError`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            start = int(first)
            stop = int(last) if colon else start + 1
            if stop - start > MOST_SEEDS:
                raise ConfigError(f"--seeds {text!r}: at most {MOST_SEEDS} seeds at once")
            seeds += range(start, stop)
        except ValueError:
            seeds = []
            break
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**32 or len(set(seeds)) != len(seeds):
        raise ConfigError(
            f"--seeds {text!r}: write 3, 0,4,7 or 0:16 (whole numbers below 2^32, each once)"
        )
    return seeds


def find_run(target: str, runs: Path) -> Run:
    """A run by path, or by its name under `runs`; a network directory is imported first.

    Raises `UnknownName` where there is no such thing, or whatever `open_run` finds wrong.
    """
    for path in (Path(target), runs / target):
        if path.is_dir() and not is_run(path) and (path / "weights.safetensors").is_file():
            return import_network(path, runs)
        if path.exists():
            return open_run(path)
    raise UnknownName(
        f"no run {target!r}, here or in {runs}/; `workbench runs` lists what there is"
    )


def is_task_name(target: str, runs: Path) -> bool:
    """Whether a target is a task to train, rather than a run or a network directory.

    Raises `UnknownName` where it is neither.
    """
    if Path(target).exists() or (runs / target).exists():
        return False
    if target in tasks:
        return True
    if "/" in target:
        raise UnknownName(f"no run or network at {target}; `workbench runs` lists what there is")
    raise UnknownName(unknown("task, run or network directory", target, tasks))

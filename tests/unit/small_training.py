"""Trainings of a second: what the tests of the trainer share."""

from typing import Any

import torch

from workbench.model_config import ModelConfig
from workbench.recipe import Recipe
from workbench.task import Task, make_task
from workbench.train import Metrics, Snapshot, fit

CPU = torch.device("cpu")
ADDITION = make_task("modular_addition", {"p": 7})
DIGITS = make_task("digit_addition", {"n_digits": 4})
"""10^8 inputs: too many to list, so batches are sampled."""


def network(task: Task, **changes: Any) -> ModelConfig:
    settings = {
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 16,
        "d_head": 8,
        "d_mlp": 32,
        "d_vocab": len(task.vocabulary),
        "d_vocab_out": len(task.vocabulary),
        "n_ctx": task.n_ctx,
    }
    return ModelConfig(**{**settings, **changes})


def recipe(**changes: Any) -> Recipe:
    """20 steps in which everything that a recipe can vary varies."""
    settings: dict[str, Any] = {
        "steps": 20,
        "lr": ((0, 0.0), (5, 0.02), (20, 0.01)),
        "weight_decay": ((0, 1.0), (10, 0.5)),
        "label_smoothing": ((0, 0.1), (15, 0.0)),
        "average": 0.8,
        "train_fraction": 0.5,
        "evaluate_every": 5,
        "log_checkpoints": 0,
    }
    return Recipe(**{**settings, **changes})


def sampled(**changes: Any) -> Recipe:
    """The same on sampled batches."""
    settings = {
        "batch_size": 20,
        "enriched": "carry_heavy",
        "enriched_share": 0.4,
        "evaluate_on": 30,
        "train_fraction": 0.8,
    }
    return recipe(**{**settings, **changes})


def trained(task: Task, how: Recipe, seeds: list[int], **options: Any) -> list[Snapshot]:
    """Every snapshot; all share one state, the last."""
    return list(fit(task, network(task), how, seeds, device=CPU, **options))


def histories(snapshots: list[Snapshot]) -> dict[int, list[Metrics]]:
    """The metrics of each seed, by step."""
    found: dict[int, list[Metrics]] = {}
    for snapshot in snapshots:
        for seed, metrics in zip(snapshot.seeds, snapshot.metrics, strict=True):
            found.setdefault(seed, []).append(metrics)
    return found

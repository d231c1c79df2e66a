"""A network under study: its weights, its shape, and the task it is meant to do."""

from dataclasses import dataclass, replace

import torch

from workbench.errors import RunError
from workbench.model_config import ModelConfig
from workbench.params import Params, init_params
from workbench.run import Run
from workbench.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network under study, with the task it is meant to do."""

    params: Params
    config: ModelConfig
    task: Task
    init_scale: float = 1.0
    """How large its initial weights were (`Recipe.init_scale`), for untrained twins."""
    query_key_scale: float = 1.0
    """Likewise (`Recipe.query_key_scale`)."""

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.params["embed.W_E"].device


def subject_of(run: Run, *, step: int | None = None, device: torch.device | str = "cpu") -> Subject:
    """A run's network. Raises `RunError` for an incomplete run unless `step` names a checkpoint."""
    if not run.complete and step is None:
        raise RunError(
            f"{run.path} is incomplete; run the same `workbench train` again to resume it, or name "
            f"a checkpoint (there are: {', '.join(map(str, run.steps))})"
        )
    params = {name: tensor.to(device) for name, tensor in run.params(step).items()}
    recipe = run.config.recipe or {}
    return Subject(
        params=params,
        config=run.config.model,
        task=run.task,
        init_scale=recipe.get("init_scale", 1.0),
        query_key_scale=recipe.get("query_key_scale", 1.0),
    )


def untrained(subject: Subject, seed: int) -> Subject:
    """The same shape with fresh random weights, drawn as its own were: a control."""
    fresh = init_params(
        subject.config,
        torch.Generator().manual_seed(seed),
        scale=subject.init_scale,
        query_key_scale=subject.query_key_scale,
    )
    return with_params(subject, fresh)


def with_params(subject: Subject, params: Params) -> Subject:
    """The same shape and task with other weights, of the same dtype and on the same device."""
    embed = subject.params["embed.W_E"]
    moved = {name: tensor.to(embed.device, embed.dtype) for name, tensor in params.items()}
    return replace(subject, params=moved)

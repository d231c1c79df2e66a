"""A run whose stages are built by hand: random weights, then a² embedded, then all of a² + b.

The network added on circles (tests.hand_built) does a² + b once its embedding puts a where a² was.
The second stage has a² embedded, but an MLP that writes nothing. So a² becomes decodable at the
second, used at the third.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.across_training import follow_variable
from probes.sites import ProbeSite
from probes.training_times import AcrossTraining
from tests.hand_built import circle_adder
from workbench.params import Params, init_params
from workbench.progress import finish
from workbench.run import Run, RunConfig, open_run
from workbench.run_writer import RunWriter
from workbench.task import Task, make_task

P = 31
SETTINGS = {"p": P, "equals_token": False, "separate_vocabularies": True}
SQUARES = make_task("modular_square_plus", SETTINGS)
ADDER = circle_adder(make_task("modular_addition", SETTINGS), [1, 5], [20.0, 20.0])
SITES = tuple(ProbeSite(hook=f"blocks.0.hook_resid_{end}", position=1) for end in ("mid", "post"))
MID, POST = map(str, SITES)
STAGES = [0, 10, 20]
DAS_STEPS = 50
RANK = 4
"""Cosine and sine of a², at two frequencies."""


def write_run(path: Path, stages: dict[int, Params], task: Task = SQUARES) -> Run:
    config = RunConfig(
        task=task.to_dict(), model=ADDER.config, recipe=None, seed=3, train_fraction=0.4
    )
    with RunWriter.open(path, config) as writer:
        for step, params in stages.items():
            writer.append_metrics([{"step": step}])
            writer.save_checkpoint(step, {name: part.float() for name, part in params.items()})
        writer.commit(complete=True, stopped="finished")
    return open_run(path)


def random_network(seed: int) -> Params:
    return init_params(ADDER.config, torch.Generator().manual_seed(seed))


def network_of(value: Tensor) -> Params:
    """It answers value[a] + b mod p."""
    params = dict(ADDER.params)
    embed = params["embed.W_E"].clone()
    embed[:P] = ADDER.params["embed.W_E"][value]
    return {**params, "embed.W_E": embed}


def silent(params: Params) -> Params:
    """The same with an MLP that writes nothing."""
    return {**params, "blocks.0.mlp.W_out": torch.zeros_like(params["blocks.0.mlp.W_out"])}


def stages(value: Tensor) -> dict[int, Params]:
    whole = network_of(value)
    return dict(zip(STAGES, (random_network(0), silent(whole), whole), strict=True))


def follow(run: Run, **options: Any) -> AcrossTraining:
    short: dict[str, Any] = {"das_steps": DAS_STEPS, "das_seeds": (0,)}
    return finish(follow_variable(run, "a_squared", rank=RANK, **{**short, **options}))


def squares_run(path: Path) -> Run:
    """The three stages, as a run."""
    return write_run(path, stages(torch.arange(P) ** 2 % P))

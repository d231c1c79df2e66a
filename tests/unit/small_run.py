"""A small network, and a trainer in miniature that records it: what the run tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workbench.model_config import ModelConfig
from workbench.params import Params, init_params
from workbench.run import RunConfig
from workbench.run_writer import RunWriter
from workbench.task import make_task

MODEL = ModelConfig(
    n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=4, d_vocab=6, d_vocab_out=5, n_ctx=3
)
CONFIG = RunConfig(
    task=make_task("modular_addition", {"p": 5}).to_dict(),
    model=MODEL,
    recipe={"name": "fast", "lr": 0.01, "betas": [0.9, 0.98]},
    seed=3,
    train_fraction=0.4,
)
LAST_STEP = 3


def params_at(step: int) -> Params:
    return init_params(MODEL, torch.Generator().manual_seed(step))


def train(
    path: Path, *, last: int = LAST_STEP, after_commit: Callable[[int], None] = lambda step: None
) -> None:
    """A trainer in miniature: resumes where it was, and commits after each step, and at the end."""
    with RunWriter.open(path, CONFIG) as writer:
        state = writer.load_resume()
        start = 0 if state is None else state.step
        if state is not None:
            assert torch.equal(state.tensors["moment"], torch.full((2,), float(start)))
            writer.replay_to(start)
        after_commit(start)
        for step in range(start + 1, last + 1):
            writer.append_metrics([{"step": step, "loss": 1 / step}])
            writer.save_checkpoint(step, params_at(step))
            writer.save_resume(step, {"moment": torch.full((2,), float(step))})
            writer.commit()
            after_commit(step)
        writer.commit(complete=True, stopped="held-out accuracy stayed")
        after_commit(last + 1)


def files_of(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


class Stop(Exception):
    """The trainer in miniature is told to stop."""


def stop_after(path: Path, step: int) -> None:
    def stop(done: int) -> None:
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        train(path, after_commit=stop)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(path)
    return path

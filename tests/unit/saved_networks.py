"""Network directories, right and edited: what the tests of importing share."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.importing import read_network, save_network
from workbench.model_config import ModelConfig
from workbench.params import Params, init_params
from workbench.task import Task, make_task

TASK = make_task("modular_addition", {"p": 5})
MODEL = ModelConfig(
    n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=4, d_vocab=6, d_vocab_out=5, n_ctx=3
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make(path: Path, *, model: ModelConfig = MODEL, task: Task = TASK, seed: int = 0) -> Params:
    """A network directory with random weights; biases random too, so that each one counts."""
    generator = torch.Generator().manual_seed(seed)
    zeros = init_params(model, generator)
    params = {name: torch.randn(zeros[name].shape, generator=generator) for name in zeros}
    save_network(path, params, model, task)
    return params


@pytest.fixture
def network(tmp_path: Path) -> Path:
    make(tmp_path / "network")
    return tmp_path / "network"


def edit(network: Path, section: str | None = None, /, **changes: Any) -> None:
    """Change keys of config.json; `...` removes one."""
    data = json.loads((network / "config.json").read_text())
    target = data if section is None else data[section]
    target.update(changes)
    for key in [key for key, value in target.items() if value is ...]:
        del target[key]
    (network / "config.json").write_text(json.dumps(data))


def weights(network: Path) -> Params:
    return read_network(network).params

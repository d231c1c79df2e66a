"""Sweeps of seconds over networks that are known: what the tests of sweeps share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import probes.sweep
from probes.sweep import Sweep
from tests.known_adder import write_run

POST, MID = "blocks.0.hook_resid_post", "blocks.0.hook_resid_mid"
TINY: dict[str, Any] = {
    "runs": ["runs/known"],
    "variables": ["answer"],
    "hooks": [MID, POST],
    "positions": [1, 2],
    "seeds": [0],
    "n_permutations": 39,
    "n_random_erasures": 2,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs and one that is not, to be copied."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "known")
    write_run(folder / "other", seed=1)
    write_run(folder / "half", seed=2, complete=False)
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with `runs/` in it, which is where commands are given."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # protects from power cuts only
    shutil.copytree(written, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hooks that were computed in this process, in order."""
    hooks: list[str] = []
    real = probes.sweep.probe_hook

    def counted(setting: Any, hook: str) -> Any:
        hooks.append(hook)
        return real(setting, hook)

    monkeypatch.setattr(probes.sweep, "probe_hook", counted)
    yield hooks


def sweep_of(**changes: Any) -> Sweep:
    return Sweep.from_dict({**TINY, **changes})


def content(directory: Path) -> dict[str, tuple[int, int]]:
    """Which file each finished shard is: a shard that is computed again is another file."""
    files = (directory / "shards").iterdir()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))

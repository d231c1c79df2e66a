"""Digests of weights: worked out once for a content, whichever run it is in."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.small_run import no_waiting as no_waiting
from tests.unit.small_run import params_at
from tests.unit.small_run import trained as trained
from workbench import run as running
from workbench.errors import RunError
from workbench.run import open_run
from workbench.tensor_files import weights_digest


def test_the_weights_of_one_content_are_read_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running._digest.cache_clear()
    shutil.copytree(trained, tmp_path / "copy")
    run, copy = open_run(trained), open_run(tmp_path / "copy")
    read: list[str] = []
    original = running.read_recorded

    def counting(path: Path, manifest: Any, name: str) -> bytes:
        read.append(name)
        return original(path, manifest, name)

    monkeypatch.setattr(running, "read_recorded", counting)
    for one in (run, run, copy):
        assert one.weights_sha256() == one.weights_sha256(3) == weights_digest(params_at(3))
        assert one.weights_sha256(1) == weights_digest(params_at(1))
    assert read == ["checkpoints/step-000003.safetensors", "checkpoints/step-000001.safetensors"]


def test_a_step_that_is_none_is_still_refused(trained: Path) -> None:
    run = open_run(trained)
    run.weights_sha256(3)
    with pytest.raises(RunError, match="no checkpoint at step 7; there are: 1, 2, 3"):
        run.weights_sha256(7)

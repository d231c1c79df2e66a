"""What the tests of `workbench probe` share: a folder of networks, and the command run in it."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from apps import cli
from tests.known_adder import MODEL, adder_params, adder_task, write_run
from workbench import config

POST, MID, PRE = (f"blocks.0.hook_resid_{part}" for part in ("post", "mid", "pre"))
TINY = ("hooks=[blocks.0.hook_resid_post]", "seeds=[0]", "n_permutations=19", "n_random_erasures=1")
SCRIPT = """
from probes.script import probe

@probe(runs="runs/known", variables=["answer"], hooks=["blocks.0.hook_resid_post"], seeds=[0])
def length(at):
    return {"length": at.x.norm(dim=-1).mean(-1)}
"""


class Said(NamedTuple):
    status: int
    out: str
    err: str


def make_folder(folder: Path) -> Path:
    """Fill a folder with runs, imported networks, a sweep and a script."""
    write_run(folder / "runs/known")
    write_run(folder / "runs/half", seed=2, complete=False)
    write_network(folder / "network", adder_params(0))
    params = adder_params(0)
    params["blocks.0.mlp.W_in"][0, 0] = torch.nan
    write_network(folder / "nan", params)
    params = {name: tensor * 1e30 for name, tensor in adder_params(0).items()}
    write_network(folder / "huge", params)
    (folder / "sweep.yaml").write_text("runs: [runs/known]\nvariables: [answer]\n")
    (folder / "script.py").write_text(SCRIPT)
    (folder / "other").mkdir()
    (folder / "other/notes.txt").write_text("not results")
    return folder


def write_network(path: Path, params: dict[str, torch.Tensor]) -> None:
    """A network to be imported."""
    path.mkdir()
    about = {"format": 1, "model": config.to_dict(MODEL), "task": adder_task().to_dict()}
    (path / "config.json").write_text(json.dumps(about))
    save_file(params, path / "weights.safetensors")


def workbench(folder: Path, *arguments: str) -> Said:
    """`workbench ARGUMENTS` in a folder, in this process, with what it printed."""
    out, err = folder / "out.txt", folder / "err.txt"
    with (
        pytest.MonkeyPatch().context() as changed,
        out.open("w") as stdout,
        err.open("w") as stderr,
    ):
        changed.chdir(folder)
        changed.setenv("COLUMNS", "80")
        changed.setattr(os, "fsync", lambda descriptor: None)  # protects from power cuts only
        changed.setattr(sys, "argv", ["workbench", *arguments])
        changed.setattr(sys, "stdout", stdout)
        changed.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as end:
            cli.main()
    return Said(int(end.value.code or 0), out.read_text(), err.read_text())


def state(folder: Path) -> dict[str, bytes]:
    said = {folder / "out.txt", folder / "err.txt"}
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p not in said}

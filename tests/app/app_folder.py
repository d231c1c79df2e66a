"""Runs folders for tests of the app's pages, and pages as Streamlit's own test harness sees them.

def test_it(app_folder: Path) -> None:          # the fixture is in tests/app/conftest.py
    page = opened("network", app_folder, run=FULL)
    assert not page.exception
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from apps.web.choice import RUNS
from circuits.analyses.circuit import CircuitAnalysis
from circuits.analyses.mechanism import MechanismAnalysis
from circuits.analyses.patching import PatchingAnalysis
from probes.analyses.probe import ProbeAnalysis
from tests.hand_built import circle_adder
from workbench import config
from workbench.importing import import_network
from workbench.recipe import find_recipe
from workbench.records import ask
from workbench.run import open_run
from workbench.session import save_session
from workbench.task import make_task
from workbench.training import train

P = 23
FRESH, FULL, IMPORTED = "fresh", "full", "imported"
"""Names of the runs: trained and nothing asked yet, with a record of every kind, and imported."""
SESSION = "full.workbench"
"""Beside the runs folder: the full run as a session."""


def make_app_folder(folder: Path) -> None:
    """Fill a folder: `runs/fresh`, `runs/full`, `runs/imported`, and `full.workbench`."""
    runs, training = folder / "runs", folder / "training"
    recipe = replace(find_recipe("modular"), train_fraction=0.8, log_checkpoints=3)
    task = make_task("modular_addition", {"p": P})
    trained = train(task, seeds=[0], recipe=recipe, runs=training)
    runs.mkdir()
    shutil.copytree(trained[0].run.path, runs / FRESH)
    trained[0].run.path.rename(runs / FULL)
    full = open_run(runs / FULL)
    for analysis in (
        MechanismAnalysis(n_draws=4),
        PatchingAnalysis(site="head", by=("position",), pairs=32),
        CircuitAnalysis(pairs=32),
        ProbeAnalysis(variables=("answer",), positions=(2,), n_permutations=99),
    ):
        ask(full, analysis)
    save_session(full, folder / SESSION, note="A circle carries the sum.")
    _import(folder / "network", runs)


def opened(page: str, folder: Path, **address: str) -> AppTest:
    """A page of the app on a folder of `make_app_folder`, with an address such as `run="full"`."""
    os.environ[RUNS] = str(folder / "runs")  # the fixture `app_folder` puts it back
    test = AppTest.from_function(_script, args=(page,), default_timeout=60)
    for name, value in address.items():
        test.query_params[name] = value
    return test.run()


def unfolded(page: AppTest, *keys: str) -> AppTest:
    """The page with the tables of these charts unfolded."""
    for key in keys:
        page.session_state[f"{key}_folder"] = True
    return page.run()


def _script(page: str) -> None:  # run from its source, so it imports for itself
    from apps.web.shell import draw_page

    draw_page(page)


def _import(network: Path, runs: Path) -> None:
    """A network built by hand, as somebody might have published it."""
    settings = {"p": 11, "equals_token": False, "separate_vocabularies": True}
    subject = circle_adder(make_task("modular_addition", settings), (1, 3), (1.0, 1.0))
    network.mkdir()
    about = {
        "format": 1,
        "model": config.to_dict(subject.config),
        "task": subject.task.to_dict(),
    }
    (network / "config.json").write_text(json.dumps(about))
    save_file(
        {name: one.float().clone().contiguous() for name, one in subject.params.items()},
        network / "weights.safetensors",
    )
    import_network(network, runs).path.rename(runs / IMPORTED)

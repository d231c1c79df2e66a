"""How the tests run: by files in two processes, each with one thread, for their tensors are tiny.

A second thread would only wait, and so it does in numpy and in the processes that tests start;
hence the environment, which is read when torch and numpy are imported. A file keeps to one
process, which makes its fixtures once; the longest files come first, so that no process waits for
the other's last one. A file that is asked for alone starts sooner without a
second process. `-n 0` keeps everything in one; any other `-n` is taken as it is.
"""

import gc
import os
from pathlib import Path

import pytest

from tests import type_checks

LONGEST = (
    "test_engines.py",
    "test_app_robust.py",
    "test_journey_browser.py",
    "test_readme.py",
    "test_gates.py",
    "test_circuit_oracle.py",
    "test_cli.py",
    "test_evaluate.py",
    "test_restart.py",
    "test_batch_kill.py",
)
"""The first to run, in this order."""

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[threads] = "1"

type_checks.install()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Set the options of pytest-xdist, which reads them next; without it there is one process."""
    if not config.pluginmanager.has_plugin("xdist") or hasattr(config, "workerinput"):
        return  # a worker that started workers would never end starting them
    option = config.option
    folders = [name for name in config.args if Path(name).is_dir()]
    if option.numprocesses is None and folders and not option.usepdb:
        option.numprocesses = min(2, os.cpu_count() or 1)
    if option.numprocesses and option.dist == "no":
        option.dist = "loadfile"
    option.loadscopereorder = False  # files with many tests are not the long ones


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; all others keep their places."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Check types anew in each test."""
    type_checks.checked.clear()


def pytest_collection_finish() -> None:
    """Keep the many modules that are there by now out of each later search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What is kept out of that search is let go at the end."""
    gc.unfreeze()

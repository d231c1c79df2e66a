"""What the tests of the app's pages share."""

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.web.cache import forget
from apps.web.choice import RUNS
from tests.app.app_folder import make_app_folder


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """Streamlit's test harness puts each script in the place of `__main__`, which processes that
    are started later would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def filled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `make_app_folder`, made once for all test processes. Only to be read."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "app"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "whole").exists():
            make_app_folder(shared)
            (shared / "whole").touch()
    return shared


@pytest.fixture
def app_folder(
    filled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of it for one test to write into."""
    import shutil

    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copytree(filled_folder / "runs", folder / "runs")
    shutil.copy(filled_folder / "full.workbench", folder)
    monkeypatch.setenv(RUNS, str(folder / "runs"))
    yield folder
    forget()


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without any run."""
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv(RUNS, str(tmp_path / "runs"))
    yield tmp_path
    forget()

"""What the tests of the app's pages share."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.web.cache import forget
from apps.web.choice import RUNS
from tests.app.app_folder import make_app_folder
from tests.app.browsing import RunningApp, chromium, require_browser, running_app

BROWSED = (
    "that people can use the app, that it runs nothing of a stranger's, asks nothing of the "
    "network and hides its faults"
)


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


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for a file: while Playwright is open, no other test may run an event loop."""
    with chromium(BROWSED) as found:
        yield found


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """One server for all tests of this process; `app` and `full_app` put runs into its folder."""
    require_browser(BROWSED)
    folder = tmp_path_factory.mktemp("served")
    (folder / "runs").mkdir()
    with running_app(folder / "runs", log=folder / "log") as found:
        yield found


@pytest.fixture
def app(served: RunningApp) -> Iterator[RunningApp]:
    """The app without any run; at the end its pages have done nothing that they should not."""
    fill(served, None)
    yield served
    served.assert_quiet()


@pytest.fixture
def full_app(app: RunningApp, filled_folder: Path) -> RunningApp:
    """The same with the runs of `filled_folder`, to write into."""
    fill(app, filled_folder)
    return app


def fill(served: RunningApp, filled: Path | None) -> None:
    """Have a server begin anew, with the runs of a folder or with none."""
    for path in served.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if filled is not None:
        shutil.copytree(filled / "runs", served.folder, dirs_exist_ok=True)
    served.begin()

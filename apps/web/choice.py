"""Which network is looked at: a run of the runs folder, at a checkpoint.

    network = chosen_network()      # from the address, `?run=...&step=...`; None if there is none

Runs are named by their folder's name, never by a path: what a visitor types is looked up among the
runs that there are.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from apps.web.cache import remembered
from workbench.device import find_device
from workbench.errors import RunError
from workbench.manifest import CHECKPOINTS, CONFIG, MANIFEST, step_path
from workbench.params import Params
from workbench.run import Run, is_run, open_run
from workbench.storage import explained, read_file, sha256
from workbench.subject import Subject, subject_of
from workbench.task import Task

RUNS = "WORKBENCH_RUNS"
"""The environment variable that names the runs folder (`workbench app --runs`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A run's network at a checkpoint; equal where the bytes are, so that caches can go by it."""

    content: str
    """Digests of the run's configuration and of the checkpoint."""
    run: Run = field(compare=False, repr=False)
    step: int = field(compare=False)

    @property
    def task(self) -> Task:
        """What it was trained to do."""
        return self.run.task

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.path.name


def runs_folder() -> Path:
    """Where runs are kept."""
    return Path(os.environ.get(RUNS, "runs")).absolute()


def run_names() -> list[str]:
    """The names of the runs there are, the newest first.

    Left out: what cannot be looked into, what is removed meanwhile, names that are no text.
    """
    folder = runs_folder()
    if not folder.is_dir():
        return []
    with explained("list", folder):
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    runs = [(changed, path.name) for path in found if (changed := _changed(path)) is not None]
    return [name for _, name in sorted(runs, key=lambda run: run[0], reverse=True)]


def find_run(name: str) -> Run:
    """The run of this name, every byte checked once. Raises `RunError`."""
    if name not in run_names():
        raise RunError(f"no run {name!r} in {runs_folder().name}; choose one from the menu")
    path = runs_folder() / name
    return _opened(path, sha256(read_file(path, MANIFEST)))


def network_of(run: Run, step: int | None = None) -> Network:
    """A run's network at a checkpoint (the last when None). Raises `RunError`."""
    if not run.steps or (step is not None and step not in run.steps):
        run.params(step)  # raises, and says which there are
    step = run.steps[-1] if step is None else step
    files = run.manifest.files
    digests = f"{files[CONFIG].sha256}-{files[step_path(CHECKPOINTS, step)].sha256}"
    return Network(content=digests, run=run, step=step)


def chosen_network() -> Network | None:
    """The network in the address (put there by `apps.web.shell`), or None. Raises `RunError`."""
    name = st.session_state.get("run")
    if not name:
        return None
    run = find_run(name)
    if not run.steps:
        return None
    step = st.session_state.get("step")
    return network_of(run, step if step in run.steps else None)


def required_network() -> Network | None:
    """The chosen network; where there is none, None after saying on the page how to get one."""
    network = chosen_network()
    if network is None:
        name = st.session_state.get("run")
        st.info(
            f"{name} has no checkpoint yet: watch it on the Train page."
            if name
            else "There is no network yet. Train one on the Train page (seconds), or open a "
            "session on the Findings page.",
            icon=":material/school:",
        )
    return network


@remembered
def params_of(network: Network) -> Params:
    """The weights, on the device that the app computes on. Shared: never written to."""
    device = find_device("auto")
    return {name: one.to(device) for name, one in network.run.params(network.step).items()}


@remembered
def subject(network: Network) -> Subject:
    """The network as a subject of study."""
    return subject_of(network.run, step=network.step, device=find_device("auto"))


@remembered
def _opened(path: Path, manifest: str) -> Run:
    return open_run(path)


def _changed(path: Path) -> float | None:
    """When a run changed last; None for what is none that can be shown."""
    try:
        path.name.encode()
        return (path / MANIFEST).stat().st_mtime if is_run(path) else None
    except (OSError, UnicodeEncodeError):
        return None

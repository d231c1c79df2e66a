"""Probing many networks in a job: what `workbench probe run` does, into the runs folder.

A sweep is a folder `<runs>/.sweeps/<id>/`: its question as YAML, which the command line takes too,
and its results (`probes.batch`). However a job was stopped, the same order resumes it: what is
finished is kept, and nothing is computed twice.
"""

import re
import secrets
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apps.web.jobs.order import Order, orders
from workbench.errors import AppError, SweepError
from workbench.progress import Progress
from workbench.storage import atomic_write, explained

if TYPE_CHECKING:
    from probes.sweep import Sweep

SWEEPS = ".sweeps"
"""In the runs folder; no run, as its name begins with a dot."""
QUESTION, RESULTS = "sweep.yaml", "results"
_ID = re.compile(r"[a-z0-9-]{1,40}-[0-9a-f]{8}")
_PATTERNS = frozenset("*?[")
"""Characters that make a name a pattern, where a sweep names its runs."""


@orders.register("sweep")
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOrder(Order):
    """Probe runs; the result is `{"sweep": id, "shards": number}`. The same order again resumes."""

    kind: ClassVar[str] = "sweep"

    sweep: str
    """Its id (`new_id`)."""
    runs: tuple[str, ...]
    """Names of runs."""
    question: dict[str, Any] = field(default_factory=dict)
    """Fields of `probes.sweep.SweepSpec` that differ from its defaults, but `runs`."""

    def title(self) -> str:
        return f"Sweep {self.sweep}"

    def prepare(self, runs: Path) -> "Sweep":
        """The sweep, its folder made and its question written down.

        Raises `AppError` for what is no id or no run, `ConfigError` for a wrong question.
        """
        folder, sweep = sweep_folder(runs, self.sweep), self.sweep_in(runs)
        if not (folder / QUESTION).exists():
            with explained("create", folder):
                folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / QUESTION, self.yaml(runs).encode())
        return sweep

    def yaml(self, runs: Path) -> str:
        """The question for `workbench probe run`, given beside the runs folder."""
        import yaml

        named = [f"{runs.name}/{name}" for name in self.runs]
        text: str = yaml.safe_dump(
            {"runs": named, **self.question}, sort_keys=False, default_flow_style=None, width=100
        )
        return text

    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        sweep = self.prepare(runs)
        yield Progress(0, 0, "looking at every run")
        shards = len(sweep.plan().shards)
        with closing(sweep.steps(sweep_folder(runs, self.sweep) / RESULTS)) as steps:
            for done in steps:
                words = "a shard failed" if done.error else f"{done.seconds:.1f} s for the last one"
                yield Progress(done.done, done.total, f"shards: {words}")
        return {"sweep": self.sweep, "shards": shards}

    def sweep_in(self, runs: Path) -> "Sweep":
        """The sweep over these runs. Raises `AppError` for what is no run, or `ConfigError`."""
        from probes.sweep import Sweep
        from workbench.run import is_run

        for name in self.runs:
            if Path(name).name != name or _PATTERNS & set(name) or not is_run(runs / name):
                raise AppError(f"no run {name!r} to probe; choose runs from the list")
        asked = {**self.question, "runs": list(self.runs)}
        return replace(Sweep.from_dict(asked, where="the sweep"), base=runs.absolute())


def new_id(variables: Iterable[str]) -> str:
    """An id for a sweep: a word that says what it is about, and digits that nothing else has."""
    word = re.sub(r"[^a-z0-9]+", "-", "-".join(variables).lower()).strip("-")[:40].strip("-")
    return f"{word or 'sweep'}-{secrets.token_hex(4)}"


def sweep_folder(runs: Path, sweep: str) -> Path:
    """The folder of a sweep. Raises `AppError` for what is no id."""
    if not _ID.fullmatch(sweep):
        raise AppError(f"no sweep {sweep[:80]!r}; choose one from the list")
    return runs / SWEEPS / sweep


def sweep_ids(runs: Path) -> list[str]:
    """The sweeps there are, the newest first. Raises `RunError`."""
    folder = runs / SWEEPS
    if not folder.is_dir():
        return []
    with explained("list", folder):
        found = [
            path
            for path in folder.iterdir()
            if _ID.fullmatch(path.name) and (path / QUESTION).is_file()
        ]
        found.sort(key=lambda path: (-(path / QUESTION).stat().st_mtime, path.name))
    return [path.name for path in found]


def order_of(runs: Path, sweep: str) -> SweepOrder:
    """The order that a sweep was started with, from its question. Raises `WorkbenchError`s."""
    from probes.yaml_files import read_yaml

    asked = read_yaml(sweep_folder(runs, sweep) / QUESTION)
    named = asked.pop("runs", None)
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise SweepError(f"the sweep {sweep} names no runs; start another one")
    return SweepOrder(sweep=sweep, runs=tuple(Path(one).name for one in named), question=asked)

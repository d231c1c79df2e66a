"""Saved sessions, measured: a p = 113 network with every kind of finding, and 200 checkpoints.

    python -m tests.bench.sessions

Prints seconds (median and range) to save, verify and open, the size of the file, seconds to ask
each question and to replay them all, whether they hold, and the same for 200 checkpoints.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from circuits.analyses.circuit import CircuitAnalysis
from circuits.analyses.mechanism import MechanismAnalysis
from circuits.analyses.patching import PatchingAnalysis
from probes.analyses.probe import ProbeAnalysis
from workbench.records import ask
from workbench.run import Run, RunConfig, open_run
from workbench.run_writer import RunWriter
from workbench.session import open_session, replay, save_session, verify
from workbench.task import make_task
from workbench.training import train

CHECKPOINTS = 200
QUESTIONS = (
    MechanismAnalysis(),
    PatchingAnalysis(site="head", by=("position",)),
    CircuitAnalysis(),
    ProbeAnalysis(variables=("answer",)),
)


def timed(work: Callable[[], Any], rounds: int = 7) -> str:
    """Median and range of some rounds, in milliseconds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    low, high = (1000 * f(seconds) for f in (min, max))
    return f"{1000 * statistics.median(seconds):.0f} ms ({low:.0f}-{high:.0f})"


def tell(console: Console, run: Run, path: Path, **options: Any) -> None:
    """Time to save, verify and open one session."""
    console.print("save  ", timed(lambda: save_session(run, path, **options)))
    console.print("verify", timed(lambda: verify(path)))
    console.print("open, every finding listed", timed(lambda: open_session(path).findings))
    console.print(f"size   {path.stat().st_size:,} bytes")


def many_checkpoints(run: Run, path: Path) -> Run:
    """A run of 200 checkpoints, each the network's weights and a little more."""
    config: RunConfig = run.config
    with RunWriter.create(path, replace(config)) as writer:
        for step in range(CHECKPOINTS):
            params = {name: x + 1e-6 * step for name, x in run.params().items()}
            writer.save_checkpoint(step, params)
        writer.commit(complete=True, stopped="made for timing")
    return open_run(path)


def main() -> None:
    """Print the measurements."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        (outcome,) = train(make_task("modular_addition"), seeds=[0], runs=Path(folder) / "runs")
        path = Path(folder) / "all.workbench"
        for question in QUESTIONS:
            record = ask(outcome.run, question).record
            console.print(f"asked {record.kind}: {record.seconds:.1f} s")
        tell(console, outcome.run, path)
        started = time.perf_counter()
        replayed = replay(open_session(path))
        held = sum(one.state == "holds" for one in replayed)
        console.print(
            f"replay {time.perf_counter() - started:.1f} s: {held} of {len(replayed)} hold"
        )
        console.print(f"{CHECKPOINTS} checkpoints:")
        run = many_checkpoints(outcome.run, Path(folder) / "many")
        tell(console, run, Path(folder) / "many.workbench", all_checkpoints=True)


if __name__ == "__main__":
    main()

"""Replaying a session: ask every question again, on this machine, and say which answers hold.

Only the weights and the questions are taken from the file. Answers are computed anew, claims,
controls and verdicts included, and compared with the recorded ones (`comparing`). A file cannot
widen what counts as the same: where the analysis' own tolerance is tighter, that one counts.
"""

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from workbench.analysis import Recorded, analysis_from, record_steps
from workbench.errors import SessionError, WorkbenchError
from workbench.progress import Progress, finish
from workbench.record import Record, named
from workbench.run import Run
from workbench.session.comparing import Comparison, compare
from workbench.session.opening import write_run
from workbench.session.saving import split_sha256
from workbench.session.session import Session

State = Literal["holds", "drifted", "cannot run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of one record."""

    record: Record
    state: State
    why: str
    """What drifted most, or why it cannot run; empty where it holds."""
    comparison: Comparison | None
    """None where it cannot run."""
    seconds: float


def replay(
    session: Session, *, device: torch.device | str = "cpu", only: Sequence[str] | None = None
) -> list[Replayed]:
    """`replay_steps` without progress, for notebooks."""
    return finish(replay_steps(session, device=torch.device(device), only=only))


def replay_steps(
    session: Session, *, device: torch.device, only: Sequence[str] | None = None
) -> Generator[Progress, None, list[Replayed]]:
    """Replay the records of a session, in order (those that `only` names, by id, kind or finding).

    The network goes into a temporary run directory that is removed afterwards. Raises
    `SessionError` for a name that there is not, or where the weights are damaged.
    """
    records = named(session.records, only)
    seconds = max(sum(record.seconds for record in records), 1e-9)
    found, done = [], 0.0
    with tempfile.TemporaryDirectory(prefix="workbench-replay-") as folder:
        for i, record in enumerate(records):
            steps = _replay(session, record, Path(folder) / str(i), device)
            share, before = max(record.seconds, 1e-9) / seconds, done
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    found.append(end.value)
                    break
                done = before + share * progress.done / max(progress.total, 1)
                yield Progress(int(1000 * min(done, 1)), 1000, f"{record.kind}: {progress.doing}")
            done = before + share
    return found


def _replay(
    session: Session, record: Record, path: Path, device: torch.device
) -> Generator[Progress, None, Replayed]:
    """One record, on a run of just the checkpoints that it speaks of."""
    yield Progress(0, 1, "reading weights")
    arrays = session.arrays(record)
    run = write_run(session, path, [one.step for one in record.checkpoints])
    try:
        analysis = analysis_from(record.kind, record.parameters)
        _require_same_split(session, run)
        again = yield from record_steps(analysis, run, step=record.step, device=device)
    except (WorkbenchError, ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        return Replayed(record=record, state="cannot run", why=why, comparison=None, seconds=0.0)
    comparison = compare(Recorded(record, arrays), again, analysis.tolerances)
    drift = comparison.differences
    return Replayed(
        record=record,
        state="drifted" if drift else "holds",
        why=_told(drift) if drift else "",
        comparison=comparison,
        seconds=again.record.seconds,
    )


def _told(drift: Sequence[object]) -> str:
    more = f"; and {len(drift) - 1} more" if len(drift) > 1 else ""
    return f"{drift[0]}{more}"


def _require_same_split(session: Session, run: Run) -> None:
    stated = session.network.split_sha256
    if stated != split_sha256(run):
        raise SessionError(
            "this machine draws other training inputs from the seed than the file was made with; "
            "replay it with the torch version that it names"
        )

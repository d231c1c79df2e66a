"""Replaying a session: ask every question again, on this machine, and say which answers hold.

Only the weights and the questions are taken from the file, which is verified first. Answers are
computed anew, claims, controls and verdicts included, and compared with the recorded ones
(`comparing`). A file cannot widen what counts as the same: where the analysis' own tolerance is
tighter, that one counts. What a replay cannot check is the author's word: the numbers of steps, the
training curve and recipe, notes and marks, who made it, when and with what.
"""

import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from workbench.analysis import Recorded, analysis_from, record_steps
from workbench.errors import SessionError
from workbench.progress import Progress, finish
from workbench.record import Record, named
from workbench.run import Run
from workbench.session.comparing import Comparison, compare
from workbench.session.opening import write_run
from workbench.session.saving import split_sha256
from workbench.session.session import Session
from workbench.session.verifying import verify
from workbench.strict import one_line

State = Literal["holds", "drifted", "cannot run"]
LIMIT = 600.0
"""Seconds that one record may take, where nobody says otherwise: a file may ask for any amount."""


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
    session: Session,
    *,
    device: torch.device,
    only: Sequence[str] | None = None,
    limit: float = LIMIT,
) -> Generator[Progress, None, list[Replayed]]:
    """Replay the records of a session, in order (those that `only` names, by id, kind or finding).

    A record that takes more than `limit` seconds cannot run. The network goes into a temporary run
    directory that is removed after each record. Raises `SessionError` for a name that there is not,
    or where the file is damaged.
    """
    verify(session.path)
    records = named(session.records, only)
    seconds = max(sum(record.seconds for record in records), 1e-9)
    found, done = [], 0.0
    for record in records:
        steps = _replay(session, record, device, limit)
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
    session: Session, record: Record, device: torch.device, limit: float
) -> Generator[Progress, None, Replayed]:
    """One record. Whatever goes wrong with a stranger's parameters, the other records go on."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="workbench-replay-") as folder:
        path = Path(folder) / "session"
        try:
            again = yield from _ask(session, record, path, device, started + limit)
            arrays = session.arrays(record)
        except Exception as error:
            why = one_line(str(error).replace(str(path), "the session") or type(error).__name__)
            seconds = time.monotonic() - started
            return Replayed(
                record=record, state="cannot run", why=why, comparison=None, seconds=seconds
            )
    asked = analysis_from(record.kind, record.parameters)
    comparison = compare(Recorded(record, arrays), again, asked.tolerances, added=asked.added)
    drift = comparison.differences
    more = f"; and {len(drift) - 1} more" if len(drift) > 1 else ""
    return Replayed(
        record=record,
        state="drifted" if drift else "holds",
        why=one_line(f"{drift[0]}{more}") if drift else "",
        comparison=comparison,
        seconds=again.record.seconds,
    )


def _ask(
    session: Session, record: Record, path: Path, device: torch.device, deadline: float
) -> Generator[Progress, None, Recorded]:
    """The record's question, asked of a run of just the checkpoints that it speaks of."""
    yield Progress(0, 1, "reading weights")
    analysis = analysis_from(record.kind, record.parameters)
    run = write_run(session, path, [one.step for one in record.checkpoints])
    _require_same_split(session, run)
    steps = record_steps(analysis, run, step=record.step, device=device)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            again: Recorded = end.value
            return again
        if time.monotonic() > deadline:
            raise SessionError("it takes longer than the limit; give it more with --limit")
        yield progress


def _require_same_split(session: Session, run: Run) -> None:
    if session.network.split_sha256 != split_sha256(run):
        raise SessionError(
            "this machine draws other training inputs from the seed than the file was made with; "
            "replay it with the torch version that it names"
        )

"""SQL by whoever: one SELECT over results, in a process of its own with a limit on everything.

    answer = closed_query(results.table(), "SELECT variable, max(value) FROM results GROUP BY ALL")

`Results.query` is for whoever owns the machine; this is for a page that others may see.
"""

import io
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from probes.batch import closed
from workbench.errors import SweepError

GRACE = 2.0
"""Seconds that the process may take to start and to end, beyond its limit."""
LONGEST = 10_000
"""Characters of a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a query may take."""

    seconds: float = 5.0
    rows: int = 1000
    """The first so many are given."""
    bytes: int = 512 * 2**20
    """Memory of the process, beyond what it needs to start; the answer takes at most a sixteenth of
    it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query gave."""

    table: pa.Table
    more: bool
    """Whether there are further rows."""


def closed_query(rows: pa.Table, sql: str, *, limits: Limits | None = None) -> Answer:
    """The answer to one SELECT over `rows`, which it calls `results`.

    It can read no file, no address and no variable of ours, write nothing and change no setting.
    Raises `SweepError`, in one line, for anything but one SELECT, for SQL that does not fit the
    columns, and where the query takes longer or more memory than it may.
    """
    limits = limits or Limits()
    if len(sql) > LONGEST:
        raise SweepError(f"a query of {len(sql):,} characters; write at most {LONGEST:,}")
    said = _ask(_question(rows, sql, limits), limits)
    line, _, stream = said.partition(b"\n")
    told = json.loads(line)
    if "error" in told:
        words = {closed.LATE: _late(limits), closed.LARGE: _large(limits)}
        raise SweepError(words.get(told["error"], told["error"]))
    return Answer(table=pa.ipc.open_stream(stream).read_all(), more=told["more"])


def _question(rows: pa.Table, sql: str, limits: Limits) -> bytes:
    asked = {"sql": sql, "seconds": limits.seconds, "rows": limits.rows, "bytes": limits.bytes}
    file = io.BytesIO()
    file.write(json.dumps(asked).encode() + b"\n")
    with pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)
    return file.getvalue()


def _ask(question: bytes, limits: Limits) -> bytes:
    """What the process says. Raises `SweepError` where it had to be stopped."""
    try:
        ended = subprocess.run(
            [sys.executable, "-I", str(Path(closed.__file__))],
            input=question,
            capture_output=True,
            env={},
            timeout=limits.seconds + GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SweepError(_late(limits)) from None
    if ended.returncode == -signal.SIGXCPU:
        raise SweepError(_late(limits))
    if ended.returncode:  # with no memory left, it ends as it can
        raise SweepError(_large(limits))
    if len(ended.stdout) > limits.bytes // 16:
        raise SweepError(_large(limits))
    return ended.stdout


def _late(limits: Limits) -> str:
    return f"the query took longer than {limits.seconds:g} s and was stopped; ask for less"


def _large(limits: Limits) -> str:
    return (
        f"the query took more than {limits.bytes // 2**20} MiB of memory, or answers too much, and "
        "was stopped; ask for less"
    )

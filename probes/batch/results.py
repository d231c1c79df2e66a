"""Reading a results directory, while a run goes on or after it.

`Results(directory).table()` are the rows of all finished shards; `query("SELECT ... FROM results")`
asks them in SQL, in a DuckDB that lives in memory and can reach neither files nor the network. No
DuckDB file is ever opened, so readers and writers do not meet.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from torch import Tensor

from probes.batch.claims import STALE_AFTER, claim_path, is_running
from probes.batch.closed import VIEW, connect, one_line, refusal
from probes.batch.plan import FrozenPlan, read_plan
from probes.batch.shards import ShardStore
from workbench.errors import SweepError


class Status(NamedTuple):
    """How far a results directory has come; the first five are numbers of shards."""

    total: int
    done: int
    failed: int
    """Failed when last tried, and not finished since."""
    running: int
    """Claimed by somebody who is at it."""
    stale: int
    """Claimed by somebody who is gone; the next run takes them over."""
    bytes: int
    """Of the finished shards, tensors included."""
    rows: int


@dataclass(frozen=True, slots=True)
class Results:
    """The finished shards of a results directory."""

    directory: Path

    def plan(self) -> FrozenPlan:
        """What was to be computed. Raises `SweepError` where this is no results directory."""
        return read_plan(self.directory)

    def keys(self) -> list[str]:
        """The keys of the finished shards, in the order of the plan. Raises `SweepError`."""
        store = ShardStore(self.directory)
        return [key for key in self.plan().keys if store.is_done(key)]

    def table(self) -> pa.Table:
        """All rows: shards in the order of the plan, rows as computed; `shard` is the key.

        An empty table where nothing is finished yet. Raises `SweepError` where a shard is damaged,
        or where columns of one name have types that do not go together.
        """
        store = ShardStore(self.directory)
        tables = [store.table(key) for key in self.keys()]
        try:
            return (
                pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
            )
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise SweepError(
                f"shards of {self.directory} do not go together: {reason}; "
                "give a column the same type in every shard"
            ) from None

    def tensors(self, key: str) -> dict[str, Tensor]:
        """What one shard learned, by its key. Raises `SweepError` where it is not finished."""
        return ShardStore(self.directory).tensors(key)

    def relation(self) -> Any:
        """All rows as a `duckdb.DuckDBPyRelation`, in memory. Raises `SweepError` without any."""
        return connect(self._rows()).view(VIEW)

    def query(self, sql: str) -> pa.Table:
        """The answer to one SELECT over the view `results`.

        Raises `SweepError`, in one line, for anything but one SELECT, for SQL that does not fit the
        columns, and where nothing is finished yet. It may take all of the machine: what a stranger
        writes is for `probes.batch.closed_query`.
        """
        rows = self._rows()
        connection = connect(rows)
        try:
            refused = refusal(connection, sql)
            if refused:
                raise SweepError(refused)
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise SweepError(one_line(error, rows.column_names)) from None
        finally:
            connection.close()

    def _rows(self) -> pa.Table:
        table = self.table()
        if not table.column_names:
            raise SweepError(f"no shard of {self.directory} is finished yet; wait, or run its plan")
        return table


def status(directory: Path, *, stale_after: float = STALE_AFTER) -> Status:
    """How far a results directory has come. Raises `SweepError` where it is none.

    Cheap: a shard counts as done by its footer. Damage before the footer is found where the rows
    are read, and by the next run, which computes such a shard again.
    """
    store, now = ShardStore(directory), time.time()
    keys = read_plan(directory).keys
    done = failed = running = stale = size = rows = 0
    for key in keys:
        footer = store.footer(key)
        if footer is not None:
            done, rows = done + 1, rows + footer.rows
            size += _size(store.rows_path(key)) + _size(store.tensors_path(key))
            continue
        if is_running(directory, key, now=now, stale_after=stale_after):
            running += 1
        elif store.failure(key) is not None:
            failed += 1
        else:
            stale += claim_path(directory, key).exists()
    return Status(len(keys), done, failed, running, stale, size, rows)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

"""A DuckDB that reaches nothing but one table; also a program that answers one query and ends.

    python closed.py < question > answer

DuckDB's own limits do not hold everywhere: a text of gigabytes, or a list of a billion numbers, is
made in one go, past its memory limit and deaf to interrupts. So queries that a stranger may write
are asked in a process of its own (`probes.batch.closed_query`), which the system stops. It starts
for every query: hence no import but these.

Question and answer are a line of JSON, then a table as an Arrow stream.
"""

import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

VIEW = "results"
"""What the rows are called in SQL."""

_CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # SQL would see our own variables
    "temp_directory": "",  # large queries would write beside the user's files
}

LATE, LARGE = "late", "large"
"""What an answer says where the query ran into a limit."""

# DuckDB complains at exit of classes still in use, and type checkers at run time keep what they see
# in annotations: hence `Any`.


def connect(rows: pa.Table, **settings: str | int) -> Any:
    """A connection whose only table is `results`, and which files and settings are closed to."""
    connection = duckdb.connect(":memory:", config={**_CONFIGURATION, **settings})
    connection.register(VIEW, rows)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def refusal(connection: Any, sql: str) -> str | None:
    """Why SQL is not asked: it is not one SELECT. Raises `duckdb.Error` where it is no SQL."""
    statements = connection.extract_statements(sql)
    if [one.type for one in statements] == [duckdb.StatementType.SELECT]:
        return None
    return (
        f"only one SELECT can be asked, got {' '.join(sql.split())[:80]!r}; "
        f"write SELECT ... FROM {VIEW}"
    )


def one_line(error: Exception, columns: list[str]) -> str:
    """What DuckDB says of a query, in one line, and what columns there are."""
    said = str(error).split("\n\nLINE ")[0]
    message = "; ".join(part.strip() for part in said.splitlines() if part.strip())[:300]
    return f"{message}; the view {VIEW} has the columns {', '.join(columns)}"


# ---------------------------------------------------------------------- the program


def main(read: BinaryIO, write: BinaryIO) -> None:
    """Answer the question on `read`."""
    asked = json.loads(read.readline())
    rows = pa.ipc.open_stream(read.read()).read_all()
    connection = connect(rows, memory_limit=f"{asked['bytes'] // 2**21}MiB", threads=1)
    late = threading.Timer(asked["seconds"], connection.interrupt)
    late.daemon = True
    late.start()
    _limit(asked["seconds"], asked["bytes"])  # last: whatever needs a thread has one
    found = None
    try:
        found, told = _answer(connection, asked["sql"], asked["rows"])
    except duckdb.InterruptException:
        told = {"error": LATE}
    except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError):
        told = {"error": LARGE}
    except (duckdb.Error, pa.ArrowException) as error:
        told = {"error": one_line(error, rows.column_names)}
    late.cancel()
    write.write(json.dumps(told).encode() + b"\n")
    if found is not None:
        with pa.ipc.new_stream(write, found.schema) as stream:
            stream.write_table(found)
    write.flush()


def _answer(connection: Any, sql: str, most: int) -> tuple[pa.Table | None, dict[str, Any]]:
    """The first so many rows, and whether there are more."""
    refused = refusal(connection, sql)
    if refused:
        return None, {"error": refused}
    batches, n = [], 0
    reader = pa.RecordBatchReader.from_stream(connection.sql(sql))
    for batch in reader:
        batches.append(batch)
        n += len(batch)
        if n > most:
            break
    found = pa.Table.from_batches(batches, reader.schema).slice(0, most)
    return found, {"more": n > most}


def _limit(seconds: float, size: int) -> None:
    """What the system holds this process to: so much memory beyond what it has by now."""
    limits = {
        resource.RLIMIT_CPU: int(seconds) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    held = Path("/proc/self/statm")  # where the system does not tell, DuckDB's own limit is left
    if held.exists():
        pages = int(held.read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + size
    for what, limit in limits.items():
        _, hard = resource.getrlimit(what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # threads that still wait would make Python's own way out abort, now and then

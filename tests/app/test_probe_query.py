"""SQL by whoever: what a query cannot do, and what stops it."""

from pathlib import Path

import pyarrow as pa
import pytest

from probes.batch.closed_query import Limits, closed_query
from workbench.errors import SweepError

ROWS = pa.table({"variable": ["a", "b"] * 50, "value": [i / 100 for i in range(100)]})
FILE = Path(__file__).as_posix()
SHORT = Limits(seconds=0.5)


def refused(sql: str, limits: Limits | None = None) -> str:
    with pytest.raises(SweepError) as raised:
        closed_query(ROWS, sql, limits=limits)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_select_is_answered() -> None:
    sql = "SELECT variable, count(*) AS n, max(value) AS top FROM results GROUP BY ALL ORDER BY 1"
    answer = closed_query(ROWS, sql)
    assert answer.table.to_pylist() == [
        {"variable": "a", "n": 50, "top": 0.98},
        {"variable": "b", "n": 50, "top": 0.99},
    ]
    assert not answer.more


@pytest.mark.parametrize(("rows", "given", "more"), [(99, 99, True), (100, 100, False)])
def test_the_first_rows_are_given_in_order(rows: int, given: int, more: bool) -> None:
    sql = "SELECT value FROM results ORDER BY value DESC"
    answer = closed_query(ROWS, sql, limits=Limits(rows=rows))
    assert answer.table["value"].to_pylist() == [i / 100 for i in range(99, 99 - given, -1)]
    assert answer.more is more


def test_columns_of_one_name_are_all_given() -> None:
    answer = closed_query(ROWS, "SELECT value, value FROM results LIMIT 1")
    assert answer.table.column_names == ["value", "value"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "only one SELECT"),
        ("SELECT 1; SELECT 2", "only one SELECT"),
        ("SELECT 1; DROP VIEW results", "only one SELECT"),
        (f"COPY results TO '{FILE}.csv'", "only one SELECT"),
        ("COPY (SELECT 1) TO '/dev/stdout'", "only one SELECT"),
        (f"ATTACH '{FILE}'", "only one SELECT"),
        ("INSTALL httpfs", "only one SELECT"),
        ("LOAD httpfs", "only one SELECT"),
        ("PRAGMA database_list", "only one SELECT"),
        ("SET memory_limit = '100GB'", "only one SELECT"),
        ("RESET lock_configuration", "only one SELECT"),
        ("CREATE TABLE t AS SELECT 1", "only one SELECT"),
        ("CALL pragma_version()", "only one SELECT"),
        (f"EXPORT DATABASE '{FILE}'", "only one SELECT"),
        ("EXPLAIN ANALYZE SELECT 1", "only one SELECT"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM read_blob('/proc/self/environ')", "disabled by configuration"),
        ("SELECT * FROM glob('/*')", "disabled by configuration"),
        ("SELECT * FROM read_parquet('https://example.com/x')", "disabled by configuration"),
        ("SELECT * FROM enable_logging(storage='file')", "configuration has been locked"),
        ("SELECT getenv('PATH')", "does not exist"),
        ("SELECT * FROM ROWS", "does not exist"),
        ("SELEC 1", "syntax error"),
        ("SELECT valu FROM results", 'Candidate bindings: "value".*columns variable, value'),
        ("SELECT " + "1 + " * 5000 + "1", "20,008 characters; write at most 10,000"),
    ],
)
def test_what_reaches_beyond_the_results_is_refused(sql: str, said: str) -> None:
    import re

    assert re.search(said, refused(sql))


def test_a_file_that_can_be_read_is_read_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("secret\n1\n")
    before = sorted(tmp_path.iterdir())
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path}/rows.csv')",
        f"SELECT * FROM '{tmp_path}/rows.csv'",
        f"FROM sniff_csv('{tmp_path}/rows.csv')",
        f"COPY results TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/new.db'",
    ):
        assert "secret" not in refused(sql)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT count(*) FROM results a, results b, results c, results d, results e, results f",
    ],
)
def test_what_never_ends_is_stopped(sql: str) -> None:
    assert refused(sql, SHORT) == "the query took longer than 0.5 s and was stopped; ask for less"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat('x', 2000000000))",  # 2 GB at once, past DuckDB's own limit
        "SELECT sum(list_sum(range(300000000)))",
        "SELECT array_agg(a.value) FROM results a, results b, results c, results d",
        "SELECT repeat('x', 100000) FROM results a, results b LIMIT 1000",
    ],
)
def test_what_takes_too_much_memory_is_stopped(sql: str) -> None:
    small = Limits(seconds=20.0, bytes=256 * 2**20)
    assert "more than 256 MiB of memory, or answers too much" in refused(sql, small)


def test_a_process_that_hears_no_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a single call that takes for ever: here, one that never answers."""
    from probes.batch import closed_query as module

    monkeypatch.setattr(module, "GRACE", 0.1)
    monkeypatch.setattr(module.closed, "__file__", "/dev/stdin")  # an endless program
    monkeypatch.setattr(module, "_question", lambda *_: b"while True: pass\n")
    assert refused("SELECT 1", SHORT) == module._late(SHORT)

"""Asking a sweep's results in SQL, and taking them along."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.web.shell import escaped
from workbench.errors import WorkbenchError
from workbench.strict import one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from probes.batch.closed_query import Answer

SQL, ASKED = "probes_sql", "probes_asked"
ANSWERED = "probes_answered"
"""In the address: the sweep whose query was answered."""
EXAMPLES = {
    "Best site": "SELECT run, step, variable, arg_max(hook || '@' || position, value) AS site, "
    "max(value) AS accuracy\nFROM results\nWHERE metric = 'accuracy' AND control = 'none' "
    "AND p IS NOT NULL\nGROUP BY ALL ORDER BY accuracy DESC",
    "Beside controls": "SELECT hook, position, variable, control, avg(value) AS value, "
    "count(*) AS rows\nFROM results\nWHERE metric = 'accuracy' AND chosen\n"
    "GROUP BY ALL ORDER BY ALL",
    "Strengths": "SELECT hook, position, variable, probe, strength, avg(value) AS accuracy, "
    "min(value) AS worst\nFROM results\nWHERE strength IS NOT NULL AND control = 'none'\n"
    "GROUP BY ALL ORDER BY ALL",
    "When erased": "SELECT run, step, hook, position, variable, control, "
    "avg(value) AS right_answers\nFROM results\nWHERE metric = 'answer_accuracy'\n"
    "GROUP BY ALL ORDER BY ALL",
    "Columns": "DESCRIBE results",
}
"""Queries to start from, by what they show."""


def draw_query(rows: "pa.Table", sweep: str) -> None:
    """The box, its examples, and the answer to what was asked last."""
    st.markdown("##### Ask the results")
    st.caption(
        "One SELECT over `results`, which has a row for every number. It can read nothing else, "
        "and is stopped after 5 s."
    )
    for column, (name, sql) in zip(st.columns(len(EXAMPLES)), EXAMPLES.items(), strict=True):
        column.button(
            name, key=f"probes_example_{name}", on_click=_take, args=(sweep, sql), width="stretch"
        )
    sql = st.text_area(
        "SQL",
        value=EXAMPLES["Best site"],
        key=SQL,
        height=140,
        bind="query-params",
        max_chars=4000,
        help="DuckDB's SQL. What the columns mean: a value is of a `metric` (accuracy, "
        "answer_accuracy, …), measured on `control` (none is the variable itself).",
    )
    if st.button("Ask", key="probes_query", icon=":material/search:"):
        st.session_state[ASKED] = (sweep, sql)
    if ASKED not in st.session_state and st.query_params.get(ANSWERED) == sweep:
        st.session_state[ASKED] = (sweep, sql)  # a link, or a refresh
    asked = st.session_state.get(ASKED)
    if asked is not None and asked[0] == sweep:
        st.query_params[ANSWERED] = sweep
        _draw_answer(rows, asked[1])


def draw_downloads(rows: "pa.Table", sweep: str) -> None:
    """All rows as files."""
    csv, parquet, _ = st.columns([1, 1, 3])
    csv.download_button(
        "CSV",
        lambda: csv_of(rows),
        file_name=f"{sweep}.csv",
        mime="text/csv",
        key="probes_csv",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )
    parquet.download_button(
        "Parquet",
        lambda: parquet_of(rows),
        file_name=f"{sweep}.parquet",
        mime="application/vnd.apache.parquet",
        key="probes_parquet",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
    )


def csv_of(rows: "pa.Table") -> bytes:
    """A table as CSV."""
    import pyarrow.csv

    file = io.BytesIO()
    pyarrow.csv.write_csv(rows, file)
    return file.getvalue()


def parquet_of(rows: "pa.Table") -> bytes:
    """A table as Parquet."""
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(rows, file)
    return file.getvalue()


def columns_of(answer: "Answer") -> Mapping[str, list[Any]]:
    """An answer by columns, each with a name of its own; what is no number or text as text."""
    named: dict[str, list[Any]] = {}
    for name, column in zip(answer.table.column_names, answer.table.columns, strict=True):
        own, again = name, 2
        while own in named:
            own, again = f"{name} ({again})", again + 1
        named[own] = [_plain(value) for value in column.to_pylist()]
    return named


def _plain(value: Any) -> Any:
    from decimal import Decimal

    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    small = isinstance(value, int) and abs(value) < 2**53
    if value is None or small or isinstance(value, bool | float):
        return value
    return str(value)[:1000]


def _take(sweep: str, sql: str) -> None:
    st.session_state[SQL] = sql
    st.session_state[ASKED] = (sweep, sql)


def _draw_answer(rows: "pa.Table", sql: str) -> None:
    from probes.batch.closed_query import closed_query

    try:
        with st.spinner("Asking the results…"):
            answer = closed_query(rows, sql)
    except WorkbenchError as error:
        st.error(escaped(one_line(str(error))), icon=":material/error:")
        return
    n = answer.table.num_rows
    st.caption(f"The first {n:,} rows; there are more." if answer.more else f"{n:,} rows.")
    st.dataframe(columns_of(answer), hide_index=True, key="probes_answer")

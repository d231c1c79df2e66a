"""Draws a chart: the picture, its table, and its exports.

    chosen = show(chart, key="effects", select=True)

gives the index of the row of the chart's table that was clicked, in the picture or in the table, or
None. It is in the address under `key`, so that a link or a refresh brings it back.

A picture is made for what is chosen by other means than a click on it (the table, the address,
`choose`), and is then left alone while it is clicked, so that zoom and pan survive.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import streamlit as st

from apps.web.charts.chart import Chart
from apps.web.charts.echarts import option_of, renderer_of, row_of, size_of
from apps.web.charts.echarts_parts import ALWAYS, Option
from apps.web.charts.pictures import csv_of, picture_of
from apps.web.charts.rows import count_of, identities, table_of

LONGEST_INDEX = 9
"""Digits of an index in the address."""
CHOOSING = (
    "Choose a row with its box, or with the keyboard: arrow keys, then Shift and Space. To leave "
    "the row that is chosen, press Escape, and Tab out of the table and back."
)


def show(
    chart: Chart,
    *,
    key: str,
    select: bool = False,
    height: int | None = None,
    open_table: bool = False,
) -> int | None:
    """Draw a chart with its table and its exports (CSV, PNG, SVG); what was chosen, if anything.

    Args:
        key: of the widgets; with `select` also the name in the address.
        select: whether a click in the picture or the table chooses a row.
        height: of the picture, in pixels.
        open_table: whether the table is unfolded from the start.
    """
    chosen = _kept(key, identities(chart)) if select else None
    _picture(chart, key, chosen, select=select, height=height)
    with st.container(horizontal=True, vertical_alignment="top"):
        with st.container():
            _folded_table(chart, key, chosen, select=select, unfolded=open_table)
        _exports(chart, key)
    return chosen


def table(
    rows: Sequence[Mapping[str, Any]], *, key: str, alt: str, select: bool = False
) -> int | None:
    """Draw a plain table; the index of the row that was chosen, if anything.

    Args:
        rows: plain values by heading: text, numbers, truth values, None.
        key: of the widget; with `select` also the name in the address.
        alt: what it holds, in a few words.
    """
    names = [repr([value for value in row.values() if isinstance(value, str)]) for row in rows]
    chosen = _kept(key, names) if select else None
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    columns = {heading: [row.get(heading) for row in rows] for heading in headings}
    _table(columns, key, alt, chosen, select=select)
    return chosen


def chosen_of(key: str) -> int | None:
    """The row that is chosen under a key; may be stale until its chart is drawn."""
    slot = _slot(key)
    if slot not in st.session_state:
        text = st.query_params.get(key, "")
        number = text.isascii() and text.isdigit() and len(text) <= LONGEST_INDEX
        st.session_state[slot] = int(text) if number else None
    chosen: int | None = st.session_state[slot]
    return chosen


def choose(key: str, index: int | None) -> None:
    """Choose a row as a click would. Call it in a callback, or before the chart is drawn."""
    st.session_state[_slot(key)] = index
    st.session_state.pop(_identity(key), None)


# ---------------------------------------------------------------------- what is chosen


def _slot(key: str) -> str:
    return f"{key}_chosen"


def _identity(key: str) -> str:
    """Where it is kept which row was chosen, whatever its place: its index then, and its name."""
    return f"{key}_identity"


def _kept(key: str, names: Sequence[str]) -> int | None:
    """What is chosen, in the chart as it is now; written to the address."""
    chosen = _followed(chosen_of(key), st.session_state.get(_identity(key)), names)
    st.session_state[_slot(key)] = chosen
    st.session_state[_identity(key)] = None if chosen is None else (chosen, names[chosen])
    if chosen is None:
        if key in st.query_params:
            del st.query_params[key]
    elif st.query_params.get(key) != str(chosen):
        st.query_params[key] = str(chosen)
    return chosen


def _followed(
    chosen: int | None, known: tuple[int, str] | None, names: Sequence[str]
) -> int | None:
    """Where the chosen row is now; None where it is gone."""
    if chosen is None:
        return None
    if known is None or known[0] != chosen:  # from the address, or a caller: nothing to go by
        return chosen if 0 <= chosen < len(names) else None
    if chosen < len(names) and names[chosen] == known[1]:
        return chosen
    return names.index(known[1]) if known[1] in names else None


# ---------------------------------------------------------------------- the picture


def _picture(
    chart: Chart, key: str, chosen: int | None, *, select: bool, height: int | None
) -> None:
    size = size_of(chart)
    common: dict[str, Any] = {
        "width": size.width or "stretch",
        "height": height or size.height,
        "alt": chart.alt,
        "renderer": renderer_of(chart),
    }
    dark = st.context.theme.type == "dark"
    if not select:
        option = _option(chart, dark, False, None)
        st.echarts_chart(option, key=f"{key}_picture", **common)
        return
    made, first = _made_for(key, chosen)
    widget = f"{key}_picture_{made}"
    option = _option(chart, dark, True, first)
    clicked = partial(_picture_clicked, chart, key, widget)
    st.echarts_chart(option, key=widget, on_select=clicked, **common)


@lru_cache(maxsize=12)
def _option(chart: Chart, dark: bool, select: bool, chosen: int | None) -> Option:
    """Kept for reruns. Charts with tensors are equal where they are the same object."""
    return option_of(chart, dark=dark, select=select, chosen=chosen)


def _made_for(key: str, chosen: int | None) -> tuple[int, int | None]:
    """The number of the picture, and the row that was chosen when it was made.

    A picture shows what was clicked in it last; when something else is chosen, a new one is made.
    """
    slot = f"{key}_made"
    number, first, shown = st.session_state.get(slot, (0, chosen, chosen))
    if shown != chosen:
        number, first, shown = number + 1, chosen, chosen
    st.session_state[slot] = (number, first, shown)
    return number, first


def _picture_clicked(chart: Chart, key: str, widget: str) -> None:
    selected = st.session_state[widget]["selection"]["selected"]
    found = {
        row_of(chart, one["data_type"], index)
        for one in selected
        for index in one["data_indices"]
        if one["series_id"] != ALWAYS
    }
    slot = f"{key}_made"
    number, first, shown = st.session_state.get(slot, (0, None, None))
    fresh = sorted(found - {shown}) or sorted(found)
    row = fresh[0] if fresh else None
    st.session_state[slot] = (number, first, row)
    choose(key, row)


# ---------------------------------------------------------------------- the table


def _folded_table(
    chart: Chart, key: str, chosen: int | None, *, select: bool, unfolded: bool
) -> None:
    folder = st.expander(
        f"Table ({count_of(chart):,} rows)",
        expanded=unfolded,
        key=f"{key}_folder",
        icon=":material/table:",
        on_change="rerun",
    )
    if folder.open:  # what is folded away would slow every click down
        with folder:
            _table(table_of(chart), key, chart.alt, chosen, select=select)


def _table(
    columns: Mapping[str, Sequence[Any]], key: str, alt: str, chosen: int | None, *, select: bool
) -> None:
    frame = {heading: _plain(values) for heading, values in columns.items()}
    common: dict[str, Any] = {
        "hide_index": True,
        "alt": alt,
        "key": f"{key}_table",
        "placeholder": "",
        "column_config": _formats(frame),
    }
    if not select:
        st.dataframe(frame, **common)
        return
    rows = [] if chosen is None else [chosen]
    widget = f"{key}_table"
    if _rows_chosen(widget) != rows:
        st.session_state[widget] = {"selection": {"rows": rows}}
    st.session_state[_told(key)] = rows
    st.caption(CHOOSING)
    clicked = partial(_table_clicked, key, widget)
    st.dataframe(frame, on_select=clicked, selection_mode="single-row", **common)


def _table_clicked(key: str, widget: str) -> None:
    rows = _rows_chosen(widget)
    if rows != st.session_state.get(_told(key)):  # else the table repeats what it was told to show
        choose(key, rows[0] if rows else None)


def _told(key: str) -> str:
    """Where it is kept which rows a table was told to show as chosen."""
    return f"{key}_told"


def _rows_chosen(widget: str) -> list[int]:
    state = st.session_state.get(widget)
    return list(state["selection"].get("rows", [])) if state else []


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """A column of one type: numbers, truth values, or else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool} or kinds == {str}:
        return values
    return [None if value is None else str(value) for value in values]


def _formats(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Four significant digits where a column has numbers that are not whole."""
    broken = [name for name, values in columns.items() if any(type(one) is float for one in values)]
    return {name: st.column_config.NumberColumn(format="%.4g") for name in broken}


# ---------------------------------------------------------------------- exports


def _exports(chart: Chart, key: str) -> None:
    opened = st.popover(
        "Export", icon=":material/download:", key=f"{key}_export", on_change="rerun"
    )
    if not opened.open:
        return
    with opened:
        for kind, mime, work in (
            ("csv", "text/csv", partial(csv_of, chart)),
            ("png", "image/png", partial(picture_of, chart, "png")),
            ("svg", "image/svg+xml", partial(picture_of, chart, "svg")),
        ):
            st.download_button(
                kind.upper(),
                work,
                file_name=f"{chart.name}.{kind}",
                mime=mime,
                key=f"{key}_{kind}",
                on_click="ignore",
            )

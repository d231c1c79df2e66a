"""Draws a chart: the picture, its table, and its exports.

    chosen = show(chart, key="effects")

gives the index of the row of the chart's table that was clicked, in the picture or in the table, or
None. It is in the address under `key`, so that a link or a refresh brings it back. The spec of the
picture does not depend on what is chosen, so that zoom and pan survive a click.
"""

from apps.web.chart import Chart


def show(
    chart: Chart, *, key: str, select: bool = False, height: int | None = None, open_table: bool = False
) -> int | None:
    """Draw a chart with its table and its exports (CSV, PNG, SVG); what was chosen, if anything.

    Args:
        key: of the widgets; with `select` also the name in the address.
        select: whether a click in the picture or the table chooses a row.
        open_table: whether the table is unfolded from the start.
    """
    raise NotImplementedError

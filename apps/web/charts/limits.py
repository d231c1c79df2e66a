"""How far the axes of lines and bars reach, and what they leave out: nothing unseen."""

import math

from apps.web.charts.chart import BarChart, LineChart, Number


def y_limits(chart: LineChart | BarChart) -> tuple[Number, Number] | None:
    """The limits that a chart asks for, widened to values and intervals that they would cut off."""
    if chart.y_range is None:
        return None
    log = isinstance(chart, LineChart) and chart.log_y
    finite = [one for one in _numbers(chart) if math.isfinite(one) and (one > 0 or not log)]
    low, high = chart.y_range
    return min([low, *finite]), max([high, *finite])


def log_words(chart: LineChart) -> str | None:
    """Says how many values have no place on a logarithmic axis; None where all have one."""
    if not chart.log_y:
        return None
    count = sum(
        y is not None and math.isfinite(y) and y <= 0 for one in chart.series for y in one.y
    )
    if not count:
        return None
    return f"{count:,} {'value' if count == 1 else 'values'} of 0 or less not drawn (log scale)"


def _numbers(chart: LineChart | BarChart) -> list[Number]:
    ends = [values for one in chart.series for values in (one.y, one.low, one.high) if values]
    return [value for values in ends for value in values if value is not None]

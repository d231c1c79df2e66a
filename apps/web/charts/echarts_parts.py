"""What ECharts options of every kind of chart share."""

import html
from typing import Any, NamedTuple

from apps.web.charts.chart import Number
from apps.web.charts.colours import Theme

Option = dict[str, Any]
"""JSON."""
DIGITS = 5
"""Significant digits that the browser is told; the exports have them all."""


NAMED = 3
"""The dimension of data on axes of categories that holds a mark's place as text. It has to be the
marks' name: marks of one name are marked as one, and by default their name is their category."""


ALWAYS = "always"
"""The id of a series that is no part of the chart."""


class Look(NamedTuple):
    """How a chart is drawn, apart from what it shows."""

    theme: Theme
    select: bool
    chosen: int | None
    """The row that is marked from the start."""


def template(*parts: tuple[str, str]) -> str:
    """A tooltip: headings, which are our words or foreign ones, and placeholders of ECharts."""
    return "<br>".join(
        f"{literal(heading)}: <b>{place}</b>" if heading else f"<b>{place}</b>"
        for heading, place in parts
    )


def literal(text: str) -> str:
    """Text that is shown as it is inside a tooltip's template, which is HTML with `{places}`."""
    return html.escape(text).replace("{", "&#123;").replace("}", "&#125;")


def rounded(value: Number | None) -> float | None:
    """A number as the browser is told it; None where there is none."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def selecting(look: Look, style: Option, chosen: tuple[str, ...] = ()) -> Option:
    """Options of a series whose marks can be clicked; `chosen` are keys of what is marked first."""
    if not look.select:
        return {"selectedMode": False, "cursor": "default"}
    return {
        "selectedMode": "single",
        "cursor": "pointer",
        "select": style,
        "selectedMap": {key: True for key in chosen},
    }


def always(look: Look) -> list[Option]:
    """An unseen series whose one mark is selected for good, in a picture that has a mark from the
    start: the browser does not tell that nothing is selected any more to who never heard of any."""
    if look.chosen is None:
        return []
    mark = {"value": 1, "name": "", "selected": True}
    unseen = {"silent": True, "radius": 0, "label": {"show": False}, "tooltip": {"show": False}}
    return [{"type": "pie", "id": ALWAYS, "data": [mark], "selectedMode": "single", **unseen}]


def keys_of(index: int | None) -> tuple[str, ...]:
    """What ECharts knows a mark by: its name (its place, see `NAMED`), or else a made-up id."""
    return () if index is None else (str(index), f"e\0\0{index}")


def legend_text(look: Look, parts: list[tuple[str, str]]) -> Option:
    """Words below a picture, each after a square of a colour (`#rrggbb`)."""
    rich = {f"s{i}": {"color": colour, "fontSize": 15} for i, (colour, _) in enumerate(parts)}
    text = "   ".join(f"{{s{i}|\u25a0}} {words}" for i, (_, words) in enumerate(parts))
    style = {"fontSize": 12, "fontWeight": "normal", "color": look.theme.text, "rich": rich}
    return {"text": text, "left": 0, "bottom": 2, "padding": 0, "textStyle": style}


def middle_name(name: str, gap: int) -> Option:
    """The name of an axis, along its middle."""
    return {"name": name, "nameLocation": "middle", "nameGap": gap}

"""The colours of the app's charts, for light pages and dark ones; safe for colour-blind readers.

Blue is more, orange is less, and zero has the tone of the page. Whole palettes are those of the
offline pages (`apps.figures`).
"""

import math
from typing import NamedTuple

import torch

from apps.figures import TOP_LEVEL, finite_limit, palettes
from apps.web.charts.chart import HeatMap, Number, Scale


class Theme(NamedTuple):
    """What is not data: colours of a page, as `#rrggbb`."""

    dark: bool
    page: str
    text: str
    faint: str
    """Grid lines, and what is of no account."""
    nothing: str
    """Hatches cells without a value."""
    beyond: str
    """A value past the end of its colour scale; no scale has this colour."""
    chosen: str
    node: str
    """Fills nodes of graphs; text is read on it."""
    more: str
    less: str
    lines: tuple[str, ...]
    """Of series, in order (after Okabe and Ito, with more contrast)."""


LIGHT = Theme(
    dark=False,
    page="#ffffff",
    text="#31333f",
    faint="#8b8f99",
    nothing="#8a8a8a",
    beyond="#d6007f",
    chosen="#000000",
    node="#e4e7ee",
    more="#0072b2",
    less="#c04a00",
    lines=("#0072b2", "#c04a00", "#007a5a", "#a8488a", "#7a6a00", "#2b8fc4", "#555555"),
)
DARK = Theme(
    dark=True,
    page="#171614",
    text="#fafafa",
    faint="#7d828f",
    nothing="#8a8a8a",
    beyond="#ff4fbe",
    chosen="#ffffff",
    node="#2b303c",
    more="#56b4e9",
    less="#ff9a4d",
    lines=("#56b4e9", "#ff9a4d", "#2fc79b", "#e59bcb", "#f0e442", "#9ad0f5", "#bbbbbb"),
)
CIRCLE = ("efe6ea", "86b4dc", "2f62ad", "24123f", "8c2a52", "dd8250")
"""Around the circle of phases: out over blue and back over orange, pale at pi and dark at 0."""
STOPS = 33
"""Colours that a scale is given by; odd, so that one is the exact middle."""
SLACK = 1e-6
"""Share of a scale by which a value may pass its end before that counts: rounding of sums."""


class Span(NamedTuple):
    """What a colour scale covers, and what it does not."""

    low: float
    high: float
    beyond: int
    """Finite values outside, marked with a colour of their own."""
    missing: int
    """Cells without a finite value."""

    @property
    def slack(self) -> float:
        """How far a value may lie outside before it counts as beyond."""
        return SLACK * self.high - SLACK * self.low


def theme_of(dark: bool) -> Theme:
    """The colours of light pages or of dark ones."""
    return DARK if dark else LIGHT


def span_of(chart: HeatMap) -> Span:
    """The ends of a heat map's colour scale, and how many cells lie outside."""
    limit = abs(float(chart.limit)) if chart.limit is not None else finite_limit(chart.values)
    limit = limit if 0 < limit < math.inf else 1.0
    ends = {
        "signed": (-limit, limit),
        "size": (0.0, limit),
        "share": (0.0, 1.0),
        "right_wrong": (0.0, 1.0),
        "phase": (-math.pi, math.pi),
    }
    low, high = ends[chart.scale]
    values = chart.values.detach().cpu().double()
    finite = values[values.isfinite()]
    slack = Span(low, high, 0, 0).slack
    outside = (finite < low - slack) | (finite > high + slack)
    if chart.scale == "right_wrong":
        outside = (finite != 0) & (finite != 1)
    return Span(low, high, int(outside.sum()), values.numel() - finite.numel())


def scale_colours(scale: Scale, *, dark: bool) -> list[str]:
    """Colours from the lower end of a scale to its upper end, evenly spaced, as `#rrggbb`."""
    if scale == "right_wrong":
        return ["#ff9a4d", "#27384a"] if dark else ["#c04a00", "#d9e6f2"]
    if scale == "phase":
        return [_cyclic(i / (STOPS - 1)) for i in range(STOPS)]
    palette = palettes(signed=scale == "signed")[int(dark)]
    levels = [round(i * TOP_LEVEL / (STOPS - 1)) for i in range(STOPS)]
    found = [f"#{palette[3 * level : 3 * level + 3].hex()}" for level in levels]
    if scale == "signed":
        found[STOPS // 2] = theme_of(dark).page
    return found


def phase_colour(phase: Number) -> str:
    """The colour of an angle in -pi to pi."""
    return _cyclic((phase / math.pi + 1) / 2)


def luminance(colour: str) -> float:
    """How bright a colour is, 0 to 1 (relative luminance of WCAG 2)."""
    channels = torch.tensor(list(bytes.fromhex(colour[1:]))).double() / 255
    linear = torch.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64))


def _cyclic(share: float) -> str:
    """The colour at a share of the circle."""
    place = share % 1.0 * len(CIRCLE)
    before = int(place) % len(CIRCLE)
    ends = (bytes.fromhex(CIRCLE[i % len(CIRCLE)]) for i in (before, before + 1))
    mixed = (a + (b - a) * (place - int(place)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{round(one):02x}" for one in mixed)

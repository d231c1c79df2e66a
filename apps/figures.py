"""Pictures as text: heat maps as PNG data URIs, charts as inline SVG; nothing is ever fetched.

A picture is a string of HTML. Colours come from the page's style sheet (`apps.page`), so a chart
follows light and dark; a heat map carries one palette for each. Signed values use a
diverging map whose limits are symmetric and whose middle is zero, others a sequential one from
zero; values that are not finite are grey in a map and a gap in a line.
"""

import base64
import math
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from apps.page import escaped, plain_number

Number = int | float
"""A number of a chart; steps and frequencies are whole."""
Palette = tuple[bytes, bytes]
"""RGB triples for light pages and for dark ones."""

TOP_LEVEL, NOT_FINITE = 254, 255
"""Colour levels run 0 ... 254, so that 127 is the exact middle; 255 is a value that is not."""
_GREY = bytes((128, 128, 128))


# ---------------------------------------------------------------------- heat maps


def heat_map(values: Shaped[Tensor, "row column"], *, alt: str, limit: float, signed: bool) -> str:
    """A matrix as a picture, one pixel per cell.

    Args:
        limit: the value at the end of the colour scale; with `signed`, minus it is at the other.
    """
    return _picture(colour_levels(values, limit, signed=signed), palettes(signed=signed), alt)


def right_wrong_map(correct: Shaped[Tensor, "row column"], *, alt: str) -> str:
    """A matrix of truth values as a picture: true is pale, false is strong."""
    light = bytes.fromhex("d9e6f2") + bytes.fromhex("c04a00")
    dark = bytes.fromhex("27384a") + bytes.fromhex("ff9a4d")
    return _picture((~correct.bool()).to(torch.uint8), (light, dark), alt)


def colour_bar(*, limit: float, signed: bool, alt: str) -> str:
    """The colour scale of `heat_map`, from left to right."""
    low = -limit if signed else 0.0
    return heat_map(torch.linspace(low, limit, 255)[None], alt=alt, limit=limit, signed=signed)


def colour_levels(
    values: Shaped[Tensor, "row column"], limit: float, *, signed: bool
) -> UInt8[Tensor, "row column"]:
    """Palette indices: 0 ... 254, or 255 where a value is not finite."""
    real = values.detach().cpu().double()
    scaled = real / limit if limit > 0 else torch.zeros_like(real)
    level = (scaled.clamp(-1, 1) + 1) * 127 if signed else scaled.clamp(0, 1) * TOP_LEVEL
    level = torch.where(real.isfinite(), level.nan_to_num().round(), float(NOT_FINITE))
    return level.to(torch.uint8)


def finite_limit(values: Shaped[Tensor, "..."]) -> float:
    """The largest finite absolute value; 0 where there is none."""
    finite = values.detach().double()[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def palettes(*, signed: bool) -> Palette:
    """256 colours for light pages and for dark ones: viridis, or blue and orange around neutral."""
    if not signed:
        viridis = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
        return _interpolated(viridis), _interpolated(viridis)
    light = "7a2e00 c04a00 f0a66a f6f6f4 8fbfe6 0072b2 00355f"
    dark = "ffd0a6 ff9a4d a04a10 24272a 17598c 56b4e9 c4e6ff"
    return _interpolated(light), _interpolated(dark)


def png(indices: UInt8[Tensor, "row column"], palette: bytes) -> bytes:
    """A PNG file with one palette index per pixel (PNG specification, 8-bit indexed colour)."""
    rows, columns = indices.shape
    pixels = b"".join(b"\0" + bytes(row) for row in indices.tolist())  # 0: the row is unfiltered
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(pixels, 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _picture(indices: UInt8[Tensor, "row column"], colours: Palette, alt: str) -> str:
    light, dark = (_data_uri(png(indices, palette)) for palette in colours)
    image = f'<img src="{light}" alt="{escaped(alt)}">'
    if dark == light:
        return image
    media = "screen and (prefers-color-scheme: dark)"
    return f'<picture><source media="{media}" srcset="{dark}">{image}</picture>'


def _data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _interpolated(anchors: str) -> bytes:
    """255 colours through evenly spaced ones, and grey for what is not finite."""
    fixed = torch.tensor([list(bytes.fromhex(colour)) for colour in anchors.split()]).double()
    place = torch.linspace(0, len(fixed) - 1, TOP_LEVEL + 1, dtype=torch.float64)
    before = place.floor().long().clamp_max(len(fixed) - 2)
    share = (place - before)[:, None]
    colours = fixed[before] * (1 - share) + fixed[before + 1] * share
    return bytes(colours.round().long().flatten().tolist()) + _GREY


# ---------------------------------------------------------------------- charts


LONGEST_NAME = 36
"""Letters that fit beside a bar."""


class Bar(NamedTuple):
    """One row of `bar_panel`."""

    name: str
    value: Number
    interval: Sequence[Number] | None
    style: str
    """`finding`, `held-out` or `control`."""
    shown: str
    """The value as text."""


class Series(NamedTuple):
    """One line of `line_chart`."""

    name: str
    points: Sequence[tuple[Number, Number]]
    style: str
    """`first` (drawn through) or `second` (dashed)."""


class Mark(NamedTuple):
    """A vertical line with a label."""

    x: Number
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A plotting area in pixels, and the data range it shows."""

    width: Number
    height: Number
    x: tuple[Number, Number]
    y: tuple[Number, Number]
    left: Number = 58.0
    right: Number = 14.0
    top: Number = 26.0
    bottom: Number = 40.0


def bar_panel(bars: Sequence[Bar], *, label: str, top: Number = 1.0) -> str:
    """Horizontal bars on one axis from 0 to `top`, with 95 % intervals as whiskers.

    A value outside the axis ends in an arrow head at its edge; its number is always written.
    """
    longest = max((min(len(bar.name), LONGEST_NAME) for bar in bars), default=0)
    left, below = max(186, 7 * longest + 14), 24 * len(bars)
    frame = _Frame(width=560, height=below + 30, x=(0, top), y=(0, 1), left=left, right=86, top=4)
    parts = [
        f'<line class="grid" x1="{_x(frame, at)}" y1="4" x2="{_x(frame, at)}" '
        f'y2="{_n(below + 6)}"/>'
        f"{_text(_at_x(frame, at), below + 22, f'{at:.3g}')}"
        for at in (0.0, top / 2, top)
    ]
    parts += [_bar(frame, bar, 24 * row + 7) for row, bar in enumerate(bars)]
    return _svg(frame, label, "".join(parts))


def spectrum(values: Sequence[Number], *, marked: Collection[int], label: str, y_title: str) -> str:
    """Bars of shares over the frequencies 1, 2, ...; marked ones are coloured and labelled.

    The axis reaches at least 0.1, so that a spectrum of next to nothing looks like one.
    """
    top = max([0.1, *(value for value in values if math.isfinite(value))])
    frame = _Frame(width=1080, height=210, x=(0.25, len(values) + 0.75), y=(0, top))
    width = min(14.0, 0.72 * (_at_x(frame, 2) - _at_x(frame, 1)))
    parts = [_axes(frame, "frequency k", y_title)]
    for k, value in enumerate(values, 1):
        height = max(0.0, _at_y(frame, 0) - _at_y(frame, value)) if math.isfinite(value) else 0.0
        left, upper = _at_x(frame, k) - width / 2, _at_y(frame, 0) - height
        style = "key" if k in marked else "other"
        parts.append(
            f'<rect class="{style}" x="{_n(left)}" y="{_n(upper)}" width="{_n(width)}" '
            f'height="{_n(height)}"><title>k = {k}: {escaped(plain_number(value))}</title></rect>'
        )
        if k in marked:
            parts.append(_text(left + width / 2, upper - 6, str(k), "strong"))
    return _svg(frame, label, "".join(parts))


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_title: str,
    y_title: str,
    y_range: tuple[Number, Number] | None = None,
    log_y: bool = False,
    dots: bool = False,
    marks: Sequence[Mark] = (),
) -> str:
    """Lines over a common x axis; where a value is not finite (or not positive, on a logarithmic
    axis) the line has a gap."""
    scaled = [Series(s.name, [_logged(p, log_y) for p in s.points], s.style) for s in series]
    drawn = [s for s in scaled if any(math.isfinite(y) for _, y in s.points)]
    xs = [x for s in drawn for x, _ in s.points if math.isfinite(x)]
    ys = [y for s in drawn for _, y in s.points if math.isfinite(y)]
    frame = _Frame(
        width=540,
        height=290,
        top=44,
        x=_widened(min(xs, default=0.0), max(xs, default=1.0)),
        y=y_range or _padded(*_widened(min(ys, default=0.0), max(ys, default=1.0))),
    )
    parts = [_axes(frame, x_title, y_title, log_y=log_y)]
    parts += [_mark(frame, mark) for mark in marks if math.isfinite(mark.x)]
    parts += [f'<path class="line {s.style}" d="{_path(frame, s.points)}"/>' for s in drawn]
    if dots:
        parts += [_dot(frame, *point) for s in drawn for point in s.points]
    if len(drawn) > 1:
        parts += [_key(frame, s, row) for row, s in enumerate(drawn)]
    return _svg(frame, label, "".join(parts))


def _bar(frame: _Frame, bar: Bar, top: Number) -> str:
    name = bar.name if len(bar.name) <= LONGEST_NAME else bar.name[: LONGEST_NAME - 1] + "…"
    most = frame.x[1]
    parts = [
        _text(frame.left - 8, top + 12, name, "end" + (" strong" * (bar.style == "finding"))),
        _text(frame.width - 2, top + 12, bar.shown, "end" + (" strong" * (bar.style == "finding"))),
    ]
    if math.isfinite(bar.value):
        zero, end = _at_x(frame, 0), _at_x(frame, min(most, max(0.0, bar.value)))
        parts.append(
            f'<rect class="{escaped(bar.style)}" x="{_n(zero)}" y="{_n(top)}" '
            f'width="{_n(end - zero)}" height="16"/>'
        )
        if not -0.005 * most <= bar.value <= 1.005 * most:
            tip, base = (end + 9, end + 2) if bar.value > most else (end - 9, end - 2)
            parts.append(
                f'<path class="{escaped(bar.style)}" d="M{_n(base)} {_n(top)}V{_n(top + 16)}'
                f'L{_n(tip)} {_n(top + 8)}Z"/>'
            )
    if bar.interval is not None and all(math.isfinite(end) for end in bar.interval):
        low, high = (_at_x(frame, min(most, max(0.0, end))) for end in bar.interval)
        y = top + 8
        parts.append(
            f'<path class="whisker" d="M{_n(low)} {_n(y)}H{_n(high)}M{_n(low)} {_n(y - 5)}v10'
            f'M{_n(high)} {_n(y - 5)}v10"/>'
        )
    return f"<g><title>{escaped(f'{bar.name}: {bar.shown}')}</title>{''.join(parts)}</g>"


def _axes(frame: _Frame, x_title: str, y_title: str, *, log_y: bool = False) -> str:
    left, right = frame.left, frame.width - frame.right
    bottom = frame.height - frame.bottom
    parts = []
    for value in _decades(*frame.y) if log_y else _ticks(*frame.y, most=6):
        y = _at_y(frame, value)
        text = f"{10.0**value:.0e}".replace("e-0", "e-").replace("e+0", "e") if log_y else ""
        parts.append(f'<line class="grid" x1="{_n(left)}" y1="{_n(y)}" x2="{_n(right)}" ')
        parts.append(f'y2="{_n(y)}"/>{_text(left - 8, y + 4, text or _tick(value), "end")}')
    for value in _ticks(*frame.x, most=9):
        if value == round(value):  # frequencies, steps and differences are whole numbers
            parts.append(_text(_at_x(frame, value), bottom + 17, _tick(value)))
    parts.append(
        f'<line class="axis" x1="{_n(left)}" y1="{_n(bottom)}" x2="{_n(right)}" y2="{_n(bottom)}"/>'
    )
    parts.append(_text(right, bottom + 34, x_title, "end"))
    parts.append(_text(4, 13, y_title, "start"))
    return "".join(parts)


def _tick(value: Number) -> str:
    return f"{value:,.10g}".replace("-", "−")


def _mark(frame: _Frame, mark: Mark) -> str:
    x, bottom = _at_x(frame, mark.x), frame.height - frame.bottom
    room = 3.5 * len(mark.text)
    style = "start" if x < room else "end" if x > frame.width - room else "middle"
    text = _text(x, frame.top - 5, mark.text, style)
    return f'<path class="mark" d="M{_n(x)} {_n(frame.top)}V{_n(bottom)}"/>{text}'


def _key(frame: _Frame, series: Series, row: int) -> str:
    x, y = frame.width - 220 + 104 * row, 9
    return (
        f'<path class="line {escaped(series.style)}" d="M{_n(x)} {_n(y)}h26"/>'
        f"{_text(x + 32, y + 4, series.name, 'start')}"
    )


def _path(frame: _Frame, points: Sequence[tuple[Number, Number]]) -> str:
    steps, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            steps.append(f"{pen}{_x(frame, x)} {_n(_at_y(frame, y))}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _dot(frame: _Frame, x: Number, y: Number) -> str:
    if not math.isfinite(x) or not math.isfinite(y):
        return ""
    return f'<circle class="dot" cx="{_x(frame, x)}" cy="{_n(_at_y(frame, y))}" r="2.2"/>'


def _logged(point: tuple[Number, Number], log_y: bool) -> tuple[Number, Number]:
    x, y = point
    if not log_y or not math.isfinite(y):
        return point
    return x, math.log10(y) if y > 0 else math.nan


def _svg(frame: _Frame, label: str, content: str) -> str:
    size = f"0 0 {_n(frame.width)} {_n(frame.height)}"
    return f'<svg viewBox="{size}" role="img" aria-label="{escaped(label)}">{content}</svg>'


def _text(x: Number, y: Number, text: str, style: str = "middle") -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}">{escaped(text)}</text>'


def _at_x(frame: _Frame, value: Number) -> float:
    low, high = frame.x
    return frame.left + (value - low) / (high - low) * (frame.width - frame.left - frame.right)


def _x(frame: _Frame, value: Number) -> str:
    return _n(_at_x(frame, value))


def _at_y(frame: _Frame, value: Number) -> float:
    low, high = frame.y
    share = (value - low) / (high - low)
    return frame.height - frame.bottom - share * (frame.height - frame.top - frame.bottom)


def _n(value: Number) -> str:
    """A coordinate."""
    assert math.isfinite(value), value
    return f"{value:.1f}".removesuffix(".0")


def _widened(low: Number, high: Number) -> tuple[Number, Number]:
    """A range with some width."""
    return (low, high) if high - low > 1e-9 * max(1.0, abs(low)) else (low - 0.5, high + 0.5)


def _padded(low: Number, high: Number) -> tuple[Number, Number]:
    """A range with some room around it."""
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _ticks(low: Number, high: Number, most: int) -> Iterator[Number]:
    """Round numbers inside a range, with at most so many steps between them."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= min(factor for factor in (1, 2, 5, 10, 20) if factor * step >= (high - low) / most)
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield round(i * step, 12)


def _decades(low: Number, high: Number) -> Iterator[Number]:
    """Whole powers of ten inside a logarithmic range, at most eight of them."""
    first, last = math.ceil(low), math.floor(high)
    yield from range(first, last + 1, 1 + max(0, last - first) // 8)

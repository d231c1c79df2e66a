"""Drawing: pixels, colours and lengths are the values they stand for."""

import math
import re
import struct
import zlib

import pytest
import torch

from apps.figures import (
    Bar,
    Mark,
    Series,
    bar_panel,
    colour_levels,
    line_chart,
    palettes,
    png,
    spectrum,
)
from apps.page import escaped, listed, plain_number


def decoded(data: bytes) -> tuple[list[list[int]], bytes]:
    """Palette indices and palette of an indexed PNG with unfiltered rows."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (width + 1)
    rows = [raw[i * (width + 1) : (i + 1) * (width + 1)] for i in range(height)]
    assert all(row[0] == 0 for row in rows)
    return [list(row[1:]) for row in rows], chunks[b"PLTE"]


def test_png_decodes_to_the_same_pixels() -> None:
    indices = torch.randint(0, 256, (5, 9), generator=torch.Generator().manual_seed(1))
    palette = bytes(i % 256 for i in range(768))
    assert decoded(png(indices.to(torch.uint8), palette)) == (indices.tolist(), palette)


def test_signed_colours_are_symmetric_around_zero() -> None:
    values = torch.tensor([[-4.0, -1.0, 0.0, 1.0, 4.0, torch.nan, torch.inf, 9.0]])
    levels = colour_levels(values, 4.0, signed=True).tolist()[0]
    assert levels == [0, 95, 127, 159, 254, 255, 255, 254]
    for palette in palettes(signed=True):
        colours = [palette[3 * i : 3 * i + 3] for i in range(256)]
        neutral, grey = colours[127], colours[255]
        assert max(neutral) - min(neutral) <= 6 and len(set(grey)) == 1
        distance = [sum(abs(a - b) for a, b in zip(c, neutral, strict=True)) for c in colours[:255]]
        assert sorted(distance[:128], reverse=True) == distance[:128]  # grows away from zero ...
        assert sorted(distance[127:]) == distance[127:]  # ... on both sides
        negative, positive = colours[40], colours[214]
        assert negative[0] > negative[2] and positive[2] > positive[0]  # orange and blue


def test_unsigned_colours_run_from_zero() -> None:
    levels = colour_levels(torch.tensor([[0.0, 1.0, 2.0]]), 2.0, signed=False)
    assert levels.tolist() == [[0, 127, 254]]
    assert colour_levels(torch.zeros(1, 2), 0.0, signed=False).tolist() == [[0, 0]]


def test_bars_have_the_length_of_their_values() -> None:
    bars = [
        Bar("this", 0.5, (0.25, 0.75), "finding", "0.5"),
        Bar("beyond", 7.0, None, "control", "7"),
        Bar("below", -1.0, None, "control", "-1"),
    ]
    svg = bar_panel(bars, label="x")
    axis = 560 - 186 - 86
    rows = re.findall(r'<rect class="(\S+)" x="186" y="\d+" width="([\d.]+)"', svg)
    assert rows == [("finding", str(axis // 2)), ("control", str(axis)), ("control", "0")]
    assert svg.count('<path class="control"') == 2  # arrow heads
    assert f"M{186 + axis // 4} 15H{186 + 3 * axis // 4}" in svg


def test_spectrum_marks_the_named_frequencies() -> None:
    svg = spectrum([0.1, 0.2, 0.4], marked={3}, label="x", y_title="share")
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"><title>', svg)]
    assert heights == pytest.approx([36, 72, 144])
    assert svg.count('class="key"') == 1 and ">3</text>" in svg


def test_spectrum_of_next_to_nothing_looks_like_one() -> None:
    svg = spectrum([1e-5, 2e-5], marked=(), label="x", y_title="share")
    assert [float(h) for h in re.findall(r'height="([\d.]+)"><title>', svg)] == [0, 0]


def test_line_has_a_gap_where_a_value_is_missing_and_a_mark_where_asked() -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 0.1), (3.0, 0.01)]
    svg = line_chart(
        [Series("loss", points, "first")],
        label="x",
        x_title="step",
        y_title="loss",
        log_y=True,
        marks=[Mark(2.0, "here")],
    )
    (path,) = re.findall(r'<path class="line first" d="([^"]+)"', svg)
    assert path.count("M") == 2 and path.count("L") == 1
    assert "1e-1" in svg and "here" in svg
    mark = re.search(r'class="mark" d="M([\d.]+) ', svg)
    assert mark and float(mark[1]) == pytest.approx(58 + 2 / 3 * (540 - 58 - 14), abs=0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0000"),
        (0.99999, "> 0.9999"),
        (0.0, "0.0000"),
        (1e-9, "< 0.0001"),
        (-1e-9, "> −0.0001"),
        (-0.25, "−0.2500"),
        (1234.5, "1,234.5000"),
        (None, "—"),
        (math.nan, "—"),
    ],
)
def test_numbers_are_never_rounded_onto_a_bound(value: float | None, text: str) -> None:
    assert plain_number(value) == text


def test_text_helpers() -> None:
    assert escaped("a<b\n\u202e\"'&") == "a&lt;b\\u{a}\\u{202e}&quot;&#x27;&amp;"
    assert (listed([1]), listed([1, 2, 3]), listed([])) == ("1", "1, 2 and 3", "")

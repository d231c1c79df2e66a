"""The page that reports are written on: its style, its policy, and how text and numbers look.

A page is one file that opens offline. It has no script and its policy allows inline styles and
data images alone, so that whatever stands in the data, nothing is run and nothing is fetched.
Text from data, which may come from strangers, enters a page only through `escaped`.
"""

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
SEALED = (
    "default-src 'none'; script-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""For pages of what strangers wrote: no style either but the page's own, named by its digest."""
DASH = "—"
"""In place of a number that is not there."""
GLYPHS = {
    **{"identified": "●", "partial": "◐", "not identified": "○"},
    **{"supported": "●", "not supported": "○", "not applicable": "–"},
    **{"holds": "●", "drifted": "◐", "cannot run": "○"},
}


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page; `title` is text, `sections` are HTML."""
    return _page(title, sections, policy=POLICY, style=STYLE)


def sealed_page(title: str, sections: Iterable[str], *, style: str) -> str:
    """A whole page for what strangers wrote; `style` is added to the page's own.

    No element may have a `style` attribute: the policy lets none through.
    """
    style = STYLE + style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    referrer = '<meta name="referrer" content="no-referrer">\n'
    policy = SEALED.format(digest=digest)
    return _page(title, sections, policy=policy, style=style, head=referrer)


def _page(title: str, sections: Iterable[str], *, policy: str, style: str, head: str = "") -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{head}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def escaped(value: object) -> str:
    """Text from data, safe in HTML text and in quoted attributes.

    Control and bidirectional-override characters and lone surrogates are spelled out: they could
    make a name or a command read as another.
    """
    shown = (c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in str(value))
    return html.escape("".join(shown), quote=True)


def prose(value: object) -> str:
    """Text from data, with what stands between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(value))


def plain(text: str) -> str:
    """Paragraphs from data as they were typed: line ends, tabs and spaces of any width stay.

    For elements whose style keeps white space; everything else as in `escaped`.
    """
    parts = re.split(r"((?:[\n\t ]|[^\S\x00-\x1f\x85\u2028\u2029])+)", text)
    return "".join(part if i % 2 else escaped(part) for i, part in enumerate(parts))


# Everything below takes data and returns HTML; arguments called `content` are HTML already.


def section(title: str, *content: str) -> str:
    return f"<section>\n<h2>{escaped(title)}</h2>\n{''.join(content)}\n</section>"


def anchored(anchor: str, content: str) -> str:
    """A section that links on the page can lead to."""
    return content.replace("<section>", f'<section id="{escaped(anchor)}">', 1)


def nested(content: str) -> str:
    """Sections that stand inside another one: their headings one level down.

    Text from data cannot hold a tag, so every heading that is found is one of ours.
    """
    return re.sub(r"(</?h)([2-5])>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", content)


def facts(told: Mapping[str, str]) -> str:
    """A list of names and what they are, both HTML."""
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in told.items())
    return f"<dl>{rows}</dl>"


def figure(content: str, caption: str) -> str:
    """A picture with its caption below, both HTML."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def titled_figure(caption: str, content: str) -> str:
    """A picture with its caption above, both HTML."""
    return f"<figure><figcaption>{caption}</figcaption>{content}</figure>"


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escaped(summary)}</summary>{content}</details>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML. The first column names the row, the others are aligned as numbers."""
    first, *rest = heads
    head = f'<th scope="col">{first}</th>' + "".join(
        f'<th scope="col" class="num">{name}</th>' for name in rest
    )
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f'<td class="num">{cell}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{content}</table></div>'


def badge(verdict: object) -> str:
    """A verdict with its glyph; every verdict looks alike, so that none is a failure."""
    return f'<span class="badge">{GLYPHS.get(str(verdict), "–")} {escaped(verdict)}</span>'


def plain_number(value: object, digits: int = 4) -> str:
    """A number as text, never rounded onto a bound that it does not reach (`> 0.9999`)."""
    number, smallest = as_float(value), 10.0**-digits
    if not math.isfinite(number):
        return DASH
    text = f"{number:,.{digits}f}".replace("-", "−")
    if 0 < abs(number) < smallest / 2:
        return f"< {smallest:g}" if number > 0 else f"> −{smallest:g}"
    if 0 < 1 - number <= smallest / 2:
        return f"> {1 - smallest:g}"
    return text


def number(value: object, digits: int = 4) -> str:
    return escaped(plain_number(value, digits))


def count(value: object) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else DASH


def measured(value: object) -> str:
    """A number that may be a count: whole from 2 on, with decimals otherwise."""
    real = as_float(value)
    return count(int(real)) if real >= 2 and real == round(real) else number(value)


def counted(value: object, unit: object) -> str:
    """`20 draws`, `1 draw`."""
    unit = str(unit).removesuffix("s") if value == 1 else unit
    return f"{count(value)} {escaped(unit)}"


def interval(ends: Sequence[float] | None) -> str:
    return DASH if ends is None else f"[{number(ends[0])}, {number(ends[1])}]"


def seconds(value: object) -> str:
    return DASH if value is None else f"{number(value, 1)} s"


def moment(time: object) -> str:
    """`2026-11-20T18:53:06Z` as `2026-11-20 18:53:06 UTC`."""
    return escaped(time).replace("T", " ").replace("Z", " UTC")


def pairs(data: Mapping[str, Any]) -> str:
    """`p = 113, equals_token = true`."""
    return ", ".join(f"{escaped(key)} = {_value(value)}" for key, value in data.items())


def listed(values: Sequence[object]) -> str:
    """`3, 15 and 17`."""
    texts = [escaped(value) for value in values]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def words(name: object) -> str:
    """A key as words: `accuracy_without` becomes `accuracy without`."""
    return escaped(str(name).replace("_", " "))


def as_float(value: object) -> float:
    """A number of a document; NaN where there is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else escaped(value)


# Okabe and Ito's blue, vermillion, orange and sky blue; contrast of text at least 4.5 : 1.
STYLE = """
:root { color-scheme: light dark; --page: #fcfcfa; --ink: #1b1e22; --muted: #59606a;
  --line: #dfe1e4; --soft: #f1f2f1; --first: #0072b2; --second: #c04a00; --bar: #9aa2ab; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e5e7e9;
  --muted: #9ca5af; --line: #30363d; --soft: #1d2126; --first: #56b4e9; --second: #ff9a4d;
  --bar: #6e7781; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; font-weight: 650; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; font-weight: 650; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; font-weight: 650; }
section { margin-top: 3rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: 0 0 1rem; }
.note { font-size: .875rem; margin: .75rem 0 0; }
.kicker, figcaption, small, .note, dt, summary { color: var(--muted); }
.kicker { margin: 0 0 .25rem; font-size: .875rem; }
.verdict { font-size: 1.125rem; }
.badge { white-space: nowrap; border: 1px solid var(--muted); border-radius: 1em;
  padding: .1em .65em; font-size: .875em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; font-size: .875rem;
  margin: 1.5rem 0 0; }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .9em; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem 1rem; border-radius: .25rem; overflow: auto;
  white-space: pre-wrap; max-height: 40rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; font-weight: 400; padding: .25rem .75rem .25rem 0; }
th.num, td.num { text-align: right; white-space: nowrap; padding-left: .75rem; }
thead th { color: var(--muted); border-bottom: 1px solid var(--muted); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.findings { width: 100%; } .findings th:first-child { width: 46%;
  min-width: 15rem; }
.findings tbody tr > * { border-top: 0; }
.findings tbody + tbody .claim > * { border-top: 1px solid var(--line); }
.findings .claim > * { padding-top: .6rem; } .findings tbody tr:last-child > * {
  padding-bottom: .75rem; }
.findings td:last-child, .findings thead th:last-child { padding-left: .75rem; }
.findings .claim .num { font-weight: 650; }
.findings small { display: block; font-size: .8125rem; max-width: 40rem; }
.findings .control { padding-left: 1.5rem; color: var(--muted); }
.findings tbody tr:not(.claim) > * { padding-top: .1rem; }
.findings tbody tr:not(:last-child) > * { padding-bottom: .1rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
  gap: 1.75rem 2.5rem; align-items: start; }
.panels figure, .gallery figure { margin: 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: 1.25rem; }
figure { margin: 0 0 1rem; min-width: 0; break-inside: avoid; }
figcaption { font-size: .875rem; margin: .4rem 0; }
img { display: block; width: 100%; image-rendering: pixelated; }
.half { max-width: 36rem; }
.map { display: grid; grid-template-columns: 1.75rem 1fr; font-size: .75rem; color: var(--muted); }
.across { grid-column: 2; display: flex; justify-content: space-between; }
.down { display: flex; flex-direction: column; justify-content: space-between; align-items: end;
  padding-right: .35rem; }
.scale { display: flex; gap: .5rem; align-items: center; font-size: .75rem; color: var(--muted);
  margin: .6rem 0 0 1.75rem; }
.scale img { height: .6rem; flex: 1; min-width: 0; }
svg { display: block; width: 100%; height: auto; font-size: 12.5px; }
svg text { fill: var(--ink); text-anchor: middle; font-variant-numeric: tabular-nums; }
svg .start { text-anchor: start; } svg .end { text-anchor: end; } svg .strong { font-weight: 650; }
svg .quiet { fill: var(--muted); }
.grid { stroke: var(--line); } .axis { stroke: var(--muted); } .dot { fill: var(--first); }
.finding, .key { fill: var(--first); } .control, .other { fill: var(--bar); }
.held-out { fill: none; stroke: var(--first); stroke-width: 1.5; }
.whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .first { stroke: var(--first); }
.second { stroke: var(--second); stroke-dasharray: 6 4; }
.mark { stroke: var(--muted); stroke-dasharray: 2 3; fill: none; }
.formula { font: 1.2rem/1.8 ui-serif, Georgia, "Noto Serif", "DejaVu Serif", serif;
  overflow-wrap: break-word; max-width: none; }
.formula.small { font-size: 1.05rem; } .formula sub { line-height: 0; }
details { margin: .75rem 0; font-size: .875rem; } summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--first); outline-offset: 2px; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin: 0 0 .5rem; }
  main { padding: 1.5rem 1rem; } h1 { font-size: 1.6rem; } }
@media print { main { max-width: none; padding: 0; } section { margin-top: 1.5rem; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  tbody, figure { break-inside: avoid; } h2 { break-after: avoid; } }
"""

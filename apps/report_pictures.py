"""The pictures of a report: every input, the spectra, the formula and the neurons."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor

from apps.figures import (
    Mark,
    Series,
    colour_bar,
    finite_limit,
    heat_map,
    line_chart,
    right_wrong_map,
    spectrum,
)
from apps.page import as_float, details, escaped, figure, listed, number, section, table
from workbench.task import tasks

Document = Mapping[str, Any]
Figures = Mapping[str, Tensor]

LISTED_ERRORS = 60
"""How many wrong inputs are written out."""
GALLERY_SIDE = 256
"""A tile of the gallery shows at most this many elements a side, the first ones."""


class _Group(NamedTuple):
    """The cyclic group that a task adds in, as far as the page needs it."""

    order: int
    first: int
    """The smallest element."""
    base: int | None
    """The element whose logarithm is 1, or None where an element is its own logarithm."""
    difference: str
    """d in letters: `a + b − c`."""


# ---------------------------------------------------------------------- every input


def maps_section(document: Document, figures: Figures) -> str:
    """Right and wrong, and the margin, over a x b."""
    if "correct" not in figures or "margin" not in figures:
        return ""
    correct, margin = figures["correct"].bool(), figures["margin"]
    first, wrong = _first(document, len(correct)), int((~correct).sum())
    ends = (str(first), str(first + len(correct) - 1))
    counted = f"{correct.numel() - wrong:,} of {correct.numel():,} inputs right, {wrong:,} wrong"
    limit, spread = finite_limit(margin), _spread(margin)
    margins = heat_map(margin, alt=f"Margin over a and b. {spread}", limit=limit, signed=True)
    bar = colour_bar(limit=limit, signed=True, alt="Colour scale of the margin, symmetric about 0")
    scale = f'<div class="scale"><span>−{limit:.1f}</span>{bar}<span>+{limit:.1f}</span></div>'
    right = right_wrong_map(correct, alt=f"Right and wrong over a and b: {counted}")
    panels = (
        figure(_on_axes(right, ends), f"Wrong answers are orange: {counted}."),
        figure(
            _on_axes(margins, ends) + scale,
            "Margin in nats: logit of the right answer minus the largest other. Blue is right, "
            f"orange is wrong; the scale is symmetric about zero. {spread}",
        ),
    )
    return section(
        "Every input",
        f'<div class="panels">{"".join(panels)}</div>',
        details("Quantiles of the margin", _quantiles(margin)),
        details(f"Inputs answered wrongly: {wrong:,}", _errors(correct, margin, first)),
    )


def _on_axes(picture: str, ends: tuple[str, str]) -> str:
    """A map with rows a downwards and columns b to the right."""
    across, down = (f"<span>{ends[0]}</span><span>{x}</span><span>{ends[1]}</span>" for x in "ba")
    return (
        f'<div class="map"><div class="across">{across}</div><div class="down">{down}</div>'
        f"{picture}</div>"
    )


def _first(document: Document, side: int) -> int:
    """The smallest element: 1 where zero is not one."""
    return 1 if (document.get("task") or {}).get("p") == side + 1 else 0


def _spread(values: Num[Tensor, "row column"]) -> str:
    finite = values[values.isfinite()].double()
    if not finite.numel():
        return "No value is finite."
    text = f"Smallest {float(finite.min()):.2f}, largest {float(finite.max()):.2f}."
    missing = values.numel() - finite.numel()
    return text.replace("-", "−") + (f" {missing:,} are not finite (grey)." if missing else "")


def _quantiles(values: Num[Tensor, "row column"]) -> str:
    finite = values[values.isfinite()].double().sort().values
    at = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0)
    rows = [
        (f"{share:.1%}", number(float(finite[round(share * (len(finite) - 1))]), 3))
        for share in at
        if len(finite)
    ]
    return table(("Share of inputs at or below", "Margin, nats"), rows)


def _errors(correct: Shaped[Tensor, "a b"], margin: Num[Tensor, "a b"], first: int) -> str:
    wrong = (~correct).nonzero()
    if not len(wrong):
        return "<p>None.</p>"
    order = margin[~correct].nan_to_num(nan=-torch.inf).argsort()[:LISTED_ERRORS]
    rows = [
        (f"a = {first + i}, b = {first + j}", number(float(margin[i, j]), 3))
        for i, j in wrong[order].tolist()
    ]
    shown = f"<p>The {len(rows)} with the smallest margin.</p>" if len(wrong) > len(rows) else ""
    return shown + table(("Input", "Margin, nats"), rows)


# ---------------------------------------------------------------------- spectra and formula


def spectra_section(document: Document, figures: Figures) -> str:
    """How much of the embedding and of the logits each frequency carries."""
    keys = _keys(document)
    named = (document.get("parts") or {}).get("embedding_frequencies") or keys
    panels, columns = [], {}
    for key, title, marked, what in (
        ("embedding_spectrum", "Embedding", named, "share of the operand embeddings' variance"),
        ("logit_spectrum", "Logits", keys, "share of the centred logit variance"),
    ):
        if key not in figures:
            continue
        values = columns[title] = figures[key].double().tolist()
        marks = f"marked: {listed(marked)}" if marked else "no frequency is marked"
        chart = spectrum(
            values,
            marked=set(marked),
            label=f"{title}: {what}, by frequency; {marks}",
            y_title="share",
        )
        panels.append(figure(chart, f"{title}: {what}, by frequency; {marks}."))
    if not panels:
        return ""
    rows = [
        (str(k), *(number(value) for value in shares))
        for k, shares in enumerate(zip(*columns.values(), strict=False), 1)
    ]
    return section("Spectra", *panels, details("Spectra as numbers", table(("k", *columns), rows)))


def formula_section(document: Document, figures: Figures) -> str:
    """The program read off the network, and the sum that its answer maximises."""
    group, terms = _group(document, figures), _terms(document)
    if group is None or not terms:
        if "logit_spectrum" not in figures:
            return ""
        return section(
            "The formula", "<p>No key frequency was found, so there is no formula to write out.</p>"
        )
    n = group.order
    sum_ = " ".join(
        f"{'−' if alpha < 0 else '+'} {abs(alpha):.3f} cos(2π · {k} <i>d</i> / {n})"
        for k, alpha in terms
    ).removeprefix("+ ")
    where = f"<i>d</i> = {group.difference} mod {n}"
    if group.base is not None:
        where += f", log the discrete logarithm to base {group.base} modulo {n + 1}"
    return section(
        "The formula",
        f'<p class="formula">answer = argmax<sub><i>c</i></sub> {_SUM} cos(2π <i>k d</i> / {n}), '
        f"&nbsp; {where}</p>",
        f'<p class="formula small">{sum_}</p>',
        _agreement(document, terms),
        _sum_figure(group, terms),
    )


_SUM = "Σ<sub><i>k</i></sub> <i>α<sub>k</sub></i>"


def _keys(document: Document) -> list[int]:
    return [k for k in document.get("key_frequencies") or () if isinstance(k, int)]


def _terms(document: Document) -> list[tuple[int, float]]:
    """(k, alpha_k) of the key frequencies, in their order."""
    planes = (document.get("parts") or {}).get("planes") or ()
    alpha = {plane["frequency"]: as_float(plane["alpha"]) for plane in planes}
    return [(k, alpha[k]) for k in _keys(document) if alpha.get(k, torch.nan) == alpha.get(k)]


def _group(document: Document, figures: Figures) -> _Group | None:
    """The group, from the logarithms of its elements and the sign of the task's operator."""
    if "logs" not in figures:
        return None
    logs: Int[Tensor, " element"] = figures["logs"]
    first, name = _first(document, len(logs)), (document.get("task") or {}).get("name")
    own = bool((logs == torch.arange(len(logs))).all())
    letters = [f"{'' if own else 'log '}<i>{x}</i>" for x in "abc"]
    minus = name in tasks and tasks.get(str(name)).symbol in "-/"
    difference = f"{letters[0]} {'−' if minus else '+'} {letters[1]} − {letters[2]}"
    return _Group(
        len(logs), first, None if own else first + int((logs == 1).nonzero()[0]), difference
    )


def _agreement(document: Document, terms: Sequence[tuple[int, float]]) -> str:
    """What the findings say of the formula, and a caution."""
    values = {f["id"]: f for f in document.get("findings") or ()}
    said = [
        f"{escaped(values[id]['measure'])}: {number(values[id]['value'])}"
        for id in ("formula", "formula_logits")
        if id in values
    ]
    caution = (
        " With every amplitude positive the argmax is the right answer whatever the frequencies, "
        "so agreement alone says little; the share of variance does depend on them."
        if all(alpha > 0 for _, alpha in terms)
        else ""
    )
    return f"<p>{'; '.join(said).capitalize()}.{caution}</p>" if said else ""


def _sum_figure(group: _Group, terms: Sequence[tuple[int, float]]) -> str:
    n = group.order
    d = torch.arange(-(n // 2), n - n // 2)
    total = _sum(n, d, terms)
    at_zero = float(total[n // 2])
    total_elsewhere = torch.where(d == 0, -torch.inf, total)
    nearest = int(total_elsewhere.argmax())
    fact = (
        f"At d = 0, the right answer, it is {at_zero:.2f}; the largest elsewhere is "
        f"{float(total[nearest]):.2f}, at d = ±{abs(int(d[nearest]))}."
    ).replace("-", "−")
    chart = line_chart(
        [Series("sum", list(zip(d.tolist(), total.tolist(), strict=True)), "first")],
        label=f"The sum over k as a function of d. {fact}",
        x_title="d",
        y_title="nats",
        dots=n <= 150,
        marks=[Mark(0.0, "d = 0")],
    )
    rows = [(str(i), number(value, 3)) for i, value in zip(d.tolist(), total.tolist(), strict=True)]
    return figure(
        f'<div class="half">{chart}</div>',
        f"{_SUM} cos(2π <i>k d</i> / {n}) against <i>d</i>. {fact}",
    ) + details("The sum as numbers", table(("d", "sum, nats"), rows))


def _sum(n: int, d: Int[Tensor, " d"], terms: Sequence[tuple[int, float]]) -> Float[Tensor, " d"]:
    total = torch.zeros(len(d), dtype=torch.float64)
    for k, alpha in terms:
        total += alpha * ((k * d % n).double() * (2 * torch.pi / n)).cos()
    return total


# ---------------------------------------------------------------------- neurons


def gallery_section(document: Document, figures: Figures) -> str:
    """Activations of some neurons over a x b, in the order of the logarithms."""
    if "gallery" not in figures or not len(figures["gallery"]):
        return ""
    group, tiles = _group(document, figures), figures["gallery"].double()
    order = "a downwards and b to the right, ascending"
    if group is not None and group.base is not None:
        place = figures["logs"].argsort()
        tiles = tiles[:, place][:, :, place]
        order = (
            f"log a downwards and log b to the right, ascending (discrete logarithms to base "
            f"{group.base}), not a and b themselves"
        )
    if tiles.shape[1] > GALLERY_SIDE:
        order += f"; the first {GALLERY_SIDE} of {tiles.shape[1]:,} elements each way"
        tiles = tiles[:, :GALLERY_SIDE, :GALLERY_SIDE]
    signed = bool((tiles < 0).any())
    scale = (
        "from minus its largest absolute value (orange) through zero to plus it (blue)"
        if signed
        else "from zero (dark) to its largest value (bright)"
    )
    neurons = list(_neurons(document, figures))
    shown = "".join(
        _tile(tile, name, k, signed) for tile, (name, k) in zip(tiles, neurons, strict=True)
    )
    rows = [
        (name, k, number(float(tile.max()), 3), number(float(tile.mean()), 3))
        for tile, (name, k) in zip(tiles, neurons, strict=True)
    ]
    return section(
        "Neurons",
        f"<p>Activations at the answer position over every input: {order}. Of each frequency the "
        f"neurons that vary most are shown, not a random choice. Each has its own scale, "
        f"{scale}.</p>",
        f'<div class="gallery">{shown}</div>',
        details("Neurons as numbers", table(("Neuron", "k", "largest", "mean"), rows)),
    )


def _neurons(document: Document, figures: Figures) -> Iterator[tuple[str, str]]:
    """Name and frequency of each neuron of the gallery; neurons count on through the layers."""
    d_mlp = int((document.get("model") or {}).get("d_mlp") or 0)
    numbers = figures["gallery_neurons"].tolist()
    for i, k in zip(numbers, figures["gallery_frequencies"].tolist(), strict=True):
        layer, neuron = divmod(i, d_mlp) if d_mlp else (0, i)
        yield f"m{layer} neuron {neuron}", str(k) if k > 0 else "none"


def _tile(tile: Float[Tensor, "a b"], name: str, k: str, signed: bool) -> str:
    limit = finite_limit(tile)
    alt = f"Activation of {name}, named for frequency {k}, over a and b; largest {limit:.2f}"
    picture = heat_map(tile, alt=alt, limit=limit, signed=signed)
    return figure(picture, f"k = {escaped(k)}<br>{escaped(name)}")

"""Pictures for files: heat maps of sweeps and drawings of circuits, as PNG or SVG.

Colours are safe for colour-blind readers: orange for more, blue for less, white at zero.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.graph import LOGITS, component
from circuits.patching import Sweep
from workbench.errors import CircuitError

MORE, LESS = "#c04a00", "#1f5fa8"
MOST_LABELLED = 40
"""Ticks that fit along an axis."""
DRAWN_CELLS = 400
"""Heat maps up to this many cells carry their numbers."""


def draw_sweep(found: Sweep, kind: str, *, columns: Sequence[str] | None = None) -> bytes:
    """A sweep as a heat map: rows are all axes but the last. `kind` is png or svg.

    Args:
        columns: names of the last axis' entries, such as tokens by position.
    """
    values = found.mean.flatten(0, -2) if found.mean.ndim > 1 else found.mean[None]
    rows = row_names(found)
    names = list(columns) if columns is not None else [str(i) for i in found.labels[-1]]
    plot = _pyplot()
    size = (2.5 + 0.42 * min(len(names), 60), 1.6 + 0.32 * min(len(rows), 80))
    figure, axes = plot.subplots(figsize=size, layout="constrained")
    limit = float(values.abs().max()) or 1.0
    image = axes.imshow(values.numpy(), cmap=_colours(), vmin=-limit, vmax=limit, aspect="auto")
    _ticks(axes.xaxis, names)
    _ticks(axes.yaxis, rows)
    axes.set_xlabel(found.axes[-1])
    axes.set_ylabel(" . ".join(found.axes[:-1]) or found.site)
    axes.set_title(title(found), fontsize=9)
    if values.numel() <= DRAWN_CELLS:
        _write_numbers(axes, values, limit)
    figure.colorbar(image, ax=axes, label=f"effect on {found.metric}")
    return _saved(plot, figure, kind)


def title(found: Sweep) -> str:
    """What a sweep shows, in one line."""
    return (
        f"{found.site}: {found.direction}, {found.ablation} ablation, "
        f"n = {found.n} pair{'s' if found.n > 1 else ''}"
    )


def row_names(found: Sweep) -> list[str]:
    """The rows of a sweep's table: indices of all axes but the last."""
    shape = [len(labels) for labels in found.labels[:-1]]
    if not shape:
        return [found.site]
    grid = torch.cartesian_prod(*(torch.tensor(labels) for labels in found.labels[:-1]))
    grid = grid.reshape(-1, len(shape))
    letters = {"layer": "L", "head": "H", "position": "@", "neuron": "N"}
    heads = [letters[axis] for axis in found.axes[:-1]]
    return ["".join(f"{h}{i}" for h, i in zip(heads, row, strict=True)) for row in grid.tolist()]


def draw_circuit(circuit: Circuit, scores: Float[Tensor, "*pos writer reader"], kind: str) -> bytes:
    """A circuit from the embeddings at the bottom to the logits at the top.

    An edge is as wide as its score is large; orange where patching it raises the metric, blue
    where it lowers it. In a circuit per position edges of the same name are drawn once.
    """
    if not circuit.n_edges:
        raise CircuitError("the circuit has no edges; there is nothing to draw")
    plot = _pyplot()
    edges = _drawn_edges(circuit, scores)
    places = _places({name for writer, reader, _ in edges for name in (writer, component(reader))})
    width = max(x for x, _ in places.values()) - min(x for x, _ in places.values())
    height = max(y for _, y in places.values())
    size = (3 + 1.3 * width, 1.5 + 0.95 * height)
    figure, axes = plot.subplots(figsize=size, layout="constrained")
    largest = max(abs(score) for *_, score in edges) or 1.0
    for writer, reader, score in edges:
        _arrow(axes, places[writer], places[component(reader)], _letter(reader), score / largest)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#333333"}
        axes.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    xs = [x for x, _ in places.values()]
    axes.set_xlim(min(xs) - 0.8, max(xs) + 0.8)
    axes.set_ylim(-0.6, height + 0.6)
    axes.axis("off")
    axes.set_title(f"{circuit.n_edges} of {circuit.graph.n_edges} edges", fontsize=9)
    return _saved(plot, figure, kind)


def _drawn_edges(circuit: Circuit, scores: Tensor) -> list[tuple[str, str, float]]:
    """Writer, reader and score; of edges at several positions, the largest score."""
    graph = circuit.graph
    found: dict[tuple[str, str], float] = {}
    for index in circuit.member.nonzero().tolist():
        ends = (graph.writers[index[-2]], graph.readers[index[-1]])
        score = float(scores[tuple(index)])
        if abs(score) >= abs(found.get(ends, 0.0)):
            found[ends] = score
    return [(writer, reader, score) for (writer, reader), score in found.items()]


def _places(names: set[str]) -> dict[str, tuple[float, float]]:
    """Where nodes stand: a row for the embeddings, two per layer, one for the logits."""
    rows: dict[float, list[str]] = {}
    for name in names:
        rows.setdefault(_row(name), []).append(name)
    places = {}
    for y, row in enumerate(sorted(rows)):
        ordered = sorted(rows[row], key=_order)
        for i, name in enumerate(ordered):
            # Rows are shifted a little in turn, so that straight edges do not hide each other.
            places[name] = (i - (len(ordered) - 1) / 2 + 0.18 * (y % 2), float(y))
    return places


def _row(name: str) -> float:
    if name in ("embed", "pos_embed"):
        return -1.0
    if name == LOGITS:
        return float("inf")
    match = re.match(r"[am](\d+)", name)
    assert match is not None, name
    return int(match[1]) + (0.5 if name.startswith("m") else 0.0)


def _order(name: str) -> tuple[int, str]:
    head = re.search(r"h(\d+)$", name)
    return (int(head[1]) if head else 0, name)


def _letter(reader: str) -> str:
    match = re.search(r"<(\w)>", reader)
    return match[1] if match else ""


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], letter: str, share: float
) -> None:
    offset = {"q": -0.16, "k": 0.0, "v": 0.16}.get(letter, 0.0)
    colour = MORE if share > 0 else LESS
    shape = {"arrowstyle": "-|>", "shrinkA": 11, "shrinkB": 11, "color": colour}
    shape |= {"linewidth": 0.5 + 3 * abs(share), "alpha": 0.35 + 0.6 * abs(share)}
    target = (end[0] + offset, end[1])
    axes.annotate("", xy=target, xytext=start, arrowprops=shape, zorder=1)
    if letter:
        x, y = (0.35 * start[0] + 0.65 * target[0], 0.35 * start[1] + 0.65 * target[1])
        box = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "none"}
        axes.text(x, y, letter, fontsize=7, ha="center", va="center", color=colour, bbox=box)


def _write_numbers(axes: Any, values: Tensor, limit: float) -> None:
    digits = 2 if limit < 10 else 1
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            strong = "white" if abs(value) > 0.6 * limit else "black"
            text = f"{value:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=strong)


def _ticks(axis: Any, names: Sequence[str]) -> None:
    every = -(-len(names) // MOST_LABELLED)
    places = list(range(0, len(names), every))
    axis.set_ticks(places, [names[i] for i in places], fontsize=7)


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("effect", [LESS, "#ffffff", MORE])


def _pyplot() -> Any:
    """matplotlib without a screen; imported when a picture is wanted."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "workbench"  # the same picture, the same bytes
    import matplotlib.pyplot as plot

    return plot


def _saved(plot: Any, figure: Any, kind: str) -> bytes:
    data = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(data, format=kind, dpi=160, metadata=metadata)
    plot.close(figure)
    return data.getvalue()

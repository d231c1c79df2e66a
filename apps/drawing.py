"""Pictures for files: heat maps of sweeps, as PNG or SVG; circuits are in `apps.circuit_drawing`.

Colours are safe for colour-blind readers: blue for more, orange for less, white at zero.
"""

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.patching import Sweep

MORE, LESS = "#1f5fa8", "#c04a00"
MOST_LABELLED = 40
"""Ticks that fit along an axis."""
DRAWN_CELLS = 400
"""Heat maps up to this many cells carry their numbers."""


def draw_sweep(found: Sweep, kind: str, *, columns: Sequence[str] | None = None) -> bytes:
    """A sweep as a heat map: rows are all axes but the last. `kind` is png or svg.

    Args:
        columns: what the last axis' entries hold, such as tokens by position; written below them.
    """
    values = found.mean.flatten(0, -2) if found.mean.ndim > 1 else found.mean[None]
    rows = row_names(found)
    names = [str(i) for i in found.labels[-1]]
    if columns is not None:
        names = [f"{i}\n{column}" for i, column in zip(names, columns, strict=True)]
    plot = pyplot()
    wide = 0.42 * len(names) if values.numel() <= DRAWN_CELLS else min(14.0, 0.42 * len(names))
    size = (3.2 + min(wide, 25.0), 1.6 + 0.32 * min(len(rows), 80))
    figure, axes = plot.subplots(figsize=size, layout="constrained")
    limit = float(values.abs().max()) or 1.0
    image = axes.imshow(values.numpy(), cmap=colours(), vmin=-limit, vmax=limit, aspect="auto")
    ticks(axes.xaxis, names)
    ticks(axes.yaxis, rows)
    axes.set_xlabel(found.axes[-1])
    axes.set_ylabel(" . ".join(found.axes[:-1]) or found.site)
    axes.set_title(f"{title(found)}\neffect on {found.metric}", fontsize=9)
    if values.numel() <= DRAWN_CELLS:
        _write_numbers(axes, values, limit)
    bar = figure.colorbar(image, ax=axes)
    bar.ax.tick_params(labelsize=7)
    return saved(plot, figure, kind)


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


def _write_numbers(axes: Any, values: Tensor, limit: float) -> None:
    digits = 2 if limit < 10 else 1
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            strong = "white" if abs(value) > 0.6 * limit else "black"
            text = f"{value:z.{digits}f}"  # never -0.00
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=strong)


def ticks(axis: Any, names: Sequence[str]) -> None:
    every = -(-len(names) // MOST_LABELLED)
    places = list(range(0, len(names), every))
    axis.set_ticks(places, [names[i] for i in places], fontsize=7)


def colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("effect", [LESS, "#ffffff", MORE])


def pyplot() -> Any:
    """matplotlib without a screen; imported when a picture is wanted."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "workbench"  # the same picture, the same bytes
    import matplotlib.pyplot as plot

    return plot


def saved(plot: Any, figure: Any, kind: str) -> bytes:
    data = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(data, format=kind, dpi=160, metadata=metadata)
    plot.close(figure)
    return data.getvalue()

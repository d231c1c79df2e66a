"""What switches should do, by the formula read off the network:

    logits(c) = sum over key frequencies k of alpha_k cos(w_k (a + b - c)).

A frequency is in the sum while its plane of the embeddings, its neurons and its plane of the logits
are all on, and turning the plane of operand a by s adds s to a + b in its cosine alone. So every
answer is moved by one number, the same for all inputs: `Prediction.offsets`. Where nothing is left,
accuracy falls to chance.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.fourier.parts import logs_of, structure
from circuits.fourier.switchboard import Board, Switches, check_switches
from workbench.task import Inputs

TIE = 1e-9
"""Answers whose formula is this near the best, as a share of all amplitudes, are as good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the formula says that switches do."""

    kind: Literal["answers", "chance", "none"]
    """Whether answers are predicted, or that accuracy falls to chance, or nothing: the formula
    does not say what single heads bring."""
    offsets: tuple[int, ...] = ()
    """What is added to the right answer (its logarithm, where the task multiplies), modulo the
    order of the group; several where they are equally good. (0,) where all stays right."""
    left: tuple[int, ...] = ()
    """Key frequencies that stay in the sum."""
    lost: tuple[int, ...] = ()
    """Key frequencies that leave it."""
    margin: float = 0.0
    """Of the sum: its best answer above the next, in the unit of the amplitudes (nats of logits).
    Where it is small, what the formula leaves out of the network decides as well."""


def predict(board: Board, switches: Switches) -> Prediction:
    """What the formula says; only the named parts are looked at.

    A key frequency with no named plane of the embeddings is made of those that are there: it stays
    while any of them is on, and turns where all are turned alike. Where no frequency is key, the
    embedding's are taken, with equal amplitudes.
    """
    check_switches(board, switches)
    if switches.heads_ablated:
        return Prediction(kind="none")
    parts, order = board.study.parts, structure(board.study.subject).order
    key = parts.key_frequencies or parts.embedding_frequencies
    left = tuple(k for k in key if _is_left(board, switches, k))
    lost = tuple(k for k in key if k not in left)
    if not left:
        return Prediction(kind="chance", lost=lost)
    shifts, turns = _predicted_shifts(board, switches), torch.arange(order)
    table, size = torch.zeros(order, dtype=torch.float64), 0.0
    for k in left:
        amplitude = float(parts.alpha[k - 1]) if parts.key_frequencies else 1.0
        # The answer's cosine is cos(w_k (s_k - offset)).
        angle = (k * (shifts.get(k, 0) - turns) % order).double() * (2 * math.pi / order)
        table, size = table + amplitude * angle.cos(), size + abs(amplitude)
    best = (table >= table.max() - TIE * size).nonzero()[:, 0]
    ranked = table.sort(descending=True).values
    return Prediction(
        kind="answers",
        offsets=tuple(best.tolist()),
        left=left,
        lost=lost,
        margin=float(ranked[0] - ranked[1]) if len(best) == 1 else 0.0,
    )


def predicted_answers(
    board: Board, prediction: Prediction, inputs: Inputs
) -> Int[Tensor, "batch offset"]:
    """The answer tokens predicted for inputs, a column for each that is equally good."""
    cyclic = structure(board.study.subject)
    residues = torch.empty(cyclic.order, dtype=torch.long)
    residues[cyclic.logs] = cyclic.elements
    total = logs_of(cyclic, inputs[:, 0]) + cyclic.b_sign * logs_of(cyclic, inputs[:, 1])
    offsets = torch.tensor(prediction.offsets, dtype=torch.long)
    return residues[(total[:, None] + offsets[None]) % cyclic.order]


def as_predicted(
    board: Board,
    prediction: Prediction,
    answers: Int[Tensor, " batch"],
    right: Bool[Tensor, " batch"],
) -> Bool[Tensor, " batch"] | None:
    """Where answers are as predicted; see `circuits.fourier.switches.Outcome`."""
    if prediction.kind == "none":
        return None
    if prediction.kind == "chance":
        return board.right & ~right
    expected = predicted_answers(board, prediction, board.study.inputs)
    return (answers[:, None] == expected).any(1)


def _is_left(board: Board, switches: Switches, k: int) -> bool:
    """Whether a frequency stays in the formula."""
    parts = board.study.parts
    sources = (k,) if k in parts.embedding_frequencies else parts.embedding_frequencies
    embedded = any(_is_on(j, switches.embedding_only, switches.embedding_removed) for j in sources)
    cut = k in switches.neurons_ablated and bool((parts.neuron_frequencies == k).any())
    return embedded and not cut and _is_on(k, switches.logits_only, switches.logits_removed)


def _is_on(k: int, only: tuple[int, ...] | None, removed: tuple[int, ...]) -> bool:
    return k not in removed and (only is None or k in only)


def _predicted_shifts(board: Board, switches: Switches) -> dict[int, int]:
    """By how much every frequency turns; those that do not are left out."""
    shifts, parts = dict(switches.rotated), board.study.parts
    common = {shifts.get(k, 0) for k in parts.embedding_frequencies}
    derived = common.pop() if len(common) == 1 else 0
    made = {k: derived for k in parts.key_frequencies if k not in parts.embedding_frequencies}
    return {**made, **shifts}

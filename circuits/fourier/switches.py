"""Setting switches on the named parts of a network, at those parts or elsewhere, on every input.

`outcome` switches and compares with what was predicted. Where the switches act is data too
(`Places`), so that the same can be done elsewhere (`circuits.fourier.switch_controls`). With the
switches of a test of the mechanism (`circuits.fourier.tests`) its number comes out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.fourier import characters
from circuits.fourier.parts import LogitHead, keep_transform, structure, transformed_embedding
from circuits.fourier.switch_prediction import Prediction, as_predicted, predict
from circuits.fourier.switchboard import Board, Switches, amplitudes_of, check_switches, heads_of
from workbench.subject import Subject
from workbench.task import Inputs
from workbench.transformer import Edit, forward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where switches act: for a frequency that is switched, its planes and its neurons."""

    embedding: dict[int, Float[Tensor, "element element"]]
    """Projectors."""
    logits: dict[int, Float[Tensor, "element element"]]
    neurons: dict[int, Bool[Tensor, " neuron"]]
    """Layers concatenated."""
    heads: tuple[tuple[int, int], ...]
    """Layer and index of those that are ablated."""
    scale: float = 1.0
    """Of the planes of the embeddings that are kept alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of every input."""

    answers: Int[Tensor, " batch"]
    """The token that the network chose, over all its outputs."""
    right: Bool[Tensor, " batch"]
    as_predicted: Bool[Tensor, " batch"] | None
    """Where it gave a predicted answer; where chance was predicted, where a right answer was lost;
    None where nothing was predicted."""
    lost: float | None
    """Share of their amplitude in the logits that the frequencies predicted to leave have lost, in
    the mean over them; None where none should, and where none is key."""

    @property
    def accuracy(self) -> float:
        """Share of the inputs that are right."""
        return float(self.right.double().mean())

    @property
    def share(self) -> float | None:
        """Share of the inputs that are as predicted."""
        return None if self.as_predicted is None else float(self.as_predicted.double().mean())


def named_places(board: Board, switches: Switches) -> Places:
    """The planes, neurons and heads that the switches name. Raises `CircuitError`."""
    check_switches(board, switches)
    planes = characters.fourier_planes(structure(board.study.subject))
    named = board.study.parts.neuron_frequencies
    projectors = {
        k: characters.projector(planes[torch.tensor([k - 1])]) for k in switches.frequencies
    }
    return Places(
        embedding=projectors,
        logits=projectors,
        neurons={k: named == k for k in switches.neurons_ablated},
        heads=heads_of(board, switches.heads_ablated),
    )


def outcome(board: Board, switches: Switches, places: Places | None = None) -> Outcome:
    """Switch, at the named places or at others, and compare with the prediction.

    Raises `CircuitError` for a part that the network does not have.
    """
    prediction = predict(board, switches)
    logits = switched_logits(board, switches, board.study.inputs, places)
    answers = logits.argmax(-1).cpu()
    right = answers == board.study.label(board.study.inputs)
    return Outcome(
        answers=answers,
        right=right,
        as_predicted=as_predicted(board, prediction, answers, right),
        lost=_lost(board, prediction, logits),
    )


@torch.no_grad()
def switched_logits(
    board: Board, switches: Switches, inputs: Inputs, places: Places | None = None
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits at the answer with the switches set; -inf for what is no answer where the planes of
    the logits are switched."""
    subject = switched_subject(board, switches, places)
    places = places or named_places(board, switches)
    out = forward(
        subject.params,
        subject.task.encode(inputs).to(subject.device),
        subject.config,
        positions=subject.task.answer_positions,
        edits=_edits(board, switches, places),
    )
    logits = out.logits[:, 0]
    if switches.logits_only is None and not switches.logits_removed:
        return logits
    cyclic = structure(subject)
    n = len(cyclic.elements)
    cut = _cut(n, places.logits, switches.logits_only, switches.logits_removed, 1.0)
    cell = torch.zeros(1, dtype=torch.long)
    return LogitHead(cyclic.elements, cut[None])(logits[None], cell)[0]


def switched_subject(board: Board, switches: Switches, places: Places | None = None) -> Subject:
    """The network with the switches of its embeddings set (those of other parts are edits)."""
    subject, places = board.study.subject, places or named_places(board, switches)
    transform_a, transform_b = embedding_transforms(board, switches, places)
    if switches.embedding_only is None and not switches.embedding_removed and not switches.rotated:
        return subject
    embed = transformed_embedding(subject, transform_a[None], transform_b[None])[0]
    return replace(subject, params={**subject.params, "embed.W_E": embed.to(subject.device)})


def embedding_transforms(
    board: Board, switches: Switches, places: Places
) -> tuple[Float[Tensor, "element element"], Float[Tensor, "element element"]]:
    """What mixes the rows of operand a and of operand b: the turn of a, then what both keep."""
    cyclic = structure(board.study.subject)
    whole = torch.eye(len(cyclic.elements), dtype=torch.float64)
    turn = whole
    for k, shift in switches.rotated:
        turn = turn + places.embedding[k] @ (whole[_moved(board, shift)] - whole)
    only, removed = switches.embedding_only, switches.embedding_removed
    cut = _cut(len(whole), places.embedding, only, removed, places.scale)
    return cut @ turn, cut


def _moved(board: Board, shift: int) -> Int[Tensor, " element"]:
    """Index of the element whose logarithm is larger by `shift`, for each element."""
    cyclic = structure(board.study.subject)
    place = cyclic.logs.argsort()
    return place[(cyclic.logs + shift) % cyclic.order]


def _cut(
    n: int,
    projectors: Mapping[int, Float[Tensor, "element element"]],
    only: tuple[int, ...] | None,
    removed: tuple[int, ...],
    scale: float,
) -> Float[Tensor, "element element"]:
    """Keep some planes and the mean, or everything; then remove some."""
    nothing = torch.zeros(n, n, dtype=torch.float64)
    if only is not None:
        kept = [projectors[k] for k in only if k not in removed]
        return keep_transform(sum(kept, nothing), scale)
    return torch.eye(n, dtype=torch.float64) - sum((projectors[k] for k in removed), nothing)


def _edits(board: Board, switches: Switches, places: Places) -> dict[str, Edit]:
    """Edits that ablate neurons at the answer, and heads."""
    subject, zero = board.study.subject, switches.ablation == "zero"
    edits: dict[str, Edit] = {}
    if places.neurons:
        chosen = torch.stack(list(places.neurons.values())).any(0).to(subject.device)
        for layer, group in enumerate(torch.split(chosen, subject.config.d_mlp)):
            hook = f"blocks.{layer}.mlp.hook_post"
            edits[hook] = _set(group, board.means[hook][-1:], zero)
    for layer in {layer for layer, _ in places.heads}:
        group = torch.zeros(subject.config.n_heads, 1, dtype=torch.bool, device=subject.device)
        group[[head for at, head in places.heads if at == layer]] = True
        hook = f"blocks.{layer}.attn.hook_z"
        edits[hook] = _set(group, board.means[hook], zero)
    return edits


def _set(group: Bool[Tensor, "..."], mean: Float[Tensor, "pos ..."], zero: bool) -> Edit:
    """Put the mean, or zero, where `group` is true, at as many last positions as there are."""
    value = torch.zeros_like(mean) if zero else mean

    def edit(activation: Tensor) -> Tensor:
        changed = activation.clone()
        last = activation[:, -len(value) :]
        changed[:, -len(value) :] = torch.where(group, value, last)
        return changed

    return edit


def _lost(
    board: Board, prediction: Prediction, logits: Float[Tensor, "batch d_vocab_out"]
) -> float | None:
    if not prediction.lost or not board.study.parts.key_frequencies:
        return None
    gone = torch.tensor(prediction.lost) - 1
    left = amplitudes_of(board.study, logits)[gone]
    return float((1 - left / board.amplitudes[gone]).mean())


def plane_coordinates(
    board: Board, frequency: int, switches: Switches
) -> Float[Tensor, "operand element 2"]:
    """Where each operand's embedding lies in the plane of a frequency, with the switches set.

    The axes are the directions that the network gives to cos(w_k x) and, made orthogonal to it,
    to sin(w_k x), each operand's own, before anything is switched. A network that adds on circles
    shows circles, and turning the plane by s turns the points of operand a by w_k s.
    """
    cyclic, p = structure(board.study.subject), board.study.subject.task.n_answer_tokens
    plane = characters.fourier_planes(cyclic)[frequency - 1]
    before = board.study.subject.params["embed.W_E"].double().cpu()
    after = switched_subject(board, switches).params["embed.W_E"].double().cpu()
    found = []
    for rows in (cyclic.elements, p + cyclic.elements):
        basis, sizes = torch.linalg.qr((plane @ before[rows]).T)
        found.append((after[rows] - before[rows].mean(0)) @ (basis * sizes.diag().sign()))
    return torch.stack(found)

"""What the Parts page computes, kept by content: boards, switched networks, controls."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apps.web.cache import remembered
from apps.web.choice import Network, subject
from circuits.fourier.switch_controls import ControlDraw, control_draw
from circuits.fourier.switch_prediction import Prediction, predict, predicted_answers
from circuits.fourier.switchboard import Board, Switches, named_board
from circuits.fourier.switches import Outcome, outcome, plane_coordinates, switched_logits
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.records import RECORDS, read_records

MECHANISM = "mechanism"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the sentence and the numbers need of the network as it is."""

    accuracy: float
    margin: float
    """Of the formula with every part on."""


def explanation_of(network: Network) -> Record | None:
    """The record of the network's explanation, or None. Raises `RunError` for a damaged one."""
    folder = network.run.path / RECORDS
    found = sorted(folder.glob(f"{MECHANISM}-*.json")) if folder.is_dir() else []
    stamp = tuple((path.name, path.stat().st_mtime_ns) for path in found)
    return _explanation(network, network.name, network.step, stamp) if stamp else None


def whole_explanation(network: Network) -> Record | None:
    """The same; None for a damaged one, which the top of the page tells of."""
    try:
        return explanation_of(network)
    except WorkbenchError:
        return None


@remembered
def board(network: Network, seed: int) -> Board:
    """The network with its parts named; nothing is switched."""
    split = network.run.split()
    return named_board(subject(network), None if split is None else split.train, seed=seed)


@remembered
def before(network: Network, seed: int) -> Before:
    """The network with nothing switched."""
    own = board(network, seed)
    return Before(accuracy=float(own.right.double().mean()), margin=predict(own, Switches()).margin)


@remembered
def prediction(network: Network, seed: int, switches: Switches) -> Prediction:
    """What the formula says."""
    return predict(board(network, seed), switches)


@remembered
def switched(network: Network, seed: int, switches: Switches) -> Outcome:
    """What became of every input."""
    return outcome(board(network, seed), switches)


@remembered
def elsewhere(
    network: Network, seed: int, switches: Switches, kind: str, draw: int
) -> ControlDraw | None:
    """One draw of a control."""
    return control_draw(board(network, seed), switches, kind, draw=draw, seed=seed)


@remembered
def logits_on(
    network: Network, seed: int, switches: Switches, operands: tuple[int, ...]
) -> Float[Tensor, " answer"]:
    """Logits of every answer on one input; -inf for a token that is none."""
    own = board(network, seed)
    logits = switched_logits(own, switches, torch.tensor([operands]))[0]
    return logits[: network.task.n_answer_tokens].cpu()


@remembered
def predicted_on(
    network: Network, seed: int, switches: Switches, operands: tuple[int, ...]
) -> tuple[int, ...]:
    """The answers that are predicted on one input; none where nothing is."""
    own = board(network, seed)
    said = prediction(network, seed, switches)
    if said.kind != "answers":
        return ()
    return tuple(predicted_answers(own, said, torch.tensor([operands]))[0].tolist())


@remembered
def coordinates(
    network: Network, seed: int, switches: Switches, frequency: int
) -> Float[Tensor, "operand element 2"]:
    """The embeddings in the plane of a frequency."""
    return plane_coordinates(board(network, seed), frequency, switches)


@remembered
def _explanation(
    network: Network, name: str, step: int, stamp: tuple[object, ...]
) -> Record | None:
    records = [one for one in read_records(network.run, step) if one.kind == MECHANISM]
    return records[-1] if records else None

"""The same switches where the prediction should fail: at other frequencies, neurons and heads.

Whatever is switched at a named part is switched at as many others: every frequency in turn at one
that was not named, or in a random plane of the tokens; the neurons of a frequency at as many random
ones; a head at another head. And the very same parts are switched in an untrained network.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.fourier import characters
from circuits.fourier.parts import operand_rows, structure
from circuits.fourier.study import generator_for
from circuits.fourier.switchboard import Board, Switches, board_of, head_names
from circuits.fourier.switches import Places, named_places, outcome
from workbench.subject import untrained

OTHER_PARTS = "other parts"
RANDOM = "random subspaces"
UNTRAINED = "untrained network"
WHERE = {
    OTHER_PARTS: "at as many parts that were not named",
    RANDOM: "in as many random planes, and at as many random neurons",
    UNTRAINED: "at the same places of an untrained network",
}
"""Every kind of control, and where it sets the switches."""


class ControlDraw(NamedTuple):
    """What the switches did at one other place."""

    accuracy: float
    share: float | None
    """As predicted of the named parts."""
    lost: float | None
    """Share of their amplitude that the frequencies lost which were predicted to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchControl:
    """What the switches did elsewhere, draw by draw."""

    name: str
    """One of `WHERE`."""
    draws: tuple[ControlDraw, ...]


def control_kinds(switches: Switches) -> tuple[str, ...]:
    """The kinds of control that some switches have; none where nothing is switched."""
    if switches == Switches(ablation=switches.ablation):
        return ()
    return tuple(kind for kind in WHERE if kind != RANDOM or switches.frequencies)


def control_draw(
    board: Board, switches: Switches, kind: str, *, draw: int, seed: int = 0
) -> ControlDraw | None:
    """Draw number `draw` of a control; None where there are not as many other parts."""
    if kind == UNTRAINED:
        fresh = untrained(board.study.subject, seed + draw)
        there = outcome(board_of(replace(board.study, subject=fresh)), switches)
        # How much of an amplitude is lost says nothing where there was none.
        return ControlDraw(there.accuracy, there.share, None)
    places = other_places(board, switches, kind, draw=draw, seed=seed)
    if places is None:
        return None
    there = outcome(board, switches, places)
    return ControlDraw(there.accuracy, there.share, there.lost)


def switch_controls(
    board: Board, switches: Switches, *, n_draws: int, seed: int = 0
) -> list[SwitchControl]:
    """Every control of some switches; those that there cannot be are left out."""
    made = []
    for kind in control_kinds(switches):
        found = (
            control_draw(board, switches, kind, draw=draw, seed=seed) for draw in range(n_draws)
        )
        draws = tuple(one for one in found if one is not None)
        if draws:
            made.append(SwitchControl(name=kind, draws=draws))
    return made


def other_places(
    board: Board, switches: Switches, kind: str, *, draw: int, seed: int
) -> Places | None:
    """Other places for as many switches; None where there are not as many."""
    study = replace(board.study, seed=seed + 1000 * draw)
    generator, named = generator_for(study, kind), named_places(board, switches)
    random = kind == RANDOM
    planes = (_random_planes if random else _other_planes)(board, switches, generator)
    neurons = _other_neurons(board, named, generator)
    heads = _other_heads(board, named, generator)
    if planes is None or neurons is None or heads is None:
        return None
    scale = _same_norm(board, switches, named, planes) if random else 1.0
    return Places(embedding=planes, logits=planes, neurons=neurons, heads=heads, scale=scale)


Planes = dict[int, Float[Tensor, "element element"]]


def _other_planes(board: Board, switches: Switches, generator: torch.Generator) -> Planes | None:
    """For each frequency another one that was named nowhere."""
    parts, planes = board.study.parts, characters.fourier_planes(structure(board.study.subject))
    taken = {*parts.key_frequencies, *parts.embedding_frequencies, *switches.frequencies}
    others = torch.tensor([k for k in range(len(planes)) if k + 1 not in taken])
    if len(others) < len(switches.frequencies):
        return None
    drawn = others[torch.randperm(len(others), generator=generator)]
    return {
        k: characters.projector(planes[other[None]])
        for k, other in zip(switches.frequencies, drawn, strict=False)
    }


def _random_planes(board: Board, switches: Switches, generator: torch.Generator) -> Planes | None:
    """For each frequency a random plane, orthogonal to the mean and to each other."""
    n = len(structure(board.study.subject).elements)
    count = len(switches.frequencies)
    if 2 * count >= n:
        return None
    basis = torch.randn(n, 2 * count, generator=generator, dtype=torch.float64)
    rows = torch.linalg.qr(basis - basis.mean(0)).Q
    pairs = [rows[:, 2 * i : 2 * i + 2] for i in range(count)]
    return {k: pair @ pair.T for k, pair in zip(switches.frequencies, pairs, strict=True)}


def _same_norm(board: Board, switches: Switches, named: Places, planes: Planes) -> float:
    """What gives the planes kept alone the norm of the named ones."""
    if switches.embedding_only is None:
        return 1.0
    kept = [k for k in switches.embedding_only if k not in switches.embedding_removed]
    rows = operand_rows(board.study.subject)
    wanted, found = (
        sum(float((some[k] @ rows).square().sum()) for k in kept)
        for some in (named.embedding, planes)
    )
    return (wanted / found) ** 0.5 if found > 0 else 1.0


def _other_neurons(
    board: Board, named: Places, generator: torch.Generator
) -> dict[int, Tensor] | None:
    """For each group as many random neurons of others that are alive; None where there are not."""
    others = board.study.parts.neuron_frequencies > 0
    for group in named.neurons.values():
        others = others & ~group
    live, start = others.nonzero()[:, 0], 0
    if len(live) < sum(int(group.sum()) for group in named.neurons.values()):
        return None
    drawn, groups = live[torch.randperm(len(live), generator=generator)], {}
    for k, group in named.neurons.items():
        size = int(group.sum())
        groups[k] = torch.zeros_like(group).index_fill(0, drawn[start : start + size], True)
        start += size
    return groups


def _other_heads(
    board: Board, named: Places, generator: torch.Generator
) -> tuple[tuple[int, int], ...] | None:
    """As many heads that are not switched; None where there are not as many."""
    others = [head for head in head_names(board).values() if head not in named.heads]
    if len(others) < len(named.heads):
        return None
    order = torch.randperm(len(others), generator=generator).tolist()
    return tuple(others[i] for i in order[: len(named.heads)])

"""Does the network use it? The network is asked again with a variable erased at a site.

`answers_under` puts one affine map at one site per cell and says which inputs are still answered
rightly. An erasure costs more the more directions it takes, and directions in which the network
holds its tokens cost more than others. So an erasure stands beside those of as many random
directions, and of random functions of the very tokens that decide the variable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probes.design import Design, Targets
from probes.erase import AffineMap, Eraser, leace, random_eraser, spanned
from probes.inlp import inlp
from probes.sites import ProbeSite
from workbench.intervene import Affine, Cell, Intervention, intervene_in_chunks
from workbench.subject import Subject
from workbench.task import Inputs

How = Literal["leace", "inlp"]

SCREENING = 4
"""Random erasures at every site; more only where the variable's costs more than each of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Erased:
    """Which inputs the network answers rightly, every answer token right; lists are by site."""

    intact: Bool[Tensor, " n"]
    erased: Bool[Tensor, "site n"]
    random: list[Bool[Tensor, "_ n"]]
    """With as many random directions erased instead, per draw. None at all where the variable is
    everything that the site holds: every erasure of as many directions is then the same one."""
    control: list[Bool[Tensor, "_ n"]]
    """With random functions of the variable's own tokens erased, per draw; none where a random
    erasure already cost as much."""
    rank: Int[Tensor, " site"]
    """How many directions the erasure took."""


def answers_under(
    subject: Subject, inputs: Inputs, maps: Sequence[tuple[ProbeSite, AffineMap]]
) -> Bool[Tensor, "cell n"]:
    """Which inputs are answered rightly with each map at its site. Raises `HookError`."""
    task, device = subject.task, subject.device
    cells: list[Cell] = [
        (Intervention(site=site.intervention_site(), source=Affine(made.matrix, made.offset)),)
        for site, made in maps
    ]
    truth = task.solve(inputs).to(device)
    right = torch.empty(len(cells), len(inputs), dtype=torch.bool)
    for chunk in intervene_in_chunks(
        subject.params,
        task.encode(inputs).to(device),
        subject.config,
        cells,
        positions=task.answer_positions,
    ):
        right[chunk.cells] = (chunk.logits.argmax(-1) == truth).all(-1).cpu()
    return right


def erase_and_ask(
    subject: Subject,
    sites: Sequence[ProbeSite],
    design: Design,
    targets: Targets,
    inputs: Inputs,
    *,
    eraser: How = "leace",
    generator: torch.Generator,
    n_random: int = SCREENING,
    controls: Targets | None = None,
) -> Erased:
    """Erase the first label set at each site, and what should matter less.

    Args:
        design: the activations at `sites`, of one split; erasers are fitted on what trains there.
        inputs: what the network is asked; none that the erasers were fitted on.
        generator: is left as it is; every site gets the same draws from it, so that its random
            directions do not depend on the sites beside it.
        n_random: random erasures where the first `SCREENING` do not settle it.
        controls: random functions of the tokens that decide the variable (`control_task`).

    Raises `ProbeError` where an erasure does not erase.
    """
    first = Targets(names=targets.names[:1], classes=targets.classes[:1], values=targets.values)
    made = _erasers(design, first, eraser)
    rank = made.rank[0, :, 0]
    comparable = rank.cpu() < spanned(design)[0]
    maps = [(site, made.at(0, i, 0)) for i, site in enumerate(sites)]
    identity = AffineMap(torch.eye(design.width), torch.zeros(design.width))
    right = answers_under(subject, inputs, [*maps, (sites[0], identity)])
    intact, erased = right[-1], right[:-1]
    draws = [
        _random_erasers(_alone(design, i), rank[i], n_random, generator.clone_state(), eraser)
        for i in range(len(sites))
    ]
    ask = partial(_ask, subject, inputs)
    screened = [min(SCREENING, n_random) if few else 0 for few in comparable.tolist()]
    random = ask(sites, draws, [range(n) for n in screened])
    dear = [
        i
        for i, found in enumerate(random)
        if screened[i] and bool(erased[i].double().mean() < found.double().mean(-1).min())
    ]
    rest = [range(n, n_random) for n in screened]
    more = ask([sites[i] for i in dear], [draws[i] for i in dear], [rest[i] for i in dear])
    control = [found[:0] for found in random]
    for i, found in zip(dear, more, strict=True):
        random[i] = torch.cat([random[i], found])
    if controls is not None:
        every = [range(len(controls.names))] * len(dear)
        same = [_erasers(_alone(design, i), controls, eraser) for i in dear]
        for i, found in zip(dear, ask([sites[i] for i in dear], same, every), strict=True):
            control[i] = found
    return Erased(intact=intact, erased=erased, random=random, control=control, rank=rank)


def _alone(design: Design, site: int) -> Design:
    return Design(design.x[site : site + 1], design.weights, grain=design.grain)


def _erasers(design: Design, targets: Targets, how: How) -> Eraser:
    return leace(design, targets) if how == "leace" else inlp(design, targets).eraser


def _random_erasers(
    design: Design, rank: Int[Tensor, ""], n: int, generator: torch.Generator, how: How
) -> Eraser:
    basis: Literal["whitened", "raw"] = "whitened" if how == "leace" else "raw"
    return random_eraser(design, rank.expand(1, 1, n), generator, basis=basis)


def _ask(
    subject: Subject,
    inputs: Inputs,
    sites: Sequence[ProbeSite],
    erasers: Sequence[Eraser],
    draws: Sequence[range],
) -> list[Bool[Tensor, "draw n"]]:
    """Which inputs are answered rightly under some maps of each site, all asked together."""
    each = list(zip(sites, erasers, draws, strict=True))
    maps = [(site, made.at(0, 0, draw)) for site, made, some in each for draw in some]
    if not maps:
        return [torch.zeros(0, len(inputs), dtype=torch.bool) for _ in sites]
    right = answers_under(subject, inputs, maps)
    return list(torch.split(right, [len(some) for some in draws]))

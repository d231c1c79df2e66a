"""Switches on the named parts of a network that adds on circles, as data, and their board.

`Switches` say which parts are off, kept alone or turned. A `Board` is a network with its parts
named and nothing switched. What switches should do is in `circuits.fourier.switch_prediction`, what
they do in `circuits.fourier.switches`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.cells import split_operands
from circuits.fourier import characters
from circuits.fourier.parts import logs_of, name_parts, structure
from circuits.fourier.study import Study
from workbench.errors import CircuitError
from workbench.subject import Subject
from workbench.transformer import forward

NAMING_FRACTION = 0.3
"""Share of the pairs used to name parts where the training pairs are unknown, as the mechanism."""

Ablation = Literal["mean", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What is switched; by default nothing. Travels as JSON by `workbench.config`."""

    embedding_only: tuple[int, ...] | None = None
    """The only frequencies of both operand embeddings that are kept, beside their mean; all when
    None."""
    embedding_removed: tuple[int, ...] = ()
    """Frequencies whose planes are removed from both operand embeddings."""
    rotated: tuple[tuple[int, int], ...] = ()
    """Frequencies with a shift s: in that plane operand a becomes a + s (of logarithms, where the
    task multiplies)."""
    neurons_ablated: tuple[int, ...] = ()
    """Frequencies whose neurons are ablated at the answer position."""
    logits_only: tuple[int, ...] | None = None
    """The only frequencies of the logits (over answers) that are kept; all when None."""
    logits_removed: tuple[int, ...] = ()
    """Frequencies whose planes are removed from the logits."""
    heads_ablated: tuple[str, ...] = ()
    """Heads, such as `a0.h1`."""
    ablation: Ablation = "mean"
    """Whether neurons and heads are set to their mean over all inputs (heads: by position) or to
    zero."""

    @property
    def frequencies(self) -> tuple[int, ...]:
        """Every frequency that is named by any of them, ascending."""
        planes = (self.embedding_only or ()) + (self.logits_only or ())
        removed = self.embedding_removed + self.logits_removed + self.neurons_ablated
        return tuple(sorted({*planes, *removed, *(k for k, _ in self.rotated)}))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Board:
    """A network whose parts can be switched, and what it does with nothing switched."""

    study: Study
    means: dict[str, Tensor]
    """Means over the inputs of heads and neurons, by hook; of the last layer at the answer."""
    answers: Int[Tensor, " batch"]
    amplitudes: Float[Tensor, " frequency"]
    """Of cos(w_k (a + b - c)) in the logits on all inputs, for every frequency."""

    @property
    def right(self) -> Bool[Tensor, " batch"]:
        """Where the network is right with nothing switched."""
        return self.answers == self.study.label(self.study.inputs)


def named_board(
    subject: Subject, train: Int[Tensor, "pair operand"] | None, *, seed: int = 0, n_draws: int = 20
) -> Board:
    """Name a network's parts on its training pairs, as the mechanism does; nothing is switched.

    `train` None: on a seeded sample of all pairs. The task must be cyclic.
    """
    subject = split_operands(subject)
    domain = subject.task.domain()
    naming = train
    if naming is None:
        order = torch.randperm(len(domain), generator=torch.Generator().manual_seed(seed))
        naming = domain[order[: round(NAMING_FRACTION * len(domain))].sort().values]
    task = subject.task
    study = Study(
        subject=subject,
        parts=name_parts(subject, naming, task.solve(naming)[:, 0]),
        inputs=domain,
        label=lambda inputs: task.solve(inputs)[:, 0],
        seed=seed,
        n_draws=n_draws,
        shifts=torch.arange(1, structure(subject).order),
    )
    return board_of(study)


@torch.no_grad()
def board_of(study: Study) -> Board:
    """A study's network with nothing switched."""
    subject, config = study.subject, study.subject.config
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(config.n_layers)]
    if config.d_mlp:
        hooks += [f"blocks.{layer}.mlp.hook_post" for layer in range(config.n_layers)]
    tokens = subject.task.encode(study.inputs).to(subject.device)
    positions = subject.task.answer_positions
    out = forward(subject.params, tokens, config, positions=positions, taps=hooks)
    logits = out.logits[:, 0]
    return Board(
        study=study,
        means={hook: out.activations[hook].mean(0) for hook in hooks},
        answers=logits.argmax(-1).cpu(),
        amplitudes=amplitudes_of(study, logits),
    )


def check_switches(board: Board, switches: Switches) -> None:
    """Raise `CircuitError` for a frequency, shift or head that the network does not have."""
    order = structure(board.study.subject).order
    for k in switches.frequencies:
        if not 1 <= k <= order // 2:
            raise CircuitError(f"no frequency {k}; this task has 1 to {order // 2}")
    turned = [k for k, _ in switches.rotated]
    if len(set(turned)) != len(turned):
        raise CircuitError(f"frequencies {turned} are turned twice; give each one shift")
    heads_of(board, switches.heads_ablated)


def heads_of(board: Board, names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Layer and index of heads. Raises `CircuitError` for one there is not."""
    known = head_names(board)
    for name in names:
        if name not in known:
            raise CircuitError(f"no head {name!r}; there are: {', '.join(known)}")
    return tuple(known[name] for name in names)


def head_names(board: Board) -> dict[str, tuple[int, int]]:
    """Every head, by name."""
    config = board.study.subject.config
    return {
        f"a{layer}.h{head}": (layer, head)
        for layer in range(config.n_layers)
        for head in range(config.n_heads)
    }


def amplitudes_of(
    study: Study, logits: Float[Tensor, "batch d_vocab_out"]
) -> Float[Tensor, " frequency"]:
    """Amplitude of cos(w_k (a + b - c)) in logits, for every frequency."""
    cyclic = structure(study.subject)
    logs_a, logs_b = (logs_of(cyclic, study.inputs[:, column]) for column in (0, 1))
    values = logits[:, cyclic.elements.to(logits.device)].cpu()
    profile, _ = characters.sum_profile(cyclic, logs_a, logs_b, values)
    return characters.profile_amplitudes(profile)[0]

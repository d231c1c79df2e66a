"""Clean inputs beside corrupted twins of the same length, whose answers differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import PairError
from workbench.task import Inputs, Task

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

DRAWS_PER_PAIR = 100
"""Inputs drawn for each pair wanted before giving up: most have no such twin."""


MOST_PAIRS = 1_000_000
"""Pairs that can be drawn at once; their tokens and activations would fill any memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Clean and corrupted inputs, row by row."""

    task: Task
    clean: Inputs
    corrupted: Int[Tensor, "twin twin_operand"]

    def __post_init__(self) -> None:
        for side, inputs in (("clean", self.clean), ("corrupted", self.corrupted)):
            if inputs.dtype not in WHOLE_NUMBERS or inputs.ndim != 2:
                raise PairError(
                    f"{side} inputs are {inputs.dtype} {list(inputs.shape)}; they must be whole "
                    "numbers [batch, operand], such as task.sample() gives"
                )
        if self.clean.shape != self.corrupted.shape or not len(self.clean):
            raise PairError(
                f"clean {list(self.clean.shape)} and corrupted {list(self.corrupted.shape)} inputs "
                "must go together row by row, at least one; make them with task.corrupt()"
            )
        same = (self.answer == self.wrong_answer).all(-1)
        if bool(same.any()):
            first = int(same.nonzero()[0])
            texts = [self.task.text(x[first : first + 1])[0] for x in (self.clean, self.corrupted)]
            raise PairError(
                f"{texts[0]!r} and {texts[1]!r} have the same answer, so no metric can tell them "
                "apart; choose another corrupted input"
            )

    @property
    def clean_tokens(self) -> Int[Tensor, "batch pos"]:
        """What the network reads of the clean inputs."""
        return self.task.encode(self.clean)

    @property
    def corrupted_tokens(self) -> Int[Tensor, "batch pos"]:
        """What the network reads of the corrupted inputs."""
        return self.task.encode(self.corrupted)

    @property
    def answer(self) -> Int[Tensor, "batch answer"]:
        """Answers of the clean inputs."""
        return self.task.solve(self.clean)

    @property
    def wrong_answer(self) -> Int[Tensor, "batch answer"]:
        """Answers of the corrupted inputs."""
        return self.task.solve(self.corrupted)

    @property
    def scored(self) -> Bool[Tensor, "batch answer"]:
        """The answer tokens in which the two answers differ."""
        return self.answer != self.wrong_answer

    def __len__(self) -> int:
        return len(self.clean)


def draw_pairs(
    task: Task, how: str, n: int, generator: torch.Generator, *, distribution: str = "uniform"
) -> Pairs:
    """`n` random inputs beside corrupted twins, made by the task's corruption `how`.

    Inputs without such a twin, or whose twin has the same answer, are drawn again. Raises
    `TaskError` for an unknown corruption, `PairError` where too few inputs have a twin, or for more
    than `MOST_PAIRS`.
    """
    _check_number(n)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(DRAWS_PER_PAIR):
        inputs = task.sample(n, generator, distribution=distribution)
        inputs = inputs[task.corruptible(inputs, how)]
        if len(inputs):
            twins = task.corrupt(inputs, how, generator)
            differ = (task.solve(inputs) != task.solve(twins)).any(-1)
            found.append((inputs[differ], twins[differ]))
        if sum(len(inputs) for inputs, _ in found) >= n:
            clean, corrupted = (torch.cat(part)[:n] for part in zip(*found, strict=True))
            return Pairs(task=task, clean=clean, corrupted=corrupted)
    raise PairError(f"too few inputs of {task.label} have a twin by {how!r} with another answer")


def draw_mixed_pairs(task: Task, hows: Sequence[str], n: int, generator: torch.Generator) -> Pairs:
    """`n` pairs, as equal shares as can be by each of several corruptions. Raises `PairError`."""
    if not hows:
        raise PairError("no corruption named; give at least one")
    _check_number(n)
    sizes = [n // len(hows) + (i < n % len(hows)) for i in range(len(hows))]
    drawn = [draw_pairs(task, how, m, generator) for how, m in zip(hows, sizes, strict=True) if m]
    return joined(drawn)


def pairs_of_all_inputs(task: Task, hows: Sequence[str], generator: torch.Generator) -> Pairs:
    """Every input of the domain as the clean one of a pair, by each corruption in turn.

    Inputs that a corruption leaves without a twin of another answer are left out of its share.
    Raises `TaskError` where the domain is too large to list.
    """
    domain, parts = task.domain(), []
    for i, how in enumerate(hows):
        inputs = domain[i :: len(hows)]
        inputs = inputs[task.corruptible(inputs, how)]
        twins = task.corrupt(inputs, how, generator)
        differ = (task.solve(inputs) != task.solve(twins)).any(-1)
        if bool(differ.any()):
            parts.append(Pairs(task=task, clean=inputs[differ], corrupted=twins[differ]))
    if not parts:
        raise PairError(f"no input of {task.label} has a twin with another answer")
    return joined(parts)


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Several sets of pairs of one task as one."""
    clean, corrupted = (
        torch.cat([getattr(part, side) for part in parts]) for side in ("clean", "corrupted")
    )
    return Pairs(task=parts[0].task, clean=clean, corrupted=corrupted)


def usual_corruptions(task: Task) -> tuple[str, ...]:
    """The corruptions to draw pairs by where nobody says: another operand, each in turn."""
    operands = tuple(how for how in ("change_a", "change_b") if how in task.corruptions)
    return operands or tuple(task.corruptions)


def pairs_from_text(task: Task, clean: Sequence[str], corrupted: Sequence[str]) -> Pairs:
    """Pairs as a person writes them: `37 + 92 =` beside `37 + 93 =`.

    Raises `TaskError` for what cannot be read, `PairError` for what is no pair.
    """
    if len(clean) != len(corrupted) or not clean:
        raise PairError(
            f"{len(clean)} clean and {len(corrupted)} corrupted inputs; give one corrupted input "
            "for each clean one"
        )
    sides = [torch.cat([task.parse(text) for text in texts]) for texts in (clean, corrupted)]
    return Pairs(task=task, clean=sides[0], corrupted=sides[1])


def _check_number(n: int) -> None:
    if n < 1:
        raise PairError(f"{n} pairs asked for; ask for at least one")
    if n > MOST_PAIRS:
        raise PairError(f"{n:,} pairs asked for, at most {MOST_PAIRS:,} at once; use fewer")

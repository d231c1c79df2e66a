"""A switch on the heads of a network that adds digit by digit: patch some, see which digits change.

The heads are patched, where the answer digit of one column is predicted and nowhere else, with
what they do on a twin in which one variable of that column differs (`circuits.digit_columns`).
Prediction: that answer digit becomes the twin's and no other changes. Beside it the same is done
where it should fail: with as many other heads, with twins in which the variable is the same, and
in an untrained network.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.digit_columns import (
    Head,
    Variable,
    all_heads,
    answer_index,
    answers_with,
    as_predicted,
    carry_variables,
    digit_task,
    digit_variables,
    idle_twins,
    name_heads,
    twins,
)
from circuits.mechanisms.column_addition import NAMING_PAIRS, OTHER_HEADS, other_heads
from workbench.errors import CircuitError, PairError
from workbench.pairs import Pairs
from workbench.registry import unknown
from workbench.subject import Subject, untrained
from workbench.task import Inputs

NAMED = "these heads"
IDLE = "these heads, twins in which it is the same"
UNTRAINED = "these heads of an untrained network"
TRIES = 100
"""Twins that are drawn of one input before it is said to have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSwitch:
    """Which heads are patched, and what is different in the twin. Travels as JSON."""

    variable: str
    """`a_k`, `b_k` or `carry_k`."""
    heads: tuple[str, ...] = ()
    """Such as `a0.h1`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadOutcome:
    """What a switch did, or the same elsewhere."""

    name: str
    changed: Float[Tensor, "draw answer"]
    """Share of the pairs in which each answer digit changed (in the order they are written)."""
    share: Float[Tensor, " draw"] | None
    """Share of the pairs that were as predicted: the twin's digit in that column, and no other
    change. None where nothing is predicted but that nothing changes."""
    n: int
    """Pairs of each draw."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OneAnswer:
    """What a switch does to one input."""

    twin: Int[Tensor, "1 operand"]
    before: Int[Tensor, "1 answer"]
    after: Int[Tensor, "1 answer"]
    predicted: Int[Tensor, "1 answer"]


def variable_of(subject: Subject, name: str) -> Variable:
    """A variable that heads can bring. Raises `CircuitError` for one there is not."""
    known = {one.name: one for one in variables_of(subject)}
    if name not in known:
        raise CircuitError(unknown("variable", name, known))
    return known[name]


def variables_of(subject: Subject) -> list[Variable]:
    """Every variable that heads can bring: digits, then carries."""
    task = digit_task(subject)
    return [*digit_variables(task), *carry_variables(task)]


def head_named(subject: Subject, name: str) -> Head:
    """A head by its name. Raises `CircuitError` for one there is not."""
    known = {head_name(head): head for head in all_heads(subject)}
    if name not in known:
        raise CircuitError(unknown("head", name, known))
    return known[name]


def head_name(head: Head) -> str:
    """`a0.h1` for head 1 of layer 0."""
    return f"a{head[0]}.h{head[1]}"


def named_switch(subject: Subject, name: str, *, seed: int = 0) -> HeadSwitch:
    """The heads that bring a variable, named on pairs of their own. Raises `CircuitError`."""
    variable = variable_of(subject, name)
    generator = torch.Generator().manual_seed(seed)
    pairs = twins(digit_task(subject), variable, NAMING_PAIRS, generator)
    heads = name_heads(subject, pairs, variable).heads
    return HeadSwitch(variable=name, heads=tuple(map(head_name, heads)))


def head_outcomes(
    subject: Subject, switch: HeadSwitch, *, n_pairs: int, n_draws: int, seed: int
) -> list[HeadOutcome]:
    """The switch, then its controls; those that there cannot be are left out.

    `seed` draws the pairs; take another one than that of the naming. Raises `CircuitError`.
    """
    task, variable = digit_task(subject), variable_of(subject, switch.variable)
    heads = tuple(head_named(subject, name) for name in switch.heads)
    generator = torch.Generator().manual_seed(seed)
    pairs = twins(task, variable, n_pairs, generator)
    others = other_heads(all_heads(subject), heads, n_draws, generator)
    idle = idle_twins(task, variable, n_pairs, generator)
    found = [_outcome(NAMED, subject, pairs, variable, [heads])]
    if heads and others:
        found.append(_outcome(OTHER_HEADS, subject, pairs, variable, others))
    if idle is not None:
        changed = _changed(answers_with(subject, idle, variable.column, [heads, ()]))
        found.append(HeadOutcome(name=IDLE, changed=changed, share=None, n=n_pairs))
    fresh = untrained(subject, seed)
    return [*found, _outcome(UNTRAINED, fresh, pairs, variable, [heads])]


def shares_by_head(subject: Subject, *, n_pairs: int, seed: int) -> Float[Tensor, "variable head"]:
    """Share of pairs that are as predicted when one head alone is patched, for every variable."""
    task, heads = digit_task(subject), [(head,) for head in all_heads(subject)]
    generator, rows = torch.Generator().manual_seed(seed), []
    for variable in variables_of(subject):
        pairs = twins(task, variable, n_pairs, generator)
        rows.append(as_predicted(subject, pairs, variable.column, heads).double().mean(-1))
    return torch.stack(rows)


def one_answer(subject: Subject, switch: HeadSwitch, clean: Inputs, *, seed: int = 0) -> OneAnswer:
    """What the switch does to one input, with a twin of its own.

    Raises `CircuitError`, and `PairError` where the input has no twin in this variable.
    """
    variable = variable_of(subject, switch.variable)
    heads = tuple(head_named(subject, name) for name in switch.heads)
    pair = _twin_of(subject, variable, clean, seed)
    before, after = answers_with(subject, pair, variable.column, [(), heads])
    digit = answer_index(digit_task(subject), variable.column)
    predicted = pair.answer.clone()
    predicted[:, digit] = pair.wrong_answer[:, digit]
    return OneAnswer(twin=pair.corrupted, before=before, after=after, predicted=predicted)


def _outcome(
    name: str, subject: Subject, pairs: Pairs, variable: Variable, sets: list[tuple[Head, ...]]
) -> HeadOutcome:
    digit = answer_index(digit_task(subject), variable.column)
    wanted = pairs.answer.clone()
    wanted[:, digit] = pairs.wrong_answer[:, digit]
    answers = answers_with(subject, pairs, variable.column, [*sets, ()])
    held: Bool[Tensor, "draw batch"] = (answers[:-1] == wanted).all(-1)
    return HeadOutcome(
        name=name, changed=_changed(answers), share=held.double().mean(-1), n=len(pairs)
    )


def _changed(answers: Int[Tensor, "cell batch answer"]) -> Float[Tensor, "draw answer"]:
    """Share of the pairs in which each digit differs from that of the last cell."""
    return (answers[:-1] != answers[-1:]).double().mean(1)


def _twin_of(subject: Subject, variable: Variable, clean: Inputs, seed: int) -> Pairs:
    """A twin in which the variable differs, and no answer digit before that column's."""
    task, generator = digit_task(subject), torch.Generator().manual_seed(seed)
    swapped = variable.name.startswith("b")  # corruptions change a digit of operand a
    given = clean.flip(1) if swapped else clean
    kind = "digit" if variable.name[0] in "ab" else "carry"
    how = f"change_{kind}_{variable.column}"
    before = answer_index(task, variable.column)
    if bool(task.corruptible(given, how)[0]):
        many = given.expand(TRIES, -1).contiguous()
        drawn = task.corrupt(many, how, generator)
        same = (task.solve(drawn) == task.solve(many))[:, :before].all(1)
        if bool(same.any()):
            twin = drawn[same][:1]
            return Pairs(task=task, clean=clean, corrupted=twin.flip(1) if swapped else twin)
    raise PairError(
        f"{task.text(clean)[0]!r} has no twin that differs in {variable.name} alone; choose "
        "another input"
    )

"""The inputs looked at, shared by every page through the address: `?clean=37+%2B+92+%3D`.

    clean = input_choice(network, "clean")          # draws the box; what is in it, or a default
    twin = twin_of(network.task, clean)
    corrupted = input_choice(network, "corrupted", label="Corrupted input", default=twin)
    carry(network, "clean", (37, 92))               # from a click, before the box is drawn

What a visitor types is read by the task's own `parse`, so that only inputs of its domain come in.
"""

from typing import Literal

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.words import help_of
from workbench.errors import PairError, TaskError, WorkbenchError
from workbench.strict import one_line
from workbench.task import Inputs, Task

Key = Literal["clean", "corrupted"]
"""Of the box, and the name in the address."""
Operands = tuple[int, ...]

LONGEST = 100
"""Characters of an input."""
DRAWS = 50
"""How often a twin of each kind is drawn before the next kind is tried."""


def input_choice(
    network: Network, key: Key = "clean", *, label: str = "Input", default: Operands | None = None
) -> Operands:
    """Draw the box of an input; the operands in it, or the default where it is empty.

    What cannot be read is an error in one line below the box, and the default counts.
    """
    task = network.task
    default = default_of(task) if default is None else default
    shown = text_of(task, default)
    typed = st.text_input(
        label,
        key=key,
        bind="query-params",
        placeholder=shown,
        max_chars=LONGEST,
        help=f"{help_of(key)}  \nWritten as `{shown}`, which also counts while the box is empty.",
    )
    if not typed.strip():
        return default
    try:
        return read(task, typed)
    except WorkbenchError as error:
        st.error(escaped(f"{one_line(str(error))}; looking at {shown} instead"))
        return default


def operands(network: Network, key: Key) -> Operands | None:
    """The input in the address, box or no box; None where there is none that can be read."""
    typed = st.session_state.get(key) or st.query_params.get(key) or ""
    try:
        return read(network.task, typed) if typed.strip() else None
    except WorkbenchError:
        return None


def carry(network: Network, key: Key, operands: Operands) -> None:
    """Put an input into its box: before the box is drawn, or in a callback."""
    st.session_state[key] = text_of(network.task, operands)


def read(task: Task, text: str) -> Operands:
    """The operands of an input as the task writes it. Raises `TaskError`."""
    if len(text) > LONGEST:
        raise TaskError(f"an input of {len(text)} characters; write one of at most {LONGEST}")
    return tuple(int(one) for one in task.parse(text)[0])


def text_of(task: Task, operands: Operands) -> str:
    """An input as the task writes it: `37 + 92 =`."""
    return task.text(as_inputs(operands))[0]


def as_inputs(operands: Operands) -> Inputs:
    """The one input as a batch."""
    return torch.tensor([operands])


@remembered
def default_of(task: Task) -> Operands:
    """The input looked at where none was chosen: the same on every visit."""
    drawn = task.sample(1, torch.Generator().manual_seed(0))[0]
    return tuple(int(one) for one in drawn)


@remembered
def twin_of(task: Task, operands: Operands) -> Operands:
    """A corrupted twin with another answer, the same on every visit, by the task's own corruptions.

    Raises `PairError` where the task has none for this input.
    """
    clean, generator = as_inputs(operands), torch.Generator().manual_seed(0)
    answer = task.solve(clean)
    for how in task.corruptions:
        if not bool(task.corruptible(clean, how)[0]):
            continue
        for _ in range(DRAWS):
            twin = task.corrupt(clean, how, generator)
            if not torch.equal(task.solve(twin), answer):
                return tuple(int(one) for one in twin[0])
    raise PairError(f"{text_of(task, operands)!r} has no twin with another answer; choose another")

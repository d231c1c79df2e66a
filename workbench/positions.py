"""What stands at each position of a task's inputs, in words short enough for an axis."""

import torch

from workbench.task import Task

DRAWN = 256
"""Inputs that names are read off: two variables that agree on so many are the same."""


def position_names(task: Task) -> tuple[str, ...]:
    """A name for every position: `0 a`, `1 b`, `2 =`.

    A token that all inputs share names its position; else the first variable that the token stands
    for does (`a_0`, or for an answer written out `answer_1`); else the number stands alone.
    """
    inputs = task.sample(DRAWN, torch.Generator().manual_seed(0))
    tokens, variables = task.encode(inputs), task.variables(inputs)
    names = []
    for at in range(tokens.shape[1]):
        column = tokens[:, at]
        if bool((column == column[0]).all()):
            name = task.vocabulary[int(column[0])]
        else:
            # A vocabulary of its own moves the tokens of an operand by a constant.
            moved = {name: column - value for name, value in variables.items()}
            same = (name for name, one in moved.items() if bool((one == one[0]).all()))
            name = next(same, "")
        names.append(f"{at} {name}".rstrip())
    return tuple(names)

"""Many intervened copies of one network, run together over every input.

A *cell* is one intervention. Cells are the leading axis of the forward pass: a cell may have its
own embedding matrix, and its own edit of any activation. Nothing else is copied. Cells are taken
in chunks that fit a memory budget; results are per input, never averaged here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.model_config import ModelConfig
from workbench.subject import Subject
from workbench.task import Inputs
from workbench.tasks._modular import ModularTask
from workbench.transformer import Edit, forward

MEMORY_BUDGET = 400 * 2**20
"""Bytes of activations that one chunk of cells may take."""

CellEdits = Callable[[Int[Tensor, " cell"]], Mapping[str, Edit]]
"""Edits for the cells with these indices; each edit sees `[cell, batch, pos, ...]`."""
Head = Callable[[Tensor, Int[Tensor, " cell"]], Tensor]
"""What to make of the logits `[cell, batch, d_vocab_out]` for the cells with these indices."""


class Outcome(NamedTuple):
    """What every cell did with every input."""

    answer: Int[Tensor, "cell batch"]
    """The residue or token the network chose, over all its outputs."""
    loss: Float[Tensor, "cell batch"]
    """Cross-entropy of a given target, in nats."""


@torch.no_grad()
def logits_of(
    subject: Subject, inputs: Inputs, *, edits: Mapping[str, Edit] | None = None
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits at the answer position of a task with one answer token."""
    tokens = subject.task.encode(inputs).to(subject.device)
    positions = subject.task.answer_positions
    out = forward(subject.params, tokens, subject.config, positions=positions, edits=edits)
    return out.logits[:, 0]


def run_cells(
    subject: Subject,
    inputs: Inputs,
    target: Int[Tensor, "cell batch"],
    *,
    overrides: Mapping[str, Float[Tensor, "cell ..."]] | None = None,
    edits: CellEdits | None = None,
) -> Outcome:
    """Run every cell on every input.

    Args:
        target: the answer that the loss is taken against, for each cell (may be expanded).
        overrides: parameters that differ from cell to cell, by name.
        edits: activation edits per chunk of cells.
    """
    tokens = subject.task.encode(inputs).to(subject.device)
    size = _cells_per_chunk(subject.config, len(inputs))
    return _outcome(
        target,
        size,
        lambda cells: _chunk_logits(subject, tokens, cells, overrides or {}, edits),
    )


def read_cells(
    subject: Subject, inputs: Inputs, target: Int[Tensor, "cell batch"], head: Head
) -> Outcome:
    """Every cell reads the same logits through a head of its own; the network runs once."""
    logits = logits_of(subject, inputs)
    size = max(1, MEMORY_BUDGET // (3 * logits.nbytes))
    return _outcome(
        target, size, lambda cells: head(logits.expand(len(cells), *logits.shape), cells)
    )


def _outcome(
    target: Int[Tensor, "cell batch"],
    size: int,
    logits_at: Callable[[Int[Tensor, " chunk"]], Float[Tensor, "chunk batch d_vocab_out"]],
) -> Outcome:
    answers, losses = [], []
    for start in range(0, len(target), size):
        cells = torch.arange(start, min(start + size, len(target)))
        logits = logits_at(cells)
        wanted = target[cells].to(logits.device)
        answers.append(logits.argmax(-1).cpu())
        chosen = logits.gather(-1, wanted[..., None])[..., 0]
        losses.append((logits.logsumexp(-1) - chosen).cpu())
    return Outcome(torch.cat(answers), torch.cat(losses))


@torch.no_grad()
def _chunk_logits(
    subject: Subject,
    tokens: Tensor,
    cells: Tensor,
    overrides: Mapping[str, Tensor],
    edits: CellEdits | None,
) -> Tensor:
    params = {
        name: tensor.expand(len(cells), *tensor.shape)
        for name, tensor in subject.params.items()
        if name not in overrides
    }
    for name, tensor in overrides.items():
        params[name] = tensor[cells].to(subject.device, subject.params[name].dtype)
    out = forward(
        params,
        tokens,
        subject.config,
        positions=subject.task.answer_positions,
        edits=edits(cells) if edits is not None else None,
    )
    return out.logits[..., 0, :]


def _cells_per_chunk(config: ModelConfig, n_inputs: int) -> int:
    floats = n_inputs * config.n_ctx * (config.d_model * 6 + 2 * config.d_mlp + config.d_vocab_out)
    return max(1, MEMORY_BUDGET // (4 * floats))


def correct(outcome: Outcome, target: Int[Tensor, "cell batch"]) -> Bool[Tensor, "cell batch"]:
    """Where each cell gave the target."""
    return outcome.answer == target.cpu()


def split_operands(subject: Subject) -> Subject:
    """The same network with a vocabulary of its own for each operand; logits are unchanged.

    A task whose operands share one embedding gets two copies of it, so that an intervention can
    change what operand a means and leave b alone. The first p rows are a's, the next p are b's.
    """
    task = subject.task
    assert isinstance(task, ModularTask)
    if task.separate_vocabularies:
        return subject
    separate = replace(task, separate_vocabularies=True)
    embed = subject.params["embed.W_E"]
    rows = torch.cat([embed[: task.p], embed])
    config = replace(subject.config, d_vocab=len(separate.vocabulary))
    return Subject(params={**subject.params, "embed.W_E": rows}, config=config, task=separate)

"""The small network that tests of drafts edit circuits of: one layer, two heads, an MLP."""

from apps.web.trace.draft_history import Ground, History, Operation, begin, did
from workbench.model_config import ModelConfig

GROUND = Ground(
    config=ModelConfig(
        n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=4, d_vocab=5, d_vocab_out=5, n_ctx=3
    ),
    n_ctx=3,
    positions=(2,),
)
"""Answers are read at the last of three positions."""


def after(*operations: Operation) -> History:
    """What comes of operations on an empty circuit."""
    history = begin()
    for operation in operations:
        history = did(history, operation, GROUND)
    return history


def edges_after(*operations: Operation) -> tuple[str, ...]:
    """The edges that they leave."""
    return GROUND.circuit(after(*operations).state).edges

"""Attribution patching of nodes: every writer's patching effect to first order, in one pass.

Nanda 2023 (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); Kramár et
al. 2024, arXiv:2403.00745. A node is a writer: at all positions, or, in a graph per position, at
each. As every edge out of a writer is read, a writer's score is the sum of its `eap` edge scores.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.edge_attribution import (
    change_of_writers,
    chunks_of_rows,
    hook_gradients,
    writing_hooks,
)
from circuits.problem import Problem


def node_attribution(problem: Problem) -> Float[Tensor, "batch *pos writer"]:
    """(patch - base)[writer] . d m / d output[writer] on the base run, for each pair.

    Positive where patching the writer raises the metric of that pair. Average over pairs last.
    Raises `CircuitError` for a metric without gradients.
    """
    graph = problem.graph
    at = "" if graph.n_pos is None else "pos"
    writing = writing_hooks(graph)
    still = problem.patch.new_zeros(1, len(graph.writers))

    def score(rows: Tensor) -> Tensor:
        change = change_of_writers(problem, rows)
        gradients = hook_gradients(problem, rows, [w.hook for w in writing], change, still)
        by_writer = [
            gradients[w.hook][0] if w.split else gradients[w.hook][0][..., None, :] for w in writing
        ]
        gradient = torch.cat(by_writer, dim=-2)
        return einsum(change, gradient, f"writer row pos d, row pos writer d -> row {at} writer")

    return torch.cat([part for _, part in chunks_of_rows(problem, score, n_cells=1)])

"""The gradient pass that the attribution methods share: one for all edges and many pairs.

To first order, patching the edge writer -> reader changes a metric m by

    (patch[writer] - base[writer]) . d m / d read[reader]

(attribution patching: Nanda 2023; for edges: Syed et al. 2023, arXiv:2310.10348, equation 3).
Methods differ in where the gradient is taken: on the base run, or at points on a straight line
from it towards what is patched in. A *course* is such a line: some writers are moved together, by
the same shares of patch - base, and everything after them follows. All points of all courses fold
into the batch axis, so that one forward and one backward pass serve them; pairs are taken in
chunks that fit a memory budget.

This file registers no method: `eap`, `eap_ig` and `eap_ig_activations` do.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from circuits.graph import Graph
from circuits.problem import Problem, writer_outputs
from workbench.errors import CircuitError
from workbench.intervene import CPU_BUDGET, CUDA_BUDGET
from workbench.memory import halving_chunks, needs_memory
from workbench.progress import Progress
from workbench.transformer import Edit, forward

Result = TypeVar("Result")

INPUTS = (0, 1)
"""The embeddings, by their index among a graph's writers."""


class Course(NamedTuple):
    """Which writers move together, and whose edges the gradients on the way score."""

    moved: tuple[int, ...]
    scored: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """One hook that writers write at: all heads of a layer, an MLP or an embedding."""

    hook: str
    start: int
    """Index of its first writer."""
    count: int
    split: bool
    """Whether the hook has an axis of heads."""


def attribute_edges(
    problem: Problem, courses: Sequence[Course], shares: Sequence[float]
) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
    """Edge scores from the mean gradient over the points of each course.

    Args:
        courses: each writer should be scored by one course.
        shares: the points of a course: 0 is the base run, 1 is patched in wholly.

    Raises `CircuitError` for a metric without gradients, `ResourceError` where not even one pair
    fits in memory.
    """
    n = len(problem.base)
    with needs_memory(f"what writers write on {n} pairs"):
        values = problem.patch.new_zeros(problem.graph.is_edge.shape)
    share = _shares_of_writers(problem, courses, shares)

    def score(rows: Tensor) -> Tensor:
        return _scores_of_rows(problem, rows, courses, share)

    for rows, scores in chunks_of_rows(problem, score, n_cells=len(share)):
        values += scores
        yield Progress(int(rows[-1]) + 1, n, "pairs")
    return values / n


def hook_gradients(
    problem: Problem,
    rows: Int[Tensor, " row"],
    hooks: Sequence[str],
    change: Float[Tensor, "writer row pos d_model"],
    share: Float[Tensor, "cell *row writer"],
) -> dict[str, Tensor]:
    """d metric / d activation at each hook, `[cell, row, pos, ...]`, for the pairs in `rows`.

    In each cell every writer's output is moved by its share of `change`, which may be another for
    every pair. Raises `CircuitError` for
    a metric without gradients.
    """
    n_cells = share.shape[0]
    tokens = repeat(problem.base[rows], "row pos -> (cell row) pos", cell=n_cells)
    edits = _moves(problem.graph, change, share)
    with torch.enable_grad():
        run = forward(problem.params, tokens, problem.config, taps=hooks, edits=edits)
        logits = run.logits[:, list(problem.positions)]
        logits = rearrange(logits, "(cell row) ... -> cell row ...", cell=n_cells)
        total = measure_rows(problem, logits, rows).sum()
        if not total.requires_grad:
            raise CircuitError(
                f"metric {problem.metric.name} has no gradient; choose another metric, or a method "
                "that intervenes, such as exact"
            )
        gradients = torch.autograd.grad(total, [run.activations[hook] for hook in hooks])
    return {
        hook: rearrange(gradient, "(cell row) ... -> cell row ...", cell=n_cells)
        for hook, gradient in zip(hooks, gradients, strict=True)
    }


@torch.no_grad()
def moved_metric(
    problem: Problem,
    rows: Int[Tensor, " row"],
    change: Float[Tensor, "writer row pos d_model"],
    share: Float[Tensor, "cell *row writer"],
) -> Float[Tensor, "cell row"]:
    """The metric where `hook_gradients` takes its gradients."""
    n_cells = share.shape[0]
    tokens = repeat(problem.base[rows], "row pos -> (cell row) pos", cell=n_cells)
    edits = _moves(problem.graph, change, share)
    logits = forward(problem.params, tokens, problem.config, edits=edits).logits
    logits = rearrange(
        logits[:, list(problem.positions)], "(cell row) ... -> cell row ...", cell=n_cells
    )
    return measure_rows(problem, logits, rows)


def contract(
    graph: Graph,
    change: Float[Tensor, "writer row pos d_model"],
    gradient: Float[Tensor, "row pos reader d_model"],
) -> Float[Tensor, "*at writer reader"]:
    """Products of changes and gradients, summed over pairs, and over positions in a whole graph."""
    at = "" if graph.n_pos is None else "pos"
    return einsum(change, gradient, f"writer row pos d, row pos reader d -> {at} writer reader")


def change_of_writers(
    problem: Problem, rows: Int[Tensor, " row"]
) -> Float[Tensor, "writer row pos d_model"]:
    """patch - base of every writer's output, for some pairs."""
    with torch.no_grad():
        base = writer_outputs(problem.params, problem.base[rows], problem.config)
        return problem.patch[:, rows] - base


def measure_rows(
    problem: Problem,
    logits: Float[Tensor, "cell row wanted d_vocab_out"],
    rows: Int[Tensor, " row"],
) -> Float[Tensor, "cell row"]:
    """The problem's metric of some of its pairs.

    A metric knows the answers of all pairs and wants them all. Those not in `rows` are given the
    logits of the first row, and what is measured there is dropped.
    """
    fill = torch.zeros(len(problem.base), dtype=torch.long, device=rows.device)
    fill[rows] = torch.arange(len(rows), device=rows.device)
    return problem.metric(logits[:, fill])[:, rows]


def chunks_of_rows(
    problem: Problem, run: Callable[[Tensor], Result], *, n_cells: int
) -> Iterator[tuple[Int[Tensor, " row"], Result]]:
    """What `run` makes of one chunk of pairs after another, and which pairs those were.

    A gradient pass of so many cells takes as many pairs as the budget allows, and fewer where
    memory runs out. Raises `ResourceError` where not even one pair fits.
    """
    rows = torch.arange(len(problem.base), device=problem.base.device)
    costs = [_bytes_of_row(problem, n_cells)] * len(rows)
    one = f"the gradient of one pair in {n_cells} cells"
    chunks = halving_chunks(costs, _budget(problem), lambda part: run(rows[part]), one=one)
    for part, made in chunks:
        yield rows[part], made


def writing_hooks(graph: Graph) -> list[Writing]:
    """Where writers write, in the graph's order."""
    found = [
        Writing(hook=hook, start=start, count=1, split=False)
        for start, hook in enumerate(("hook_embed", "hook_pos_embed"))
    ]
    start, heads = 2, graph.config.n_heads
    for layer in range(graph.config.n_layers):
        block = f"blocks.{layer}"
        found.append(
            Writing(hook=f"{block}.attn.hook_result", start=start, count=heads, split=True)
        )
        start += heads
        if graph.config.d_mlp:
            found.append(Writing(hook=f"{block}.hook_mlp_out", start=start, count=1, split=False))
            start += 1
    return found


def _budget(problem: Problem) -> int:
    return CUDA_BUDGET if problem.base.device.type == "cuda" else 4 * CPU_BUDGET


def _bytes_of_row(problem: Problem, n_cells: int) -> int:
    config, n_pos = problem.config, problem.base.shape[1]
    d, heads = config.d_model, config.n_heads
    # Per layer: three split inputs, each read, normed and with gradient; results; MLP; patterns.
    layer = d * (10 * heads + 8) + 4 * config.d_mlp + 4 * heads * n_pos
    writers = 3 * len(problem.graph.writers) * d
    return problem.patch.element_size() * n_pos * (n_cells * config.n_layers * layer + writers)


def _scores_of_rows(
    problem: Problem, rows: Tensor, courses: Sequence[Course], share: Tensor
) -> Float[Tensor, "*pos writer reader"]:
    """The edge scores of some pairs, summed over them."""
    graph = problem.graph
    scores = problem.patch.new_zeros(graph.is_edge.shape)
    change = change_of_writers(problem, rows)
    hooks = [reader.hook for reader in graph.reading_hooks]
    gradients = hook_gradients(problem, rows, hooks, change, share)
    for reader in graph.reading_hooks:
        at = slice(reader.start, reader.start + reader.count)
        gradient = gradients[reader.hook]
        gradient = gradient if reader.split else gradient[..., None, :]
        along = rearrange(gradient, "(course k) ... -> course k ...", course=len(courses))
        for course, mean in zip(courses, along.mean(1), strict=True):
            writers = [w for w in course.scored if w < reader.writers]
            scores[..., writers, at] += contract(graph, change[writers], mean)
    return scores


def _shares_of_writers(
    problem: Problem, courses: Sequence[Course], shares: Sequence[float]
) -> Float[Tensor, "cell writer"]:
    """A cell for each point of each course."""
    share = problem.patch.new_zeros(len(courses), len(shares), len(problem.graph.writers))
    for i, course in enumerate(courses):
        share[i, :, list(course.moved)] = share.new_tensor(shares)[:, None]
    return rearrange(share, "course k writer -> (course k) writer")


def _moves(graph: Graph, change: Tensor, share: Tensor) -> dict[str, Edit]:
    """Edits that move writers; the embeddings' also start the record that gradients need."""
    edits: dict[str, Edit] = {}
    for writing in writing_hooks(graph):
        writers = slice(writing.start, writing.start + writing.count)
        moves = bool((share[..., writers] != 0).any())
        if not moves and writing.start not in INPUTS:
            continue
        shift = None
        if moves:
            at = "cell writer" if share.ndim == 2 else "cell row writer"
            shift = einsum(
                share[..., writers],
                change[writers],
                f"{at}, writer row pos d -> cell row pos writer d",
            )
            shift = rearrange(shift, "cell row pos writer d -> (cell row) pos writer d")
            shift = shift if writing.split else shift[..., 0, :]
        edits[writing.hook] = _move(shift, recorded=writing.start in INPUTS)
    return edits


def _move(shift: Tensor | None, *, recorded: bool) -> Edit:
    def move(written: Tensor) -> Tensor:
        moved = written if shift is None else written + shift
        return moved.detach().requires_grad_() if recorded else moved

    return move

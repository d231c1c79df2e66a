"""Path patching: what one chain of components carries, everything off it as on the base run.

Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969. A
*path* names a writer, then the readers that pass its change on, and ends at the logits:

    ("a0.h1", "logits")
    ("embed", "m0", "a1.h0<v>", "logits")

The first writer's output is patched on its way to the next reader alone. That component is computed
again with this one change to what it reads, and its own change goes to the next. Every reader reads
its base run but for what the path brings, so components off the path never move.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from circuits.edges import chunks_of_cells
from circuits.graph import LOGITS, Graph, Reader, component
from circuits.problem import Problem, writer_outputs
from workbench.errors import CircuitError
from workbench.memory import needs_memory
from workbench.transformer import Edit, forward

Path = Sequence[str]


def path_patch(problem: Problem, *paths: Path) -> Float[Tensor, " batch"]:
    """m(paths patched together) - m(base), per pair.

    Where paths meet at a reader, their changes add; where they share an edge, it counts once. A
    component in the middle of a path writes what it computes; at the start of one, its patch.
    Raises `CircuitError` for a path that the network does not have, `ResourceError` where the runs
    do not fit in memory.
    """
    return path_patches(problem, [paths])[0]


def path_patches(problem: Problem, cells: Sequence[Sequence[Path]]) -> Float[Tensor, "cell batch"]:
    """`path_patch` of many sets of paths, together. Paths are at all positions at once."""
    graph = Graph(problem.config)
    starts, passes = _edges(graph, cells)
    hooks = [reader.hook for reader in graph.reading_hooks]
    with torch.no_grad(), needs_memory(f"the unpatched run of {len(problem.base)} pairs"):
        written = writer_outputs(problem.params, problem.base, problem.config)
        read = forward(problem.params, problem.base, problem.config, taps=hooks).activations
        base_metric = problem.base_metric
        _ = problem.patch  # computed here, once

    def measure(chunk: slice) -> Tensor:
        run = _PathRun(problem, graph, written, read, starts[chunk], passes[chunk])
        return problem.metric(run.logits()) - base_metric

    return torch.cat(list(chunks_of_cells(problem, len(cells), measure)))


def all_paths(graph: Graph, start: str) -> list[tuple[str, ...]]:
    """Every path from a writer to the logits. Their number grows fast with the layers.

    Raises `CircuitError` for an unknown writer.
    """
    if start not in graph.writers:
        raise CircuitError(f"no writer {start!r}; known: {', '.join(graph.writers)}")
    found: list[tuple[str, ...]] = []
    edges = graph.is_edge if graph.n_pos is None else graph.is_edge[0]
    for index in edges[graph.writers.index(start)].nonzero()[:, 0].tolist():
        reader = graph.readers[index]
        if reader == LOGITS:
            found.append((start, LOGITS))
        else:
            rest = all_paths(graph, component(reader))
            found += [(start, reader, *path[1:]) for path in rest]
    return found


def _edges(graph: Graph, cells: Sequence[Sequence[Path]]) -> tuple[Tensor, Tensor]:
    """Edges `[cell, writer, reader]` that paths start with, and those later on them."""
    starts = torch.zeros(len(cells), *graph.is_edge.shape, dtype=torch.bool)
    passes = torch.zeros_like(starts)
    for cell, paths in enumerate(cells):
        if not paths:
            raise CircuitError("no path to patch; give at least one, such as ('embed', 'logits')")
        for path in paths:
            if isinstance(path, str) or len(path) < 2 or path[-1] != LOGITS:
                raise CircuitError(
                    f"path {path!r} must be a list of at least two nodes and end at {LOGITS!r}"
                )
            for step, (source, reader) in enumerate(itertools.pairwise(path)):
                writer = source if step == 0 else component(source)
                edge = graph.index(f"{writer}->{reader}")
                (starts if step == 0 else passes)[(cell, *edge)] = True
    return starts, passes


class _PathRun:
    """A forward pass of the base inputs in which readers read the base run and what paths bring."""

    def __init__(
        self,
        problem: Problem,
        graph: Graph,
        written: Tensor,
        read: dict[str, Tensor],
        starts: Tensor,
        passes: Tensor,
    ) -> None:
        self.problem, self.graph, self.written, self.read = problem, graph, written, read
        self.starts, self.passes = starts.to(written), passes.to(written)
        self.n_cells = len(starts)
        self.now: list[Tensor] = []  # [(cell batch), pos, d_model], by writer

    def logits(self) -> Tensor:
        problem = self.problem
        tokens = repeat(problem.base, "batch pos -> (cell batch) pos", cell=self.n_cells)
        run = forward(problem.params, tokens, problem.config, edits=self._edits())
        logits = run.logits[:, list(problem.positions)]
        return rearrange(logits, "(cell batch) ... -> cell batch ...", cell=self.n_cells)

    def _edits(self) -> dict[str, Edit]:
        edits: dict[str, Edit] = {"hook_embed": self._note, "hook_pos_embed": self._note}
        for layer in range(self.graph.config.n_layers):
            edits[f"blocks.{layer}.attn.hook_result"] = self._note_heads
            if self.graph.config.d_mlp:
                edits[f"blocks.{layer}.hook_mlp_out"] = self._note
        return edits | {r.hook: self._reading(r) for r in self.graph.reading_hooks}

    def _note(self, written: Tensor) -> Tensor:
        self.now.append(written)
        return written

    def _note_heads(self, results: Tensor) -> Tensor:
        self.now += results.unbind(-2)
        return results

    def _reading(self, reader: Reader) -> Callable[[Tensor], Tensor]:
        def read(_: Tensor) -> Tensor:
            base = self.read[reader.hook]
            brought = self._brought(reader)
            brought = brought if reader.split else brought[..., 0, :]
            return rearrange(base + brought, "cell batch ... -> (cell batch) ...")

        return read

    def _brought(self, reader: Reader) -> Tensor:
        """What the paths bring to the readers at a hook, `[cell, batch, pos, reader, d_model]`."""
        readers = slice(reader.start, reader.start + reader.count)
        writers = slice(0, reader.writers)
        base = self.written[writers]
        now = torch.stack(self.now[writers])
        now = rearrange(now, "writer (cell b) ... -> cell writer b ...", cell=self.n_cells)
        first = einsum(
            self.problem.patch[writers] - base,
            self.starts[:, writers, readers],
            "writer b pos d, cell writer reader -> cell b pos reader d",
        )
        later = einsum(
            now - base,
            self.passes[:, writers, readers],
            "cell writer b pos d, cell writer reader -> cell b pos reader d",
        )
        return first + later

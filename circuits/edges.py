"""A network in which some edges carry another writer's output: the forward pass of circuits.

In every cell each edge is *kept* or not. A reader reads the residual stream with, for each edge
that is not kept, the writer's own output replaced by what is patched in:

    read[reader] = residual + sum_writer (1 - keep[writer, reader]) * (patch[writer] - now[writer])

where `now` is what the writer writes in that very cell. Kept shares between 0 and 1 interpolate,
and gradients flow to them. Cells fold into the batch axis of one `forward`, whose cost does not
depend on how many edges are cut.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from circuits.graph import Graph, Reader
from circuits.problem import Problem
from workbench.intervene import CPU_BUDGET, CUDA_BUDGET, wanted_positions
from workbench.memory import halving_chunks, needs_memory
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import Edit, forward

Keep = Float[Tensor, "cell *pos writer reader"]
"""1 where an edge is kept, 0 where it is patched; what is no edge does not matter."""


def run_circuits(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    graph: Graph,
    keep: Keep,
    patch: Float[Tensor, "writer batch pos d_model"],
    *,
    positions: Sequence[int] | None = None,
) -> Float[Tensor, "cell batch wanted d_vocab_out"]:
    """Logits of every cell on every input, all cells in one pass, at `positions` (all when None).

    Raises `HookError` for a position that the inputs do not have.
    """
    wanted = wanted_positions(positions, tokens.shape[1])
    n_cells, batch = keep.shape[0], tokens.shape[0]
    folded = repeat(tokens, "batch pos -> (cell batch) pos", cell=n_cells)
    cut = _Cut(graph, 1 - keep, patch)
    logits = forward(params, folded, config, edits=cut.edits()).logits
    logits = logits if positions is None else logits[:, wanted]
    return rearrange(logits, "(cell batch) pos v -> cell batch pos v", cell=n_cells, batch=batch)


def measure_circuits(problem: Problem, keep: Keep) -> Float[Tensor, "cell batch"]:
    """The problem's metric for every cell on every pair, in chunks that fit the caches.

    Raises `ResourceError` where not even one cell fits in memory.
    """
    return torch.cat(list(measure_in_chunks(problem, keep)))


def measure_in_chunks(problem: Problem, keep: Keep) -> Iterator[Float[Tensor, "cell batch"]]:
    """As `measure_circuits`, a chunk of cells at a time: for progress bars."""
    with needs_memory(f"what writers write on {len(problem.base)} pairs"):
        cells = keep.to(problem.clean.device, problem.patch.dtype)

    def measure(chunk: slice) -> Tensor:
        return problem.metric(circuit_logits(problem, cells[chunk]))

    yield from chunks_of_cells(problem, len(cells), measure)


def chunks_of_cells(
    problem: Problem, n_cells: int, run: Callable[[slice], Tensor]
) -> Iterator[Tensor]:
    """What `run` makes of one chunk of cells after another, without gradients.

    No cells are one empty chunk. Raises `ResourceError` where not even one cell fits in memory.
    """
    config, (batch, n_pos) = problem.config, problem.base.shape
    writers = len(problem.graph.writers)
    per_row = config.d_model * (2 * writers + 6 * config.n_heads + 6) + 2 * config.d_mlp
    cost = problem.patch.element_size() * batch * n_pos * per_row
    budget = CUDA_BUDGET if problem.base.device.type == "cuda" else 4 * CPU_BUDGET
    one = f"one circuit on {batch} pairs of {n_pos} positions"
    measure = torch.no_grad()(run)
    if not n_cells:
        yield measure(slice(0))
    for _, made in halving_chunks([cost] * n_cells, budget, measure, one=one):
        yield made


def circuit_logits(problem: Problem, keep: Keep) -> Float[Tensor, "cell batch wanted d_vocab_out"]:
    """`run_circuits` for a problem."""
    return run_circuits(
        problem.params,
        problem.base,
        problem.config,
        problem.graph,
        keep,
        problem.patch,
        positions=problem.positions,
    )


class _Cut:
    """The edits that cut edges: writers are noted as they write, readers read what is left."""

    def __init__(self, graph: Graph, cut: Tensor, patch: Tensor) -> None:
        self.graph, self.cut, self.patch = graph, cut, patch
        self.now: list[Tensor] = []  # [(cell batch), pos, d_model], by writer

    def edits(self) -> dict[str, Edit]:
        """By hook name. A hook both written and read (the last residual stream) is read."""
        edits: dict[str, Edit] = {"hook_embed": self._note, "hook_pos_embed": self._note}
        for layer in range(self.graph.config.n_layers):
            edits[f"blocks.{layer}.attn.hook_result"] = self._note_heads
            if self.graph.config.d_mlp:
                edits[f"blocks.{layer}.hook_mlp_out"] = self._note
        for reader in self.graph.reading_hooks:
            if bool((self._share(reader) != 0).any()) or self.cut.requires_grad:
                edits[reader.hook] = self._reading(reader)
        return edits

    def _note(self, written: Tensor) -> Tensor:
        self.now.append(written)
        return written

    def _note_heads(self, results: Tensor) -> Tensor:
        self.now += results.unbind(-2)
        return results

    def _share(self, reader: Reader) -> Tensor:
        readers = slice(reader.start, reader.start + reader.count)
        return self.cut[..., : reader.writers, readers]

    def _reading(self, reader: Reader) -> Callable[[Tensor], Tensor]:
        def read(residual: Tensor) -> Tensor:
            return residual + self._change(reader)

        return read

    def _change(self, reader: Reader) -> Tensor:
        """What cutting adds to what is read."""
        n_cells = self.cut.shape[0]
        share = self._share(reader)
        used = list(range(reader.writers))
        if not self.cut.requires_grad:  # writers that no cell cuts here need not be looked at
            used = (share != 0).flatten(0, -3).any(0).any(-1).nonzero()[:, 0].tolist()
            share = share[..., used, :]
        now = torch.stack([self.now[writer] for writer in used])
        now = rearrange(now, "writer (cell batch) pos d -> cell writer batch pos d", cell=n_cells)
        difference = self.patch[used] - now
        spread = "cell pos writer reader" if share.ndim == 4 else "cell writer reader"
        change = einsum(
            difference,
            share,
            f"cell writer batch pos d, {spread} -> cell batch pos reader d",
        )
        change = rearrange(change, "cell batch pos reader d -> (cell batch) pos reader d")
        return change if reader.split else change[..., 0, :]

"""How much arithmetic a sweep over heads and positions is: if it wastes none, and as it is plainly
counted, in whole forward passes."""

import itertools

import torch

from tests.bench.measuring import timed
from workbench.model_config import ModelConfig


def sweep_flop(config: ModelConfig, batch: int) -> dict[tuple[int, int], float]:
    """Floating-point operations that the sweep cannot do without, by the shape of the matrix.

    A cell at (layer, pos) changes its own layer's output and MLP at its position: of the output
    only what its head writes. One layer up, queries, keys and values change there alone, and what
    attention and the MLP write at all positions from it on; further up everything does, at these
    positions. In the last layer only the last position is wanted of all but keys and values. Then
    the unembedding there, and the runs of both inputs. A query sees the keys up to its own. What
    attention multiplies is counted with its projections.
    """
    width, n_pos, last = config.n_heads * config.d_head, config.n_ctx, config.n_layers - 1
    projected, mixed, mlp, read = 0.0, 0, 0, 0
    for layer, pos in itertools.product(range(config.n_layers), range(n_pos)):
        after, read = n_pos - pos, read + 1
        for above in range(layer, config.n_layers):
            wanted = range(pos, n_pos) if above < last else range(n_pos - 1, n_pos)
            if above == layer:
                here = int(pos in wanted)
                projected, mlp = projected + here / config.n_heads, mlp + here
                continue
            changed = 1 if above == layer + 1 else after
            queries = len(wanted) if changed > 1 else int(pos in wanted)
            projected += 2 * changed + queries + len(wanted)
            mlp += len(wanted)
            for query in wanted:  # scores of keys that changed (all for a new query); values
                scored = query + 1 if query < pos + changed else changed
                mixed += scored + query + 1
    heads, both = config.n_heads, 2 * n_pos * config.n_layers
    projected, mlp = heads * projected + 4 * both, heads * mlp + both
    mixed = heads * mixed + both * (n_pos + 1)
    return {
        (config.d_model, width): 2.0 * batch * width * (config.d_model * projected + mixed),
        (config.d_model, config.d_mlp): 2.0 * batch * config.d_model * config.d_mlp * mlp,
        (config.d_mlp, config.d_model): 2.0 * batch * config.d_model * config.d_mlp * mlp,
        (config.d_model, config.d_vocab_out): 2.0
        * batch
        * heads
        * read
        * config.d_model
        * config.d_vocab_out,
    }


def whole_passes(config: ModelConfig) -> float:
    """The plain count: how many whole forward passes a cell is, in the mean over the sweep.

    A cell at (layer, pos) needs the layers above it at the positions from it on, and its own
    layer's MLP at its position.
    """
    width = config.n_heads * config.d_head
    mlp = 2 * config.d_mlp / (2 * config.d_mlp + 4 * width)  # of a layer's products
    cells = [
        (config.n_layers - 1 - layer) * (config.n_ctx - pos) + mlp
        for layer, pos in itertools.product(range(config.n_layers), range(config.n_ctx))
    ]
    return sum(cells) / len(cells) / (config.n_layers * config.n_ctx)


def arithmetic_seconds(config: ModelConfig, batch: int, device: torch.device) -> float:
    """Of these operations, each at the speed of a product of its shape with as many rows as a
    chunk has, measured now."""
    return sum(
        flop / matmul_speed(shape, batch, device)
        for shape, flop in sweep_flop(config, batch).items()
    )


def matmul_speed(shape: tuple[int, int], batch: int, device: torch.device) -> float:
    """Floating-point operations per second of 4096 rows times a matrix."""
    rows, (d_in, d_out) = 4096, shape
    left, right = torch.randn(rows, d_in, device=device), torch.randn(d_in, d_out, device=device)
    repeats = 10 if batch == 1 else 60

    def run() -> None:
        for _ in range(repeats):
            torch.mm(left, right)

    timed(lambda: torch.mm(left, right), device)
    return 2 * rows * d_in * d_out * repeats / timed(run, device)[0]


def forward_seconds(config: ModelConfig, batch: int, device: torch.device) -> float:
    """Of the matrix products of one forward pass, and nothing else, measured now."""
    rows, width = batch * config.n_ctx, config.n_heads * config.d_head
    layer = [(config.d_model, width)] * 3 + [(width, config.d_model)]
    layer += [(config.d_model, config.d_mlp), (config.d_mlp, config.d_model)]
    shapes = layer * config.n_layers + [(config.d_model, config.d_vocab_out)]
    sides = {d: torch.randn(rows, d, device=device) for d, _ in shapes}
    matrices = [torch.randn(shape, device=device) for shape in shapes]
    q, k = (torch.randn(batch * config.n_heads, config.n_ctx, config.d_head) for _ in "qk")
    q, k, pattern = q.to(device), k.to(device), (q @ k.mT).to(device)
    repeats = 100 if batch == 1 else 5

    def run() -> None:
        for _ in range(repeats):
            for matrix in matrices:
                torch.mm(sides[len(matrix)], matrix)
            for _ in range(config.n_layers):
                torch.bmm(q, k.mT)
                torch.bmm(pattern, k)

    timed(run, device)
    return timed(run, device)[0] / repeats

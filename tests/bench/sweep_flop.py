"""How much arithmetic a sweep over heads and positions is, if it wastes none."""

import itertools

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

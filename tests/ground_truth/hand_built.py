"""Networks built by hand, whose circuits are known because every weight was put there.

All are float64 without LayerNorm. What no paragraph below mentions has weight zero: it writes and
reads nothing. `planted()` gives all of them with their true edges.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.problem import Ablation
from tests.ground_truth.attention_networks import copy_head, induction
from tests.ground_truth.building import look_by_position, make_ground_truth, zeros
from tests.ground_truth.scoring import GroundTruth
from workbench.metrics import Metric
from workbench.model_config import ModelConfig
from workbench.params import Params


def planted() -> list[GroundTruth]:
    """Every hand-built network with a unique truth or a known reason why it is not."""
    return [paper_network(), or_gate(), carry_adder(), copy_head(), induction()]


def paper_network() -> GroundTruth:
    """Two blocks of one head and one neuron: every patched output by hand.

    Five directions: x (token), a (head 0), m (MLP 0), b (head 1), n (MLP 1). Two positions, causal,
    patterns uniform (queries and keys are zero), so position 0 sees itself and position 1 the mean
    of both. At each position:

        x = token        a = 2 mean(x)    m = relu(a - 1)    b = 2 mean(m)    n = relu(b - x)
        logit 0 = x + 10 a + 100 m + 1000 b + 10000 n      (at position 1)     logit 1 = 0

    Clean (1, 2):      a = 2, 3     m = 1, 2     b = 2, 3      n = relu(3 - 2) = 1     13232
    Corrupted (3, 1):  a = 6, 4     m = 5, 3     b = 10, 8     n = relu(8 - 1) = 7     78341

    What logit 0 becomes when one edge of the clean run is patched, digit by digit (n b m a x):

        edge                 resample                                      zero
        embed->a0.h0<v>      a 4, m 3, b 8, n relu(8-2) = 6:   68342       a m b 0, n 0:     2
        a0.h0->m0            m 3, b 8, n 6:                    68332       m b n 0:          32
        m0->a1.h0<v>         b 8, n 6:                         68232       b n 0:            232
        a1.h0->m1            n 6:                              63232       n relu(0-2) = 0:  3232
        embed->m1            n relu(3-1) = 2:                  23232       n relu(3-0) = 3:  33232
        embed->logits        x 1:                              13231       x 0:              13230
        a0.h0->logits        a 4:                              13242       a 0:              13202
        m0->logits           m 3:                              13332       m 0:              13032
        a1.h0->logits        b 8:                              18232       b 0:              10232
        m1->logits           n 7:                              73232       n 0:              3232

    and 13232 for the other 22 edges.
    """
    config = ModelConfig(
        n_layers=2, n_heads=1, d_model=5, d_head=1, d_mlp=1, d_vocab=4, d_vocab_out=2, n_ctx=2
    )
    params = zeros(config)
    x, a, m, b, n = range(5)
    params["embed.W_E"][:, x] = torch.arange(4).double()
    for layer, (read, write) in enumerate(((x, a), (m, b))):
        params[f"blocks.{layer}.attn.W_V"][0, read, 0] = 1
        params[f"blocks.{layer}.attn.W_O"][0, 0, write] = 2
    params["blocks.0.mlp.W_in"][a] = 1
    params["blocks.0.mlp.b_in"][0] = -1
    params["blocks.0.mlp.W_out"][0, m] = 1
    params["blocks.1.mlp.W_in"][b] = 1
    params["blocks.1.mlp.W_in"][x] = -1
    params["blocks.1.mlp.W_out"][0, n] = 1
    params["unembed.W_U"][:, 0] = torch.tensor([1.0, 10, 100, 1000, 10000])
    edges = frozenset(PAPER_RESULTS["resample"])
    metric = Metric(name="logit_0", function=lambda logits: logits[..., 0, 0])
    return make_ground_truth(
        "paper_network",
        (params, config),
        (torch.tensor([[1, 2]]), torch.tensor([[3, 1]])),
        (1,),
        (edges, edges),
        metric=metric,
    )


PAPER_CLEAN, PAPER_CORRUPTED = 13232.0, 78341.0
PAPER_RESULTS: dict[Ablation, dict[str, float]] = {
    "resample": {
        "embed->a0.h0<v>": 68342,
        "a0.h0->m0": 68332,
        "m0->a1.h0<v>": 68232,
        "a1.h0->m1": 63232,
        "embed->m1": 23232,
        "embed->logits": 13231,
        "a0.h0->logits": 13242,
        "m0->logits": 13332,
        "a1.h0->logits": 18232,
        "m1->logits": 73232,
    },
    "zero": {
        "embed->a0.h0<v>": 2,
        "a0.h0->m0": 32,
        "m0->a1.h0<v>": 232,
        "a1.h0->m1": 3232,
        "embed->m1": 33232,
        "embed->logits": 13230,
        "a0.h0->logits": 13202,
        "m0->logits": 13032,
        "a1.h0->logits": 10232,
        "m1->logits": 3232,
    },
}
"""Logit 0 of `paper_network` with one edge patched, as worked out in its docstring."""


def or_gate() -> GroundTruth:
    """Two heads bring the same bit, and the MLP takes their OR: each is enough.

    Token 0 or 1, one position; both heads write the bit t to one direction each, and

        logit 1 = relu(h0 + h1) - relu(h0 + h1 - 1) = min(h0 + h1, 1),    logit 0 = 1 / 2.

    Clean is 1, corrupted 0. Patching either head's path alone leaves the logit at 1; both together
    take it to 0. So knocking out one edge at a time finds only `m0->logits`.
    """
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=4,
        d_head=1,
        d_mlp=2,
        d_vocab=2,
        d_vocab_out=2,
        n_ctx=1,
        unembed_bias=True,
    )
    params = zeros(config)
    params["embed.W_E"][1, 0] = 1
    params["blocks.0.attn.W_V"][:, 0, 0] = 1
    for head in (0, 1):
        params["blocks.0.attn.W_O"][head, 0, 1 + head] = 1
    params["blocks.0.mlp.W_in"][1:3] = 1
    params["blocks.0.mlp.b_in"][:] = torch.tensor([0.0, -1.0])
    params["blocks.0.mlp.W_out"][:, 3] = torch.tensor([1.0, -1.0])
    params["unembed.W_U"][3, 1] = 1
    params["unembed.b_U"][0] = 0.5
    edges = frozenset(OR_EDGES)
    return make_ground_truth(
        "or_gate",
        (params, config),
        (torch.tensor([[1]]), torch.tensor([[0]])),
        (0,),
        (edges, edges),
        answers=(torch.tensor([[1]]), torch.tensor([[0]])),
        note="two redundant paths: noising one edge at a time must miss both",
    )


OR_EDGES = (
    *("embed->a0.h0<v>", "embed->a0.h1<v>"),
    *("a0.h0->m0", "a0.h1->m0"),
    "m0->logits",
)

EQUALS = 10
"""The token of the two places where `carry_adder` answers."""
ONES, TENS = 4, 5
"""Their positions: the ones digit of the sum, and its tens digit (the hundreds are dropped)."""


def carry_adder() -> GroundTruth:
    """Adds two numbers of two digits: "a1 a0 b1 b0 = =" gives the ones, then the tens of the sum.

    Directions: digit d, place sum s, lower sum l, carry c, result r, and one per position.

        block 0   heads 0 and 1 fetch the two digits of the place asked for: s = a + b.
                  heads 2 and 3 fetch the two digits of the place below (of the ones place there is
                  none: they look at the `=`, whose digit is 0): l = a_below + b_below.
                  MLP 0 computes the carry: c = relu(l - 9) - relu(l - 10), 1 where l >= 10.
        block 1   MLP 1 applies it: t = s + c, r = t - 10 (relu(t - 9) - relu(t - 10)).
        logits    logit_k = 2 r k - k^2 = r^2 - (r - k)^2: largest at k = r.

    So whatever is patched, the answer is known: with the carry raised from 0 to 1 the tens digit
    goes up by one (9 to 0) and nothing else changes. Block 1 has four heads that do nothing.
    """
    config = ModelConfig(
        n_layers=2,
        n_heads=4,
        d_model=11,
        d_head=6,
        d_mlp=3,
        d_vocab=11,
        d_vocab_out=10,
        n_ctx=6,
        unembed_bias=True,
    )
    params = _carry_params(config)
    reads = {f"embed->a0.h{head}<v>" for head in range(4)}
    reads |= {"a0.h0->m1", "a0.h1->m1", "a0.h2->m0", "a0.h3->m0", "m0->m1", "m1->logits"}
    where = {f"pos_embed->a0.h{head}<{letter}>" for head in range(4) for letter in "qk"}
    clean, corrupted = (addition_inputs(n=64, seed=seed) for seed in (0, 1))
    return make_ground_truth(
        "carry_adder",
        (params, config),
        (clean, corrupted),
        (ONES, TENS),
        (frozenset(reads), frozenset(reads | where)),
        answers=(sum_digits(clean), sum_digits(corrupted)),
    )


def _carry_params(config: ModelConfig) -> Params:
    """The weights, as the docstring of `carry_adder` has them."""
    d, s, low, c, r = range(5)
    params = zeros(config)
    params["embed.W_E"][:10, d] = torch.arange(10).double()
    looks = ({ONES: 1, TENS: 0}, {ONES: 3, TENS: 2}, {ONES: ONES, TENS: 1}, {ONES: ONES, TENS: 3})
    look_by_position(params, config, 0, looks, first=5)
    for head, write in enumerate((s, s, low, low)):
        params["blocks.0.attn.W_V"][head, d, 0] = 1
        params["blocks.0.attn.W_O"][head, 0, write] = 1
    step = torch.tensor([1.0, -1.0])
    params["blocks.0.mlp.W_in"][low, :2] = 1
    params["blocks.0.mlp.b_in"][:2] = torch.tensor([-9.0, -10.0])
    params["blocks.0.mlp.W_out"][:2, c] = step
    params["blocks.1.mlp.W_in"][[s, c]] = 1
    params["blocks.1.mlp.b_in"][:] = torch.tensor([-9.0, -10.0, 0.0])
    params["blocks.1.mlp.W_out"][:2, r] = -10 * step
    params["blocks.1.mlp.W_out"][2, r] = 1
    k = torch.arange(10).double()
    params["unembed.W_U"][r], params["unembed.b_U"][:] = 2 * k, -(k**2)
    return params


def addition_inputs(*, n: int | None = None, seed: int = 0) -> Int[Tensor, "batch pos"]:
    """Inputs of `carry_adder`: all ten thousand, or `n` of them at random."""
    digits = torch.cartesian_prod(*(torch.arange(10) for _ in range(4)))
    if n is not None:
        generator = torch.Generator().manual_seed(seed)
        digits = digits[torch.randperm(len(digits), generator=generator)[:n]]
    return torch.cat([digits, torch.full((len(digits), 2), EQUALS)], 1)


def sum_digits(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch answer"]:
    """Ones and tens of the sum, by arithmetic on whole numbers."""
    a, b = 10 * tokens[:, 0] + tokens[:, 1], 10 * tokens[:, 2] + tokens[:, 3]
    return torch.stack([(a + b) % 10, (a + b) // 10 % 10], 1)

"""Networks built by hand, whose circuits are known because every weight was put there.

All are float64 without LayerNorm. What no paragraph below mentions has weight zero: it writes and
reads nothing. `planted()` gives all of them with their true edges.
"""

import itertools
import math

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.problem import Ablation
from tests.ground_truth.scoring import GroundTruth, Truth
from workbench.metrics import Metric, make_metric
from workbench.params import ModelConfig, Params, check_params, param_shapes
from workbench.transformer import forward

HARD = 60.0
"""A score so far above the rest that attention is on one position but for exp(-60)."""
SOFT = 6.0
"""A score that leaves some per cent of attention elsewhere, so that gradients are alive."""


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
    params = _zeros(config)
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
    return _ground_truth(
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
    params = _zeros(config)
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
    return _ground_truth(
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
    d, s, low, c, r = range(5)
    params = _zeros(config)
    params["embed.W_E"][:10, d] = torch.arange(10).double()
    looks = ({ONES: 1, TENS: 0}, {ONES: 3, TENS: 2}, {ONES: ONES, TENS: 1}, {ONES: ONES, TENS: 3})
    _look_by_position(params, config, 0, looks, first=5)
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
    reads = {f"embed->a0.h{head}<v>" for head in range(4)}
    reads |= {"a0.h0->m1", "a0.h1->m1", "a0.h2->m0", "a0.h3->m0", "m0->m1", "m1->logits"}
    where = {f"pos_embed->a0.h{head}<{letter}>" for head in range(4) for letter in "qk"}
    clean, corrupted = (addition_inputs(n=64, seed=seed) for seed in (0, 1))
    return _ground_truth(
        "carry_adder",
        (params, config),
        (clean, corrupted),
        (ONES, TENS),
        (frozenset(reads), frozenset(reads | where)),
        answers=(sum_digits(clean), sum_digits(corrupted)),
    )


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


def copy_head() -> GroundTruth:
    """One head of two, attention only, copies the first of three tokens to the last position.

    Attention is soft: scores of 6 against 0, so 1 / (1 + 2 exp(-6)) = 0.995 on the first position.
    """
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=13,
        d_head=5,
        d_mlp=0,
        d_vocab=5,
        d_vocab_out=5,
        n_ctx=3,
    )
    params = _zeros(config)
    params["embed.W_E"][:, :5] = torch.eye(5)
    _look_by_position(params, config, 0, ({2: 0},), first=10, score=SOFT)
    _copy(params, 0, 0, 0, 5, 5)
    params["unembed.W_U"][5:10] = torch.eye(5)
    tokens = torch.cartesian_prod(*(torch.arange(5) for _ in range(3)))
    pairs = tokens[None].expand(125, 125, 3), tokens[:, None].expand(125, 125, 3)
    clean, corrupted = (side.reshape(-1, 3) for side in pairs)
    differ = (clean[:, 0] != corrupted[:, 0]).nonzero()[:, 0]
    chosen = differ[torch.randperm(len(differ), generator=torch.Generator().manual_seed(0))[:64]]
    clean, corrupted = clean[chosen], corrupted[chosen]
    reads = frozenset({"embed->a0.h0<v>", "a0.h0->logits"})
    where = {"pos_embed->a0.h0<q>", "pos_embed->a0.h0<k>"}
    return _ground_truth(
        "copy_head",
        (params, config),
        (clean, corrupted),
        (2,),
        (reads, reads | where),
        answers=(clean[:, :1], corrupted[:, :1]),
    )


START = 5
"""The first token of every input of `induction`; it has no embedding."""


def induction() -> GroundTruth:
    """An induction circuit joined through queries, keys and values, each by a head of its own.

    Input: START and five tokens, the last of which stood before; the answer is what followed it.
    In block 0 head 0 writes the previous token, heads 1 and 2 their own token, each to directions
    of their own. In block 1 head 0 asks with what head 1 wrote (Q) for what head 0 wrote (K) and
    copies what head 2 wrote (V). Its attention is soft: a score of 6 on the match, 0 elsewhere.
    """
    words = 5
    config = ModelConfig(
        n_layers=2,
        n_heads=3,
        d_model=5 * words + 6,
        d_head=6,
        d_mlp=0,
        d_vocab=words + 1,
        d_vocab_out=words,
        n_ctx=6,
    )
    params = _zeros(config)
    token, previous, asked, copied, answer = (words * i for i in range(5))
    params["embed.W_E"][:words, :words] = torch.eye(words)
    before = {pos: max(pos - 1, 0) for pos in range(6)}
    itself = {pos: pos for pos in range(6)}
    _look_by_position(params, config, 0, (before, itself, itself), first=5 * words)
    for head, write in enumerate((previous, asked, copied)):
        _copy(params, 0, head, token, write, words)
    sharp = SOFT * math.sqrt(config.d_head)
    params["blocks.1.attn.W_Q"][0, asked : asked + words, :words] = sharp * torch.eye(words)
    params["blocks.1.attn.W_K"][0, previous : previous + words, :words] = torch.eye(words)
    _copy(params, 1, 0, copied, answer, words)
    params["unembed.W_U"][answer:answer + words] = torch.eye(words)
    reads = {f"embed->a0.h{head}<v>" for head in range(3)}
    reads |= {"a0.h0->a1.h0<k>", "a0.h1->a1.h0<q>", "a0.h2->a1.h0<v>", "a1.h0->logits"}
    where = {f"pos_embed->a0.h{head}<{letter}>" for head in range(3) for letter in "qk"}
    inputs, answers = induction_inputs()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    other = order.roll(1)
    differ = (answers[order] != answers[other])[:, 0]
    clean, corrupted = order[differ][:64], other[differ][:64]
    return _ground_truth(
        "induction",
        (params, config),
        (inputs[clean], inputs[corrupted]),
        (5,),
        (frozenset(reads), frozenset(reads | where)),
        answers=(answers[clean], answers[corrupted]),
    )


def induction_inputs() -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch 1"]]:
    """All 360 inputs of `induction`: four different tokens, then one of the first three again."""
    rows = [
        (START, *four, four[again], four[again + 1])
        for four in itertools.permutations(range(5), 4)
        for again in range(3)
    ]
    table = torch.tensor(rows)
    return table[:, :-1], table[:, -1:]


def _zeros(config: ModelConfig) -> Params:
    return {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }


def _look_by_position(
    params: Params,
    config: ModelConfig,
    layer: int,
    looks: tuple[dict[int, int], ...],
    *,
    first: int,
    score: float = HARD,
) -> None:
    """One direction per position from `first` on, and heads that look from position to position."""
    for pos in range(config.n_ctx):
        params["pos_embed.W_pos"][pos, first + pos] = 1
    for head, look in enumerate(looks):
        for pos in range(config.n_ctx):
            if pos < config.d_head:
                params[f"blocks.{layer}.attn.W_K"][head, first + pos, pos] = 1
        for query, key in look.items():
            sharp = score * math.sqrt(config.d_head)
            params[f"blocks.{layer}.attn.W_Q"][head, first + query, key] = sharp


def _copy(params: Params, layer: int, head: int, read: int, write: int, width: int) -> None:
    """A head that copies `width` directions from `read` on to those from `write` on."""
    identity = torch.eye(width, dtype=torch.float64)
    params[f"blocks.{layer}.attn.W_V"][head, read : read + width, :width] = identity
    params[f"blocks.{layer}.attn.W_O"][head, :width, write : write + width] = identity


def _ground_truth(
    name: str,
    network: tuple[Params, ModelConfig],
    pairs: tuple[Tensor, Tensor],
    positions: tuple[int, ...],
    edges: tuple[frozenset[str], frozenset[str]],
    *,
    answers: tuple[Tensor, Tensor] | None = None,
    metric: Metric | None = None,
    note: str = "",
) -> GroundTruth:
    """With the logit difference where answers are given; `edges` under resample, then zero."""
    params, config = network
    check_params(params, config)
    clean, corrupted = pairs
    if answers is not None:
        differ = (answers[0] != answers[1]).any(1)
        clean, corrupted = clean[differ], corrupted[differ]
        answer, wrong_answer = answers[0][differ], answers[1][differ]
        metric = make_metric(
            "logit_difference",
            answer=answer,
            wrong_answer=wrong_answer,
            clean_logits=forward(params, clean, config, positions=positions).logits,
            scored=answer != wrong_answer,
        )
    assert metric is not None
    resample, zero = (Truth(edges=e, unique=not note, note=note) for e in edges)
    return GroundTruth(
        name=name,
        params=params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        positions=positions,
        metrics={"resample": metric, "zero": metric},
        truths={"resample": resample, "zero": zero},
    )

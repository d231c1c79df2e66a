"""Reading a circuit: exact sums, interventions that must agree, and networks worked out by hand.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats as scipy_stats
from torch import Tensor

from circuits.attention_patterns import read_attention, summarise_attention
from circuits.edges import run_circuits
from circuits.graph import Graph
from circuits.logit_attribution import attribute_pairs, logit_attribution
from circuits.logit_lens import LogitLens, logit_lens, score_lens
from circuits.problem import make_problem
from circuits.reading import Baseline, average, average_share
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from tests.unit.small_networks import CONFIG, assert_close, generator, zeros
from tests.unit.small_training import DIGITS, network
from workbench.errors import CircuitError, HookError, PairError, TaskError
from workbench.model_config import ModelConfig
from workbench.pairs import draw_pairs
from workbench.stats import wilson_interval
from workbench.subject import Subject
from workbench.transformer import forward


def answers(config: ModelConfig, seed: int, *, batch: int, n: int) -> Tensor:
    return torch.randint(config.d_vocab_out, (batch, n), generator=generator(seed + 100))


# ---------------------------------------------------------------------- logit attribution


@pytest.mark.parametrize("seed", SEEDS)
def test_attributions_sum_to_the_logit_of_an_independent_run(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=3)
    positions = (-1, 0)
    answer, wrong = (answers(config, seed + i, batch=3, n=2) for i in range(2))
    logits = forward(params, tokens, config).logits[:, list(positions)]
    right, other = (logits.gather(-1, x[..., None])[..., 0] for x in (answer, wrong))
    run = {"positions": positions, "answer": answer}
    for made, expected in (
        (logit_attribution(params, tokens, config, **run), right),
        (logit_attribution(params, tokens, config, **run, wrong_answer=wrong), right - other),
        (logit_attribution(params, tokens, config, **run, budget=1), right),  # input by input
    ):
        assert_close(made.values.sum(0), expected)
        assert_close(made.total, expected)
        biases = [f"a{layer}.bias" for layer in range(config.n_layers) if config.attn_biases]
        last = ["ln_final.b"] if config.normalization else []
        last += ["b_U"] if config.unembed_bias else []
        assert set(made.writers) == {*Graph(config).writers, *biases, *last}


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_an_attribution_is_what_cutting_the_edge_to_the_logits_takes_away(seed: int) -> None:
    """Exactly so without LayerNorm: what is left of the logit is the other writers'."""
    config = replace(random_config(seed), normalization=None)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    answer = answers(config, seed, batch=2, n=config.n_ctx)
    positions = tuple(range(config.n_ctx))
    made = logit_attribution(params, tokens, config, positions=positions, answer=answer)
    graph = Graph(config)
    keep = torch.ones(len(graph.writers), *graph.is_edge.shape, dtype=torch.float64)
    keep[range(len(graph.writers)), range(len(graph.writers)), -1] = 0
    nothing = torch.zeros(len(graph.writers), *tokens.shape, config.d_model, dtype=torch.float64)
    cut = run_circuits(params, tokens, config, graph, keep, nothing)
    index = answer[None, ..., None].expand(len(graph.writers), -1, -1, 1)
    lost = made.total - cut.gather(-1, index)[..., 0]
    for writer, expected in zip(graph.writers, lost, strict=True):
        assert_close(made.of(writer), expected)


def test_the_final_scale_is_frozen_and_the_mean_taken_out() -> None:
    """x = (3, 1) + (0, 2) + head: centred and divided by the standard deviation of their sum."""
    config = replace(CONFIG, normalization="LN")
    params = zeros(
        config,
        W_E=torch.tensor([[3.0, 1.0], [0.0, 0.0]]),
        W_pos=torch.tensor([[0.0, 2.0], [0.0, 0.0]]),
        W_U=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        w=torch.tensor([2.0, 2.0]),
        b=torch.tensor([0.5, -0.5]),
    )
    params["embed.W_E"][0] = torch.tensor([3.0, -3.0])  # sum (3, -1): mean 1, deviation 2
    made = logit_attribution(
        *(params, torch.tensor([[0, 1]]), config),
        positions=[0],
        answer=torch.tensor([[0]]),
        wrong_answer=torch.tensor([[1]]),
    )
    scale = math.sqrt(4 + 1e-5)
    expected = {"embed": 12 / scale, "pos_embed": -4 / scale, "a0.h0": 0.0, "ln_final.b": 1.0}
    assert made.writers == tuple(expected)
    for writer, value in expected.items():
        assert made.of(writer).item() == pytest.approx(value, abs=1e-12)


def test_writers_means_over_pairs_sum_to_the_metric() -> None:
    config = network(DIGITS)
    subject = Subject(params=random_params(config, 0), config=config, task=DIGITS)
    pairs = draw_pairs(DIGITS, next(iter(DIGITS.corruptions)), 6, generator())
    made = attribute_pairs(subject, pairs)
    averaged = made.average(pairs.scored)
    metric = make_problem(subject, pairs).base_metric
    assert_close(averaged.mean.sum(), metric.mean())
    assert averaged.n == 6 and averaged.low is not None and averaged.high is not None
    assert ((averaged.low < averaged.mean) & (averaged.mean < averaged.high)).all()
    assert_close(made.average(exhaustive=True).mean.sum(), made.total.mean())
    with pytest.raises(PairError, match="at least one answer token"):
        made.average(torch.zeros_like(pairs.scored))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"positions": [2]}, HookError, "position 2: inputs have 2"),
        ({"positions": []}, HookError, "position"),
        ({"positions": [0, 1]}, PairError, "do not fit 1 inputs with 2 positions"),
        ({"answer": torch.tensor([[0], [1]])}, PairError, "do not fit 1 inputs"),
        ({"answer": torch.tensor([[2]])}, TaskError, "writes 0 to 1"),
        ({"wrong_answer": torch.tensor([[-1]])}, TaskError, "answer tokens from -1"),
    ],
)
def test_attributions_that_cannot_be(
    changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    call: dict[str, Any] = {"positions": [0], "answer": torch.tensor([[0]])} | changes
    with pytest.raises(error, match=match):
        logit_attribution(zeros(CONFIG), torch.tensor([[0, 1]]), CONFIG, **call)


def test_an_unknown_writer_is_refused_with_the_nearest() -> None:
    made = logit_attribution(
        *(zeros(CONFIG), torch.tensor([[0, 1]]), CONFIG),
        positions=[0],
        answer=torch.tensor([[0]]),
    )
    with pytest.raises(CircuitError, match=r"did you mean 'a0\.h0'"):
        made.of("a0.h00")


# ---------------------------------------------------------------------- logit lens


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_the_lens_ends_at_the_answer_and_begins_at_the_embedding(seed: int) -> None:
    config = replace(random_config(seed), normalization=None)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    lens = logit_lens(params, tokens, config)
    assert len(lens.places) == 1 + config.n_layers * (2 if config.d_mlp else 1)
    assert_close(lens.logits[-1], forward(params, tokens, config).logits)
    stream = params["embed.W_E"][tokens] + params["pos_embed.W_pos"]
    first = stream @ params["unembed.W_U"] + params.get("unembed.b_U", torch.tensor(0.0))
    assert_close(lens.logits[0], first)
    assert_close(logit_lens(params, tokens, config, positions=[-1]).logits, lens.logits[:, :, -1:])


def test_lens_scores_by_hand() -> None:
    """One input, two positions, three tokens; the answer has two tokens."""
    rows = [[[[[0.0, 1.0, 3.0], [2.0, 1.0, 0.0]]]]]
    lens = LogitLens(places=("here",), logits=torch.tensor(rows[0], dtype=torch.float64))
    made = score_lens(lens, torch.tensor([[2, 0]]), torch.tensor([[1, 1]]))
    assert made.correct[0, 0].tolist() == [[True, False], [False, True]]
    assert made.logit_difference is not None
    assert made.logit_difference[0, 0].tolist() == [[2.0, -1.0], [-1.0, 1.0]]
    norms = [math.log(1 + math.e + math.e**3), math.log(1 + math.e + math.e**2)]
    expected = [[3 - norms[0], -norms[0]], [-norms[1], 2 - norms[1]]]
    assert_close(made.log_probability[0, 0], torch.tensor(expected, dtype=torch.float64))
    assert score_lens(lens, torch.tensor([[2, 0]])).logit_difference is None
    with pytest.raises(PairError, match="do not fit"):
        score_lens(lens, torch.tensor([[2, 0], [1, 1]]))
    with pytest.raises(TaskError, match="answer tokens"):
        score_lens(lens, torch.tensor([[3, 0]]))


def test_the_control_of_lens_accuracy_is_the_commonest_answer() -> None:
    lens = LogitLens(places=("here",), logits=torch.zeros(1, 4, 1, 3, dtype=torch.float64))
    made = score_lens(lens, torch.tensor([[0, 2], [1, 2], [1, 2], [1, 2]]))
    assert made.constant_accuracy.tolist() == [0.75, 1.0]


# ---------------------------------------------------------------------- attention


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_attention_of_all_layers_is_that_of_the_run(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=3)
    made = read_attention(params, tokens, config)
    for layer in range(config.n_layers):
        block = f"blocks.{layer}.attn.hook"
        hooks = (f"{block}_attn_scores", f"{block}_pattern")
        run = forward(params, tokens, config, taps=hooks).activations
        for head in range(config.n_heads):
            at = made.heads.index(f"a{layer}.h{head}")
            assert_close(made.scores[at], run[hooks[0]][:, head])
            assert_close(made.pattern[at], run[hooks[1]][:, head])
            assert_close(made.of(f"a{layer}.h{head}"), run[hooks[1]][:, head])


@pytest.mark.parametrize("rate", [1.0, 0.39])
def test_a_head_without_queries_looks_at_all_alike(rate: float) -> None:
    config = replace(CONFIG, n_ctx=3, attention_rate=rate)
    tokens = torch.tensor([[0, 1, 1], [1, 0, 1]])
    made = summarise_attention(read_attention(zeros(config), tokens, config))
    counts = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert_close(made.entropy.mean[0], counts.log())
    assert_close(made.uniform_entropy, counts.log())
    uniform = torch.tril(torch.ones(3, 3, dtype=torch.float64))
    assert_close(made.weight.mean[0], rate * uniform / counts[:, None] + (1 - rate) * uniform)
    assert_close(made.variation, torch.zeros(1, 3, dtype=torch.float64))
    assert made.weight.n == 2 and made.weight.low is not None


def test_a_head_that_seeks_a_token() -> None:
    """Scores 100 where token 1 stands: it looks there alone, and where it stands varies."""
    config = replace(CONFIG, attention_dir="bidirectional")
    token = torch.tensor([[1.0, 0.0], [1.0, 10.0]])
    params = zeros(
        config,
        W_E=token,
        W_Q=torch.tensor([[[0.0, 10.0 * math.sqrt(2)], [0.0, 0.0]]]),
        W_K=torch.eye(2)[None],
    )
    attention = read_attention(params, torch.tensor([[0, 1], [1, 0]]), config)
    assert attention.scores[0, 0].tolist() == pytest.approx(
        torch.tensor([[0.0, 100.0]] * 2).numpy()
    )
    made = summarise_attention(attention, exhaustive=True)
    # exp(-100) is below what float64 can tell from 0 beside 1.
    assert_close(attention.pattern[0, :, 0], torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double())
    assert_close(made.entropy.mean, torch.zeros(1, 2, dtype=torch.float64))
    assert_close(made.variation, torch.full((1, 2), 0.5, dtype=torch.float64))
    assert made.entropy.low is None and made.uniform_entropy.tolist() == [math.log(2)] * 2


# ---------------------------------------------------------------------- averages


def test_averages_carry_the_intervals_of_the_textbook() -> None:
    values = torch.randn(5, 7, generator=generator(), dtype=torch.float64)
    made = average(values, dim=1)
    assert made.n == 7 and made.low is not None and made.high is not None
    for row, low, high in zip(values.numpy(), made.low, made.high, strict=True):
        scale = row.std(ddof=1) / math.sqrt(7)
        expected = scipy_stats.t.interval(0.95, 6, loc=row.mean(), scale=scale)
        assert (float(low), float(high)) == pytest.approx(expected, abs=1e-12)
    share = average_share(values > 1, dim=1)
    assert share.low is not None and share.high is not None
    for row, low, high in zip(values > 1, share.low, share.high, strict=True):
        expected = wilson_interval(int(row.sum()), 7)
        assert (float(low), float(high)) == pytest.approx(expected, abs=1e-12)
    assert average(values, dim=1, exhaustive=True)[1:] == (None, None, 7)
    assert average(values[:, :1], dim=1)[1:] == (None, None, 1)
    assert average_share(values > 1, dim=0, exhaustive=True)[1:] == (None, None, 5)


def test_a_baseline_says_where_random_heads_lie() -> None:
    made = Baseline(what="", draws=torch.arange(101, dtype=torch.float64))
    assert made.mean == 50 and made.interval == pytest.approx((2.5, 97.5))
    scores = torch.tensor([-1.0, 50.5, 200.0, torch.nan], dtype=torch.float64)
    assert made.percentile(scores)[:3].tolist() == pytest.approx([0, 51 / 101, 1])
    assert made.percentile(scores)[3].isnan()
    with pytest.raises(CircuitError, match="n_draws"):
        Baseline(what="", draws=torch.zeros(0))

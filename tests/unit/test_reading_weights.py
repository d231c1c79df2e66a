"""Reading weights: tables that sum to what the network does, and heads worked out by hand.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from circuits.attention_patterns import read_attention
from circuits.composition import composition_scores, random_composition
from circuits.head_matrices import (
    LayerNormScales,
    copying_scores,
    layer_norm_scales,
    ov_circuit,
    qk_circuit,
)
from circuits.logit_attribution import logit_attribution
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from tests.unit.small_networks import CONFIG, assert_close, generator, zeros
from workbench.errors import CircuitError
from workbench.params import Params

KINDS = ("token", "position", "bias")


# ---------------------------------------------------------------------- QK and OV circuits


def silent(params: Params) -> Params:
    """The same network, whose heads and MLPs write nothing: every layer reads the embeddings."""
    quiet = ("attn.W_O", "attn.b_O", "mlp.W_out", "mlp.b_out")
    return {k: v * 0 if k.endswith(quiet) else v for k, v in params.items()}


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_nine_qk_tables_sum_to_the_scores_of_every_layer(seed: int) -> None:
    config = replace(random_config(seed), normalization=None, attention_dir="bidirectional")
    params, tokens = silent(random_params(config, seed)), random_tokens(config, seed, batch=3)
    total = torch.zeros((), dtype=torch.float64)
    rows = {"token": tokens, "position": torch.arange(config.n_ctx).expand_as(tokens)}
    rows["bias"] = torch.zeros_like(tokens)
    for query in KINDS:
        for key in KINDS:
            table = qk_circuit(params, config, query=query, key=key)
            total = total + table[:, rows[query][:, :, None], rows[key][:, None, :]]
    assert_close(total, read_attention(params, tokens, config).scores)


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_ov_tables_weighted_by_the_pattern_are_what_heads_add(seed: int) -> None:
    """The heads of one layer, against logit attribution; the pattern need not sum to 1."""
    config = replace(random_config(seed), normalization=None, n_layers=1)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=3)
    token, position, bias = (ov_circuit(params, config, source=kind) for kind in KINDS)
    looked_at = token[:, tokens] + position[:, None] + bias[:, None]
    written = read_attention(params, tokens, config).pattern @ looked_at
    for head in range(config.n_heads):
        for answer in range(config.d_vocab_out):
            added = logit_attribution(
                *(params, tokens, config),
                positions=range(config.n_ctx),
                answer=torch.full(tokens.shape, answer),
            ).of(f"a0.h{head}")
            assert_close(written[head, :, :, answer], added)


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_with_the_scale_of_the_input_frozen_tables_are_exact_under_layer_norm(seed: int) -> None:
    """Inputs of one token have one scale per layer, so that nothing is lost by freezing it."""
    config = replace(random_config(seed), normalization="LN", n_layers=1, n_ctx=1)
    params = random_params(config, seed)
    for token in range(config.d_vocab):
        tokens = torch.tensor([[token]])
        scales = layer_norm_scales(params, tokens, config)
        at = {"token": token, "position": 0, "bias": 0}
        score, added = torch.zeros(2, config.n_heads, 1, dtype=torch.float64).unbind(0)
        for query in KINDS:
            value = ov_circuit(params, config, source=query, scales=scales)
            added = added + value[:, at[query], :1]
            for key in KINDS:
                table = qk_circuit(params, config, query=query, key=key, scales=scales)
                score = score + table[:, at[query], at[key], None]
        assert_close(score, read_attention(params, tokens, config).scores[:, 0, 0])
        answer = torch.tensor([[0]])
        made = logit_attribution(params, tokens, config, positions=[0], answer=answer)
        by_head = torch.stack([made.of(f"a0.h{head}")[0] for head in range(config.n_heads)])
        assert_close(added, by_head)


def test_every_layer_is_divided_by_its_own_scale() -> None:
    """Twice in a score, for query and key; a value once, and the final scale after it."""
    config = replace(CONFIG, normalization="LN", n_layers=2, n_heads=2)
    params = random_params(config, 0)
    one = LayerNormScales(attention=torch.ones(2).double(), final=torch.tensor(1.0).double())
    other = LayerNormScales(attention=torch.tensor([2.0, 5.0]).double(), final=one.final * 3)
    shares = torch.tensor([2.0, 2.0, 5.0, 5.0]).double()[:, None, None]
    scores = qk_circuit(params, config, scales=one)
    assert_close(qk_circuit(params, config, scales=other), scores / shares**2)
    written = ov_circuit(params, config, scales=one)
    assert_close(ov_circuit(params, config, scales=other), written / (3 * shares))


def test_frozen_scales_are_means_and_say_how_much_they_vary() -> None:
    """Streams (1, -1) and (3, -3): scales 1 and 3, mean 2, standard deviation 1."""
    config = replace(CONFIG, normalization="LN", n_ctx=1)
    params = zeros(config, W_E=torch.tensor([[1.0, -1.0], [3.0, -3.0]]))
    made = layer_norm_scales(params, torch.tensor([[0], [1]]), config)
    # The eps of LayerNorm, 1e-5 in the variance, moves a scale of 1 by 5e-6.
    assert made.attention.tolist() == pytest.approx([2.0], abs=1e-5)
    assert float(made.final) == pytest.approx(2.0, abs=1e-5)
    assert made.spread == pytest.approx(0.5, abs=1e-5)


def test_layer_norm_without_scales_is_refused_and_scales_without_layer_norm() -> None:
    normed = replace(CONFIG, normalization="LN")
    for table in (qk_circuit, ov_circuit):
        with pytest.raises(CircuitError, match="freeze it with scales="):
            table(zeros(normed), normed)
        one = torch.ones(1, dtype=torch.float64)
        with pytest.raises(CircuitError, match="leave scales out"):
            table(zeros(CONFIG), CONFIG, scales=LayerNormScales(attention=one, final=one[0]))
    with pytest.raises(CircuitError, match="no LayerNorm"):
        layer_norm_scales(zeros(CONFIG), torch.tensor([[0, 1]]), CONFIG)


def test_copying_scores_by_hand() -> None:
    """Eigenvalues (1, 1), (-1, -1), (i, -i), (3, -1) and none."""
    config = replace(CONFIG, n_heads=5)
    circuits = [[[1, 0], [0, 1]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]], [[3, 0], [0, -1]]]
    params = zeros(
        config,
        W_E=torch.eye(2),
        W_U=torch.eye(2),
        W_V=torch.eye(2).expand(5, 2, 2),
        W_O=torch.tensor([*circuits, [[0, 0], [0, 0]]]),
    )
    made = copying_scores(params, config, generator(), n_draws=2000)
    assert made.scores[:4].tolist() == pytest.approx([1, -1, 0, 0.5], abs=1e-12)
    assert made.scores[4].isnan()
    assert made.heads[3] == "a0.h3"
    # Of random heads as many copy as do the reverse: 4 standard errors.
    draws = made.baseline.draws
    assert abs(made.baseline.mean) < 4 * float(draws.std()) / math.sqrt(2000)
    percentile = made.baseline.percentile(made.scores)
    assert percentile[1] == 0 and 0.4 < percentile[2] < 0.6 and percentile[4].isnan()
    swapped = copying_scores(
        *(params, config, generator()),
        inputs=torch.tensor([0, 1]),
        outputs=torch.tensor([1, 0]),
    )
    assert swapped.scores[:2].tolist() == pytest.approx([0, 0], abs=1e-12)  # eigenvalues 1 and -1


@pytest.mark.parametrize("normalization", [None, "LN"])
def test_copying_scores_are_those_of_the_whole_table(normalization: Any) -> None:
    config = replace(random_config(3), normalization=normalization, d_vocab=7, d_vocab_out=13)
    params = random_params(config, 3)
    inputs, outputs = torch.tensor([5, 0, 3, 1]), torch.tensor([2, 12, 7, 4])
    made = copying_scores(params, config, generator(), inputs=inputs, outputs=outputs)
    scales = None
    if normalization is not None:
        ones = torch.ones(config.n_layers, dtype=torch.float64)
        scales = LayerNormScales(attention=ones, final=ones[0])
    tables = ov_circuit(params, config, scales=scales)[:, inputs][:, :, outputs]
    for score, table in zip(made.scores, tables, strict=True):
        eigenvalues = np.linalg.eigvals(table.numpy())
        expected = eigenvalues.sum().real / np.abs(eigenvalues).sum()
        # Zero eigenvalues of a 4 x 4 matrix of lower rank come out as large as sqrt(1e-16).
        assert float(score) == pytest.approx(expected, abs=1e-7)
    wrong = [{}, {"inputs": inputs}, {"inputs": inputs, "outputs": outputs[:2]}]
    wrong += [
        {"inputs": inputs, "outputs": outputs + 2},
        {"inputs": inputs + 2, "outputs": outputs},
    ]
    for given in wrong:
        with pytest.raises(CircuitError, match="puts="):
            copying_scores(params, config, generator(), **given)


def test_layer_norm_hides_the_mean_from_heads_and_from_random_ones() -> None:
    config = replace(CONFIG, normalization="LN", d_model=4, d_vocab=5, d_vocab_out=5)
    params = random_params(config, 0)
    moved = params | {"embed.W_E": params["embed.W_E"] + 5}
    plain, same = (copying_scores(x, config, generator(), n_draws=9) for x in (params, moved))
    assert_close(same.scores, plain.scores)
    assert_close(same.baseline.draws, plain.baseline.draws)


# ---------------------------------------------------------------------- composition


def test_composition_scores_by_hand() -> None:
    """Heads of one dimension: the cosine of what is written, (1, 0), and what is read."""
    config = replace(CONFIG, n_layers=2, d_head=1)
    params = zeros(config)
    for name, value in (
        *(("blocks.0.attn.W_V", [[5.0], [2.0]]), ("blocks.0.attn.W_O", [[1.0, 0.0]])),
        *(("blocks.1.attn.W_Q", [[3.0], [3.0]]), ("blocks.1.attn.W_K", [[0.0], [1.0]])),
        *(("blocks.1.attn.W_V", [[-2.0], [0.0]]), ("blocks.1.attn.W_O", [[1.0, 4.0]])),
    ):
        params[name] = torch.tensor([value], dtype=torch.float64)
    made = composition_scores(params, config, generator())
    cosines = {"q": math.sqrt(0.5), "k": 0.0, "v": 1.0}
    for letter, expected in cosines.items():
        assert made.of(f"a0.h0->a1.h0<{letter}>") == pytest.approx(expected, abs=1e-12)
    assert made.is_pair.tolist() == [[False, True], [False, False]]
    assert (made.scores[:, ~made.is_pair] == 0).all()
    assert made.percentile[1, 0, 1] == 0 and made.percentile[2, 0, 1] == 1
    assert made.percentile[0, 1, 0].isnan()
    for wrong in ("a0.h0", "a0.h0->a1.h0<x>", "a0.h0->a1.h7<q>"):
        with pytest.raises(CircuitError):
            made.of(wrong)


@pytest.mark.parametrize("seed", [1, 3, 5, 7, 9, 11])
def test_composition_scores_by_whole_matrices(seed: int) -> None:
    config = random_config(seed)
    params = random_params(config, seed)
    made = composition_scores(params, config, generator(), n_draws=3)
    d = config.d_model
    centre = torch.eye(d, dtype=torch.float64)
    if config.normalization is not None:
        centre = centre - 1 / d
    qk, ov = [], []
    for layer in range(config.n_layers):
        W = {letter: params[f"blocks.{layer}.attn.W_{letter}"] for letter in "QKVO"}
        read = centre
        if config.normalization is not None:
            read = centre @ torch.diag(params[f"blocks.{layer}.ln1.w"])
        for head in range(config.n_heads):
            qk.append(read @ W["Q"][head] @ W["K"][head].T @ read.T)
            ov.append(read @ W["V"][head] @ W["O"][head] @ centre)
    n = config.n_heads
    for writer in range(len(ov)):
        for reader in range(len(ov)):
            reading = (qk[reader], qk[reader].T, ov[reader])
            for letter, matrix in enumerate(reading):
                expected = torch.tensor(0.0, dtype=torch.float64)
                if writer // n < reader // n:
                    expected = (ov[writer] @ matrix).norm() / ov[writer].norm() / matrix.norm()
                assert_close(made.scores[letter, writer, reader], expected)


def test_random_heads_compose_as_theory_says() -> None:
    """Two random directions: |cos| has mean 2 / pi in the plane and is uniform in space."""
    plane = random_composition(2, 1, generator(1), n_draws=4000)
    # The standard deviation of |cos| of a uniform angle is sqrt(1/2 - 4/pi^2); 4 standard errors.
    error = math.sqrt(0.5 - 4 / math.pi**2) / math.sqrt(4000)
    assert float(plane.mean()) == pytest.approx(2 / math.pi, abs=4 * error)
    space = random_composition(3, 1, generator(2), n_draws=4000)
    assert scipy_stats.kstest(space.numpy(), "uniform").pvalue > 0.01
    assert torch.equal(space, random_composition(3, 1, generator(2), n_draws=4000))


def test_the_baseline_knows_that_layer_norm_takes_a_dimension() -> None:
    """Centred weights of d_model = 4 live in 3 dimensions, where |cos| is uniform."""
    config = replace(CONFIG, normalization="LN", n_layers=2, d_model=4, d_head=1)
    made = composition_scores(random_params(config, 0), config, generator(), n_draws=4000)
    assert scipy_stats.kstest(made.baseline.draws.numpy(), "uniform").pvalue > 0.01

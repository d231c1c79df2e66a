"""Reading a circuit, against TransformerLens' own tools on natively booted bridges.

Where a LayerNorm stands between, TransformerLens' tools want it folded: the bridge is given weights
folded here by explicit matrices, and once weights that TransformerLens folded itself.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from circuits.attention_patterns import read_attention
from circuits.composition import composition_scores
from circuits.head_matrices import LayerNormScales, copying_scores, ov_circuit, qk_circuit
from circuits.logit_attribution import logit_attribution
from circuits.logit_lens import logit_lens
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from workbench.bridge import to_bridge
from workbench.model_config import ModelConfig
from workbench.params import Params

DEEP = [1, 3, 5, 7]
"""Seeds of networks with more than one layer."""
LETTERS = "QKV"


def assert_close(ours: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, expected.detach(), atol=atol, rtol=0)


def folded(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """The same logits with every LayerNorm before a head or the logits but centring and scale."""
    if config.normalization is None:
        return params, config
    made, d = dict(params), config.d_model
    shape = replace(config, attn_biases=True, unembed_bias=True)
    centre = torch.eye(d, dtype=torch.float64) - 1 / d
    identity = {"w": torch.ones(d, dtype=torch.float64), "b": torch.zeros(d, dtype=torch.float64)}
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        w, b = (params[f"{block}.ln1.{part}"] for part in "wb")
        for letter in LETTERS:
            W = params[f"{block}.attn.W_{letter}"]
            bias = params.get(f"{block}.attn.b_{letter}", torch.zeros(()).double())
            made[f"{block}.attn.W_{letter}"] = centre @ torch.diag(w) @ W
            made[f"{block}.attn.b_{letter}"] = bias + b @ W
        made[f"{block}.attn.W_O"] = params[f"{block}.attn.W_O"] @ centre
        made.setdefault(f"{block}.attn.b_O", torch.zeros(d, dtype=torch.float64))
        made |= {f"{block}.ln1.{part}": value for part, value in identity.items()}
    W_U, b_U = params["unembed.W_U"], params.get("unembed.b_U", torch.zeros(()).double())
    made["unembed.b_U"] = b_U + params["ln_final.b"] @ W_U
    made["unembed.W_U"] = centre @ torch.diag(params["ln_final.w"]) @ W_U
    made |= {f"ln_final.{part}": value for part, value in identity.items()}
    return made, shape


def bridge(params: Params, config: ModelConfig) -> Any:
    """TransformerLens' model of folded weights."""
    return to_bridge(*folded(params, config)).eval()


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_logit_attribution_is_logit_attrs_of_the_decomposed_stream(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, config.n_ctx)
    answer, wrong = (
        torch.randint(config.d_vocab_out, shape, generator=generator) for _ in range(2)
    )
    ours = logit_attribution(
        *(params, tokens, config),
        positions=range(config.n_ctx),
        answer=answer,
        wrong_answer=wrong,
    )
    logits, cache = bridge(params, config).run_with_cache(tokens)
    components, labels = cache.decompose_resid(return_labels=True)
    heads, names = cache.stack_head_results(return_labels=True)
    theirs = cache.logit_attrs(torch.cat([components, heads]), answer, wrong)
    for label, expected in zip([*labels, *names], theirs, strict=True):
        if label.endswith("attn_out"):
            layer = label.split("_")[0]
            parts = [name for name in ours.writers if name.startswith(f"a{layer}.")]
            assert_close(sum((ours.of(part) for part in parts), torch.tensor(0.0)), expected)
        elif label.startswith("L"):
            layer, head = label[1:].split("H")
            assert_close(ours.of(f"a{layer}.h{head}"), expected)
        else:
            name = f"m{label.split('_')[0]}" if label.endswith("mlp_out") else label
            assert_close(ours.of(name), expected)
    right, other = (logits.gather(-1, x[..., None])[..., 0] for x in (answer, wrong))
    assert_close(ours.total, right - other)


@pytest.mark.parametrize("seed", [s for s in SEEDS if random_config(s).d_mlp][:5])
def test_logit_lens_is_the_accumulated_stream_through_norm_and_unembedding(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    model = to_bridge(params, config).eval()
    _, cache = model.run_with_cache(tokens)
    stream, labels = cache.accumulated_resid(incl_mid=True, apply_ln=True, return_labels=True)
    ours = logit_lens(params, tokens, config)
    assert len(labels) == len(ours.places)
    for theirs, logits in zip(stream, ours.logits, strict=True):
        assert_close(logits, model.unembed(theirs))
    whole = cache.logit_lens(positions=None, return_type="logits")
    assert_close(ours.logits[::2], whole.values)


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_patterns_are_those_of_the_bridge(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=2)
    _, cache = to_bridge(params, config).run_with_cache(tokens)
    patterns = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(config.n_layers)]
    expected = torch.stack([rearrange(x, "batch head q k -> head batch q k") for x in patterns])
    assert_close(read_attention(params, tokens, config).pattern, expected.flatten(0, 1))


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_qk_and_ov_tables_are_factored_matrices(seed: int) -> None:
    config = random_config(seed)
    params = random_params(config, seed)
    model = bridge(params, config)
    scales = None
    if config.normalization is not None:
        ones = torch.ones(config.n_layers, dtype=torch.float64)
        scales = LayerNormScales(attention=ones, final=ones[0])
    qk = (model.W_E @ model.QK @ model.W_E.T).AB.flatten(0, 1) / math.sqrt(config.d_head)
    assert_close(qk_circuit(params, config, scales=scales), qk)
    across = (model.W_E @ model.QK @ model.W_pos.T).AB.flatten(0, 1) / math.sqrt(config.d_head)
    assert_close(qk_circuit(params, config, key="position", scales=scales), across)
    ov = model.W_E @ model.OV @ model.W_U
    assert_close(ov_circuit(params, config, scales=scales), ov.AB.flatten(0, 1))


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_copying_scores_are_of_the_eigenvalues_of_a_factored_matrix(seed: int) -> None:
    config = replace(random_config(seed), d_vocab=7, d_vocab_out=7)
    params = random_params(config, seed)
    model = bridge(params, config)
    eigenvalues = (model.W_E @ model.OV @ model.W_U).eigenvalues
    expected = eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)
    ours = copying_scores(params, config, torch.Generator().manual_seed(0), n_draws=3)
    assert_close(ours.scores, expected.flatten())


@pytest.mark.parametrize("seed", DEEP)
def test_composition_scores_are_those_of_the_bridge(seed: int) -> None:
    config = random_config(seed)
    params = random_params(config, seed)
    model = bridge(params, config)
    ours = composition_scores(params, config, torch.Generator().manual_seed(0), n_draws=3)
    for letter, scores in zip(LETTERS, ours.scores, strict=True):
        theirs = model.all_composition_scores(letter).scores
        expected = rearrange(theirs, "layer head later reader -> (layer head) (later reader)")
        assert_close(scores, expected)


@pytest.mark.parametrize("seed", DEEP)
def test_folding_is_what_transformer_lens_does_by_default(seed: int) -> None:
    """It folds weights in float32, whose rounding of 6e-8 moves scores by some 4e-8."""
    config = replace(random_config(seed), normalization="LN")
    params = random_params(config, seed)
    model = to_bridge(params, config)
    model.enable_compatibility_mode()
    ours = composition_scores(params, config, torch.Generator().manual_seed(0), n_draws=3)
    for letter, scores in zip(LETTERS, ours.scores, strict=True):
        theirs = model.all_composition_scores(letter).scores
        expected = rearrange(theirs, "layer head later reader -> (layer head) (later reader)")
        assert_close(scores, expected, atol=1e-6)

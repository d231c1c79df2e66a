"""To TransformerLens and back: nothing lost, nothing disturbed, nothing misread."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from workbench.bridge import from_bridge, to_bridge
from workbench.errors import ConfigError, WeightsError
from workbench.model_config import ModelConfig
from workbench.params import stack
from workbench.transformer import forward

CONFIG = ModelConfig(
    n_layers=2, n_heads=2, d_model=8, d_head=3, d_mlp=16, d_vocab=7, d_vocab_out=5, n_ctx=4
)


def native(dtype: torch.dtype | None = None, **settings: Any) -> TransformerBridge:
    """A model as a TransformerLens user boots it, with random biases."""
    shape = {"d_model": 8, "d_head": 4, "n_heads": 2, "n_layers": 2, "n_ctx": 4, "d_vocab": 7}
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**(shape | {"d_mlp": 16, "seed": 0} | settings)), dtype=dtype
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=generator)
    return model


@pytest.mark.parametrize("seed", SEEDS)
def test_there_and_back(seed: int) -> None:
    config = random_config(seed)
    dtype = torch.float32 if seed % 5 == 0 else torch.float64
    if config.d_mlp == 0:  # a field that means nothing there; it returns as its default
        config = replace(config, mlp_biases=True)
    params = random_params(config, seed, dtype)
    back, its_config = from_bridge(to_bridge(params, config))
    assert its_config == config
    assert back.keys() == params.keys()
    for name, tensor in params.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], tensor)


def test_the_bridge_is_a_copy() -> None:
    params = random_params(CONFIG, 0)
    model = to_bridge(params, CONFIG)
    back, _ = from_bridge(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name, tensor in random_params(CONFIG, 0).items():
        assert torch.equal(params[name], tensor)
        assert torch.equal(back[name], tensor)


def test_nothing_global_changes(capfd: pytest.CaptureFixture[str]) -> None:
    """No random number drawn, no default dtype set, nothing printed (warnings are errors).

    Python's own generator is left out: beartype draws from it in every checked call.
    """
    params = random_params(CONFIG, 0)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    model = to_bridge(params, CONFIG)
    from_bridge(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.get_default_dtype() == torch.float32
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("rate", [0.0, 0.39])
def test_attention_rate_is_a_permanent_hook(rate: float, direction: str) -> None:
    config = replace(CONFIG, attention_rate=rate, attention_dir=direction)
    params, tokens = random_params(config, 0), random_tokens(config, 0, batch=5)
    model = to_bridge(params, config)
    logits = model(tokens)
    model.reset_hooks()
    assert torch.equal(model(tokens), logits)
    with model.hooks(fwd_hooks=[("hook_embed", lambda embed, hook: 2 * embed)]):
        assert not torch.allclose(model(tokens), logits)
    assert torch.equal(model(tokens), logits)
    model.reset_hooks(including_permanent=True)
    plain = forward(params, tokens, replace(config, attention_rate=1.0)).logits
    torch.testing.assert_close(model(tokens), plain, atol=1e-12, rtol=0)
    assert (plain - logits).abs().max() > 0.1


def test_processing_keeps_the_network_unless_it_folds_value_biases() -> None:
    """What the docstring of `to_bridge` warns of; 1e-5 because processing works in float32."""
    config = replace(CONFIG, attention_rate=0.39, attn_biases=True)
    params, tokens = random_params(config, 0), random_tokens(config, 0, batch=5)
    expected = forward(params, tokens, config).logits.log_softmax(-1)
    differences = []
    for fold in (False, True):
        model = to_bridge(params, config)
        model.enable_compatibility_mode(disable_warnings=True, fold_value_biases=fold)
        differences.append((model(tokens).log_softmax(-1) - expected).abs().max())
    assert differences[0] < 1e-5
    assert differences[1] > 0.01


@pytest.mark.parametrize("biases", [False, True])
def test_training_the_bridge_keeps_the_shape_of_the_network(biases: bool) -> None:
    config = replace(CONFIG, attn_biases=biases, mlp_biases=biases, unembed_bias=biases)
    params, tokens = random_params(config, 0), random_tokens(config, 0, batch=5)
    model = to_bridge(params, config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(tokens)[:, -1, 0].sum().backward()
    optimiser.step()
    trained, its_config = from_bridge(model)
    assert its_config == config
    assert all(not torch.equal(trained[name], params[name]) for name in params)


def test_unembedding_bias_is_trainable_there() -> None:
    config = replace(CONFIG, unembed_bias=True)
    model = to_bridge(random_params(config, 0), config)
    assert isinstance(model.unembed.b_U, torch.nn.Parameter)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalization_type": None, "act_fn": "gelu"},
        {"attn_only": True, "d_vocab_out": 3},
        {"attention_dir": "bidirectional", "d_head": 3, "dtype": torch.float64},
        {"n_key_value_heads": 2, "attn_scale": 2.0},
    ],
    ids=str,
)
def test_a_network_trained_there_comes_here(settings: dict[str, Any]) -> None:
    model = native(**settings)
    params, config = from_bridge(model)
    tokens = random_tokens(config, 0, batch=20)
    logits = forward(params, tokens, config).logits
    assert logits.dtype == settings.get("dtype", torch.float32)
    torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=0)  # float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gated_mlp": True}, "gated_mlp = True: our transformer has only False"),
        ({"normalization_type": "RMS"}, "normalization_type = 'RMS'.*only None or 'LN'"),
        ({"normalization_type": "LNPre"}, "normalization_type = 'LNPre'"),
        ({"positional_embedding_type": "rotary"}, "positional_embedding_type = 'rotary'"),
        ({"n_key_value_heads": 1}, "n_key_value_heads = 1"),
        ({"attn_scores_soft_cap": 5.0}, "attn_scores_soft_cap = 5.0"),
        ({"output_logits_soft_cap": 5.0}, "output_logits_soft_cap = 5.0"),
        ({"act_fn": "gelu_new"}, "act_fn = 'gelu_new'.*'relu' or 'gelu'"),
        ({"act_fn": "solu_ln"}, "act_fn = 'solu_ln'"),
        ({"final_rms": True}, "final_rms = True"),
        ({"attn_scale": 3.0}, "attn_scale = 3.0"),
        ({"eps": 1e-3}, "eps = 0.001"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_our_transformer_lacks_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_bridge(native(**settings))


def test_a_bridge_of_another_kind_is_refused() -> None:
    model = native()
    model.cfg.architecture = "LlamaForCausalLM"
    with pytest.raises(ConfigError, match=r"around LlamaForCausalLM.*boot_native"):
        from_bridge(model)


@pytest.mark.parametrize("permanent", [True, False])
def test_a_hook_that_changes_the_network_is_refused(permanent: bool) -> None:
    model = native()
    model.add_hook("blocks.1.hook_mlp_out", lambda out, hook: 0 * out, is_permanent=permanent)
    with pytest.raises(ConfigError, match=r"a hook at blocks.1.*reset_hooks"):
        from_bridge(model)


def test_a_rate_in_some_layers_only_is_refused() -> None:
    config = replace(CONFIG, attention_rate=0.39)
    model = to_bridge(random_params(config, 0), config)
    model.blocks[1].attn.hook_pattern.remove_hooks(including_permanent=True)
    with pytest.raises(ConfigError, match="a different attention_rate in each layer"):
        from_bridge(model)


def test_a_bridge_that_does_not_do_what_its_settings_say_is_refused() -> None:
    model = native()
    model.blocks[0].mlp.original_component.act = torch.tanh
    with pytest.raises(ConfigError, match="something else than its settings say"):
        from_bridge(model)


def test_weights_that_do_not_fit_are_refused() -> None:
    params = random_params(CONFIG, 0)
    with pytest.raises(WeightsError, match="got a stack; pick one of unstack"):
        to_bridge(stack([params, params]), CONFIG)
    with pytest.raises(WeightsError, match=r"missing.*ln_final"):
        to_bridge(params, replace(CONFIG, normalization="LN"))
    with pytest.raises(WeightsError, match=r"missing.*embed.W_E"):
        to_bridge({}, CONFIG)
    with pytest.raises(ConfigError, match="model n_layers = 0"):
        to_bridge(params, replace(CONFIG, n_layers=0))
    with pytest.raises(WeightsError, match=r"dtype torch.float16; convert to float32"):
        from_bridge(native(dtype=torch.float16))

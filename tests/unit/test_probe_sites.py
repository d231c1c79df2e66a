"""Where probes look, and what they read there."""

import re
from dataclasses import replace
from typing import Literal

import pytest
import torch

from probes import sites as sites_module
from probes.sites import (
    ProbeSite,
    make_sites,
    parse_site,
    read_activations,
    residual_hooks,
    width_of,
)
from tests.reference.networks import random_config, random_params, random_tokens
from workbench.errors import HookError, ProbeError, ResourceError
from workbench.intervene import has_heads
from workbench.model_config import ModelConfig
from workbench.transformer import forward, hook_names

CONFIG = ModelConfig(
    n_layers=2, n_heads=3, d_model=6, d_head=4, d_mlp=10, d_vocab=7, d_vocab_out=5, n_ctx=4
)


def at(hook: str, position: int, head: int | None = None) -> ProbeSite:
    return ProbeSite(hook=hook, position=position, head=head)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "site",
    [
        at("hook_embed", 0),
        at("blocks.0.hook_resid_post", 2),
        at("blocks.1.attn.hook_z", 3, 2),
        at("blocks.0.attn.hook_result", 0, 0),
    ],
)
def test_a_site_reads_back_from_its_text(site: ProbeSite) -> None:
    assert parse_site(str(site), CONFIG) == site
    assert parse_site(f"  {site} ", CONFIG) == site


def test_the_text_of_a_site() -> None:
    assert str(at("blocks.1.attn.hook_z", 3, 2)) == "blocks.1.attn.hook_z[2]@3"
    assert at("blocks.1.attn.hook_z", 3, 2).place == "blocks.1.attn.hook_z[2]"
    assert str(at("blocks.0.hook_resid_post", 2)) == "blocks.0.hook_resid_post@2"


def test_negative_positions_count_from_the_end() -> None:
    assert parse_site("hook_embed@-1", CONFIG) == at("hook_embed", 3)
    made = make_sites(CONFIG, hooks=["hook_embed"], positions=[-1, 3, -4, 1], n_pos=4)
    assert made == [at("hook_embed", 3), at("hook_embed", 0), at("hook_embed", 1)]
    # The inputs may be shorter than what the network could read.
    assert make_sites(CONFIG, hooks=["hook_embed"], positions=[-1], n_pos=3) == [
        at("hook_embed", 2)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks.0.hook_resid_post", "write it as 'blocks.0.hook_resid_post@2'"),
        ("blocks.0.hook_resid_post@two", "cannot read site"),
        ("", "cannot read site"),
        ("blocks.0.hook_resid_pots@1", "did you mean 'blocks.0.hook_resid_post'?"),
        ("blocks.2.hook_resid_post@1", "no hook 'blocks.2.hook_resid_post'"),
        ("hook_embed@4", "positions 0 to 3"),
        ("hook_embed@-5", "positions 0 to 3"),
        ("blocks.0.attn.hook_z@1", "it has 3 heads, name one as in blocks.0.attn.hook_z[0]@2"),
        ("blocks.0.attn.hook_z[3]@1", "it has 3 heads"),
        ("hook_embed[0]@1", "has no head axis; leave [0] out"),
        ("blocks.0.attn.hook_pattern[0]@1", "probe hook_z"),
        ("blocks.0.attn.hook_attn_scores[0]@1", "probe hook_z"),
    ],
)
def test_sites_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(HookError, match=re.escape(message)) as error:
        parse_site(text, CONFIG)
    assert "\n" not in str(error.value)


def test_residual_hooks_of_networks_with_and_without_mlps() -> None:
    assert residual_hooks(CONFIG) == [
        "blocks.0.hook_resid_pre",
        *("blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"),
        *("blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"),
    ]
    attention_only = ModelConfig(
        n_layers=2, n_heads=1, d_model=4, d_head=4, d_mlp=0, d_vocab=3, d_vocab_out=3, n_ctx=2
    )
    expected = [
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]
    assert residual_hooks(attention_only) == expected
    assert set(expected) <= set(hook_names(attention_only))


def test_every_head_of_a_hook_that_has_heads_is_a_site() -> None:
    made = make_sites(CONFIG, hooks=["blocks.0.attn.hook_z", "hook_embed"], positions=[0, 2])
    assert [str(site) for site in made] == [
        *(f"blocks.0.attn.hook_z[{head}]@{position}" for head in range(3) for position in (0, 2)),
        *("hook_embed@0", "hook_embed@2"),
    ]
    assert len(make_sites(CONFIG)) == 5 * 4


def test_a_site_of_an_intervention_is_the_same_place() -> None:
    site = at("blocks.1.attn.hook_z", 3, 2).intervention_site()
    assert (site.hook, site.positions, site.heads) == ("blocks.1.attn.hook_z", (3,), (2,))
    assert at("hook_embed", 0).intervention_site().heads is None


# ---------------------------------------------------------------------- reading


def readable(config: ModelConfig) -> list[str]:
    return [name for name in hook_names(config) if not name.endswith(("scores", "pattern"))]


@pytest.mark.parametrize("seed", range(4))
def test_activations_are_those_of_the_forward_pass(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=9)
    hooks = readable(config)
    tapped = forward(params, tokens, config, taps=hooks).activations
    # Two inputs at a time: 9 leave a last chunk of one.
    per_input = 4 * config.n_ctx * 9 * (config.d_model + config.d_mlp)
    for budget in (sites_module.READ_BYTES, 2 * per_input + 1, 1):
        monkeypatch.setattr(sites_module, "READ_BYTES", budget)
        for hook in hooks:
            sites = make_sites(config, hooks=[hook])[::-1]
            made = read_activations(params, tokens, config, sites)
            assert made.shape == (len(sites), 9, width_of(config, hook))
            for i, site in enumerate(sites):
                index = (site.position,) if site.head is None else (site.position, site.head)
                expected = tapped[hook][(slice(None), *index)]
                # Chunks of another size may be multiplied in another order: float64 rounding.
                torch.testing.assert_close(made[i], expected, atol=1e-12, rtol=1e-12)


def test_sites_of_several_hooks_of_one_width_keep_their_order() -> None:
    config = CONFIG
    params, tokens = random_params(config, 1), random_tokens(config, 1, batch=5)
    wide = [name for name in readable(config) if width_of(config, name) == config.d_model]
    sites = make_sites(config, hooks=wide)[::3]
    order = torch.randperm(len(sites), generator=torch.Generator().manual_seed(0)).tolist()
    together = read_activations(params, tokens, config, [sites[i] for i in order])
    assert any(has_heads(site.hook) for site in sites)
    for place, i in enumerate(order):
        alone = read_activations(params, tokens, config, [sites[i]])[0]
        torch.testing.assert_close(together[place], alone, atol=1e-12, rtol=0)  # rounding


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_activations_that_many_inputs_share_are_those_of_each_input(
    attention_dir: Literal["causal", "bidirectional"], n_layers: int
) -> None:
    config = replace(CONFIG, attention_dir=attention_dir, n_layers=n_layers)
    params, tokens = random_params(config, 3), random_tokens(config, 3, batch=60)
    tokens[:, 3] = 6  # one token for all
    wide = [name for name in readable(config) if width_of(config, name) == config.d_model]
    sites = make_sites(config, hooks=wide)
    found = read_activations(params, tokens, config, sites)
    taps = forward(params, tokens, config, taps=wide).activations
    for site, vectors in zip(sites, found, strict=True):
        there = taps[site.hook][:, site.position]
        wanted = there if site.head is None else there[:, site.head]
        torch.testing.assert_close(vectors, wanted, atol=1e-12, rtol=0)  # rounding


def test_activations_come_in_the_dtype_asked_for() -> None:
    params, tokens = random_params(CONFIG, 0, torch.float32), random_tokens(CONFIG, 0, batch=3)
    sites = make_sites(CONFIG, hooks=["blocks.0.hook_resid_post"])
    own = read_activations(params, tokens, CONFIG, sites)
    wide = read_activations(params, tokens, CONFIG, sites, dtype=torch.float64)
    assert (own.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert torch.equal(own.double(), wide)
    assert not wide.requires_grad


def test_sites_of_different_widths_are_read_apart() -> None:
    params, tokens = random_params(CONFIG, 0), random_tokens(CONFIG, 0, batch=3)
    sites = make_sites(CONFIG, hooks=["hook_embed", "blocks.0.mlp.hook_post"], positions=[0])
    for given, shown in ((sites, r"hook_embed@0 \(6\), .*hook_post@0 \(10\)"), ([], "none")):
        with pytest.raises(ProbeError, match=f"sites of one width go together, got {shown}"):
            read_activations(params, tokens, CONFIG, given)


def test_a_machine_without_memory_for_one_input_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sites_module, "forward", full)
    params, tokens = random_params(CONFIG, 0), random_tokens(CONFIG, 0, batch=3)
    with pytest.raises(ResourceError, match="one input does not fit"):
        read_activations(params, tokens, CONFIG, make_sites(CONFIG, hooks=["hook_embed"]))

"""Every sweep of TransformerLens that runs on a natively booted bridge, against ours.

float64 throughout (TransformerLens stores what it measures in the default dtype, so that is raised
as well); 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from transformer_lens import patching

from circuits.graph import Graph
from circuits.patching import sweep
from circuits.problem import Direction, Problem
from tests.reference.networks import random_config, random_params, random_tokens
from workbench.bridge import to_bridge
from workbench.metrics import Metric
from workbench.progress import finish

SWEEPS: dict[str, tuple[str, list[str] | None, str]] = {
    "resid_pre": ("resid_pre", None, "layer pos"),
    "resid_mid": ("resid_mid", None, "layer pos"),
    "attn_out": ("attn_out", None, "layer pos"),
    "mlp_out": ("mlp_out", None, "layer pos"),
    **{
        f"attn_head_{there}_by_pos": (here, ["position"], "layer pos head")
        for there, here in (("out", "head"), ("q", "head_q"), ("k", "head_k"), ("v", "head_v"))
    },
    "attn_head_pattern_by_pos": ("head_pattern", ["position"], "layer head pos"),
    **{
        f"attn_head_{there}_all_pos": (here, [], "layer head")
        for there, here in (("out", "head"), ("q", "head_q"), ("k", "head_k"), ("v", "head_v"))
    },
    "attn_head_pattern_all_pos": ("head_pattern", [], "layer head"),
}
"""By TransformerLens' name: our site, what it is split by, and the layout there.

Left out: `direct_path` and `direct_path_all_sources`, which refuse natively booted bridges, and
`attn_head_pattern_dest_src_pos`, single entries of the pattern, which is no sweep of ours.
"""
STACKS = {
    "block_every": ("resid_pre", "attn_out", "mlp_out"),
    "attn_head_by_pos_every": ("head", "head_q", "head_k", "head_v", "head_pattern"),
    "attn_head_all_pos_every": ("head", "head_q", "head_k", "head_v", "head_pattern"),
}
SEEING = (5, 9, 20, 7)
"""Networks with an MLP, several layers or heads, and attention that looks at its keys."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(seed: int, direction: Direction = "denoising") -> Problem:
    """A random network and pairs; the metric reads two positions and is no linear function."""
    config = random_config(seed)
    weights = torch.randn(2, config.d_vocab_out, generator=torch.Generator().manual_seed(seed))
    return Problem(
        params=random_params(config, seed),
        config=config,
        clean=random_tokens(config, seed, batch=3),
        corrupted=random_tokens(config, seed + 1, batch=3),
        metric=Metric(name="odd", function=lambda x: (x.tanh() * weights).sum((-1, -2))),
        positions=(config.n_ctx - 1, 0),
        graph=Graph(config),
        direction=direction,
    )


def theirs(function: Callable[..., Any], made: Problem) -> Tensor:
    """TransformerLens' effects: what it measured less the metric of the run that is patched."""
    model = to_bridge(made.params, made.config).eval()

    def metric(logits: Tensor) -> Tensor:
        return made.metric(logits[:, list(made.positions)]).mean()

    with torch.no_grad():
        _, cache = model.run_with_cache(made.other)
        measured: Tensor = function(model, made.base, cache, metric)
        return measured - metric(model(made.base))


def ours(made: Problem, site: str, by: list[str] | None, layout: str) -> Tensor:
    mean = finish(sweep(made, site, by=by)).mean
    axes = " ".join(axis for axis in ("layer", "head", "pos") if axis in layout.split())
    return rearrange(mean, f"{axes} -> {layout}")


def assert_close(ours: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-6  # something was patched
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


def test_the_table_names_every_sweep_of_the_installed_version() -> None:
    known = {name for name in dir(patching) if name.startswith("get_act_patch_")}
    left_out = {"direct_path", "direct_path_all_sources", "attn_head_pattern_dest_src_pos"}
    assert known == {f"get_act_patch_{name}" for name in {*SWEEPS, *STACKS, *left_out}}


def test_the_networks_cover_the_kinds() -> None:
    configs = [random_config(seed) for seed in SEEING]
    assert all(config.d_mlp and config.attention_rate for config in configs)
    kinds = {(config.normalization, config.attention_dir) for config in configs}
    assert kinds == {(norm, way) for norm in ("LN", None) for way in ("causal", "bidirectional")}


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("seed", SEEING[:3])
def test_a_sweep_is_transformer_lens_loop(seed: int, name: str) -> None:
    made = problem(seed, "denoising" if seed % 2 else "noising")
    expected = theirs(getattr(patching, f"get_act_patch_{name}"), made)
    assert_close(ours(made, *SWEEPS[name]), expected)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("seed", SEEING[3:4])
def test_the_sweeps_of_many_kinds(seed: int, name: str) -> None:
    made = problem(seed)
    expected = theirs(getattr(patching, f"get_act_patch_{name}"), made)
    by, layout = {
        "block_every": (None, "layer pos"),
        "attn_head_by_pos_every": (["position"], "layer pos head"),
        "attn_head_all_pos_every": ([], "layer head"),
    }[name]
    found = [ours(made, site, by, layout) for site in STACKS[name]]
    assert_close(torch.stack(found), expected)


@pytest.mark.parametrize("seed", SEEING[:2])
def test_an_edit_of_a_copy_at_resid_mid_reaches_the_mlp_alone(seed: int) -> None:
    """TransformerLens edits in place, so the stream changes too, unless gradients are tracked."""
    made = problem(seed)
    model = to_bridge(made.params, made.config).eval()
    with torch.no_grad():
        _, cache = model.run_with_cache(made.clean)

    def metric(logits: Tensor) -> Tensor:
        return made.metric(logits[:, list(made.positions)]).mean()

    with torch.enable_grad():
        measured = patching.get_act_patch_resid_mid(model, made.corrupted, cache, metric)
        base = metric(model(made.corrupted)).detach()
    assert_close(ours(made, "mlp_in", None, "layer pos"), measured - base)


def test_float32_agrees_to_five_digits() -> None:
    """The networks people have: 1e-5 is what single precision leaves of sums of order 1."""
    torch.set_default_dtype(torch.float32)
    made = problem(SEEING[0])
    weights = torch.randn(2, made.config.d_vocab_out, generator=torch.Generator().manual_seed(0))
    single = Problem(
        params={name: tensor.float() for name, tensor in made.params.items()},
        config=made.config,
        clean=made.clean,
        corrupted=made.corrupted,
        metric=Metric(name="odd", function=lambda x: (x.tanh() * weights).sum((-1, -2))),
        positions=made.positions,
        graph=made.graph,
        direction="denoising",
    )
    expected = theirs(patching.get_act_patch_attn_head_out_by_pos, single)
    found = ours(single, "head", ["position"], "layer pos head")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

"""Weights: how they begin, how they are stacked, and when they do not fit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.paper_networks import ONE_HEAD, REFERENCE, SMALL, numbers, one_head, random_params
from workbench.errors import WeightsError
from workbench.model_config import n_params, param_shapes
from workbench.params import Params, check_params, init_params, stack, unstack


def test_stack_and_unstack() -> None:
    networks = [random_params(SMALL, seed) for seed in range(3)]
    for own, back in zip(networks, unstack(stack(networks)), strict=True):
        assert own.keys() == back.keys()
        assert all(torch.equal(own[name], back[name]) for name in own)


def test_n_params_of_the_reference_network() -> None:
    assert n_params(REFERENCE) == 226_816


def test_init_statistics() -> None:
    """Mean and deviation within five standard errors; biases zero; LayerNorm the identity."""
    config = replace(REFERENCE, normalization="LN", attn_biases=True, unembed_bias=True)
    params = init_params(config, torch.Generator().manual_seed(0), scale=0.8)
    assert {name: tuple(p.shape) for name, p in params.items()} == param_shapes(config)
    std = 0.8 / math.sqrt(128)
    for name, parameter in params.items():
        assert parameter.dtype == torch.float32
        leaf = name.rsplit(".", 1)[1]
        if leaf == "w":
            assert (parameter == 1).all()
        elif leaf.startswith("b"):
            assert (parameter == 0).all()
        else:
            n = parameter.numel()
            assert abs(float(parameter.mean())) < 5 * std / math.sqrt(n), name
            assert abs(float(parameter.std()) / std - 1) < 5 / math.sqrt(2 * n), name


def test_a_seed_is_a_network() -> None:
    def draw(seed: int) -> Params:
        return init_params(SMALL, torch.Generator().manual_seed(seed))

    with torch.random.fork_rng(devices=[]):
        first = draw(3)
        torch.rand(7)  # moves the global generator, which must not matter
        state = torch.get_rng_state()
        again = draw(3)
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], draw(4)[name]) for name in first if ".W_" in name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed.W_E": None}, r"missing \['embed.W_E'\], unexpected none"),
        ({"ln_final.w": torch.ones(2)}, r"missing none, unexpected \['ln_final.w'\]"),
        ({"unembed.W_U": torch.zeros(2, 3)}, r"unembed.W_U: shape \[2, 3\], .* \[2, 2\]"),
        ({"unembed.W_U": torch.zeros(2, 2, dtype=torch.float16)}, "float16; convert to float32"),
        ({"unembed.W_U": torch.zeros(2, 2)}, "float32 beside torch.float64 of embed.W_E"),
        ({"unembed.W_U": numbers([1, math.nan], [0, 0])}, "unembed.W_U: NaN or Inf inside"),
        ({"unembed.W_U": numbers([1, math.inf], [0, 0])}, "unembed.W_U: NaN or Inf inside"),
    ],
)
def test_check_params(change: dict[str, Tensor | None], message: str) -> None:
    changed = {**one_head(), **change}
    params = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(WeightsError, match=message):
        check_params(params, ONE_HEAD)


def test_check_params_accepts_what_fits() -> None:
    check_params(one_head(), ONE_HEAD)
    check_params(init_params(REFERENCE, torch.Generator().manual_seed(0)), REFERENCE)

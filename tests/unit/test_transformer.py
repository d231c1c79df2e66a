"""The forward pass on networks small enough to work out by hand.

float64 throughout; 1e-12 covers the rounding of a logarithm, a square root and a few sums.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unit.paper_networks import (
    ONE_HEAD,
    SMALL,
    TOKENS,
    assert_close,
    numbers,
    one_head,
    random_params,
    zeros,
)
from workbench.errors import HookError, TaskError
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, stack
from workbench.transformer import forward, hook_names
from workbench.writers import residual_writers

# Each row: attention direction, rate, the pattern, and the head's z at both positions. Position 0
# asks nothing (query 0), so that its scores tie; position 1 has scores (ln 3, 0).
ON_PAPER = [
    ("causal", 1.0, [[1, 0], [3 / 4, 1 / 4]], [4, 5]),
    ("causal", 0.5, [[1, 0], [7 / 8, 5 / 8]], [4, 8.5]),
    ("causal", 0.0, [[1, 0], [1, 1]], [4, 12]),
    ("bidirectional", 1.0, [[1 / 2, 1 / 2], [3 / 4, 1 / 4]], [6, 5]),
    ("bidirectional", 0.5, [[3 / 4, 3 / 4], [7 / 8, 5 / 8]], [9, 8.5]),
]


@pytest.mark.parametrize("batch", [1, 3])  # 3 > d_vocab takes the table of the first block
@pytest.mark.parametrize(("direction", "rate", "pattern", "z"), ON_PAPER)
def test_one_head_on_paper(
    direction: str, rate: float, pattern: list[list[float]], z: list[float], batch: int
) -> None:
    config = replace(ONE_HEAD, attention_dir=direction, attention_rate=rate)
    tokens = TOKENS.expand(batch, 2)
    taps = ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_z", "blocks.0.hook_resid_post"]
    logits, activations = forward(one_head(), tokens, config, taps=taps)
    residual = numbers([1 + z[0], 2 * z[0]], [z[1], 1 + 2 * z[1]])
    for i in range(batch):
        assert_close(activations["blocks.0.attn.hook_pattern"][i, 0], numbers(*pattern))
        assert_close(activations["blocks.0.attn.hook_z"][i, :, 0, 0], numbers(*z))
        assert_close(activations["blocks.0.hook_resid_post"][i], residual)
        assert_close(logits[i], residual)


def test_scores_are_divided_by_the_root_of_d_head() -> None:
    config = replace(ONE_HEAD, d_head=4)
    params = zeros(config) | {
        "embed.W_E": numbers([1, 0], [0, 1]),
        "blocks.0.attn.W_Q": numbers([[0, 0, 0, 0], [1, 1, 0, 0]]),
        "blocks.0.attn.W_K": numbers([[6, 4, 9, 9], [2, 0, 9, 9]]),
    }
    hook = "blocks.0.attn.hook_attn_scores"
    scores = forward(params, TOKENS, config, taps=[hook]).activations[hook]
    assert_close(scores[0, 0], numbers([0, -math.inf], [10 / 2, 2 / 2]))


MLP = ModelConfig(
    n_layers=1, n_heads=1, d_model=2, d_head=1, d_mlp=3, d_vocab=2, d_vocab_out=2, n_ctx=1
)


def mlp() -> Params:
    """Token 0 is (1, -2); the head writes nothing."""
    return zeros(MLP) | {
        "embed.W_E": numbers([1, -2], [0, 0]),
        "blocks.0.mlp.W_in": numbers([1, 0, 2], [0, 1, 1]),
        "blocks.0.mlp.b_in": numbers(0, 1, 1),
        "blocks.0.mlp.W_out": numbers([2, 3], [5, 7], [1, -1]),
        "blocks.0.mlp.b_out": numbers(1, 1),
        "unembed.W_U": numbers([1, 1], [0, 1]),
    }


def test_relu_mlp_on_paper() -> None:
    taps = ["blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"]
    logits, activations = forward(mlp(), torch.tensor([[0]]), MLP, taps=taps)
    assert_close(activations["blocks.0.mlp.hook_pre"][0, 0], numbers(1, -1, 1))
    assert_close(activations["blocks.0.mlp.hook_post"][0, 0], numbers(1, 0, 1))
    assert_close(activations["blocks.0.hook_mlp_out"][0, 0], numbers(4, 3))
    assert_close(logits[0, 0], numbers(5, 6))  # residual (1 + 4, -2 + 3) = (5, 1)


def test_gelu_is_the_exact_one() -> None:
    hook = "blocks.0.mlp.hook_post"
    config = replace(MLP, act_fn="gelu")
    post = forward(mlp(), torch.tensor([[0]]), config, taps=[hook]).activations[hook]
    normal = [(1 + math.erf(x / math.sqrt(2))) / 2 for x in (1, -1, 1)]
    assert_close(post[0, 0], numbers(1 * normal[0], -1 * normal[1], 1 * normal[2]))


def test_layer_norm_on_paper() -> None:
    """(1, 3) has mean 2 and variance 1; eps = 1e-5 is added to it."""
    config = replace(ONE_HEAD, normalization="LN", n_ctx=1, unembed_bias=True)
    params = zeros(config) | {
        "embed.W_E": numbers([1, 3], [0, 0]),
        "ln_final.w": numbers(2, 1),
        "ln_final.b": numbers(0, 10),
        "unembed.W_U": numbers([1, 0], [0, 1]),
        "unembed.b_U": numbers(100, 0),
    }
    root = math.sqrt(1 + 1e-5)
    logits = forward(params, torch.tensor([[0]]), config).logits
    assert_close(logits[0, 0], numbers(100 - 2 / root, 10 + 1 / root))


def test_positions_are_embedded_from_the_start() -> None:
    config = replace(ONE_HEAD, n_ctx=3)
    params = zeros(config) | {
        "pos_embed.W_pos": numbers([1, 10], [2, 20], [3, 30]),
        "unembed.W_U": numbers([1, 0], [0, 1]),
    }
    for batch in (1, 3):
        tokens = TOKENS.expand(batch, 2)
        assert_close(forward(params, tokens, config).logits[0], numbers([1, 10], [2, 20]))
        last = forward(params, tokens, config, positions=[-1]).logits
        assert_close(last[0], numbers([2, 20]))


@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("positions", [[2], [0], [-1, 1], [3, 2, 1, 0], [1, 1, 1, 1]], ids=str)
def test_positions_select_logits(positions: list[int], n_layers: int, batch: int) -> None:
    config = replace(SMALL, n_layers=n_layers)
    params = random_params(config)
    tokens = torch.arange(4 * batch).reshape(batch, 4) * 3 % 5
    full = forward(params, tokens, config).logits
    some = forward(params, tokens, config, positions=positions).logits
    assert_close(some, full[:, positions])


def test_the_table_is_not_read_by_those_who_look_upstream() -> None:
    """An edit of one input's embedding changes that input alone, whatever the batch."""
    params, tokens = random_params(SMALL), torch.tensor([[0, 1, 2, 3]]).expand(9, 4)

    def edit(embed: Tensor) -> Tensor:
        return torch.cat([embed[:1] + 1, embed[1:]])

    clean = forward(params, tokens, SMALL).logits
    edited = forward(params, tokens, SMALL, edits={"hook_embed": edit}).logits
    assert_close(edited[1:], clean[1:])
    alone = forward(params, tokens[:1], SMALL, edits={"hook_embed": edit}).logits
    assert_close(edited[:1], alone)
    assert (edited[0] - clean[0]).abs().max() > 0.1


def zero_first_head(activation: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(activation[..., :1, :]), activation[..., 1:, :]], dim=-2)


def test_zeroing_what_a_head_writes_is_zeroing_its_z() -> None:
    params, tokens = random_params(SMALL), torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    by_hook = [
        forward(params, tokens, SMALL, edits={f"blocks.0.attn.{hook}": zero_first_head}).logits
        for hook in ("hook_z", "hook_result")
    ]
    assert_close(by_hook[0], by_hook[1])
    assert (by_hook[0] - forward(params, tokens, SMALL).logits).abs().max() > 0.01


def test_equal_scores_are_a_uniform_pattern() -> None:
    """Scores are edited after masking, so that an edit may show a query what was hidden."""
    params, tokens = random_params(SMALL), torch.tensor([[0, 1, 2, 3]])
    scores = forward(
        params, tokens, SMALL, edits={"blocks.0.attn.hook_attn_scores": torch.zeros_like}
    )
    pattern = forward(
        params,
        tokens,
        SMALL,
        edits={"blocks.0.attn.hook_pattern": lambda p: torch.full_like(p, 1 / 4)},
    )
    assert_close(scores.logits, pattern.logits)


@pytest.mark.parametrize("name", hook_names(SMALL))
def test_edits_act_before_taps(name: str) -> None:
    params, tokens = random_params(SMALL), torch.tensor([[0, 1, 2, 3]])
    tapped = forward(params, tokens, SMALL, taps=[name], edits={name: torch.ones_like})
    assert [*tapped.activations] == [name]
    assert torch.equal(tapped.activations[name], torch.ones_like(tapped.activations[name]))


def test_tapping_everything_changes_nothing() -> None:
    for n_layers, positions in ((1, None), (1, [2]), (2, None), (2, [2])):
        config = replace(SMALL, n_layers=n_layers)
        params, tokens = random_params(config), torch.arange(36).reshape(9, 4) % 5
        bare = forward(params, tokens, config, positions=positions).logits
        taps = hook_names(config)
        assert_close(forward(params, tokens, config, positions=positions, taps=taps).logits, bare)


def test_unknown_hook() -> None:
    wrong, message = "blocks.0.hook_resid_mud", r"no hook .* did you mean 'blocks.0.hook_resid_mid'"
    with pytest.raises(HookError, match=message):
        forward(random_params(SMALL), TOKENS, SMALL, taps=[wrong])
    with pytest.raises(HookError, match=message):
        forward(random_params(SMALL), TOKENS, SMALL, edits={wrong: torch.ones_like})


def test_attention_only_has_no_mlp_hooks() -> None:
    with pytest.raises(HookError, match=r"no hook 'blocks\.0\.hook_mlp_out'"):
        forward(one_head(), TOKENS, ONE_HEAD, taps=["blocks.0.hook_mlp_out"])


def test_an_edit_keeps_the_shape() -> None:
    edit: Callable[[Tensor], Tensor] = lambda z: z[..., 0]  # noqa: E731
    with pytest.raises(
        HookError,
        match=r"the edit at blocks\.0\.attn\.hook_z returned shape \[1, 2, 1\], "
        r"it must keep \[1, 2, 1, 1\]",
    ):
        forward(one_head(), TOKENS, ONE_HEAD, edits={"blocks.0.attn.hook_z": edit})


@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_without_an_embedding(batch: int) -> None:
    """At a large batch a wrong token would otherwise read another position's row."""
    for wrong, message in ((2, "tokens from 0 to 2.* 0 to 1"), (-1, "tokens from -1 to 0")):
        tokens = torch.tensor([[0, wrong]]).expand(batch, 2)
        with pytest.raises(TaskError, match=message):
            forward(one_head(), tokens, ONE_HEAD)
    with pytest.raises(TaskError, match=r"inputs of 3 tokens.*n_ctx = 2"):
        forward(one_head(), torch.zeros(batch, 3, dtype=torch.long), ONE_HEAD)


def test_residual_writers_on_paper() -> None:
    config = replace(ONE_HEAD, attn_biases=True)
    params = zeros(config) | one_head() | {"blocks.0.attn.b_O": numbers(7, 0)}
    params["pos_embed.W_pos"] = numbers([0, 1], [0, 2])
    params["blocks.0.attn.W_K"] = torch.zeros_like(params["blocks.0.attn.W_K"])
    # residuals (1, 1) and (0, 3): values 12 and 24; a uniform pattern sees 12 and 18
    names, written = residual_writers(params, TOKENS, config)
    assert names == ["embed", "pos_embed", "a0.h0", "a0.bias"]
    assert_close(written[:, 0, 0], numbers([1, 0], [0, 1], [12, 24], [7, 0]))
    assert_close(written[:, 0, 1], numbers([0, 1], [0, 2], [18, 36], [7, 0]))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("attention_rate", [1.0, 0.4])
def test_one_question_for_all_inputs_is_the_general_pass(
    stacked: bool, attention_rate: float
) -> None:
    """Scores tabulated per key (every input ends in the same token) are the scores computed."""
    config = ModelConfig(
        n_layers=1, n_heads=3, d_model=12, d_head=4, d_mlp=8, d_vocab=6, d_vocab_out=6, n_ctx=3,
        attn_biases=True, attention_rate=attention_rate,
    )  # fmt: skip
    networks = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        shapes = param_shapes(config).items()
        networks.append(
            {name: torch.randn(shape, generator=generator).double() for name, shape in shapes}
        )
    params = stack(networks) if stacked else networks[0]
    for tensor in params.values():
        tensor.requires_grad_()
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    tokens = torch.cat([pairs, torch.full((25, 1), 5)], dim=1)
    lean = forward(params, tokens, config, positions=[2])
    watched = forward(params, tokens, config, positions=[2], taps=["blocks.0.attn.hook_q"])
    plain = forward(params, tokens[:5], config)  # a batch too small for tables
    torch.testing.assert_close(lean.logits, watched.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        lean.logits[..., :5, :, :], plain.logits[..., 2:, :], atol=1e-12, rtol=0
    )
    weight = torch.randn(lean.logits.shape, generator=torch.Generator().manual_seed(2)).double()
    for output in (lean, watched):
        (output.logits * weight).sum().backward()
    gradients = [tensor.grad for tensor in params.values()]
    for tensor in params.values():
        tensor.grad = None
    (forward(params, tokens, config, positions=[2]).logits * weight).sum().backward()
    for twice, tensor in zip(gradients, params.values(), strict=True):
        assert twice is not None and tensor.grad is not None
        torch.testing.assert_close(twice, 2 * tensor.grad, atol=1e-10, rtol=0)
    assert lean.logits.shape[-3:] == (25, 1, 6)

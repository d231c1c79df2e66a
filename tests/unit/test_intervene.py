"""Many cells at once against one edited forward pass per cell, and what must be refused.

float64; both sides do the same sums in another order, so 1e-12 covers logits of order 1.
"""

import json
import random

import pytest
import torch
from torch import Tensor

from tests.intervention_oracle import intervene_slowly
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from workbench import patched_forward
from workbench.errors import ConfigError, HookError, PairError
from workbench.intervene import (
    Affine,
    Cell,
    Function,
    Intervention,
    Mean,
    MeanPositional,
    OtherInput,
    Resample,
    Site,
    Source,
    Value,
    Zero,
    has_heads,
    intervene,
    intervene_in_chunks,
    intervention_from_dict,
    last_axis,
)
from workbench.model_config import ModelConfig
from workbench.transformer import forward, hook_names

BATCH = 3


def assert_close(ours: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


def random_site(config: ModelConfig, hook: str, draw: random.Random) -> Site:
    positions = draw.choice([None, (draw.randrange(config.n_ctx),), (0, -1)])
    if positions == (0, -1) and draw.random() < 0.5:
        positions = tuple(draw.sample(range(config.n_ctx), 2))
    heads = neurons = subspace = None
    if has_heads(hook):
        heads = draw.choice([None, tuple(draw.sample(range(config.n_heads), 1))])
    elif ".mlp." in hook:
        neurons = draw.choice([None, (0, 3)])
    length = last_axis(config, hook)
    if length is not None and length > 1 and neurons is None and draw.random() < 0.3:
        generator = torch.Generator().manual_seed(draw.randrange(1000))
        square = torch.randn(length, length // 2, generator=generator, dtype=torch.float64)
        subspace = torch.linalg.qr(square).Q.T
    return Site(hook=hook, positions=positions, heads=heads, neurons=neurons, subspace=subspace)


def random_source(hook: str, draw: random.Random) -> Source:
    sources: list[Source] = [OtherInput(), Zero(), MeanPositional(), Resample(draw.randrange(9))]
    sources += [Value(torch.tensor(0.3)), Function(lambda x: 2 * x + x.flip(0))]
    if not hook.endswith(("attn_scores", "pattern")):
        sources.append(Mean())
    else:
        sources = [s for s in sources if not isinstance(s, Zero | Function)]  # -inf * 0 is NaN
    return draw.choice(sources)


def random_cells(config: ModelConfig, seed: int) -> list[Cell]:
    """Every hook alone, and mixtures of two and three, the same hook twice included."""
    draw = random.Random(seed)
    names = hook_names(config)
    if config.attention_dir == "causal":  # -inf minus -inf: nothing sensible to compare
        names = [name for name in names if not name.endswith("attn_scores")]

    def made(hook: str) -> Intervention:
        return Intervention(site=random_site(config, hook, draw), source=random_source(hook, draw))

    cells: list[Cell] = [(made(name),) for name in names]
    cells += [tuple(made(draw.choice(names)) for _ in range(draw.choice([2, 3]))) for _ in names]
    cells += [(made(name), made(name)) for name in draw.sample(names, 3)]
    return [*cells, ()]


@pytest.mark.parametrize("seed", SEEDS[:14])
def test_many_cells_are_as_one_edited_forward_each(seed: int) -> None:
    config = random_config(seed)
    params = random_params(config, seed)
    tokens, other, reference = (
        random_tokens(config, 10 * seed + i, batch=n) for i, n in enumerate((BATCH, BATCH, 5))
    )
    cells = random_cells(config, seed)
    expected = intervene_slowly(params, tokens, config, cells, other=other, reference=reference)
    together = intervene(params, tokens, config, cells, other=other, reference=reference)
    assert_close(together, expected)
    positions = [config.n_ctx - 1, 0]
    for budget in (1,) if seed < 4 else (20_000,):  # one cell at a time, or a few
        some = intervene(
            *(params, tokens, config, cells),
            other=other,
            reference=reference,
            positions=positions,
            budget=budget,
        )
        assert_close(some, expected[:, :, positions])


def test_chunks_say_which_cells_they_hold_and_stay_within_the_budget() -> None:
    config = random_config(0)
    params, tokens = random_params(config, 0), random_tokens(config, 0, batch=2)
    cells: list[Cell] = [
        (Intervention(site=Site(hook=hook), source=Zero()),) for hook in hook_names(config)[:6]
    ]
    chunks = list(intervene_in_chunks(params, tokens, config, cells, budget=1))
    assert sorted(cell for chunk in chunks for cell in chunk.cells) == list(range(6))
    assert all(len(chunk.cells) == 1 for chunk in chunks)


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_mid", "blocks.0.attn.hook_z"])
def test_an_affine_map_is_the_function_that_it_says(hook: str) -> None:
    config = random_config(1)
    params, tokens = random_params(config, 1), random_tokens(config, 1, batch=3)
    generator = torch.Generator().manual_seed(0)
    width = last_axis(config, hook)
    assert width is not None
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    offset = torch.randn(width, generator=generator, dtype=torch.float64)
    site = Site(hook=hook, positions=(1,), heads=(0,) if has_heads(hook) else None)
    maps = [Affine(matrix, offset), Affine(None, offset)]
    functions = [Function(lambda x: x @ matrix + offset), Function(lambda x: x + offset)]
    cells: list[Cell] = [(Intervention(site=site, source=source),) for source in maps]
    slow: list[Cell] = [(Intervention(site=site, source=source),) for source in functions]
    assert_close(
        intervene(params, tokens, config, cells), intervene_slowly(params, tokens, config, slow)
    )


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (Affine(torch.eye(3), torch.zeros(3)), "holds"),
        (Affine(None, torch.zeros(3)), "holds"),
        (Affine(None, torch.full((8,), torch.nan)), "NaN"),
    ],
)
def test_an_affine_map_that_cannot_be(source: Source, match: str) -> None:
    config = ModelConfig(
        n_layers=1, n_heads=2, d_model=8, d_head=4, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=3
    )
    params, tokens = random_params(config, 0), random_tokens(config, 0, batch=2)
    cell = (Intervention(site=Site(hook="blocks.0.hook_resid_mid"), source=source),)
    with pytest.raises(HookError, match=match):
        intervene(params, tokens, config, [cell])


def test_gradients_flow_to_values_and_parameters() -> None:
    """d logits / d value, against finite differences of the slow way."""
    config = random_config(1)
    params, tokens = random_params(config, 1), random_tokens(config, 1, batch=2)
    site = Site(hook="blocks.0.hook_attn_out", positions=(0,))
    value = torch.linspace(-1, 1, config.d_model).double().requires_grad_()
    cells: list[Cell] = [(Intervention(site=site, source=Value(value)),)]
    logits = intervene(params, tokens, config, cells, gradients=True)
    (gradient,) = torch.autograd.grad(logits.square().sum(), value)
    step = 1e-6
    for i in range(config.d_model):
        ends = []
        for sign in (1, -1):
            moved = value.detach().clone()
            moved[i] += sign * step
            cell = (Intervention(site=site, source=Value(moved)),)
            ends.append(intervene_slowly(params, tokens, config, [cell]).square().sum())
        # Central differences: error of order step^2, and rounding / step = 1e-9.
        torch.testing.assert_close(gradient[i], (ends[0] - ends[1]) / (2 * step), atol=1e-6, rtol=0)
    assert not intervene(params, tokens, config, cells).requires_grad


def test_an_intervention_is_json_and_back() -> None:
    basis = torch.eye(4, dtype=torch.float64)[:2]
    sources: list[Source] = [OtherInput(), Zero(), Mean(), MeanPositional(), Resample(7)]
    sources.append(Value(torch.tensor([1.0, 2.0], dtype=torch.float64)))
    sources.append(Affine(torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)))
    sources.append(Affine(None, torch.ones(2, dtype=torch.float64)))
    for source in sources:
        site = Site(hook="blocks.0.attn.hook_z", positions=(0, -1), heads=(1,), subspace=basis)
        text = json.dumps(Intervention(site=site, source=source).to_dict())
        back = intervention_from_dict(json.loads(text))
        assert json.dumps(back.to_dict()) == text
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        made = Intervention(site=Site(hook="hook_embed"), source=Function(lambda x: x))
        made.to_dict()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({}, "intervention site = None"),
        ({"site": {"hook": "hook_embed"}}, "intervention source = None"),
        ({"site": {}, "source": {"kind": "zero"}}, "site hook = None"),
        ({"site": {"hook": "x"}, "source": {"kind": "zer"}}, "did you mean 'zero'"),
        ({"site": {"hook": "x"}, "source": {"kind": "zero", "seed": 1}}, "no source zero key"),
        ({"site": {"hook": "x", "head": [1]}, "source": {"kind": "zero"}}, "did you mean 'heads'"),
        ({"site": {"hook": "x", "heads": [1.5]}, "source": {"kind": "zero"}}, "whole numbers"),
        ({"site": {"hook": "x"}, "source": {"kind": "value", "value": "a"}}, "numbers in lists"),
        ({"site": {"hook": "x"}, "source": {"kind": "resample", "seed": "1"}}, "whole number"),
    ],
)
def test_json_that_is_no_intervention(data: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        intervention_from_dict(data)


CONFIG = ModelConfig(
    n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=8, d_vocab=5, d_vocab_out=5, n_ctx=3
)
Z = "blocks.0.attn.hook_z"


@pytest.mark.parametrize(
    ("site", "match"),
    [
        (Site(hook="blocks.0.attn.hook_zz"), "did you mean 'blocks.0.attn.hook_z'"),
        (Site(hook="blocks.1.attn.hook_z"), "no hook"),
        (Site(hook=Z, positions=(3,)), "position 3 .* there are 3"),
        (Site(hook=Z, positions=(-4,)), "position -4"),
        (Site(hook=Z, positions=()), "position"),
        (Site(hook=Z, heads=(2,)), "head 2"),
        (Site(hook="blocks.0.hook_resid_pre", heads=(0,)), "has no head axis"),
        (Site(hook=Z, neurons=(0,)), "has no neuron axis"),
        (Site(hook="blocks.0.mlp.hook_post", neurons=(8,)), "neuron 8"),
        (Site(hook=Z, subspace=torch.ones(1, 2)), "not orthonormal"),
        (Site(hook=Z, subspace=torch.eye(4)), "rows of 2"),
        (Site(hook="blocks.0.attn.hook_pattern", subspace=torch.eye(3)), "whole feature axis"),
    ],
)
def test_sites_that_do_not_exist(site: Site, match: str) -> None:
    cells: list[Cell] = [(Intervention(site=site, source=Zero()),)]
    tokens = torch.tensor([[0, 1, 2]])
    with pytest.raises(HookError, match=match):
        intervene(random_params(CONFIG, 0), tokens, CONFIG, cells)


def test_inputs_that_do_not_go_together() -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    cells: list[Cell] = [(Intervention(site=Site(hook=Z), source=OtherInput()),)]
    with pytest.raises(PairError, match="pass other="):
        intervene(params, tokens, CONFIG, cells)
    with pytest.raises(PairError, match="one length"):
        intervene(params, tokens, CONFIG, cells, other=tokens[:, :2])
    with pytest.raises(PairError, match="one length"):
        intervene(params, tokens, CONFIG, cells, other=tokens.expand(2, 3))
    with pytest.raises(HookError, match="no cells"):
        intervene(params, tokens, CONFIG, [])


@pytest.mark.parametrize("positions", [[3], [0, -4], []])
def test_positions_that_inputs_do_not_have(positions: list[int]) -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    with pytest.raises(HookError, match=r"at position .*; the inputs have positions 0 to 2$"):
        intervene(params, tokens, CONFIG, [()], positions=positions)


def test_no_inputs_and_no_budget() -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    with pytest.raises(PairError, match=r"no inputs, got \[0, 3\]"):
        intervene(params, tokens[:0], CONFIG, [()])
    for source in (Mean(), MeanPositional(), Resample()):
        cells: list[Cell] = [(Intervention(site=Site(hook=Z), source=source),)]
        with pytest.raises(PairError, match=r"no reference inputs, got \[0, 3\]"):
            intervene(params, tokens, CONFIG, cells, reference=tokens[:0])
    for budget in (0, -5):
        with pytest.raises(ConfigError, match=f"budget = {budget}: give at least 1 byte"):
            intervene(params, tokens, CONFIG, [()], budget=budget)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_no_numbers(number: float) -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    value = Value(torch.tensor([0.5, number]))
    with pytest.raises(HookError, match=r"for blocks.0.attn.hook_z .* 1 of 2 places"):
        intervene(params, tokens, CONFIG, [(Intervention(site=Site(hook=Z), source=value),)])


def test_a_score_of_minus_infinity_hides_a_key() -> None:
    """Query 2 sees key 0 alone: its pattern is 1 there."""
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    scores, pattern = (
        (Intervention(site=Site(hook=f"blocks.0.attn.{hook}", positions=(2,)), source=source),)
        for hook, source in (
            ("hook_attn_scores", Value(torch.tensor([0.7, -torch.inf, -torch.inf]))),
            ("hook_pattern", Value(torch.tensor([1.0, 0.0, 0.0]))),
        )
    )
    logits = intervene(params, tokens, CONFIG, [scores, pattern, ()])
    assert_close(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_a_value_of_the_wrong_shape() -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    site = Site(hook=Z, heads=(0,))
    with pytest.raises(HookError, match="the site holds"):
        intervene(
            *(params, tokens, CONFIG),
            [(Intervention(site=site, source=Value(torch.ones(7))),)],
        )
    with pytest.raises(HookError, match="keys differ by position"):
        pattern = Site(hook="blocks.0.attn.hook_pattern")
        intervene(params, tokens, CONFIG, [(Intervention(site=pattern, source=Mean()),)])


def test_patching_in_what_is_already_there_changes_nothing() -> None:
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2], [3, 4, 0]])
    cells: list[Cell] = [
        (Intervention(site=Site(hook=hook), source=OtherInput()),) for hook in hook_names(CONFIG)
    ]
    logits = intervene(params, tokens, CONFIG, cells, other=tokens)
    plain = forward(params, tokens, CONFIG).logits
    assert_close(logits, plain.expand_as(logits))


def test_a_hook_that_never_fires_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mistake of ours would have it: a block that does not pass one of its hooks."""
    block = patched_forward._Chunk._mlp

    def without_mlp_pre(self: object, layer: int, read: object) -> object:
        self.plan, plan = {}, self.plan  # type: ignore[attr-defined]
        written = block(self, layer, read)  # type: ignore[arg-type]
        self.plan = plan  # type: ignore[attr-defined]
        return written

    monkeypatch.setattr(patched_forward._Chunk, "_mlp", without_mlp_pre)
    params, tokens = random_params(CONFIG, 0), torch.tensor([[0, 1, 2]])
    cells: list[Cell] = [
        (Intervention(site=Site(hook="blocks.0.mlp.hook_pre"), source=Zero()),),
    ]
    with pytest.raises(HookError, match=r"came by blocks\.0\.mlp\.hook_pre"):
        intervene(params, tokens, CONFIG, cells)

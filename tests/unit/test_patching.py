"""Sweeps against one edited forward pass per cell, and what must be refused.

float64; both sides do the same sums in another order, so 1e-12 covers logits of order 1.
"""

import csv
import io
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.graph import Graph
from circuits.patching import Sweep, strongest, sweep
from circuits.problem import ABLATIONS, Ablation, Direction, Problem
from circuits.sweep_sites import SITES
from tests.reference.networks import random_params, random_tokens
from workbench.errors import CircuitError, HookError, MetricError
from workbench.metrics import Metric
from workbench.model_config import ModelConfig
from workbench.progress import finish
from workbench.transformer import Edit, forward

CONFIG = ModelConfig(
    n_layers=2,
    n_heads=2,
    d_model=6,
    d_head=3,
    d_mlp=3,
    d_vocab=7,
    d_vocab_out=4,
    n_ctx=3,
    normalization="LN",
)


def problem(batch: int = 2, config: ModelConfig = CONFIG) -> Problem:
    return Problem(
        params=random_params(config, 0),
        config=config,
        clean=random_tokens(config, 1, batch=batch),
        corrupted=random_tokens(config, 2, batch=batch),
        metric=Metric(name="difference", function=lambda x: x[..., 0, 1] - x[..., 0, 2]),
        positions=(2,),
        graph=Graph(config),
    )


def what_is_put(made: Problem, hook: str) -> Tensor:
    tokens = made.other if made.reference is None else made.reference
    read = forward(made.params, tokens, made.config, taps=[hook]).activations[hook]
    if made.ablation == "resample":
        return read
    if made.ablation == "zero":
        return torch.zeros((), dtype=read.dtype)
    mean = read.mean(0, keepdim=True)
    return mean.mean(1, keepdim=True) if made.ablation == "mean" else mean


def slowly(made: Problem, hook: str, put: Tensor, chosen: tuple[Any, ...]) -> Tensor:
    """m(patched) - m(base) of one cell: the activation at `[batch, ...]` indices replaced."""

    def edit(held: Tensor) -> Tensor:
        changed = held.clone()
        changed[:, *chosen] = put.expand_as(held)[:, *chosen]
        return changed

    edits: dict[str, Edit] = {hook: edit}
    logits = forward(made.params, made.base, made.config, edits=edits).logits
    return made.metric(logits[:, list(made.positions)]) - made.base_metric


ALL = slice(None)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_site_is_one_edited_forward_per_cell(ablation: Ablation) -> None:
    direction: Direction = "noising" if ablation in ("zero", "mean") else "denoising"
    reference = random_tokens(CONFIG, 3, batch=5)
    made = replace(problem(), ablation=ablation, direction=direction, reference=reference)
    if ablation == "resample":
        made = replace(made, reference=None)
    for name, place in SITES.items():
        if name == "head_pattern" and ablation == "mean":
            continue  # keys differ by position; refused below
        hooks = [f"blocks.{layer}.{place.hook}" for layer in range(CONFIG.n_layers)]
        puts = [what_is_put(made, hook) for hook in hooks]
        by = [] if ablation == "zero" else ["position"]
        found = finish(sweep(made, name, by=by))
        assert found.axes == (*place.own, *by)
        for index in itertools.product(*found.labels):
            at = dict(zip(found.axes, index, strict=True))
            pos = at.get("position", ALL)
            feature = [at[axis] for axis in ("head", "neuron") if axis in at]
            chosen = (*feature, pos) if name == "head_pattern" else (pos, *feature)
            expected = slowly(made, hooks[at["layer"]], puts[at["layer"]], chosen)
            torch.testing.assert_close(found.effects[index], expected, atol=1e-12, rtol=0)


def test_axes_have_an_order_and_sites_a_usual_split() -> None:
    found = finish(sweep(problem(), "head", by=["position", "layer"]))
    assert found.axes == ("layer", "head", "position")
    assert found.labels == ((0, 1), (0, 1), (0, 1, 2))
    assert found.effects.shape == (2, 2, 3, 2) and found.n == 2
    assert finish(sweep(problem(), "resid_post")).axes == ("layer", "position")
    assert finish(sweep(problem(), "head_k")).axes == ("layer", "head")
    assert finish(sweep(problem(), "neuron")).axes == ("layer", "neuron")


def test_the_whole_residual_stream_is_the_other_run() -> None:
    made = problem(batch=1)
    found = finish(sweep(made, "resid_post", by=[]))
    gap = made.other_metric - made.base_metric
    torch.testing.assert_close(found.effects, gap.expand(2, -1), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.normalised(), torch.ones(2).double(), atol=1e-12, rtol=0)


def test_equal_inputs_have_no_effects_and_no_normalised_ones() -> None:
    made = problem()
    found = finish(sweep(replace(made, corrupted=made.clean), "head", by=["position"]))
    torch.testing.assert_close(found.effects, torch.zeros(2, 2, 3, 2).double(), atol=1e-12, rtol=0)
    with pytest.raises(CircuitError, match=r"same on both inputs .* undefined; use effects"):
        found.normalised()
    assert found.to_dict()["rows"][0]["normalised"] is None


def test_a_position_that_nobody_reads_has_exactly_no_effect() -> None:
    """Under a causal mask the answer at position 0 cannot see what comes later."""
    made = replace(problem(), positions=(0,))
    for budget in (None, 1):
        found = finish(sweep(made, "resid_pre", budget=budget))
        assert (found.effects[:, 1:] == 0).all() and (found.effects[:, 0] != 0).all()
        assert (found.p_values()[:, 1:] == 1).all()


def test_small_chunks_change_nothing_and_progress_counts_cells() -> None:
    made = problem()
    steps = sweep(made, "head", by=["position"], budget=1)
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            found = end.value
            break
    assert [progress.done for progress in seen] == list(range(1, 14))  # 12 cells, and none
    assert {progress.total for progress in seen} == {13}
    together = finish(sweep(made, "head", by=["position"]))
    torch.testing.assert_close(found.effects, together.effects, atol=1e-12, rtol=0)


def made_up(effects: list[list[float]], base: list[float], other: list[float]) -> Sweep:
    double = torch.float64
    return Sweep(
        site="head",
        axes=("layer", "head"),
        labels=((0,), tuple(range(len(effects)))),
        effects=torch.tensor([effects], dtype=double),
        base_metric=torch.tensor(base, dtype=double),
        other_metric=torch.tensor(other, dtype=double),
        metric="logit_difference",
        ablation="resample",
        direction="denoising",
    )


def test_normalised_effects_are_a_ratio_of_means() -> None:
    """Means 2 and -1 over a mean gap of ((3 - 1) + (6 - 0)) / 2 = 4."""
    found = made_up([[1.0, 3.0], [0.0, -2.0]], base=[1.0, 0.0], other=[3.0, 6.0])
    assert found.normalised().tolist() == [[0.5, -0.25]]


def test_a_gap_that_may_be_zero_is_not_divided_by() -> None:
    mixed = made_up([[1.0, 1.0, 1.0]], base=[0.0, 0.0, 0.0], other=[2.0, -1.0, 0.5])
    with pytest.raises(CircuitError, match=r"mean gap .* 0.5 \[.*over 3 pairs and cannot be told"):
        mixed.normalised()
    rounding = made_up([[1.0]], base=[1e3], other=[1e3 + 1e-12])
    with pytest.raises(CircuitError, match="the same on both inputs"):
        rounding.normalised()


def test_one_pair_has_no_interval() -> None:
    found = made_up([[2.0], [0.0]], base=[0.0], other=[4.0])
    assert found.interval() is None
    assert found.p_values().tolist() == [[1.0, 1.0]]  # both signs give a mean of the same size
    row = found.to_dict()["rows"][0]
    assert (row["low"], row["high"], row["normalised"]) == (None, None, 0.5)


def test_rows_as_json_and_csv() -> None:
    found = made_up([[1.0, 2.0, 3.0, 2.0], [0.0] * 4], base=[0.0] * 4, other=[4.0] * 4)
    told = json.loads(json.dumps(found.to_dict(seed=5)))
    assert told["site"] == "head" and told["axes"] == ["layer", "head"] and told["n"] == 4
    assert (told["ablation"], told["direction"], told["seed"]) == ("resample", "denoising", 5)
    assert (told["base_metric"], told["other_metric"]) == (0.0, 4.0)
    first, second = told["rows"]
    assert (first["layer"], first["head"], first["effect"], first["normalised"]) == (0, 0, 2.0, 0.5)
    # All four of one sign: 2 of the 16 sign patterns reach the sum. Two cells, one at p = 1.
    assert (first["p"], first["q"]) == (2 / 16, 4 / 16)
    assert 1.0 <= first["low"] < 2.0 < first["high"] <= 3.0
    assert (second["low"], second["high"], second["p"], second["q"]) == (0.0, 0.0, 1.0, 1.0)
    rows = list(csv.DictReader(io.StringIO(found.to_csv(seed=5))))
    assert [row["head"] for row in rows] == ["0", "1"]
    assert [float(row["high"]) for row in rows] == [first["high"], 0.0]
    single = made_up([[2.0]], base=[0.0], other=[4.0])
    assert next(csv.DictReader(io.StringIO(single.to_csv())))["low"] == ""


@pytest.mark.parametrize(
    ("site", "by", "match"),
    [
        ("heads", None, "no site 'heads'; did you mean 'head'"),
        ("head", ["pos"], "no axis of site head 'pos'; did you mean 'position'"),
        ("head", ["neuron"], "no axis of site head 'neuron'"),
        ("resid_pre", ["head"], "no axis of site resid_pre 'head'"),
    ],
)
def test_sites_and_axes_that_do_not_exist(site: str, by: list[str] | None, match: str) -> None:
    with pytest.raises(CircuitError, match=match):
        finish(sweep(problem(), site, by=by))


def test_what_a_network_without_mlps_lacks() -> None:
    made = problem(config=replace(CONFIG, d_mlp=0))
    for site in ("neuron", "mlp_out", "resid_mid"):
        with pytest.raises(CircuitError, match=f"site {site} needs an MLP"):
            finish(sweep(made, site))
    with pytest.raises(CircuitError, match="no site 'mlp'"):
        finish(sweep(made, "mlp"))


def test_a_mean_over_positions_has_no_meaning_for_patterns() -> None:
    with pytest.raises(HookError, match="use the positional mean"):
        finish(sweep(replace(problem(), ablation="mean"), "head_pattern"))


def test_a_metric_that_is_not_a_number() -> None:
    made = replace(problem(), metric=Metric(name="odd", function=lambda x: x.sum((-1, -2)) / 0 * 0))
    with pytest.raises(MetricError, match="NaN"):
        finish(sweep(made, "head"))


def of(effects: Tensor) -> Sweep:
    """A sweep of heads with these effects, `[head, pair]`."""
    n = effects.shape[-1]
    return made_up(effects.tolist(), base=[0.0] * n, other=[4.0] * n)


def drawn(means: list[float], n: int, seed: int, *, noise: float = 1.0) -> Sweep:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(len(means), n, generator=generator, dtype=torch.float64)
    return of(torch.tensor(means, dtype=torch.float64)[:, None] + noise * spread)


def test_the_strongest_part_is_chosen_on_every_other_pair_and_measured_on_the_rest() -> None:
    """Head 1 leads on pairs 0, 2, ... with -4 beside 3; on the others it is -2 beside 1.5."""
    one = torch.tensor([-4.0, -2.0]).repeat(6)
    two = torch.tensor([3.0, 1.5]).repeat(6)
    found = strongest(of(torch.stack([torch.zeros(12), one, two])))
    assert found is not None
    assert found.winner == {"layer": 0, "head": 1} and found.runner_up == {"layer": 0, "head": 2}
    assert (found.sign, found.n, found.n_chosen_on) == (-1, 6, 6)
    # Constant on the measuring half, so that every interval is a point. All exact in binary.
    assert (found.effect, found.interval) == (2.0, (2.0, 2.0))
    assert (found.runner_up_effect, found.runner_up_interval) == (1.5, (1.5, 1.5))
    assert (found.lead, found.lead_interval) == (0.5, (0.5, 0.5))
    # Two of three parts have p = 2 / 2^12; q = 3 / 2 of that.
    assert found.q == 3 / 2**12 and found.supported


def test_one_that_leads_only_where_it_was_chosen_is_not_supported() -> None:
    lucky = torch.tensor([5.0, 1.0]).repeat(8)
    steady = torch.tensor([2.0, 2.0]).repeat(8)
    found = strongest(of(torch.stack([lucky, steady])))
    assert found is not None and found.winner["head"] == 0
    assert found.lead == -1.0 and not found.supported


def test_ties_are_seldom_supported_and_clear_winners_are() -> None:
    """Ten equal parts: 2.5 % of leads lie above 0 by chance, 2.5 in 100; the bootstrap of 16 values
    is a little narrow. 10 in 100 would be beyond three standard deviations of 4 in 100."""
    tied = [strongest(drawn([1.0] * 10, 32, seed)) for seed in range(100)]
    assert sum(one is not None and one.supported for one in tied) < 10
    same = strongest(of(torch.ones(4, 16)))
    assert same is not None and same.lead_interval == (0.0, 0.0) and not same.supported
    # A lead of 2 has a standard error of sqrt(2 / 16) = 0.35.
    clear = [strongest(drawn([1.0] * 9 + [-3.0], 32, seed)) for seed in range(20)]
    assert all(one is not None and one.supported and one.sign == -1 for one in clear)


def test_no_part_is_named_without_enough_pairs_or_a_second_part() -> None:
    assert strongest(drawn([1.0, 9.0], 7, 0)) is None
    assert strongest(drawn([1.0, 9.0], 8, 0)) is not None
    assert strongest(drawn([9.0], 32, 0)) is None


def test_a_site_that_needs_an_mlp_says_which_need_none() -> None:
    bare = replace(CONFIG, d_mlp=0)
    with pytest.raises(CircuitError, match=r"none; known: attn_out, head, head_k, .*resid_pre$"):
        finish(sweep(problem(config=bare), "neuron"))

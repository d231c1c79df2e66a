"""The numbers of the Trace page's first half, against the library and against weights by hand.

float32; 1e-4 nats is some hundred roundings of logits of order 30.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.web.choice import Network, find_run, network_of, subject
from apps.web.trace import part
from apps.web.trace import sweep as trace_sweep
from apps.web.trace.cell import attention_chart, pairs_chart, written_chart
from apps.web.trace.effects import map_of
from apps.web.trace.question import AskedQuestion, corruptions_of, pairs_of
from apps.web.trace.sweep import Cell, Swept, identity_of, is_kept, kept_sweep, swept
from circuits.patching import sweep
from circuits.problem import make_problem
from circuits.tracing import problem_of
from tests.app.app_folder import FULL
from workbench.metrics import logit_difference
from workbench.progress import finish
from workbench.records import write_record
from workbench.transformer import forward

CLOSE = {"abs": 1e-4}
FAMILY = AskedQuestion(
    metric="logit_difference",
    ablation="resample",
    direction="denoising",
    pairs=32,
    corruptions=(),
    seed=0,
    clean=(),
    corrupted=(),
)


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(trace_sweep, "LONG", 1e9)


def found_of(network: Network, site: str = "head", *by: str) -> Swept:
    found = swept(network, FAMILY.patching(site, by))
    assert isinstance(found, Swept)
    return found


def test_the_map_holds_the_sweep_of_the_library(network: Network) -> None:
    found = found_of(network, "head", "position")
    problem = problem_of(network.run, n_pairs=32, direction="denoising")
    expected = finish(sweep(problem, "head", by=["position"]))
    chart = map_of(found, normalised=False)
    assert (chart.row_axis, chart.column_axis) == ("layer.head", "position")
    assert chart.columns == ("0 a", "1 b", "2 =")
    for index, (head, position) in enumerate(itertools.product(range(4), range(3))):
        by_hand = float(expected.effects[0, head, position].mean())
        row, column = chart.rows.index(f"0.{head}"), position
        assert float(chart.values[row, column]) == pytest.approx(by_hand, **CLOSE)
        assert row * len(chart.columns) + column == index
        cell = found.cells[index]
        assert (cell.head, cell.position, cell.components) == (head, position, (f"a0.h{head}",))
    gap = float((expected.other_metric - expected.base_metric).mean())
    share = map_of(found, normalised=True)
    assert float(share.values[2, 2]) == pytest.approx(float(chart.values[2, 2]) / gap, **CLOSE)
    assert share.low is None and chart.low is not None
    assert bool((chart.low <= chart.values).all())


def test_the_strongest_cell_is_the_one_of_the_finding(network: Network) -> None:
    found = found_of(network, "head", "position")
    finding = found.finding
    assert finding is not None
    cell = found.cells[found.strongest]
    assert f"layer {cell.layer}, head {cell.head}, position {cell.position} " in finding.claim
    halves = found.sweep.effects.flatten(0, -2)
    chosen = int(halves[:, ::2].mean(-1).abs().argmax())
    assert found.strongest == chosen
    assert abs(finding.value) == pytest.approx(abs(float(halves[chosen, 1::2].mean())), **CLOSE)


def test_the_words_for_the_map_name_its_largest_cell(network: Network) -> None:
    # The strongest part is chosen on half of the pairs: on all of them another may be larger.
    found = found_of(network, "head", "position")
    other = (found.strongest + 1) % len(found.cells)
    effects = found.sweep.effects.flatten(0, -2).clone()
    effects[other] = -100.0
    shaped = effects.reshape(found.sweep.effects.shape)
    doctored = replace(found, sweep=replace(found.sweep, effects=shaped))
    assert doctored.strongest != other and doctored.largest == other
    name = found.cells[other].name(found.positions)
    assert map_of(doctored, normalised=False).alt.endswith(f"the largest is at {name}.")


def test_untrained_networks_are_the_control(network: Network) -> None:
    found = found_of(network, "head", "position")
    largest = float(found.sweep.mean.abs().max())
    for quick, networks, pairs in ((False, 3, 32), (True, 1, 8)):
        control = trace_sweep.control_of(network, FAMILY, "head", ("position",), quick=quick)
        assert (len(control.sweeps.largest), control.pairs) == (networks, pairs)
        assert 0 < control.sweeps.mean < 0.05 * largest


def test_neurons_fill_rows_and_a_row_is_a_cell(network: Network) -> None:
    found = found_of(network, "neuron")
    chart = map_of(found, normalised=False)
    n = network.run.config.model.d_mlp
    assert chart.values.shape == (n // 64, 64)
    assert (chart.rows[1], chart.columns[3]) == ("0.64", "+3")
    assert float(chart.values[1, 3]) == pytest.approx(float(found.sweep.mean[0, 67]), **CLOSE)
    assert found.cells[67].name(found.positions) == "neuron 0.67"


@pytest.mark.parametrize(
    ("site", "by", "cell"),
    [
        ("attn_out", ("position",), ("a0.h0", "a0.h1", "a0.h2", "a0.h3")),
        ("mlp_in", (), ("m0",)),
        ("resid_pre", ("position",), ()),
        ("head_q", (), ("a0.h0",)),
    ],
)
def test_a_cell_knows_the_parts_of_a_circuit_it_belongs_to(
    site: str, by: tuple[str, ...], cell: tuple[str, ...], network: Network
) -> None:
    found = found_of(network, site, *by)
    assert found.cells[0].components == cell
    assert map_of(found, normalised=False).values.numel() == len(found.cells)


def test_a_sweep_that_takes_long_tells_its_time_and_is_read_once_kept(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = FAMILY.patching("neuron", ("position",))
    whole = swept(network, analysis)
    assert isinstance(whole, Swept)
    monkeypatch.setattr(trace_sweep, "LONG", 0.0)
    seconds = swept(network, replace(FAMILY, seed=1).patching("neuron", ("position",)))
    assert isinstance(seconds, float) and seconds > 0
    identity = identity_of(network, analysis)
    assert identity == whole.recorded.record.id and not is_kept(network, identity)
    write_record(network.run, *whole.recorded)
    assert is_kept(network, identity)
    read = kept_sweep(network, identity)
    assert torch.equal(read.sweep.effects, whole.sweep.effects)
    assert read.cells == whole.cells


# ---------------------------------------------------------------------- what a part writes


def test_what_parts_write_sums_to_the_logit_difference(network: Network) -> None:
    on, pairs = subject(network), pairs_of(network, FAMILY)
    logits = forward(on.params, pairs.clean_tokens, on.config, positions=[2]).logits
    by_hand = logit_difference(logits, pairs.answer, pairs.wrong_answer, pairs.scored)
    everywhere = part.written(network, FAMILY, None, None)
    one = part.written(network, FAMILY, 2, 5)
    assert everywhere is not None and one is not None
    assert everywhere.total == pytest.approx(float(by_hand.mean()), **CLOSE)
    assert float(everywhere.added.mean.sum()) == pytest.approx(everywhere.total, **CLOSE)
    assert float(one.added.mean.sum()) == pytest.approx(float(by_hand[5]), **CLOSE)
    assert part.written(network, FAMILY, 0, None) is None  # no answer is read there
    others = [everywhere.of(f"a0.h{head}") for head in (0, 1, 3)]
    assert everywhere.of_other_heads(("a0.h2",)) == pytest.approx(sum(others) / 3, **CLOSE)
    assert everywhere.of_other_heads(tuple(f"a0.h{head}" for head in range(4))) is None
    assert written_chart(everywhere).names[-1] == "m0"


def test_what_a_head_promotes_is_what_its_output_unembeds_to(network: Network) -> None:
    on, pairs = subject(network), pairs_of(network, FAMILY)
    hook = "blocks.0.attn.hook_z"
    z = forward(on.params, pairs.clean_tokens, on.config, taps=[hook]).activations[hook]
    W_O, W_U = on.params["blocks.0.attn.W_O"], on.params["unembed.W_U"]
    by_hand = (z[3, 2, 1] @ W_O[1] @ W_U)[: network.task.n_answer_tokens]
    made = part.promoted(network, FAMILY, ("a0.h1",), 2, 3)
    assert made is not None
    assert made.tokens[0] == str(int(by_hand.argmax()))
    spread = float(by_hand.max() - by_hand.sort().values[-2])
    assert made.added[0] - made.added[1] == pytest.approx(spread, **CLOSE)
    answer = int(pairs.answer[3, 0])
    assert made.answer == str(answer)
    assert made.rank == 1 + int((by_hand > by_hand[answer]).sum())


def test_how_often_a_part_names_the_answer(network: Network) -> None:
    named = part.names_the_answer(network, FAMILY, None)
    assert named is not None
    pairs = [part.promoted(network, FAMILY, ("m0",), None, pair) for pair in range(32)]
    first = sum(one is not None and one.rank == 1 for one in pairs) / 32
    assert float(named.share.mean[named.writers.index("m0")]) == pytest.approx(first, abs=1e-6)


def test_neurons_add_up_to_their_mlp(network: Network) -> None:
    on = subject(network)
    added, whole = part.neurons(network, FAMILY, 0, None, 4), part.written(network, FAMILY, None, 4)
    assert added is not None and whole is not None
    pairs = pairs_of(network, FAMILY)
    direction = (
        on.params["unembed.W_U"].T[pairs.answer[4, 0]]
        - on.params["unembed.W_U"].T[pairs.wrong_answer[4, 0]]
    )
    bias = float(on.params["blocks.0.mlp.b_out"] @ direction)
    assert float(added.mean.sum()) + bias == pytest.approx(whole.of("m0"), **CLOSE)


# ---------------------------------------------------------------------- what a part reads


def test_where_a_head_looks_is_its_pattern(network: Network) -> None:
    on, pairs = subject(network), pairs_of(network, FAMILY)
    hook = "blocks.0.attn.hook_pattern"
    by_hand = forward(on.params, pairs.corrupted_tokens, on.config, taps=[hook]).activations[hook]
    mean = part.attention_of(network, FAMILY, "a0.h3", None, corrupted=True)
    one = part.attention_of(network, FAMILY, "a0.h3", 7, corrupted=True)
    assert torch.allclose(mean, by_hand[:, 3].mean(0), atol=1e-6)
    assert torch.allclose(one, by_hand[7, 3], atol=1e-6)
    chart = attention_chart(one, ("0 a", "1 b", "2 ="), "a0.h3", "corrupted")
    assert bool(chart.values[0, 1].isnan()) and float(chart.values[2, 1]) == float(one[2, 1])


def test_effects_pair_by_pair_are_in_order_beside_the_other_cells(network: Network) -> None:
    found = found_of(network, "head", "position")
    own, others = pairs_chart(found, 8).series
    effects = found.sweep.effects.flatten(0, -2)
    assert own.y == tuple(sorted(effects[8].tolist()))
    rest = [float(effects[[i for i in range(12) if i != 8], pair].mean()) for pair in range(32)]
    assert others.y == pytest.approx(sorted(rest), **CLOSE)
    assert others.dash == "dashed"


def test_the_pairs_are_those_of_the_analysis(network: Network) -> None:
    pairs = pairs_of(network, FAMILY)
    problem = make_problem(subject(network), pairs, direction="denoising")
    found = found_of(network, "head")
    assert torch.allclose(problem.base_metric, found.sweep.base_metric, atol=1e-4)
    assert "keep_answer" not in corruptions_of(network)
    assert list(corruptions_of(network)) == ["change_a", "change_b", "change_both"]


def test_names_of_cells() -> None:
    cell = Cell(site="head", layer=1, head=2, neuron=None, position=1, components=("a1.h2",))
    assert cell.name(("0 a", "1 b")) == "head 1.2 at position 1 b"

"""Networks with known circuits: what is claimed of them holds, and exact patching finds it.

Networks are float64 with whole numbers inside; attention that is meant to be on one position leaks
exp(-60) of the rest. 1e-9 covers both, for logits up to 1e5.
"""

import itertools
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import circuit_of
from circuits.edges import circuit_logits, measure_circuits
from circuits.method import Scores, methods
from circuits.methods.eap_ig import EapIg
from circuits.problem import Ablation
from tests.ground_truth import attention_networks, hand_built
from tests.ground_truth.scoring import GroundTruth, Truth, auroc, random_auroc
from tests.ground_truth.tracr_networks import (
    TOLERANCE,
    fixture_names,
    load_fixture,
    tracr_network,
)
from workbench.intervene import Intervention, OtherInput, Site, intervene
from workbench.progress import finish
from workbench.transformer import forward

ABLATIONS: tuple[Ablation, ...] = ("resample", "zero")
HAND_BUILT = {truth.name: truth for truth in hand_built.planted()}
UNIQUE = [name for name in HAND_BUILT if name != "or_gate"]


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


def exact(truth: GroundTruth, ablation: Ablation) -> Scores:
    return finish(methods.get("exact")().score(truth.problem(ablation)))


def named(name: str) -> GroundTruth:
    return HAND_BUILT[name] if name in HAND_BUILT else tracr_network(name)


# ------------------------------------------------------------------ worked out on paper


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_patched_output_is_what_the_paper_says(ablation: Ablation) -> None:
    """Both ways of patching an edge: interventions at readers, and circuits without the edge."""
    truth = HAND_BUILT["paper_network"]
    problem = truth.problem(ablation)
    assert problem.base_metric.item() == hand_built.PAPER_CLEAN
    assert problem.other_metric.item() == hand_built.PAPER_CORRUPTED
    paper = hand_built.PAPER_RESULTS[ablation]
    expected = torch.tensor([paper.get(e, hand_built.PAPER_CLEAN) for e in truth.graph.edges])
    scores = exact(truth, ablation)
    assert_close(scores.values[truth.graph.is_edge] + hand_built.PAPER_CLEAN, expected.double())
    keep = torch.stack([truth.graph.is_edge & ~one(truth, e) for e in truth.graph.edges]).double()
    assert_close(measure_circuits(problem, keep)[:, 0], expected.double())


def one(truth: GroundTruth, *edges: str) -> Tensor:
    return circuit_of(truth.graph, edges).member


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_several_patched_edges_are_what_the_paper_says(ablation: Ablation) -> None:
    """Edges into the logits add up; `embed->m1` with `a1.h0->m1`: n = relu(b' - x')."""
    truth = HAND_BUILT["paper_network"]
    cells = [
        one(truth, "embed->logits", "m0->logits"),
        one(truth, "embed->m1", "a1.h0->m1"),
        truth.graph.is_edge,
    ]
    keep = torch.stack([truth.graph.is_edge & ~cell for cell in cells]).double()
    # resample: x 1, m 3; n = relu(8 - 1) = 7; the corrupted run. zero: 0 each.
    expected = {"resample": [13331.0, 73232.0, 78341.0], "zero": [13030.0, 3232.0, 0.0]}
    measured = measure_circuits(truth.problem(ablation), keep)[:, 0]
    assert_close(measured, torch.tensor(expected[ablation]).double())


# ------------------------------------------------------------------ redundancy


def test_or_gate_hides_from_single_knock_outs_and_not_from_double_ones() -> None:
    truth = HAND_BUILT["or_gate"]
    problem = truth.problem("resample")
    paths = [("embed->a0.h0<v>", "embed->a0.h1<v>"), ("a0.h0->m0", "a0.h1->m0")]
    for first, second in paths:
        cut = [one(truth, first), one(truth, second), one(truth, first, second)]
        keep = torch.stack([truth.graph.is_edge & ~edges for edges in cut]).double()
        # logit 1 - logit 0: 1 - 1/2 with either head, 0 - 1/2 with neither.
        assert measure_circuits(problem, keep)[:, 0].tolist() == [0.5, 0.5, -0.5]


def test_half_an_or_gate_is_faithful_and_not_complete() -> None:
    """Faithful: it answers as the whole network. Cut the same edge from both, and only the whole
    network still answers: |m(C - K) - m(M - K)| = 1."""
    truth = HAND_BUILT["or_gate"]
    problem = truth.problem("resample")
    half = one(truth, "embed->a0.h0<v>", "a0.h0->m0", "m0->logits")
    whole, cut = truth.graph.is_edge, one(truth, "a0.h0->m0")
    keep = torch.stack([whole, half, half & ~cut, whole & ~cut]).double()
    assert measure_circuits(problem, keep)[:, 0].tolist() == [0.5, 0.5, -0.5, 0.5]


def test_exact_patching_of_the_or_gate_misses_both_paths_one_way_and_finds_them_the_other() -> None:
    truth = HAND_BUILT["or_gate"]
    scores = exact(truth, "resample")
    seen = [edge for edge in truth.graph.edges if scores.of(edge) != 0]
    assert seen == ["m0->logits"]
    # One of 5 true edges above all 16 others, four tied with them: (1 + 4 / 2) / 5.
    assert auroc(truth, "resample", scores.values) == pytest.approx(0.6)
    turned = finish(methods.get("exact")().score(truth.denoising("resample")))
    assert {e for e in truth.graph.edges if turned.of(e) != 0} == set(hand_built.OR_EDGES)
    assert not truth.truths["resample"].unique


# ------------------------------------------------------------------ carry, copy, induction


def test_the_carry_adder_adds_every_pair_of_numbers() -> None:
    truth, tokens = HAND_BUILT["carry_adder"], hand_built.addition_inputs()
    logits = forward(truth.params, tokens, truth.config, positions=truth.positions).logits
    assert len(tokens) == 10_000
    assert (logits.argmax(-1) == hand_built.sum_digits(tokens)).all()


def test_raising_the_carry_raises_the_tens_digit_by_one_and_nothing_else() -> None:
    """All 5500 inputs without a carry; the carry's direction comes from 09 + 09, which has one."""
    truth, tokens = HAND_BUILT["carry_adder"], hand_built.addition_inputs()
    tokens = tokens[tokens[:, 1] + tokens[:, 3] < 10]
    assert len(tokens) == 5500
    other = torch.tensor([[0, 9, 0, 9, hand_built.EQUALS, hand_built.EQUALS]]).expand_as(tokens)
    carry = torch.eye(truth.config.d_model, dtype=torch.float64)[3:4]
    cells = [
        (
            Intervention(
                site=Site(hook="blocks.0.hook_mlp_out", subspace=basis), source=OtherInput()
            ),
        )
        for basis in (carry, torch.eye(truth.config.d_model, dtype=torch.float64)[4:5])
    ]
    patched, control = intervene(
        truth.params, tokens, truth.config, cells, other=other, positions=truth.positions
    ).argmax(-1)
    ones, tens = hand_built.sum_digits(tokens).T
    assert (patched[:, 0] == ones).all()
    assert (patched[:, 1] == (tens + 1) % 10).all()
    assert (control == torch.stack([ones, tens], 1)).all()


@pytest.mark.parametrize(
    ("edge", "take"),
    [
        # ones and tens place, from digits a1 a0 b1 b0 of the clean and of the corrupted input
        ("a0.h0->m1", lambda c, o: (o[1] + c[3], o[0] + c[2] + (c[1] + c[3] > 9))),
        ("a0.h1->m1", lambda c, o: (c[1] + o[3], c[0] + o[2] + (c[1] + c[3] > 9))),
        ("a0.h2->m0", lambda c, o: (c[1] + c[3], c[0] + c[2] + (o[1] + c[3] > 9))),
        ("a0.h3->m0", lambda c, o: (c[1] + c[3], c[0] + c[2] + (c[1] + o[3] > 9))),
        ("m0->m1", lambda c, o: (c[1] + c[3], c[0] + c[2] + (o[1] + o[3] > 9))),
        ("m1->logits", lambda c, o: (o[1] + o[3], o[0] + o[2] + (o[1] + o[3] > 9))),
    ],
)
def test_every_edge_of_the_carry_adder_carries_what_is_claimed(edge: str, take: object) -> None:
    """The answer under each patched edge, from digits alone."""
    truth = HAND_BUILT["carry_adder"]
    keep = (truth.graph.is_edge & ~one(truth, edge)).double()[None]
    answers = circuit_logits(truth.problem("resample"), keep)[0].argmax(-1)
    pairs = zip(truth.clean.tolist(), truth.corrupted.tolist(), strict=True)
    expected = [[place % 10 for place in take(c, o)] for c, o in pairs]  # type: ignore[operator]
    assert answers.tolist() == expected


def test_copy_and_induction_do_their_tasks_on_all_inputs() -> None:
    copy = HAND_BUILT["copy_head"]
    tokens = torch.cartesian_prod(*(torch.arange(5) for _ in range(3)))
    logits = forward(copy.params, tokens, copy.config, positions=copy.positions).logits[:, 0]
    assert (logits.argmax(-1) == tokens[:, 0]).all()
    induction = HAND_BUILT["induction"]
    tokens, answers = attention_networks.induction_inputs()
    run = forward(induction.params, tokens, induction.config, positions=induction.positions)
    assert len(tokens) == 5 * 4 * 3 * 2 * 3
    assert (run.logits.argmax(-1) == answers).all()


# ------------------------------------------------------------------ Tracr


@pytest.mark.parametrize("name", fixture_names())
def test_a_compiled_program_does_what_rasp_does_on_every_checked_input(name: str) -> None:
    fixture = load_fixture(name)
    checked = fixture.record["checked"]
    assert sum(len(part.tokens) for part in fixture.inputs.values()) == checked["inputs"]
    assert sum(int(part.wrong.sum()) for part in fixture.inputs.values()) == checked["wrong"]
    assert len(checked["wrong_inputs"]) == checked["wrong"]
    for part in fixture.inputs.values():
        off = (fixture.output(part.tokens) - part.answers).abs() > TOLERANCE
        assert ((off & part.specified).any(1) == part.wrong).all()


def test_there_are_programs_enough_and_two_with_numbers() -> None:
    records = [load_fixture(name).record for name in fixture_names()]
    assert len(records) >= 8
    assert sum(record["output"] == "number" for record in records) >= 2
    # The compiler reads 2/3 and 3/5 as 1/2: a known trap, which the check must catch.
    assert load_fixture("majority").record["checked"]["wrong"] > 0


def test_reverse_on_inputs_reversed_here() -> None:
    fixture = load_fixture("reverse")
    words, answers = fixture.record["vocabulary"], fixture.record["answers"]
    inputs = list(itertools.product("abc", repeat=4))
    tokens = torch.tensor([[words.index(w) for w in ("compiler_bos", *x)] for x in inputs])
    outputs = [[answers[int(i)] for i in row] for row in fixture.output(tokens)]
    assert outputs == [[*reversed(given)] for given in inputs]


@pytest.mark.parametrize("name", fixture_names())
def test_pairs_have_different_answers_that_the_network_gives(name: str) -> None:
    truth, fixture = tracr_network(name), load_fixture(name)
    outputs = [fixture.output(side) for side in (truth.clean, truth.corrupted)]
    assert ((outputs[0] - outputs[1]).abs() > TOLERANCE).any(1).all()
    problem = truth.problem("resample")
    assert (problem.base_metric > 0).all() and (problem.other_metric < 0).all()
    if fixture.numeric:  # right to within the compiler's softmax
        assert (truth.problem("zero").base_metric.abs() < TOLERANCE).all()


def test_truth_of_frac_prevs_by_hand() -> None:
    """m0 marks the x's, head 0 of block 1 averages the marks over positions up to its own."""
    truth = tracr_network("frac_prevs")
    marks = {"embed->m0", "m0->a1.h0<v>", "a1.h0->logits"}
    where = {"pos_embed->a1.h0<q>", "pos_embed->a1.h0<k>"}
    assert truth.truths["resample"].edges == marks
    assert truth.truths["zero"].edges == marks | where
    assert truth.truths["zero"].undecided == {"embed->a1.h0<q>", "embed->a1.h0<k>"}


def test_truth_of_reverse_under_resample_by_hand() -> None:
    """At one length only the tokens differ, and they go from the embedding to the last head."""
    edges = tracr_network("reverse").truths["resample"].edges
    assert edges == {"embed->a3.h0<v>", "a3.h0->logits"}


# ------------------------------------------------------------------ scores against truth


@pytest.mark.parametrize("name", [*HAND_BUILT, *fixture_names()])
def test_truth_is_of_the_graph_and_resample_truth_within_zero_truth(name: str) -> None:
    truth = named(name)
    resample, zero = (truth.truths[ablation] for ablation in ABLATIONS)
    assert 0 < len(resample.edges) <= len(zero.edges) < truth.graph.n_edges
    assert resample.edges <= zero.edges | zero.undecided <= set(truth.graph.edges)
    assert not zero.edges & zero.undecided and not resample.undecided


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", [*UNIQUE, *fixture_names()])
def test_exact_patching_recovers_what_was_planted(name: str, ablation: Ablation) -> None:
    """And no edge outside the truth has an effect: the truth leaves nothing out."""
    truth = named(name)
    scores = exact(truth, ablation)
    assert auroc(truth, ablation, scores.values) >= 0.95
    known = truth.truths[ablation]
    others = set(truth.graph.edges) - known.edges - known.undecided
    assert max(abs(scores.of(edge)) for edge in others) < 1e-9


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", [*UNIQUE, "count_a", "hist", "frac_prevs", "shift_by_one"])
def test_integrated_gradients_recover_what_was_planted(name: str, ablation: Ablation) -> None:
    """As the method ships."""
    truth = named(name)
    scores = finish(EapIg().score(truth.problem(ablation)))
    assert auroc(truth, ablation, scores.values) >= 0.95


def test_steps_that_are_steep_take_more_points_and_smooth_parts_few() -> None:
    """Tracr's steps rise within 1/100 of the line between two inputs; attention alone is smooth."""
    steep, smooth = (
        finish(EapIg().score(named(name).problem("resample"))) for name in ("hist", "copy_head")
    )
    assert steep.settings["steps"] == 128 and steep.settings["halvings"] > 0
    assert smooth.settings["steps"] == 8 and smooth.settings["halvings"] == 0


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ["paper_network", "or_gate", "carry_adder", "reverse", "hist"])
def test_random_edges_recover_nothing(name: str, ablation: Ablation) -> None:
    draws = random_auroc(named(name), ablation, torch.Generator().manual_seed(0))
    # The standard deviation of one draw is at most 0.3 (two true edges): 0.021 for 200.
    assert statistics.fmean(draws) == pytest.approx(0.5, abs=0.1)
    assert statistics.stdev(draws) > 0.02


def test_auroc_by_hand() -> None:
    """Two true edges of |score| 3 and 1, false ones of 2, 0, ...: one pair in 2 x 14 is wrong."""
    truth = HAND_BUILT["copy_head"]
    scores = torch.zeros(truth.graph.is_edge.shape)
    values = {"embed->a0.h0<v>": -3.0, "a0.h0->logits": 1.0, "embed->logits": 2.0}
    for edge, value in values.items():
        scores[truth.graph.index(edge)] = value
    assert auroc(truth, "resample", scores) == pytest.approx(27 / 28)
    left_out = Truth(edges=truth.truths["resample"].edges, undecided=frozenset({"embed->logits"}))
    without = replace(truth, truths={"resample": left_out})
    assert auroc(without, "resample", scores) == 1

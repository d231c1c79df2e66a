"""Switches on a network built by hand, whose answer after every switch is known, and on others."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from circuits.cells import logits_of
from circuits.fourier import neurons, planes
from circuits.fourier.switch_controls import (
    OTHER_PARTS,
    RANDOM,
    UNTRAINED,
    SwitchControl,
    control_kinds,
    switch_controls,
)
from circuits.fourier.switch_prediction import predict, predicted_answers
from circuits.fourier.switchboard import Board, Switches, board_of, named_board
from circuits.fourier.switches import (
    outcome,
    plane_coordinates,
    switched_logits,
    switched_subject,
)
from tests.hand_built import NEURONS, circle_adder
from workbench import config
from workbench.errors import CircuitError
from workbench.subject import untrained
from workbench.task import make_task

P = 31
SETTINGS = {"p": P, "separate_vocabularies": True, "equals_token": False}
FREQUENCIES = (3, 7, 12)
GAINS = (1.0, 0.9, 0.8)
ALL = FREQUENCIES


@cache
def built(name: str = "modular_addition", frequencies: tuple[int, ...] = FREQUENCIES) -> Board:
    subject = circle_adder(make_task(name, SETTINGS), frequencies, GAINS[: len(frequencies)])
    domain = subject.task.domain()
    return named_board(subject, domain[::3])


def turned(frequencies: tuple[int, ...], shift: int) -> Switches:
    return Switches(rotated=tuple((k, shift) for k in frequencies))


def control(found: list[SwitchControl], name: str) -> SwitchControl:
    return next(one for one in found if one.name == name)


def mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def test_the_parts_are_those_that_were_built() -> None:
    parts = built().study.parts
    assert set(parts.key_frequencies) == set(parts.embedding_frequencies) == set(FREQUENCIES)
    assert bool(built().right.all())


@pytest.mark.parametrize("shift", [1, 5, 30])
def test_turning_every_plane_adds_the_shift_to_every_answer(shift: int) -> None:
    board, switches = built(), turned(ALL, shift)
    assert predict(board, switches).offsets == (shift,)
    found, inputs = outcome(board, switches), board.study.inputs
    assert torch.equal(found.answers, (inputs.sum(1) + shift) % P)
    assert found.share == 1.0 and found.accuracy == 0.0 and found.lost is None


@pytest.mark.parametrize("name", ["modular_subtraction", "modular_multiplication"])
def test_shifts_are_added_to_the_logarithm_of_a(name: str) -> None:
    frequencies = (3, 8, 11)
    board = built(name, frequencies)
    found = outcome(board, turned(frequencies, 4))
    a, b = board.study.inputs.unbind(1)
    if name == "modular_subtraction":
        expected = (a + 4 - b) % P
    else:
        expected = a * 3**4 * b % P  # 3 is the smallest primitive root of 31
    assert torch.equal(found.answers, expected)
    assert found.share == 1.0


@pytest.mark.parametrize("k", FREQUENCIES)
@pytest.mark.parametrize("what", ["embedding_removed", "logits_removed", "neurons_ablated"])
def test_without_one_frequency_the_others_answer_and_its_amplitude_is_gone(
    k: int, what: str
) -> None:
    switches = Switches(**{what: (k,)})
    said = predict(built(), switches)
    assert said.offsets == (0,) and said.lost == (k,)
    assert set(said.left) == set(FREQUENCIES) - {k}
    found = outcome(built(), switches)
    assert found.share == found.accuracy == 1.0
    # The noise in the embeddings leaves nothing of the frequency that answers follow.
    assert found.lost == pytest.approx(1.0, abs=0.02)


def test_turning_one_plane_moves_the_answer_as_the_sum_of_cosines_says() -> None:
    """The three cosines by hand: argmax over c of sum gain cos(w (a + b + s - c))."""
    board, shift = built(), 2
    alpha = {k: float(board.study.parts.alpha[k - 1]) for k in FREQUENCIES}
    moved = FREQUENCIES[0]
    sums = [
        sum(
            alpha[k] * math.cos(2 * math.pi * k * ((shift if k == moved else 0) - d) / P)
            for k in FREQUENCIES
        )
        for d in range(P)
    ]
    best = max(range(P), key=sums.__getitem__)
    switches = turned((moved,), shift)
    said = predict(board, switches)
    assert said.offsets == (best,)
    ordered = sorted(sums, reverse=True)
    assert said.margin == pytest.approx(ordered[0] - ordered[1], abs=1e-9)
    expected = (board.study.inputs.sum(1) + best) % P
    assert torch.equal(predicted_answers(board, said, board.study.inputs)[:, 0], expected)


def test_one_plane_alone_answers_where_its_frequency_is_a_unit() -> None:
    found = outcome(built(), Switches(embedding_only=FREQUENCIES[:1]))
    said = predict(built(), Switches(embedding_only=FREQUENCIES[:1]))
    assert said.left == FREQUENCIES[:1] and said.offsets == (0,)
    assert found.share is not None and found.share > 0.95  # the MLP squares by straight lines


def test_a_frequency_that_divides_the_order_leaves_answers_equally_good() -> None:
    """Frequency 10 of the 30 logarithms modulo 31 tells them apart modulo 3 alone."""
    board = built("modular_multiplication", (10, 7))
    said = predict(board, Switches(logits_only=(10,)))
    assert said.offsets == tuple(range(0, 30, 3))
    assert said.margin == 0.0
    found = outcome(board, Switches(logits_only=(10,)))
    assert found.share == 1.0 and found.accuracy < 0.5


def test_without_any_frequency_chance_is_predicted_and_comes() -> None:
    for switches in (Switches(embedding_removed=ALL), Switches(neurons_ablated=ALL)):
        said = predict(built(), switches)
        assert said.kind == "chance" and said.offsets == ()
        found = outcome(built(), switches)
        assert found.accuracy < 3 / P
        assert found.share == pytest.approx(1 - found.accuracy, abs=1e-12)


def test_of_heads_nothing_is_predicted() -> None:
    found = outcome(built(), Switches(heads_ablated=("a0.h0",)))
    assert predict(built(), Switches(heads_ablated=("a0.h0",))).kind == "none"
    assert found.share is None and found.lost is None
    assert found.accuracy <= 2 / P  # its one head brings both operands


def test_nothing_switched_changes_no_logit() -> None:
    board = built()
    own = logits_of(board.study.subject, board.study.inputs)
    assert torch.equal(switched_logits(board, Switches(), board.study.inputs), own)
    assert switched_subject(board, Switches()) is board.study.subject
    assert outcome(board, Switches()).share == 1.0


def test_neurons_go_to_their_mean_or_to_zero() -> None:
    """By hand: what the neurons of one frequency write is replaced by its mean, or left out."""
    board, k = built(), FREQUENCIES[1]
    subject, inputs = board.study.subject, board.study.inputs
    values = neurons.neuron_activations(subject, inputs)
    group = slice(NEURONS, 2 * NEURONS)
    params = subject.params
    written = values[:, group] @ params["blocks.0.mlp.W_out"][group] @ params["unembed.W_U"]
    own = logits_of(subject, inputs)
    for ablation, expected in (("mean", own - written + written.mean(0)), ("zero", own - written)):
        switches = Switches(neurons_ablated=(k,), ablation=ablation)  # type: ignore[arg-type]
        torch.testing.assert_close(
            switched_logits(board, switches, inputs), expected, atol=1e-9, rtol=0
        )


def test_the_numbers_are_those_of_the_mechanism() -> None:
    """Sufficiency, necessity, edit and neuron ablation, as `circuits.fourier` measures them."""
    board = built()
    study = replace(board.study, n_draws=3)
    embedded, key = study.parts.embedding_frequencies, study.parts.key_frequencies
    only, without = (
        outcome(board, Switches(embedding_only=embedded)),
        outcome(board, Switches(embedding_removed=embedded)),
    )
    assert only.accuracy == planes.kept_embedding(study).value
    assert 1.0 - without.accuracy == planes.removed_embedding(study).value
    assert outcome(board, Switches(logits_only=key)).accuracy == planes.kept_logits(study).value
    removed = outcome(board, Switches(logits_removed=key))
    assert 1.0 - removed.accuracy == planes.removed_logits(study).value
    shares = [outcome(board, turned(embedded, s)).share for s in study.shifts.tolist()]
    assert mean(shares) == pytest.approx(planes.rotated(study).value, abs=1e-12)
    falls = [outcome(board, Switches(neurons_ablated=(k,))).lost for k in key]
    assert mean(falls) == pytest.approx(neurons.ablated_neurons(study).value, abs=1e-9)


def test_controls_fail_where_the_named_parts_do_as_predicted() -> None:
    found = switch_controls(built(), turned(ALL, 5), n_draws=3)
    assert [one.name for one in found] == [OTHER_PARTS, RANDOM, UNTRAINED]
    for one in found:
        assert len(one.draws) == 3
        assert mean([draw.share for draw in one.draws]) < 0.2, one.name
    kept = switch_controls(built(), Switches(embedding_only=ALL), n_draws=3)
    assert all(mean([draw.share for draw in one.draws]) < 0.3 for one in kept)
    cut = switch_controls(built(), Switches(neurons_ablated=ALL[:1]), n_draws=3)
    assert mean([draw.lost for draw in control(cut, OTHER_PARTS).draws]) < 0.2
    assert control(cut, UNTRAINED).draws[0].lost is None


def test_controls_are_drawn_by_their_seed() -> None:
    switches = Switches(embedding_only=ALL)
    first = switch_controls(built(), switches, n_draws=2)
    assert switch_controls(built(), switches, n_draws=2) == first
    assert switch_controls(built(), switches, n_draws=2, seed=5) != first


def test_controls_that_there_cannot_be_are_left_out() -> None:
    assert control_kinds(Switches(ablation="zero")) == ()
    assert switch_controls(built(), Switches(), n_draws=2) == []
    # All of its neurons and its only head: there are no others.
    for switches in (Switches(neurons_ablated=ALL), Switches(heads_ablated=("a0.h0",))):
        assert [one.name for one in switch_controls(built(), switches, n_draws=2)] == [UNTRAINED]


@pytest.mark.parametrize(
    "switches",
    [
        Switches(),
        turned(ALL, 5),
        Switches(embedding_only=ALL),
        Switches(embedding_removed=ALL),
        Switches(logits_only=ALL),
        Switches(neurons_ablated=ALL[:1]),
    ],
)
def test_an_untrained_network_does_nothing_as_predicted(switches: Switches) -> None:
    fresh = untrained(built().study.subject, 1)
    found = outcome(board_of(replace(built().study, subject=fresh)), switches)
    assert found.share is not None and found.share < 4 / P


def test_a_circle_is_drawn_as_one_and_turns() -> None:
    board, k, shift = built(), 7, 4
    points = plane_coordinates(board, k, Switches())
    angle = 2 * torch.pi * k * torch.arange(P).double() / P
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    # Up to the noise in the embeddings, 0.01 in each of the directions.
    torch.testing.assert_close(points[0], circle, atol=0.06, rtol=0)
    torch.testing.assert_close(points[1], circle, atol=0.06, rtol=0)
    turn = plane_coordinates(board, k, turned((k,), shift))
    torch.testing.assert_close(turn[0], circle.roll(-shift, 0), atol=0.06, rtol=0)
    torch.testing.assert_close(turn[1], points[1], atol=1e-12, rtol=0)
    gone = plane_coordinates(board, k, Switches(embedding_removed=(k,)))
    assert float(gone.abs().max()) < 0.06


def test_switches_travel_as_json() -> None:
    switches = Switches(embedding_only=(3, 7), rotated=((3, 5),), heads_ablated=("a0.h0",))
    data = config.to_dict(switches)
    assert config.from_json(Switches, data, where="switches") == switches
    assert hash(switches) == hash(replace(switches))


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (Switches(embedding_removed=(16,)), "no frequency 16; this task has 1 to 15"),
        (Switches(rotated=((3, 1), (3, 2))), "turned twice"),
        (Switches(heads_ablated=("a1.h0",)), "no head 'a1.h0'; there are: a0.h0"),
    ],
)
def test_parts_that_there_are_not_are_refused(switches: Switches, message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        outcome(built(), switches)

"""Patching heads of networks that add digit by digit, against the forward pass itself."""

from dataclasses import replace

import pytest
import torch

from circuits.ablations import Ablated, head_names, mlp_names, other_parts, right_without
from circuits.digit_columns import all_heads
from circuits.digit_switches import (
    IDLE,
    NAMED,
    UNTRAINED,
    HeadSwitch,
    head_name,
    head_outcomes,
    named_switch,
    one_answer,
    shares_by_head,
    variables_of,
)
from circuits.mechanisms.column_addition import OTHER_HEADS
from workbench import config
from workbench.errors import CircuitError, PairError
from workbench.params import init_params
from workbench.recipe import DIGITS, default_model
from workbench.subject import Subject
from workbench.tasks.digit_addition import DigitAddition
from workbench.train import fit
from workbench.transformer import forward

TASK, ONE = DigitAddition(n_digits=2), DigitAddition(n_digits=1)


@pytest.fixture(scope="module")
def learned() -> Subject:
    """One-digit addition, nine pairs of ten known by heart."""
    recipe = replace(DIGITS, steps=150, lr=((0, 0.0), (15, 8e-3), (150, 0.0)))
    model = default_model(ONE)
    for snapshot in fit(ONE, model, recipe, [0], device=torch.device("cpu")):
        last = snapshot
    return Subject(params=last.params(0), config=model, task=ONE)


@pytest.fixture
def blank() -> Subject:
    model = default_model(TASK)
    params = init_params(model, torch.Generator().manual_seed(3), scale=4.0)
    return Subject(params=params, config=model, task=TASK)


def answers(subject: Subject, inputs: torch.Tensor) -> torch.Tensor:
    tokens = TASK.encode(inputs)
    out = forward(subject.params, tokens, subject.config, positions=TASK.answer_positions)
    return out.logits[..., :10].argmax(-1)


def test_named_heads_move_their_digit_and_others_do_not(learned: Subject) -> None:
    for name, digit in (("a_0", 0), ("carry_1", 1)):
        switch = named_switch(learned, name)
        assert switch.heads
        found = {one.name: one for one in head_outcomes(
            learned, switch, n_pairs=100, n_draws=3, seed=5
        )}  # fmt: skip
        own = found[NAMED]
        assert own.share is not None and float(own.share) >= 0.9
        assert own.changed[0].tolist()[digit] >= 0.9
        assert max(own.changed[0].tolist()[i] for i in range(2) if i != digit) <= 0.1
        assert (IDLE in found) == (name == "carry_1")
        if IDLE in found:
            assert float(found[IDLE].changed.max()) <= 0.25 and found[IDLE].share is None
        blank_share = found[UNTRAINED].share
        assert blank_share is not None and float(blank_share.max()) <= 0.25
        if OTHER_HEADS in found:  # not where most of all heads are named
            others = found[OTHER_HEADS]
            assert others.share is not None and float(others.share.mean()) <= 0.25
            assert others.changed.shape == (3, 2)


def test_every_head_from_the_twin_gives_the_twins_answer(blank: Subject) -> None:
    """At the position of `=`, whose token is the same, nothing but heads tells inputs apart."""
    switch = HeadSwitch(variable="a_0", heads=tuple(map(head_name, all_heads(blank))))
    clean = torch.tensor([[37, 45]])
    one = one_answer(blank, switch, clean)
    a, b = one.twin[0].tolist()
    assert b == 45 and a // 10 == 3 and a != 37
    assert torch.equal(one.before, answers(blank, clean))
    assert one.after[0, 0] == answers(blank, one.twin)[0, 0]
    assert torch.equal(one.after[:, 1:], one.before[:, 1:])
    expected = TASK.solve(clean)
    expected[0, 0] = TASK.solve(one.twin)[0, 0]
    assert torch.equal(one.predicted, expected)


def test_no_head_changes_nothing(blank: Subject) -> None:
    found = head_outcomes(blank, HeadSwitch(variable="carry_1"), n_pairs=20, n_draws=2, seed=0)
    assert [one.name for one in found] == [NAMED, IDLE, UNTRAINED]
    for one in found:
        assert float(one.changed.abs().max()) == 0.0 and one.n == 20


def test_twins_of_one_input_differ_in_the_variable_alone(blank: Subject) -> None:
    clean = torch.tensor([[37, 45]])
    for name in ("b_1", "carry_1", "b_0"):
        twin = one_answer(blank, HeadSwitch(variable=name), clean).twin
        before, after = TASK.variables(clean), TASK.variables(twin)
        assert before[name].tolist() != after[name].tolist()
        if name == "b_1":
            assert twin[0, 0] == 37 and twin[0, 1] % 10 == 5
    same = one_answer(blank, HeadSwitch(variable="carry_1"), clean)
    assert TASK.solve(same.twin)[0, 0] == TASK.solve(clean)[0, 0]


def test_shares_by_head_are_those_of_each_head_alone(learned: Subject) -> None:
    shares = shares_by_head(learned, n_pairs=40, seed=2)
    names = [one.name for one in variables_of(learned)]
    assert names == ["a_0", "b_0", "carry_1"]
    assert shares.shape == (3, len(all_heads(learned)))
    first = head_outcomes(
        learned, HeadSwitch(variable="a_0", heads=("a0.h0",)), n_pairs=40, n_draws=1, seed=2
    )
    assert first[0].share is not None and float(first[0].share) == float(shares[0, 0])


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        (HeadSwitch(variable="a_9"), "no variable 'a_9'"),
        (HeadSwitch(variable="a_0", heads=("a7.h0",)), "no head 'a7.h0'"),
    ],
)
def test_what_there_is_not_is_refused(blank: Subject, switch: HeadSwitch, message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        one_answer(blank, switch, torch.tensor([[1, 2]]))


def test_an_input_without_a_twin_says_so(blank: Subject) -> None:
    most = DigitAddition(n_digits=1, answer_order="most_significant_first")
    model = default_model(most)
    params = init_params(model, torch.Generator().manual_seed(0))
    subject = Subject(params=params, config=model, task=most)
    # Beside 9 every other digit brings a carry, which is written first and must stay.
    with pytest.raises(PairError, match="has no twin that differs in b_0 alone"):
        one_answer(subject, HeadSwitch(variable="b_0"), torch.tensor([[9, 0]]))


def test_switches_travel_as_json() -> None:
    switch = HeadSwitch(variable="carry_2", heads=("a0.h1",))
    assert config.from_json(HeadSwitch, config.to_dict(switch), where="switch") == switch


# ---------------------------------------------------------------------- ablations


def test_ablations_are_those_of_edited_weights(blank: Subject) -> None:
    """A head set to zero writes nothing, and so does one without W_O; likewise MLP and neurons."""
    inputs = TASK.sample(64, torch.Generator().manual_seed(0))
    params, expected = blank.params, []
    for name, part in (
        ("blocks.0.attn.W_O", 1),
        ("blocks.1.mlp.W_out", slice(3, 9)),
    ):
        edited = params[name].clone()
        edited[part] = 0.0
        changed = replace(blank, params={**params, name: edited})
        expected.append(answers(changed, inputs))
    without = {"blocks.0.mlp.W_out": 0.0, "blocks.0.mlp.b_out": 0.0}
    gone = {**params, **{name: torch.zeros_like(params[name]) for name in without}}
    expected.append(answers(replace(blank, params=gone), inputs))
    sets = [
        Ablated(heads=("a0.h1",), zero=True),
        Ablated(neurons=(3, 4, 5, 6, 7, 8), zero=True),
        Ablated(mlps=("m0",), zero=True),
        Ablated(),
    ]
    solved = TASK.solve(inputs)
    wanted = [(one == solved).all(-1) for one in [*expected, answers(blank, inputs)]]
    assert torch.equal(right_without(blank, inputs, sets), torch.stack(wanted))


def test_ablating_everything_leaves_chance(learned: Subject) -> None:
    inputs = ONE.domain()
    every = Ablated(heads=head_names(learned.config))
    right = right_without(learned, inputs, [Ablated(), every]).double().mean(1)
    assert right[0] > 0.9 and right[1] < 0.2


def test_other_parts_are_as_many_and_none_of_those(blank: Subject) -> None:
    ablated = Ablated(heads=("a0.h1", "a1.h0"), mlps=("m0",), neurons=(1, 2, 3), zero=True)
    other = other_parts(blank.config, ablated, draw=0, seed=0)
    assert other is not None and other.zero
    assert len(set(other.heads)) == 2 and not set(other.heads) & set(ablated.heads)
    assert other.mlps == ("m1",)
    assert len(set(other.neurons)) == 3 and not set(other.neurons) & {1, 2, 3}
    assert other_parts(blank.config, ablated, draw=0, seed=0) == other
    assert other_parts(blank.config, ablated, draw=1, seed=0) != other
    both = Ablated(mlps=mlp_names(blank.config))
    assert other_parts(blank.config, both, draw=0, seed=0) is None


@pytest.mark.parametrize(
    ("ablated", "message"),
    [
        (Ablated(heads=("a9.h0",)), "no head 'a9.h0'"),
        (Ablated(mlps=("m7",)), "no MLP 'm7'"),
        (Ablated(neurons=(10_000,)), "no neuron 10000"),
    ],
)
def test_parts_that_there_are_not_are_refused(
    blank: Subject, ablated: Ablated, message: str
) -> None:
    with pytest.raises(CircuitError, match=message):
        right_without(blank, torch.tensor([[1, 2]]), [ablated])

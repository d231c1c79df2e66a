"""Which inputs a network is probed on, with which labels and splits."""

import torch

from probes.draws import generator_of
from probes.examples import distinct, make_examples
from probes.setting import make_setting
from tests.unit.probed_networks import random_subject
from tests.unit.probing_one import ADDITION, SMALL, spec_of
from workbench.task import make_task


def test_a_small_domain_is_probed_whole() -> None:
    for n_inputs in (None, 49, 1000):
        examples = make_examples(ADDITION, spec_of("a", n_inputs=n_inputs))
        assert examples.exhaustive
        assert torch.equal(examples.inputs, ADDITION.domain())


def test_inputs_drawn_are_distinct_and_as_many_as_asked_for() -> None:
    for n_inputs in (16, 40, 48):
        examples = make_examples(ADDITION, spec_of("a", n_inputs=n_inputs))
        assert not examples.exhaustive
        assert len(examples.inputs) == n_inputs
        assert len(torch.unique(examples.inputs, dim=0)) == n_inputs
        assert torch.equal(examples.tokens, ADDITION.encode(examples.inputs))
    other = make_examples(ADDITION, spec_of("a", n_inputs=40), seed=1).inputs
    assert not torch.equal(other, make_examples(ADDITION, spec_of("a", n_inputs=40)).inputs)


def test_a_domain_too_large_to_list_is_sampled() -> None:
    digits = make_task("digit_addition", {"n_digits": 4})
    spec = spec_of("carry_2", n_inputs=300, distribution="carry_heavy")
    examples = make_examples(digits, spec)
    assert len(examples.inputs) == 300 == len(torch.unique(examples.inputs, dim=0))
    assert torch.equal(examples.variables["carry_2"], digits.variables(examples.inputs)["carry_2"])


def test_distinct_keeps_the_first_of_equals_in_order() -> None:
    inputs = torch.tensor([[3, 1], [2, 2], [3, 1], [0, 5], [2, 2], [1, 3]])
    assert distinct(inputs).tolist() == [[3, 1], [2, 2], [0, 5], [1, 3]]


def test_a_generator_depends_on_its_words_alone() -> None:
    first, again, other = (
        torch.rand(3, generator=generator_of(*words)) for words in (("a", 1), ("a", 1), ("a", 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_label_sets_are_the_variable_then_its_controls() -> None:
    spec = spec_of("wraps", "answer", seeds=(3, 8))
    setting = make_setting(SMALL, spec)
    targets = setting.targets["answer"]
    assert targets.names == ("answer", *["control_task"] * 2, *["shuffled"] * 2)
    assert torch.equal(targets.classes[0], ADDITION.solve(ADDITION.domain())[:, 0])
    first, second = targets.classes[1:3]
    assert not torch.equal(first, second)
    for draw in targets.classes[3:]:
        # Shuffled: as many of each class, and both orders of a pair still agree.
        assert torch.equal(draw.bincount(), targets.classes[0].bincount())
        table = draw.reshape(7, 7)
        assert torch.equal(table, table.T)
        assert not torch.equal(draw, targets.classes[0])
    alone = make_setting(SMALL, spec_of("answer", seeds=(8, 3))).targets["answer"]
    assert torch.equal(alone.classes[[0, 2, 1, 4, 3]], targets.classes)
    assert make_setting(SMALL, spec_of("answer", controls=())).targets["answer"].names == (
        "answer",
    )


def test_the_control_task_follows_from_the_tokens_that_decide_the_variable() -> None:
    digits = make_task("digit_addition", {"n_digits": 2})
    subject = random_subject(digits)
    setting = make_setting(subject, spec_of("carry_1", "answer_1", "a_1", seeds=(0, 1)))
    a, b = (digits.domain() % 10).unbind(1)
    tens_a, tens_b = (digits.domain() // 10).unbind(1)
    deciding = {
        "carry_1": (a, b),
        "answer_1": (a, b, tens_a, tens_b),
        "a_1": (tens_a,),
    }
    for variable, columns in deciding.items():
        kinds = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)[1]
        for draw in setting.targets[variable].classes[1:3]:
            # One class per kind of input ...
            for kind in kinds.unique()[:100]:
                assert len(draw[kinds == kind].unique()) == 1
            # ... and another for inputs that differ in what decides the variable.
            assert len(draw.unique()) > 1
            agree = (draw == setting.targets[variable].classes[0]).double().mean()
            assert agree < 0.9


def test_splits_come_kind_by_kind() -> None:
    trained_on = ADDITION.domain()[::2]
    spec = spec_of(
        "answer",
        splits=("network", "grouped", "out_of_distribution"),
        held_out_by="a",
        seeds=(0, 5),
    )
    setting = make_setting(SMALL, spec, network_train=trained_on)
    assert setting.splits.names == (
        *("network/0", "network/5", "grouped/0", "grouped/5"),
        *("out_of_distribution/0", "out_of_distribution/5"),
    )
    assert setting.kinds() == {
        "network": slice(0, 2),
        "grouped": slice(2, 4),
        "out_of_distribution": slice(4, 6),
    }
    inputs = setting.examples.inputs.tolist()
    seen = {tuple(sorted(pair)) for pair in trained_on.tolist()}
    for i in range(2):
        sides = setting.splits
        for row, pair in enumerate(inputs):
            # Held out: exactly those of which the network saw neither order.
            assert bool(sides.held_out[i, row]) is (tuple(sorted(pair)) not in seen)
            used = bool(sides.train[i, row] | sides.validate[i, row])
            assert used is (pair in trained_on.tolist())
        a = setting.examples.variables["a"]
        out, other = a[sides.held_out[4 + i]], a[sides.train[4 + i]]
        assert not set(out.tolist()) & set(other.tolist())
        assert len(out.unique()) == 1  # a fifth of 7 values
    assert not torch.equal(setting.splits.train[0], setting.splits.train[1])

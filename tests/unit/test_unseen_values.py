"""Which inputs are asked about, and what probes are asked of values that they have not seen."""

import pytest
import torch
from torch import Tensor

from probes.asked import asked_inputs
from probes.unseen_values import new_inputs_question, new_values_question

SQUARES_MOD_13 = torch.tensor([a * a % 13 for a in range(13)])


def test_every_held_out_input_is_asked_as_often() -> None:
    """Ten of twenty, drawn by 400 words: each input 200 times, give or take 10; 5 deviations."""
    held_out = torch.arange(40) % 2 == 1
    draws = [asked_inputs(held_out, 10, "draw", i) for i in range(400)]
    for draw in draws:
        assert draw.tolist() == sorted(set(draw.tolist())) and len(draw) == 10
    times = torch.cat(draws).bincount(minlength=40)
    assert (times[~held_out] == 0).all()
    assert ((times[held_out] - 200).abs() <= 50).all()


def test_words_decide_which_inputs_are_asked() -> None:
    held_out = torch.ones(50, dtype=torch.bool)
    first = asked_inputs(held_out, 20, "one")
    torch.rand(3)  # of another generator
    assert torch.equal(asked_inputs(held_out, 20, "one"), first)
    assert not torch.equal(asked_inputs(held_out, 20, "two"), first)


@pytest.mark.parametrize("most", [3, 4])
def test_all_are_asked_where_there_are_no_more(most: int) -> None:
    held_out = torch.tensor([False, True, True, False, True])
    assert asked_inputs(held_out, most).tolist() == [1, 2, 4]


def asked(table: Tensor, each: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Types, classes and values of inputs of which each type has several."""
    types = torch.arange(len(table)).repeat(each)
    values, classes = torch.unique(table[types], return_inverse=True)
    return types, classes, values


def test_unseen_values_have_classes_to_learn() -> None:
    """Of the six pairs a, -a mod 13, three give a held-out value, and two (a quarter of six, 1.5,
    rounded to even) one that validates; each other value trains, and every input of a value is on
    its side."""
    types, classes, values = asked(SQUARES_MOD_13)
    question = new_values_question(types, classes, values, seeds=(0, 1, 2))
    assert question is not None and question.ceiling == 1
    drawn = set()
    for splits in question.splits:
        held_out, validate, train = (
            set(types[side[0]].tolist())
            for side in (splits.held_out, splits.validate, splits.train)
        )
        assert (len(held_out), len(validate), len(train)) == (3, 2, 8)
        assert all((-a) % 13 in train for a in held_out | validate)
        assert 0 not in held_out | validate
        drawn.add(frozenset(held_out))
    assert len(drawn) == 3


def test_relabelled_values_can_be_learned_as_well() -> None:
    """As many values of each class on each side, so that the control has the same ceiling."""
    types, classes, values = asked(SQUARES_MOD_13)
    question = new_values_question(types, classes, values, seeds=(0, 1))
    assert question is not None
    for splits, targets in zip(question.splits, question.targets, strict=True):
        assert torch.equal(targets.classes[0], classes)
        assert len(targets.names) == 3
        for labels in targets.classes[1:]:
            assert not torch.equal(labels, classes)
            for side in (splits.train[0], splits.validate[0], splits.held_out[0]):
                assert torch.equal(labels[side].sort().values, classes[side].sort().values)
            assert all(len(labels[types == a].unique()) == 1 for a in range(13))


def test_no_unseen_values_where_none_share_a_class() -> None:
    assert new_values_question(*asked(torch.arange(13)), seeds=(0,)) is None
    assert new_values_question(*asked(torch.tensor([0, 1, 2, 0, 1, 2])), seeds=(0,)) is None
    assert new_values_question(*asked(torch.tensor([0, 1, 0, 1, 0, 1])), seeds=(0,)) is not None


def test_new_inputs_keep_the_values_and_relabel_them_whole() -> None:
    types, classes, values = asked(SQUARES_MOD_13, each=9)
    groups = torch.arange(len(types))
    question = new_inputs_question(types, classes, values, groups, seeds=(0, 1))
    (splits,), (targets,) = question.splits, question.targets
    assert splits.names == ("seed_0", "seed_1") and len(targets.names) == 3
    for labels in targets.classes[1:]:
        assert not torch.equal(labels, classes)
        of_type = torch.stack([labels[types == a] for a in range(13)])
        assert (of_type == of_type[:, :1]).all()
        expected = torch.stack([classes[types == a][0] for a in range(13)]).sort().values
        assert torch.equal(of_type[:, 0].sort().values, expected)


def test_the_ceiling_is_the_share_of_known_classes() -> None:
    """Counted input by input, where classes are so many that some are never in training."""
    types = torch.arange(40)
    classes = types // 2
    question = new_inputs_question(types, classes, torch.arange(20), types, seeds=(0, 1))
    shares = []
    for train, held_out in zip(question.splits[0].train, question.splits[0].held_out, strict=True):
        known = set(classes[train].tolist())
        mine = classes[held_out].tolist()
        shares.append(sum(k in known for k in mine) / len(mine))
    assert 0 < question.ceiling < 1
    assert question.ceiling == pytest.approx(sum(shares) / 2, abs=1e-12)

"""Metrics on logits small enough to work out, and pairs that can be told apart."""

import math

import jaxtyping
import pytest
import torch

from workbench.errors import MetricError, PairError, TaskError
from workbench.metrics import (
    Metric,
    accuracy,
    kl_divergence,
    log_probability,
    logit_difference,
    make_metric,
)
from workbench.pairs import (
    MOST_PAIRS,
    Pairs,
    draw_mixed_pairs,
    draw_pairs,
    pairs_from_text,
    pairs_of_all_inputs,
    usual_corruptions,
)
from workbench.task import make_task

# One input, two answer tokens, two outputs.
LOGITS = torch.tensor([[[math.log(3.0), 0.0], [0.0, math.log(4.0)]]], dtype=torch.float64)
ANSWER, WRONG = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
BOTH, FIRST = torch.tensor([[True, True]]), torch.tensor([[True, False]])


def assert_is(value: torch.Tensor, expected: float) -> None:
    torch.testing.assert_close(value, torch.tensor([expected], dtype=torch.float64))


def test_metrics_by_hand() -> None:
    assert_is(logit_difference(LOGITS, ANSWER, WRONG, FIRST), math.log(3))
    assert_is(logit_difference(LOGITS, ANSWER, WRONG, BOTH), math.log(12) / 2)
    assert_is(log_probability(LOGITS, ANSWER, FIRST), math.log(3 / 4))
    assert_is(log_probability(LOGITS, ANSWER, BOTH), math.log(3 / 4 * 4 / 5) / 2)
    # KL((3/4, 1/4) || (1/2, 1/2)) on the first token.
    flat = torch.zeros_like(LOGITS)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert_is(kl_divergence(flat, LOGITS, FIRST), expected)
    assert_is(kl_divergence(LOGITS, LOGITS, BOTH), 0.0)
    assert_is(accuracy(LOGITS, ANSWER, BOTH), 1.0)
    assert_is(accuracy(LOGITS, torch.tensor([[0, 0]]), BOTH), 0.0)
    assert_is(accuracy(LOGITS, torch.tensor([[0, 0]]), FIRST), 1.0)


def test_a_cell_axis_comes_through() -> None:
    cells = torch.stack([LOGITS, -LOGITS, 2 * LOGITS])
    value = logit_difference(cells, ANSWER, WRONG, FIRST)
    expected = math.log(3) * torch.tensor([[1.0], [-1.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(value, expected)


def test_a_metric_that_cannot_be() -> None:
    with pytest.raises(MetricError, match="one number per input"):
        Metric(name="sum", function=lambda x: x.sum())(LOGITS)
    with pytest.raises(MetricError, match="returned NaN"):
        Metric(name="bad", function=lambda x: x.sum((-1, -2)) * torch.nan)(LOGITS)
    for got, match in (
        (1.5, "1.5"),
        (LOGITS.argmax(-1)[:, 0], "torch.int64 numbers"),
        (LOGITS[:, 0, 0] > 0, "torch.bool numbers"),
    ):
        with pytest.raises(MetricError, match=f"metric odd returned {match}.*float tensor"):
            Metric(name="odd", function=lambda x, got=got: got)(LOGITS)
    with pytest.raises(MetricError, match=r"metric big returned infinity .* are finite"):
        Metric(name="big", function=lambda x: x.sum((-1, -2)) * torch.inf)(LOGITS)
    hidden = make_metric(
        "log_probability", answer=WRONG, wrong_answer=ANSWER, clean_logits=LOGITS, scored=BOTH
    )
    with pytest.raises(MetricError, match=r"metric log_probability returned infinity .* are not"):
        hidden(LOGITS.masked_fill(LOGITS == 0, -torch.inf))
    with pytest.raises(MetricError, match="did you mean 'accuracy'"):
        make_metric("acuracy", answer=ANSWER, wrong_answer=WRONG, clean_logits=LOGITS, scored=BOTH)


ADDITION = make_task("modular_addition", {"p": 7})


def test_drawn_pairs_differ_in_what_they_say_and_in_the_answer() -> None:
    pairs = draw_pairs(ADDITION, "change_a", 20, torch.Generator().manual_seed(0))
    assert len(pairs) == 20
    assert (pairs.clean[:, 1] == pairs.corrupted[:, 1]).all()
    assert (pairs.answer != pairs.wrong_answer).all()
    assert pairs.scored.all()
    mixed = draw_mixed_pairs(
        ADDITION, usual_corruptions(ADDITION), 5, torch.Generator().manual_seed(0)
    )
    changed = (mixed.clean != mixed.corrupted).tolist()
    assert changed == [[True, False]] * 3 + [[False, True]] * 2
    with pytest.raises(PairError, match="another answer"):
        draw_pairs(ADDITION, "keep_answer", 3, torch.Generator().manual_seed(0))
    with pytest.raises(TaskError, match="did you mean 'change_a'"):
        draw_pairs(ADDITION, "chnge_a", 3, torch.Generator().manual_seed(0))
    with pytest.raises(PairError, match="at least one"):
        draw_pairs(ADDITION, "change_a", 0, torch.Generator().manual_seed(0))
    for n in (MOST_PAIRS + 1, 10**15):
        with pytest.raises(PairError, match="at most 1,000,000 at once; use fewer"):
            draw_pairs(ADDITION, "change_a", n, torch.Generator().manual_seed(0))
        with pytest.raises(PairError, match="at most 1,000,000"):
            draw_mixed_pairs(ADDITION, ["change_a", "change_b"], n, torch.Generator())


def test_every_input_is_a_clean_one_once() -> None:
    hows = usual_corruptions(ADDITION)
    pairs = pairs_of_all_inputs(ADDITION, hows, torch.Generator().manual_seed(1))
    assert sorted(map(tuple, pairs.clean.tolist())) == [(a, b) for a in range(7) for b in range(7)]


def test_digits_are_scored_where_they_differ() -> None:
    task = make_task("digit_addition", {"n_digits": 2})
    pairs = pairs_from_text(task, ["12 + 34 ="], ["12 + 38 ="])  # 46 and 50: both digits differ
    assert pairs.scored.tolist() == [[True, True, False]]
    pairs = pairs_from_text(task, ["12 + 34 ="], ["12 + 35 ="])
    assert pairs.scored.tolist() == [[True, False, False]]


def test_what_is_no_pair() -> None:
    with pytest.raises(PairError, match="the same answer"):
        pairs_from_text(ADDITION, ["1 + 2 ="], ["2 + 1 ="])
    with pytest.raises(PairError, match="1 clean and 0 corrupted"):
        pairs_from_text(ADDITION, ["1 + 2 ="], [])
    with pytest.raises(PairError, match="row by row"):
        inputs = torch.tensor([[1, 2], [1, 3]])
        Pairs(task=ADDITION, clean=inputs, corrupted=inputs[:1])


def test_inputs_of_pairs_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of the tests
    inputs = torch.tensor([[1, 2], [1, 3]])
    with pytest.raises(PairError, match=r"clean inputs are torch.float32 \[2, 2\]"):
        Pairs(task=ADDITION, clean=inputs.float(), corrupted=inputs)
    with pytest.raises(PairError, match=r"corrupted inputs are torch.bool"):
        Pairs(task=ADDITION, clean=inputs, corrupted=inputs > 1)
    with pytest.raises(PairError, match=r"torch.int64 \[2\]"):
        Pairs(task=ADDITION, clean=inputs[0], corrupted=inputs[0])

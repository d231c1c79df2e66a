"""Probing one network: what is found, and what does not change it."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from probes import probing as probing_module
from probes.method import (
    methods,
)
from probes.probing import ProbeReport, probe_hook, probe_network
from probes.rows import Row
from probes.setting import Setting, make_setting
from probes.summary import Line, summarise
from tests.unit.probed_networks import adder, random_subject
from tests.unit.probing_one import SMALL, probe, spec_of
from workbench.progress import Progress, finish, part
from workbench.subject import with_params
from workbench.task import Inputs, make_task

P = 11


@pytest.fixture(scope="module")
def adder_report() -> tuple[Setting, ProbeReport, list[Line]]:
    spec = spec_of("a", "b", "answer", n_permutations=199, n_random_erasures=9)
    subject = adder(P)
    report = probe(subject, spec)
    return make_setting(subject, spec), report, summarise(report.rows)


def where(lines: Sequence[Line], rule: str) -> set[tuple[str, str]]:
    return {
        (line.variable, f"{line.place.removeprefix('blocks.0.hook_resid_')}@{line.position}")
        for line in lines
        if getattr(line, rule)
    }


def test_each_variable_is_found_where_the_network_writes_it_and_nowhere_else(
    adder_report: tuple[Setting, ProbeReport, list[Line]],
) -> None:
    lines = adder_report[2]
    assert len(lines) == 3 * 9
    assert where(lines, "decodable") == {
        *(("a", at) for at in ("pre@0", "mid@0", "mid@1", "mid@2", "post@0", "post@1", "post@2")),
        *(("b", at) for at in ("pre@1", "mid@1", "mid@2", "post@1", "post@2")),
        ("answer", "post@2"),
    }
    for line in lines:
        # One-hot classes are read without a mistake. Elsewhere what is seen excludes the classes
        # that it was seen with, so that a probe does no better than chance, 1 in 11.
        assert line.accuracy == 1 if line.decodable else line.accuracy < 0.09


def test_only_what_the_network_computes_is_selective(
    adder_report: tuple[Setting, ProbeReport, list[Line]],
) -> None:
    # Any function of one token can be read where the token is: the control task of a and b.
    assert where(adder_report[2], "selective") == {("answer", "post@2")}


def test_only_what_the_network_goes_on_to_read_is_used(
    adder_report: tuple[Setting, ProbeReport, list[Line]],
) -> None:
    lines = adder_report[2]
    assert where(lines, "used") == {("a", "mid@2"), ("b", "mid@2"), ("answer", "post@2")}
    for line in lines:
        assert line.answer_accuracy == 1
        if line.used:
            # One answer for all inputs: of 11 answers, one is it.
            assert line.erased_accuracy is not None and line.erased_accuracy < 0.2
            assert line.rank == P - 1
        if line.position < 2 and not line.hook.endswith("pre"):
            assert line.erased_accuracy == 1
            assert line.random_erased_lowest in (1, None)
    # Where a variable is all that a site holds, there is no other erasure of as many directions.
    alone = [line for line in lines if line.decodable and line.used is None]
    assert where(alone, "decodable") == {
        *(("a", at) for at in ("pre@0", "mid@0", "post@0")),
        ("b", "pre@1"),
    }


def test_weights_are_those_of_the_probes(
    adder_report: tuple[Setting, ProbeReport, list[Line]],
) -> None:
    setting, report, _ = adder_report
    hook = "blocks.0.hook_resid_post"
    coef = report.weights[f"{hook}.answer.ridge.coef"]
    intercept = report.weights[f"{hook}.answer.ridge.intercept"]
    width, grid = 4 * P + 3, methods.get("ridge").grid
    assert coef.shape == (len(grid), 3, 3, P, width)
    assert len(report.weights) == 3 * 3 * 2
    x = probing_module.read_activations(
        setting.subject.params,
        setting.examples.tokens,
        setting.subject.config,
        probing_module.make_sites(setting.subject.config, hooks=[hook]),
    )
    truth = setting.examples.variables["answer"]
    rows = [row for row in report.rows if row.hook == hook and row.variable == "answer"]
    for row in rows:
        if row.metric == "accuracy" and row.strength is not None:
            s, split = grid.index(row.strength), setting.splits.names.index(row.split)
            at = (s, split, row.position)
            made = (x[row.position] @ coef[at].T + intercept[at]).argmax(-1)
            held_out = setting.splits.held_out[split]
            assert row.value == pytest.approx(
                float((made == truth)[held_out].double().mean()), abs=1e-12
            )
            assert (row.n, row.n_train) == (
                int(held_out.sum()),
                int(setting.splits.train[split].sum()),
            )


def test_answers_are_asked_all_over_the_domain() -> None:
    # The domain is in ascending order: the first 30 of its held-out inputs all have a < 10, whose
    # sums hardly ever wrap.
    subject = adder(23)
    silent = with_params(subject, {name: 0 * value for name, value in subject.params.items()})
    spec = spec_of("wraps", n_asked=30, hooks=("hook_embed",), positions=(0,), controls=())
    asked: list[Inputs] = []
    real = probing_module.erase_and_ask

    def record(*args: Any, **options: Any) -> Any:
        asked.append(args[4])
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing_module, "erase_and_ask", record)
        report = probe(silent, spec)
    setting = make_setting(silent, spec)
    held_out = setting.examples.inputs[setting.splits.held_out[0]]
    assert len(asked[0]) == 30 < len(held_out)
    assert {tuple(row) for row in asked[0].tolist()} <= {tuple(row) for row in held_out.tolist()}
    # 30 draws of 23 values all miss the last four, or the first four, once in 200 seeds each.
    assert int(asked[0][:, 0].max()) > 18 and int(asked[0][:, 0].min()) < 4
    rows = [row for row in report.rows if row.metric == "answer_accuracy"]
    assert {row.n for row in rows} == {30}


def same(ours: Sequence[Row], theirs: Sequence[Row]) -> None:
    """Rows equal, in order, to rounding (batched products of another size add up otherwise)."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        left, right = one.to_dict(), other.to_dict()
        for key in ("objective", "gap", "value", "low", "high"):
            first, second = left.pop(key), right.pop(key)
            assert first == second or first == pytest.approx(second, rel=1e-9, abs=1e-12), key
        assert left == right


FULL = spec_of(
    "a", "wraps", hooks=("blocks.0.hook_resid_post", "blocks.0.attn.hook_z"), seeds=(0, 1)
)


@pytest.fixture(scope="module")
def full_rows() -> list[Row]:
    return probe(SMALL, FULL).rows


def test_the_same_question_has_the_same_rows(full_rows: list[Row]) -> None:
    assert probe(SMALL, FULL).rows == full_rows


def test_variables_and_hooks_do_not_depend_on_what_is_probed_beside_them(
    full_rows: list[Row],
) -> None:
    turned = probe(SMALL, spec_of("wraps", "a", hooks=FULL.hooks, seeds=(0, 1))).rows
    for variable in "a", "wraps":
        mine, theirs = (
            [row for row in rows if row.variable == variable] for rows in (full_rows, turned)
        )
        assert mine == theirs
    for hook in FULL.hooks or ():
        alone = finish(probe_hook(make_setting(SMALL, FULL), hook)).rows
        assert alone == [row for row in full_rows if row.hook == hook]


def test_sites_do_not_depend_on_the_sites_beside_them(full_rows: list[Row]) -> None:
    some = spec_of("a", "wraps", hooks=FULL.hooks, seeds=(0, 1), positions=(2,))
    same(probe(SMALL, some).rows, [row for row in full_rows if row.position == 2])


def test_sites_in_chunks_have_the_same_rows_and_weights(
    full_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = ("blocks.0.attn.hook_z",)
    spec = spec_of("a", "wraps", hooks=hooks, seeds=(0, 1))
    whole = probe(SMALL, spec).weights
    monkeypatch.setattr(probing_module, "CHUNK_BYTES", 1)
    parts = probe(SMALL, spec)
    of_hook = [row for row in full_rows if row.hook in hooks]

    def key(row: Row) -> tuple[str, str, int, int]:
        return row.hook, row.variable, row.head or 0, row.position

    same(sorted(parts.rows, key=key), sorted(of_hook, key=key))
    assert parts.weights.keys() == whole.keys()
    for name, tensor in parts.weights.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-8, atol=1e-10)  # rounding


def test_single_and_double_precision_agree() -> None:
    subject = adder(7)
    settings: dict[str, Any] = {"hooks": ("blocks.0.hook_resid_post",), "seeds": (0, 1)}
    double, single = (
        probe(subject, spec_of("a", "answer", dtype=dtype, **settings)).rows
        for dtype in ("float64", "float32")
    )
    assert len(double) == len(single)
    for ours, theirs in zip(double, single, strict=True):
        if ours.control in ("random_subspace", "norm_matched", "untrained", "random_erased"):
            continue  # equal variances have no one basis to draw in, and near-ties fall either way
        assert (ours.value, ours.p, ours.rank) == pytest.approx(
            (theirs.value, theirs.p, theirs.rank), abs=1e-6
        )


def test_progress_goes_up_to_the_end() -> None:
    seen = list(probe_network(SMALL, FULL))
    shares = [step.done / step.total for step in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0 and 0.8 < shares[-1] < 1
    # Two hooks, two variables; a probe, its three other spaces, and the erasure.
    assert len(seen) == 2 * 2 * (1 + 3 + 1)


def test_a_part_of_the_progress_is_in_hundredths() -> None:
    def steps() -> Any:
        yield Progress(0, 4, "first")
        yield Progress(3, 4, "last")
        return "made"

    half = part(steps(), 1, 2)
    assert [next(half), next(half)] == [Progress(100, 200, "first"), Progress(175, 200, "last")]
    assert finish(part(steps(), 0, 2)) == "made"
    assert list(part(iter_nothing(), 0, 1)) == [Progress(0, 100, "nothing")]


def iter_nothing() -> Any:
    yield Progress(0, 0, "nothing")


def test_a_control_task_costs_more_bits_than_what_the_network_computes() -> None:
    subject = adder(7)
    spec = spec_of(
        "answer",
        hooks=("blocks.0.hook_resid_post",),
        positions=(2,),
        probes=("logistic", "ridge"),
        seeds=(0, 1),
        controls=("control_task", "shuffled"),
        codelength=True,
        erase=False,
    )
    rows = [row for row in probe(subject, spec).rows if row.metric == "bits"]
    assert {row.probe for row in rows} == {"logistic"}  # ridge gives no probabilities
    by_control: dict[str, list[float]] = {}
    for row in rows:
        assert row.n == 49
        by_control.setdefault(row.control, []).append(row.value)
    assert {name: len(values) for name, values in by_control.items()} == {
        **{"none": 1, "control_task": 2, "shuffled": 2, "uniform": 1},
    }
    assert by_control["uniform"] == [pytest.approx(49 * math.log2(7))]
    assert by_control["none"][0] < 0.8 * min(by_control["control_task"])
    # What has nothing to do with the activations costs more than without them.
    assert by_control["none"][0] < by_control["uniform"][0] < min(by_control["shuffled"])
    assert [row.draw for row in rows if row.control == "control_task"] == [0, 1]


def test_digit_addition_is_probed_at_every_answer_position() -> None:
    digits = make_task("digit_addition", {"n_digits": 2})
    subject = random_subject(digits)
    spec = spec_of(
        "carry_1",
        n_inputs=400,
        positions=(-1, 5),
        hooks=("blocks.0.hook_resid_post",),
        seeds=(0,),
        n_asked=50,
    )
    lines = summarise(probe(subject, spec).rows)
    assert [line.position for line in lines] == [7, 5]
    right = make_setting(subject, spec)
    tokens = right.examples.tokens
    assert tokens.shape == (400, digits.n_ctx)
    for line in lines:
        assert line.n_asked == 50
        assert line.control_accuracy is not None


@pytest.mark.parametrize("name", [name for name in methods.names() if name != "mlp"])
def test_every_kind_of_probe_is_measured_beside_every_control(name: str) -> None:
    """On two classes (a random subspace of one dimension) and heads narrower than some grids.

    MLPs train for seconds; their contract with the driver is that of the others.
    """
    spec = spec_of(
        "wraps",
        hooks=("blocks.0.attn.hook_z",),
        positions=(2,),
        probes=(name,),
        seeds=(0, 1),
        n_permutations=39,
        erase=False,
    )
    report = probe(SMALL, spec)
    lines = summarise(report.rows)
    assert [(line.head, line.probe) for line in lines] == [(0, name), (1, name)]
    for line in lines:
        assert None not in (line.control_accuracy, line.shuffled_accuracy, line.selective)
        assert None not in (line.random_subspace_accuracy, line.norm_matched_accuracy)
    tried = {row.strength for row in report.rows if row.strength is not None}
    assert tried
    for tensor in report.weights.values():
        assert tensor.shape[:3] == (len(tried), 2, 2)  # strength, split, site
    for split in ("grouped/0", "grouped/1"):
        for head in range(2):
            chosen = [
                row.chosen
                for row in report.rows
                if (row.split, row.head, row.control) == (split, head, "none")
            ]
            assert len(chosen) == len(tried) and sum(chosen) == 1

"""Probing one network: what is fitted, what is reported, what is refused."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from probes import probing as probing_module
from probes.controls import shuffled
from probes.design import Design
from probes.draws import generator_of
from probes.examples import distinct, make_examples
from probes.measure import Measured, measure
from probes.method import (
    Asked,
    Fitted,
    LinearFitted,
    Repeats,
    closed_form,
    make_targets,
    methods,
)
from probes.probing import ProbeReport, probe_hook, probe_network
from probes.rows import Row
from probes.setting import Setting, make_setting
from probes.spec import ProbeSpec
from probes.splits import grouped_splits
from probes.summary import Line, summarise
from tests.unit import small_run
from tests.unit.probed_networks import adder, random_subject
from workbench.errors import HookError, ProbeError, RunError, TaskError, UnknownName, WorkbenchError
from workbench.progress import Progress, finish, part
from workbench.run import open_run
from workbench.subject import Subject, subject_of, with_params
from workbench.task import Inputs, make_task

RESID = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post")
ADDITION = make_task("modular_addition", {"p": 7})
SMALL = random_subject(ADDITION, seed=1, scale=3.0)


def spec_of(*variables: str, **changes: Any) -> ProbeSpec:
    """Small, exact and reproducible."""
    settings: dict[str, Any] = {"n_permutations": 39, "n_random_erasures": 3, "dtype": "float64"}
    return ProbeSpec(variables=variables, **{**settings, **changes})


def probe(subject: Subject, spec: ProbeSpec, **options: Any) -> ProbeReport:
    return finish(probe_network(subject, spec, **options))


# ---------------------------------------------------------------------- measure

K = 3
STRENGTHS = (0.01, 3.0, 300.0)


class Problem:
    """Two sites, two splits, three label sets; pairs of inputs are groups.

    The second site is noise in as many dimensions as inputs train, so that strengths differ.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.classes = torch.randint(K, (3, 80), generator=generator)
        self.x = torch.randn(2, 80, 40, generator=generator, dtype=torch.float64)
        self.x[0, :, :K] += 4 * torch.eye(K).double()[self.classes[0]]
        self.groups = torch.arange(80) // 2
        self.splits = grouped_splits(self.groups, seeds=(0, 1))
        self.design = Design(self.x, self.splits.train.double())
        self.targets = make_targets(self.classes, torch.arange(K))

    def measure(self, **options: Any) -> Measured:
        return measure(
            methods.get("ridge")(), STRENGTHS, self.design, self.targets, self.splits, **options
        )

    def scores(self, strength: int, split: int, site: int, label: int) -> np.ndarray:
        """What scikit-learn makes of it, for all inputs."""
        rows = self.splits.train[split].numpy()
        one_hot = np.eye(K)[self.classes[label].numpy()]
        x = self.x[site].numpy()
        found: np.ndarray = Ridge(STRENGTHS[strength]).fit(x[rows], one_hot[rows]).predict(x)
        return found


def test_accuracies_choice_and_correctness_are_scikit_learns() -> None:
    problem = Problem()
    found = problem.measure()
    assert found.p is None
    chosen_once = set()
    for split in range(2):
        validate, held_out = (
            side[split].numpy() for side in (problem.splits.validate, problem.splits.held_out)
        )
        for site in range(2):
            for label in range(3):
                truth = problem.classes[label].numpy()
                right = np.stack(
                    [
                        problem.scores(s, split, site, label).argmax(1) == truth
                        for s in range(len(STRENGTHS))
                    ]
                )
                at = (slice(None), split, site, label)
                if label == 0:
                    np.testing.assert_allclose(found.held_out[at], right[:, held_out].mean(1))
                np.testing.assert_allclose(found.validation[at], right[:, validate].mean(1))
                best = int(right[:, validate].sum(1).argmax())  # the first of equals, as numpy's
                assert int(found.chosen[split, site, label]) == best
                assert found.correct[split, site, label].tolist() == list(right[best] & held_out)
                accuracy = float(found.accuracy()[split, site, label])
                assert accuracy == pytest.approx(right[best, held_out].mean())
                chosen_once.add(best)
    assert len(chosen_once) > 1  # there was something to choose


def test_permutation_p_is_that_of_a_slow_test() -> None:
    problem = Problem()
    found = problem.measure(seed=4, n_permutations=99)
    assert found.p is not None
    for split in range(2):
        held_out = problem.splits.held_out[split]
        classes = problem.classes[0, held_out]
        draws = shuffled(
            classes,
            problem.groups[held_out],
            generator_of("permutation", problem.splits.names[split], 4),
            99,
        )
        for site in range(2):
            strength = int(found.chosen[split, site, 0])
            scores = problem.scores(strength, split, site, 0)[held_out.numpy()]

            def worth(labels: Tensor, scores: np.ndarray = scores) -> tuple[int, float]:
                """Right answers; of equals, the score of the labels (12 digits: rounding)."""
                right = scores.argmax(1) == labels.numpy()
                return int(right.sum()), round(float(scores[range(len(labels)), labels].sum()), 12)

            hits = sum(worth(draw) >= worth(classes) for draw in draws)
            assert float(found.p[split, site]) == pytest.approx((hits + 1) / 100)
    # The sites choose different strengths, so that p is of each site's own.
    assert bool((found.chosen[:, 0, 0] != found.chosen[:, 1, 0]).any())
    assert float(found.p[:, 0].max()) == 0.01  # the planted variable
    assert float(found.p[:, 1].min()) > 0.05  # noise, with this seed


def test_permutation_p_agrees_with_other_permutations() -> None:
    # Groups of one: any order of the labels is as likely as any other.
    problem = Problem()
    problem.splits = grouped_splits(torch.arange(80), seeds=(3,))
    problem.x[0, :, :K] -= 3.0 * torch.eye(K).double()[problem.classes[0]]  # weakly there
    problem.design = Design(problem.x, problem.splits.train.double())
    found = problem.measure(n_permutations=1999)
    assert found.p is not None
    draw = np.random.default_rng(0)
    held_out = problem.splits.held_out[0].numpy()
    labels = problem.classes[0].numpy()[held_out]
    for site in range(2):
        scores = problem.scores(int(found.chosen[0, site, 0]), 0, site, 0)[held_out]
        right = scores.argmax(1)

        def worth(y: np.ndarray, scores: np.ndarray = scores, right: np.ndarray = right) -> float:
            return float((right == y).sum() + 1e-6 * scores[np.arange(len(y)), y].sum())

        worths = [worth(draw.permutation(labels)) for _ in range(2000)]
        slow = float(np.mean(np.array(worths) >= worth(labels)))
        # Four standard deviations of the difference of two shares of 2,000 draws.
        assert float(found.p[0, site]) == pytest.approx(
            slow, abs=4 * math.sqrt(2 * max(slow * (1 - slow), 0.01) / 2000)
        )


def test_of_equal_strengths_the_first_is_chosen() -> None:
    problem = Problem()
    found = measure(
        methods.get("ridge")(), (1.0, 1.0), problem.design, problem.targets, problem.splits
    )
    assert not bool(found.chosen.any())


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("budget", [1, 2**20])
def test_what_probes_get_right_is_where_the_first_best_class_is_the_label(
    general: bool, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.method.SCORE_BYTES", budget)
    monkeypatch.setattr("probes.method.BLOCK_BYTES", budget)
    generator = torch.Generator().manual_seed(0)
    n, k = 150, 4  # more than one block of 64
    of = torch.randint(5, (n,), generator=generator)
    # Whole numbers: scores are exact, and often equal. The second site has five activations.
    x = torch.randint(-2, 3, (2, n, 3), generator=generator).double()
    x[1] = x[1, :5][of]
    coef = torch.randint(-1, 2, (2, 1, 2, 3, k, 3), generator=generator).double()
    intercept = torch.randint(-1, 2, (2, 1, 2, 3, k), generator=generator).double()
    fitted = LinearFitted(
        strengths=(1.0, 2.0),
        convergence=closed_form((2, 1, 2, 3), x),
        coef=coef,
        intercept=intercept,
    )
    classes = torch.randint(k, (2, n), generator=generator)
    strengths = torch.tensor([[0, 1], [1, 0]])
    kind = Fitted if general else LinearFitted
    asked = Asked(
        x, [None, Repeats(torch.stack([(of == i).nonzero()[0, 0] for i in range(5)]), of)]
    )
    right = kind.correct(fitted, asked, classes, strengths=strengths, split=0, first=1)
    equal = 0
    for site in range(2):
        for label in range(2):
            at = (strengths[site, label], 0, site, label + 1)
            scores = x[site].numpy() @ coef[at].numpy().T + intercept[at].numpy()
            best = scores.argmax(1)  # the first of equals
            equal += int(((scores == scores.max(1, keepdims=True)).sum(1) > 1).sum())
            assert right[site, label].tolist() == list(best == classes[label].numpy())
    assert equal > 50 and 0 < int(right.sum()) < right.numel()


def test_activations_that_inputs_share_are_scored_once_and_count_for_each() -> None:
    problem = Problem()
    of = torch.arange(80) % 7
    x = problem.x.clone()
    x[1] = x[1, :7][of]
    found, alone = (
        measure(
            methods.get("ridge")(),
            STRENGTHS,
            Design(x + noise, problem.splits.train.double()),
            problem.targets,
            problem.splits,
            n_permutations=19,
        )
        # Noise that makes every activation another one, and changes no prediction.
        for noise in (0.0, 1e-9 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3)))
    )
    assert found.p is not None and alone.p is not None
    assert torch.equal(found.correct, alone.correct)
    assert torch.equal(found.validation, alone.validation)
    assert torch.equal(found.accuracy(), alone.accuracy())


# ---------------------------------------------------------------------- examples and setting


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


# ---------------------------------------------------------------------- a network that is known

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


# ---------------------------------------------------------------------- reproducible


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


# ---------------------------------------------------------------------- codelengths


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


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (spec_of("anwser"), UnknownName, "did you mean 'answer'?"),
        (spec_of(), ProbeError, "no variables given"),
        (spec_of("a", "b", "a"), ProbeError, "variables a, b, a: one is named twice"),
        (spec_of("a", hooks=("blocks.0.hook_resid_psot",)), HookError, "did you mean 'blocks.0"),
        (spec_of("a", hooks=("blocks.0.attn.hook_pattern",)), HookError, "probe hook_z"),
        (spec_of("a", hooks=()), ProbeError, "no hooks given"),
        (spec_of("a", positions=()), ProbeError, "no positions given"),
        (spec_of("a", positions=(3,)), HookError, "inputs have positions 0 to 2"),
        (spec_of("a", positions=(-4,)), HookError, "inputs have positions 0 to 2"),
        (spec_of("a", probes=("rigde",)), UnknownName, "did you mean 'ridge'?"),
        (spec_of("a", probes=()), ProbeError, "no probes given"),
        (spec_of("a", probes=("ridge", "ridge")), ProbeError, "named twice"),
        (
            spec_of("a", strengths={"logistic": (1.0,)}),
            ProbeError,
            "'logistic', which is not among",
        ),
        (spec_of("a", strengths={"logisitc": (1.0,)}), UnknownName, "did you mean 'logistic'?"),
        (spec_of("a", strengths={"ridge": ()}), ProbeError, "no strengths of ridge given"),
        (spec_of("a", strengths={"ridge": (0.0,)}), ProbeError, "above 0"),
        (spec_of("a", seeds=()), ProbeError, "no seeds given"),
        (spec_of("a", seeds=(1, 1)), ProbeError, "named twice"),
        (spec_of("a", splits=()), ProbeError, "no splits given"),
        (spec_of("a", splits=("network",)), ProbeError, "use the split 'grouped'"),
        (spec_of("a", splits=("out_of_distribution",)), ProbeError, "give both or neither"),
        (spec_of("a", held_out_by="b"), ProbeError, "give both or neither"),
        (spec_of("a", held_out_by="c"), UnknownName, "no modular_addition variable 'c'"),
        (
            spec_of("wraps", splits=("out_of_distribution",), held_out_by="wraps"),
            ProbeError,
            "'wraps' is . on all .* split out_of_distribution/0",
        ),
        (spec_of("sum", n_inputs=16), ProbeError, "take at least two inputs a class"),
        (spec_of("a", distribution="carry_heavy"), TaskError, "no modular_addition distribution"),
    ],
)
def test_questions_that_cannot_be_asked(
    spec: ProbeSpec, error: type[WorkbenchError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        probe(SMALL, spec)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [("splits", "gruoped", "'grouped'"), ("controls", "control-task", "'control_task'")],
)
def test_splits_and_controls_that_there_are_not(key: str, name: str, message: str) -> None:
    spec = spec_of("a")
    object.__setattr__(spec, key, (name,))  # as where nothing checks types
    with pytest.raises(UnknownName, match=f"did you mean {message}"):
        probe(SMALL, spec)


def test_a_constant_variable_is_refused() -> None:
    digits = make_task("digit_addition", {"n_digits": 2})
    subject = random_subject(digits)

    class Low(type(digits)):  # type: ignore[misc]
        """Without carries."""

        def variables(self, inputs: Inputs) -> dict[str, Tensor]:
            return {**super().variables(inputs), "carry_1": 0 * inputs[:, 0]}

    task = Low(n_digits=2)
    with pytest.raises(ProbeError, match="'carry_1' is 0 on all 10000 inputs; there is nothing"):
        probe(Subject(params=subject.params, config=subject.config, task=task), spec_of("carry_1"))


def test_training_inputs_that_leave_nothing_to_hold_out() -> None:
    spec = spec_of("answer", splits=("network",))
    with pytest.raises(ProbeError, match="network/0 has no held_out input"):
        probe(SMALL, spec, network_train=ADDITION.domain())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_activations_that_are_no_numbers_are_refused(value: float) -> None:
    double = {name: tensor.double() for name, tensor in SMALL.params.items()}
    subject = Subject(params=double, config=SMALL.config, task=ADDITION)
    double["blocks.0.mlp.b_in"][0] = value
    # 1e300 is a number, but not in the single precision that is asked for.
    spec = spec_of("answer", hooks=("blocks.0.mlp.hook_post",), dtype="float32")
    with pytest.raises(ProbeError, match="hold NaN or infinity") as raised:
        probe(subject, spec)
    assert "\n" not in str(raised.value)


def test_an_incomplete_run_is_refused_unless_a_checkpoint_is_named(tmp_path: Path) -> None:
    small_run.stop_after(tmp_path / "run", 2)
    run = open_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"is incomplete; .*there are: 1, 2"):
        subject_of(run)
    subject = subject_of(run, step=1)
    expected = small_run.params_at(1)
    assert subject.task == run.task and subject.config == small_run.MODEL
    assert all(torch.equal(subject.params[name], expected[name]) for name in expected)


# ---------------------------------------------------------------------- several answer positions


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


# ---------------------------------------------------------------------- every kind of probe


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

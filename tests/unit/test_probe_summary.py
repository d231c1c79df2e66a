"""Every column of a summary, worked out again from what it is said to be."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from probes import probing as probing_module
from probes.controls import shuffled
from probes.draws import generator_of
from probes.method import methods
from probes.probing import probe_network
from probes.rows import Row
from probes.setting import Setting, make_setting
from probes.spec import ProbeSpec
from probes.summary import Line, summarise
from tests.unit.probed_networks import adder, random_subject
from workbench.params import Params, init_params
from workbench.progress import finish
from workbench.task import make_task
from workbench.transformer import forward

# ---------------------------------------------------------------------- from first principles

P = 11
HOOKS = ("blocks.0.hook_resid_mid", "blocks.0.hook_resid_post")
SPEC = ProbeSpec(
    variables=("wraps", "answer"),
    hooks=HOOKS,
    positions=(2,),
    seeds=(2, 7),
    n_permutations=79,
    n_random_erasures=4,
    dtype="float64",
)
GRID = methods.get("ridge").grid


class Oracle:
    """The same question asked of scikit-learn, split by split."""

    def __init__(self, setting: Setting, hook: str, params: Params) -> None:
        subject = setting.subject
        tapped = forward(params, setting.examples.tokens, subject.config, taps=[hook])
        self.x = tapped.activations[hook][:, 2].double().numpy()
        self.splits = setting.splits

    def scores(self, classes: Tensor, split: int, x: np.ndarray | None = None) -> np.ndarray:
        """For all inputs, of the ridge that is best on the validation inputs of the split."""
        x, y = self.x if x is None else x, classes.numpy()
        train, validate = (
            side[split].numpy() for side in (self.splits.train, self.splits.validate)
        )
        one_hot = np.eye(int(y.max()) + 1)[y]
        made = [Ridge(alpha).fit(x[train], one_hot[train]).predict(x) for alpha in GRID]
        found = [(scores.argmax(1) == y)[validate].mean() for scores in made]
        return np.asarray(made[int(np.argmax(found))])

    def right(self, classes: Tensor, split: int, x: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(self.scores(classes, split, x).argmax(1) == classes.numpy())

    def accuracy(
        self, classes: Tensor, x: np.ndarray | None = None, splits: Sequence[int] | None = None
    ) -> float:
        """Mean over splits."""
        held_out = self.splits.held_out.numpy()
        which = range(len(held_out)) if splits is None else splits
        return float(np.mean([self.right(classes, i, x)[held_out[i]].mean() for i in which]))

    def pooled(self, classes: Tensor) -> np.ndarray:
        """Of every input that was held out, how often it was right."""
        times: dict[int, list[bool]] = {}
        for split, rows in enumerate(self.splits.held_out.numpy()):
            right = self.right(classes, split)
            for row in np.nonzero(rows)[0]:
                times.setdefault(int(row), []).append(bool(right[row]))
        return np.array([np.mean(times[row]) for row in sorted(times)])

    def p(self, classes: Tensor, split: int, seed: int, n: int) -> float:
        held_out = self.splits.held_out[split]
        scores, labels = self.scores(classes, split)[held_out.numpy()], classes[held_out]

        def worth(y: Tensor) -> tuple[int, float]:
            """Right answers; of equals, the score of the labels (to 12 digits: rounding)."""
            right = int((scores.argmax(1) == y.numpy()).sum())
            return right, round(float(scores[np.arange(len(y)), y.numpy()].sum()), 12)

        groups = self.splits.groups[held_out]
        generator = generator_of("permutation", self.splits.names[split], seed)
        draws = shuffled(labels, groups, generator, n)
        return (1 + sum(worth(draw) >= worth(labels) for draw in draws)) / (1 + n)


def leace_by_numpy(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Belrose et al. 2023, theorem 4.3, for rows: x -> x @ matrix + offset; and its rank."""
    mean, one_hot = x.mean(0), np.eye(int(y.max()) + 1)[y]
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    kept = values > 1e-10 * values.max()
    root = (vectors[:, kept] * values[kept] ** 0.5) @ vectors[:, kept].T
    whiten = (vectors[:, kept] * values[kept] ** -0.5) @ vectors[:, kept].T
    cross = (x - mean).T @ (one_hot - one_hot.mean(0)) / len(x)
    u, size, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    u = u[:, size > 1e-8]
    erase = root @ u @ u.T @ whiten
    return np.eye(len(mean)) - erase.T, erase @ mean, u.shape[1]


@pytest.fixture(scope="module")
def probed() -> tuple[Setting, list[Row], list[Line]]:
    """With two controls whose draws are replaced by something that can be done again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing_module, "random_subspace", lambda x, rank, _: x[..., :rank])
        patch.setattr(probing_module, "norm_matched", lambda x, _: x.flip(-1).cos())
        rows = finish(probe_network(adder(P), SPEC)).rows
    return make_setting(adder(P), SPEC), rows, summarise(rows)


def test_accuracies_of_a_line_are_scikit_learns(
    probed: tuple[Setting, list[Row], list[Line]],
) -> None:
    setting, _, lines = probed
    twins = [
        init_params(
            setting.subject.config,
            torch.Generator().manual_seed(probing_module.TWINS + SPEC.seeds[0] + draw),
        )
        for draw in range(SPEC.n_untrained)
    ]
    assert [(line.variable, line.hook) for line in lines] == [
        (variable, hook) for hook in HOOKS for variable in SPEC.variables
    ]
    for line in lines:
        oracle = Oracle(setting, line.hook, setting.subject.params)
        targets = setting.targets[line.variable]
        classes, n_classes = targets.classes[0], targets.n_classes
        by_name = {
            name: [targets.classes[i] for i, other in enumerate(targets.names) if other == name]
            for name in ("control_task", "shuffled")
        }
        pooled = oracle.pooled(classes)
        assert (line.probe, line.split, line.position, line.head) == ("ridge", "grouped", 2, None)
        assert line.n == len(pooled)
        rank = n_classes - 1
        untrained = [
            Oracle(setting, line.hook, {k: v.double() for k, v in twin.items()}).accuracy(
                classes, splits=(0,)
            )
            for twin in twins
        ]
        control = float(np.mean([oracle.accuracy(draw) for draw in by_name["control_task"]]))
        expected = {
            "accuracy": float(pooled.mean()),
            "control_accuracy": control,
            "selectivity": float(pooled.mean()) - control,
            "shuffled_accuracy": float(np.mean([oracle.accuracy(y) for y in by_name["shuffled"]])),
            "untrained_accuracy": float(np.mean(untrained)),
            "untrained_sd": float(np.std(untrained, ddof=1)),
            "random_subspace_accuracy": oracle.accuracy(classes, oracle.x[:, :rank]),
            "norm_matched_accuracy": oracle.accuracy(classes, np.cos(oracle.x[:, ::-1])),
            "majority_accuracy": majority(setting, classes),
            "p": min(
                1.0,
                2 * np.mean([oracle.p(classes, i, SPEC.seeds[0], 79) for i in range(2)]),
            ),
        }
        for name, value in expected.items():
            assert getattr(line, name) == pytest.approx(value, abs=1e-9), (line, name)
    # The question is worth asking: not all is right or wrong.
    assert any(0.5 < line.accuracy < 1 for line in lines)


def majority(setting: Setting, classes: Tensor) -> float:
    shares = []
    for train, held_out in zip(setting.splits.train, setting.splits.held_out, strict=True):
        counts = Counter(classes[train].tolist())
        commonest = min(k for k, count in counts.items() if count == max(counts.values()))
        shares.append(float((classes[held_out] == commonest).double().mean()))
    return float(np.mean(shares))


def test_the_interval_resamples_groups_of_inputs(
    probed: tuple[Setting, list[Row], list[Line]],
) -> None:
    setting, _, lines = probed
    line = next(line for line in lines if line.variable == "wraps" and line.accuracy < 1)
    pooled = Oracle(setting, line.hook, setting.subject.params).pooled(
        setting.targets["wraps"].classes[0]
    )
    held = setting.splits.held_out.any(0)
    groups = setting.splits.groups[held].numpy()
    by_group = [pooled[groups == group] for group in np.unique(groups)]
    draw = np.random.default_rng(0)
    means = []
    for _ in range(4000):
        taken = draw.integers(len(by_group), size=len(by_group))
        means.append(np.concatenate([by_group[i] for i in taken]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    # Percentile and BCa ends differ by skewness and by luck, here by well below a quarter of it.
    width = high - low
    assert line.low == pytest.approx(low, abs=0.25 * width)
    assert line.high == pytest.approx(high, abs=0.25 * width)
    assert line.low < line.accuracy < line.high


def test_erased_accuracies_are_those_of_an_erasure_by_numpy(
    probed: tuple[Setting, list[Row], list[Line]],
) -> None:
    setting, rows, lines = probed
    subject, splits = setting.subject, setting.splits
    held_out, train = splits.held_out[0], splits.train[0].numpy()
    tokens = setting.examples.tokens[held_out]
    truth = subject.task.solve(setting.examples.inputs[held_out])[:, 0]
    for line in lines:
        oracle = Oracle(setting, line.hook, subject.params)
        y = setting.targets[line.variable].classes[0].numpy()
        matrix, offset, rank = leace_by_numpy(oracle.x[train], y[train])

        def edit(
            activation: Tensor, matrix: np.ndarray = matrix, offset: np.ndarray = offset
        ) -> Tensor:
            edited = activation.clone()
            mapped = activation[:, 2].numpy() @ matrix + offset
            edited[:, 2] = torch.from_numpy(mapped)
            return edited

        made = forward(subject.params, tokens, subject.config, edits={line.hook: edit})
        right = (made.logits[:, -1].argmax(-1) == truth).double().mean()
        assert line.erased_accuracy == pytest.approx(float(right))
        assert (line.rank, line.answer_accuracy, line.n_asked) == (rank, 1.0, int(held_out.sum()))
        random = [
            row.value
            for row in rows
            if (row.variable, row.hook, row.control) == (line.variable, line.hook, "random_erased")
        ]
        assert line.n_random == len(random) == 4
        assert line.random_erased_lowest == min(random)
        assert line.random_erased_accuracy == pytest.approx(sum(random) / 4)
        assert line.erased_low is not None and line.erased_high is not None
        assert line.erased_low <= float(right) <= line.erased_high
    assert len({line.erased_accuracy for line in lines}) > 1


def test_q_values_are_benjamini_and_hochbergs(
    probed: tuple[Setting, list[Row], list[Line]],
) -> None:
    lines = probed[2]
    p = sorted(line.p or 0 for line in lines)
    for line in lines:
        above = [p[i] * len(p) / (i + 1) for i in range(len(p)) if p[i] >= (line.p or 0)]
        assert line.q == pytest.approx(min(1.0, *above))
        assert line.decodable is (min(1.0, *above) <= 0.05)


def test_kinds_of_splits_do_not_mix() -> None:
    task = make_task("modular_addition", {"p": 7})
    subject, trained_on = random_subject(task, seed=1), task.domain()[::3]
    settings: dict[str, Any] = {
        "variables": ("wraps",),
        "hooks": ("blocks.0.hook_resid_post",),
        "positions": (2, 0),
        "seeds": (0, 1),
        "n_permutations": 39,
        "erase": False,
        "dtype": "float64",
    }
    kinds = ("grouped", "out_of_distribution", "network")

    def lines_of(*splits: str) -> list[Line]:
        by = "a" if "out_of_distribution" in splits else None
        spec = ProbeSpec(splits=splits, held_out_by=by, **settings)  # type: ignore[arg-type]
        rows = finish(probe_network(subject, spec, network_train=trained_on)).rows
        return summarise(rows)

    together = lines_of(*kinds)
    assert {line.split for line in together} == set(kinds) and len(together) == 6
    for kind in kinds:
        mine = [line for line in together if line.split == kind]
        for ours, alone in zip(mine, lines_of(kind), strict=True):
            for field in dataclasses.fields(Line):
                if field.name not in ("p", "q", "untrained_bound", "decodable", "selective"):
                    first, second = getattr(ours, field.name), getattr(alone, field.name)
                    # Splits fitted together are summed in another order: rounding.
                    assert first == (
                        pytest.approx(second, abs=1e-9) if isinstance(second, float) else second
                    ), (kind, field.name)
    assert len({line.accuracy for line in together}) > 2
    assert all(line.used is None for line in together)

"""What is measured of fitted probes, beside scikit-learn and slow versions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from probes.controls import shuffled
from probes.design import Design
from probes.draws import generator_of
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
from probes.splits import grouped_splits

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

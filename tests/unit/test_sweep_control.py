"""Untrained networks as the control of a sweep, and names of positions."""

import pytest
import torch

from circuits.patching import sweep
from circuits.problem import make_problem
from circuits.sweep_control import untrained_sweeps
from tests.unit.small_networks import generator
from tests.unit.small_training import network
from workbench.pairs import draw_pairs
from workbench.params import init_params
from workbench.positions import position_names
from workbench.progress import finish
from workbench.subject import Subject, untrained
from workbench.task import make_task

ADDITION = make_task("modular_addition", {"p": 7})


def test_the_largest_effect_in_each_untrained_network() -> None:
    config = network(ADDITION)
    subject = Subject(params=init_params(config, generator(5)), config=config, task=ADDITION)
    pairs = draw_pairs(ADDITION, "change_a", 8, generator())
    asked = {"metric": "log_probability", "ablation": "zero", "direction": "noising"}
    made = finish(untrained_sweeps(subject, pairs, "head", by=("position",), seeds=(3, 4), **asked))
    expected = []
    for seed in (3, 4):
        problem = make_problem(untrained(subject, seed), pairs, **asked)
        effects = finish(sweep(problem, "head", by=("position",))).effects
        expected.append(max(abs(float(one.mean())) for one in effects.reshape(-1, 8)))
    assert made.largest == pytest.approx(expected, abs=1e-7)
    assert made.mean == pytest.approx(sum(expected) / 2, abs=1e-7)
    assert made.largest[0] != made.largest[1]


@pytest.mark.parametrize(
    ("task", "settings", "names"),
    [
        ("modular_addition", {"p": 7}, ("0 a", "1 b", "2 =")),
        ("modular_addition", {"p": 7, "separate_vocabularies": True}, ("0 a", "1 b", "2 =")),
        ("modular_addition", {"p": 7, "equals_token": False}, ("0 a", "1 b")),
        (
            "digit_addition",
            {"n_digits": 2},
            ("0 a_1", "1 a_0", "2 +", "3 b_1", "4 b_0", "5 =", "6 answer_0", "7 answer_1"),
        ),
    ],
)
def test_positions_are_named_after_what_stands_there(
    task: str, settings: dict[str, object], names: tuple[str, ...]
) -> None:
    made = make_task(task, settings)
    tokens = made.encode(made.sample(1, torch.Generator().manual_seed(1)))
    assert position_names(made) == names
    assert len(names) == tokens.shape[1]

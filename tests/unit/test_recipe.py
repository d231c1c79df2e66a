"""Recipes and schedules: read from text and JSON, refused where senseless, valid for every task."""

import json
import math
from typing import Any

import pytest
import torch

from tests.contract.task_cases import every_task
from workbench import config
from workbench.errors import ConfigError, UnknownName
from workbench.model_config import n_params
from workbench.params import init_params
from workbench.recipe import (
    RECIPES,
    Recipe,
    at,
    default_model,
    default_recipe,
    find_recipe,
    kept_steps,
)
from workbench.task import Task, make_task
from workbench.train import check_training

PLAIN = Recipe(steps=100, lr=((0, 0.1),), weight_decay=((0, 0.0),))
HOW = "knots need ascending steps and finite values >= 0, such as 0.01 or 0:0,10:0.01"


def set_to(key: str, text: str) -> Any:
    """The field after `--set key=text`."""
    return getattr(config.override(PLAIN, {key: text}, where="recipe"), key)


def read(key: str, value: Any) -> Any:
    """The field after reading JSON."""
    data = json.loads(json.dumps({**config.to_dict(PLAIN), key: value}))
    return getattr(config.from_dict(Recipe, data, where="recipe"), key)


# ---------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1.0), (2, 1.0), (3, 1.25), (4, 1.5), (6, 2.0), (7, 1.0), (8, 0.0), (1000, 0.0)],
)
def test_a_schedule_is_straight_between_knots_and_constant_outside(step: int, value: float) -> None:
    assert at(((2, 1.0), (6, 2.0), (8, 0.0)), step) == value


@pytest.mark.parametrize("step", [0, 4, 5, 6, 10**9])
def test_a_single_knot_is_constant(step: int) -> None:
    assert at(((5, 0.3),), step) == 0.3


@pytest.mark.parametrize(
    ("text", "knots"),
    [
        ("0.01", ((0, 0.01),)),
        ("3", ((0, 3.0),)),
        ("1e-3", ((0, 0.001),)),
        ("0:0,10:0.01", ((0, 0.0), (10, 0.01))),
        ("5:0.5", ((5, 0.5),)),
        (" 0:0, 10:0.01 ", ((0, 0.0), (10, 0.01))),
        ("[[0, 0], [10, 0.01]]", ((0, 0.0), (10, 0.01))),
    ],
)
def test_schedules_are_read_from_text(text: str, knots: tuple[tuple[int, float], ...]) -> None:
    assert set_to("lr", text) == knots
    assert read("lr", text) == knots


@pytest.mark.parametrize(
    ("value", "knots"),
    [
        (0.01, ((0, 0.01),)),
        (1, ((0, 1.0),)),
        ([[0, 0], [10, 0.01]], ((0, 0.0), (10, 0.01))),
        ([[7, 0.5]], ((7, 0.5),)),
    ],
)
def test_schedules_are_read_from_json(value: Any, knots: tuple[tuple[int, float], ...]) -> None:
    got = read("weight_decay", value)
    assert got == knots
    assert all(type(step) is int and type(value) is float for step, value in got)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "fast", "true", "none", "nan", "inf", "-0.1", "1e999"),
        *("10:0,5:1", "5:0,5:1", "-5:0.1", "0:-1", "0:nan", "0:inf", "1.5:0.1"),
        *("0:0:0", "0:0,abc", "0:0,,10:1", ":", "0:", "[]", "[[0", "[0, 1]", "[[0, 1, 2]]"),
    ],
)
def test_senseless_schedules_as_text_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        set_to("lr", text)
    assert str(refused.value).startswith("recipe lr = ")
    assert str(refused.value).endswith(f": {HOW}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, -1, math.nan, [], {}, {"0": 1}, [0, 1], [[0]], [[0, 1, 2]], [[0.5, 1]]),
        *([["0", 1]], [[True, 1]], [[0, True]], [[0, None]], [[5, 1], [4, 1]], [[0, -1]]),
        *([[-1, 1]], [[0, 10**400]], [[0, math.inf]]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_senseless_schedules_as_json_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^recipe weight_decay = .*knots need ascending steps"):
        read("weight_decay", value)


def test_python_is_checked_as_json_is() -> None:
    for knots in ((), ((5, 0.0), (0, 1.0)), ((0, -1.0),), ((0, math.nan),), ((-1, 1.0),)):
        with pytest.raises(ConfigError, match="recipe lr = "):
            Recipe(steps=1, lr=knots, weight_decay=((0, 0.0),))


def test_label_smoothing_is_a_share() -> None:
    assert set_to("label_smoothing", "1") == ((0, 1.0),)
    with pytest.raises(ConfigError, match="label_smoothing cannot exceed 1"):
        set_to("label_smoothing", "0:0,10:1.01")


# ---------------------------------------------------------------------- other fields


@pytest.mark.parametrize(
    ("text", "steps"), [("", ()), ("5", (5,)), ("10,20", (10, 20)), (" 3, 4 ", (3, 4))]
)
def test_steps_are_read_from_text(text: str, steps: tuple[int, ...]) -> None:
    assert set_to("checkpoint_steps", text) == steps
    assert read("checkpoint_steps", list(steps)) == steps


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("steps", "0"), ("steps", "1.5"), ("steps", "many"), ("batch_size", "0")),
        *(("train_fraction", "0"), ("train_fraction", "1"), ("train_fraction", "nan")),
        *(("beta1", "1"), ("eps", "0"), ("eps", "inf"), ("init_scale", "inf"), ("average", "1")),
        *(("enriched_share", "1.1"), ("random_labels", "2"), ("evaluate_every", "0")),
        *(("stop_train_loss", "nan"), ("stop_train_loss", "-1"), ("stop_sustained", "0")),
        *(("checkpoint_steps", "-5"), ("checkpoint_steps", "5,x"), ("log_checkpoints", "-1")),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^recipe {key}[.0-9]* = .*: Input should .*$"):
        set_to(key, text)


def test_a_wrong_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe key 'weight_decai'; did you mean 'weight_d"):
        config.override(PLAIN, {"weight_decai": "1"}, where="recipe")


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_travels_as_json(name: str) -> None:
    found = find_recipe(name)
    assert found is RECIPES[name]
    data = json.loads(json.dumps(config.to_dict(found), allow_nan=False))
    assert config.from_dict(Recipe, data, where="recipe") == found


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no recipe 'modullar'; did you mean 'modular'\? known"):
        find_recipe("modullar")


# ---------------------------------------------------------------------- kept steps


def kept(**settings: Any) -> list[int]:
    return kept_steps(Recipe(lr=((0, 0.1),), weight_decay=((0, 0.0),), **settings))


def test_kept_steps() -> None:
    assert kept(steps=1000, log_checkpoints=3) == [0, 10, 100, 1000]
    assert kept(steps=1000, log_checkpoints=3, checkpoint_steps=(7, 100)) == [0, 7, 10, 100, 1000]
    assert kept(steps=16, log_checkpoints=4) == [0, 2, 4, 8, 16]
    assert kept(steps=1000, log_checkpoints=0) == [0, 1000]
    assert kept(steps=50, log_checkpoints=0, checkpoint_steps=(60, 50, 20, 0)) == [0, 20, 50]
    assert kept(steps=1, log_checkpoints=8) == [0, 1]
    assert kept(steps=10, log_checkpoints=2) == [0, 3, 10]  # 10^(1/2) = 3.16


# ---------------------------------------------------------------------- defaults of every task


@every_task
def test_the_defaults_of_a_task_can_be_trained(task: Task) -> None:
    check_training(task, default_model(task), find_recipe(default_recipe(task)))


@every_task
def test_the_default_network_reads_and_answers_the_task(task: Task) -> None:
    model = default_model(task)
    assert (model.n_ctx, model.d_vocab) == (task.n_ctx, len(task.vocabulary))
    assert model.d_vocab_out >= task.n_answer_tokens


def test_modular_addition_gets_nandas_network() -> None:
    assert n_params(default_model(make_task("modular_addition"))) == 226_816
    assert default_recipe(make_task("modular_addition")) == "modular"


@pytest.mark.parametrize("n_digits", [2, 5])
def test_digits_get_the_recipe_of_their_order(n_digits: int) -> None:
    """However many inputs there are: two digits could be listed, five not."""
    most_first = {"n_digits": n_digits, "answer_order": "most_significant_first"}
    assert default_recipe(make_task("digit_addition", {"n_digits": n_digits})) == "digits"
    assert (
        default_recipe(make_task("digit_addition", most_first)) == "digits_most_significant_first"
    )
    assert default_model(make_task("digit_addition", most_first)).n_layers == 2


# ---------------------------------------------------------------------- what cannot begin


def refused(task: Task, *, model: dict[str, str] | None = None, **settings: str) -> str:
    recipe = config.override(find_recipe(default_recipe(task)), settings, where="recipe")
    network = config.override(default_model(task), model or {}, where="model")
    with pytest.raises(ConfigError) as error:
        check_training(task, network, recipe)
    return str(error.value)


def test_training_that_cannot_begin_says_what_to_set() -> None:
    addition, digits = make_task("modular_addition"), make_task("digit_addition")
    for key, needed in (("n_ctx", 3), ("d_vocab", 114), ("d_vocab_out", 113)):
        complaint = refused(addition, model={key: "2"})
        assert complaint == f"model {key} = 2: modular_addition-p113 needs at least {needed}"
    assert "too many for one batch; set batch_size=" in refused(digits, batch_size="none")
    assert "did you mean 'carry_heavy'? known" in refused(digits, enriched="carry_heavi")


def test_query_key_scale_touches_those_two_alone() -> None:
    model = default_model(make_task("modular_addition", {"p": 7}))
    plain, scaled = (
        init_params(model, torch.Generator().manual_seed(0), query_key_scale=scale)
        for scale in (1.0, 3.0)
    )
    for name, tensor in plain.items():
        factor = 3.0 if name.endswith(("W_Q", "W_K")) else 1.0
        torch.testing.assert_close(scaled[name], factor * tensor)

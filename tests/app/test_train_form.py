"""The form of the Train page: every task and recipe, seeds, shares, and the plan in words."""

from pathlib import Path

import pytest

from apps.orders.train import TrainOrder
from apps.web.train.form import SAID, read_seeds, recipes_for, suggested_fraction
from apps.web.train.plan import plan_words, there_words, why_so_many
from tests.app.app_folder import opened
from tests.app.train_helpers import words
from workbench.errors import ConfigError
from workbench.recipe import RECIPES
from workbench.task import make_task, tasks


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_and_recipe_can_be_chosen(name: str, empty_folder: Path) -> None:
    page = opened("train", empty_folder, train_task=name)
    assert not page.exception and not page.error
    assert page.selectbox(key="train_task").value == name
    (recipe,) = (one for one in page.selectbox if one.key == "train_recipe")
    assert len(recipe.options) == 1 + len(recipes_for(make_task(name))) >= 3
    for one in recipes_for(make_task(name)):
        recipe.set_value(one).run()
        assert not page.exception and not page.error, one
        assert f"{one}: {SAID[one]}" in words(page)


def test_another_task_after_another(empty_folder: Path) -> None:
    page = opened("train", empty_folder, train_task="digit_addition", train_recipe="digits")
    assert next(one.key for one in page.number_input) == "train_n_digits"
    page.selectbox(key="train_task").set_value("modular_subtraction").run()
    assert not page.exception and not page.error
    assert page.selectbox(key="train_recipe").value == "automatic"
    assert page.number_input(key="train_p").value == 59


def test_a_usual_p_is_one_click(empty_folder: Path) -> None:
    page = opened("train", empty_folder, train_p="31")
    (pills,) = (one for one in page.button_group if one.key == "train_usual")
    assert pills.value is None or pills.value == []
    pills.select(113).run()
    assert page.number_input(key="train_p").value == 113
    assert "trained on 3,831 of 12,769 inputs (30%)" in words(page)
    assert "A small p has few pairs" not in words(page)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), (" 0, 4,7 ", (0, 4, 7)), ("0-3", (0, 1, 2, 3)), ("5 - 6,1", (5, 6, 1)),
     ("4294967295", (4294967295,))],
)  # fmt: skip
def test_seeds_are_read(text: str, seeds: tuple[int, ...]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "1.5", "0:4", "4294967296", "٣", "0-3-5"])
def test_seeds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        read_seeds(text)


@pytest.mark.parametrize(
    ("p", "recipe", "fraction"),
    [
        (5, "modular", 0.8),
        (23, "modular", 0.8),
        (31, "modular", 0.7),
        (59, "modular", 0.6),
        (83, "modular", 0.47),  # 0.6 - 0.3 * 24 / 54
        (109, "quick_grokking", 0.35),  # its own is more than 0.32
        (113, "modular", None),
        (499, "modular", None),
        (23, "memorise", None),  # nothing is to generalise
        (None, "digits", None),
    ],
)
def test_the_share_to_train_on(p: int | None, recipe: str, fraction: float | None) -> None:
    assert suggested_fraction(p, recipe) == fraction


def test_every_recipe_is_explained() -> None:
    assert set(SAID) == set(RECIPES)
    assert "hundreds of times longer" in SAID["slow_grokking"]


def test_a_plan_in_words() -> None:
    order = TrainOrder(task="modular_addition", settings=("p=59", "train_fraction=0.6"))
    # 60 x 128 + 3 x 128 + 4 x 128 x 128 + (128 x 512 + 512 + 512 x 128 + 128) + 128 x 60
    assert plan_words(order) == (
        "1 network of 212,992 parameters, 480 steps, trained on 2,089 of 3,481 inputs (60%)."
    )
    assert "own share is 30%" in why_so_many(order.plan())
    digits = TrainOrder(task="digit_addition", seeds=(0, 1))
    assert "2 networks" in plan_words(digits) and "of 10,000,000,000 inputs" in plan_words(digits)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((1, 1, 1), "Trained already: Train only shows it again."),
        (
            (4, 3, 1),
            "1 of 4 trained already; 2 of 4 begun earlier, to go on where training stopped.",
        ),
        ((4, 2, 0), "2 of 4 begun earlier, to go on where training stopped."),
    ],
)  # fmt: skip
def test_what_is_there_in_words(counts: tuple[int, int, int], said: str) -> None:
    assert there_words(*counts) == said

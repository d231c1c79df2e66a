"""The Train page as a person uses it, on networks that train in a second."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from apps.orders.train import TrainOrder
from apps.web import jobs
from apps.web.shell import OURS
from apps.web.tab import TOKEN
from apps.web.train.curves import accuracy_chart, loss_chart
from apps.web.train.form import SAID, read_seeds, recipes_for, suggested_fraction
from apps.web.train.plan import plan_words, there_words, why_so_many
from apps.web.train.runs import COMPLETE, IMPORTED, INCOMPLETE, history, n_held_out, summaries
from tests.app.app_folder import opened
from tests.app.test_job_panel import MINE
from tests.app.test_jobs import LONG, QUICK, ended, folder_of, kill, plant, trains, wait_until
from workbench.config import to_dict
from workbench.errors import ConfigError
from workbench.manifest import Manifest
from workbench.progress import finish
from workbench.recipe import RECIPES
from workbench.run import Run, RunConfig, open_run
from workbench.task import make_task, tasks
from workbench.train import Metrics

TINY = {"train_p": "7", "train_steps": "20", "train_train_fraction": "0.8"}
"""The form as an address: what `QUICK` orders."""


@pytest.fixture
def folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without runs, whose jobs are ended after the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield empty_folder
    for status in jobs.all_jobs():
        kill(folder_of(empty_folder / "runs", status.id))


def button(page: AppTest, label: str) -> object:
    (found,) = (one for one in page.button if one.label == label)
    return found


def words(page: AppTest) -> str:
    return " ".join(one.value for one in (*page.markdown, *page.caption)).replace("\\", "")


def as_mine(page: AppTest) -> AppTest:
    page.session_state[TOKEN] = MINE
    return page.run()


# ---------------------------------------------------------------------- train


def test_train_watch_and_look_at_it(folder: Path) -> None:
    page = opened("train", folder, **TINY, train_seeds="0,1")
    assert "2 networks of " in words(page) and "trained on 39 of 49 inputs (80%)" in words(page)
    button(page, "Train").click().run()  # type: ignore[attr-defined]
    assert not page.exception and not page.error
    (job,) = jobs.all_jobs()
    assert page.query_params["train_job"] == job.id
    assert page.query_params["train_p"] == "7"
    assert job.parameters == {
        "task": "modular_addition",
        "recipe": None,
        "settings": ["p=7", "train_fraction=0.8", "steps=20"],
        "seeds": [0, 1],
    }
    assert "Train modular_addition-p7, seeds 0, 1" in words(page)
    assert ended(job.id).state == "done"
    page.run()
    assert not page.exception and not page.error
    assert "Done after" in words(page)
    links = [one.proto for one in page.get("page_link")]
    assert [link.label for link in links] == ["Look at it: Network", "Look at it: Trace"]
    (table,) = (one for one in page.dataframe if "network" in one.value)
    order = TrainOrder(
        task="modular_addition", settings=("p=7", "train_fraction=0.8", "steps=20"), seeds=(0, 1)
    )
    assert sorted(table.value["network"]) == sorted(order.run_names())
    assert "Trained already" in words(page)
    button(page, "Close").click().run()  # type: ignore[attr-defined]
    assert "train_job" not in page.query_params
    assert "Other jobs" in [one.value for one in page.subheader]


def test_a_stopped_job_goes_on(folder: Path) -> None:
    job_id = jobs.start(LONG, owner=MINE)
    wait_until(lambda: trains(job_id))
    page = as_mine(opened("train", folder, train_job=job_id))
    assert "Running: " in words(page)
    button(page, "Cancel").click().run()  # type: ignore[attr-defined]
    assert ended(job_id).state == "cancelled"
    page.run()
    assert "Cancelled after" in words(page) and not page.error
    button(page, "Go on").click().run()  # type: ignore[attr-defined]
    (again, first) = jobs.all_jobs()
    assert first.id == job_id and again.parameters == first.parameters
    assert page.query_params["train_job"] == again.id
    wait_until(lambda: trains(again.id))
    progress = jobs.status_of(again.id).progress
    assert progress is not None and progress.done > 0  # not from the beginning


def test_what_is_being_trained_is_not_trained_twice(folder: Path) -> None:
    job_id = jobs.start(LONG, owner="somebody")
    page = opened("train", folder, **{**TINY, "train_steps": "900000"}, train_seeds="2-3")
    button(page, "Train").click().run()  # type: ignore[attr-defined]
    assert [one.id for one in jobs.all_jobs()] == [job_id]
    assert page.query_params["train_job"] == job_id
    assert button(page, "Cancel").disabled  # type: ignore[attr-defined]


def test_other_jobs_are_listed_and_can_be_watched(folder: Path) -> None:
    first, second = "1" * 16, "2" * 16
    for job_id in (first, second):
        planted = plant(folder / "runs", job_id, created=float(job_id[0]), state="done")
        job = json.loads((planted / "job.json").read_text())
        job["parameters"] = {"task": "modular_addition", "settings": ["p=7"], "seeds": [0]}
        (planted / "job.json").write_text(json.dumps(job))
    page = opened("train", folder, train_job=first)
    assert [one.key for one in page.button if one.label == "Watch"] == [f"train_watch_{second}"]
    button(page, "Watch").click().run()  # type: ignore[attr-defined]
    assert page.query_params["train_job"] == f"{second},{first}"
    assert not page.exception and not page.error


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ({"train_p": "4"}, "modular_addition needs a prime p, got 4; try 5"),
        ({"train_p": "3"}, "p = 3 is too small to split"),
        ({"train_seeds": "abc"}, "seeds 'abc': write 0, or 0,4,7, or 0-3"),
        ({"train_seeds": "3-1"}, "seeds '3-1': write 0"),
        ({"train_seeds": "0-2000"}, "at most 1024 at once"),
        ({"train_seeds": "1,0-3"}, "one of them stands there twice"),
        ({"train_p": "9973", "train_d_model": "4096", "train_n_layers": "12"}, "is too large"),
    ],
)
def test_mistakes_are_one_line(address: dict[str, str], said: str, folder: Path) -> None:
    page = opened("train", folder, **address)
    assert not page.exception
    (error,) = page.error
    assert said in error.value.replace("\\", "") and "\n" not in error.value
    assert OURS not in error.value
    assert "Train" not in [one.label for one in page.button]
    assert jobs.all_jobs() == []


def test_what_is_no_job_in_the_address_is_one_line(folder: Path) -> None:
    planted = plant(folder / "runs", "a" * 16, state="done")  # its parameters fit no order
    assert planted.is_dir()
    page = opened("train", folder, train_job="../..," + "b" * 16 + ",,a\0b," + "a" * 16)
    assert not page.exception and len(page.warning) == 3 and len(page.error) == 1
    assert "task" in page.error[0].value
    assert OURS not in page.error[0].value


# ---------------------------------------------------------------------- the form


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_and_recipe_can_be_chosen(name: str, folder: Path) -> None:
    page = opened("train", folder, train_task=name)
    assert not page.exception and not page.error
    assert page.selectbox(key="train_task").value == name
    (recipe,) = (one for one in page.selectbox if one.key == "train_recipe")
    assert len(recipe.options) == 1 + len(recipes_for(make_task(name))) >= 3
    for one in recipes_for(make_task(name)):
        recipe.set_value(one).run()
        assert not page.exception and not page.error, one
        assert f"{one}: {SAID[one]}" in words(page)


def test_another_task_after_another(folder: Path) -> None:
    page = opened("train", folder, train_task="digit_addition", train_recipe="digits")
    assert next(one.key for one in page.number_input) == "train_n_digits"
    page.selectbox(key="train_task").set_value("modular_subtraction").run()
    assert not page.exception and not page.error
    assert page.selectbox(key="train_recipe").value == "automatic"
    assert page.number_input(key="train_p").value == 59


def test_a_usual_p_is_one_click(folder: Path) -> None:
    page = opened("train", folder, train_p="31")
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


# ---------------------------------------------------------------------- curves


NAN = math.nan
ONE = [
    Metrics(0, 4.0, 0.1, 5.0, 0.0),
    Metrics(10, 0.0, 1.0, NAN, NAN),
    Metrics(20, 0.5, 1.0, 0.25, 1.0),
]


def test_the_curves_of_one_run() -> None:
    loss, accuracy = loss_chart({"seed 0": ONE}), accuracy_chart({"seed 0": ONE})
    assert loss.x == accuracy.x == (0.0, 10.0, 20.0) and loss.log_y
    named = {one.name: (one.y, one.dash) for one in loss.series}
    assert named == {  # a loss of 0 has no place on a logarithmic axis
        "trained on": ((4.0, None, 0.5), "dashed"),
        "held out": ((5.0, None, 0.25), "solid"),
    }
    assert [one.y for one in accuracy.series] == [
        (0.1, 1.0, 1.0),
        (0.0, None, 1.0),
        (0.999, 0.999, 0.999),
    ]
    assert accuracy.y_range == (0.0, 1.0)
    assert accuracy.marks == ((20.0, "grokking, step 20"),)
    assert "at step 20: 100.00% on what it trained on, 100.00% on what" in accuracy.alt
    assert "at step 20: 0.5000 on what it trained on, 0.2500 on what" in loss.alt


def test_the_curves_of_several_runs_share_an_axis() -> None:
    chart = loss_chart({"seed 0": ONE, "seed 4": [Metrics(5, 2.0, 0.0, NAN, NAN)], "seed 5": []})
    assert chart.x == (0.0, 5.0, 10.0, 20.0)
    named = {one.name: one.y for one in chart.series}
    assert named == {
        "seed 0, trained on": (4.0, None, None, 0.5),
        "seed 0, held out": (5.0, None, None, 0.25),
        "seed 4, trained on": (None, 2.0, None, None),
    }
    assert accuracy_chart({"seed 0": ONE, "seed 4": ONE}).marks[1][1] == "seed 4, grokking, step 20"
    assert "not measured on what was held out" in chart.alt


ROW = '{"step": %d, "train_loss": 1, "train_accuracy": 0.5, "held_out_loss": null}\n'


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        ("", []),
        (ROW % 0 + ROW % 10, [0, 10]),
        (ROW % 0 + (ROW % 10)[:-1], [0]),  # being written
        (ROW % 0 + "{\n" + ROW % 20, [0]),
        (ROW % 0 + '{"step": 10, "train_loss": "1"}\n', [0]),
        (ROW % 0 + '{"train_loss": 1}\n', [0]),
        (ROW % 0 + '{"step": 10, "train_loss": true}\n', [0]),
    ],
)
def test_metrics_are_read_while_they_are_written(
    content: str, steps: list[int], tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    rows = history(tmp_path)
    assert [row.step for row in rows] == steps
    if rows:
        assert rows[0][1:3] == (1.0, 0.5) and math.isnan(rows[0].held_out_loss)


def test_a_run_without_metrics_has_no_curve(tmp_path: Path) -> None:
    assert history(tmp_path / "nothing") == []


# ---------------------------------------------------------------------- runs


def test_runs_are_summed_up(folder: Path) -> None:
    runs = folder / "runs"
    finish(QUICK.work(runs))
    (whole,) = summaries()
    assert (whole.name, whole.state) == (QUICK.run_names()[0], COMPLETE)
    assert (whole.task, whole.seed, whole.step) == ("modular_addition-p7", 0, 20)
    last = history(runs / whole.name)[-1]
    assert whole.held_out_accuracy == last.held_out_accuracy
    held_out = open_run(runs / whole.name).split().held_out
    assert held_out is not None and whole.n_held_out == len(held_out)

    steps = TrainOrder(task="modular_addition", settings=QUICK.settings, seeds=(8,)).work(runs)
    next(steps)
    os.utime(runs / whole.name / "manifest.json", (0, 0))
    begun, _ = summaries()
    assert (begun.seed, begun.state) == (8, INCOMPLETE)
    steps.close()

    manifest = runs / begun.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0", "1", 1))
    os.utime(manifest, (time.time(), time.time()))
    damaged, same = summaries()
    assert same == whole
    assert damaged.name == begun.name and "damaged" in damaged.state and damaged.step is None
    page = opened("train", folder, train_shown=whole.name)
    assert not page.exception and not page.error


def test_an_imported_network_has_no_curve_but_a_place(app_folder: Path) -> None:
    (imported,) = (one for one in summaries() if one.name == "imported")
    assert (imported.state, imported.seed, imported.grokking_step) == (IMPORTED, None, None)
    page = opened("train", app_folder, train_shown="imported")
    assert not page.exception and not page.error
    assert "Look at it: Network" in [one.proto.label for one in page.get("page_link")]
    assert any("workbench import" in one.value for one in page.code)


def test_a_drawn_sample_is_counted_as_it_is_drawn(tmp_path: Path) -> None:
    order = TrainOrder(task="digit_addition", settings=("steps=1", "evaluate_on=32"))
    plan = order.plan()
    config = RunConfig(
        task=plan.task.to_dict(),
        model=plan.model,
        recipe=to_dict(plan.recipe),
        seed=0,
        train_fraction=plan.recipe.train_fraction,
    )
    assert (
        n_held_out(Run(path=tmp_path, config=config, task=plan.task, manifest=Manifest(files={})))
        == 32
    )


def test_an_accepted_session_says_so(app_folder: Path) -> None:
    from tests.app.app_folder import SESSION
    from workbench.session import open_as_run, open_session

    made = open_as_run(open_session(app_folder / SESSION), app_folder / "runs")
    states = {one.name: one.state for one in summaries()}
    assert states[made.path.name] == "from a session" and states["full"] == COMPLETE


def test_the_table_looks_again_while_something_trains(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.web.train import list as train_list

    drawn: list[float] = []

    def fragment(work: Any, *, run_every: float) -> Any:
        drawn.append(run_every)
        return work

    monkeypatch.setattr(train_list.st, "fragment", fragment)
    opened("train", app_folder)
    assert drawn == []
    monkeypatch.setattr(train_list, "training", lambda: True)
    page = opened("train", app_folder)
    assert drawn == [train_list.EVERY] and not page.exception
    assert any("full" in one.value.get("network", ()).tolist() for one in page.dataframe)

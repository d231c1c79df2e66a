"""The Train page as a person uses it, on networks that train in a second."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.orders.train import TrainOrder
from apps.web import jobs
from apps.web.shell import OURS
from tests.app.app_folder import opened
from tests.app.test_job_panel import MINE
from tests.app.test_jobs import LONG, ended, folder_of, kill, plant, trains, wait_until
from tests.app.train_helpers import TINY, as_mine, button, words


@pytest.fixture
def folder(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without runs, whose jobs are ended after the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield empty_folder
    for status in jobs.all_jobs():
        kill(folder_of(empty_folder / "runs", status.id))


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

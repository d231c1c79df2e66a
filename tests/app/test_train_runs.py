"""Curves and the list of runs on the Train page."""

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from apps.orders.train import TrainOrder
from apps.web.train.curves import accuracy_chart, loss_chart
from apps.web.train.runs import COMPLETE, IMPORTED, INCOMPLETE, history, n_held_out, summaries
from tests.app.app_folder import opened
from tests.app.test_jobs import QUICK
from workbench.config import to_dict
from workbench.manifest import Manifest
from workbench.progress import finish
from workbench.run import Run, RunConfig, open_run
from workbench.train import Metrics

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


def test_runs_are_summed_up(empty_folder: Path) -> None:
    runs = empty_folder / "runs"
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
    page = opened("train", empty_folder, train_shown=whole.name)
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

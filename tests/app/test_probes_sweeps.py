"""Sweeps on the Probes page: how much they are, from start to query, and what they found."""

import json
from pathlib import Path

import pytest
import torch

from apps.orders import sweep as module
from apps.orders.sweep import RESULTS, SweepOrder, new_id, order_of, sweep_folder, sweep_ids
from apps.web import jobs
from apps.web.probes.ask import rough
from apps.web.probes.results import (
    found_in,
    networks_map,
    short_names,
    strength_bars,
    table_of_rows,
)
from probes.counting import Amount, amount_of
from probes.estimate import estimate
from probes.sweep import Sweep, SweepResults
from tests.app.app_folder import FULL, opened
from tests.app.probes_helpers import ID, JOB, ORDER, POST, TINY, address, flat, noted_starts, words
from tests.app.test_jobs import plant
from workbench.errors import AppError, ConfigError
from workbench.progress import finish
from workbench.run import open_run

# ---------------------------------------------------------------------- how much


def test_an_amount_is_what_the_estimate_counts(app_folder: Path) -> None:
    sweep = ORDER.sweep_in(app_folder / "runs")
    counted = estimate(sweep)
    run = open_run(app_folder / "runs" / FULL)
    amount = amount_of(sweep.spec, run.config.model, n_pos=run.task.n_ctx)
    assert amount == Amount(counted.sites, counted.probes, counted.forward_passes)
    assert amount.sites == 2  # two hooks at one position


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.0, "a few seconds"), (22.0, "20 seconds"), (90.0, "2 minutes"), (7200.0, "2.0 hours")],
)
def test_a_rough_time(seconds: float, said: str) -> None:
    assert rough(seconds) == said


# ---------------------------------------------------------------------- sweeps


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[jobs.Order]:
    """Orders that were started; none is worked off."""
    return noted_starts(monkeypatch)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # protects from power cuts only


@pytest.fixture
def swept(app_folder: Path, no_fsync: None) -> Path:
    """The runs folder, with a sweep that is done."""
    assert finish(ORDER.work(app_folder / "runs")) == {"sweep": ID, "shards": 2}
    return app_folder / "runs"


def test_a_sweep_that_is_stopped_goes_on_where_it_was(app_folder: Path, no_fsync: None) -> None:
    runs = app_folder / "runs"
    steps = ORDER.work(runs)
    assert next(steps).doing == "looking at every run"
    assert next(steps)[:2] == (1, 2)
    steps.close()
    results = SweepResults(sweep_folder(runs, ID) / RESULTS)
    (finished,) = results.keys()
    before = (results.directory / "shards" / f"{finished}.parquet").stat().st_mtime_ns
    assert order_of(runs, ID) == ORDER
    told = [progress[:2] for progress in order_of(runs, ID).work(runs)]
    assert told == [(0, 0), (2, 2)]
    after = (results.directory / "shards" / f"{finished}.parquet").stat().st_mtime_ns
    assert len(results.keys()) == 2 and after == before


def test_the_question_is_the_same_on_the_command_line(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_folder(swept, ID)
    monkeypatch.chdir(swept.parent)
    plan = Sweep.from_yaml(folder / "sweep.yaml").plan()
    assert plan.fingerprint == SweepResults(folder / RESULTS).plan().fingerprint


@pytest.mark.parametrize("name", ["..", "../runs/full", "*", "full/../full", "gone", ""])
def test_what_is_no_run_is_not_swept(name: str, app_folder: Path) -> None:
    order = SweepOrder(sweep=ID, runs=(name,), question=TINY)
    with pytest.raises(AppError, match=r"no run .* choose runs from the list"):
        order.prepare(app_folder / "runs")
    assert sweep_ids(app_folder / "runs") == []


@pytest.mark.parametrize("name", ["..", "../x-0123abcd", "x", "x-0123ABCD", "x-0123abcd/.."])
def test_what_is_no_id_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="no sweep"):
        sweep_folder(tmp_path, name)


def test_a_wrong_question_makes_no_folder(app_folder: Path) -> None:
    order = SweepOrder(sweep=ID, runs=(FULL,), question={"variables": ["answer"], "probs": 1})
    with pytest.raises(ConfigError, match="probs"):
        order.prepare(app_folder / "runs")
    assert not (app_folder / "runs" / module.SWEEPS).exists()


def test_ids_say_what_they_are_about() -> None:
    first, second = new_id(["Carry_2", "answer"]), new_id([])
    assert first.startswith("carry-2-answer-") and second.startswith("sweep-")
    for made in (first, second, new_id(["x" * 100])):
        sweep_folder(Path("runs"), made)
    assert new_id(["a"]) != new_id(["a"])


def test_what_a_sweep_found_is_what_its_rows_say(swept: Path) -> None:
    found = found_in(sweep_folder(swept, ID) / RESULTS)
    rows = table_of_rows(found).to_pylist()
    ((which, lines),) = found.networks.items()
    assert which == (FULL, open_run(swept / FULL).steps[-1])
    pooled = {row["hook"]: row["value"] for row in rows if row["p"] is not None}
    assert {line.hook: line.accuracy for line in lines} == pooled
    chart = networks_map(found, "Accuracy", probe="ridge", split="grouped")
    best = max(lines, key=lambda line: (line.selective is True, line.accuracy))
    assert torch.equal(chart.values, torch.tensor([[best.accuracy]], dtype=torch.float64))
    bars = strength_bars(table_of_rows(found), which, lines[-1])
    assert bars is not None and bars.names == ("0.01", "1", "100")
    alone = {
        row["strength"]: row["value"]
        for row in rows
        if row["hook"] == POST and row["split"] == "grouped/0" and row["strength"] is not None
    }
    assert bars.series[0].y == tuple(alone[one] for one in (0.01, 1.0, 100.0))


def test_a_sweep_is_shown_and_asked(swept: Path, app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_section="Sweeps")
    assert not page.exception and [one.value for one in page.error] == []
    assert address(page, "probes_sweep") == ID
    assert "decodable" in words(page)
    page.button(key="probes_example_Best site").click().run()
    answer = page.dataframe[-1].value
    assert answer["site"].tolist() == [f"{POST}@2"] and answer["run"].tolist() == [FULL]
    told = {name: page.query_params[name] for name in ("probes_answered", "probes_sweep")}
    sql = page.text_area(key="probes_sql").value
    again = opened("probes", app_folder, probes_section="Sweeps", probes_sql=sql, **flat(told))
    assert again.dataframe[-1].value["site"].tolist() == [f"{POST}@2"]  # a link, or a refresh
    page.text_area(key="probes_sql").set_value("SELECT * FROM read_text('/etc/passwd')").run()
    page.button(key="probes_query").click().run()
    assert not page.exception
    (error,) = page.error
    assert "disabled by configuration" in error.value.replace("\\", "")


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ([("add-p23-abc-seed0", 5)], ("add-p23-abc-seed0, step 5",)),
        (
            [("add-p23-abc-seed0", 5), ("add-p23-abc-seed1", 9)],
            ("…seed0, step 5", "…seed1, step 9"),
        ),
        ([("full", 1), ("full", 2000)], ("full, step 1", "full, step 2,000")),
        ([("a-b", 1), ("a-b-c", 1)], ("a-b, step 1", "…c, step 1")),
        ([("one", 1), ("two-x", 1)], ("one, step 1", "two-x, step 1")),
    ],
)
def test_networks_are_told_apart(networks: list[tuple[str, int]], said: tuple[str, ...]) -> None:
    assert short_names(networks) == said


def test_a_sweep_that_goes_on_has_no_panel_of_its_end(
    swept: Path, app_folder: Path, started: list[jobs.Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, other = "1" * 16, "2" * 16
    for one, sweep in ((ended, ID), (other, "other-00000000")):
        folder = plant(swept, one, state="cancelled")
        job = json.loads((folder / "job.json").read_text())
        told = {"kind": "sweep", "parameters": {"sweep": sweep, "runs": [FULL]}}
        (folder / "job.json").write_text(json.dumps(job | told))
    shard = next((sweep_folder(swept, ID) / RESULTS).rglob("*.parquet"), None)
    assert shard is not None
    shard.unlink()
    page = opened(
        "probes", app_folder, probes_section="Sweeps", probes_sweep_job=f"{ended},{other}"
    )
    page.button(key="probes_sweep_resume").click().run()
    assert address(page, "probes_sweep_job") == f"{'0' * 14}aa,{other}"


def test_a_sweep_is_started_by_the_form(app_folder: Path, started: list[jobs.Order]) -> None:
    page = opened("probes", app_folder, run=FULL, probes_section="Sweeps")
    assert "No sweep yet" in words(page)
    page.button(key="probes_sweep_start").click().run()
    assert not page.exception and [one.value for one in page.error] == []
    (order,) = started
    assert isinstance(order, SweepOrder) and order.runs == (FULL,)
    assert sweep_ids(app_folder / "runs") == [order.sweep]
    assert address(page, "probes_sweep") == order.sweep
    assert address(page, "probes_sweep_job") == JOB
    assert "stopped before its first number" in words(page)  # this job is never worked off


def test_a_sweep_that_there_is_not_is_one_line(swept: Path, app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_section="Sweeps", probes_sweep="../../etc")
    assert not page.exception
    assert "No sweep" in words(page)
    assert address(page, "probes_sweep") == ID

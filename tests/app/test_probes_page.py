"""The Probes page: its maps against the record, its form, and sweeps from start to query."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from apps.orders import sweep as module
from apps.orders.sweep import RESULTS, SweepOrder, new_id, order_of, sweep_folder, sweep_ids
from apps.web import jobs
from apps.web.choice import network_of
from apps.web.probes.ask import rough
from apps.web.probes.lines import VALUES, accuracy_bars, limit_of, lines_at, map_of, records_of
from apps.web.probes.results import (
    found_in,
    networks_map,
    short_names,
    strength_bars,
    table_of_rows,
)
from apps.web.probes.training import measure_lines, strip_of
from probes.counting import Amount, amount_of
from probes.estimate import estimate
from probes.sweep import Sweep, SweepResults
from probes.training_times import AcrossTraining, Checkpoint, Level, Measure
from tests.app.app_folder import FRESH, FULL, opened
from tests.app.test_jobs import plant
from workbench.errors import AppError, ConfigError
from workbench.progress import finish
from workbench.run import open_run

POST = "blocks.0.hook_resid_post"
TINY: dict[str, Any] = {
    "variables": ["answer"],
    "hooks": ["blocks.0.hook_resid_mid", POST],
    "positions": [2],
    "seeds": [0],
    "n_permutations": 39,
    "n_untrained": 2,
    "n_random_erasures": 2,
}
ID = "answer-0123abcd"
ORDER = SweepOrder(sweep=ID, runs=(FULL,), question=TINY)


def words(page: AppTest) -> str:
    shown = (*page.info, *page.markdown, *page.caption, *page.warning, *page.error)
    return " ".join(one.value for one in shown)


def address(page: AppTest, key: str) -> str:
    """Streamlit gives what it was told: a text, or a list of one."""
    told = page.query_params[key]
    return told if isinstance(told, str) else "".join(told)


# ---------------------------------------------------------------------- maps


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Accuracy", lambda row: row["accuracy"]),
        ("Control task", lambda row: row["control_accuracy"]),
        ("Selectivity", lambda row: row["accuracy"] - row["control_accuracy"]),
        ("Fall when erased", lambda row: row["answer_accuracy"] - row["erased_accuracy"]),
        (
            "Fall when as much is erased at random",
            lambda row: row["answer_accuracy"] - row["random_erased_accuracy"],
        ),
    ],
)
def test_a_map_shows_the_numbers_of_the_record(
    title: str, expected: Callable[[dict[str, Any]], float], app_folder: Path
) -> None:
    network = network_of(open_run(app_folder / "runs" / FULL))
    (record,) = records_of(network, "probe")
    rows: Any = record.result["rows"]
    lines = lines_at([record], network.step)
    made = map_of(
        lines,
        VALUES[title],
        sites=(),
        columns=("1", "2", "="),
        limit=limit_of(lines, VALUES[title]),
    )
    assert made.chart.rows == tuple(row["site"] for row in rows)
    assert made.chart.columns == ("2: =",)
    measured = [row["random_erased_accuracy"] is not None or "random" not in title for row in rows]
    numbers = [
        expected(row) if known else math.nan for row, known in zip(rows, measured, strict=True)
    ]
    assert made.chart.values[:, 0].tolist() == pytest.approx(numbers, nan_ok=True)
    assert any(measured)
    details = dict(made.chart.details)
    assert details["control task"] == tuple(f"{row['control_accuracy']:.3f}" for row in rows)
    assert details["n"] == tuple(f"{row['n']:,}" for row in rows)
    if title == "Accuracy":
        assert made.chart.low is not None and made.chart.high is not None
        ends = [[float(made.chart.low[i]), float(made.chart.high[i])] for i in range(len(rows))]
        assert ends == [row["interval"] for row in rows]
        assert made.chart.limit is None and made.chart.scale == "share"
    assert [line and line.place for line in made.lines] == [row["site"] for row in rows]


def test_sites_stand_in_the_order_they_are_passed_and_gaps_are_empty(app_folder: Path) -> None:
    network = network_of(open_run(app_folder / "runs" / FULL))
    first, second, third = lines_at(records_of(network, "probe"), network.step)
    order = [third.hook, first.hook, second.hook]
    from dataclasses import replace

    elsewhere = replace(second, position=0)
    made = map_of(
        [first, elsewhere, third], VALUES["Accuracy"], sites=order, columns=(), limit=None
    )
    assert made.chart.rows == tuple(order)
    assert made.chart.columns == ("0", "2")
    assert made.lines == (None, third, None, first, elsewhere, None)
    assert made.chart.values.isnan().tolist() == [[True, False], [True, False], [False, True]]


def test_bars_stand_beside_every_control(app_folder: Path) -> None:
    network = network_of(open_run(app_folder / "runs" / FULL))
    line = lines_at(records_of(network, "probe"), network.step)[-1]
    chart = accuracy_bars(line)
    named = dict(zip(chart.names, chart.series[0].y, strict=True))
    assert named["probe"] == line.accuracy
    assert named["control task"] == line.control_accuracy
    assert named["shuffled labels"] == line.shuffled_accuracy
    assert named["untrained (5)"] == line.untrained_accuracy


# ---------------------------------------------------------------------- the page


def test_the_map_of_a_probed_network_stands_beside_its_controls(app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL)
    assert page.multiselect(key="probes_variables").value == ["answer"]
    assert "control task" in words(page) and "bound of untrained networks" in words(page)
    columns = [name for frame in page.dataframe for name in frame.value.columns]
    assert {"accuracy [95 %]", "control task", "shuffled labels", "untrained, bound", "q"} <= set(
        columns
    )


def test_a_cell_in_the_address_is_shown_in_full(app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_cell_answer="2")
    assert f"**answer** at {POST.replace('.', chr(92) + '.').replace('_', chr(92) + '_')}" in words(
        page
    )
    assert any("by the rule" in frame.value.to_string() for frame in page.dataframe)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[jobs.Order]:
    """Orders that were started; none is worked off."""
    found: list[jobs.Order] = []

    def start(order: jobs.Order, *, owner: str) -> str:
        found.append(order)
        return "00000000000000aa"

    monkeypatch.setattr(jobs, "start", start)
    return found


def test_the_form_starts_a_job_whose_id_is_in_the_address(
    app_folder: Path, started: list[jobs.Order]
) -> None:
    page = opened("probes", app_folder, run=FRESH)
    assert "Nothing was probed" in words(page)
    assert "probes at 9 sites" in words(page)
    positions = page.multiselect(key="probes_ask_positions")
    positions.select(positions.options[2]).run()
    assert "probes at 3 sites" in words(page)
    page.button(key="probes_start").click().run()
    assert not page.exception
    assert address(page, "probes_job") == "00000000000000aa"
    (order,) = started
    told: Any = order
    assert (told.kind, told.run, told.analysis) == ("ask", FRESH, "probe")
    assert told.parameters["variables"] == ["answer"] and told.parameters["positions"] == [2]


def test_splits_and_permutations_are_asked_too(app_folder: Path, started: list[jobs.Order]) -> None:
    address = {"probes_ask_splits": "out_of_distribution", "probes_ask_held_out_by": "b"}
    page = opened("probes", app_folder, run=FRESH, probes_ask_permutations="59", **address)
    page.button(key="probes_start").click().run()
    assert not page.exception and not page.error
    (order,) = started
    told: Any = order
    names = ("splits", "held_out_by", "n_permutations")
    wanted = [["out_of_distribution"], "b", 59]
    assert [told.parameters[name] for name in names] == wanted
    page = opened("probes", app_folder, run=FRESH, probes_ask_permutations="19")
    (error,) = page.error  # three seeds: no p-value of .05
    assert "at least 39" in error.value.replace("\\", "")


def test_wrong_seeds_are_one_line(app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FRESH)
    page.text_input(key="probes_ask_seeds").set_value("three").run()
    assert not page.exception
    (error,) = page.error
    assert "three" in error.value and "\n" not in error.value


def test_a_job_that_there_is_not_is_one_line(app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_job="../../etc")
    assert not page.exception and [one.value for one in page.error] == []
    assert len(page.warning) == 1


def test_training_is_followed_by_a_job(app_folder: Path, started: list[jobs.Order]) -> None:
    page = opened("probes", app_folder, run=FULL, probes_section="Across training")
    page.button(key="probes_follow_start").click().run()
    assert address(page, "probes_training_job") == "00000000000000aa"
    told: Any = started[0]
    assert (told.analysis, told.run) == ("probe_training", FULL)


# ---------------------------------------------------------------------- across training


def level(value: float) -> Level:
    return Level(value=value, low=value - 0.1, high=value + 0.1, n=50)


def test_lines_over_training_stand_beside_their_controls() -> None:
    values = {0: (0.1, 0.2), 10: (0.9, 0.3)}
    found = AcrossTraining(
        variable="carry",
        n_classes=2,
        probe="ridge",
        sites=(f"{POST}@2",),
        kinds=("new_inputs",),
        rank=None,
        checkpoints=tuple(
            Checkpoint(
                step=step,
                accuracy=level(0.5),
                train_accuracy=None,
                held_out_accuracy=None,
                measures=(
                    Measure(
                        site=f"{POST}@2",
                        kind="new_inputs",
                        level=level(own),
                        controls={"untrained": level(control)},
                        most=1.0,
                    ),
                ),
            )
            for step, (own, control) in values.items()
        ),
    )
    chart = measure_lines(found, f"{POST}@2", "new_inputs")
    assert chart.x == (0.0, 10.0)
    own, control = chart.series
    assert (own.y, own.dash) == ((0.1, 0.9), "solid")
    assert own.low == pytest.approx((0.0, 0.8))
    assert (control.name, control.y, control.dash) == (
        "control: the network untrained",
        (0.2, 0.3),
        "dashed",
    )
    assert chart.marks == ((10.0, "holds"),)


def test_the_strip_says_which_checkpoints_were_probed(app_folder: Path) -> None:
    network = network_of(open_run(app_folder / "runs" / FULL))
    records = records_of(network, "probe")
    strip = strip_of(network.run.steps, records)
    assert strip is not None
    rows: Any = records[0].result["rows"]
    *before, last = strip.values[0].tolist()
    assert all(map(math.isnan, before)) and len(before) == len(network.run.steps) - 1
    assert last == max(row["accuracy"] for row in rows)
    assert strip_of(network.run.steps, []) is None


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


def flat(address: Mapping[str, Any]) -> dict[str, str]:
    """Streamlit's test has two forms of what stands in an address."""
    return {name: one if isinstance(one, str) else one[0] for name, one in address.items()}


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
    assert address(page, "probes_sweep_job") == "00000000000000aa"
    assert "stopped before its first number" in words(page)  # this job is never worked off


def test_a_sweep_that_there_is_not_is_one_line(swept: Path, app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_section="Sweeps", probes_sweep="../../etc")
    assert not page.exception
    assert "No sweep" in words(page)
    assert address(page, "probes_sweep") == ID

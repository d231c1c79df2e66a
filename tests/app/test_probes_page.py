"""The Probes page: its maps against the record, its form, and lines across training."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.web import jobs
from apps.web.choice import network_of
from apps.web.probes.line_in_full import accuracy_bars
from apps.web.probes.lines import VALUES, limit_of, lines_at, map_of, records_of
from apps.web.probes.training import measure_lines, strip_of
from probes.training_times import AcrossTraining, Checkpoint, Level, Measure
from tests.app.app_folder import FRESH, FULL, opened, unfolded
from tests.app.probes_helpers import POST, address, noted_starts, words
from workbench.run import open_run

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
    assert details["control task [95 %]"] == tuple(
        f"{row['control_accuracy']:.3f} [{row['control_low']:.3f}, {row['control_high']:.3f}]"
        for row in rows
    )
    assert details["n"] == tuple(f"{row['n']:,}" for row in rows)
    ends = {
        "Accuracy": [row["interval"] for row in rows],
        "Control task": [[row["control_low"], row["control_high"]] for row in rows],
    }
    if title in ends:
        assert made.chart.low is not None and made.chart.high is not None
        both = torch.cat([made.chart.low, made.chart.high], 1)
        assert both.tolist() == ends[title]
        assert made.chart.limit is None and made.chart.scale == "share"
    else:
        assert made.chart.low is None
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
    assert named["shuffled"] == line.shuffled_accuracy
    assert named["untrained (5)"] == line.untrained_accuracy
    assert named["its bound"] == line.untrained_bound
    own = chart.series[0]
    assert own.low is not None and own.high is not None
    ends = dict(zip(chart.names, zip(own.low, own.high, strict=True), strict=True))
    assert ends["probe"] == (line.low, line.high)
    assert ends["control task"] == (line.control_low, line.control_high)
    assert ends["shuffled"] == (line.shuffled_low, line.shuffled_high)
    assert ends["untrained (5)"] == line.untrained_interval
    for name in ("control task", "shuffled", "subspace", "noise", "untrained (5)"):
        low, high = ends[name]
        assert low is not None and high is not None and low <= (named[name] or 0) <= high, name


def test_a_record_from_before_there_were_intervals_is_shown_without(app_folder: Path) -> None:
    """As it lies on disk: no key of an interval of a control."""
    (path,) = (app_folder / "runs" / FULL / "records").glob("probe-*.json")
    record = json.loads(path.read_text())
    for row in record["result"]["rows"]:
        for name in ("control", "shuffled", "random_subspace", "norm_matched"):
            del row[f"{name}_low"], row[f"{name}_high"]
    path.write_text(json.dumps(record))
    page = unfolded(opened("probes", app_folder, run=FULL), "probes_cell_answer")
    assert not page.exception and not page.error
    (frame,) = (one.value for one in page.dataframe if "q" in one.value.columns)
    rows: Any = record["result"]["rows"]
    told = frame["control task [95 %]"].tolist()
    assert told == [f"{row['control_accuracy']:.3f}" for row in rows]
    assert all("[" in text for text in frame["untrained [95 %]"])  # of what was recorded then
    map_ = unfolded(page.selectbox(key="probes_value").set_value("Control task").run())
    assert not map_.exception and not map_.error


# ---------------------------------------------------------------------- the page


def test_the_map_of_a_probed_network_stands_beside_its_controls(app_folder: Path) -> None:
    page = unfolded(opened("probes", app_folder, run=FULL), "probes_cell_answer")
    assert page.multiselect(key="probes_variables").value == ["answer"]
    assert "control task" in words(page) and "bound of untrained networks" in words(page)
    columns = [name for frame in page.dataframe for name in frame.value.columns]
    assert {"accuracy [95 %]", "control task [95 %]", "shuffled labels [95 %]"} <= set(columns)
    assert {"untrained [95 %]", "untrained, bound", "q"} <= set(columns)


def test_a_cell_in_the_address_is_shown_in_full(app_folder: Path) -> None:
    page = opened("probes", app_folder, run=FULL, probes_cell_answer="2")
    assert f"**answer** at {POST.replace('.', chr(92) + '.').replace('_', chr(92) + '_')}" in words(
        page
    )
    assert any("by the rule" in frame.value.to_string() for frame in page.dataframe)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[jobs.Order]:
    """Orders that were started; none is worked off."""
    return noted_starts(monkeypatch)


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

"""`workbench probe training` as a person runs it, on a run built by hand, and its pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from apps.cli_training import across, parse_steps, site_table
from apps.training_drawing import draw_across
from probes.analyses.probe_training import across_of
from probes.training_times import AcrossTraining
from tests.unit.staged_run import MID, POST, STAGES, follow, squares_run
from workbench.errors import ConfigError
from workbench.records import read_records
from workbench.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return squares_run(tmp_path_factory.mktemp("across") / "squares")


@pytest.fixture(scope="module")
def found(run: Run) -> AcrossTraining:
    return follow(run)


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_drawn(found: AcrossTraining, kind: str, start: bytes) -> None:
    drawn = draw_across(found, kind)
    assert drawn.startswith(start)
    if kind == "svg":
        for words in (b"a_squared", b"used from step 20", b"generalises", b"untrained network"):
            assert words in drawn or words in drawn.replace(b"&#160;", b" "), words


def command(*words: str) -> str:
    app = typer.Typer()
    app.command()(across)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_command_prints_json(run: Run, tmp_path: Path) -> None:
    words = (str(run.path), "--variable", "a_squared", "--steps", "20,0", "--no-das", "--site", MID)
    told = json.loads(command(*words, "--json", "--out", str(tmp_path / "x.svg")))
    assert [one["step"] for one in told["checkpoints"]] == [0, 20]
    assert (told["decodable_from"], told["used_from"], told["generalises_from"]) == (20, None, 20)
    heads = {
        "variable",
        "n_classes",
        "probe",
        "rank",
        "rule",
        "times",
        "checkpoints",
        "task",
        "run",
    }
    assert heads <= told.keys()
    measure = told["checkpoints"][1]["measures"][0]
    assert (measure["kind"], measure["site"]) == ("new_inputs", MID)
    assert measure["level"].keys() == {"value", "low", "high", "n", "exhaustive"}
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")


def test_the_command_lists_every_number(run: Run, tmp_path: Path) -> None:
    words = (str(run.path), "--variable", "a_squared", "--steps", "20,0", "--no-das", "--site", MID)
    out = tmp_path / "x.csv"
    told = json.loads(command(*words, "--json", "--out", str(out)))
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    heads = "step site measure of value n exhaustive above holds low high".split()
    assert list(rows[0]) == heads
    # Three accuracies; new inputs and new values with two controls, erased with one: 3 + 3 + 2.
    assert [row["step"] for row in rows] == ["0"] * 11 + ["20"] * 11
    by_place = {(row["step"], row["measure"], row["of"]): row for row in rows}
    assert by_place["20", "held_out_accuracy", "network"]["site"] == ""
    for checkpoint in told["checkpoints"]:
        for measure in checkpoint["measures"]:
            place = (str(checkpoint["step"]), measure["kind"])
            levels = {"a_squared": measure["level"], **measure["controls"]}
            for name, level in levels.items():
                row = by_place[(*place, name)]
                assert row["above"] == (str(measure["above"]) if name == "a_squared" else "")
                assert row["site"] == MID
                for head in ("value", "low", "high", "n", "exhaustive"):
                    assert row[head] == str(level[head]), head
                assert row["holds"] == (str(measure["holds"]) if name == "a_squared" else "")


def test_the_command_prints_tables(run: Run) -> None:
    words = (str(run.path), "--variable", "a_squared", "--steps", "20,0", "--no-das", "--site", MID)
    told = command(*words)
    for part in ("new values", "| relabelled", "decodable: from step 20", "used: not measured"):
        assert part in told, part


def test_the_table_of_a_site(found: AcrossTraining) -> None:
    checkpoints = [checkpoint.to_dict() for checkpoint in found.checkpoints]
    heads, rows = site_table(checkpoints, POST)
    assert heads[:6] == ["step", "train", "held out", "new inputs", "| relabelled", "| untrained"]
    assert [row[0] for row in rows] == STAGES
    assert all(len(row) == len(heads) for row in rows)
    assert rows[2][1:3] == ["1.000", "1.000"]


def test_a_control_that_was_not_always_made_has_a_gap_in_the_table() -> None:
    level_of: Any = {"value": 0.5}
    measures = [{"kind": "erased", "site": "x", "level": level_of, "controls": {"a": level_of}}]
    more = [{**measures[0], "controls": {"a": level_of, "b": level_of}}]
    checkpoints = [
        {"step": step, "train_accuracy": None, "held_out_accuracy": None, "measures": made}
        for step, made in enumerate((measures, more))
    ]
    heads, rows = site_table(checkpoints, "x")
    assert heads == ["step", "train", "held out", "erased", "| a", "| b"]
    assert rows == [
        [0, "–", "–", "0.500", "0.500", "–"],
        [1, "–", "–", "0.500", "0.500", "0.500"],
    ]


def test_the_command_keeps_a_record(run: Run, tmp_path: Path) -> None:
    words = (str(run.path), "--variable", "a_squared", "--steps", "20", "--no-das", "--site", MID)
    told = json.loads(command(*words, "--json", "--out", str(tmp_path / "x.csv")))
    (record,) = (one for one in read_records(run) if one.parameters["checkpoints"] == [20])
    assert [one.step for one in record.checkpoints] == [0, 20]
    assert told["step"] == 20 and told["weights_sha256"] == record.weights_sha256
    assert {key: told[key] for key in record.result} == record.result
    assert told.keys() - record.result.keys() == {
        *("workbench", "task", "run", "weights_sha256", "step"),
    }
    (finding,) = record.findings
    assert finding.id == "training_read_a_squared" and finding.verdict == "supported"


def test_the_picture_of_a_record_is_that_of_what_was_followed(
    run: Run, found: AcrossTraining
) -> None:
    command(str(run.path), "--variable", "a_squared", "--no-das", "--quiet")
    record = max(read_records(run), key=lambda one: len(one.checkpoints))
    drawn = across_of(record)
    assert drawn == follow(run, das=False)
    assert draw_across(drawn, "png") == draw_across(follow(run, das=False), "png")


def test_steps_are_read_or_refused() -> None:
    assert parse_steps("100, 0,100") == [0, 100]
    for wrong in ("", "0,,1", "all", "-1", "1.5"):
        with pytest.raises(ConfigError, match=r"^--steps '.*': write steps with commas between"):
            parse_steps(wrong)

"""The command line as a person uses it: what is printed, what is written, how it says no."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps import cli
from apps.recording import explanation_document
from tests.published import PUBLISHED, needs_published
from workbench.records import read_records
from workbench.run import open_run
from workbench.version import __version__

SMALL = ["--set", "p=7", "--set", "d_model=16", "--set", "d_head=4", "--set", "d_mlp=32"]
SMALL += ["--set", "steps=20", "--set", "train_fraction=0.5", "--quiet"]


class Said:
    """What a command printed and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> object:
    """Run `workbench ARGUMENTS` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["workbench", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        code = end.value.code
        return Said(0 if code is None else int(code), captured.out, captured.err)

    return call


def test_version(run) -> None:
    assert run("--version").out == f"workbench {__version__}\n"


def test_help_names_every_command(run) -> None:
    said = run("--help")
    assert said.status == 0
    for command in ("tasks", "train", "import", "explain", "runs", "report"):
        assert command in said.out


def test_tasks_as_json(run) -> None:
    listed = json.loads(run("tasks", "--json").out)
    assert {task["name"] for task in listed["tasks"]} >= {"modular_addition", "digit_addition"}
    assert "slow_grokking" in listed["recipes"]


def test_tasks_as_a_table(run) -> None:
    said = run("tasks")
    assert said.status == 0 and "modular_division" in said.out and "fourier" in said.out


def test_train_prints_one_object_per_seed_and_hands_back_what_is_complete(run) -> None:
    command = ["train", "modular_addition", "--seeds", "0:2", *SMALL, "--json"]
    said = run(*command)
    rows = json.loads(said.out)
    assert [row["seed"] for row in rows] == [0, 1]
    assert set(rows[0]) == {
        "seed", "steps", "grokking_step", "accuracy", "held_out_accuracy", "seconds", "run",
    }  # fmt: skip
    assert rows[0]["steps"] == 20
    assert said.err == ""
    assert json.loads(run(*command).out) == rows
    listed = json.loads(run("runs", "--json").out)
    assert [row["state"] for row in listed] == ["complete", "complete"]


def test_explain_prints_exactly_one_object_and_writes_a_report(run, tmp_path: Path) -> None:
    said = run("explain", "modular_addition", *SMALL, "--draws", "2", "--json")
    assert said.status == 0, said.err
    document = json.loads(said.out)
    assert said.out.count("\n") == 1
    for key in (
        "workbench", "task", "run", "weights_sha256", "n_inputs", "exhaustive", "accuracy",
        "held_out_accuracy", "min_margin", "mechanism", "verdict", "key_frequencies", "findings",
        "seconds",
    ):  # fmt: skip
        assert key in document
    assert document["n_inputs"] == 49 and document["exhaustive"] is True
    assert document["verdict"] == "not identified"  # twenty steps teach it nothing
    assert document["task"] == {
        "name": "modular_addition", "p": 7, "equals_token": True, "separate_vocabularies": False,
    }  # fmt: skip
    for finding in document["findings"]:
        assert {"id", "claim", "value", "n", "interval", "controls", "verdict"} <= set(finding)
    assert recorded(document["run"]) == document
    page = (tmp_path / document["run"] / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    again = run("report", document["run"], "-o", "again.html")
    assert again.status == 0 and (tmp_path / "again.html").read_text() == page


def recorded(name: str, step: int | None = None) -> object:
    """The explanation that lies beside a run, as it was printed."""
    run = open_run(name)
    (record,) = read_records(run, run.steps[-1] if step is None else step)
    return json.loads(json.dumps(explanation_document(run, record, [])))


def test_explain_says_so_where_no_mechanism_is_known(run, monkeypatch) -> None:
    monkeypatch.setattr("circuits.analyses.mechanism.mechanism_for", lambda task: None)
    settings = ["--set", "n_digits=1", "--set", "steps=2", "--set", "d_model=16", "--quiet"]
    said = run("explain", "digit_addition", *settings, "--set", "d_head=4", "--json")
    document = json.loads(said.out)
    assert said.status == 0
    assert document["mechanism"] is None and document["verdict"] == "not identified"
    assert "workbench circuit" in document["reason"] and "workbench probe" in document["reason"]


@needs_published
def test_published_networks_are_explained_from_their_folders(run) -> None:
    expected = {
        "l8k1hzciux": ("identified", {13, 16, 21}),
        "p99zdpze5l": ("identified", {17, 3, 15}),
        "f5dh675z97": ("not identified", set()),
    }
    for name, (verdict, keys) in expected.items():
        said = run("explain", str(PUBLISHED / name), "--draws", "2", "--quiet", "--json")
        assert said.status == 0, said.err
        document = json.loads(said.out)
        assert (document["verdict"], set(document["key_frequencies"])) == (verdict, keys)
        assert document["held_out_accuracy"] is None
    assert document["accuracy"] == pytest.approx(0.0181, abs=5e-5)  # as its publisher found
    assert "does not do its task" in document["reason"]


WRONG = {
    "unknown task": (["train", "modular_adition"], "did you mean 'modular_addition'"),
    "unknown target": (["explain", "modular_adition"], "did you mean 'modular_addition'"),
    "missing run": (["explain", "runs/nothing"], "no run or network at runs/nothing"),
    "unknown key": (["train", "modular_addition", "--set", "d_modle=3"], "did you mean 'd_model'"),
    "key of the task": (["train", "modular_addition", "--set", "d_vocab=3"], "follows from"),
    "not key=value": (["train", "modular_addition", "--set", "p"], "key=value"),
    "wrong value": (["train", "modular_addition", "--set", "d_model=many"], "d_model"),
    "out of range": (
        ["train", "modular_addition", "--set", "train_fraction=1.5"],
        "train_fraction",
    ),
    "composite p": (["train", "modular_division", "--set", "p=12"], "needs a prime p, got 12"),
    "p too small": (["train", "modular_addition", "--set", "p=3"], "too small"),
    "unknown recipe": (["train", "modular_addition", "--recipe", "modlar"], "'modular'"),
    "unknown device": (["train", "modular_addition", "--device", "tpu"], "tpu"),
    "bad seeds": (["train", "modular_addition", "--seeds", "3:1"], "--seeds"),
    "no such folder": (["import", "nowhere"], "nowhere"),
    "unknown option": (["train", "modular_addition", "--sed", "1"], "--sed"),
    "unknown command": (["trian"], "trian"),
    "huge prime": (["train", "modular_addition", "--set", "p=1000000000000000009"], "too large"),
    "too many seeds": (["train", "modular_addition", "--seeds", "0:100000000000"], "at most"),
    "seed too large": (["explain", "modular_addition", "--seed", "4294967296"], "--seed"),
    "huge network": (["train", "modular_addition", "--set", "d_model=100000000"], "too large"),
    "no runs yet": (["runs"], "train or import something first"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_clear_line_and_status_2(run, case: str) -> None:
    arguments, expected = WRONG[case]
    said = run(*arguments)
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert expected in said.err


def test_asking_for_cuda_where_there_is_none(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = run("train", "modular_addition", *SMALL, "--device", "cuda")
    assert said.status == 2 and "no CUDA device" in said.err


def test_our_own_fault_is_status_1(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("apps.targets.make_plan", broken)
    said = run("train", "modular_addition")
    assert said.status == 1 and "bug" in said.err and said.err.count("\n") == 1


def test_control_c_in_training_leaves_a_run_that_the_same_command_finishes(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench.train

    step, calls = workbench.train._step, iter(range(100))

    def interrupted(*arguments: object) -> None:
        if next(calls) == 13:
            raise KeyboardInterrupt
        step(*arguments)

    command = ["train", "modular_addition", *SMALL, "--json"]
    monkeypatch.setattr(workbench.train, "_step", interrupted)
    said = run(*command)
    assert said.status == 130 and "same command" in said.err and said.out == ""
    assert "incomplete" in json.loads(run("runs", "--json").out)[0]["state"]
    name = json.loads(run("runs", "--json").out)[0]["run"]
    refused = run("explain", name)
    assert refused.status == 2 and "incomplete" in refused.err
    monkeypatch.setattr(workbench.train, "_step", step)
    assert json.loads(run(*command).out)[0]["steps"] == 20


def test_a_damaged_run_is_refused_and_listed(run, tmp_path: Path) -> None:
    name = json.loads(run("train", "modular_addition", *SMALL, "--json").out)[0]["run"]
    weights = sorted((tmp_path / name / "checkpoints").iterdir())[-1]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = run("explain", name)
    assert said.status == 2 and weights.name in said.err
    assert weights.name in run("runs", "--json").out


def test_the_installed_command_runs_in_its_own_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apps", "explain", "nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no task, run or network directory 'nothing'")


def test_explaining_an_early_checkpoint_leaves_the_explanation_of_the_last(
    run, tmp_path: Path
) -> None:
    document = json.loads(run("explain", "modular_addition", *SMALL, "--draws", "2", "--json").out)
    folder = tmp_path / document["run"]
    before = (folder / "report.html").read_bytes()
    early = json.loads(run("explain", document["run"], "--step", "0", "--draws", "2", "--json").out)
    assert early["step"] == 0 and early["weights_sha256"] != document["weights_sha256"]
    assert recorded(document["run"]) == document
    assert recorded(document["run"], step=0) == early
    assert (folder / "report.html").read_bytes() == before
    assert early["weights_sha256"][:12] in (folder / "step-000000" / "report.html").read_text()


def test_a_network_without_an_mlp_is_explained_without_a_word_on_standard_error(run) -> None:
    settings = [*SMALL, "--set", "d_mlp=0", "--draws", "2", "--json"]
    said = run("explain", "modular_addition", *settings)
    assert (said.status, said.err) == (0, "")
    verdicts = {f["id"]: f["verdict"] for f in json.loads(said.out)["findings"]}
    assert verdicts["neurons"] == verdicts["neuron_ablation"] == "not applicable"

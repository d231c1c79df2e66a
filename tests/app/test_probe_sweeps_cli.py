"""Sweeps of probes as a person runs them: `workbench probe plan`, `run`, `status`, `query`."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from tests.app.probing_folder import MID, POST, TINY, make_folder, state, workbench
from tests.known_adder import LAST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the results of a sweep."""
    folder = make_folder(tmp_path_factory.mktemp("probing"))
    said = workbench(folder, "probe", "run", "sweep.yaml", "-o", "results", *TINY)
    assert said.status == 0, said.err
    return folder


def test_plan_counts_and_writes_nothing(folder: Path) -> None:
    before = state(folder)
    said = workbench(folder, "probe", "plan", "sweep.yaml", *TINY, "--json")
    told = json.loads(said.out)
    assert said.status == 0 and state(folder) == before
    assert (told["checkpoints"], told["shards"], told["sites"]) == (1, 1, 3)
    # The grid of each of: the variable, its control task, its shuffling, two spaces, five twins.
    grid = len(json.loads((folder / "results/plan.json").read_text())["shards"][0]["spec"]
               ["question"]["strengths"]["ridge"])  # fmt: skip
    assert told["probes"] == 3 * 10 * grid
    assert told["forward_passes"] == 3 * 2
    said = workbench(folder, "probe", "plan", "sweep.yaml", *TINY)
    assert said.status == 0 and f" {told['probes']} " in said.out and "bytes" in said.out


def test_run_again_computes_nothing(folder: Path) -> None:
    before = state(folder / "results")
    said = workbench(folder, "probe", "run", "sweep.yaml", "-o", "results", *TINY, "--json")
    told = json.loads(said.out)
    assert (told["total"], told["done"], told["failed"]) == (1, 1, 0)
    files = list((folder / "results/shards").iterdir())
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    (rows,) = (path for path in files if path.suffix == ".parquet")
    assert told["rows"] == parquet.read_metadata(rows).num_rows
    after = state(folder / "results")
    assert {p: data for p, data in after.items() if "lock" not in p} == {
        p: data for p, data in before.items() if "lock" not in p
    }


def test_status_query_and_summary(folder: Path) -> None:
    assert json.loads(workbench(folder, "probe", "status", "results", "--json").out)["done"] == 1
    assert " 1 " in workbench(folder, "probe", "status", "results").out
    asked = "SELECT position, value FROM results WHERE p IS NOT NULL ORDER BY position"
    said = workbench(folder, "probe", "query", "results", asked, "--json")
    assert [row["position"] for row in json.loads(said.out)] == [0, 1, 2]
    assert json.loads(said.out)[2]["value"] == 1.0
    lines = json.loads(workbench(folder, "probe", "summary", "results", "--json").out)
    assert [(line["run"], line["step"], line["position"]) for line in lines] == [
        ("known", LAST, at) for at in (0, 1, 2)
    ]
    assert lines[2]["accuracy"] == 1.0 and lines[2]["interval"][1] == 1.0
    assert {line["n"] for line in lines} == {106}  # a fifth of 169
    said = workbench(folder, "probe", "summary", "results")
    assert said.status == 0 and "known" in said.out and POST in said.out


def test_a_wide_answer_is_not_cut(folder: Path) -> None:
    """Every column is there on a terminal of 80, and whole."""
    key = json.loads((folder / "results/plan.json").read_text())["shards"][0]["key"]
    said = workbench(folder, "probe", "query", "results", "SELECT * FROM results LIMIT 1")
    assert key in said.out and "converged" in said.out and "…" not in said.out


def test_json_of_whatever_sql_gives(folder: Path) -> None:
    asked = (
        "SELECT sum(n) AS n, 'nan'::DOUBLE AS x, DATE '2020-02-01' AS day, [1, NULL] AS list, "
        "1.5::DECIMAL(4, 2) AS half, {'a': 2} AS of FROM results"
    )
    said = workbench(folder, "probe", "query", "results", asked, "--json")
    assert said.status == 0, said.err
    (row,) = json.loads(said.out)
    files = list((folder / "results/shards").glob("*.parquet"))
    numbers = [n for path in files for n in parquet.read_table(path)["n"].to_pylist()]
    assert row["n"] == sum(numbers) and isinstance(row["n"], int)
    assert (row["x"], row["day"], row["list"]) == (None, "2020-02-01", [1, None])
    assert (row["half"], row["of"]) == (1.5, {"a": 2})
    said = workbench(folder, "probe", "query", "results", asked)
    assert said.status == 0 and "2020-02-01" in said.out


def test_a_script_runs_as_a_sweep_does(folder: Path) -> None:
    said = workbench(folder, "probe", "run", "script.py", "-o", "own", "--json", "positions=[1, 2]")
    assert said.status == 0, said.err
    assert json.loads(said.out)["rows"] == 2 * 3
    asked = "SELECT DISTINCT metric, control FROM results ORDER BY control"
    rows = json.loads(workbench(folder, "probe", "query", "own", asked, "--json").out)
    assert [row["control"] for row in rows] == ["none", "shuffled", "untrained"]
    told = json.loads(workbench(folder, "probe", "plan", "script.py", "--json").out)
    assert told["probes"] == 3 * 3 and told["forward_passes"] == 0
    said = workbench(folder, "probe", "summary", "own")
    assert said.status == 2 and "script's own numbers" in said.err


def test_two_sweeps_in_one_process(folder: Path) -> None:
    """The second finds the engines as the first did."""
    for name in ("first", "second"):
        command = ("run", "sweep.yaml", "-o", f"twice/{name}", "--engine", "local", "--quiet")
        assert workbench(folder, "probe", *command, *TINY).status == 0


def test_control_c_leaves_what_the_same_command_finishes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import probes.sweep

    real = probes.sweep.probe_hook

    def interrupted(setting: Any, hook: str) -> Any:
        if hook == POST:
            raise KeyboardInterrupt
        return real(setting, hook)

    command = ("probe", "run", "sweep.yaml", "-o", "stopped", *TINY[1:], f"hooks=[{MID}, {POST}]")
    monkeypatch.setattr(probes.sweep, "probe_hook", interrupted)
    said = workbench(folder, *command)
    assert said.status == 130 and "same command" in said.err and said.out == ""
    told = json.loads(workbench(folder, "probe", "status", "stopped", "--json").out)
    assert (told["done"], told["running"], told["stale"]) == (1, 0, 0)
    monkeypatch.setattr(probes.sweep, "probe_hook", real)
    assert json.loads(workbench(folder, *command, "--json").out)["done"] == 2


# ---------------------------------------------------------------------- mistakes


SWEEP = ("probe", "run", "sweep.yaml", "-o", "new")
ASK = ("probe", "query", "results")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("probe", "plan", "missing.yaml"), "cannot read missing.yaml"),
    "no script": (("probe", "plan", "missing.py"), "cannot read the script missing.py"),
    "folder": (("probe", "plan", "runs"), "cannot read runs: Is a directory"),
    "override": (("probe", "plan", "sweep.yaml", "sedes=[1]"), "did you mean 'seeds'"),
    "no override": (
        ("probe", "plan", "sweep.yaml", "seeds"),
        "write key=value, such as seeds=[0,1",
    ),
    "half override": (("probe", "plan", "sweep.yaml", "seeds=[1"), "the value is not YAML"),
    "no output": (("probe", "run", "sweep.yaml"), "'--output'"),
    "engine": ((*SWEEP, "--engine", "lcoal"), "no engine 'lcoal'; did you mean 'local'"),
    "workers": ((*SWEEP, "--workers", "0"), "--workers"),
    "incomplete run": ((*SWEEP, "runs=[runs/half]"), "half is incomplete"),
    "sweep of few inputs": ((*SWEEP, "n_inputs=16"), "classes on 16 inputs"),
    "other files": (("probe", "run", "sweep.yaml", "-o", "other"), "other is not empty and no"),
    "a file": (("probe", "run", "sweep.yaml", "-o", "script.py"), "a file is where a directory"),
    "another plan": (
        ("probe", "run", "sweep.yaml", "-o", "results", *TINY, "seeds=[1]"),
        "results holds another plan: question.seeds: [0] -> [1]; go back to that plan, or",
    ),
    "no results": (("probe", "status", "nothing"), "nothing is no results directory"),
    "others' status": (("probe", "status", "other"), "other is no results directory"),
    "status of a file": (("probe", "status", "script.py"), "script.py"),
    "query of no results": (("probe", "query", "other", "SELECT 1"), "is no results directory"),
    "summary of none": (("probe", "summary", "nothing"), "nothing is no results directory"),
    "no SQL": ((*ASK, "selct"), 'syntax error at or near "selct"'),
    "empty SQL": ((*ASK, ""), "only one SELECT can be asked"),
    "two": ((*ASK, "SELECT 1; SELECT 2"), "only one SELECT can be asked, got 'SELECT 1; SELECT 2'"),
    "pragma": ((*ASK, "PRAGMA version"), "only one SELECT can be asked"),
    "copy": ((*ASK, "COPY results TO 'x.csv'"), "only one SELECT can be asked"),
    "attach": ((*ASK, "ATTACH 'x.db'"), "only one SELECT can be asked"),
    "insert": ((*ASK, "INSERT INTO results VALUES (1)"), "only one SELECT can be asked"),
    "drop": ((*ASK, "DROP VIEW results"), "only one SELECT can be asked"),
    "files": ((*ASK, "SELECT * FROM read_csv('/etc/passwd')"), "file system operations are disa"),
    "names of files": ((*ASK, "SELECT * FROM glob('/*')"), "file system operations are disabled"),
    "a file as a table": ((*ASK, "SELECT * FROM '/etc/passwd'"), "does not exist"),
    "column": ((*ASK, "SELECT valu FROM results"), "the view results has the columns shard, run,"),
    "table": ((*ASK, "SELECT * FROM result"), 'Did you mean "results"'),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line_and_writes_nothing(folder: Path, case: str) -> None:
    arguments, expected = MISTAKES[case]
    before = state(folder)
    said = workbench(folder, *arguments)
    assert said.status == 2, said.err
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert expected in said.err
    made = {path for path in state(folder) if path not in before}
    if case not in ("imported", "overflow"):  # imported first: that is no mistake
        assert not made and state(folder) == before
    assert not (folder / "new").exists() and not (folder / "x.csv").exists()


YAML: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty; it needs at least runs: [...] and variables: [...]"),
    "list": (b"- a\n", "holds list; write it as key: value lines"),
    "broken": (b"runs: [a,\nb: }", "line 2"),
    "binary": (b"\xff\xfe\x00\x01", "is not text; name a YAML file"),
    "misspelt": (b"runs: a\nvariabels: b\n", "did you mean 'variables'"),
    "twice": (b"runs: a\nruns: b\n", "runs is given twice"),
}


@pytest.mark.parametrize("case", YAML)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_sweep_that_is_none_is_told_in_one_line(folder: Path, case: str, command: str) -> None:
    data, expected = YAML[case]
    (folder / "bad.yaml").write_bytes(data)
    rest = ("-o", "new") if command == "run" else ()
    said = workbench(folder, "probe", command, "bad.yaml", *rest)
    assert said.status == 2 and said.out == "" and said.err.count("\n") == 1
    assert expected in said.err and "bad.yaml" in said.err
    assert not (folder / "new").exists()

"""Keys of shards, and the frozen plan."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probes.batch import Plan, run_plan, status
from probes.batch.compute import load_compute
from probes.batch.plan import read_plan
from probes.batch.shards import shard_key
from tests.unit.squares import SQUARES, computed, plan_of, run
from tests.unit.squares import no_waiting as no_waiting
from workbench.errors import SweepError

# ---------------------------------------------------------------------- keys


def test_a_key_is_the_digest_of_its_canonical_json() -> None:
    text = '{"compute":"a.b:c","schema":1,"spec":{"a":[1,2.5],"b":{"c":null,"d":"x"}}}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert shard_key("a.b:c", {"b": {"d": "x", "c": None}, "a": (1, 2.5)}) == expected


@pytest.mark.parametrize("change", [{"number": 4}, {"dtype": "float64"}, {"seed": 0}])
def test_any_change_of_a_specification_changes_its_key(change: dict[str, Any]) -> None:
    spec = {"number": 3, "dtype": "float32"}
    assert shard_key("a:b", spec) != shard_key("a:b", {**spec, **change})
    assert shard_key("a:b", spec) != shard_key("a:c", spec)


def test_where_things_lie_is_no_part_of_a_key() -> None:
    spec = {"number": 3, "_run": "/here", "_device": "cpu"}
    moved = {"number": 3, "_run": "/there", "_device": "cuda"}
    assert shard_key("a:b", spec) == shard_key("a:b", moved) == shard_key("a:b", {"number": 3})


def test_scripts_are_keyed_by_their_content_and_not_their_path(tmp_path: Path) -> None:
    text = "def f(spec):\n    return spec\n"
    plans = []
    for folder, script in (("a", text), ("b", text), ("c", text + "# edited\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "script.py").write_text(script)
        name = f"{tmp_path / folder}/script.py:f"
        plans.append(Plan(name="x", compute=name, shards=[{"a": 1}]))
    assert plans[0].fingerprint == plans[1].fingerprint != plans[2].fingerprint
    assert load_compute(plans[0].compute)({"a": 1}) == {"a": 1}
    with pytest.raises(SweepError, match=r"changed while the run went on; start it again"):
        load_compute(plans[0].compute, identity=plans[2].identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squares", "does not name a function"),
        ("module:", "does not name a function"),
        ("no_such_module_here:f", "cannot import no_such_module_here"),
        ("tests.unit.squares:cubes", "has no function 'cubes'"),
        ("no/such/script.py:f", "cannot read the script no/such/script.py"),
    ],
)
def test_compute_functions_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        load_compute(name)


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "has no shards"),
        ([{"a": 1}, {"b": 2}, {"a": 1}], r"shards\[2\] is in the plan twice"),
        ([{"a": {"b": [1, float("nan")]}}], r"shards\[0\]\.a\.b\[1\] = nan cannot be written"),
        ([{"a": {1: 2}}], r"shards\[0\]\.a = \{1: 2\} cannot be written as JSON"),
        ([{"a": Path()}], r"cannot be written as JSON"),
    ],
)
def test_plans_that_cannot_be(shards: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        Plan(name="x", compute="a.b:c", shards=shards)


def sweep(**settings: Any) -> Plan:
    shards = [{"site": site, "grid": settings} for site in settings.pop("sites", ["a", "b"])]
    return Plan(name="x", compute=settings.pop("compute", SQUARES), shards=shards)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            {"strengths": [1.0]},
            {"strengths": [1.0, 10.0]},
            r"grid\.strengths: \[1\.0\] -> \[1\.0, 10\.0\]; go back",
        ),
        ({"sites": ["a", "b"]}, {"sites": ["a", "c"]}, r'site: "a", "b" -> "a", "c"; go back'),
        ({"seed": 1}, {"seed": 1, "folds": 5}, r"grid\.folds: nothing -> 5; go back"),
        ({}, {"compute": "a.b:c"}, r"compute: tests\.unit\.squares:squares -> a\.b:c"),
    ],
)
def test_another_plan_is_refused_and_the_difference_named(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], message: str
) -> None:
    sweep(**old).write_or_match(tmp_path / "x")
    before = (tmp_path / "x" / "plan.json").read_bytes()
    sweep(**old).write_or_match(tmp_path / "x")
    with pytest.raises(SweepError, match=message) as raised:
        sweep(**new).write_or_match(tmp_path / "x")
    assert "\n" not in str(raised.value)
    assert "choose another directory" in str(raised.value)
    assert (tmp_path / "x" / "plan.json").read_bytes() == before


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["00", "01", "10"], "shards: 4 -> 3"),
        (["00", "01", "11", "10"], "shards: in another order"),
        (["00", "01", "10", "12"], "b: 0, 1 -> 0, 1, 2"),
    ],
)
def test_the_same_values_in_other_combinations(
    tmp_path: Path, pairs: list[str], message: str
) -> None:
    def plan(pairs: list[str]) -> Plan:
        shards = [{"a": int(pair[0]), "b": int(pair[1])} for pair in pairs]
        return Plan(name="x", compute="a:b", shards=shards)

    plan(["00", "01", "10", "11"]).write_or_match(tmp_path / "x")
    with pytest.raises(SweepError, match=message):
        plan(pairs).write_or_match(tmp_path / "x")
    plan(["00", "01", "10"]).write_or_match(tmp_path / "y")
    with pytest.raises(SweepError, match="shards: other combinations"):
        plan(["00", "01", "11"]).write_or_match(tmp_path / "y")


def test_a_plan_reads_back_and_its_name_does_not_matter(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    plan.write_or_match(tmp_path / "x")
    frozen = read_plan(tmp_path / "x")
    assert (frozen.keys, frozen.shards) == (plan.keys, plan.shards)
    assert frozen.fingerprint == plan.fingerprint
    Plan(name="y", compute=plan.compute, shards=plan.shards).write_or_match(tmp_path / "x")


def test_a_run_that_was_moved_goes_on_and_finds_it_where_it_is_now(tmp_path: Path) -> None:
    directory = tmp_path / "x"
    next(run_plan(plan_of(tmp_path, _run="/here"), directory))
    moved = plan_of(tmp_path, _run="/there", _device="cuda")
    assert [step.key for step in run(moved, directory)] == list(moved.keys[1:])
    assert computed(tmp_path) == [0, 1, 2]
    with pytest.raises(SweepError, match=r"another plan: new: nothing -> 1; go back"):
        run(plan_of(tmp_path, _run="/elsewhere", new=1), directory)


def test_what_is_no_results_directory_has_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("words")
    remedy = "; give the directory that a run writes into$"
    with pytest.raises(SweepError, match=rf"notes\.txt is no results directory but a file{remedy}"):
        status(file)
    with pytest.raises(SweepError, match=rf"is no results directory: it has no plan\.json{remedy}"):
        status(tmp_path)


def test_directories_of_something_else_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(SweepError, match=r"is not empty .*it has thesis\.tex.*another directory"):
        plan_of(tmp_path).write_or_match(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]  # noqa: PTH208
    with pytest.raises(SweepError, match="a file is where a directory should be"):
        plan_of(tmp_path).write_or_match(tmp_path / "thesis.tex")


def test_what_a_kill_before_the_plan_leaves_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / "x"
    directory.mkdir()
    (directory / ".lock").touch()
    (directory / ".plan.json.123-abc.tmp").write_text('{"form')
    plan_of(tmp_path).write_or_match(directory)
    assert read_plan(directory).keys == plan_of(tmp_path).keys


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.update(format=2), "has format 2, not 1"),
        (lambda stored: stored.pop("fingerprint"), "lacks 'fingerprint'"),
        (lambda stored: stored["shards"][2].pop("spec"), r"lacks 'shards\[2\]\.spec'"),
        (lambda stored: stored.update(shards=5), "holds shards = 5, not a list"),
        (lambda stored: stored.update(name=None), "holds name = None, not text"),
        (lambda stored: stored.update(shards=[1]), r"holds shards\[0\] = 1, not an object"),
        (
            lambda stored: stored.update(shards=[{"key": 1, "spec": 3}]),
            r"holds shards\[0\]\.key = 1, not text",
        ),
        (
            lambda stored: stored.update(shards=[{"key": "a", "spec": 3}]),
            r"holds shards\[0\]\.spec = 3, not an object",
        ),
        (lambda stored: stored.update(fingerprint="0"), "was changed by hand"),
        (lambda stored: stored["shards"][0]["spec"].update(number=9), "was changed by hand"),
    ],
)
def test_damaged_plans(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    plan_of(tmp_path).write_or_match(tmp_path / "x")
    file = tmp_path / "x" / "plan.json"
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))
    with pytest.raises(SweepError, match=rf"plan\.json {message}.*; restore it from") as raised:
        plan_of(tmp_path).write_or_match(tmp_path / "x")
    assert "\n" not in str(raised.value)
    file.write_text(file.read_text()[:50])
    with pytest.raises(SweepError, match="not valid JSON"):
        status(tmp_path / "x")


def test_a_run_that_begins_while_another_looks_is_not_taken_for_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, listed = tmp_path / "x", Path.iterdir
    plan = plan_of(tmp_path)

    def begun_before_it_is_listed(path: Path) -> Iterator[Path]:
        if path == directory and not (directory / "plan.json").exists():
            monkeypatch.setattr(Path, "iterdir", listed)
            plan.write_or_match(directory)
            (directory / "claims").mkdir()
        return listed(path)

    directory.mkdir()
    monkeypatch.setattr(Path, "iterdir", begun_before_it_is_listed)
    plan.write_or_match(directory)
    assert (directory / "claims").is_dir()

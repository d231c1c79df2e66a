"""A probe of one's own in a plain script: by the command line's face and by Python's."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.batch import Results, status
from probes.estimate import estimate
from probes.script import ScriptProbe, probe, sweep_of_script
from probes.sweep import SweepResults, setting_of
from tests.known_adder import KNOTS, RANDOM, P, adder_params, adder_task, write_run
from workbench.errors import ConfigError, SweepError, UnknownName, WorkbenchError

POST = "blocks.0.hook_resid_post"
HEAD = f"""
import math
import torch
from probes.script import probe

QUESTION = dict(runs="runs/known", variables=["answer"], hooks=["{POST}"], seeds=[0])
"""
DISTANCE = """
@probe(**QUESTION)
def distance(at):
    '''How far the means of answers 0 and 1 are apart; and how many inputs there are.'''
    zero, one = at.classes["answer"] == 0, at.classes["answer"] == 1
    gap = at.x[:, one].mean(1) - at.x[:, zero].mean(1)
    return {"distance": gap.norm(dim=-1), "inputs": len(at.inputs)}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "known")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(written, tmp_path / "runs/known")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(body: str, name: str = "script.py") -> Path:
    Path(name).write_text(HEAD + body)
    return Path(name)


def run(body: str, *overrides: str) -> SweepResults:
    return sweep_of_script(script(body), overrides).run("results")


def returning(value: str) -> str:
    return f"@probe(**QUESTION)\ndef own(at):\n    return {value}\n"


# ---------------------------------------------------------------------- what it measures


def test_the_function_sees_the_activations_and_its_controls() -> None:
    rows = run(DISTANCE, "controls=[untrained, shuffled]").table().to_pylist()
    found = {(row["control"], row["position"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows) == 3 * 3 * 2  # controls and the network, positions, metrics
    # Float32 activations of size 10, so sums over 23 inputs are right to about 1e-6.
    assert found["none", 2, "distance"] == pytest.approx(_distance_on_paper(), rel=1e-5)
    assert found["untrained", 2, "distance"] < found["none", 2, "distance"]
    assert found["shuffled", 2, "distance"] != found["none", 2, "distance"]
    assert {value for site, value in found.items() if site[2] == "inputs"} == {P * P}
    assert {row["probe"] for row in rows} == {"distance"}
    assert all(row["n"] == P * P and row["p"] is None for row in rows)


def _distance_on_paper() -> float:
    """From the network's parameters and what `tests.known_adder` says of it, without a forward."""
    params, inputs = adder_params(0), adder_task().domain()
    answer = inputs.sum(1) % P
    copied = params["embed.W_E"][inputs][:, :, RANDOM].sum(1)
    noise = (copied @ params["blocks.0.mlp.W_in"][RANDOM, KNOTS:]).relu()
    parts = torch.cat([inputs.sum(1, keepdim=True), torch.eye(P)[answer], copied, noise], 1)
    return float((parts[answer == 1].mean(0) - parts[answer == 0].mean(0)).norm())


def test_both_faces_give_the_same_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = sweep_of_script(script(DISTANCE, "apart.py")).run("one").table()
    monkeypatch.syspath_prepend(str(folder))
    apart = __import__("apart")
    assert isinstance(apart.distance, ScriptProbe)
    assert apart.distance.sweep().run("other").table().equals(table)
    # And the function can still be called by hand.
    spec = dict(apart.distance.sweep().plan().shards[0])
    assert apart.distance(spec).table.num_rows == table.num_rows
    del sys.modules["apart"]
    assert setting_of(spec).targets["answer"].n_classes == P


def test_keyword_arguments_and_overrides_replace_the_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    script(DISTANCE, "replaced.py")
    replaced = __import__("replaced")
    made = replaced.distance.sweep(steps="all", positions=[2])
    assert [spec["step"] for spec in made.plan().shards] == [0, 20]
    by_words = sweep_of_script(Path("replaced.py"), ["steps=all", "positions=[2]"])
    assert by_words.plan().keys == made.plan().keys
    del sys.modules["replaced"]


def test_controls_can_be_left_out() -> None:
    rows = run(returning('{"m": 1.0}'), "controls=[]").table().to_pylist()
    assert {row["control"] for row in rows} == {"none"}


def test_a_number_may_be_given_once_or_for_each_site_in_any_form() -> None:
    body = returning('{"one": 2, "listed": [1, 2, 3], "tensor": torch.arange(3)}')
    rows = [row for row in run(body).table().to_pylist() if row["control"] == "none"]
    found = {metric: [r["value"] for r in rows if r["metric"] == metric] for metric in
             ("one", "listed", "tensor")}  # fmt: skip
    assert found == {"one": [2, 2, 2], "listed": [1, 2, 3], "tensor": [0, 1, 2]}


def test_the_splits_of_the_question_are_given() -> None:
    body = returning(
        '{"sides": (at.train | at.validate | at.held_out).all().double(),'
        ' "held": at.held_out.sum().double(), "splits": len(at.train)}'
    )
    rows = run(body, "seeds=[0, 1]").table().to_pylist()
    found = {row["metric"]: row["value"] for row in rows}
    assert found["sides"] == 1 and found["splits"] == 2
    # A fifth of 169 inputs is held out each time, give or take half a group of two.
    assert found["held"] == pytest.approx(2 * P * P / 5, abs=2)


def test_an_edited_script_is_another_plan() -> None:
    run(DISTANCE)
    with pytest.raises(SweepError, match=r"results holds another plan: compute: script\.py"):
        run(DISTANCE + "# edited\n")


def test_a_moved_script_is_the_same_plan(folder: Path) -> None:
    table = run(DISTANCE).table()
    (folder / "elsewhere").mkdir()
    moved = shutil.move("script.py", folder / "elsewhere/script.py")
    assert sweep_of_script(Path(moved)).run("results").table().equals(table)


# ---------------------------------------------------------------------- what it will take


def test_the_estimate_counts_how_often_the_function_sees_a_site(folder: Path) -> None:
    body = returning('{"m": float((at.classes["answer"] + at.classes["wraps"]).sum())}')
    asked = ['variables=["answer", "wraps"]', "steps=all", f"hooks=[{POST}, hook_embed]"]
    before = set(folder.rglob("*"))
    path = script(body)
    told = estimate(sweep_of_script(path, asked))
    left = {found for found in folder.rglob("*") if "__pycache__" not in found.parts}  # Python's
    assert left == before | {folder / "script.py"}
    assert (told.checkpoints, told.shards, told.sites) == (2, 4, 2 * 2 * 3)
    rows = sweep_of_script(path, asked).run("results").table().num_rows
    assert told.probes == rows == 12 * 3  # one metric: a row for each time
    assert told.forward_passes == 0
    real = status(Path("results")).bytes
    assert real / 4 < told.bytes < real * 4


def test_the_estimate_of_a_failing_function_tells_of_it() -> None:
    with pytest.raises(SweepError, match="KeyError: 'wraps'; correct the script"):
        estimate(sweep_of_script(script(returning('{"m": at.classes["wraps"].sum()}'))))


# ---------------------------------------------------------------------- what is refused


UNREADABLE: dict[str, tuple[str, str]] = {
    "none": ("x = 1\n", "must have one function with @probe, it has none"),
    "two": (
        returning('{"m": 1}') + returning('{"m": 2}').replace("own", "second"),
        "must have one function with @probe, it has own, second",
    ),
    "syntax": ("def own(at:\n", "SyntaxError"),
    "import": ("import nothing_of_this_name\n", "script.py line 7: ModuleNotFoundError"),
    "fails": ("1 / 0\n", "script.py line 7: ZeroDivisionError: division by zero; correct the"),
    "exits": ("raise SystemExit(3)\n", "SystemExit: 3; correct the script"),
    "bare": ("@probe\ndef own(at):\n    return {}\n", "TypeError"),
    "no runs": ("@probe(variables=['a'])\ndef own(at):\n    return {}\n", "names no runs"),
    "misspelt": (
        "@probe(runs='runs/known', variabels=['a'])\ndef own(at):\n    return {}\n",
        "no @probe of own key 'variabels'; did you mean 'variables'",
    ),
    "no name": ("own = probe(**QUESTION)(lambda at: {})\n", "does not name a function"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_script_that_is_no_probe_is_told_in_one_line(case: str) -> None:
    body, expected = UNREADABLE[case]
    with pytest.raises(WorkbenchError) as told:
        run(body)
    assert expected in str(told.value) and "\n" not in str(told.value)
    assert not Path("results").exists()


def test_a_missing_script_and_one_that_is_no_text(folder: Path) -> None:
    with pytest.raises(SweepError, match=r"cannot read the script missing\.py"):
        sweep_of_script(Path("missing.py"))
    (folder / "binary.py").write_bytes(b"\x00\xff\xfe")
    with pytest.raises(SweepError, match=r"binary\.py: SyntaxError: .*; correct the script"):
        sweep_of_script(Path("binary.py"))


WRONG: dict[str, tuple[str, str]] = {
    "shape": ('{"m": [1, 2]}', "own gave m of shape [2]; give one finite number for each of 3"),
    "matrix": ('{"m": torch.zeros(3, 1)}', "own gave m of shape [3, 1]"),
    "NaN": ('{"m": math.nan}', f"own gave m = nan at {POST}@0; give one finite number"),
    "infinite": ('{"m": [0, math.inf, 0]}', f"own gave m = inf at {POST}@1"),
    "text": ('{"m": "text"}', "own gave m = 'text'; give one finite number"),
    "none": ('{"m": None}', "own gave m = None"),
    "ragged": ('{"m": [[1], [1, 2]]}', "own gave m = [[1], [1, 2]]"),
    "number": ("3", "own returned int; return numbers by name"),
    "nothing": ("None", "own returned NoneType"),
    "empty": ("{}", "own returned nothing"),
    "fails": ('{"m": 1 / 0}', "ZeroDivisionError: division by zero"),
    "key": ('{"m": at.classes["anser"].sum()}', "KeyError: 'anser'"),
    "lines": ('{"m": int("two\\nlines")}', "ValueError: invalid literal"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_numbers_are_told_in_one_line(case: str) -> None:
    value, expected = WRONG[case]
    with pytest.raises(SweepError) as told:
        run(returning(value))
    message = str(told.value)
    assert message.startswith("1 of 1 shards failed") and "\n" not in message
    assert expected in message
    assert status(Path("results")).failed == 1
    assert Results(Path("results")).keys() == []


def test_the_numbers_of_a_script_have_no_summary() -> None:
    results = run(returning('{"accuracy": 0.5}'))
    with pytest.raises(SweepError, match="a script's own numbers, which have no summary"):
        results.summary()
    found = results.query("SELECT DISTINCT value FROM results WHERE metric = 'accuracy'")
    assert found["value"].to_pylist() == [0.5]


def test_questions_are_checked_as_those_of_sweeps() -> None:
    with pytest.raises(UnknownName, match="did you mean 'answer'"):
        run(DISTANCE, "variables=anser")
    with pytest.raises(ConfigError, match="did you mean 'seeds'"):
        run(DISTANCE, "sedes=1")


def test_a_decorated_function_is_still_a_function() -> None:
    @probe(variables=["a"])
    def doubled(at: Any) -> Any:
        return {"m": 2 * at}

    assert doubled(3) == {"m": 6} and doubled.name == "doubled"

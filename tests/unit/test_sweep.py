"""Sweeps: what they resolve to, what they survive, and what their tables say."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import false_discovery_control

import probes.sweep
from probes.batch import status
from probes.sweep import Sweep, SweepResults, compute_shard
from probes.yaml_files import parse_overrides
from tests.known_adder import LAST
from tests.unit.small_sweeps import MID, POST, TINY, content, sweep_of
from tests.unit.small_sweeps import computed as computed
from tests.unit.small_sweeps import folder as folder
from tests.unit.small_sweeps import written as written
from workbench.errors import SweepError

# ---------------------------------------------------------------------- what a sweep resolves to


def test_a_shard_for_every_checkpoint_and_hook() -> None:
    plan = sweep_of(runs=["runs/known", "runs/o*"], steps="all").plan()
    found = [(spec["run"], spec["step"], spec["hook"]) for spec in plan.shards]
    assert found == [
        (run, step, hook)
        for run in ("known", "other")
        for step in (0, LAST)
        for hook in (MID, POST)
    ]
    assert len(set(plan.keys)) == 8


@pytest.mark.parametrize(
    ("steps", "expected"), [("last", [LAST]), ([0], [0]), (0, [0]), ([LAST, 0, 0], [0, LAST])]
)
def test_which_checkpoints(steps: Any, expected: list[int]) -> None:
    plan = sweep_of(steps=steps, hooks=[POST]).plan()
    assert [spec["step"] for spec in plan.shards] == expected


def test_runs_are_matched_from_the_folder_of_the_command_and_from_the_root(folder: Path) -> None:
    here = sweep_of(runs=["runs/*o*n*"]).plan()
    assert here.keys == sweep_of(runs=[f"{folder}/runs/know?"]).plan().keys
    twice = sweep_of(runs=["runs/known", "./runs/known", f"{folder}/runs/known"]).plan()
    assert here.keys == twice.keys  # a run named twice is one run


@pytest.mark.parametrize(
    "change",
    [
        {"variables": ["a"]},
        {"seeds": [1]},
        {"probes": ["mass_mean"]},
        {"strengths": {"ridge": [1.0]}},
        {"n_permutations": 20},
        {"dtype": "float64"},
        {"splits": ["network"]},
        {"controls": []},
        {"erase": False},
        {"n_inputs": 100},
        {"positions": [2]},
    ],
)
def test_whatever_decides_the_numbers_decides_the_keys(change: dict[str, Any]) -> None:
    assert not set(sweep_of().plan().keys) & set(sweep_of(**change).plan().keys)


def test_name_and_device_decide_nothing() -> None:
    assert sweep_of().plan().keys == sweep_of(name="other", device="cpu").plan().keys


def test_a_grid_written_out_is_the_grid_left_out() -> None:
    grid = list(sweep_of().plan().shards[0]["question"]["strengths"]["ridge"])
    assert sweep_of(strengths={"ridge": grid}).plan().keys == sweep_of().plan().keys


def test_overrides_are_yaml_and_come_last(folder: Path) -> None:
    (folder / "sweep.yaml").write_text("runs: runs/known\nvariables: answer\nseeds: [0, 1]\n")
    made = Sweep.from_yaml("sweep.yaml", ["seeds=[2]", "erase=no", "strengths={ridge: [0.5]}"]).spec
    assert made.runs == ("runs/known",) and made.variables == ("answer",)
    assert (made.seeds, made.erase, made.strengths) == ((2,), False, {"ridge": (0.5,)})
    assert Sweep.from_yaml("sweep.yaml").spec.seeds == (0, 1)
    assert parse_overrides(["name=a=b"]) == {"name": "a=b"}


# ---------------------------------------------------------------------- what its table says


def test_the_table_holds_the_network_that_is_known(folder: Path) -> None:
    (folder / "sweep.yaml").write_text("\n".join(f"{key}: {TINY[key]}" for key in TINY))
    results = Sweep.from_yaml("sweep.yaml").run("results")
    assert isinstance(results, SweepResults)
    rows = [row for row in results.table().to_pylist() if row["p"] is not None]
    found = {(row["hook"], row["position"]): row["value"] for row in rows}
    # The hats of the MLP hold the answer wherever both operands were seen; the sum alone, before
    # it, is no linear function of 23 classes on a line.
    assert found[POST, 1] == found[POST, 2] == 1.0
    assert max(found[MID, 1], found[MID, 2]) < 0.2
    assert {row["run"] for row in rows} == {"known"} and {row["step"] for row in rows} == {LAST}


def test_every_number_stands_beside_its_controls() -> None:
    rows = sweep_of().run("results").table().to_pylist()
    sites = {(row["hook"], row["position"]) for row in rows}
    assert len(sites) == 4
    names = {"none", "majority", "control_task", "shuffled", "untrained"}
    names |= {"random_subspace", "norm_matched", "erased"}
    others = {"random_erased", "control_erased"}  # only where they can tell something
    for site in sites:
        found = {row["control"] for row in rows if (row["hook"], row["position"]) == site}
        assert found - others == names
    assert others <= {row["control"] for row in rows}


def test_q_is_over_every_pooled_accuracy_of_all_networks() -> None:
    results = sweep_of(runs=["runs/known", "runs/other"], steps="all", erase=False).run("results")
    rows = results.table().to_pylist()
    tested = [row for row in rows if row["p"] is not None]
    assert len(tested) == 2 * 2 * 2 * 2
    expected = false_discovery_control([row["p"] for row in tested])  # scipy's Benjamini-Hochberg
    assert [row["q"] for row in tested] == pytest.approx(list(expected), abs=1e-12)
    assert all(row["q"] is None for row in rows if row["p"] is None)
    lines = results.summary()
    assert len(lines) == len(tested)
    assert {(of["run"], of["step"]) for of, _ in lines} == {
        (run, step) for run in ("known", "other") for step in (0, LAST)
    }
    assert [line.q for _, line in lines] == pytest.approx([row["q"] for row in tested])


def test_the_summary_says_yes_to_the_known_network_and_no_to_a_random_one() -> None:
    question = {"seeds": [0, 1, 2], "n_permutations": 199, "n_random_erasures": 9}
    lines = sweep_of(steps="all", **question).run("results").summary()
    said = {
        (of["step"], line.hook, line.position): (line.decodable, line.selective, line.used)
        for of, line in lines
    }
    assert said[LAST, POST, 2] == (True, True, True)
    assert said[LAST, POST, 1] == (True, True, False)  # nothing reads the answer of position 1
    others = [says for site, says in said.items() if site[:2] != (LAST, POST)]
    assert others == [(False, False, False)] * 6


def test_what_probes_learned_is_kept_under_the_key() -> None:
    results = sweep_of().run("results")
    for key, spec in zip(results.keys(), results.plan().shards, strict=True):
        tensors = results.tensors(key)
        assert tensors and all(name.startswith(f"{spec['hook']}.answer.ridge.") for name in tensors)


# ---------------------------------------------------------------------- what it survives


def test_stopped_between_shards_it_goes_on_where_it_was(computed: list[str]) -> None:
    whole = sweep_of(steps="all").run("whole").table()
    assert computed == [MID, POST, MID, POST]
    steps = sweep_of(steps="all").steps("results")
    first = next(steps)
    steps.close()
    assert (first.done, first.total, first.error) == (1, 4, None)
    told, before = status(Path("results")), content(Path("results"))
    assert (told.done, told.running, told.stale) == (1, 0, 0)
    computed.clear()
    resumed = sweep_of(steps="all").run("results").table()
    assert computed == [POST, MID, POST]
    assert resumed.equals(whole)  # bit for bit
    assert before.items() <= content(Path("results")).items()
    computed.clear()
    assert sweep_of(steps="all").run("results").table().equals(whole)
    assert computed == []


KILLED = """
import os, signal
from probes.sweep import Sweep
for done in Sweep.from_yaml("sweep.yaml").steps("results"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_between_shards_it_goes_on_where_it_was(folder: Path, computed: list[str]) -> None:
    (folder / "sweep.yaml").write_text("\n".join(f"{key}: {TINY[key]}" for key in TINY))
    root = Path(probes.sweep.__file__).parents[1]
    variables = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=variables, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = content(Path("results"))
    assert status(Path("results")).done == 1
    resumed = Sweep.from_yaml("sweep.yaml").run("results").table()
    assert computed == [POST]
    assert before.items() <= content(Path("results")).items()
    assert resumed.equals(sweep_of().run("whole").table())


def test_moved_runs_are_the_same_runs(folder: Path, computed: list[str]) -> None:
    table = sweep_of().run("results").table()
    (folder / "runs").rename(folder / "moved")
    computed.clear()
    assert sweep_of(runs=["moved/known"]).run("results").table().equals(table)
    assert computed == []


def test_a_changed_sweep_is_refused_in_one_line(folder: Path) -> None:
    sweep_of().run("results")
    before = content(folder / "results")
    with pytest.raises(SweepError, match=r"^results holds another plan: .*seeds: \[0\] -> \[1\];"):
        sweep_of(seeds=[1]).run("results")
    with pytest.raises(SweepError, match="step: 20 -> 0, 20"):
        sweep_of(steps="all").run("results")
    assert content(folder / "results") == before


def test_a_run_trained_again_is_another_run(folder: Path, written: Path) -> None:
    """Also in the process that has seen the first: its weights are not taken for the others'."""
    sweep, plan = sweep_of(hooks=[POST]), sweep_of(hooks=[POST]).plan()
    sweep.run("results")
    shutil.rmtree(folder / "runs/known")
    shutil.copytree(written / "other", folder / "runs/known")
    with pytest.raises(SweepError, match=r"holds another plan: .*weights_sha256"):
        sweep.run("results")
    probes.sweep._subject.cache_clear()  # as in another process, which never saw the first
    with pytest.raises(SweepError, match="weights of known at step 20 are not those of the plan"):
        compute_shard(dict(plan.shards[0]))
    other = sweep_of(hooks=[POST], runs=["runs/other"]).run("other").table()
    again = sweep.run("again").table()
    assert again.drop(["shard", "run"]).equals(other.drop(["shard", "run"]))


def test_several_processes_give_the_same_table_bit_for_bit() -> None:
    sweep = sweep_of(runs=["runs/known", "runs/other"], hooks=[POST])
    alone = sweep.run("alone")
    from probes.batch.engines.local import LocalEngine

    for done in sweep.steps("together", engine=LocalEngine(workers=2)):
        assert done.error is None
    together = SweepResults(Path("together"))
    assert together.table().equals(alone.table())
    for key in alone.keys():
        one, other = alone.tensors(key), together.tensors(key)
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_it_can_be_asked_while_it_runs() -> None:
    sweep, results = sweep_of(), SweepResults(Path("results"))
    counts = []
    for _ in sweep.steps("results"):
        found = results.query("SELECT count(DISTINCT hook) AS hooks, max(q) AS q FROM results")
        counts.append(found["hooks"][0].as_py())
        assert len(results.summary()) == 2 * counts[-1]
    assert counts == [1, 2]

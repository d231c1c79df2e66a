"""Sweeps: what they will take, told beforehand, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import probes.causal
import probes.probing
from probes.batch import status
from probes.estimate import estimate
from probes.spec import ProbeSpec
from probes.sweep import Sweep, SweepResults
from tests.unit.small_sweeps import POST, sweep_of, tree
from tests.unit.small_sweeps import folder as folder
from tests.unit.small_sweeps import written as written
from workbench.errors import ConfigError, RunError, SweepError, WorkbenchError

# ---------------------------------------------------------------------- what it will take


def test_the_estimate_counts_what_is_then_fitted_and_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, asked = [], []
    real_measure, real_answers = probes.probing.measure, probes.causal.answers_under

    def measure(kind: Any, grid: Any, design: Any, targets: Any, *rest: Any, **more: Any) -> Any:
        shape = (len(grid), design.n_splits, design.n_sites, len(targets.names))
        fitted.append(shape[0] * shape[1] * shape[2] * shape[3])
        return real_measure(kind, grid, design, targets, *rest, **more)

    def answers(subject: Any, inputs: Any, maps: Any) -> Any:
        asked.append(len(maps))
        return real_answers(subject, inputs, maps)

    sweep = sweep_of(
        runs=["runs/known", "runs/other"],
        steps="all",
        variables=["answer", "wraps"],
        hooks=[POST, "blocks.0.attn.hook_z"],
        probes=["ridge", "mass_mean"],
        strengths={"ridge": [0.1, 1.0]},
        seeds=[0, 3],
        controls=["control_task", "shuffled", "untrained", "norm_matched"],
    )
    before = tree(folder)
    told = estimate(sweep)
    assert tree(folder) == before  # nothing is written
    monkeypatch.setattr(probes.probing, "measure", measure)
    monkeypatch.setattr(probes.causal, "answers_under", answers)
    sweep.run("results")
    assert (told.checkpoints, told.shards) == (4, 8)
    assert told.sites == 4 * 2 * 2  # checkpoints, hooks (one head), positions
    assert told.probes == sum(fitted)
    # Five times a site, and more where that does not settle it.
    assert told.forward_passes == 16 * 2 * (1 + min(4, sweep.spec.n_random_erasures))
    assert told.forward_passes <= sum(asked)
    assert told.seconds >= 0
    real = status(Path("results")).bytes
    assert real / 4 < told.bytes < real * 4  # from the size of one site: no more than its scale


def test_the_estimate_of_a_sweep_that_erases_nothing_asks_nothing() -> None:
    assert estimate(sweep_of(erase=False)).forward_passes == 0


# ---------------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty; it needs at least runs"),
    "comments": ("# nothing\n", "is empty"),
    "list": ("- runs\n- variables\n", "holds list; write it as key: value lines"),
    "word": ("runs", "holds str"),
    "not YAML": ("runs: [a,\nvariables: }", "line 2: "),
    "colons": ("runs: a: b", "line 1: mapping values are not allowed here"),
    "tab": ("\truns: 1", "line 1: "),
    "control character": ("runs: \x07", "not YAML"),
    "misspelt": ("variabels: [a]", "no sweep.yaml key 'variabels'; did you mean 'variables'"),
    "number as key": ("1: 2", "no sweep.yaml key '1'"),
    "given twice": ("runs: a\nvariables: b\nruns: c", "line 3: runs is given twice"),
    "no runs": ("variables: [answer]", "names no runs; add runs: [...]"),
    "no variables": ("runs: [runs/known]", "names no variables; add variables: [...]"),
    "runs empty": ("runs: []\nvariables: [a]", "names no runs"),
    "runs null": ("runs:\nvariables: [a]", "names no runs"),
    "a range": ("runs: r\nvariables: a\nn_permutations: 18", "n_permutations = 18"),
    "steps": ("runs: r\nvariables: a\nsteps: first", "steps = 'first'; write last, all, or a list"),
    "no steps": ("runs: r\nvariables: a\nsteps: []", "steps = []; write last, all, or a list"),
    "a type": ("runs: r\nvariables: a\nerase: maybe", "erase = 'maybe'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_yaml_that_is_wrong_is_told_in_one_line(folder: Path, case: str) -> None:
    text, expected = REFUSED[case]
    (folder / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        Sweep.from_yaml("sweep.yaml")
    assert expected in str(told.value) and "\n" not in str(told.value)


def test_files_that_are_none_or_no_text(folder: Path) -> None:
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    for name, expected in (
        ("binary.yaml", "binary.yaml is not text; name a YAML file"),
        ("missing.yaml", "cannot read missing.yaml: No such file"),
        ("runs", "cannot read runs: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=expected):
            Sweep.from_yaml(name)


UNPLANNED: dict[str, tuple[dict[str, Any], str]] = {
    "no such run": ({"runs": ["runs/nothing"]}, "nothing"),
    "nothing matches": ({"runs": ["runs/x*"]}, "no run matches 'runs/x*'"),
    "no run": ({"runs": ["runs"]}, "is not a run"),
    "incomplete": ({"runs": ["runs/half"]}, r"is incomplete; .*with steps: [0, 20]"),
    "incomplete, all": ({"runs": ["runs/*"], "steps": "all"}, "half is incomplete"),
    "no such step": ({"steps": [7]}, "no checkpoint at step 7; there are: 0, 20"),
    "variable": ({"variables": ["anser"]}, "did you mean 'answer'"),
    "probe": ({"probes": ["rigde"]}, "did you mean 'ridge'"),
    "hook": ({"hooks": ["blocks.0.hook_resid_psot"]}, "did you mean 'blocks.0.hook_resid_post'"),
    "pattern": ({"hooks": ["blocks.0.attn.hook_pattern"]}, "hold keys, not features"),
    "position": ({"positions": [3]}, "inputs have positions 0 to 2"),
    "too few inputs": ({"n_inputs": 16}, "classes on 16 inputs"),
    "seeds": ({"seeds": [0, 0]}, "named twice"),
    "held out by": ({"splits": ["out_of_distribution"]}, "held_out_by"),
}


@pytest.mark.parametrize("case", UNPLANNED)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_written(
    folder: Path, case: str
) -> None:
    change, expected = UNPLANNED[case]
    with pytest.raises(WorkbenchError) as told:
        sweep_of(**change).run("results")
    message = str(told.value)
    assert "\n" not in message and not Path("results").exists()
    assert all(part in message for part in expected.split(".*"))


def test_checkpoints_of_an_incomplete_run_can_be_named() -> None:
    assert len(sweep_of(runs=["runs/half"], steps=[0]).plan().shards) == 2


def test_a_damaged_run_is_refused(folder: Path) -> None:
    weights = sorted((folder / "runs/known/checkpoints").iterdir())[-1]
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RunError, match=weights.name):
        sweep_of().plan()


@pytest.mark.parametrize("text", ["seeds", "=1", "seeds=[1", "sedes=[1]"])
def test_overrides_that_are_wrong(folder: Path, text: str) -> None:
    (folder / "sweep.yaml").write_text("runs: runs/known\nvariables: answer\n")
    with pytest.raises(ConfigError) as told:
        Sweep.from_yaml("sweep.yaml", [text])
    assert "\n" not in str(told.value) and text.strip("=1[]") in str(told.value)


def test_a_question_is_the_probe_spec_and_nothing_else() -> None:
    question = sweep_of().plan().shards[0]["question"]
    assert set(question) == {field.name for field in dataclasses.fields(ProbeSpec)}


def test_an_empty_directory_of_results_has_an_empty_table() -> None:
    sweep_of().plan().write_or_match(Path("results"))
    results = SweepResults(Path("results"))
    assert results.table().equals(pa.table({})) and results.summary() == []
    with pytest.raises(SweepError, match="no shard of results is finished yet"):
        results.query("SELECT 1")

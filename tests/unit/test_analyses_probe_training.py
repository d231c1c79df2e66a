"""Probing across training as an analysis, on a run whose stages are built by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.analyses.probe_training import (
    ProbeTrainingAnalysis,
    across_of,
    training_findings,
)
from probes.training_times import AcrossTraining
from tests.unit.staged_run import MID, POST, STAGES, follow, random_network, squares_run, write_run
from workbench import config
from workbench.analysis import Recorded, analyses, analysis_from, record_steps
from workbench.errors import ConfigError, ProbeError, RunError
from workbench.finding import Finding
from workbench.progress import finish
from workbench.record import Record
from workbench.records import read_records, write_record
from workbench.run import Run

PROBED = ProbeTrainingAnalysis(variable="a_squared", das=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return squares_run(tmp_path_factory.mktemp("across") / "squares")


@pytest.fixture(scope="module")
def recorded(run: Run) -> Recorded:
    return ask(PROBED, run)


@pytest.fixture(scope="module")
def swapped(run: Run) -> AcrossTraining:
    return follow(run)


def ask(analysis: ProbeTrainingAnalysis, run: Run, step: int | None = None) -> Recorded:
    device = torch.device("cpu")
    return finish(record_steps(analysis, run, step=step, device=device))


def steps_of(recorded: Recorded) -> tuple[list[int], list[int]]:
    """The checkpoints of a record, and those of its result."""
    result: Any = recorded.record.result
    return (
        [one.step for one in recorded.record.checkpoints],
        [one["step"] for one in result["checkpoints"]],
    )


# ---------------------------------------------------------------------- the record


def test_asked_again_everything_is_the_same(run: Run, recorded: Recorded) -> None:
    again = ask(PROBED, run).record.model_copy(update={"seconds": recorded.record.seconds})
    assert again == recorded.record


def test_a_record_survives_its_file(run: Run, recorded: Recorded) -> None:
    write_record(run, *recorded)
    (found,) = read_records(run, STAGES[-1])
    assert found == recorded.record
    text = found.model_dump_json()
    assert str(run.path) not in text and "squares" not in text.replace("a_squared", "")
    assert analysis_from(found.kind, found.parameters) == PROBED


def test_pictures_are_drawn_of_what_was_followed(run: Run, recorded: Recorded) -> None:
    """Read from the record's file, it is the same to the last bit."""
    again = Record.model_validate_json(recorded.record.model_dump_json())
    assert across_of(again) == follow(run, das=False)


def test_a_record_speaks_of_every_checkpoint_it_was_made_of(run: Run, recorded: Recorded) -> None:
    """Checkpoint 0 is the untrained control, whether it is followed or not."""
    assert steps_of(recorded) == (STAGES, STAGES)
    late = ProbeTrainingAnalysis(
        variable="a_squared", checkpoints=(20,), sites=(MID,), seeds=(0,), das=False
    )
    assert steps_of(ask(late, run)) == ([0, 20], [20])
    for one in recorded.record.checkpoints:
        assert one.weights_sha256 == run.weights_sha256(one.step)


def test_a_step_is_the_last_that_is_looked_at(run: Run) -> None:
    brief = ProbeTrainingAnalysis(variable="a_squared", sites=(MID,), seeds=(0,), das=False)
    found = ask(brief, run, step=10)
    assert steps_of(found) == ([0, 10], [0, 10])
    assert found.record.findings[0].verdict == "supported"  # from 10 to the last looked at
    named = ProbeTrainingAnalysis(variable="a_squared", checkpoints=(10, 20))
    assert named.steps(run, 10) == [0, 10] and named.steps(run, None) == STAGES
    with pytest.raises(ProbeError, match=r"up to step 0; the first named is 10$"):
        named.steps(run, 0)
    with pytest.raises(RunError, match=r"no checkpoint at step 15; there are: 0, 10, 20$"):
        named.steps(run, 15)


# ---------------------------------------------------------------------- findings


def by_id(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.id: finding for finding in findings}


def test_when_it_is_read_and_when_it_is_used_are_findings(swapped: AcrossTraining) -> None:
    """By construction a² is there from step 10, and used from 20."""
    found = by_id(training_findings(swapped))
    read, used = found["training_read_a_squared"], found["training_used_a_squared"]
    assert read.claim == f"from step 10 to the last, a_squared can be read at {MID}"
    assert used.claim == f"from step 20 to the last, a_squared is used at {MID}"
    assert read.verdict == used.verdict == "supported"
    assert read.details == {"from step": 10.0, "generalises from step": 20.0}
    assert used.details == {"from step": 20.0, "generalises from step": 20.0}
    for finding, kind, at in ((read, "new_values", 1), (used, "swapped", 2)):
        measure = swapped.series(MID, kind)[at]  # type: ignore[arg-type]
        assert (finding.value, finding.n) == (measure.level.value, measure.level.n)
        assert finding.interval == (measure.level.low, measure.level.high)
        levels = [(level.value, (level.low, level.high)) for level in measure.controls.values()]
        assert [(control.value, control.interval) for control in finding.controls] == levels
        assert len(levels) == (2 if finding is read else 4)
        assert max(high for _, (_, high) in levels) < finding.interval[0]
    assert f"at step {10};" in read.measure and f"at step {20};" in used.measure


def test_swaps_are_no_finding_where_they_were_not_measured(recorded: Recorded) -> None:
    (finding,) = recorded.record.findings
    assert finding.id == "training_read_a_squared" and finding.verdict == "supported"


def test_a_run_that_never_learns_says_no(tmp_path: Path) -> None:
    random = write_run(tmp_path / "random", {step: random_network(step) for step in STAGES})
    (finding,) = ask(PROBED, random).record.findings
    assert finding.verdict == "not supported"
    assert finding.claim.startswith("from one of the checkpoints to the last, a_squared can be")
    assert finding.measure.endswith("at step 20; higher is more") and finding.details == {}
    (never, unused) = training_findings(follow(random, steps=[0, 20], das_steps=5))
    assert never.verdict == unused.verdict == "not supported"


def test_the_site_named_is_one_where_it_holds(swapped: AcrossTraining) -> None:
    """Past the MLP, a swap changes nothing."""
    assert swapped.times(POST, "swapped").holds is None
    used = by_id(training_findings(swapped))["training_used_a_squared"]
    assert MID in used.claim


# ---------------------------------------------------------------------- parameters


def test_parameters_come_back_from_json() -> None:
    full = ProbeTrainingAnalysis(
        variable="a_squared",
        checkpoints=(0, 20),
        sites=(MID, POST),
        probe="logistic",
        seeds=(3,),
        das=False,
        rank=4,
    )
    assert analyses.get("probe_training") is ProbeTrainingAnalysis
    for analysis in (full, PROBED):
        data = json.loads(json.dumps(config.to_dict(analysis)))
        assert analysis_from("probe_training", data) == analysis


BEYOND: dict[str, Any] = {
    "variable": "x" * 201,
    "checkpoints": [-1],
    "sites": [MID] * 101,
    "probe": "x" * 201,
    "seeds": [],
    "das": "yes, all of it",
    "rank": 0,
}


@pytest.mark.parametrize("key", BEYOND)
def test_what_a_file_may_ask_for_has_bounds(key: str) -> None:
    asked = {"variable": "a_squared", key: BEYOND[key]}
    with pytest.raises(ConfigError, match=rf"^parameters of probe_training {key}"):
        analysis_from("probe_training", asked)

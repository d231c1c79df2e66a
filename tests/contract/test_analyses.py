"""Every kind of analysis: its parameters travel, asked twice it answers the same, its record holds.

A kind is known here by its file alone; one without an example below fails.
"""

import getpass
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.small_run import LAST_STEP, train
from workbench import config
from workbench.analysis import Outcome, Recorded, analyses, analysis_from, record_steps
from workbench.errors import ConfigError
from workbench.progress import finish
from workbench.record import tolerance_finder
from workbench.records import read_arrays, read_records, write_record
from workbench.run import Run, open_run

EXAMPLES: dict[str, dict[str, Any]] = {
    "mechanism": {"n_draws": 2},
    "patching": {"site": "resid_pre", "by": ["position"], "pairs": 8, "corruptions": ["change_a"]},
    "circuit": {"method": "eap", "n_edges": 5, "pairs": 8, "selection": "signed"},
    "probe": {
        "variables": ["a"],
        "hooks": ["hook_embed"],
        "positions": [0],
        "seeds": [0],
        "splits": ["grouped"],
        "n_permutations": 19,
        "n_untrained": 1,
        "n_random_erasures": 1,
        "n_asked": 16,
    },
    "probe_training": {"variable": "a", "sites": ["blocks.0.hook_resid_pre@0"], "das": False},
    "evaluation": {"edges": ["embed->m0", "m0->logits"], "ablation": "mean", "seed": 3},
}
"""Small parameters of each kind, as JSON, for a network of modular addition with p = 5."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of untrained networks."""
    path = tmp_path_factory.mktemp("somebody_s_folder") / "run"
    train(path)
    return open_run(path)


@pytest.fixture(scope="module")
def answers() -> dict[str, Recorded]:
    """What was recorded of each kind so far: asking takes the most time."""
    return {}


def example(kind: str) -> dict[str, Any]:
    if kind not in EXAMPLES:
        pytest.fail(f"analysis {kind!r} has no example; add small parameters to EXAMPLES")
    return EXAMPLES[kind]


def recorded(answers: dict[str, Recorded], run: Run, kind: str) -> Recorded:
    if kind not in answers:
        steps = record_steps(analysis_from(kind, example(kind)), run, step=None, device=CPU)
        answers[kind] = finish(steps)
    return answers[kind]


def test_every_example_is_of_a_kind_that_there_is() -> None:
    assert set(EXAMPLES) <= set(analyses.names())


@pytest.mark.parametrize("kind", analyses.names())
def test_parameters_travel_as_json(kind: str) -> None:
    asked = analysis_from(kind, example(kind))
    written = config.to_dict(asked)
    assert {key: written[key] for key in example(kind)} == example(kind)
    assert analysis_from(kind, written) == asked and asked.kind == kind


@pytest.mark.parametrize("kind", analyses.names())
def test_unknown_and_mistyped_parameters_are_refused(kind: str) -> None:
    known = config.to_dict(analysis_from(kind, example(kind)))
    with pytest.raises(ConfigError, match=r"no parameters of .* key 'nothing'"):
        analysis_from(kind, {**known, "nothing": 1})
    for name, value in known.items():
        for wrong in ({"a": {"b": [None]}}, [[["x"]]], -1, float("nan")):
            with pytest.raises(ConfigError) as error:
                analysis_from(kind, {**known, name: wrong})
            assert name in str(error.value) and "\n" not in str(error.value), value


@pytest.mark.parametrize("kind", analyses.names())
def test_asked_again_it_answers_the_same(kind: str, run: Run, answers: dict[str, Recorded]) -> None:
    first, arrays = recorded(answers, run, kind)
    again: Outcome = finish(
        analysis_from(kind, first.parameters).ask(run, step=first.step, device=CPU)
    )
    assert list(again.findings) == list(first.findings)
    assert set(again.arrays) == set(arrays)
    for name, tensor in again.arrays.items():
        assert tensor.dtype == arrays[name].dtype and torch.equal(tensor, arrays[name]), name
    ours = first.model_copy(update={"result": again.result})
    assert ours.model_dump_json() == first.model_dump_json()


@pytest.mark.parametrize("kind", analyses.names())
def test_its_record_lies_beside_the_run_and_comes_back(
    kind: str, run: Run, answers: dict[str, Recorded]
) -> None:
    record, arrays = recorded(answers, run, kind)
    assert [one.step for one in record.checkpoints][-1] == LAST_STEP
    write_record(run, record, arrays)
    (found,) = (one for one in read_records(run) if one.kind == kind)
    assert found == record
    back = read_arrays(run, found)
    assert set(back) == set(arrays)
    assert all(torch.equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("kind", analyses.names())
def test_its_record_says_nothing_about_the_machine(
    kind: str, run: Run, answers: dict[str, Recorded]
) -> None:
    text = recorded(answers, run, kind).record.model_dump_json()
    private = (str(run.path), "somebody_s_folder", str(Path.home()), str(Path.cwd()))
    assert not [word for word in private if len(word) > 1 and word in text]
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)


@pytest.mark.parametrize("kind", analyses.names())
def test_every_finding_has_a_control_and_a_rule(
    kind: str, run: Run, answers: dict[str, Recorded]
) -> None:
    record = recorded(answers, run, kind).record
    assert record.findings, "the example makes no finding; choose another"
    names = [finding.id for finding in record.findings]
    assert len(set(names)) == len(names)
    for finding in record.findings:
        assert finding.rule and finding.claim and finding.measure
        assert finding.verdict == "not applicable" or finding.controls, finding.id


@pytest.mark.parametrize("kind", analyses.names())
def test_a_replay_notices_an_edited_finding(
    kind: str, run: Run, answers: dict[str, Recorded]
) -> None:
    """No tolerance lets the number of a finding move by a hundredth of itself, or of one."""
    for finding in recorded(answers, run, kind).record.findings:
        at = tolerance_finder(analyses.get(kind).tolerances)(f"findings.{finding.id}.value")
        moved = 0.011 * max(1.0, abs(finding.value))
        assert at.of(finding.value) < moved, finding.id

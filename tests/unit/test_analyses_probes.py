"""Probing as an analysis: what its record holds, what it says, and what it may be asked."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.align import Alignment
from probes.analyses import probe as probe_module
from probes.analyses._findings import align_finding
from probes.analyses.probe import ProbeAnalysis, lines_of, row_of
from probes.interchange import InterchangePairs
from probes.notebook import probe_run
from probes.probing import probe_network
from probes.sites import ProbeSite
from probes.spec import ProbeSpec
from probes.summary import summarise
from tests.known_adder import LAST, adder_task, write_run
from tests.unit import staged_run
from tests.unit.probed_networks import adder
from workbench import config
from workbench.analysis import Recorded, analyses, analysis_from, record_steps
from workbench.errors import ConfigError
from workbench.progress import finish
from workbench.record import Record, tolerance_finder
from workbench.records import read_arrays, read_records, write_record
from workbench.run import Run, open_run
from workbench.subject import subject_of

CPU = torch.device("cpu")
POST = "blocks.0.hook_resid_post"
SMALL = ProbeAnalysis(
    variables=("answer", "a"),
    hooks=("blocks.0.hook_resid_pre", POST),
    positions=(1, 2),
    seeds=(0,),
    n_permutations=39,
    n_random_erasures=3,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(write_run(tmp_path_factory.mktemp("probed") / "known"))


@pytest.fixture(scope="module")
def recorded(run: Run) -> Recorded:
    return asked(SMALL, run)


def asked(analysis: ProbeAnalysis, run: Run, step: int | None = None) -> Recorded:
    return finish(record_steps(analysis, run, step=step, device=CPU))


# ---------------------------------------------------------------------- the record


def test_asked_again_everything_is_the_same(run: Run, recorded: Recorded) -> None:
    again = asked(SMALL, run)
    timeless = [one.record.model_copy(update={"seconds": 0.0}) for one in (recorded, again)]
    assert timeless[0] == timeless[1]
    assert recorded.arrays.keys() == again.arrays.keys()
    for name, tensor in recorded.arrays.items():
        assert torch.equal(tensor, again.arrays[name])


def test_a_record_survives_its_file(run: Run, recorded: Recorded) -> None:
    write_record(run, *recorded)
    (found,) = read_records(run, LAST)
    assert found == recorded.record
    arrays = read_arrays(run, found)
    assert all(torch.equal(arrays[name], tensor) for name, tensor in recorded.arrays.items())
    text = found.model_dump_json()
    assert str(run.path) not in text and run.path.name not in text
    assert analysis_from(found.kind, found.parameters) == SMALL
    assert Record.model_validate_json(text) == found


def test_the_numbers_are_those_of_probing_the_network(run: Run, recorded: Recorded) -> None:
    """One path: the analysis, the notebook's call, and the network probed by itself."""
    fields = {one.name: getattr(SMALL, one.name) for one in dataclasses.fields(ProbeSpec)}
    spec = ProbeSpec(**fields)
    lines = summarise(finish(probe_network(subject_of(run), spec)).rows)
    assert recorded.record.result["rows"] == [row_of(line) for line in lines]
    assert lines_of(recorded.record) == lines == probe_run(run, spec)
    assert recorded.record.result["variables"] == ["answer", "a"]
    assert recorded.record.result["variable"] is None


def test_heads_are_read_back_from_their_places() -> None:
    line = dataclasses.replace(
        summarise(finish(probe_network(adder(5), TINY)).rows)[0],
        head=1,
        hook="blocks.0.attn.hook_z",
    )
    row = row_of(line)
    assert row["site"] == "blocks.0.attn.hook_z[1]"
    assert probe_module._line_of(json.loads(json.dumps(row))) == line


TINY = ProbeSpec(
    variables=("a",),
    hooks=(POST,),
    positions=(2,),
    controls=(),
    erase=False,
    n_permutations=39,
)


def test_what_is_known_of_the_network_is_found(recorded: Recorded) -> None:
    """Where the answer is one axis of 23 it is read and used; a number that is the operand itself
    is not read by a linear probe of one-hot classes, and nothing reads it after attention."""
    found = {finding.id: finding for finding in recorded.record.findings}
    assert list(found) == ["probe_answer", "erase_answer", "probe_a", "erase_a"]
    assert found["probe_answer"].verdict == found["erase_answer"].verdict == "supported"
    assert f"at {POST}, position 2" in found["erase_answer"].claim
    assert found["erase_a"].verdict == "not supported"


def test_weights_kept_are_those_that_were_chosen(run: Run, recorded: Recorded) -> None:
    """Of the site that the finding names: where both operands were seen, before the answer is
    read off."""
    site = recorded.record.findings[0].claim
    assert f"at {POST}, position 1," in site
    assert list(recorded.arrays)[:2] == [
        f"ridge.answer.{POST}@1.{x}" for x in ("coef", "intercept")
    ]
    assert {name.split(".")[1] for name in recorded.arrays} == {"answer", "a"}
    report = finish(probe_network(subject_of(run), SMALL))
    tried = [
        row
        for row in report.rows
        if (row.hook, row.position, row.variable) == (POST, 1, "answer")
        and (row.control, row.metric, row.split) == ("none", "accuracy", "grouped/0")
    ]
    strength = [row.chosen for row in tried].index(True)
    for name in ("coef", "intercept"):
        kept = recorded.arrays[f"ridge.answer.{POST}@1.{name}"]
        of_all = report.weights[f"{POST}.answer.ridge.{name}"]  # strength split site ...
        assert torch.equal(kept[0], of_all[strength, 0, 0])


def test_a_random_network_holds_nothing(run: Run) -> None:
    record = asked(dataclasses.replace(SMALL, variables=("answer",)), run, step=0).record
    assert [finding.verdict for finding in record.findings] == ["not supported"] * 2
    assert record.step == 0


# ---------------------------------------------------------------------- parameters


def test_parameters_are_those_of_the_spec() -> None:
    assert config.keys(ProbeAnalysis) == config.keys(ProbeSpec)
    assert analyses.get("probe") is ProbeAnalysis
    plain = ProbeSpec(variables=("a",))
    of_file = ProbeAnalysis(variables=("a",))
    assert config.to_dict(plain) == config.to_dict(of_file)


def test_parameters_come_back_from_json() -> None:
    full = ProbeAnalysis(
        variables=("carry_2", "answer"),
        hooks=(POST,),
        positions=(-1, 2),
        probes=("ridge", "logistic"),
        strengths={"ridge": (0.5, 2.0), "logistic": (1.0,)},
        splits=("out_of_distribution",),
        held_out_by="a",
        seeds=(4,),
        n_inputs=512,
        controls=("untrained",),
        align_ranks=(1, 4),
        codelength=True,
        dtype="float64",
    )
    data = json.loads(json.dumps(config.to_dict(full)))
    assert analysis_from("probe", data) == full


BEYOND: dict[str, Any] = {
    "variables": ["a"] * 65,
    "hooks": ["x" * 201],
    "positions": [2**20],
    "probes": [],
    "strengths": {"ridge": [1.0] * 101},
    "seeds": list(range(65)),
    "n_inputs": 2**18 + 1,
    "distribution": "x" * 201,
    "n_permutations": 100_001,
    "n_untrained": 101,
    "n_random_erasures": 1001,
    "n_asked": 2**16 + 1,
    "align_ranks": [2**16 + 1],
    "align_steps": 20_001,
}


@pytest.mark.parametrize("key", BEYOND)
def test_what_a_file_may_ask_for_has_bounds(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^parameters of probe {key}"):
        analysis_from("probe", {"variables": ["a"], key: BEYOND[key]})


# ---------------------------------------------------------------------- swapped subspaces

N = 100
SITES = (ProbeSite(hook=POST, position=1), ProbeSite(hook=POST, position=2))


def right(*shares: int) -> Tensor:
    """Which of a hundred pairs come out right: so many of each, the first."""
    return torch.stack([torch.arange(N) < share for share in shares])


def alignment(swapped: tuple[int, ...], *, untrained: int = 5, arbitrary: int = 5) -> Alignment:
    """At the first site nothing; at the second, two seeds of rank 3, and of rank 1 everything."""
    pairs = InterchangePairs(
        task=adder_task(),
        variable="answer",
        base=torch.zeros(N, 2, dtype=torch.long),
        source=torch.zeros(N, 2, dtype=torch.long),
        answer=torch.zeros(N, 1, dtype=torch.long),
        scored=(0,),
    )
    nothing = right(0, 0)

    def of_ranks(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([torch.stack([nothing, nothing]), torch.stack([first, second])])

    def control(share: int) -> Tensor:
        return of_ranks(nothing, right(share, share))

    return Alignment(
        variable="answer",
        sites=SITES,
        ranks=(1, 3),
        seeds=(0, 1),
        held_out=pairs,
        arbitrary_held_out=pairs,
        bases=torch.zeros(2, 2, 2, 4, 3),
        losses=torch.zeros(2, 2, 2),
        swapped=of_ranks(right(100, 100), right(*swapped)),
        identity=right(0)[0],
        whole=right(0, 90),
        random=control(4),
        arbitrary=control(arbitrary)[..., :50],
        untrained=control(untrained),
    )


def test_a_swap_is_judged_at_the_largest_rank_beside_its_controls() -> None:
    """Two seeds give 80 and 90 of 100 pairs; Wilson's interval of 85 of 100 is .767 to .907
    (Wilson 1927, equation 4, by hand); half way from .10 (5 of 50 pairs) to 1 is .55."""
    found = align_finding([alignment((80, 90))])
    assert found.id == "align_answer" and found.verdict == "supported"
    assert f"in 3 dimensions at {POST}, position 2" in found.claim
    assert (found.value, found.n) == (pytest.approx(0.85), 100)
    assert found.interval == (pytest.approx(0.7672, abs=1e-4), pytest.approx(0.9069, abs=1e-4))
    told = {control.name: (control.value, control.n) for control in found.controls}
    assert told == {
        "nothing swapped": (0.0, 100),
        "random subspaces of the same rank": (pytest.approx(0.04), 100),
        "subspaces learned for an arbitrary function in its place": (pytest.approx(0.1), 50),
        "subspaces learned in an untrained network": (pytest.approx(0.05), 100),
    }
    assert all(control.interval is not None for control in found.controls)
    assert found.details == {"rank": 3.0, "whole site": pytest.approx(0.9)}


@pytest.mark.parametrize(
    ("swapped", "control", "verdict"),
    [
        ((54, 54), 5, "not supported"),  # half way from .10, of the arbitrary function, is .55
        ((56, 56), 5, "supported"),
        ((80, 80), 70, "not supported"),  # half way is .85
        ((80, 80), 60, "supported"),  # half way is .80; 80 is above .711, 60 below .691
        ((100, 0), 5, "not supported"),  # one seed of two is luck
    ],
)
def test_a_swap_must_beat_its_controls_by_half(
    swapped: tuple[int, ...], control: int, verdict: str
) -> None:
    assert align_finding([alignment(swapped, untrained=control)]).verdict == verdict


ALIGN = ProbeAnalysis(
    variables=("a_squared",),
    hooks=("blocks.0.hook_resid_mid",),
    positions=(1,),
    seeds=(0,),
    controls=(),
    erase=False,
    n_permutations=39,
    align_ranks=(staged_run.RANK,),
    align_steps=staged_run.DAS_STEPS,
)


def test_an_alignment_joins_the_findings_and_says_no_of_a_random_network(tmp_path: Path) -> None:
    """a² lies in four dimensions when training ends, and is nowhere before it begins."""
    run = staged_run.squares_run(tmp_path / "squares")
    yes, no = (asked(ALIGN, run, step=step).record for step in (20, 0))
    found, never = yes.findings[-1], no.findings[-1]
    assert found.id == never.id == "align_a_squared"
    assert (found.verdict, never.verdict) == ("supported", "not supported")
    assert found.value > 0.9 and never.value < 0.2
    rows: Any = yes.result["rows"]
    assert [row["interchange_accuracy"] for row in rows] == [found.value]
    for finding in (found, never):
        assert len(finding.controls) == 4 and finding.interval is not None


# ---------------------------------------------------------------------- tolerances


def test_a_number_that_was_changed_is_outside_its_tolerance(recorded: Recorded) -> None:
    """Nothing printed with three places may be changed by one in the second."""
    tolerances = recorded.record.tolerances
    for path in ("result.rows.0.accuracy", "findings.0.value", "result.answer_accuracy"):
        assert tolerance_finder(tolerances)(path).of(0.5) < 0.01, path
    assert tolerance_finder(tolerances)("result.n").of(5.0) < 1

"""A replay holds for an honest session, and for no forged one, however well its digests fit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.session.saved import CPU, EARLY, LAST, forged, run_with_findings, saved, with_record
from tests.unit import small_run
from workbench.errors import SessionError
from workbench.progress import finish
from workbench.record import Checkpoint, record_id
from workbench.run import open_run
from workbench.session import Session, open_session, replay, save_session, verify
from workbench.session.replaying import Replayed, replay_steps
from workbench.session.schema import SessionDocument, arrays_path, weights_path
from workbench.tensor_files import tensors_from_bytes, tensors_to_bytes, weights_digest

Data = dict[str, Any]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return saved(tmp_path_factory.mktemp("session"))


def index_of(session: Session, site: str, step: int) -> int:
    found = [
        i
        for i, record in enumerate(session.records)
        if record.parameters["site"] == site and record.step == step
    ]
    assert len(found) == 1
    return found[0]


def states(replayed: list[Replayed]) -> list[str]:
    return [one.state for one in replayed]


def test_an_honest_session_holds_to_the_last_bit(session: Session) -> None:
    replayed = replay(session)
    assert states(replayed) == ["holds"] * 3
    for one in replayed:
        assert one.comparison is not None and one.comparison.n >= 50
        assert one.comparison.closeness == 0 and not one.comparison.differences


def test_only_what_is_named_is_replayed(session: Session) -> None:
    assert [one.record.parameters["site"] for one in replay(session, only=["patch_mlp_out"])] == [
        "mlp_out"
    ]
    with pytest.raises(SessionError, match="no finding 'patch_neuron'"):
        replay(session, only=["patch_neuron"])


def test_progress_never_falls_and_nothing_stays_in_the_temporary_folder(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = list(replay_steps(session, device=CPU))
    done = [progress.done for progress in seen]
    assert done == sorted(done) and done[-1] <= seen[-1].total == 1000
    assert list(tmp_path.iterdir()) == []


def test_swapped_weights_drift(session: Session, tmp_path: Path) -> None:
    """The weights of another network, every digest in the file made to fit."""
    other = small_run.params_at(17)
    digest = weights_digest(other)

    def swap(document: SessionDocument) -> SessionDocument:
        data = document.model_dump_json().replace(document.checkpoints[-1].weights_sha256, digest)
        return SessionDocument.model_validate_json(data)

    members = {weights_path(LAST): tensors_to_bytes(other)}
    lying = forged(session, tmp_path / "b.workbench", swap, members)
    verify(lying.path)  # whole it is
    replayed = replay(lying)
    by_step = {one.record.step: one.state for one in replayed}
    assert by_step == {EARLY: "holds", LAST: "drifted"}


def test_weights_that_are_not_those_spoken_of_are_refused(session: Session, tmp_path: Path) -> None:
    members = {weights_path(LAST): tensors_to_bytes(small_run.params_at(17))}
    with pytest.raises(SessionError, match="weights"):
        forged(session, tmp_path / "b.workbench", members=members)


def bigger_effect(data: Data) -> None:
    data["findings"][0]["value"] *= 1.02


def other_control(data: Data) -> None:
    data["findings"][0]["controls"][0]["value"] += 0.01


def better_verdict(data: Data) -> None:
    known = data["findings"][0]["verdict"]
    data["findings"][0]["verdict"] = "supported" if known != "supported" else "not supported"


def grander_claim(data: Data) -> None:
    data["findings"][0]["claim"] += ", and it is the only one"


def more_pairs(data: Data) -> None:
    data["findings"][0]["n"] += 1


def fewer_controls(data: Data) -> None:
    data["findings"][0]["controls"] = []


def one_more_finding(data: Data) -> None:
    data["findings"].append({**data["findings"][0], "id": "a second one"})


def no_finding(data: Data) -> None:
    data["findings"] = []


def another_row(data: Data) -> None:
    data["result"]["rows"][0]["effect"] += 0.01


def a_row_less(data: Data) -> None:
    del data["result"]["rows"][0]


def one_key_more(data: Data) -> None:
    data["result"]["significance"] = "high"


def forged_twin(data: Data) -> None:
    """A finding of the same name before the honest one; a list of names would show the last."""
    lie = {**data["findings"][0], "value": 99.0, "verdict": "supported"}
    data["findings"].insert(0, lie | {"id": lie["id"] + " "})


def shadowed_row(data: Data) -> None:
    """A false number, and the true one under a key that reads like the path of the first."""
    true = data["result"]["rows"][0]["effect"]
    data["result"]["rows"][0]["effect"] = 99.0
    data["result"]["rows.0.effect"] = true


def rows_by_name(data: Data) -> None:
    data["result"]["rows"] = {str(i): row for i, row in enumerate(data["result"]["rows"])}


def other_interval(data: Data) -> None:
    data["findings"][0]["interval"][1] += 0.01


def other_detail(data: Data) -> None:
    data["findings"][0]["details"]["lead"] += 0.01


def easier_rule(data: Data) -> None:
    data["findings"][0]["rule"] = "supported where the effect is above 0"


def wide_tolerance(data: Data) -> None:
    """Anything goes, the forger says."""
    data["tolerances"] = {"*": {"absolute": 1e9, "relative": 1e9}}
    data["findings"][0]["value"] *= 1.02


def named_tolerance(data: Data) -> None:
    """A pattern of its own for the number that was changed."""
    data["tolerances"]["findings.*.value"] = {"absolute": 1.0, "relative": 1.0}
    data["findings"][0]["value"] *= 1.02


@pytest.mark.parametrize(
    "lie",
    [
        *(bigger_effect, other_control, better_verdict, grander_claim, more_pairs, fewer_controls),
        *(one_more_finding, no_finding, another_row, a_row_less, one_key_more, easier_rule),
        *(wide_tolerance, named_tolerance, forged_twin, shadowed_row, rows_by_name),
        *(other_interval, other_detail),
    ],
)
def test_an_edited_result_drifts(session: Session, tmp_path: Path, lie: Any) -> None:
    at = index_of(session, "head", LAST)
    lying = forged(session, tmp_path / "b.workbench", lambda d: with_record(d, at, lie))
    verify(lying.path)
    replayed = replay(lying)
    assert states(replayed) == ["drifted" if i == at else "holds" for i in range(3)]
    assert replayed[at].why


def test_an_edited_array_drifts(session: Session, tmp_path: Path) -> None:
    at = index_of(session, "head", LAST)
    record = session.records[at]
    arrays = session.arrays(record)
    arrays["effects"] = arrays["effects"] + 0.01 * arrays["effects"].abs().max()
    data = tensors_to_bytes(arrays)

    def resized(record: Data) -> None:
        record["arrays"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    lying = forged(
        session,
        tmp_path / "b.workbench",
        lambda d: with_record(d, at, resized),
        {arrays_path(record.id): data},
    )
    replayed = replay(lying)
    assert states(replayed) == ["drifted" if i == at else "holds" for i in range(3)]
    assert "arrays.effects" in replayed[at].why


def test_edited_parameters_drift(session: Session, tmp_path: Path) -> None:
    """The numbers of one question shown under another."""
    at = index_of(session, "head", LAST)

    def other_seed(data: Data) -> None:
        data["parameters"]["seed"] = 5

    lying = forged(session, tmp_path / "b.workbench", lambda d: with_record(d, at, other_seed))
    assert replay(lying)[at].state == "drifted"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "divination"}, "no analysis 'divination'"),
        ({"parameters": {"site": "head", "sight": 1}}, "no parameters of patching key 'sight'"),
        ({"parameters": {"site": "no such site"}}, "no site 'no such site'"),
        ({"parameters": {"site": "head", "pairs": 10**15}}, "pairs"),
    ],
)
def test_what_cannot_run_says_why_and_the_rest_goes_on(
    session: Session, tmp_path: Path, change: Data, why: str
) -> None:
    at = index_of(session, "head", LAST)
    broken = forged(
        session,
        tmp_path / "b.workbench",
        lambda d: with_record(d, at, lambda data: data.update(change)),
    )
    replayed = replay(broken)
    assert states(replayed) == ["cannot run" if i == at else "holds" for i in range(3)]
    assert why in replayed[at].why and "\n" not in replayed[at].why


def test_another_split_cannot_run(session: Session, tmp_path: Path) -> None:
    """Where the seed draws other training inputs than the sender's did, numbers say nothing."""

    def change(document: SessionDocument) -> SessionDocument:
        network = document.network.model_copy(update={"split_sha256": "0" * 64})
        return document.model_copy(update={"network": network})

    replayed = replay(forged(session, tmp_path / "b.workbench", change))
    assert states(replayed) == ["cannot run"] * 3
    assert all("training inputs" in one.why for one in replayed)


def test_a_network_of_another_task_or_seed_drifts_or_cannot_run(
    session: Session, tmp_path: Path
) -> None:
    def change(document: SessionDocument) -> SessionDocument:
        network = document.network.model_copy(update={"seed": 4})
        return document.model_copy(update={"network": network})

    assert states(replay(forged(session, tmp_path / "b.workbench", change))) == ["cannot run"] * 3


def test_rounding_of_another_machine_holds(session: Session, tmp_path: Path) -> None:
    """Arrays that are off by the rounding of float32 are the same; the check is not for bits."""
    at = index_of(session, "head", LAST)
    record = session.records[at]
    arrays = {name: tensor * (1 + 1e-6) for name, tensor in session.arrays(record).items()}
    data = tensors_to_bytes(arrays)
    assert (
        tensors_from_bytes(data, where="x")["effects"].ne(session.arrays(record)["effects"]).any()
    )

    def resized(record: Data) -> None:
        record["arrays"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    near = forged(
        session,
        tmp_path / "b.workbench",
        lambda d: with_record(d, at, resized),
        {arrays_path(record.id): data},
    )
    replayed = finish(replay_steps(near, device=torch.device("cpu")))
    assert states(replayed) == ["holds"] * 3
    comparison = replayed[at].comparison
    assert comparison is not None and 0 < comparison.closeness < 1


def test_a_record_of_weights_that_were_trained_again_stays_out(tmp_path: Path) -> None:
    run = run_with_findings(tmp_path / "run")
    for path in (run.path / "records").glob("*.json"):
        text = path.read_text()
        path.write_text(text.replace(run.weights_sha256(EARLY), "0" * 64))
    save_session(open_run(run.path), tmp_path / "a.workbench")
    assert {record.step for record in open_session(tmp_path / "a.workbench").records} == {LAST}
    assert Checkpoint(step=LAST, weights_sha256=run.weights_sha256(LAST)) in (
        open_session(tmp_path / "a.workbench").archive.document.checkpoints
    )


def test_a_record_without_a_parameter_that_came_later_still_holds(
    session: Session, tmp_path: Path
) -> None:
    """What a file leaves out had its default when it was asked; its id is of what it holds."""
    at = index_of(session, "head", LAST)

    def older(data: Data) -> None:
        del data["parameters"]["ablation"], data["parameters"]["by"]
        checkpoints = session.records[at].checkpoints
        data["id"] = record_id(data["kind"], data["parameters"], checkpoints)

    document = with_record(session.archive.document, at, older)
    members = {
        arrays_path(document.records[at].id): session.archive.read(
            arrays_path(session.records[at].id)
        )
    }
    replayed = replay(forged(session, tmp_path / "b.workbench", lambda d: document, members))
    assert states(replayed) == ["holds"] * 3


def test_a_record_that_takes_too_long_cannot_run(session: Session) -> None:
    steps = replay_steps(session, device=CPU, only=["patch_mlp_out"], limit=0.0)
    (replayed,) = finish(steps)
    assert replayed.state == "cannot run" and "longer than the limit" in replayed.why


def test_what_goes_wrong_is_told_without_a_path(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "folder of quetzalcoatl"))
    (tmp_path / "folder of quetzalcoatl").mkdir()

    def change(document: SessionDocument) -> SessionDocument:
        task = {**document.network.task, "p": 12}
        network = document.network.model_copy(update={"task": task})
        return document.model_copy(update={"network": network})

    replayed = replay(forged(session, tmp_path / "b.workbench", change))
    assert states(replayed) == ["cannot run"] * 3
    for one in replayed:
        assert one.why and "quetzalcoatl" not in one.why and "\n" not in one.why


def test_a_damaged_member_is_refused_before_anything_is_asked(
    session: Session, tmp_path: Path
) -> None:
    data = bytearray(session.path.read_bytes())
    weights = session.archive.read(weights_path(LAST))
    data[bytes(data).index(weights) + len(weights) - 1] ^= 1
    (tmp_path / "b.workbench").write_bytes(bytes(data))
    with pytest.raises(SessionError, match="does not have the digest"):
        replay(open_session(tmp_path / "b.workbench"))


def test_a_session_saved_by_the_first_version_still_holds() -> None:
    """Kept as it was written: what changes an analysis' parameters or numbers changes old files."""
    session = open_session(Path(__file__).parent / "golden" / "replayed-v1.workbench")
    assert session.manifest.schema_version == 1 and len(session.findings) == 3
    assert states(replay(session)) == ["holds"] * 3

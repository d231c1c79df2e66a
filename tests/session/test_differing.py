"""What differs between two sessions, worked out by hand from what was changed."""

from pathlib import Path
from typing import Any

import pytest

from circuits.analyses.patching import PatchingAnalysis
from tests.session.saved import EARLY, LAST, forged, run_with_findings, saved, with_record
from tests.unit import small_run
from workbench.records import ask, write_notebook
from workbench.run import open_run
from workbench.session import Session, diff, open_session, save_session
from workbench.session.schema import (
    Group,
    Marks,
    Note,
    Notebook,
    SessionDocument,
    weights_path,
)
from workbench.tensor_files import tensors_to_bytes, weights_digest


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return saved(tmp_path_factory.mktemp("session"))


def test_a_session_is_the_same_as_itself(session: Session) -> None:
    assert diff(session, open_session(session.path)) == []


def test_a_changed_finding(session: Session, tmp_path: Path) -> None:
    at = next(i for i, record in enumerate(session.records) if record.step == EARLY)
    before = session.records[at].findings[0]

    def change(data: dict[str, Any]) -> None:
        data["findings"][0]["value"] = 1.5
        data["findings"][0]["verdict"] = "not applicable"

    other = forged(session, tmp_path / "b.workbench", lambda d: with_record(d, at, change))
    (found,) = diff(session, other)
    assert (found.where, found.what) == ("findings", f"step 1, patching: {before.id}")
    assert found.first.startswith(f"{before.verdict}: {before.value:.4g} (n = 8, controls ")
    assert found.second.startswith("not applicable: 1.5 (n = 8, controls ")


def test_a_finding_more_and_the_other_way_round_one_less(tmp_path: Path) -> None:
    run = run_with_findings(tmp_path / "run")
    save_session(run, tmp_path / "a.workbench")
    ask(run, PatchingAnalysis(pairs=16, site="attn_out"), step=LAST)
    save_session(run, tmp_path / "b.workbench")
    a, b = open_session(tmp_path / "a.workbench"), open_session(tmp_path / "b.workbench")
    (more,) = diff(a, b)
    (less,) = diff(b, a)
    assert more.what == less.what == "step 3, patching: patch_attn_out"
    assert more.first == less.second == "–" and more.second == less.first != "–"


def test_other_weights_say_which_parameter_changed_most(session: Session, tmp_path: Path) -> None:
    params = session.params(LAST)
    params["embed.W_E"] = params["embed.W_E"] * 1.5  # by half of its norm
    params["unembed.W_U"] = params["unembed.W_U"] * 1.1
    digest = weights_digest(params)

    def swap(document: SessionDocument) -> SessionDocument:
        known = document.checkpoints[-1].weights_sha256
        return SessionDocument.model_validate_json(
            document.model_dump_json().replace(known, digest)
        )

    data = {weights_path(LAST): tensors_to_bytes(params)}
    other = forged(session, tmp_path / "b.workbench", swap, data)
    (found,) = diff(session, other)
    assert (found.where, found.what) == ("weights", "step 3")
    assert found.first == session.archive.document.checkpoints[-1].weights_sha256[:12]
    assert found.second == f"{digest[:12]} (most: embed.W_E by 0.5 of its norm)"


def test_another_network_checkpoint_and_notes(session: Session, tmp_path: Path) -> None:
    small_run.train(tmp_path / "run", last=2)
    run = open_run(tmp_path / "run")
    note = Note(text="why?", created="2026-11-20T10:00:00Z")
    marks = Marks(labels={"a0.h1": "carries"}, groups=(Group(name="adders", nodes=("m0",)),))
    write_notebook(run, Notebook(notes=(note,), marks=marks))
    save_session(run, tmp_path / "b.workbench")
    changes = {
        change.what: change for change in diff(session, open_session(tmp_path / "b.workbench"))
    }
    assert {name for name in changes if changes[name].where == "weights"} == {
        "step 1", "step 2", "step 3",
    }  # fmt: skip
    assert changes["step 2"].first == "–"
    assert changes["note of 2026-11-20T10:00:00Z"].second == "why?"
    assert changes["marks.labels.a0.h1"].second == '"carries"'
    assert changes["marks.groups"].second == '[{"name": "adders", "nodes": ["m0"]}]'
    findings = [change for change in changes.values() if change.where == "findings"]
    assert len(findings) == 3 and all(change.second == "–" for change in findings)
    assert not [change for change in changes.values() if change.where == "network"]


def test_edges_of_circuits(session: Session, tmp_path: Path) -> None:
    at = len(session.records) - 1

    def edges(names: list[str]) -> Any:
        def change(data: dict[str, Any]) -> None:
            data["result"]["edge_list"] = [{"edge": name, "score": 1.0} for name in names]

        return lambda document: with_record(document, at, change)

    a = forged(session, tmp_path / "a.workbench", edges(["embed->m0", "m0->logits"]))
    b = forged(session, tmp_path / "b.workbench", edges(["m0->logits", "a0.h1->m0"]))
    (found,) = [change for change in diff(a, b) if change.where == "circuits"]
    assert (found.where, found.what) == ("circuits", f"step {session.records[at].step}, patching")
    assert found.first == "only here: embed->m0" and found.second == "only here: a0.h1->m0"

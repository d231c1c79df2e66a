"""What gets into a session, what never does, and that opening it gives everything back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from circuits.analyses.patching import PatchingAnalysis
from tests.session.saved import EARLY, LAST, run_with_findings, saved
from tests.unit import small_run
from workbench.errors import SessionError
from workbench.records import ask, read_arrays, read_records
from workbench.run import open_run
from workbench.session import open_as_run, open_session, save_session, verify
from workbench.session.archive import Archive
from workbench.session.schema import arrays_path
from workbench.session.writing import write_archive
from workbench.task import make_task


def test_everything_comes_back(tmp_path: Path) -> None:
    run = run_with_findings(tmp_path / "run")
    save_session(run, tmp_path / "a.workbench", note="first\nsecond")
    session = open_session(tmp_path / "a.workbench")
    assert session.steps == [EARLY, LAST]  # no finding speaks of step 2
    for step in session.steps:
        stored = run.params(step)
        assert all(
            torch.equal(tensor, stored[name]) for name, tensor in session.params(step).items()
        )
    assert list(session.records) == read_records(run)
    for record in session.records:
        beside, inside = read_arrays(run, record), session.arrays(record)
        assert beside.keys() == inside.keys() and len(inside) == 3
        assert all(torch.equal(tensor, beside[name]) for name, tensor in inside.items())
    assert (
        session.metrics()
        == run.metrics()
        == [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    )
    assert [note.text for note in session.notebook.notes] == ["first\nsecond"]
    network = session.network
    assert network.task == make_task("modular_addition", {"p": 5}).to_dict()
    assert network.shape == small_run.MODEL
    assert network.recipe == {"name": "fast", "lr": 0.01, "betas": [0.9, 0.98]}
    assert (network.seed, network.train_fraction) == (3, 0.4)
    assert session.manifest.parent is None
    assert session.manifest.made_with["torch"] == torch.__version__.partition("\n")[0]
    assert verify(session.path).document == session.archive.document


def test_a_network_without_findings_can_be_sent_too(tmp_path: Path) -> None:
    small_run.train(tmp_path / "run")
    save_session(open_run(tmp_path / "run"), tmp_path / "a.workbench", all_checkpoints=True)
    session = open_session(tmp_path / "a.workbench")
    assert session.steps == [1, 2, 3] and not session.findings


def test_only_what_is_named_goes_in(tmp_path: Path) -> None:
    run = run_with_findings(tmp_path / "run")
    names = {record.step: record.findings[0].id for record in read_records(run)}
    save_session(run, tmp_path / "a.workbench", only=["patch_mlp_out"])
    assert [
        record.parameters["site"] for record in open_session(tmp_path / "a.workbench").records
    ] == ["mlp_out"]
    save_session(run, tmp_path / "a.workbench", only=["patching"])
    assert len(open_session(tmp_path / "a.workbench").records) == 3
    with pytest.raises(SessionError, match=r"no finding 'patch_hea'; did you mean 'patch_head'"):
        save_session(run, tmp_path / "a.workbench", only=["patch_hea"])
    assert set(names) == {EARLY, LAST}


def test_no_path_no_user_and_no_environment_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_SECRET", "sesame-1729")
    monkeypatch.setenv("USER", "quetzalcoatl")
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-quetzalcoatl"))
    session = saved(tmp_path / "folder-of-quetzalcoatl")
    members = [session.archive.read(name) for name in session.archive.document.member_paths()]
    everything = b"".join([session.path.read_bytes(), *members])
    for secret in (b"sesame", b"quetzalcoatl", str(tmp_path).encode(), b"/home", b"/tmp"):
        assert secret not in everything


def test_what_cannot_be_asked_again_cannot_be_saved(tmp_path: Path) -> None:
    run = run_with_findings(tmp_path / "run")
    path = next((run.path / "records").glob("*.json"))
    record = json.loads(path.read_text())
    record["parameters"]["site"] = 7
    path.write_text(json.dumps(record))
    with pytest.raises(SessionError, match=r"cannot be asked again .*site"):
        save_session(run, tmp_path / "a.workbench")
    record["kind"] = "divination"
    path.write_text(json.dumps(record))
    with pytest.raises(SessionError, match=r"cannot be asked again .*no analysis 'divination'"):
        save_session(run, tmp_path / "a.workbench")
    assert not list(tmp_path.glob("*.workbench"))


@pytest.mark.parametrize("note", ["\x1b[2Jgone", "a" * 20_001, "\u202egnp.exe", "nul\x00"])
def test_a_note_that_steers_a_terminal_is_refused(tmp_path: Path, note: str) -> None:
    run = run_with_findings(tmp_path / "run")
    with pytest.raises(SessionError, match=r"the note: notes.0.text") as error:
        save_session(run, tmp_path / "a.workbench", note=note)
    assert str(error.value).isprintable()
    assert not list(tmp_path.glob("*.workbench"))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = saved(tmp_path)
    before = session.path.read_bytes()
    run = open_run(tmp_path / "run")

    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(SessionError, match=r"no space left on device; .* the free space"):
        save_session(run, session.path)
    assert session.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


# ---------------------------------------------------------------------- opening


def test_listing_findings_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, all_checkpoints=True).path
    read: list[str] = []
    honest = Archive.read

    def spy(self: Archive, member: str) -> bytes:
        read.append(member)
        return honest(self, member)

    monkeypatch.setattr(Archive, "read", spy)
    session = open_session(path)
    assert len(session.findings) == 3 and not read
    session.params(LAST)
    assert read == ["arrays/weights-000003.safetensors"]
    session.arrays(session.records[0])
    assert read[1:] == [arrays_path(session.records[0].id)]


def test_showing_and_verifying_need_no_torch(tmp_path: Path) -> None:
    path = saved(tmp_path).path
    program = (
        "import sys; from apps.cli import main\n"
        "for command in ('show', 'verify'):\n"
        f"    sys.argv = ['workbench', 'session', command, {str(path)!r}, '--json']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False" and len(done.stdout.splitlines()) == 3


def test_opened_as_a_run_it_is_the_same_network_with_the_same_findings(tmp_path: Path) -> None:
    session = saved(tmp_path, note="look at head 1")
    run = open_as_run(session, tmp_path / "runs")
    assert run.path.name.startswith("modular_addition-p5-session-")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.path.name]
    assert run.complete and run.steps == [EARLY, LAST]
    original = open_run(tmp_path / "run")
    assert run.weights_sha256() == original.weights_sha256()
    assert run.config.to_dict() == original.config.to_dict()
    assert read_records(run) == list(session.records)
    ours, theirs = run.split(), original.split()
    assert ours is not None and theirs is not None and ours.train is not None
    assert theirs.train is not None and torch.equal(ours.train, theirs.train)
    assert open_as_run(session, tmp_path / "runs").path == run.path  # once more: the same
    ask(run, PatchingAnalysis(pairs=16, site="attn_out"), step=LAST)
    save_session(run, tmp_path / "b.workbench")
    child = open_session(tmp_path / "b.workbench")
    assert child.manifest.parent == session.id and child.id != session.id
    assert [note.text for note in child.notebook.notes] == ["look at head 1"]
    assert len(child.records) == 4


def test_opening_where_another_run_is_changes_nothing(tmp_path: Path) -> None:
    session = saved(tmp_path)
    there = open_as_run(session, tmp_path / "runs").path
    shutil.rmtree(there)
    small_run.train(there)
    before = small_run.files_of(there)
    with pytest.raises(SessionError, match="is something else; choose another --runs"):
        open_as_run(session, tmp_path / "runs")
    assert small_run.files_of(there) == before


def test_a_checkpoint_that_is_not_there_is_told(tmp_path: Path) -> None:
    session = saved(tmp_path)
    with pytest.raises(SessionError, match="no checkpoint at step 2; there are: 1, 3"):
        session.params(2)


def test_another_file_with_the_same_id_is_another_run(tmp_path: Path) -> None:
    """An id can be copied; what the file holds cannot."""
    session = saved(tmp_path)
    data = {
        name: session.archive.read(name) for name in session.archive.document.member_paths()[1:]
    }
    changed = session.archive.document.model_copy(update={"records": session.records[:1]})
    kept = {name: data[name] for name in changed.member_paths()[1:]}
    write_archive(
        tmp_path / "b.workbench",
        changed,
        kept.items(),
        parent=None,
        made_with=session.manifest.made_with,
        identifier=session.id,
    )
    copy = open_session(tmp_path / "b.workbench")
    assert copy.id == session.id
    first, second = (open_as_run(one, tmp_path / "runs") for one in (session, copy))
    assert first.path != second.path
    assert [len(read_records(run)) for run in (first, second)] == [3, 1]


def test_an_interrupted_opening_leaves_nothing_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = saved(tmp_path)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workbench.session.opening.write_notebook", stop)
        with pytest.raises(KeyboardInterrupt):
            open_as_run(session, tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []
    assert len(read_records(open_as_run(session, tmp_path / "runs"))) == 3


def test_all_records_come_back_even_if_a_run_would_keep_one_of_them(tmp_path: Path) -> None:
    """Two answers with a finding of one name, as one person may have saved them."""
    run = run_with_findings(tmp_path / "run")
    save_session(run, tmp_path / "a.workbench")
    ask(run, PatchingAnalysis(pairs=17), step=LAST)  # in the run it replaces the one of 16 pairs
    save_session(run, tmp_path / "b.workbench")
    one, two = (open_session(tmp_path / f"{name}.workbench") for name in "ab")
    assert len(two.records) == 3
    new = next(record for record in two.records if record.parameters["pairs"] == 17)
    document = one.archive.document
    both = document.model_copy(update={"records": (*document.records, new)})
    data = {name: one.archive.read(name) for name in document.member_paths()[1:]}
    data[arrays_path(new.id)] = two.archive.read(arrays_path(new.id))
    write_archive(
        tmp_path / "c.workbench", both, data.items(), parent=None, made_with={"workbench": "1"}
    )
    opened = open_as_run(open_session(tmp_path / "c.workbench"), tmp_path / "runs")
    assert len(read_records(opened)) == 4

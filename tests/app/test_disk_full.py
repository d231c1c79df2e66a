"""Where the disk is full while the app writes: one line that says so, and nothing half-written."""

import errno
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from apps.web import jobs
from apps.web.choice import find_run, network_of
from apps.web.findings import data
from apps.web.findings.run import told_of
from apps.web.trace.draft_operations import Replace
from tests.app.app_folder import FRESH, FULL, opened
from tests.app.trace_circuits import page, saved_draft
from tests.app.train_helpers import TINY, button
from workbench.errors import WorkbenchError
from workbench.records import read_notebook, read_records

Fill = Callable[[], None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fills the disk, once it is called: whatever is written after that fails."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def filled() -> None:
        monkeypatch.setattr(os, "pwrite", full)  # of `workbench.storage`
        monkeypatch.setattr(os, "fsync", full)  # of every file that is to last

    return filled


def files(folder: Path) -> dict[str, bytes]:
    """All there is, but for locks, which hold nothing."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def the_line(test: AppTest) -> str:
    """The only error on a page."""
    assert not test.exception
    (error,) = test.error
    assert "\n" not in error.value
    return error.value.replace("\\", "")


def test_a_finding_is_not_kept(app_folder: Path, fill: Fill) -> None:
    network = network_of(find_run(FULL))
    edges = ("embed->a0.h0<v>", "a0.h0->m0", "embed->m0", "m0->logits")
    draft = saved_draft(network, Replace(edges, None, "x"))
    test = page(app_folder, trace_draft=draft.id or "")
    before, records = files(app_folder), read_records(network.run)
    fill()
    test.button(key="trace_keep").click().run()
    assert "no space left on device; free some space" in the_line(test)
    assert files(app_folder) == before
    assert read_records(network.run) == records


def test_a_draft_is_not_saved_and_the_one_before_stays(app_folder: Path, fill: Fill) -> None:
    network = network_of(find_run(FULL))
    draft = saved_draft(network, Replace(("embed->m0", "m0->logits"), None, "x"))
    test = page(app_folder, trace_draft=draft.id or "")
    before = files(app_folder)
    fill()
    test.button(key="trace_undo").click().run()
    assert "no space left on device; free some space" in the_line(test)
    assert files(app_folder) == before
    (edges,) = (one.value for one in test.metric if one.label == "Edges")
    assert edges == "2"  # as it is on the disk


def test_a_job_is_not_ordered(empty_folder: Path, fill: Fill) -> None:
    test = opened("train", empty_folder, **TINY)
    before = files(empty_folder)
    fill()
    button(test, "Train").click().run()  # type: ignore[attr-defined]
    assert "no space left on device; free some space" in the_line(test)
    assert jobs.all_jobs() == [] and "train_job" not in test.query_params
    assert files(empty_folder) == before
    left = [path.name for path in (empty_folder / "runs" / ".jobs").iterdir() if path.is_dir()]
    assert left == []  # nor a folder that is half a job


def test_a_session_is_not_saved(
    app_folder: Path, tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    run, before = find_run(FULL), files(app_folder)
    fill()
    with pytest.raises(WorkbenchError, match="no space left on device") as caught:
        data.session_file(run, note=None, only=None, all_checkpoints=True, view=None)
    assert "\n" not in str(caught.value)
    assert files(app_folder) == before and list(place.iterdir()) == []


def test_a_file_that_could_not_be_made_is_told_on_the_page(app_folder: Path, fill: Fill) -> None:
    """The browser has asked for it apart from the page, and says only that it failed."""
    run = find_run(FULL)
    make = partial(data.session_file, run, note=None, only=None, all_checkpoints=False, view=None)
    assert told_of(run, make)
    fill()
    with pytest.raises(WorkbenchError, match="no space left"):
        told_of(run, make)
    assert "no space left on device" in the_line(opened("findings", app_folder, run=FULL))
    assert not opened("findings", app_folder, run=FRESH).error


def test_a_note_is_not_written_and_the_others_stay(app_folder: Path, fill: Fill) -> None:
    run = find_run(FRESH)
    data.add_note(run, "one")
    test = opened("findings", app_folder, run=FRESH)
    test.text_area(key="findings_note").set_value("two")
    before = files(app_folder)
    fill()
    (add,) = (one for one in test.button if one.label == "Add the note")
    add.click().run()
    assert "no space left on device; free some space" in the_line(test)
    assert files(app_folder) == before
    assert [note.text for note in read_notebook(run).notes] == ["one"]

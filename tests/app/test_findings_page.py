"""The Findings page, of a network of one's own: claims beside controls, notes, saving."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.orders.ask import AskOrder
from apps.web import explaining, jobs
from apps.web.choice import network_of
from apps.web.findings import data
from apps.web.findings.places import look_at
from apps.web.findings.shown import (
    CONTROLS,
    LISTED,
    controls_text,
    finding_table,
    number_text,
    screens_of,
)
from apps.web.jobs.files import hold_lock
from apps.web.shell import LAST_VIEW
from tests.app.app_folder import FRESH, FULL, IMPORTED, opened
from tests.app.findings_helpers import click, in_address, the_run, words
from tests.app.test_jobs import plant
from workbench import config
from workbench.errors import AppError
from workbench.finding import Control, Finding
from workbench.record import Record
from workbench.records import read_notebook, read_records
from workbench.session import open_session

# ---------------------------------------------------------------------- pure parts


def a_finding(**changes: Any) -> Finding:
    told: dict[str, Any] = {
        "id": "one|two",
        "claim": "It is.",
        "measure": "share",
        "value": 0.5,
        "n": 12769,
        "interval": None,
        "held_out": 0.25,
        "controls": (
            Control(name="a|b <b>", value=0.125, n=20, interval=(0.1, 0.2)),
            Control(name="other", value=-0.00005, n=9, interval=None, unit="inputs"),
        ),
        "verdict": "supported",
        "rule": "rule",
    }
    return Finding(**(told | changes))


def test_a_finding_stands_beside_its_controls() -> None:
    lines = finding_table(a_finding()).splitlines()
    assert lines[2] == "| **this network** | 0.5000 | exact | 12,769 | 0.2500 |"
    assert lines[3] == ("| control: a\\|b \\<b\\> | 0.1250 | 0.1000 to 0.2000 | 20 draws |  |")
    assert lines[4] == "| control: other | −5e−05 | – | 9 inputs |  |"
    assert len(lines) == 5
    one = Control(name="wrong basis", value=0.5, n=1, interval=None)
    assert finding_table(a_finding(controls=(one,))).endswith("| 0.5000 | – | 1 draw |  |")


def test_numbers_as_they_are_read() -> None:
    assert [number_text(x) for x in (0.0, 1.0, 0.001, -2.5, 1e-7, 1e6)] == [
        *("0.0000", "1.0000", "0.0010", "−2.5000", "1e−07", "1e+06"),
    ]
    assert controls_text(()) == "none"
    assert controls_text(a_finding().controls) == "2: −5e−05 to 0.1250"
    assert controls_text(a_finding().controls[:1]) == "1: 0.1250"


def record_with(n: int, record: Record) -> Record:
    finding = record.findings[0]
    many = tuple(Finding(**{**as_dict(finding), "id": f"f{i}"}) for i in range(n))
    return record.model_copy(update={"findings": many})


def as_dict(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in Finding.__dataclass_fields__}


def test_screens_hold_every_finding_once(app_folder: Path) -> None:
    record = next(one for one in read_records(the_run(app_folder)) if one.findings)
    none, some, many = (record_with(n, record) for n in (0, LISTED - 1, 2 * LISTED + 5))
    screens = screens_of([none, some, many, none])
    assert [[len(one.findings) for one in screen] for screen in screens] == [
        [0, LISTED - 1],
        [LISTED],
        [LISTED],
        [5, 0],
    ]
    firsts = [[one.first for one in screen] for screen in screens]
    assert firsts == [[True, True], [True], [False], [False, True]]
    assert screens_of([]) == [[]]


def test_a_view_holds_what_means_something_elsewhere() -> None:
    address = {
        "trace_site": ["head"],
        "clean": ["37 + 92 ="],
        "run": ["mine"],
        "session": ["0" * 64],
        "findings_first": ["x"],
        "train_job": ["0123456789abcdef"],
        "many": ["a", "b"],
        "Bad Name": ["x"],
        "long": ["x" * 201],
        "line": ["a\nb"],
    }
    view = data.view_of(address, "trace")
    assert view == {"page": "trace", "trace_site": "head", "clean": "37 + 92 ="}
    assert data.address_of(view) == {"trace_site": "head", "clean": "37 + 92 ="}
    foreign = {"run": "other", "x": True, "y": 2, "session": "z", "page": "trace"}
    assert data.address_of(foreign) == {"x": "true", "y": "2"}
    assert data.view_of({}, None) == {}


def test_names_of_files() -> None:
    assert data.file_name("../../a b<script>.x") == "a-b-script-.x"
    assert data.file_name("...") == "session"


# ---------------------------------------------------------------------- this network


def test_every_claim_with_verdict_controls_and_rule(app_folder: Path) -> None:
    page = opened("findings", app_folder, run=FULL)
    assert not page.exception and not page.error
    seen = words(page)
    records = read_records(the_run(app_folder))
    assert len({one.kind for one in records}) == 4
    for record in records:
        assert record.id in seen
        for finding in record.findings:
            assert finding.claim in seen and f"{finding.verdict}]" in seen
            for control in finding.controls[:CONTROLS]:
                assert f"control: {control.name}" in seen
    n = sum(len(one.findings) for one in records)
    assert f"**{n} findings** in 4 records" in seen
    assert "findings_explain" not in {one.key for one in page.button}


def test_a_run_without_an_explanation_offers_one_in_a_job(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered: list[Any] = []
    monkeypatch.setattr(jobs, "start", lambda order, owner: ordered.append(order) or "0" * 16)
    page = opened("findings", app_folder, run=FRESH)
    assert "Nothing is claimed of this network yet" in words(page)
    page = click(page, "findings_explain")
    [order] = ordered
    assert (order.run, order.analysis) == (FRESH, "mechanism")
    assert order.step == the_run(app_folder, FRESH).steps[-1]
    assert in_address(page, "findings_job") == ["0" * 16]


def test_removing_a_record_is_asked_twice(app_folder: Path) -> None:
    run = the_run(app_folder)
    record = next(one for one in read_records(run) if one.kind == "patching")
    page = opened("findings", app_folder, run=FULL)
    page = click(page, f"findings_remove_{record.id}")
    assert record.id not in {one.id for one in read_records(run)}
    assert len(read_records(run)) == 3
    assert not (run.path / "records" / f"{record.id}.safetensors").exists()
    assert record.id not in words(page)


def test_the_report_goes_with_its_explanation(app_folder: Path) -> None:
    run = the_run(app_folder)
    (run.path / "report.html").write_text("old")
    circuit, mechanism = (
        next(one for one in read_records(run) if one.kind == kind)
        for kind in ("circuit", "mechanism")
    )
    data.remove_record(run, circuit)
    report = (run.path / "report.html").read_text()
    assert report != "old" and circuit.findings[0].claim not in report
    data.remove_record(run, mechanism)
    assert not (run.path / "report.html").exists()


def test_notes_are_added_listed_as_text_and_deleted(app_folder: Path) -> None:
    run = the_run(app_folder)
    note = "# No heading\n<script>alert(1)</script> ![](http://x.test/a.png)"
    page = opened("findings", app_folder, run=FULL)
    page.text_area(key="findings_note").set_value(note)
    page = next(one for one in page.button if one.label == "Add the note").click().run()
    assert [one.text for one in read_notebook(run).notes] == [note]
    assert note in [one.value for one in page.text]  # as text, not as Markdown
    assert not any("<script>" in one.value for one in page.markdown)
    page = click(page, next(one.key for one in page.button if one.label == "Delete"))
    assert read_notebook(run).notes == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [(" \n", "empty"), ("a\x1b[2J", "U\\+001B"), ("x" * 20_001, "20000 characters")],
)
def test_text_that_cannot_be_a_note(app_folder: Path, text: str, says: str) -> None:
    run = the_run(app_folder, FRESH)
    with pytest.raises(AppError, match=says) as caught:
        data.add_note(run, text)
    assert str(caught.value).isprintable()
    assert read_notebook(run).notes == ()


def test_a_note_that_changed_meanwhile_is_not_deleted(app_folder: Path) -> None:
    run = the_run(app_folder, FRESH)
    data.add_note(run, "one")
    [note] = read_notebook(run).notes
    for index, created in ((1, note.created), (0, "2026-01-01T00:00:00Z"), (-1, note.created)):
        with pytest.raises(AppError, match="changed meanwhile"):
            data.delete_note(run, index, created)
    assert read_notebook(run).notes == (note,)


def test_a_damaged_record_is_one_line_and_the_rest_stands(app_folder: Path) -> None:
    record = read_records(the_run(app_folder))[0]
    (app_folder / "runs" / FULL / "records" / f"{record.id}.json").write_text("{]")
    page = opened("findings", app_folder, run=FULL)
    assert not page.exception
    assert page.error and all("\n" not in one.value for one in page.error)
    assert any("not valid JSON" in one.value.replace("\\", "") for one in page.error)
    assert page.text_area(key="findings_note")


def test_where_an_imported_network_is_from_is_its_publishers_word(app_folder: Path) -> None:
    run = the_run(app_folder, IMPORTED)
    page = opened("findings", app_folder, run=IMPORTED)
    assert ("Its publisher says" in words(page)) == (run.config.source is not None)


def test_an_explanation_that_was_stopped_can_be_asked_again(app_folder: Path) -> None:
    stopped = "1" * 16
    plant(app_folder / "runs", stopped, state="cancelled")
    page = opened("findings", app_folder, run=FRESH, findings_job=stopped)
    assert "Cancelled" in words(page)
    assert page.button(key="findings_explain")
    page = click(page, f"findings_job_close_{stopped}")
    assert in_address(page, "findings_job") == [] and "Cancelled" not in words(page)


def test_an_explanation_that_is_being_made_is_not_asked_twice(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = the_run(app_folder, FRESH)
    asked = AskOrder(run=FRESH, step=run.steps[-1], analysis="mechanism")
    job_id, other = "2" * 16, "3" * 16
    for one, order in ((job_id, asked), (other, replace(asked, run=FULL))):
        folder = plant(app_folder / "runs", one, state="running")
        job = json.loads((folder / "job.json").read_text())
        told = {"kind": "ask", "parameters": config.to_dict(order)}
        (folder / "job.json").write_text(json.dumps(job | told))
    locks = [hold_lock(app_folder / "runs" / ".jobs" / job_id / "lock", wait=True)]
    page = opened("findings", app_folder, run=FRESH)
    assert in_address(page, "findings_job") == [job_id]
    assert "findings_explain" not in {one.key for one in page.button}
    os.close(locks.pop() or 0)


def test_no_explanation_is_offered_where_no_mechanism_is_known(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "mechanism_for", lambda task: None)
    page = opened("findings", app_folder, run=FRESH)
    assert "findings_explain" not in {one.key for one in page.button}
    assert "No mechanism is known for this task" in words(page)


def test_links_show_the_very_finding(app_folder: Path) -> None:
    """Each address is opened, and the page then shows what the record claims."""
    run = the_run(app_folder)
    records = {one.kind: one for one in read_records(run)}
    network = network_of(run)
    patching: Any = look_at(records["patching"], network)
    rows: Any = records["patching"].result["rows"]
    row = rows[int(patching["trace_cell"])]
    assert f"head {row['head']}, position {row['position']} moves" in claim(records["patching"])
    assert patching["trace_site"] == "head" and patching["trace_pairs"] == "32"
    page = opened("trace", app_folder, run=FULL, **patching)
    assert not page.exception and not page.error
    assert page.selectbox(key="trace_site").value == "head"
    assert page.number_input(key="trace_pairs").value == 32
    assert f"ead 0.{row['head']} at position {row['position']}" in words(page)
    probe: Any = look_at(records["probe"], network)
    assert probe["probes_variables"] == ("answer",)
    page = opened("probes", app_folder, run=FULL, **probe)
    assert not page.exception and not page.error
    [shown] = [one for one in words(page).splitlines() if one.startswith("**answer** at ")]
    assert shown.removeprefix("**answer** at ") in claim(records["probe"])
    circuit: Any = look_at(records["circuit"], network)
    page = opened("trace", app_folder, run=FULL, **circuit)
    assert page.segmented_control(key="trace_start").value == "Kept"
    assert page.number_input(key="trace_pairs").value == 32


def claim(record: Record) -> str:
    return record.findings[0].claim


def test_a_link_to_a_written_pair_carries_it(app_folder: Path) -> None:
    run = the_run(app_folder)
    record = next(one for one in read_records(run) if one.kind == "patching")
    asked = record.parameters | {"clean": ["1 + 2 ="], "corrupted": ["1 + 3 ="], "by": []}
    told = look_at(record.model_copy(update={"parameters": asked}), network_of(run))
    assert (told["clean"], told["corrupted"]) == ("1 + 2 =", "1 + 3 =")
    assert (told["trace_of"], told["trace_split"]) == ("One pair", "false")
    odd = record.model_copy(update={"parameters": {"site": ["x"], "pairs": True, "clean": 3}})
    assert set(look_at(odd, network_of(run))) == {"trace_split", "trace_cell"}


# ---------------------------------------------------------------------- saving


def saved(folder: Path, **options: Any) -> Any:
    given = {"note": None, "only": None, "all_checkpoints": False, "view": None} | options
    path = folder / "saved.workbench"
    path.write_bytes(data.session_file(the_run(folder), **given))
    return open_session(path)


def test_what_is_saved(app_folder: Path) -> None:
    run = the_run(app_folder)
    everything = saved(app_folder)
    assert len(everything.records) == 4 and everything.steps == run.steps[-1:]
    circuit = next(one for one in read_records(run) if one.kind == "circuit")
    view = {"page": "trace", "trace_site": "head"}
    part = saved(app_folder, only=[circuit.id], note="Look.", all_checkpoints=True, view=view)
    assert [one.id for one in part.records] == [circuit.id]
    assert [one.text for one in part.notebook.notes] == ["Look."]
    assert part.steps == run.steps and dict(part.notebook.view) == view
    assert read_notebook(run).notes == ()  # the run's own stay as they are


@pytest.mark.parametrize("every", [False, True])
def test_sizes_are_told_about_right(app_folder: Path, every: bool) -> None:
    told = data.size_of(
        the_run(app_folder), read_records(the_run(app_folder)), all_checkpoints=every
    )
    size = saved(app_folder, all_checkpoints=every).archive.size
    assert 0.8 * size < told < 1.25 * size  # `session.json` is packed, and not counted


def test_the_offline_page(app_folder: Path) -> None:
    html = data.page_of_run(the_run(app_folder)).decode()
    assert html.startswith("<!DOCTYPE html>") and "Content-Security-Policy" in html
    assert "<code>full.workbench</code>" in html


def test_downloads_are_offered_and_not_made_before(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "save_session", lambda *_, **__: pytest.fail("made too early"))
    page = opened("findings", app_folder, run=FULL)
    labels = [one.proto.label for one in page.get("download_button")]
    assert any(label.startswith("Save as a session, about ") for label in labels)
    assert "Save as an offline page" in labels


@pytest.mark.parametrize(
    ("last", "view"),
    [
        (None, None),  # an author's view stays: nothing is put in its place
        (("trace", {"run": [IMPORTED], "trace_site": ["mlp_out"]}), None),
        (("train", {}), None),
        (
            ("trace", {"run": [FULL], "trace_site": ["mlp_out"]}),
            {"page": "trace", "trace_site": "mlp_out"},
        ),
    ],
)
def test_what_was_on_the_screen_is_of_this_network(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch, last: Any, view: Any
) -> None:
    from apps.web.findings import run as page_of_one

    saved: list[Any] = []
    monkeypatch.setattr(page_of_one, "_downloads", lambda *told: saved.append(told[-1]))
    page = opened("findings", app_folder, run=FULL)
    if last is not None:
        page.session_state[LAST_VIEW] = last
        page.run()
    assert saved[-1] == view
    assert page.toggle(key="findings_view").disabled is (view is None)

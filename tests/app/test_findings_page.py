"""The Findings page: claims beside controls, notes, saving; sessions opened, replayed, compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from apps.orders.replay import ReplayOrder
from apps.web import jobs
from apps.web.findings import data
from apps.web.findings.opened import replay_table
from apps.web.findings.shown import (
    CONTROLS,
    LISTED,
    controls_text,
    finding_table,
    number_text,
    screens_of,
)
from apps.web.findings.uploads import OPENED, keep_session, opened_digests
from apps.web.jobs.files import Status
from tests.app.app_folder import FRESH, FULL, IMPORTED, SESSION, opened
from tests.session import hostile
from tests.session.changing import packed, parts
from workbench.errors import AppError
from workbench.finding import Control, Finding
from workbench.record import Record
from workbench.records import read_notebook, read_records
from workbench.run import Run, open_run
from workbench.session import open_session


def the_run(folder: Path, name: str = FULL) -> Run:
    return open_run(folder / "runs" / name)


def words(page: AppTest) -> str:
    """Everything that stands on the page."""
    kinds = (page.markdown, page.text, page.caption, page.info, page.success, page.warning)
    return "\n".join(one.value for kind in kinds for one in kind).replace("\\", "")


def in_address(page: AppTest, name: str) -> list[str]:
    """What stands in the address under a name, in one form: Streamlit's test has two."""
    value = page.query_params[name] if name in page.query_params else []
    return [value] if isinstance(value, str) else list(value)


def click(page: AppTest, key: str) -> AppTest:
    done = page.button(key=key).click().run()
    assert not done.exception
    return done


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
    assert lines[2] == "| **this network** | 0.5000 | every input | 12,769 | 0.2500 |"
    assert lines[3] == ("| control: a\\|b \\<b\\> | 0.1250 | 0.1000 to 0.2000 | 20 draws |  |")
    assert lines[4] == "| control: other | −5e−05 | – | 9 inputs |  |"
    assert len(lines) == 5


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


# ---------------------------------------------------------------------- open a session


def upload(page: AppTest, content: bytes, name: str = "a.workbench") -> AppTest:
    done = page.file_uploader[0].upload(name, content, "application/octet-stream").run()
    assert not done.exception
    return done


def test_a_session_is_read_and_changes_nothing(app_folder: Path) -> None:
    before = sorted((app_folder / "runs").glob("[!.]*"))
    page = opened("findings", app_folder, section="open")
    assert "No session is open" in words(page)
    page = upload(page, (app_folder / SESSION).read_bytes(), "../../evil name.workbench")
    [digest] = opened_digests(app_folder / "runs")
    assert in_address(page, "session") == [digest]
    session = open_session(app_folder / SESSION)
    seen = words(page)
    assert "Whole: every digest and every bound was checked" in seen and session.id in seen
    assert "A circle carries the sum." in [one.value for one in page.text]
    for finding in session.findings:
        assert finding.claim in seen
    assert sorted((app_folder / "runs").glob("[!.]*")) == before
    assert "evil" not in seen
    again = opened("findings", app_folder, session=digest)  # a refresh, or a link
    assert session.id in words(again) and not again.error


def test_a_session_that_is_not_kept_is_one_line(app_folder: Path) -> None:
    for named in ("0" * 64, "../../etc/passwd", "<script>"):
        page = opened("findings", app_folder, session=named)
        assert not page.exception and not page.error
        assert "is not kept here" in words(page)
        assert "passwd" not in words(page) and "script" not in words(page)


def test_hostile_uploads_are_refused_in_one_line_and_leave_nothing(app_folder: Path) -> None:
    """What each leaves on disk is `test_uploads`; here, how the page says it."""
    page = opened("findings", app_folder, section="open")
    refused = [case for case in hostile.corpus() if case.outcome == "refused"]
    for case in refused[:: len(refused) // 24]:
        page = upload(page, case.content)
        [error] = page.error
        assert error.value.startswith("Refused: ") and error.value.isprintable(), case.name
        assert list((app_folder / "runs" / OPENED).iterdir()) == [], case.name
    page = upload(page, packed(parts()))
    assert not page.error and len(opened_digests(app_folder / "runs")) == 1


def test_accepting_makes_a_run_and_forgetting_leaves_it(app_folder: Path) -> None:
    runs = app_folder / "runs"
    digest = keep_session(runs, (app_folder / SESSION).read_bytes())
    page = opened("findings", app_folder, session=digest)
    assert "Read-only" in words(page)
    page = click(page, "findings_accept")
    [made] = [path for path in runs.iterdir() if "-session-" in path.name]
    page = click(page, "findings_show")
    assert in_address(page, "run") == [made.name] and in_address(page, "session") == []
    assert "Opened from session" in words(page)
    assert open_session(app_folder / SESSION).findings[0].claim in words(page)
    page = opened("findings", app_folder, session=digest)
    assert f"accepted] as {made.name}" in words(page)
    click(page, "findings_forget")
    assert opened_digests(runs) == [] and made.is_dir()


def test_the_authors_view_is_restored_by_a_link(app_folder: Path) -> None:
    view = {"page": "network", "network_layer": "0"}
    content = data.session_file(
        the_run(app_folder), note=None, only=["patching"], all_checkpoints=False, view=view
    )
    from workbench.session import open_as_run

    (app_folder / "viewed.workbench").write_bytes(content)
    made = open_as_run(open_session(app_folder / "viewed.workbench"), app_folder / "runs")
    page = opened("findings", app_folder, run=made.path.name)
    links = {one.proto.label: one.proto for one in page.get("page_link")}
    link = links["Restore the author's view"]
    assert link.page == "network"
    assert link.query_string == f"run={made.path.name}&network_layer=0"


# ---------------------------------------------------------------------- replay


def a_status(digest: str, rows: list[dict[str, Any]]) -> Status:
    return Status(
        id="0" * 16,
        kind="replay",
        title="Replay",
        parameters={"session": digest, "limit": 600},
        created=1.0,
        state="done",
        progress=None,
        seconds=1.0,
        seconds_left=None,
        error=None,
        result={"replayed": rows},
        owner_sha256="",
    )


def a_row(record: Record, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "record": record.id,
        "kind": record.kind,
        "step": record.step,
        "findings": [one.id for one in record.findings],
        "state": state,
        "why": "" if state == "holds" else "value: 1 recorded, <b>2</b> replayed",
        "compared": None if state == "cannot run" else 1234,
        "closeness": None if state == "cannot run" else 0.5,
        "differences": [{"path": "value", "recorded": "1", "replayed": "2"}] * (state == "drifted"),
        "seconds": 2.0,
        **changes,
    }


def test_a_replay_is_ordered_with_its_limit(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered: list[Any] = []
    monkeypatch.setattr(jobs, "start", lambda order, owner: ordered.append(order) or "0" * 16)
    digest = keep_session(app_folder / "runs", (app_folder / SESSION).read_bytes())
    page = opened("findings", app_folder, session=digest, findings_limit="77")
    click(page, "findings_replay")
    assert ordered == [ReplayOrder(session=digest, limit=77)]


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (("holds", "holds", "holds", "holds"), "Every record holds: "),
        (("holds", "drifted", "cannot run", "holds"), "2 of 4 records hold."),
    ],
)
def test_what_became_of_a_replay(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch, states: tuple[str, ...], says: str
) -> None:
    digest = keep_session(app_folder / "runs", (app_folder / SESSION).read_bytes())
    records = open_session(app_folder / SESSION).records
    rows = [a_row(record, state) for record, state in zip(records, states, strict=True)]
    monkeypatch.setattr(jobs, "all_jobs", lambda: [a_status(digest, rows)])
    page = opened("findings", app_folder, session=digest)
    seen = words(page)
    assert not page.error and says in seen
    assert "A replay does not check step numbers" in seen
    beside = sum(one.label.count(" holds]") for one in page.expander)
    assert beside == states.count("holds")
    if "drifted" in states:
        assert "value: 1 recorded, <b>2</b> replayed" in seen
        assert not any("<b>" in one.value for one in page.markdown)  # escaped
    other = opened("findings", app_folder, session=digest)
    monkeypatch.setattr(jobs, "all_jobs", lambda: [a_status("1" * 64, rows)])
    assert "Replayed here" not in [one.value for one in other.run().subheader]


def test_a_row_of_a_replay(app_folder: Path) -> None:
    record = next(one for one in read_records(the_run(app_folder)) if one.kind == "circuit")
    table = replay_table([a_row(record, "cannot run", kind="a|b")]).splitlines()
    assert table[2].startswith("| a\\|b, step 480 | " if record.step == 480 else "| a\\|b, step ")
    assert table[2].endswith(f"cannot run] | {len(record.findings)} | – | – | 2.0 |")


# ---------------------------------------------------------------------- compare


def test_two_are_compared_in_words(app_folder: Path) -> None:
    page = opened("findings", app_folder, section="compare")
    assert page.selectbox(key="findings_first").options[:3]
    digest = keep_session(app_folder / "runs", (app_folder / SESSION).read_bytes())
    page = opened("findings", app_folder, section="compare")
    page.selectbox(key="findings_first").set_value(f"run:{FULL}")
    page = page.selectbox(key="findings_second").set_value(f"session:{digest}").run()
    assert not page.exception and not page.error
    [frame] = page.dataframe
    rows: list[Mapping[str, str]] = frame.value.to_dict("records")
    assert [row["Where"] for row in rows] == ["notes and marks"]  # the note of the session
    assert "A circle carries the sum." in rows[0]["Second"] and rows[0]["First"] == "–"
    page = page.selectbox(key="findings_second").set_value(f"run:{IMPORTED}").run()
    assert {"how it was made", "weights", "findings"} <= {
        row["Where"] for row in page.dataframe[0].value.to_dict("records")
    }
    page = page.selectbox(key="findings_second").set_value(f"run:{FULL}").run()
    assert "These are the same" in words(page)


def test_with_one_there_is_nothing_to_compare(empty_folder: Path) -> None:
    page = opened("findings", empty_folder, section="compare")
    assert "There are not two to compare" in words(page)

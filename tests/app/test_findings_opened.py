"""The Findings page, of sessions from elsewhere: opened, accepted, replayed, compared."""

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from apps.orders.replay import ReplayOrder
from apps.web import jobs
from apps.web.findings import data
from apps.web.findings.compare import change_table
from apps.web.findings.opened import replay_table
from apps.web.findings.uploads import OPENED, keep_session, opened_digests
from apps.web.jobs.files import Status
from tests.app.app_folder import FULL, IMPORTED, SESSION, opened
from tests.app.findings_helpers import click, in_address, the_run, words
from tests.session import hostile
from tests.session.changing import packed, parts
from workbench.record import Record
from workbench.records import read_records
from workbench.session import open_as_run, open_session
from workbench.session.differing import Change

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


@pytest.mark.parametrize(
    ("view", "page_name", "rest"),
    [
        ({"page": "network", "network_layer": "0"}, "network", "&network_layer=0"),
        ({"page": "parts"}, "parts", ""),  # nothing was chosen on it, and yet it was looked at
        ({"page": "no such page", "x": "1"}, "network", "&x=1"),
    ],
)
def test_the_authors_view_is_restored_by_a_link(
    app_folder: Path, view: dict[str, str], page_name: str, rest: str
) -> None:
    content = data.session_file(
        the_run(app_folder), note=None, only=["patching"], all_checkpoints=False, view=view
    )
    (app_folder / "viewed.workbench").write_bytes(content)
    made = open_as_run(open_session(app_folder / "viewed.workbench"), app_folder / "runs")
    page = opened("findings", app_folder, run=made.path.name)
    links = {one.proto.label: one.proto for one in page.get("page_link")}
    link = links["Restore the author's view"]
    assert link.page == page_name
    assert link.query_string == f"run={made.path.name}{rest}"


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


def rows_of(page: AppTest) -> list[list[str]]:
    """The cells of the table of differences."""
    [table] = [one.value for one in page.markdown if one.value.startswith("| Where |")]
    lines = table.replace("\\", "").splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_what_differs_is_text_that_no_line_is_too_short_for() -> None:
    change = Change(where="notes", what="a|b", first="x" * 64, second="<b>not supported: 0.5</b>")
    row = change_table([change]).splitlines()[2]
    said = f"| notes and marks | a\\|b | {'x' * 31}… |"
    assert row.startswith(said)
    assert row.endswith(" | \\<b\\>not supported\\: 0\\.5\\<\\/b\\> |")


def test_two_are_compared_in_words(app_folder: Path) -> None:
    page = opened("findings", app_folder, section="compare")
    assert page.selectbox(key="findings_first").options[:3]
    digest = keep_session(app_folder / "runs", (app_folder / SESSION).read_bytes())
    page = opened("findings", app_folder, section="compare")
    page.selectbox(key="findings_first").set_value(f"run:{FULL}")
    page = page.selectbox(key="findings_second").set_value(f"session:{digest}").run()
    assert not page.exception and not page.error
    [row] = rows_of(page)
    assert row[0] == "notes and marks"  # the note of the session
    assert "A circle carries the sum." in row[3] and row[2] == "–"
    page = page.selectbox(key="findings_second").set_value(f"run:{IMPORTED}").run()
    assert {"how it was made", "weights", "findings"} <= {row[0] for row in rows_of(page)}
    page = page.selectbox(key="findings_second").set_value(f"run:{FULL}").run()
    assert "These are the same" in words(page)


def test_with_one_there_is_nothing_to_compare(empty_folder: Path) -> None:
    page = opened("findings", empty_folder, section="compare")
    assert "There are not two to compare" in words(page)

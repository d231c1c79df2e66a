"""The app in a real browser: nothing of a stranger's runs, nothing leaves the machine, errors are
one line, two people at once see their own."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.web.findings.uploads import keep_session, opened_digests
from tests.app.app_folder import FULL, SESSION
from tests.app.browsing import RunningApp, settled
from tests.app.conftest import fill
from tests.app.small_session import DRAWN, PAYLOADS, changed, make_hostile
from workbench.run import open_run
from workbench.session import open_session


@pytest.fixture(scope="module")
def hostile(
    served: RunningApp, filled_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Digest of a session full of script, which is opened beside the runs of `filled_folder`."""
    fill(served, filled_folder)
    path = tmp_path_factory.mktemp("hostile") / "hostile.workbench"
    made = changed(open_session(filled_folder / SESSION), path, make_worse)
    return keep_session(served.folder, made.path.read_bytes())


def make_worse(document: dict[str, Any]) -> None:
    """Script in every text; the ids of a record's findings still differ, as they must."""
    make_hostile(document, DRAWN)
    for record in document["records"]:
        for i, finding in enumerate(record["findings"]):
            finding["id"] = f"{finding['id'][:180]} {i}"


@pytest.fixture
def visit(browser: Any, served: RunningApp, hostile: str) -> Iterator[Callable[..., Any]]:
    """Opens a page of the app in a context of its own."""
    contexts = []

    def visiting(page: str, **query: str) -> Any:
        contexts.append(served.context(browser))
        return served.visit(contexts[-1], page, **query)

    served.begin()
    yield visiting
    for context in contexts:
        context.close()


def assert_quiet(app: RunningApp, *pages: Any) -> None:
    app.assert_quiet()
    assert app.said == []
    assert all(page.evaluate("window.pwned === undefined") for page in pages)


def test_what_would_leave_is_seen_and_stopped(
    visit: Callable[..., Any], served: RunningApp
) -> None:
    """That the other tests can fail: pictures and fonts from elsewhere are seen, and not loaded."""
    page = visit("findings")
    page.evaluate(
        "new Promise(done => { const one = new Image(); one.onerror = done; one.onload = done;"
        " one.src = 'http://192.0.2.1/a.png' })"
    )
    page.evaluate("fetch('http://192.0.2.1/b').catch(() => 0)")
    assert any("Content Security Policy" in one for one in served.said)
    assert "http://192.0.2.1/a.png" in served.foreign
    page.evaluate(
        "(() => { const one = document.createElement('script'); one.textContent = 'window.pwned=1';"
        " document.body.append(one) })()"
    )
    assert page.evaluate("window.pwned === undefined")


def test_a_session_full_of_script_is_shown_and_runs_nothing(
    visit: Callable[..., Any], served: RunningApp, hostile: str
) -> None:
    page = visit("findings", session=hostile)
    page.wait_for_selector("text=Whole: every digest")
    settled(page)
    for summary in page.locator("[data-testid=stMain] details summary").all():
        summary.click()
        settled(page)
    page.mouse.move(640, 400)
    page.keyboard.press("Tab")
    settled(page)
    page.wait_for_timeout(200)  # for an image or a timer that would come late
    assert_quiet(served, page)
    main = page.locator("[data-testid=stMain]")
    text = main.inner_text()
    assert "<script>window.pwned=1;alert(1)</script>" in text  # shown, as text
    assert "![](http://x.test/a.png) [x](javascript:window.pwned=1)" in text
    assert main.locator("img, iframe, form[action], meta, link, svg a").count() == 0
    links = main.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert all(one is None or one.startswith("#") for one in links)  # headings' own
    wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0


def test_the_offline_page_of_a_stranger_is_a_file_and_never_shown_here(
    visit: Callable[..., Any], served: RunningApp, hostile: str
) -> None:
    page = visit("findings", session=hostile)
    with page.expect_download() as waited:
        page.get_by_role("button", name="Download its offline page").click()
    download = waited.value
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.html", download.suggested_filename)
    html = download.path().read_text()
    assert html.startswith("<!DOCTYPE html>") and "<script" not in html
    settled(page)
    assert_quiet(served, page)


def test_a_name_and_a_note_in_markup_stay_text(
    visit: Callable[..., Any], served: RunningApp
) -> None:
    from apps.web.findings.data import add_note, delete_note
    from workbench.records import read_notebook

    run = open_run(served.folder / FULL)
    add_note(run, "\n".join(PAYLOADS))
    try:
        page = visit("findings", run=FULL)
        page.wait_for_selector("text=Add the note")
        settled(page)
        assert PAYLOADS[0] in page.inner_text("[data-testid=stMain]")
        assert page.locator("[data-testid=stMain] img").count() == 0
        assert_quiet(served, page)
    finally:
        delete_note(run, 0, read_notebook(run).notes[0].created)


def test_a_fault_is_one_line_without_a_trace(visit: Callable[..., Any], served: RunningApp) -> None:
    """A damaged record by words of ours; a fault of ours without any of what it says."""
    run = served.folder / "broken"
    shutil.copytree(served.folder / FULL, run)
    try:
        (run / "notebook.json").unlink(missing_ok=True)
        (run / "notebook.json").mkdir()  # nothing expects a folder here
        record = next((run / "records").glob("*.json"))
        record.write_text('{"secret": 1, "secret": 2}')
        page = visit("findings", run="broken")
        page.wait_for_selector("[data-testid=stAlert]")
        settled(page)
        text = page.inner_text("body")
        assert "appears twice" in text
        assert "Traceback" not in text and 'File "' not in text and ".py" not in text
        alerts = page.locator("[data-testid=stAlert]").all_inner_texts()
        assert all("\n" not in one.strip().partition("\n")[2].strip() for one in alerts)
    finally:
        shutil.rmtree(run)


def test_two_people_at_once_each_see_their_own(
    visit: Callable[..., Any], served: RunningApp, filled_folder: Path
) -> None:
    one, other = visit("findings", run=FULL), visit("findings", run="fresh")
    one.wait_for_selector("text=findings in 4 records")
    other.wait_for_selector("text=Nothing is claimed of this network yet")
    one.get_by_text("Open a session", exact=True).click()
    one.set_input_files("input[type=file]", str(filled_folder / SESSION))
    one.wait_for_selector("text=Whole: every digest")
    other.get_by_text("Compare", exact=True).click()
    other.wait_for_selector("text=First")
    assert len(opened_digests(served.folder)) == 2
    assert "session=" in one.url and "session=" not in other.url
    one.reload()
    one.wait_for_selector("text=Whole: every digest")
    settled(one)
    settled(other)
    assert_quiet(served, one, other)


def test_a_hostile_upload_is_refused_on_the_page(
    visit: Callable[..., Any], served: RunningApp, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.workbench"
    bad.write_bytes(b"PK\x03\x04 not a session <script>window.pwned=1</script>")
    before = opened_digests(served.folder)
    page = visit("findings", section="open")
    page.set_input_files("input[type=file]", str(bad))
    page.wait_for_selector("text=Refused: the file:")
    settled(page)
    assert sorted(opened_digests(served.folder)) == sorted(before)
    assert_quiet(served, page)

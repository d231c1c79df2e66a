"""The app in a real browser: nothing of a stranger's runs, nothing leaves the machine, errors are
one line, two people at once see their own.

Needs playwright (the `test` extra) and a Chromium or Chrome that is installed; no browser is ever
downloaded.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps.web.findings.uploads import keep_session, opened_digests
from apps.web.shell import OURS
from apps.web.view import ordered
from tests.app.app_folder import FULL, SESSION
from tests.app.small_session import DRAWN, PAYLOADS, changed, make_hostile
from workbench.run import open_run
from workbench.session import open_session

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROOT = Path(__file__).parents[2]
PATIENCE = 60_000
"""Milliseconds that something on a page may take to come; nothing is measured here."""
HARMLESS = "404 (Not Found)"
"""Streamlit asks for its own paths below the page's first, and then at the root."""
LOUD = (
    "that the app runs nothing of a stranger's, asks nothing of the network and hides its faults "
    "was NOT checked"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"NO BROWSER FOUND ({', '.join(BROWSERS)}): {LOUD}; install chromium")
    reason = f"PLAYWRIGHT IS NOT INSTALLED: {LOUD}; install the `test` extra"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Served(NamedTuple):
    """The app on a folder of its own."""

    url: str
    folder: Path
    hostile: str
    """Digest of a session full of script, which is opened there."""


@pytest.fixture(scope="module")
def served(filled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(filled_folder / "runs", folder / "runs")
    shutil.copy(filled_folder / SESSION, folder)
    made = changed(open_session(folder / SESSION), folder / "hostile.workbench", make_worse)
    hostile = keep_session(folder / "runs", made.path.read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "apps", "app", "--no-browser", "--runs", "runs"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process.stdout:
        found = re.match(r"Workbench: (\S+)", process.stdout.readline())
        assert found
        yield Served(found[1], folder, hostile)
        process.kill()
        process.wait()


def make_worse(document: dict[str, Any]) -> None:
    """Script in every text; the ids of a record's findings still differ, as they must."""
    make_hostile(document, DRAWN)
    for record in document["records"]:
        for i, finding in enumerate(record["findings"]):
            finding["id"] = f"{finding['id'][:180]} {i}"


class Watched(NamedTuple):
    """A page, and what it did that it should not have."""

    page: Any
    beyond: list[str]
    """Addresses outside this machine that were asked for, let out or not."""
    complaints: list[str]
    dialogs: list[str]

    def assert_quiet(self) -> None:
        assert self.beyond == [] and self.complaints == [] and self.dialogs == []
        assert self.page.evaluate("window.pwned === undefined")


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Callable[..., Watched]]:
    """Opens a page of the app in a context of its own; only this machine can be reached."""
    contexts = []

    def visiting(path: str, *, dark: bool = False) -> Watched:
        scheme = "dark" if dark else "light"
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": 1280, "height": 800}, accept_downloads=True
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        beyond: list[str] = []
        complaints: list[str] = []
        dialogs: list[str] = []

        def sent(request: Any) -> None:
            if not request.url.startswith((served.url, "data:", "blob:")):
                beyond.append(request.url)

        def said(message: Any) -> None:
            if message.type == "error" and HARMLESS not in message.text:
                complaints.append(message.text)

        context.on("request", sent)
        context.route(
            lambda url: not url.startswith((served.url, "data:", "blob:")),
            lambda route: route.abort(),
        )
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda shown: (dialogs.append(shown.message), shown.dismiss()))
        page.goto(f"{served.url}/{path}")
        page.wait_for_selector("h1")
        return Watched(page, beyond, complaints, dialogs)

    yield visiting
    for context in contexts:
        context.close()


def settle(page: Any) -> None:
    """Wait until the app has nothing more to draw."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_timeout(300)  # for an image or a timer that would come late


@pytest.mark.parametrize("name", [name for name, _ in ordered()])
def test_no_request_leaves_the_machine(visit: Callable[..., Watched], name: str) -> None:
    first = ordered()[0][0] == name
    watched = visit(f"{'' if first else name}?run={FULL}", dark=first)
    settle(watched.page)
    assert watched.page.locator("h1").first.inner_text()
    assert OURS not in watched.page.inner_text("body")
    watched.assert_quiet()


def test_what_would_leave_is_seen_and_stopped(visit: Callable[..., Watched]) -> None:
    """That the test above can fail: pictures and fonts from elsewhere are seen, and not loaded."""
    watched = visit("findings")
    watched.page.evaluate(
        "new Promise(done => { const one = new Image(); one.onerror = done; one.onload = done;"
        " one.src = 'http://192.0.2.1/a.png' })"
    )
    watched.page.evaluate("fetch('http://192.0.2.1/b').catch(() => 0)")
    assert any("Content Security Policy" in one for one in watched.complaints)
    watched.page.evaluate(
        "(() => { const one = document.createElement('script'); one.textContent = 'window.pwned=1';"
        " document.body.append(one) })()"
    )
    assert watched.page.evaluate("window.pwned === undefined")


def test_a_session_full_of_script_is_shown_and_runs_nothing(
    visit: Callable[..., Watched], served: Served
) -> None:
    watched = visit(f"findings?session={served.hostile}")
    page = watched.page
    page.wait_for_selector("text=Whole: every digest")
    settle(page)
    for summary in page.locator("[data-testid=stMain] details summary").all():
        summary.click()
    settle(page)
    page.mouse.move(640, 400)
    page.keyboard.press("Tab")
    settle(page)
    watched.assert_quiet()
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
    visit: Callable[..., Watched], served: Served
) -> None:
    watched = visit(f"findings?session={served.hostile}")
    with watched.page.expect_download() as waited:
        watched.page.get_by_role("button", name="Download its offline page").click()
    download = waited.value
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.html", download.suggested_filename)
    html = download.path().read_text()
    assert html.startswith("<!DOCTYPE html>") and "<script" not in html
    settle(watched.page)
    watched.assert_quiet()


def test_a_name_and_a_note_in_markup_stay_text(
    visit: Callable[..., Watched], served: Served
) -> None:
    from apps.web.findings.data import add_note, delete_note
    from workbench.records import read_notebook

    run = open_run(served.folder / "runs" / FULL)
    add_note(run, "\n".join(PAYLOADS))
    try:
        watched = visit(f"findings?run={FULL}")
        watched.page.wait_for_selector("text=Add the note")
        settle(watched.page)
        assert PAYLOADS[0] in watched.page.inner_text("[data-testid=stMain]")
        assert watched.page.locator("[data-testid=stMain] img").count() == 0
        watched.assert_quiet()
    finally:
        delete_note(run, 0, read_notebook(run).notes[0].created)


def test_a_fault_is_one_line_without_a_trace(
    visit: Callable[..., Watched], served: Served, tmp_path: Path
) -> None:
    """A damaged record by words of ours; a fault of ours without any of what it says."""
    run = served.folder / "runs" / "broken"
    shutil.copytree(served.folder / "runs" / FULL, run)
    try:
        (run / "notebook.json").unlink(missing_ok=True)
        (run / "notebook.json").mkdir()  # nothing expects a folder here
        record = next((run / "records").glob("*.json"))
        record.write_text('{"secret": 1, "secret": 2}')
        watched = visit("findings?run=broken")
        watched.page.wait_for_selector("[data-testid=stAlert]")
        settle(watched.page)
        text = watched.page.inner_text("body")
        assert "appears twice" in text
        assert "Traceback" not in text and 'File "' not in text and ".py" not in text
        alerts = watched.page.locator("[data-testid=stAlert]").all_inner_texts()
        assert all("\n" not in one.strip().partition("\n")[2].strip() for one in alerts)
    finally:
        shutil.rmtree(run)


def test_two_people_at_once_each_see_their_own(
    visit: Callable[..., Watched], served: Served
) -> None:
    one, other = visit(f"findings?run={FULL}"), visit("findings?run=fresh")
    one.page.wait_for_selector("text=findings in 4 records")
    other.page.wait_for_selector("text=Nothing is claimed of this network yet")
    one.page.get_by_text("Open a session", exact=True).click()
    one.page.set_input_files("input[type=file]", str(served.folder / SESSION))
    one.page.wait_for_selector("text=Whole: every digest")
    other.page.get_by_text("Compare", exact=True).click()
    other.page.wait_for_selector("text=First")
    assert len(opened_digests(served.folder / "runs")) == 2
    assert "session=" in one.page.url and "session=" not in other.page.url
    one.page.reload()
    one.page.wait_for_selector("text=Whole: every digest")
    settle(one.page)
    settle(other.page)
    one.assert_quiet()
    other.assert_quiet()


def test_a_hostile_upload_is_refused_on_the_page(
    visit: Callable[..., Watched], served: Served, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.workbench"
    bad.write_bytes(b"PK\x03\x04 not a session <script>window.pwned=1</script>")
    before = opened_digests(served.folder / "runs")
    watched = visit("findings?section=open")
    watched.page.set_input_files("input[type=file]", str(bad))
    watched.page.wait_for_selector("text=Refused: the file:")
    settle(watched.page)
    assert sorted(opened_digests(served.folder / "runs")) == sorted(before)
    watched.assert_quiet()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", [name for name, _ in ordered()])
def test_text_can_be_read_in_light_and_dark(
    visit: Callable[..., Watched], name: str, dark: bool
) -> None:
    """Contrast of 4.5 : 1 (WCAG 2.2, 1.4.3) of captions, links, badges, buttons, options."""
    watched = visit(f"{name}?run={FULL}", dark=dark)
    settle(watched.page)
    for _ in range(20):  # colours change softly when a control is drawn anew
        weak = watched.page.evaluate(CONTRAST)
        if not weak:
            break
        watched.page.wait_for_timeout(250)
    assert weak == []


CONTRAST = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const over = (a, b) => {
    const alpha = a.length > 3 ? a[3] : 1;
    return [0, 1, 2].map(i => a[i] * alpha + b[i] * (1 - alpha));
  };
  const light = c => {
    const linear = x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const [r, g, b] = c.map(x => linear(x / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = one => {
    const all = [];
    for (let at = one; at; at = at.parentElement)
      all.unshift(parts(getComputedStyle(at).backgroundColor));
    return all.reduce((under, on) => over(on, under), [255, 255, 255]);
  };
  const weak = [];
  for (const one of document.querySelectorAll('p, a, span, button, label, th, td, h1, h2, h3')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const box = one.getBoundingClientRect();
    if (!own || !box.width || !box.height) continue;
    if (one.closest('[disabled], [aria-disabled=true]')) continue;
    if (one.closest('label')?.querySelector('[disabled]')) continue;
    if (one.closest('[data-testid=stSliderThumbValue]')) continue;  // stands above its parent
    const style = getComputedStyle(one);
    if (style.visibility === 'hidden' || style.fontFamily.includes('Material')) continue;
    const under = ground(one), ink = over(parts(style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    const large = parseFloat(style.fontSize) >= 24;
    const told = one.textContent.trim().slice(0, 40);
    if (ratio < (large ? 3 : 4.5)) weak.push([told, Math.round(ratio * 100) / 100]);
  }
  return weak;
}"""
"""Texts whose contrast is too weak, with their ratio. 3 : 1 is enough for large ones."""

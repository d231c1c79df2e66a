"""A page full of script in a real browser: none of it runs, and nothing is asked for."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps.session_page import session_page
from tests.app.small_session import hostile_session, small_session
from workbench.session import Session

BAD = ("error", "warning")
CARELESS = """<!DOCTYPE html><title>careless</title><link rel="icon" href="data:,">
<script>window.pwned = 1; console.error("script ran")</script>
<img src="http://127.0.0.1:9/a.png" onerror="alert(1)">"""
"""A page of an author who escapes nothing: what the tests below must be able to see."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return small_session(tmp_path_factory.mktemp("session"))


class Visit(NamedTuple):
    """What a browser did with a page."""

    wanted: list[str]
    """Addresses beyond the page itself that something on it names; `data:` ones ask nobody."""
    sent: list[str]
    """Those that the policy would have let out."""
    dialogs: list[str]
    complaints: list[str]
    """Of the console, errors and warnings: a policy that stopped something is one."""
    pwned: bool
    scripts: int
    text: str
    overflow: int
    """Pixels that the page is wider than the window."""


def let_only(own: str, route: Any, sent: list[str]) -> None:
    """Let the page itself through, and nothing else."""
    if route.request.url == own:
        route.continue_()
    else:
        sent.append(route.request.url)
        route.abort()


def visit(browser: Any, html: str, path: Path, *, dark: bool = False, width: int = 1280) -> Visit:
    """Open a page from disk, unfold and follow everything in it, and watch."""
    path.write_text(html, encoding="utf-8")
    own = path.as_uri()
    scheme = "dark" if dark else "light"
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    wanted: list[str] = []
    sent: list[str] = []
    dialogs: list[str] = []
    complaints: list[str] = []

    context.route("**/*", lambda route: let_only(own, route, sent))
    context.on("request", lambda request: wanted.append(request.url))
    page = context.new_page()
    page.on("dialog", lambda shown: (dialogs.append(shown.message), shown.dismiss()))
    page.on("console", lambda said: complaints.append(said.text) if said.type in BAD else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(own)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for link in page.query_selector_all("a"):
        link.click()
    page.mouse.move(300, 300)
    page.keyboard.press("Tab")
    page.wait_for_timeout(200)  # for an image or a timer that would come late
    said = page.evaluate(
        "[window.pwned === 1, document.scripts.length, document.body.innerText,"
        " document.documentElement.scrollWidth - window.innerWidth]"
    )
    context.close()
    beyond = [url for url in wanted if url.split("#")[0] != own and not url.startswith("data:")]
    return Visit(beyond, sent, dialogs, complaints, *said)


def test_the_browser_sees_what_a_careless_page_does(browser: Any, tmp_path: Path) -> None:
    seen = visit(browser, CARELESS, tmp_path / "careless.html")
    assert seen.wanted == seen.sent == ["http://127.0.0.1:9/a.png"] and seen.dialogs == ["1"]
    assert seen.pwned and seen.scripts == 1
    assert any("script ran" in one for one in seen.complaints)


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
def test_a_page_full_of_script_runs_none_and_asks_for_nothing(
    browser: Any,
    session: Session,
    tmp_path: Path,
    dark: bool,
    width: int,
) -> None:
    hostile = hostile_session(session, tmp_path / "hostile.workbench")
    page = session_page(hostile)
    seen = visit(browser, page, tmp_path / "page.html", dark=dark, width=width)
    assert seen.wanted == [] and seen.sent == []
    assert seen.dialogs == [] and seen.complaints == []
    assert not seen.pwned and seen.scripts == 0
    assert "<script>window.pwned=1;alert(1)</script>" in seen.text  # shown, as text
    assert seen.overflow <= 0


def test_the_policy_alone_stops_script_that_got_through(
    browser: Any,
    session: Session,
    tmp_path: Path,
) -> None:
    """Were something not escaped after all, the policy would still refuse to run or fetch it."""
    page = session_page(session)
    leak = CARELESS.partition("<script>")[2]
    leaking = page.replace("<main>", f"<main><script>{leak}<b style='color: red'>x</b>", 1)
    seen = visit(browser, leaking, tmp_path / "leaking.html")
    assert seen.wanted == ["http://127.0.0.1:9/a.png"] and seen.sent == []
    assert seen.dialogs == [] and not seen.pwned and seen.scripts == 1
    assert all("Content Security Policy" in one for one in seen.complaints)
    assert len(seen.complaints) >= 3  # the script, the image, the style


def test_the_pages_own_style_passes_its_policy(
    browser: Any,
    session: Session,
    tmp_path: Path,
) -> None:
    (tmp_path / "page.html").write_text(session_page(session), encoding="utf-8")
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    assert colour == "rgb(20, 23, 27)"  # --page of the dark style, #14171b

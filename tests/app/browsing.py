"""The app in a real browser: a server of its own, and pages that may reach nothing but it.

    def test_it(full_app: RunningApp, browser: Any) -> None:  # fixtures of tests/app/conftest.py
        tab = full_app.visit(full_app.context(browser), "network", run="full")

Needs playwright (the `test` extra) and a Chromium or Chrome that is installed; none is ever
downloaded. `require_browser` skips, loudly, where one of them is missing.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60
"""To wait for anything before giving up: machines may be busy."""
IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
"""The page when its script is done."""
NOWHERE = {"server": "http://127.0.0.1:9", "bypass": "127.0.0.1,localhost"}
"""A proxy that is not there, for every address but this machine's: nothing leaves it."""
HARMLESS = "404 (Not Found)"
"""Streamlit asks for its own paths below the page's first, and then at the root."""
TWO_FRAMES = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
STILL = """async ([idle, milliseconds]) => {
  const seen = () => document.querySelector(idle) && !document.querySelector('[data-stale="true"]')
    && ![...document.querySelectorAll('[aria-busy="true"]')].some((one) => one.offsetHeight)
    && (document.querySelector('[data-testid="stMain"]')?.scrollHeight ?? 0) + 1;
  const end = performance.now() + milliseconds;
  for (let since = performance.now(), before = seen(); performance.now() < end;) {
    await new Promise((done) => setTimeout(done, 20));
    const now = seen();
    if (!now || now !== before) since = performance.now();
    else if (performance.now() - since >= 100) return true;
    before = now;
  }
  return false;
}"""
"""Whether the script was done, all charts in sight drawn, and the page as long as it was, for 0.1
seconds."""


def require_browser(what: str) -> str:
    """The browser's path. Skips where there is none, naming what was therefore not checked."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        pytest.skip(f"PLAYWRIGHT IS NOT INSTALLED: {what} was NOT checked; install '.[test]'")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"NO BROWSER FOUND ({', '.join(BROWSERS)}): {what} was NOT checked")
    return path


@contextmanager
def chromium(what: str) -> Iterator[Any]:
    """A headless browser of Playwright."""
    path = require_browser(what)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], proxy=NOWHERE
        )
        yield browser
        browser.close()


@dataclass(kw_only=True)
class RunningApp:
    """A server, and what pages visited through it did that they should not have."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    folder: Path
    """Where its runs are; empty where it has none."""
    foreign: list[str] = field(default_factory=list)
    """Requests to anything but this server, let out or not."""
    complaints: list[str] = field(default_factory=list)
    """Uncaught errors in a page's script."""
    said: list[str] = field(default_factory=list)
    """Errors in the console."""
    dialogs: list[str] = field(default_factory=list)
    begun: int = 0
    """Where in the log the present test begins."""

    def begin(self) -> None:
        """Forget what earlier tests did."""
        for seen in (self.foreign, self.complaints, self.said, self.dialogs):
            seen.clear()
        self.begun = self.log.stat().st_size

    def assert_quiet(self) -> None:
        """Nothing was asked of others, no script failed and none of a name's ran."""
        assert self.foreign == [] and self.complaints == [] and self.dialogs == []
        assert "Traceback" not in self.log.read_bytes()[self.begun :].decode()

    def context(self, browser: Any, *, dark: bool = False, width: int = 1280) -> Any:
        """A browser context (a person of their own) that is watched."""
        context = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900},
            accept_downloads=True,
        )
        context.set_default_timeout(SECONDS * 1000)
        context.on("request", lambda request: self._asked(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", self._told)
        context.on("dialog", lambda shown: (self.dialogs.append(shown.message), shown.dismiss()))
        return context

    def visit(self, context: Any, page: str = "", **query: str) -> Any:
        """A new tab on a page of the app, drawn to its end."""
        tab = context.new_page()
        return self.go(tab, page, **query)

    def go(self, tab: Any, page: str = "", **query: str) -> Any:
        """Another page in the same tab, by its address."""
        tab.goto(f"{self.address}/{page}" + (f"?{urlencode(query)}" if query else ""))
        return settled(tab)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(url)

    def _told(self, message: Any) -> None:
        if message.type == "error" and HARMLESS not in message.text:
            self.said.append(message.text)


def settled(tab: Any) -> Any:
    """The tab, when its script is done, was not started again at once, and nothing grows."""
    tab.wait_for_selector(IDLE)
    if not tab.evaluate(STILL, [IDLE, SECONDS * 1000]):
        raise TimeoutError(f"{urlsplit(tab.url).path} was still drawing after {SECONDS} s")
    return tab


def click_at(tab: Any, x: float, y: float) -> None:
    """Point at a place of a picture, wait until the picture shows it, and click.

    A shape that is drawn anew while the button is down gets no click, and pointing redraws it.
    """
    tab.mouse.move(x, y)
    tab.evaluate(TWO_FRAMES)
    tab.wait_for_timeout(100)
    tab.mouse.click(x, y)


@contextmanager
def running_app(runs: Path, *, log: Path) -> Iterator[RunningApp]:
    """`workbench app` on a free port, until the block ends."""
    with running(["apps", "app", "--no-browser", "--runs", str(runs)], log=log) as app:
        app.folder = runs
        yield app


@contextmanager
def running(module: Sequence[str], *, log: Path) -> Iterator[RunningApp]:
    """A module that serves pages and prints their address, until the block ends."""
    root = str(Path(__file__).parents[2])
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": root},
        )
        try:
            address = _address(process, log)
            yield RunningApp(address=address, process=process, log=log, folder=Path())
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server says that it is, once it answers."""
    import urllib.request

    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"http://[\w.]+:\d+", log.read_text())
        if found:
            try:
                with urllib.request.urlopen(f"{found[0]}/_stcore/health", timeout=1):
                    return found[0]
            except OSError:
                pass
        time.sleep(0.1)
    raise RuntimeError(f"the app did not start: {log.read_text()}")

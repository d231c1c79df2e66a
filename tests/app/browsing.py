"""The app in a real browser: a server of its own, and pages that may reach nothing but it.

    with running_app(folder / "runs") as app, chromium() as browser:
        page = app.visit(browser, "network", run="full")

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
from collections.abc import Iterator
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
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(kw_only=True)
class RunningApp:
    """A server, and what pages visited through it asked for."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    foreign: list[str] = field(default_factory=list)
    """Requests to anything but this server: all were stopped."""
    complaints: list[str] = field(default_factory=list)
    """Uncaught errors in a page's script."""

    def context(self, browser: Any, *, dark: bool = False, width: int = 1280) -> Any:
        """A browser context (a person of their own) that can reach nothing but this server."""
        context = browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": 900},
            accept_downloads=True,
        )
        context.set_default_timeout(SECONDS * 1000)
        context.route("**/*", self._only_here)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        return context

    def visit(self, context: Any, page: str = "", **query: str) -> Any:
        """A new tab on a page of the app, drawn to its end."""
        tab = context.new_page()
        return self.go(tab, page, **query)

    def go(self, tab: Any, page: str = "", **query: str) -> Any:
        """Another page in the same tab, by its address."""
        tab.goto(f"{self.address}/{page}" + (f"?{urlencode(query)}" if query else ""))
        return settled(tab)

    def _only_here(self, route: Any) -> None:
        url = route.request.url
        if url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(url)
            route.abort()


def settled(tab: Any) -> Any:
    """The tab, when its script is done and was not started again at once."""
    tab.wait_for_selector(IDLE)
    for _ in range(SECONDS * 10):
        tab.wait_for_timeout(100)
        if tab.locator(IDLE).count() and not tab.locator('[data-stale="true"]').count():
            return tab
    raise TimeoutError(f"{urlsplit(tab.url).path} was still drawing after {SECONDS} s")


@contextmanager
def running_app(runs: Path, *, log: Path) -> Iterator[RunningApp]:
    """`workbench app` on a free port, until the block ends."""
    command = [sys.executable, "-m", "apps", "app", "--no-browser", "--runs", str(runs)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            address = _address(process, log)
            yield RunningApp(address=address, process=process, log=log)
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

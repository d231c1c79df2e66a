"""Every page in a real browser, in light and in dark: it fits, can be read, and asks nobody.

Pictures of them are written to the folder that WORKBENCH_SCREENSHOTS names (`.screenshots` in the
current one by default), for people to look at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.web.shell import OURS
from apps.web.view import ordered
from tests.app.app_folder import FULL
from tests.app.browsing import RunningApp, settled
from tests.app.conftest import fill

SCREENSHOTS = "WORKBENCH_SCREENSHOTS"
NAMES = [name for name, _ in ordered()]


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def tab(
    browser: Any, served: RunningApp, filled_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """One tab for all pages: it reads the app's own scripts once."""
    fill(served, filled_folder)
    context = served.context(browser, dark=request.param)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_can_be_read_and_asks_nobody(name: str, tab: Any, served: RunningApp) -> None:
    """Text has a contrast of 4.5 : 1 (WCAG 2.2, 1.4.3); nothing is wider than the window."""
    served.begin()
    tab.set_viewport_size({"width": 1280, "height": 900})
    served.go(tab, "" if name == NAMES[0] else name, run=FULL)
    assert tab.locator("h1").first.inner_text()
    assert OURS not in tab.inner_text("body")
    main = tab.get_by_test_id("stMain")
    wide, room, tall = main.evaluate("x => [x.scrollWidth, x.clientWidth, x.scrollHeight]")
    assert wide <= room, f"{name} is {wide - room} pixels wider than its window"
    assert weak_texts(tab) == []
    tab.set_viewport_size({"width": 1280, "height": min(max(900, tall), 4000)})
    settled(tab)
    folder = Path(os.environ.get(SCREENSHOTS, ".screenshots"))
    folder.mkdir(exist_ok=True)
    dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    tab.screenshot(path=folder / f"{name}-{'dark' if dark else 'light'}.png")
    served.assert_quiet()
    assert served.said == [] and tab.evaluate("window.pwned === undefined")


@pytest.mark.parametrize("width", [1024, 390])
def test_numbers_of_neurons_are_whole_in_a_narrow_window(
    width: int, tab: Any, served: RunningApp
) -> None:
    """91 that is cut off to 9. would be another number."""
    served.begin()
    tab.set_viewport_size({"width": width, "height": 900})
    served.go(tab, "parts", run=FULL)
    numbers = tab.get_by_test_id("stGrid").locator("[class*='st-key-parts_n'] p")
    numbers.first.wait_for()
    assert numbers.evaluate_all(CUT) == []


def weak_texts(tab: Any) -> list[Any]:
    """Texts whose contrast is too weak, once colours rest: they change softly with a control."""
    weak: list[Any] = []
    for _ in range(20):
        weak = tab.evaluate(CONTRAST)
        if not weak:
            break
        tab.wait_for_timeout(250)
    return weak


CUT = """all => all.filter(text => {
  const right = x => x.getBoundingClientRect().right;
  for (let at = text; at.tagName !== 'LABEL'; at = at.parentElement)
    if (at.clientWidth && at.scrollWidth > at.clientWidth) return true;
  return right(text) > right(text.closest('label')) + 1;
}).map(text => text.innerText)"""
"""Texts of labels of which a part is cut off."""

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

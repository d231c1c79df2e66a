"""Charts in a real browser: what is clicked comes back, once; zoom stays; names run nothing."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.browsing import RunningApp, click_at, running, settled

HERE = Path(__file__).parent
QUIET = {
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
}


@pytest.fixture(scope="module")
def charts(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """Streamlit on a free port, with the script of `show_script`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--{name}={value}" for name, value in (QUIET | {"server.port": str(port)}).items()]
    script = ["streamlit", "run", str(HERE / "show_script.py"), *options]
    with running(script, log=tmp_path_factory.mktemp("show") / "log") as found:
        yield found


@pytest.fixture
def tab(browser: Any, charts: RunningApp) -> Iterator[Any]:
    """A new person's tab; at the end nothing was asked of others, and no script of names ran."""
    context = charts.context(browser)
    charts.begin()
    page = charts.visit(context)
    yield page
    assert page.locator("img[src='x']").count() == 0
    context.close()
    charts.assert_quiet()


def picture(tab: Any, key: str) -> Any:
    """The newest picture under a key, when it is drawn."""
    found = tab.locator(f"[class*='st-key-{key}_picture'] svg").last
    found.locator("path").first.wait_for(state="attached")
    found.scroll_into_view_if_needed()
    place = None
    while place != (place := settled(tab) and found.bounding_box()):
        tab.wait_for_timeout(250)  # until nothing above it grows any more
    return found


def centre(tab: Any, key: str, text: str, nth: int = 0) -> tuple[float, float]:
    """Where the middle of a text in a picture is, on the page."""
    box = picture(tab, key).get_by_text(text, exact=True).nth(nth).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def says(tab: Any, text: str) -> None:
    tab.get_by_text(text, exact=True).wait_for()


def times(tab: Any, name: str) -> int:
    said = tab.get_by_text(re.compile(f"^{name} drawn")).inner_text()
    return int(said.split()[2])


def click_cell(tab: Any, column: int, row: int) -> None:
    """Click the cell of a column and a row, at the crossing of their labels."""
    names = ["same", "same", "<img src=x onerror=alert(1)>{c}"]
    x, _ = centre(tab, "cell", names[column], names[:column].count(names[column]))
    _, y = centre(tab, "cell", f"r{row}")
    click_at(tab, x, y)


def test_a_cell_is_chosen_once_and_again_after_a_refresh(tab: Any) -> None:
    says(tab, "cell None")
    before = times(tab, "page")
    click_cell(tab, 1, 0)
    says(tab, "cell 1")
    settled(tab)
    assert times(tab, "page") == before + 1
    assert "cell=1" in tab.url
    tab.reload()
    says(tab, "cell 1")
    settled(tab)
    click_cell(tab, 1, 0)  # the one that is marked: not chosen any more
    says(tab, "cell None")
    assert "cell=" not in tab.url
    click_cell(tab, 2, 1)
    says(tab, "cell 5")


def test_a_caller_and_a_click_take_turns(tab: Any) -> None:
    click_cell(tab, 0, 0)
    says(tab, "cell 0")
    tab.get_by_role("button", name="Strongest").click()
    says(tab, "cell 5")
    settled(tab)
    click_cell(tab, 0, 1)
    says(tab, "cell 3")
    settled(tab)
    click_cell(tab, 1, 0)
    says(tab, "cell 1")


def test_names_are_text_below_the_pointer(tab: Any) -> None:
    x, _ = centre(tab, "cell", "<img src=x onerror=alert(1)>{c}")
    _, y = centre(tab, "cell", "r0")
    tab.mouse.move(x, y)
    tooltip = tab.get_by_text("effect (nats):").first
    tooltip.wait_for()
    assert "<img src=x onerror=alert(1)>{c}" in tab.locator("body").inner_text()


def on_edge(tab: Any) -> tuple[float, float]:
    """The middle of the straight edge: the second of three between the lower two nodes."""
    x, below = centre(tab, "part", "embed")
    _, above = centre(tab, "part", "<img src=x onerror=alert(1)>{\u200bc}")
    return x, (below + above) / 2


def test_nodes_and_edges_are_chosen_and_zoom_stays(tab: Any) -> None:
    x, y = centre(tab, "part", "embed")
    click_at(tab, x, y)
    says(tab, "part 0")
    settled(tab)
    tab.mouse.move(x + 200, y - 100)
    tab.wait_for_timeout(1500)  # the wheel is the page's until the pointer rests
    tab.mouse.wheel(0, -300)
    tab.wait_for_timeout(1000)
    zoomed = centre(tab, "part", "embed")
    assert zoomed[0] != x
    click_at(tab, *on_edge(tab))
    says(tab, "part 4")  # after three nodes
    settled(tab)
    assert centre(tab, "part", "embed") == zoomed
    tab.reload()
    says(tab, "part 4")


def test_a_map_of_a_gallery_draws_only_its_fragment(tab: Any) -> None:
    whole, part = times(tab, "page"), times(tab, "fragment")
    x, y = centre(tab, "map", "neuron 7")
    click_at(tab, x, y + 60)
    says(tab, "map 7")
    settled(tab)
    assert (times(tab, "page"), times(tab, "fragment")) == (whole, part + 1)
    assert "map=7" in tab.url


def test_the_keyboard_alone_chooses_a_row(tab: Any) -> None:
    tab.locator(".st-key-row_table canvas").first.focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Shift+Space")
    tab.get_by_text(re.compile(r"^row [012]$")).wait_for()
    settled(tab)
    first = int(tab.get_by_text(re.compile(r"^row [012]$")).inner_text().split()[1])
    assert f"row={first}" in tab.url


def test_a_table_is_drawn_when_it_is_unfolded(tab: Any) -> None:
    table = tab.locator(".st-key-cell_table canvas")
    assert table.count() == 0
    tab.locator(".st-key-cell_folder summary").click()
    table.first.wait_for()


def test_a_picture_is_downloaded_when_it_is_asked_for(tab: Any) -> None:
    tab.get_by_role("button", name="Export").first.click()
    with tab.expect_download() as waiting:
        tab.get_by_test_id("stPopoverBody").get_by_role("button", name="SVG").click()
    assert waiting.value.suggested_filename == "effects.svg"
    assert "<svg" in Path(waiting.value.path()).read_text()

"""What only a browser shows of the Trace page: what stands on it while it is still computing."""

from pathlib import Path
from typing import Any

from tests.app.app_folder import FULL
from tests.app.browsing import IDLE, chromium, running_app, settled

JUDGED = '.st-key-trace_numbers, [data-testid="stMain"] [data-testid="stAlert"]'
"""The verdict and the numbers beside it."""
EDGES = '[data-testid="stMetricValue"]'
SAID = f"""() => [document.querySelector('{EDGES}')?.innerText,
    document.querySelectorAll(`{JUDGED}`).length]"""


def test_a_verdict_never_stands_beside_another_circuit(app_folder: Path, tmp_path: Path) -> None:
    # Judging takes seconds, in which the verdict on the circuit before must be gone.
    with (
        running_app(app_folder / "runs", log=tmp_path / "log") as app,
        chromium("what the Trace page shows while it judges") as browser,
    ):
        context = app.context(browser)
        tab = app.visit(context, "trace", run=FULL, trace_section="Circuit", trace_pairs="128")
        tab.locator(".st-key-trace_find button").click()
        tab.wait_for_selector(JUDGED)
        settled(tab)
        edges, shown = tab.evaluate(SAID)
        assert shown
        tab.get_by_role("slider").last.focus()
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_function(f"before => ({SAID})()[0] !== before", arg=edges, polling=20)
        tab.wait_for_timeout(150)  # the picture comes in one piece with the numbers, or just after
        judging = not tab.locator(IDLE).count()
        _, beside = tab.evaluate(SAID)
        settled(tab)
        assert judging and beside == 0
        assert _verdict(tab)
        assert app.foreign == [] and app.complaints == []


def _verdict(tab: Any) -> str:
    return str(tab.locator('[data-testid="stMain"] [data-testid="stAlert"]').inner_text())

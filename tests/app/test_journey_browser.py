"""One person's way through the app, in a real browser: from no network to a finding that holds."""

import re
from pathlib import Path
from typing import Any

from apps.web.view import ordered
from circuits.analyses.patching import PatchingAnalysis, sweep_of
from tests.app.app_folder import FULL
from tests.app.browsing import RunningApp, click_at, settled
from workbench.analysis import record_steps
from workbench.progress import finish
from workbench.run import list_runs, open_run

LONG = 120_000
"""Milliseconds that a training or a replay may take on a busy machine."""


def test_from_nothing_to_a_finding_that_holds_elsewhere(
    app: RunningApp, browser: Any, tmp_path: Path
) -> None:
    """Train, refresh, trace, build, prune, undo, keep, save, open elsewhere, replay: holds."""
    context = app.context(browser)
    tab = app.visit(context, "train", train_p="23")
    train_while_refreshing(tab)
    name = next(path.name for path in app.folder.iterdir() if path.name[0] != ".")
    app.go(tab, "trace", run=name)
    click_strongest(tab, app.folder / name)
    tab.get_by_role("button", name=re.compile("^Add .* to the circuit$")).click()
    settled(tab)
    build_prune_and_undo(tab)
    tab.get_by_role("button", name="Keep this finding").click()
    tab.get_by_text(re.compile("is kept")).first.wait_for()
    saved = save_session(app, tab, name, tmp_path)
    other = app.context(browser)
    page = app.visit(other, "findings")
    page.get_by_role("radio", name="Open a session").click()
    page.locator("input[type=file]").set_input_files(saved)
    page.get_by_role("button", name="Replay it here").click(timeout=LONG)
    page.get_by_text(re.compile("^Every record holds: 1 finding")).wait_for(timeout=LONG)
    assert page.get_by_text("drifted").count() == 0
    other.close()
    context.close()


def train_while_refreshing(tab: Any) -> None:
    """Press Train, refresh as it goes, and wait for its end."""
    tab.get_by_role("button", name="Train", exact=True).click()
    tab.wait_for_url(re.compile("train_job="))
    cancel = tab.get_by_role("button", name="Cancel")
    cancel.first.wait_for()
    for _ in range(3):
        tab.wait_for_timeout(300)
        tab.reload()
        settled(tab)
        assert "train_job=" in tab.url
    tab.get_by_text(re.compile(r"^done\b", re.I)).first.wait_for(timeout=LONG)
    settled(tab)


def click_strongest(tab: Any, run: Path) -> None:
    """Click the cell that the library says is strongest, and see its panel."""
    question = PatchingAnalysis(site="head", by=("position",), direction="denoising")
    import torch

    recorded = finish(record_steps(question, open_run(run), step=None, device=torch.device("cpu")))
    means = sweep_of(*recorded).mean[0]  # [head, position] of the only layer
    head, position = divmod(int(means.abs().argmax()), means.shape[1])
    picture = tab.locator("[class*='st-key-trace_cell_picture'] svg").last
    picture.scroll_into_view_if_needed()
    row = picture.get_by_text(f"0.{head}", exact=True).bounding_box()
    column = picture.get_by_text(re.compile(f"^{position} ")).bounding_box()
    click_at(tab, column["x"] + column["width"] / 2, row["y"] + row["height"] / 2)
    tab.wait_for_url(re.compile("trace_cell="))
    settled(tab)
    tab.get_by_text(re.compile(f"[Hh]ead 0.{head} at position {position}")).first.wait_for()


def build_prune_and_undo(tab: Any) -> None:
    """In the Circuit section: the part is there; take a found circuit, prune it, and undo that."""
    tab.get_by_role("radio", name="Circuit", exact=True).click()
    by_hand = edges(tab)
    assert by_hand > 0
    find = tab.get_by_role("button", name="Find", exact=True)
    if not find.is_visible():  # folded, as there is a circuit already
        tab.get_by_text(re.compile("Start from another circuit")).first.click()
    find.click()
    found = edges(tab, other_than=by_hand)
    tab.get_by_role("slider", name="Edges of the highest score").focus()
    tab.keyboard.press("ArrowLeft")  # one edge fewer, by keyboard
    pruned = edges(tab, other_than=found)
    assert pruned < found
    tab.get_by_role("button", name="Undo").click()
    assert edges(tab, other_than=pruned) == found
    tab.get_by_role("button", name="Undo").click()
    assert edges(tab, other_than=found) == by_hand
    tab.get_by_role("button", name="Redo").click()
    assert edges(tab, other_than=by_hand) == found
    tab.get_by_role("button", name="Redo").click()
    assert edges(tab, other_than=found) == pruned


def edges(tab: Any, other_than: int | None = None) -> int:
    """How many edges the circuit on the page has, once that is another number."""
    shown = tab.get_by_test_id("stMetric").filter(has_text=re.compile("^Edges"))
    for _ in range(600):
        text = re.search(r"\d+", shown.first.inner_text()) if shown.count() else None
        if text and int(text[0]) != other_than:
            return int(text[0])
        tab.wait_for_timeout(100)
    raise AssertionError(f"the circuit still has {other_than} edges")


def save_session(app: RunningApp, tab: Any, run: str, folder: Path) -> Path:
    """Download the session of a run."""
    app.go(tab, "findings", run=run)
    with tab.expect_download(timeout=LONG) as download:
        tab.get_by_role("button", name=re.compile("^Save as a session")).click()
    saved = folder / "saved.workbench"
    download.value.save_as(saved)
    return saved


def test_every_page_can_be_reached_and_used_by_keyboard(full_app: RunningApp, browser: Any) -> None:
    """Tab and Enter alone lead through the menu and into every control; arrows turn sections."""
    context = full_app.context(browser)
    tab = full_app.visit(context, "network", run=FULL)
    for name, view in ordered():
        focus(tab, "link", view.title)
        tab.keyboard.press("Enter")
        tab.get_by_role("heading", name=view.title, exact=True).wait_for()
        settled(tab)
        assert never_reached(tab) == [], name
    full_app.go(tab, "trace", run=FULL)
    focus(tab, "radio", "Effects")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Space")
    tab.get_by_role("button", name="Undo").wait_for()
    assert tab.get_by_role("radio", name="Circuit", exact=True).is_checked()
    context.close()


def focus(tab: Any, role: str, name: str) -> None:
    """Press Tab until a control has the focus."""
    wanted = tab.get_by_role(role, name=name, exact=True).first
    for _ in range(200):
        if wanted.evaluate("node => node === document.activeElement"):
            return
        tab.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {name}")


CONTROLS = """() => [...document.querySelectorAll('[data-testid=stMain] :is(button, input,'
    + ' textarea, [role=combobox], [role=slider], a[href])')].filter((one) =>
    !one.disabled && one.tabIndex >= 0 && one.checkVisibility({opacityProperty: true,
    visibilityProperty: true, contentVisibilityAuto: true})
    && !one.closest('[data-testid=stButtonGroup], [data-testid=stElementToolbar]'))"""
"""Controls that can be seen and are not switched off. Of a group one takes the focus, and
arrows lead to the others; a table's own tools appear when it has the focus."""


def never_reached(tab: Any) -> list[str]:
    """Controls of the page that do not take the focus, one Tab after another."""
    tab.evaluate(
        """() => { document.activeElement.blur(); window.reached = new Set();
            document.addEventListener('focusin', (event) => window.reached.add(event.target)) }"""
    )
    found: list[str] = []
    for _ in range(10):
        for _ in range(25):
            tab.keyboard.press("Tab")
        found = tab.evaluate(
            f"""() => ({CONTROLS})().filter((one) => !window.reached.has(one)).map(
                (one) => one.outerHTML.slice(0, 200))"""
        )
        if not found:
            break
    return found


def test_runs_of_one_person_are_there_for_another(full_app: RunningApp, browser: Any) -> None:
    """Two people look at two networks at once; neither moves the other's page."""
    people = [full_app.context(browser) for _ in range(2)]
    tabs = [
        full_app.visit(one, "network", run=run)
        for one, run in zip(people, (FULL, "imported"), strict=True)
    ]
    texts = [tab.get_by_test_id("stMain").inner_text() for tab in tabs]
    assert "p23" in texts[0] and "p11" in texts[1]
    full_app.go(tabs[1], "trace", run="imported")
    assert tabs[0].get_by_test_id("stMain").inner_text() == texts[0]
    assert len(list(list_runs(full_app.folder))) == 3
    for one in people:
        one.close()

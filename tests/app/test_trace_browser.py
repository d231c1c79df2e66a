"""What only a browser shows of the Trace page: what stands on it while it is still computing, a
file that is uploaded, and nodes that are grouped."""

import json
import re
from typing import Any

from circuits.circuit import circuit_of
from circuits.graph import Graph
from circuits.neuronpedia import to_neuronpedia
from tests.app.app_folder import FULL
from tests.app.browsing import IDLE, RunningApp, click_at, settled
from workbench.run import Run, open_run
from workbench.session.schema import Marks

JUDGED = '.st-key-trace_numbers, [data-testid="stMain"] [data-testid="stAlert"]'
"""The verdict and the numbers beside it."""
EDGES = '[data-testid="stMetricValue"]'
SAID = f"""() => [document.querySelector('{EDGES}')?.innerText,
    document.querySelectorAll(`{JUDGED}`).length]"""


def test_a_verdict_never_stands_beside_another_circuit(full_app: RunningApp, browser: Any) -> None:
    # Judging takes seconds, in which the verdict on the circuit before must be gone.
    context = full_app.context(browser)
    tab = full_app.visit(context, "trace", run=FULL, trace_section="Circuit", trace_pairs="128")
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
    assert tab.locator('[data-testid="stMain"] [data-testid="stAlert"]').inner_text()
    context.close()


def test_a_graph_of_neuronpedia_is_taken_and_its_heads_become_one_node(
    full_app: RunningApp, browser: Any
) -> None:
    context = full_app.context(browser)
    tab = full_app.visit(
        context, "trace", run=FULL, trace_section="Circuit", trace_start="From a file"
    )
    data = json.dumps(graph_of(open_run(full_app.folder / FULL))).encode()
    file = {"name": "sum.json", "mimeType": "application/json", "buffer": data}
    tab.locator("input[type=file]").set_input_files(file)
    tab.get_by_role("button", name="Take its 5 edges").click()
    picture(tab).get_by_text("m0: adds").wait_for()  # labels come along
    assert number_of_edges(tab) == 5
    click_node(tab, "a0.h0")
    tab.get_by_role("button", name=re.compile("Group$")).click()
    tab.get_by_role("combobox", name="Draw a0.h0 as one with").fill("a0.h1")
    tab.keyboard.press("Enter")
    tab.get_by_label("Name of the group").fill("readers")
    tab.keyboard.press("Enter")
    tab.get_by_role("button", name="Make group").click()
    picture(tab).get_by_text("readers").wait_for()
    settled(tab)
    assert picture(tab).get_by_text(re.compile(r"^a0\.h\d$")).count() == 0
    assert number_of_edges(tab) == 5  # drawn as one, not cut
    tab.get_by_role("button", name="Undo").click()
    picture(tab).get_by_text("a0.h1", exact=True).wait_for()
    context.close()


def graph_of(run: Run) -> dict[str, Any]:
    """Both heads into the MLP and on to the answer, as Neuronpedia's viewer would save it."""
    heads = ("a0.h0", "a0.h1")
    edges = [f"embed->{one}<v>" for one in heads] + [f"{one}->m0" for one in heads]
    circuit = circuit_of(Graph(run.config.model), [*edges, "m0->logits"])
    example, marks = run.task.parse("2 + 3 ="), Marks(labels={"m0": "adds"})
    return to_neuronpedia(circuit, None, task=run.task, example=example, slug="sum", marks=marks)


def picture(tab: Any) -> Any:
    return tab.locator("[class*='st-key-trace_part_picture'] svg").last


def number_of_edges(tab: Any) -> int:
    return int(tab.locator(EDGES).first.inner_text())


def click_node(tab: Any, name: str) -> None:
    """Click a node of the picture, once it stands still."""
    node = picture(tab).get_by_text(name, exact=True)
    node.scroll_into_view_if_needed()
    place = None
    while place != (place := settled(tab) and node.bounding_box()):
        tab.wait_for_timeout(250)
    click_at(tab, place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.wait_for_url(re.compile("trace_part="))
    settled(tab)

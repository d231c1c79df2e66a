"""The app, measured in Chromium: start, clicks on a p = 113 network, a large graph, ten people.

    python -m tests.bench.app [--rounds 15] [--only clicks]

A click's time begins as the page sees the button or the key go down, and ends with the last change
that it causes: of the document, or of a canvas that is drawn on. *picture* is the last change of a
picture, *all* of anything, so that a number that is computed after the picture (a percentile among
random circuits) shows in the second alone.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.app.browsing import RunningApp, chromium, running_app, settled

P = 113
WATCH = """() => {
  if (window.watching) return;
  window.watching = true; window.pictureAt = 0; window.changedAt = 0;
  const now = () => performance.now();
  for (const kind of ['pointerdown', 'keydown'])
    document.addEventListener(kind, () => { window.clickedAt = now() }, {capture: true});
  const isPicture = (node) => {
    const one = node.nodeType === 1 ? node : node.parentElement;
    return !!(one && one.closest('[data-testid="stEChartsChart"], [data-testid="stImage"]'));
  };
  new MutationObserver((changes) => {
    for (const change of changes) {
      window.changedAt = now();
      if (isPicture(change.target)) window.pictureAt = now();
    }
  }).observe(document.querySelector('[data-testid="stMain"]'),
             {subtree: true, childList: true, characterData: true});
  for (const name of ['fillRect', 'fill', 'stroke', 'drawImage', 'clearRect', 'fillText']) {
    const draw = CanvasRenderingContext2D.prototype[name];
    CanvasRenderingContext2D.prototype[name] = function (...given) {
      if (this.canvas.closest('[data-testid="stEChartsChart"]'))
        window.pictureAt = window.changedAt = now();
      return draw.apply(this, given);
    };
  }
}"""
AT_ONCE = 50
"""Milliseconds before which nothing comes from the server: the browser marks what is clicked. Where
no picture changes later, the page's last change counts in its place."""
QUIET = 600
"""Milliseconds without a change after which a click has had its effect."""


def milliseconds(tab: Any, click: Callable[[], None]) -> tuple[float, float]:
    """From a click to the last change of a picture, and of anything."""
    tab.evaluate(WATCH)
    quiet(tab)
    tab.evaluate("() => { window.pictureAt = window.changedAt = 0 }")
    click()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        tab.wait_for_timeout(50)
        changed, now = tab.evaluate("() => [window.changedAt, performance.now()]")
        if changed and now - changed > QUIET and settled_now(tab):
            break
    else:
        raise TimeoutError("a click that changed nothing")
    picture, changed, clicked = tab.evaluate(
        "() => [window.pictureAt, window.changedAt, window.clickedAt]"
    )
    return max(picture - clicked, 0.0), max(changed - clicked, 0.0)


def settled_now(tab: Any) -> bool:
    """Whether the script is done."""
    return bool(tab.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').count())


def start(runs: Path, browser: Any, folder: Path, rounds: int) -> list[float]:
    """Seconds from `import torch` to the first usable page."""
    script = (
        "import sys, time, torch; print('torch', time.time(), flush=True)\n"
        "from pathlib import Path; from apps.app import serve\n"
        "serve(Path(sys.argv[1]), port=int(sys.argv[2]), browser=False)"
    )
    found = []
    for i in range(rounds):
        port = 8760 + i
        command = [sys.executable, "-c", script, str(runs), str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        began = float(process.stdout.readline().split()[1])
        tab = browser.new_page()
        while True:
            try:
                tab.goto(f"http://127.0.0.1:{port}/")
                break
            except Exception:  # not listening yet
                time.sleep(0.05)
        tab.wait_for_selector('[data-testid="stHeading"], h1')
        settled(tab)
        found.append(time.time() - began - 0.1)  # `settled` looks every tenth of a second
        tab.close()
        process.kill()
        process.wait()
    return found


Click = tuple[str, str, dict[str, str], Callable[[Any, int], None]]
"""What is clicked, on which page, at which address, and the click (of a round)."""


def cell(key: str, columns: int, rows: int) -> Callable[[Any, int], None]:
    """Clicks another cell of a heat map in every round."""

    def click(tab: Any, round: int) -> None:
        drawn = tab.locator(f"[class*='st-key-{key}'] :is(svg[width], canvas)").last
        area = plot_area(drawn.bounding_box(), columns, rows, round)
        tab.mouse.click(*area)

    return click


def plot_area(box: dict[str, float], columns: int, rows: int, round: int) -> tuple[float, float]:
    """A point inside another cell each round, of the middle part of the picture."""
    column, row = round * 7 % columns, round * 5 % rows
    return (
        box["x"] + box["width"] * (0.3 + 0.3 * (column + 0.5) / columns),
        box["y"] + box["height"] * (0.1 + 0.65 * (row + 0.5) / rows),
    )


def turned(label: str) -> Callable[[Any, int], None]:
    """Presses a switch."""
    return lambda tab, round: tab.get_by_text(label, exact=True).first.click()


def alternated(*labels: str) -> Callable[[Any, int], None]:
    """Presses one of several choices after another."""

    def click(tab: Any, round: int) -> None:
        tab.get_by_role("radio", name=labels[round % len(labels)], exact=True).first.click()

    return click


def pressed(*labels: str) -> Callable[[Any, int], None]:
    """Presses one of several buttons after another."""

    def click(tab: Any, round: int) -> None:
        tab.get_by_role("button", name=labels[round % len(labels)], exact=True).click()

    return click


def slid(label: str) -> Callable[[Any, int], None]:
    """Moves a slider by one, down and up again."""

    def click(tab: Any, round: int) -> None:
        tab.get_by_role("slider", name=label).first.focus()
        tab.keyboard.press("ArrowLeft" if round % 2 == 0 else "ArrowRight")

    return click


CLICKS: tuple[Click, ...] = (
    ("an input on the map", "network", {}, cell("network_map_picture", P, P)),
    ("another checkpoint", "network", {}, slid("Checkpoint")),
    ("right or wrong, margin", "network", {}, alternated("margin", "right or wrong")),
    ("attention, logit lens", "network", {}, alternated("Attention", "Logit lens")),
    ("a head x position cell", "trace", {}, cell("trace_cell_picture", 3, 4)),
    ("a sweep of heads, by position or not", "trace", {}, turned("By position")),
    ("circuit: one edge fewer", "trace", {"circuit": "1"}, slid("Edges of the highest score")),
    ("all but the named planes, all", "parts", {}, pressed("Without the named planes", "All on")),
    ("right answers, as predicted", "parts", {}, alternated("As predicted", "Right answers")),
    ("a cell of a probe's map", "probes", {}, cell("probes_cell_answer_picture", 3, 3)),
)


def clicks(
    app: RunningApp, browser: Any, run: str, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of every click, by what is clicked; each was made once before."""
    found = {}
    for name, page, query, click in CLICKS:
        context = app.context(browser)
        tab = app.visit(
            context, page, run=run, **{k: v for k, v in query.items() if k != "circuit"}
        )
        if "circuit" in query:
            tab.get_by_role("radio", name="Circuit", exact=True).click()
            tab.get_by_role("button", name="Find", exact=True).click()
            tab.wait_for_timeout(5000)
        tab.wait_for_timeout(1500)
        found[name] = [milliseconds(tab, partial(click, tab, i)) for i in range(rounds + 1)][1:]
        context.close()
        print(
            name, [f"{picture:.0f}/{changed:.0f}" for picture, changed in found[name]], flush=True
        )
    return found


def large_graph(browser: Any, folder: Path, rounds: int) -> list[float]:
    """Seconds from the address to a drawn graph of 500 nodes and 3,000 edges."""
    script = folder / "graph.py"
    script.write_text(GRAPH)
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless", "true"]
    command += ["--server.port", "8799", "--server.address", "127.0.0.1"]
    command += ["--browser.gatherUsageStats", "false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = []
    try:
        for _ in range(rounds + 1):
            tab = browser.new_page()
            tab.add_init_script(DRAWN)
            while True:
                try:
                    began = time.time()
                    tab.goto("http://127.0.0.1:8799/")
                    break
                except Exception:  # not listening yet
                    time.sleep(0.1)
            tab.locator('[data-testid="stEChartsChart"] canvas').first.wait_for()
            settled(tab)
            tab.wait_for_timeout(3000)
            found.append(tab.evaluate("() => window.drawnAt") / 1000 - began)
            tab.close()
    finally:
        process.kill()
        process.wait()
    return found[1:]  # the first also imports


GRAPH = """
import random
from apps.web.charts.chart import CircuitGraph, GraphEdge, GraphNode
from apps.web.charts.show import show
draw = random.Random(0)
nodes = tuple(
    GraphNode(name=f"a{i // 25}.h{i % 25}", label=f"a{i // 25}.h{i % 25}", kind="head",
              x=i % 25, y=i // 25) for i in range(500))
pairs = set()
while len(pairs) < 3000:
    a, b = sorted(draw.sample(range(500), 2))
    if a // 25 < b // 25:
        pairs.add((a, b))
edges = tuple(
    GraphEdge(name=f"{nodes[a].name}->{nodes[b].name}", writer=nodes[a].name,
              reader=nodes[b].name, score=draw.gauss(0, 1)) for a, b in sorted(pairs))
show(CircuitGraph(name="large", alt="500 nodes", nodes=nodes, edges=edges, measure="score"),
     key="large", select=True, height=700)
"""


DRAWN = """for (const name of ['fill', 'stroke']) {
  const draw = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...given) {
    window.drawnAt = performance.timeOrigin + performance.now();
    return draw.apply(this, given);
  };
}"""
"""Notes when a canvas was last drawn on, in milliseconds of the clock."""


def quiet(tab: Any) -> None:
    """Wait until nothing has changed for a while."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        tab.wait_for_timeout(50)
        changed, now = tab.evaluate("() => [window.changedAt, performance.now()]")
        if now - changed > QUIET and settled_now(tab):
            return


def ten_people(app: RunningApp, browser: Any, runs: list[str], seconds: float) -> dict[str, Any]:
    """Ten sessions at once, each going from page to page: errors, and the server's memory."""
    tabs = [(app.context(browser), run) for run in (runs * 10)[:10]]
    pages = [app.visit(context, "network", run=run) for context, run in tabs]
    before, most, errors, visits = memory(app.process.pid), 0.0, 0, 0
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for k, tab in enumerate(pages):  # all are sent on their way, and then looked at
            name = ("network", "trace", "parts", "probes", "findings")[(i + k) % 5]
            tab.goto(f"{app.address}/{name}?run={tabs[k][1]}", wait_until="commit")
        for tab in pages:
            settled(tab)
            visits += 1
            errors += tab.locator('[data-testid="stAlertContentError"]').count()
        most, i = max(most, memory(app.process.pid)), i + 1
    for context, _ in tabs:
        context.close()
    time.sleep(3)
    return {
        "pages drawn": visits,
        "errors": errors + len(app.complaints) + app.log.read_text().count("Traceback"),
        "MB before": round(before),
        "MB at most": round(most),
        "MB after": round(memory(app.process.pid)),
    }


def memory(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def prepare(folder: Path) -> list[str]:
    """A p = 113 network with a record of three kinds, and a p = 23 one."""
    from circuits.analyses.mechanism import MechanismAnalysis
    from circuits.analyses.patching import PatchingAnalysis
    from probes.analyses.probe import ProbeAnalysis
    from workbench.records import ask
    from workbench.task import make_task
    from workbench.training import train

    names = []
    for p in (P, 23):
        task = make_task("modular_addition", {"p": p})
        run = train(task, seeds=[0], runs=folder)[0].run
        for analysis in (
            MechanismAnalysis(),
            PatchingAnalysis(site="head", by=("position",), direction="denoising"),
            ProbeAnalysis(variables=("answer",)),
        ):
            ask(run, analysis)
        names.append(run.path.name)
    return names


def told(console: Console, found: dict[str, list[tuple[float, float]]]) -> None:
    """The table of clicks."""
    table = Table("click", "picture, median", "95 %", "all, median", "95 %", title="milliseconds")
    pictures = [
        picture if picture > AT_ONCE else everything
        for times in found.values()
        for picture, everything in times
    ]
    for name, times in (*found.items(), ("all of these", [(x, 0.0) for x in pictures])):
        columns = list(zip(*times, strict=True))
        numbers = [f(column) for column in columns for f in (statistics.median, high)]
        table.add_row(name, *(f"{number:.0f}" if number else "" for number in numbers))
    console.print(table)


def high(values: Any) -> float:
    """The 95th percentile."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))])


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=("start", "clicks", "graph", "people"))
    parser.add_argument("--runs", type=Path, help="runs made by an earlier call")
    asked = parser.parse_args()
    console, folder = Console(width=110), Path(tempfile.mkdtemp())
    runs = asked.runs or folder / "runs"
    runs.mkdir(exist_ok=True)
    names = prepare(runs)  # what is there already is not trained again
    console.print(f"runs in {runs}")
    wanted = {asked.only} if asked.only else {"start", "clicks", "graph", "people"}
    with chromium("the app's speed") as browser:
        if "start" in wanted:
            times = start(runs, browser, folder, 5)
            console.print(f"import torch to the first page: {spread(times)} s")
        if "graph" in wanted:
            console.print(
                f"500 nodes, 3,000 edges drawn: {spread(large_graph(browser, folder, 5))} s"
            )
        with running_app(runs, log=folder / "log") as app:
            if "clicks" in wanted:
                told(console, clicks(app, browser, names[0], asked.rounds))
            if "people" in wanted:
                console.print(ten_people(app, browser, names, 120))


def spread(times: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"


if __name__ == "__main__":
    main()

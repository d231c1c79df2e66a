"""A small session, whole and full of script, and what its pages are read with."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from circuits.analyses.circuit import CircuitAnalysis
from circuits.analyses.patching import PatchingAnalysis
from tests.app.test_report import Page, a_document, some_figures
from tests.unit.small_run import train
from workbench.analysis import arrays_of, made_with, record_steps
from workbench.progress import finish
from workbench.record import Record, record_id
from workbench.records import write_record
from workbench.run import Run, open_run
from workbench.session import Session, open_session, save_session
from workbench.session.schema import SessionDocument
from workbench.session.writing import write_archive

CPU = torch.device("cpu")
PAYLOADS = (
    "<script>window.pwned=1;alert(1)</script>",
    "<img src=x onerror=window.pwned=1>",
    "![](http://x.test/a.png) [x](javascript:window.pwned=1)",
    "</style><script>window.pwned=1</script>",
    "{{7*7}} ${7*7} <%= 7*7 %>",
    '" onload="window.pwned=1" x=\'',
    "' onmouseover='window.pwned=1",
    "</title></svg></td></textarea><svg onload=window.pwned=1>",
    '<svg><a xlink:href="javascript:window.pwned=1"><text>x</text></a></svg>',
    "--><iframe srcdoc='<script>parent.pwned=1</script>'>",
    '<meta http-equiv=refresh content="0;url=http://x.test/">',
    "<link rel=stylesheet href=http://x.test/s.css><style>@import 'http://x.test/i.css'</style>",
    "<form action=http://x.test/><input autofocus onfocus=window.pwned=1>",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#x3c;b>",
)
NOTE = "First line.\n\n\tIndented,  two spaces.\n# no heading, <b>no bold</b>"


def mechanism_record(run: Run, figures: dict[str, torch.Tensor]) -> Record:
    """An explanation as its analysis would leave it, with numbers that are easy to tell apart."""
    document = a_document()
    told = ("n_inputs", "exhaustive", "accuracy", "accuracy_interval", "held_out_accuracy")
    told += ("min_margin", "mechanism", "verdict", "reason", "key_frequencies", "parts")
    step = run.steps[-1]
    checkpoint = {"step": step, "weights_sha256": run.weights_sha256(step)}
    parameters = {"seed": 0, "n_draws": 20}
    data = {
        "id": record_id("mechanism", parameters, ()),
        "kind": "mechanism",
        "parameters": parameters,
        "checkpoints": [checkpoint],
        "result": {key: document[key] for key in told},
        "findings": document["findings"],
        "arrays": arrays_of(figures).model_dump(),
        "tolerances": {"*": {"absolute": 0.001, "relative": 0.002}},
        "made_with": made_with(CPU).model_dump(),
        "seconds": 1.25,
    }
    return Record.model_validate_json(json.dumps(data))


def small_session(folder: Path) -> Session:
    """A small network, swept, traced and explained, as somebody would send it."""
    train(folder / "run")
    run = open_run(folder / "run")
    figures = some_figures()
    write_record(run, mechanism_record(run, figures), figures)
    for analysis in (PatchingAnalysis(pairs=8), CircuitAnalysis(pairs=8, n_edges=12)):
        write_record(run, *finish(record_steps(analysis, run, step=None, device=CPU)))
    save_session(run, folder / "small.workbench", note=NOTE)
    return open_session(folder / "small.workbench")


def changed(session: Session, path: Path, change: Callable[[dict[str, Any]], None]) -> Session:
    """The session with another `session.json`: what somebody's own program might write."""
    document = json.loads(session.archive.document.model_dump_json())
    change(document)
    made = SessionDocument.model_validate_json(json.dumps(document))
    members = [(name, session.archive.read(name)) for name in made.member_paths()[1:]]
    versions = {**session.manifest.made_with, "torch": PAYLOADS[0]}
    write_archive(path, made, members, parent=None, made_with=versions)
    return open_session(path)


def texts(value: Any, keep: tuple[str, ...], seen: list[int]) -> Any:
    """JSON data with every text made hostile, but the values of some keys."""
    if isinstance(value, str):
        seen.append(0)
        return f"{PAYLOADS[len(seen) % len(PAYLOADS)]} <q>"  # a tag, whichever of them it is
    if isinstance(value, list):
        return [texts(one, keep, seen) for one in value]
    if isinstance(value, dict):
        return {k: v if k in keep else texts(v, keep, seen) for k, v in value.items()}
    return value


DRAWN = ("site", "axes", "edge_list", "direction", "ablation")
"""Without these a record is not drawn at all."""


def make_hostile(document: dict[str, Any], keep: tuple[str, ...]) -> None:
    """Every field that a stranger may write, with script in it."""
    seen: list[int] = []
    network, notebook = document["network"], document["notebook"]
    network["source"] = dict(zip(PAYLOADS, reversed(PAYLOADS), strict=True))
    network["recipe"] = texts(network["recipe"] | {"other": list(PAYLOADS)}, (), seen)
    network["task"] = network["task"] | {"p": PAYLOADS[7], "other": PAYLOADS[1]}
    if not keep:
        network["task"]["name"] = PAYLOADS[0]
    for record in document["records"]:
        record["parameters"] = texts(record["parameters"] | {"x": list(PAYLOADS)}, keep, seen)
        record["result"] = texts(record["result"] | {"position_names": ["x", "y"]}, keep, seen)
        record["findings"] = texts(record["findings"], ("verdict",), seen)
        for finding in record["findings"]:
            finding["details"][PAYLOADS[0]] = 0.5
        record["tolerances"] = {x: {"absolute": 0.1, "relative": 0.0} for x in PAYLOADS}
        record["made_with"] = texts(record["made_with"], (), seen)
    notebook["notes"] = [{"text": x, "created": "2026-11-20T18:53:06Z"} for x in PAYLOADS]
    nodes = ("embed", "a0.h0", "a0.h1", "m0", "logits")
    notebook["marks"] = {
        "labels": dict(zip(PAYLOADS, PAYLOADS, strict=True)) | dict(zip(nodes, PAYLOADS[5:])),  # noqa: B905
        "groups": [{"name": x, "nodes": [x]} for x in PAYLOADS],
        "positions": {PAYLOADS[0]: [0.0, 1e300]},
        "pinned": list(PAYLOADS),
    }
    notebook["view"] = {"widget": "HIDDEN VIEW STATE"}


def hostile_session(session: Session, path: Path, keep: tuple[str, ...] = DRAWN) -> Session:
    return changed(session, path, lambda document: make_hostile(document, keep))


def text_of(html: str) -> str:
    return " ".join(Page(html).text.split())


def parts(html: str) -> list[str]:
    """The section of each record."""
    found = re.split(r'<section id="record-\d+">', html)[1:]
    return [*found[:-1], found[-1].split('<section id="')[0]]


ATTRIBUTES = {
    **{"html": {"lang"}, "meta": {"charset", "http-equiv", "content", "name"}},
    **{"link": {"rel", "href"}, "a": {"href"}, "section": {"id"}, "p": {"class"}},
    **{"aside": {"class", "aria-label"}, "nav": {"aria-label"}, "span": {"class"}},
    **{"div": {"class"}, "table": {"class"}, "th": {"scope", "class"}, "td": {"class"}},
    **{"tr": {"class"}, "img": {"src", "alt"}, "source": {"media", "srcset"}, "g": set()},
    "svg": {"viewbox", "role", "aria-label", "width", "height"},
    "text": {"class", "x", "y"},
    "rect": {"class", "x", "y", "width", "height", "fill-opacity", "rx"},
    "path": {"class", "d", "stroke-width"},
    "line": {"class", "x1", "x2", "y1", "y2"},
    "circle": {"class", "cx", "cy", "r"},
}
PLAIN = {"head", "title", "style", "body", "main", "header", "h1", "h2", "h3", "h4", "strong"}
PLAIN |= {"dl", "dt", "dd", "code", "pre", "ul", "li", "small", "thead", "tbody", "details"}
PLAIN |= {"summary", "figure", "figcaption", "picture", "article", "br", "i", "sub", "g"}


def assert_inert(html: str) -> Page:
    """Only elements and attributes of ours, and no address but a place on the page."""
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag in ATTRIBUTES or tag in PLAIN, tag
        strange = set(attributes) - ATTRIBUTES.get(tag, set())
        assert not strange, (tag, strange)
        for name in ("src", "srcset"):
            assert re.match(r"data:image/png;base64,[\w+/=]+$", attributes.get(name) or PIXEL)
        if tag == "a":
            assert re.match(r"#[a-z0-9-]+$", attributes["href"] or "")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = {attributes["href"] for attributes in page.named("a")}
    assert targets <= {f"#{one}" for one in ids}
    assert [one["href"] for one in page.named("link")] == ["data:,"]
    assert html.count("<style>") == html.count("</style>") == 1
    assert "url(" not in html.split("</style>")[0] and "@import" not in html.split("</style>")[0]
    return page


PIXEL = "data:image/png;base64,AA=="

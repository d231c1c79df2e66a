"""The pictures on a session's page: grids, circuits, probes, levels across training."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.circuit_drawing import boxes_hit
from apps.session_page import session_page
from apps.session_page_drawing import _bend, circuit_graph, grid
from circuits.circuit import circuit_of
from circuits.graph import Graph
from probes.analyses.probe import row_of
from probes.summary import Line
from probes.training_times import AcrossTraining, Checkpoint, Level, Measure
from tests.app.small_session import (
    PAYLOADS,
    assert_inert,
    changed,
    parts,
    small_session,
    text_of,
)
from tests.app.test_circuit_drawing import CONFIG as TWO_LAYERS
from workbench.session import Session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return small_session(tmp_path_factory.mktemp("session"))


def test_a_cell_is_as_strong_as_its_value_and_written_out() -> None:
    values = torch.tensor([[2.0, -1.0], [0.0, torch.nan]])
    html = grid(values, ["L0", "L1"], ["0", "1"], label="x", signed=True)
    cells = re.findall(r'<rect class="cell (\w+)".*?fill-opacity="([\d.]+)"', html)
    assert cells == [("more", "0.500"), ("less", "0.250"), ("more", "0.000")]
    assert re.findall(r">([^<>]+)</text></g>", html) == ["2.00", "−1.00", "0.00"]
    assert "<title>L0, 1: −1.0000</title>" in html


def test_large_grids_are_pictures() -> None:
    html = grid(torch.ones(3, 500), list("abc"), list(map(str, range(500))), label="x", signed=True)
    assert "<svg" not in html and html.count("<img") == 2 and ">499</span>" in html


def test_edges_below_zero_are_dashed_and_dead_ends_dotted() -> None:
    graph = Graph(TWO_LAYERS)
    names = {"embed->m0": 2.0, "m0->logits": -1.0, "embed->a0.h0<v>": 0.5}
    values = torch.zeros(graph.is_edge.shape)
    for name, value in names.items():
        values[graph.index(name)] = value
    html = circuit_graph(
        circuit_of(graph, list(names)), values, label="x", names={"m0": "multiplies cosines at a"}
    )
    arrows = re.findall(r'<title>(.*?)</title><path class="(.*?)" stroke-width="([\d.]+)"', html)
    assert dict((told, (style, wide)) for told, style, wide in arrows) == {
        "embed to m0: 2.0000": ("edge more", "4.00"),
        "m0 to logits: −1.0000": ("edge less", "2.40"),
        "embed to a0.h0&lt;v&gt;: 0.5000, a dead end": ("edge more dead", "1.60"),
    }
    assert "<title>m0: multiplies cosines at a</title>" in html and ">multiplies cos…<" in html


def test_arrows_bend_around_boxes_as_in_the_other_drawing() -> None:
    places = {"m0": (0.0, 1.0)}
    assert _bend((0.0, 0.0), (0.0, 2.0), {}) == 0.0
    bend = _bend((0.0, 0.0), (0.0, 2.0), places)
    assert bend != 0.0 and boxes_hit((0.0, 0.0), (0.0, 2.0), bend, places) == 0
    crowd = {f"m{i}": (0.0, 1.0) for i in range(41)}
    assert _bend((0.0, 0.0), (0.0, 2.0), crowd) == 0.0


# ---------------------------------------------------------------------- probes


def a_line(**told: Any) -> Line:
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(Line))
    usual = {"variable": "a", "hook": "blocks.0.hook_resid_post", "position": 0, "probe": "ridge"}
    usual |= {"split": "grouped", "n": 200, "accuracy": 0.75, "low": 0.7, "high": 0.8}
    return Line(**(nothing | usual | told))


def replaced(session: Session, path: Path, kind: str, result: dict[str, Any]) -> Session:
    """The session with a record of another kind in place of its sweep."""

    def change(document: dict[str, Any]) -> None:
        record = next(one for one in document["records"] if one["kind"] == "patching")
        record |= {"kind": kind, "id": f"{kind}-0123456789abcdef", "arrays": None}
        record |= {"parameters": {"variables": ["a", "b"]}, "result": result}

    return changed(session, path, change)


def test_probes_are_maps_over_sites_and_positions(session: Session, tmp_path: Path) -> None:
    lines = [
        a_line(position=2, decodable=True, q=0.0125, control_accuracy=0.5, selectivity=0.25),
        a_line(hook="blocks.0.attn.hook_z", head=1, accuracy=0.125, selectivity=-0.0625),
    ]
    result = {"rows": [row_of(line) for line in lines], "columns": ["1", "29", "="]}
    html = session_page(replaced(session, tmp_path / "x.workbench", "probe", result))
    (part,) = (part for part in parts(html) if "<code>probe</code>" in part)
    text = text_of(html)
    assert "Probe, a, b" in text and "cannot be drawn" not in text
    told = [html for html in re.findall(r"<g><title>(.*?)</title>", part) if "blocks" in html]
    post, z = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z[1]"
    assert told == [
        *(f"{post}, 2 =: 0.7500, marked", f"{z}, 0 1: 0.1250"),
        *(f"{post}, 2 =: 0.2500", f"{z}, 0 1: −0.0625"),
    ]
    strong = re.findall(r'class="cell (\w+)"[^>]*fill-opacity="([\d.]+)"', part)
    assert strong == [("more", "0.375"), ("more", "0.062"), ("more", "0.500"), ("less", "0.125")]
    assert f"a {post} @2 0.7500 [0.7000, 0.8000] 200 0.0125 0.5000" in text


def level(value: float) -> Level:
    return Level(value=value, low=value - 0.01, high=value + 0.01, n=100)


def test_levels_across_training_stand_beside_the_hardest_control(
    session: Session, tmp_path: Path
) -> None:
    def checkpoint(step: int, value: float) -> Checkpoint:
        controls = {"relabelled": level(0.1), "untrained": level(0.2)}
        one = Measure(
            site="blocks.0.hook_resid_mid@2",
            kind="new_inputs",
            level=level(value),
            controls=controls,
            most=1.0,
        )
        return Checkpoint(
            step=step,
            accuracy=level(value),
            train_accuracy=None,
            held_out_accuracy=None,
            measures=(one,),
        )

    found = AcrossTraining(
        variable="a",
        n_classes=5,
        probe="ridge",
        sites=("blocks.0.hook_resid_mid@2",),
        kinds=("new_inputs",),
        rank=None,
        checkpoints=(checkpoint(0, 0.15), checkpoint(400, 0.95)),
    )
    path = tmp_path / "x.workbench"
    html = session_page(replaced(session, path, "probe_training", found.to_dict()))
    text = text_of(html)
    assert "cannot be drawn" not in text
    assert "a at blocks.0.hook_resid_mid@2, new inputs: holds from step 400" in text
    assert (
        "step 400, blocks.0.hook_resid_mid@2 , new inputs 0.9500 [0.9400, 0.9600] 100 0.2000"
        in (text)
    )


def test_texts_where_numbers_should_be_are_escaped(session: Session, tmp_path: Path) -> None:
    row = row_of(a_line()) | {"position": PAYLOADS[0], "accuracy": None}
    html = session_page(replaced(session, tmp_path / "x.workbench", "probe", {"rows": [row]}))
    assert_inert(html)

"""Circuits as files: taken from one, and exported."""

from pathlib import Path

import pytest
import torch

from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_keep import edges_csv, edges_json
from apps.web.trace.circuit_sources import circuit_in
from apps.web.trace.draft_files import ground_of
from circuits.circuit import circuit_of
from tests.app.app_folder import FULL
from tests.app.trace_circuits import (
    metric,
    page,
    said,
)
from workbench.errors import AppError, CircuitError, WorkbenchError


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def test_an_uploaded_edge_list_is_taken(app_folder: Path, network: Network) -> None:
    test = page(app_folder, trace_start="From a file")
    file = b'["m0->logits", "embed->m0"]'
    test.file_uploader(key="trace_file").upload("edges.json", file, "application/json").run()
    test.button(key="trace_take_file").click().run()
    assert metric(test, "Edges") == "2"
    test.file_uploader(key="trace_file").upload("edges.json", b'["m0"]', "application/json").run()
    assert "no edge 'm0'" in said(test) and metric(test, "Edges") == "2"


def test_exports_are_read_back(network: Network) -> None:
    ground = ground_of(network)
    circuit = circuit_of(ground.graph(3), ["embed->m0@2", "m0->logits@2"])
    scores = torch.zeros(circuit.member.shape)
    scores[circuit.graph.index("m0->logits@2")] = 0.25
    table = edges_csv(circuit, scores)
    assert table == b"edge,score\nembed->m0@2,0\nm0->logits@2,0.25\n"
    for name, data in (("x.csv", table), ("x.json", edges_json(circuit))):
        assert circuit_in(data, name, ground)[0].edges == circuit.edges


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.json", b"[", "not valid JSON"),
        ("x.json", b"[]", "holds no circuit"),
        ("x.json", b'["m0->logit"]', "did you mean 'm0->logits'"),
        ("x.json", b'["m0->logits@9"]', "no edge 'm0->logits@9'"),
        ("x.json", b'{"qParams": {}, "links": [], "nodes": []}', "metadata"),
        ("x.json", b'{"edges": ["m0->logits"], "edges": []}', "twice"),
        ("x.json", b" " * (8 * 2**20 + 1), "at most 8 MB"),
        ("x.csv", b"name\nm0->logits\n", "write a column edge"),
        ("x.csv", b"\xff\xfe", "write a column edge"),
        ("x.csv", b"edge\nm0->m0\n", "no edge 'm0->m0'"),
    ],
)
def test_a_hostile_upload_is_one_line(network: Network, name: str, data: bytes, said: str) -> None:
    with pytest.raises(WorkbenchError, match=said) as error:
        circuit_in(data, name, ground_of(network))
    text = str(error.value)
    assert (
        len(text.splitlines()) == 1
        and "/tmp" not in text
        and isinstance(error.value, AppError | CircuitError)
    )

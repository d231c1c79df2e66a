"""Labels of edges: in the picture, its table, the details, and in whatever is kept."""

import json
from pathlib import Path

import pytest

from apps.web.charts.echarts import option_of
from apps.web.charts.rows import table_of
from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_keep import neuronpedia_json
from apps.web.trace.circuit_picture import picture_of
from apps.web.trace.circuit_sources import circuit_in
from apps.web.trace.compare import edge_rows
from apps.web.trace.draft_files import DRAFTS, ground_of, read_draft
from apps.web.trace.draft_history import undone
from apps.web.trace.draft_operations import Clear, MakeGroup, Pin, Rename, Replace
from circuits.circuit import circuit_of
from tests.app.app_folder import FULL, unfolded
from tests.app.draft_ground import GROUND, after
from tests.app.trace_circuits import ASKED, address_of, draft_of, page, saved_draft
from workbench.errors import WorkbenchError
from workbench.records import read_notebook
from workbench.session import open_session, save_session, verify
from workbench.session.schema import Group, Marks

EDGES = ("embed->m0", "pos_embed->m0", "m0->logits")


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


# ---------------------------------------------------------------------- in a draft


def test_an_edge_is_labelled_and_the_label_taken_away() -> None:
    history = after(Replace(EDGES, None, "x"), Rename("m0->logits", " <b>says it</b> "))
    assert history.state.marks.labels == {"m0->logits": "<b>says it</b>"}
    assert history.to_undo == "label m0->logits"
    assert undone(history).state.marks.labels == {}
    cleared = after(Replace(EDGES, None, "x"), Rename("m0->logits", "a"), Clear())
    assert cleared.state.marks.labels == {"m0->logits": "a"}  # as nodes' labels do
    gone = after(Rename("m0->logits", "a"), Rename("m0->logits", " "))
    assert gone.state.marks.labels == {} and gone.to_undo == "unlabel m0->logits"


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        ((Rename("m0->logit", "a"),), "no edge 'm0->logit'"),
        ((Rename("m0->logits@2", "a"),), "no edge"),
        ((Replace((), 3, "x"), Rename("m0->logits@02", "a")), "no edge"),
        ((Rename("m0->logits", "x" * 201),), "at most 200"),
        ((Rename("m0->logits", "a\u202eb"),), "U\\+202E"),
        ((Pin("m0->logits"),), "no node"),
        ((MakeGroup("g", ("m0", "m0->logits")),), "no node"),
    ],
)
def test_a_label_that_cannot_be_is_refused(operations: tuple[Rename, ...], said: str) -> None:
    with pytest.raises(WorkbenchError, match=said) as error:
        after(*operations)
    assert len(str(error.value).splitlines()) == 1


def test_drafts_with_and_without_labels_of_edges_are_read(network: Network) -> None:
    saved = saved_draft(network, Replace(EDGES, None, "x"), Rename("m0->logits", "says it"))
    assert read_draft(network, saved.id or "") == saved
    path = network.run.path / DRAFTS / f"{saved.id}.json"
    file = json.loads(path.read_bytes())
    assert file["version"] == 1
    for step in file["history"]["done"]:  # as it was before edges could be labelled
        step["state"]["marks"]["labels"] = {"m0": "adds"}
    path.write_text(json.dumps(file))
    assert read_draft(network, saved.id or "").history.state.marks.labels == {"m0": "adds"}


# ---------------------------------------------------------------------- what is seen


def test_picture_and_table_tell_the_label() -> None:
    circuit = circuit_of(GROUND.graph(None), EDGES)
    marks = Marks(labels={"m0->logits": "says it", "m0": "adds"})
    picture = picture_of(circuit, None, marks, name="x", measure="edge", live=circuit)
    labels = {edge.name: edge.label for edge in picture.chart.edges}
    assert labels == {"embed->m0": "", "pos_embed->m0": "", "m0->logits": "says it"}
    row = picture.row("m0->logits")
    assert row is not None and table_of(picture.chart)["label"][row] == "says it"
    links = option_of(picture.chart, dark=False, select=True, chosen=None)["series"][0]["links"]
    assert "m0->logits: says it" in [link["value"][0] for link in links]
    at_positions = circuit_of(GROUND.graph(3), ["m0->logits@2", "embed->m0@1"])
    marks = Marks(labels={"m0->logits": "everywhere", "embed->m0@1": "here"})
    picture = picture_of(at_positions, None, marks, name="x", measure="edge", live=at_positions)
    labels = {edge.name: edge.label for edge in picture.chart.edges}
    assert labels == {"m0->logits@2": "everywhere", "embed->m0@1": "here"}


def test_a_line_of_several_edges_tells_all_their_labels_in_some_letters() -> None:
    edges = ("a0.h0->m0", "a0.h1->m0")
    circuit = circuit_of(GROUND.graph(None), edges)
    group = (Group(name="heads", nodes=("a0.h0", "a0.h1")),)
    marks = Marks(labels={"a0.h0->m0": "one", "a0.h1->m0": "two"}, groups=group)
    [line] = picture_of(circuit, None, marks, name="x", measure="edge", live=circuit).chart.edges
    assert (line.name, line.label) == ("heads->m0", "one; two")
    marks = Marks(labels=dict.fromkeys(edges, "y" * 200), groups=group)
    [line] = picture_of(circuit, None, marks, name="x", measure="edge", live=circuit).chart.edges
    assert line.label == f"{'y' * 199}…"


def test_an_edge_is_labelled_on_the_page_and_stays_chosen(
    app_folder: Path, network: Network
) -> None:
    draft = saved_draft(network, Replace(EDGES, None, "x"))
    circuit = ground_of(network).circuit(draft.history.state)
    picture = picture_of(circuit, None, Marks(), name="x", measure="edge", live=circuit)
    row = picture.row("m0->logits")
    test = page(app_folder, trace_draft=draft.id or "", trace_part=str(row))
    test.text_input(key="trace_label_m0->logits").set_value("<b>says</b> it").run()
    assert draft_of(test, network).history.state.marks.labels == {"m0->logits": "<b>says</b> it"}
    assert address_of(test, "trace_part") == str(row)
    shown = [one.value for one in test.markdown]
    assert not any("<b>" in one for one in shown)  # escaped
    assert "**m0->logits**: <b>says</b> it" in " ".join(shown).replace("\\", "")
    [table] = [one.value for one in unfolded(test, "trace_part").dataframe if "part" in one.value]
    assert table["label"][row] == "<b>says</b> it"
    test.button(key="trace_undo").click().run()
    assert draft_of(test, network).history.state.marks.labels == {}


def test_compared_edges_have_their_labels(network: Network) -> None:
    graph = ground_of(network).graph(None)
    left, right = circuit_of(graph, EDGES[:2]), circuit_of(graph, EDGES[1:])
    rows = edge_rows(left, right, {"m0->logits": "says it"})
    assert [row["label"] for row in rows if row["edge"] == "m0->logits"] == ["says it"]
    assert {row["label"] for row in rows if row["edge"] != "m0->logits"} == {""}
    assert all("label" not in row for row in edge_rows(left, right, {"m0": "adds"}))


# ---------------------------------------------------------------------- what is kept


def test_labels_of_edges_go_into_a_session_that_verifies(
    app_folder: Path, network: Network
) -> None:
    labels = {"m0": "adds", "m0->logits": "says it"}
    draft = saved_draft(network, Replace(EDGES, None, "x", marks=Marks(labels=labels)))
    test = page(app_folder, trace_draft=draft.id or "")
    test.button(key="trace_keep").click().run()
    assert read_notebook(network.run).marks.labels == labels
    path = app_folder / "labelled.workbench"
    save_session(network.run, path)
    verify(path)  # raises where something does not hold
    assert open_session(path).notebook.marks.labels == labels


def test_a_neuronpedia_graph_brings_labels_of_edges_back(network: Network) -> None:
    marks = Marks(labels={"m0->logits": "says it", "m0": "adds"})
    state = saved_draft(network, Replace(EDGES, None, "x", marks=marks)).history.state
    scores = ground_of(network).graph(None).is_edge.float()
    data = neuronpedia_json(network, ASKED, state, scores)
    circuit, read = circuit_in(data, "x.json", ground_of(network))
    assert set(circuit.edges) == set(EDGES) and read is not None and read.labels == marks.labels

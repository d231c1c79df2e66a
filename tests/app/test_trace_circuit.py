"""The Trace page's Circuit and Compare sections, as a person uses them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from apps.web.choice import Network, find_run, network_of, subject
from apps.web.shell import OURS
from apps.web.trace.circuit import number_rows, sizes_up_to
from apps.web.trace.circuit_keep import edges_csv, edges_json
from apps.web.trace.circuit_numbers import (
    AskedQuestion,
    Edges,
    edges_of,
    effect_of,
    evaluation_of,
    faithfulness_of,
    judged,
    pairs_of,
    scores_of,
    without,
)
from apps.web.trace.circuit_picture import picture_of, places_of
from apps.web.trace.circuit_sources import circuit_in
from apps.web.trace.compare import edge_rows
from apps.web.trace.draft_files import DRAFTS, Draft, ground_of, read_draft, write_draft
from apps.web.trace.draft_history import State, begin, bits_of, did
from apps.web.trace.draft_operations import AddEdge, Clear, Replace
from circuits.circuit import Circuit, circuit_of
from circuits.evaluate import evaluate
from circuits.method import methods
from circuits.problem import make_problem
from circuits.tracing import pairs_to_find_and_judge
from tests.app.app_folder import FRESH, FULL, opened
from workbench.errors import AppError, CircuitError, WorkbenchError
from workbench.progress import finish
from workbench.records import ask, read_notebook, read_records
from workbench.session.schema import Group, Marks

ASKED = AskedQuestion(
    metric="logit_difference",
    ablation="resample",
    direction="denoising",
    pairs=16,
    corruptions=(),
    seed=0,
    clean=(),
    corrupted=(),
)
ADDRESS = {"trace_section": "Circuit", "trace_pairs": "16"}


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def page(folder: Path, **address: str) -> AppTest:
    test = opened("trace", folder, **({"run": FULL} | ADDRESS | address))
    assert not test.exception and OURS not in [one.value for one in test.error]
    return test


def metric(test: AppTest, label: str) -> str:
    return next(str(one.value) for one in test.metric if one.label == label)


def said(test: AppTest) -> str:
    shown = (*test.success, *test.warning, *test.error, *test.info)
    return " ".join(one.value for one in shown).replace("\\", "")


def draft_of(test: AppTest, network: Network) -> Draft:
    return read_draft(network, address_of(test))


def address_of(test: AppTest) -> str:
    named = test.query_params["trace_draft"]
    return named if isinstance(named, str) else str(named[0])


def whole(network: Network, n_pos: int | None = None) -> Circuit:
    graph = ground_of(network).graph(n_pos)
    return Circuit(graph, graph.is_edge)


# ---------------------------------------------------------------------- numbers


def test_live_numbers_are_those_of_the_evaluation_on_pairs_it_was_not_found_on(
    network: Network,
) -> None:
    finding, judging = pairs_of(network, ASKED)
    expected = pairs_to_find_and_judge(network.task, n_pairs=16)
    assert torch.equal(finding.clean, expected[0].clean)
    assert torch.equal(judging.clean, expected[1].clean[:32])
    seen = {tuple(row) for row in finding.clean.tolist()}
    assert not seen & {tuple(row) for row in judging.clean.tolist()}
    edges = ("embed->m0", "embed->a0.h0<v>", "a0.h0->m0", "m0->logits")
    circuit = circuit_of(ground_of(network).graph(None), edges)
    record = judged(network, evaluation_of(network, ASKED, circuit)).record
    problem = make_problem(subject(network), judging, direction="denoising")
    direct = finish(evaluate(problem, circuit, seed=0))
    result: Any = record.result
    assert result["n"] == 32 and result["verdict"] == direct.verdict
    assert result["faithfulness"] == pytest.approx(direct.faithfulness, abs=1e-6)
    assert result["random_percentile"] == direct.random_percentile
    assert result["connected_mean"] == pytest.approx(direct.connected_mean, abs=1e-6)
    assert result["completeness"] == pytest.approx(
        direct.completeness.to_dict()["worst_normalised"], abs=1e-5
    )
    live = faithfulness_of(network, ASKED, Edges(n_pos=None, bits=bits_of(circuit)))
    assert live.value == pytest.approx(direct.faithfulness, abs=1e-6) and live.n == 32
    assert live.interval == pytest.approx(direct.faithfulness_interval, abs=1e-6)
    rows = {row["number"]: row["value"] for row in number_rows(record)}
    assert rows["Faithfulness"].startswith(f"{round(direct.faithfulness, 3) + 0.0:.3g} [")
    assert rows["Nearer to 1 than"] == f"{direct.random_percentile:.4g} % of random"


def test_nothing_is_faithful_0_and_everything_1(network: Network) -> None:
    for n_pos in (None, network.task.n_ctx):
        bits = bits_of(whole(network, n_pos))
        everything = faithfulness_of(network, ASKED, Edges(n_pos=n_pos, bits=bits))
        nothing = faithfulness_of(network, ASKED, Edges(n_pos=n_pos, bits=""))
        assert everything.value == pytest.approx(1, abs=1e-9)
        assert nothing.value == pytest.approx(0, abs=1e-9)


def test_the_effect_of_an_edge_is_the_exact_score(network: Network) -> None:
    finding, _ = pairs_of(network, ASKED)
    problem = make_problem(subject(network), finding, direction="denoising")
    exact = finish(methods.get("exact")().score(problem))
    for edge in ("embed->m0", "a0.h1->m0", "m0->logits", "embed->a0.h0<k>"):
        found = effect_of(network, ASKED, None, edge)
        assert found.value == pytest.approx(exact.of(edge), abs=2e-4) and found.n == 16


def test_without_a_node_is_the_circuit_less_its_edges(network: Network) -> None:
    circuit = whole(network)
    left = circuit.without_component("a0.h0")
    found = without(network, ASKED, Edges(n_pos=None, bits=bits_of(circuit)), "a0.h0")
    direct = faithfulness_of(network, ASKED, Edges(n_pos=None, bits=bits_of(left)))
    assert found == direct and found.value != 1


@pytest.mark.parametrize("which", ["untrained", "random"])
def test_what_does_not_do_the_task_is_not_supported(network: Network, which: str) -> None:
    if which == "untrained":
        network = network_of(network.run, network.run.steps[0])
        scores = scores_of(network, ASKED, None, "eap_ig").values
        graph = ground_of(network).graph(None)
        best = scores.abs().flatten().argsort(descending=True)[:12]
        member = torch.zeros_like(graph.is_edge)
        member.view(-1)[best] = True
        circuit = Circuit(graph, member & graph.is_edge)
        reason = "the network does not do its task"
    else:
        edges = whole(network).edges
        order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(3))
        circuit = circuit_of(ground_of(network).graph(None), [edges[i] for i in order[:12]])
        reason = "its faithfulness is"
    record = judged(network, evaluation_of(network, ASKED, circuit)).record
    assert record.findings[0].verdict == "not supported"
    assert reason in str(record.result["reason"])


# ---------------------------------------------------------------------- the page


def test_a_circuit_is_found_pruned_undone_redone_and_there_after_a_refresh(
    app_folder: Path, network: Network
) -> None:
    test = page(app_folder)
    assert metric(test, "Edges") == "0" and "The circuit is empty" in said(test)
    test.button(key="trace_find").click().run()
    found = draft_of(test, network).history.state
    circuit = ground_of(network).circuit(found)
    assert circuit.n_edges > 3 and metric(test, "Edges") == str(circuit.n_edges)
    test.select_slider(key="trace_size").set_value(2).run()
    assert metric(test, "Edges") == "2" and "not supported" in said(test)
    now = draft_of(test, network).history.state
    scores = scores_of(network, ASKED, None, "eap_ig").values.abs()
    least = min(float(scores[index]) for index in map(tuple, _places(network, now)))
    assert int((scores > least).sum()) == 1  # the two largest of all
    test.button(key="trace_undo").click().run()
    assert draft_of(test, network).history.state == found
    test.button(key="trace_redo").click().run()
    assert draft_of(test, network).history.state == now
    refreshed = page(app_folder, trace_draft=address_of(test))
    assert metric(refreshed, "Edges") == "2"
    refreshed.button(key="trace_undo").click().run()
    assert metric(refreshed, "Edges") == str(circuit.n_edges)
    assert draft_of(refreshed, network).id == draft_of(test, network).id


def _places(network: Network, state: State) -> list[list[int]]:
    places: list[list[int]] = ground_of(network).circuit(state).member.nonzero().tolist()
    return places


def test_the_later_of_two_tabs_is_told_and_keeps_its_own(
    app_folder: Path, network: Network
) -> None:
    start = did(begin(), AddEdge("m0->logits"), ground_of(network))
    draft = write_draft(network, Draft(id=None, revision=0, history=start))
    tabs = [page(app_folder, trace_draft=draft.id or "") for _ in range(2)]
    tabs[0].button(key="trace_delete_sweep").click().run()
    tabs[1].button(key="trace_undo").click().run()
    assert "Another tab changed this draft" not in said(tabs[0])
    assert "Another tab changed this draft" in said(tabs[1])
    first, second = (draft_of(tab, network) for tab in tabs)
    assert first.id == draft.id != second.id
    assert first.history.done[-1].words == "clear" and second.history.to_redo is not None
    tabs[1].run()
    assert "Another tab" not in said(tabs[1])


@pytest.mark.parametrize("named", ["../../../etc/passwd", "0" * 16, "<script>", "x" * 5000])
def test_a_hostile_id_is_one_line_and_an_empty_draft(app_folder: Path, named: str) -> None:
    test = page(app_folder, trace_draft=named)
    assert "draft" in said(test) and metric(test, "Edges") == "0"
    assert "trace_draft" not in test.query_params


def test_a_damaged_draft_is_one_line(app_folder: Path, network: Network) -> None:
    start = did(begin(), AddEdge("m0->logits"), ground_of(network))
    draft = write_draft(network, Draft(id=None, revision=0, history=start))
    (network.run.path / DRAFTS / f"{draft.id}.json").write_text('{"format": 1}')
    test = page(app_folder, trace_draft=draft.id or "")
    assert "format" in said(test) and metric(test, "Edges") == "0"


def test_a_draft_of_other_weights_is_refused_and_stays(app_folder: Path, network: Network) -> None:
    start = did(begin(), AddEdge("m0->logits"), ground_of(network))
    draft = write_draft(network, Draft(id=None, revision=0, history=start))
    first = str(network.run.steps[0])
    test = page(app_folder, step=first, trace_draft=draft.id or "")
    assert "of other weights" in said(test) and metric(test, "Edges") == "0"
    assert read_draft(network, draft.id or "") == draft


def test_parts_are_added_by_hand(app_folder: Path, network: Network) -> None:
    test = page(app_folder, trace_start="By hand")
    test.selectbox(key="trace_hand_part").select("m0").run()
    test.button(key="trace_add_part").click().run()
    circuit = ground_of(network).circuit(draft_of(test, network).history.state)
    assert circuit.edges == ("embed->m0", "pos_embed->m0", "m0->logits")
    test.selectbox(key="trace_hand_edge").select("embed->logits").run()
    test.button(key="trace_add_edge").click().run()
    assert metric(test, "Edges") == "4"


def test_a_chosen_node_is_pinned_labelled_and_removed(app_folder: Path, network: Network) -> None:
    edges = ("embed->m0", "m0->logits", "pos_embed->m0")
    start = did(begin(), Replace(edges, None, "some edges"), ground_of(network))
    draft = write_draft(network, Draft(id=None, revision=0, history=start))
    circuit = ground_of(network).circuit(start.state)
    picture = picture_of(
        circuit, None, Marks(), name="x", measure="edge", live=circuit.pruned((2,))
    )
    row = picture.row("m0")
    test = page(app_folder, trace_draft=draft.id or "", trace_part=str(row))
    assert "m0" in " ".join(one.value for one in test.markdown)
    test.text_input(key="trace_label_m0").set_value("<b>adds</b>").run()
    test.button(key="trace_pin_m0").click().run()
    marks = draft_of(test, network).history.state.marks
    assert marks.labels == {"m0": "<b>adds</b>"} and marks.pinned == ("m0",)
    assert not any("<b>" in one.value for one in test.markdown)  # escaped
    edge = picture.row("m0->logits")
    test = page(app_folder, trace_draft=draft.id or "", trace_part=str(edge))
    shown = " ".join(one.value for one in test.markdown).replace("\\", "")
    exact = effect_of(network, ASKED, None, "m0->logits").value
    assert "Patched in the whole network" in shown and f"{round(exact, 3):.3g}" in shown
    test.button(key="trace_remove").click().run()
    left = ground_of(network).circuit(draft_of(test, network).history.state)
    assert left.edges == ("embed->m0", "pos_embed->m0")
    assert "trace_part" not in test.query_params  # another part stands in that row now


def test_a_kept_finding_is_the_record_that_was_seen_and_its_marks_go_along(
    app_folder: Path, network: Network
) -> None:
    edges = ("embed->a0.h0<v>", "a0.h0->m0", "embed->m0", "m0->logits")
    marks = Marks(
        labels={"m0": "adds"},
        groups=(Group(name="all", nodes=("m0", "a0.h0")),),
        pinned=("m0",),
    )
    start = did(begin(), Replace(edges, None, "x", marks=marks), ground_of(network))
    draft = write_draft(network, Draft(id=None, revision=0, history=start))
    test = page(app_folder, trace_draft=draft.id or "")
    before = {record.id for record in read_records(network.run)}
    test.button(key="trace_keep").click().run()
    (kept,) = (one for one in read_records(network.run) if one.id not in before)
    assert kept.kind == "evaluation" and kept.id in said(test)
    circuit = ground_of(network).circuit(start.state)
    analysis = evaluation_of(network, ASKED, circuit)
    assert kept.result == judged(network, analysis).record.result
    again = ask(find_run(FULL), analysis).record  # as a notebook would ask
    assert again.id == kept.id
    assert again.findings[0].verdict == kept.findings[0].verdict
    assert read_notebook(network.run).marks == marks
    taken = page(app_folder, trace_start="Kept")
    taken.selectbox(key="trace_kept").select(f"record {kept.id}").run()
    taken.button(key="trace_take").click().run()
    state = draft_of(taken, network).history.state
    assert state.bits == start.state.bits and state.scored_by == kept.id


def test_everything_is_taken_and_every_method_of_the_menu_is_registered(
    app_folder: Path, network: Network
) -> None:
    test = page(app_folder, trace_start="Everything", trace_per_position="true")
    test.button(key="trace_take_whole").click().run()
    assert metric(test, "Edges") == str(whole(network, 3).n_edges)
    assert metric(test, "Faithfulness") == "1.000"
    assert "not supported" in said(test)  # random circuits of all edges do as well
    test.segmented_control(key="trace_start").set_value("Found").run()
    assert list(test.selectbox(key="trace_method").options) == list(methods)


def test_an_uploaded_edge_list_is_taken(app_folder: Path, network: Network) -> None:
    test = page(app_folder, trace_start="From a file")
    file = b'["m0->logits", "embed->m0"]'
    test.file_uploader(key="trace_file").upload("edges.json", file, "application/json").run()
    test.button(key="trace_take_file").click().run()
    assert metric(test, "Edges") == "2"
    test.file_uploader(key="trace_file").upload("edges.json", b'["m0"]', "application/json").run()
    assert "no edge 'm0'" in said(test) and metric(test, "Edges") == "2"


# ---------------------------------------------------------------------- compare


def test_two_circuits_are_compared(app_folder: Path, network: Network) -> None:
    ground = ground_of(network)
    sides = [("embed->m0", "m0->logits"), ("m0->logits", "pos_embed->m0", "embed->logits")]
    ids = [
        write_draft(
            network,
            Draft(id=None, revision=0, history=did(begin(), Replace(side, None, "x"), ground)),
        ).id
        for side in sides
    ]
    test = page(
        app_folder,
        trace_section="Compare",
        trace_left=f"draft-{ids[0]}",
        trace_right=f"draft-{ids[1]}",
    )
    counts = [metric(test, name) for name in ("Only left", "In both", "Only right")]
    assert counts == ["1", "1", "2"] and metric(test, "Jaccard index") == "0.250"
    frames = [one.value for one in test.dataframe]
    (numbers,) = (one for one in frames if "faithfulness here" in one)
    expected = [*sides, ("m0->logits",), tuple({*sides[0], *sides[1]})]
    for row, edges in zip(numbers.to_dict("records"), expected, strict=True):
        bits = bits_of(circuit_of(ground.graph(None), edges))
        value = faithfulness_of(network, ASKED, Edges(n_pos=None, bits=bits)).value
        assert float(row["faithfulness here"].split()[0]) == pytest.approx(value, abs=6e-4)
        assert row["edges"] == str(len(edges)) and row["n"] == "32 pairs"


def test_a_record_is_compared_with_one_of_another_run(app_folder: Path) -> None:
    test = page(app_folder, trace_section="Compare", trace_right_run=FRESH)
    assert "No circuit of this run is kept" in " ".join(one.value for one in test.caption)
    test = page(app_folder, run=FRESH, trace_section="Compare", trace_left_run=FULL)
    assert FULL in test.selectbox(key="trace_left_run").options
    assert not test.error


def test_edges_have_three_states(network: Network) -> None:
    graph = ground_of(network).graph(None)
    left = circuit_of(graph, ["embed->m0", "m0->logits"])
    right = circuit_of(graph, ["m0->logits", "embed->logits"])
    states = {row["edge"]: row["in"] for row in edge_rows(left, right)}
    assert states == {
        "embed->m0": "only left",
        "m0->logits": "both",
        "embed->logits": "only right",
    }


# ---------------------------------------------------------------------- pictures and files


def test_a_group_is_drawn_as_one_node(network: Network) -> None:
    graph = ground_of(network).graph(None)
    edges = ["embed->a0.h0<v>", "embed->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
    circuit = circuit_of(graph, edges)
    scores = torch.zeros(graph.is_edge.shape)
    for edge, score in zip(edges, (0.5, -2.0, 1.0, 3.0, 4.0), strict=True):
        scores[graph.index(edge)] = score
    marks = Marks(
        groups=(Group(name="heads", nodes=("a0.h0", "a0.h1")),),
        labels={"m0": "adds"},
        pinned=("a0.h1",),
    )
    picture = picture_of(
        circuit, scores, marks, name="a b", measure="score", live=circuit.pruned((2,))
    )
    nodes = {node.name: node for node in picture.chart.nodes}
    assert set(nodes) == {"embed", "heads", "m0", "logits"} and picture.chart.name == "a-b"
    assert nodes["heads"].kind == "group" and nodes["heads"].pinned
    assert nodes["m0"].label == "m0: adds"
    long = Marks(labels={"m0": "x" * 200})
    drawn_long = picture_of(circuit, None, long, name="x", measure="edge", live=circuit)
    assert max(len(node.label) for node in drawn_long.chart.nodes) == 8  # all fit in
    drawn = {edge.name: edge.score for edge in picture.chart.edges}
    assert drawn == {"embed->heads": -2.0, "heads->m0": 3.0, "m0->logits": 4.0}
    row = picture.row("a0.h1->m0")
    assert row is not None and picture.parts[row] == ("a0.h0->m0", "a0.h1->m0")
    assert picture.row("a0.h0") == picture.row("a0.h1")


def test_positions_are_columns_and_parts_rows(network: Network) -> None:
    places = places_of(3, ["embed->a0.h0<v>@0", "a0.h0->m0@2", "m0->logits@2"])
    assert places["embed@0"][0] > places["a0.h0@0"][0]  # heads stand aside
    assert places["a0.h0@2"][0] - places["a0.h0@0"][0] == 2
    rows = [places[name][1] for name in ("embed@0", "a0.h0@2", "m0@2", "logits@2")]
    assert rows == sorted(rows) and places["a0.h0@0"][1] == places["a0.h0@2"][1]


def test_dead_ends_are_drawn_as_such(network: Network) -> None:
    circuit = circuit_of(ground_of(network).graph(None), ["embed->m0", "embed->logits"])
    picture = picture_of(
        circuit, None, Marks(), name="x", measure="edge", live=circuit.pruned((2,))
    )
    assert {edge.name: edge.live for edge in picture.chart.edges} == {
        "embed->m0": False,
        "embed->logits": True,
    }


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


def test_sizes_take_steps_of_a_tenth() -> None:
    sizes = sizes_up_to(2329)
    assert sizes[:16] == list(range(16)) and sizes[-1] == 2329 and len(sizes) < 80
    assert all(b - a <= max(1, round(0.11 * a)) for a, b in pairwise(sizes))


def test_clearing_keeps_the_draft(network: Network) -> None:
    history = did(begin(), AddEdge("m0->logits"), ground_of(network))
    history = did(history, Clear(), ground_of(network))
    saved = write_draft(network, Draft(id=None, revision=0, history=history))
    file = json.loads((network.run.path / DRAFTS / f"{saved.id}.json").read_bytes())
    assert file["network"] == network.content and edges_of(saved.history.state).bits == ""

"""The Trace page's Circuit section, as a person uses it."""

import json
from pathlib import Path

import pytest

from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_numbers import (
    edges_of,
    effect_of,
    evaluation_of,
    judged,
    scores_of,
)
from apps.web.trace.circuit_picture import picture_of
from apps.web.trace.draft_files import DRAFTS, ground_of, read_draft
from apps.web.trace.draft_history import State
from apps.web.trace.draft_operations import AddEdge, Clear, Replace
from circuits.method import methods
from tests.app.app_folder import FULL
from tests.app.trace_circuits import (
    ASKED,
    address_of,
    draft_of,
    metric,
    page,
    said,
    saved_draft,
    whole,
)
from workbench.records import ask, read_notebook, read_records
from workbench.session.schema import Group, Marks


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


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
    draft = saved_draft(network, AddEdge("m0->logits"))
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
    draft = saved_draft(network, AddEdge("m0->logits"))
    (network.run.path / DRAFTS / f"{draft.id}.json").write_text('{"format": 1}')
    test = page(app_folder, trace_draft=draft.id or "")
    assert "format" in said(test) and metric(test, "Edges") == "0"


def test_a_draft_of_other_weights_is_refused_and_stays(app_folder: Path, network: Network) -> None:
    draft = saved_draft(network, AddEdge("m0->logits"))
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
    draft = saved_draft(network, Replace(edges, None, "some edges"))
    circuit = ground_of(network).circuit(draft.history.state)
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
    draft = saved_draft(network, Replace(edges, None, "x", marks=marks))
    test = page(app_folder, trace_draft=draft.id or "")
    before = {record.id for record in read_records(network.run)}
    test.button(key="trace_keep").click().run()
    (kept,) = (one for one in read_records(network.run) if one.id not in before)
    assert kept.kind == "evaluation" and kept.id in said(test)
    circuit = ground_of(network).circuit(draft.history.state)
    analysis = evaluation_of(network, ASKED, circuit)
    assert kept.result == judged(network, analysis).record.result
    again = ask(find_run(FULL), analysis).record  # as a notebook would ask
    assert again.id == kept.id
    assert again.findings[0].verdict == kept.findings[0].verdict
    assert read_notebook(network.run).marks == marks
    taken = page(app_folder, trace_start="Kept")
    taken.selectbox(key="trace_kept_menu").select(kept.id).run()
    taken.button(key="trace_take").click().run()
    state = draft_of(taken, network).history.state
    assert state.bits == draft.history.state.bits and state.scored_by == kept.id


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


def test_clearing_keeps_the_draft(network: Network) -> None:
    saved = saved_draft(network, AddEdge("m0->logits"), Clear())
    file = json.loads((network.run.path / DRAFTS / f"{saved.id}.json").read_bytes())
    assert file["network"] == network.content and edges_of(saved.history.state).bits == ""

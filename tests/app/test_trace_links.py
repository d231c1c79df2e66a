"""Links to a kept circuit: the Trace page opens the very one that the address names."""

from pathlib import Path
from typing import Any

import pytest

from apps.web.choice import Network, find_run, network_of
from apps.web.findings.places import look_at
from apps.web.trace.circuit_kept import taking
from apps.web.trace.draft_files import DRAFTS, draft_ids, ground_of
from apps.web.trace.draft_operations import AddEdge, Replace
from circuits.analyses.circuit import edges_in
from circuits.analyses.evaluation import EvaluationAnalysis
from tests.app.app_folder import FRESH, FULL, opened
from tests.app.trace_circuits import address_of, draft_of, metric, page, said, saved_draft
from workbench.record import Record
from workbench.records import ask, read_records

EDGES = ("embed->m0", "m0->logits")


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


@pytest.fixture
def record(network: Network) -> Record:
    return next(one for one in read_records(network.run) if one.kind == "circuit")


def n_edges(record: Record) -> int:
    names = edges_in(record)
    assert names
    return len(names)


def test_each_link_of_the_findings_page_opens_its_own_circuit(
    app_folder: Path, network: Network, record: Record
) -> None:
    other = ask(network.run, EvaluationAnalysis(edges=EDGES, pairs=16)).record
    assert n_edges(record) != 2
    for one, n in ((record, n_edges(record)), (other, 2)):
        address: Any = look_at(one, network)
        test = opened("trace", app_folder, run=FULL, **address)
        assert not test.exception and not test.error
        assert metric(test, "Edges") == str(n)
        assert address_of(test, "trace_kept") == one.id
        assert test.selectbox(key="trace_kept_menu").value == one.id
    assert draft_ids(network) == []  # looking writes nothing


def test_a_linked_circuit_is_saved_once_it_is_changed(
    app_folder: Path, network: Network, record: Record
) -> None:
    test = page(app_folder, trace_kept=record.id)
    assert "trace_draft" not in test.query_params
    test.select_slider(key="trace_size").set_value(2).run()
    history = draft_of(test, network).history
    assert [one.words for one in history.done[1:]] == [
        f"take {n_edges(record)} edges of {record.id}",
        f"2 best edges by {record.id}",
    ]
    refreshed = page(
        app_folder, trace_kept=record.id, trace_draft=address_of(test), trace_start="Kept"
    )
    assert metric(refreshed, "Edges") == "2"
    refreshed.button(key="trace_note_add").click().run()  # a new draft
    assert metric(refreshed, "Edges") == "0"
    assert not {"trace_kept", "trace_draft"} & set(refreshed.query_params)


def test_a_link_leaves_the_draft_that_there_was(
    app_folder: Path, network: Network, record: Record
) -> None:
    before = saved_draft(network, AddEdge("m0->logits"))
    test = page(app_folder, trace_draft=before.id or "")
    assert metric(test, "Edges") == "1"
    del test.query_params["trace_draft"]  # a link within the same tab
    test.query_params["trace_kept"] = record.id
    test.run()
    assert metric(test, "Edges") == str(n_edges(record))
    test.button(key="trace_undo").click().run()
    assert address_of(test) != before.id and metric(test, "Edges") == "0"
    assert (network.run.path / DRAFTS / f"{before.id}.json").is_file()


def test_without_its_draft_an_address_opens_the_finding_it_was_taken_from(
    app_folder: Path, record: Record
) -> None:
    test = page(app_folder, trace_draft="0" * 16, trace_kept=record.id)
    assert metric(test, "Edges") == str(n_edges(record))
    assert f"no draft {'0' * 16}" in said(test) and "Here is the finding" in said(test)


@pytest.mark.parametrize("named", ["circuit-0000", "../x", "<script>", "x" * 5000])
def test_a_record_that_there_is_not_is_one_line(app_folder: Path, named: str) -> None:
    test = page(app_folder, trace_kept=named)
    assert metric(test, "Edges") == "0" and "no record" in said(test)
    assert "trace_kept" not in test.query_params
    test.run()
    assert "no record" not in said(test)


def test_another_network_is_not_asked_for_the_record_of_the_one_before(
    app_folder: Path, record: Record
) -> None:
    test = page(app_folder, trace_kept=record.id)
    test.selectbox(key="run").select(FRESH).run()
    assert metric(test, "Edges") == "0" and "no record" not in said(test)
    assert "trace_kept" not in test.query_params
    test.selectbox(key="run").select(FULL).run()
    assert metric(test, "Edges") == str(n_edges(record))


def test_what_is_taken_is_what_the_record_holds(network: Network, record: Record) -> None:
    operation = taking(network, record.id)
    assert isinstance(operation, Replace) and set(operation.edges) == set(edges_in(record) or ())
    assert operation.scored_by == record.id
    assert ground_of(network).graph(operation.n_pos).n_edges > n_edges(record)

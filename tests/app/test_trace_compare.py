"""The Trace page's Compare section."""

from pathlib import Path

import pytest

from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_kept import labelled
from apps.web.trace.circuit_numbers import (
    Edges,
    faithfulness_of,
)
from apps.web.trace.compare import edge_rows
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import bits_of
from apps.web.trace.draft_operations import Replace
from circuits.circuit import circuit_of
from tests.app.app_folder import FRESH, FULL
from tests.app.trace_circuits import ASKED, address_of, metric, page, said, saved_draft
from workbench.records import read_records


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def test_two_circuits_are_compared(app_folder: Path, network: Network) -> None:
    ground = ground_of(network)
    sides = [("embed->m0", "m0->logits"), ("m0->logits", "pos_embed->m0", "embed->logits")]
    ids = [saved_draft(network, Replace(side, None, "x")).id for side in sides]
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


# ---------------------------------------------------------------------- which circuits


DIGITS = ("ac9f53f65c61f79e", "ac9f53f65c61f70a", "0000000000000001")


def test_labels_of_a_menu_have_digits_enough_to_tell_all_apart() -> None:
    alike = "4 of 37 edges do the task: supported"
    few = {f"circuit-{DIGITS[0]}": alike, f"draft-{DIGITS[2]}": alike}
    assert list(labelled(few).values()) == [f"finding ac9f53: {alike}", f"draft 000000: {alike}"]
    many = dict.fromkeys((f"circuit-{one}" for one in DIGITS), alike)
    assert list(labelled(many).values()) == [
        f"finding ac9f53f65c61f79: {alike}",
        f"finding ac9f53f65c61f70: {alike}",
        f"finding 000000000000000: {alike}",
    ]
    same = {f"circuit-{DIGITS[0]}": alike, f"evaluation-{DIGITS[0]}": alike}
    assert set(labelled(same).values()) == {f"{one}: {alike}" for one in same}
    assert labelled({}) == {}


def test_circuits_alike_are_told_apart_and_the_address_has_their_identities(
    app_folder: Path, network: Network
) -> None:
    sides = (("embed->m0", "m0->logits"), ("pos_embed->m0", "m0->logits"))
    ids = [f"draft-{saved_draft(network, Replace(one, None, 'x')).id}" for one in sides]
    test = page(app_folder, trace_section="Compare")
    menu = test.selectbox(key="trace_left_menu")
    assert len(set(menu.options)) == len(menu.options) == 3  # two drafts and a record
    assert sum("2 edges; last: take x" in one for one in menu.options) == 2
    for key in ("trace_left", "trace_right"):  # always: which come first changes with time
        assert address_of(test, key) == test.selectbox(key=f"{key}_menu").value
    menu.select(ids[0]).run()
    test.selectbox(key="trace_right_menu").select(ids[1]).run()
    assert [address_of(test, key) for key in ("trace_left", "trace_right")] == ids
    assert metric(test, "Only left") == metric(test, "Only right") == "1"
    saved_draft(network, Replace(("embed->logits",), None, "later"))
    again = page(app_folder, trace_section="Compare", trace_left=ids[0], trace_right=ids[1])
    assert [again.selectbox(key=f"trace_{side}_menu").value for side in ("left", "right")] == ids
    record = next(one for one in read_records(network.run) if one.kind == "circuit")
    again.selectbox(key="trace_left_menu").select(record.id).run()
    assert address_of(again, "trace_left") == record.id
    digits = record.id.rpartition("-")[2][:6]
    assert any(one.startswith(f"finding {digits}: ") for one in menu.options)


@pytest.mark.parametrize("named", ["draft-0", "../../etc/passwd", "<script>", "x" * 5000, ""])
def test_a_circuit_that_there_is_not_is_one_line(
    app_folder: Path, network: Network, named: str
) -> None:
    saved_draft(network, Replace(("embed->m0",), None, "x"))
    test = page(app_folder, trace_section="Compare", trace_left=named)
    assert not test.error and "is kept (any more)" in said(test)
    assert test.selectbox(key="trace_left_menu").value in address_of(test, "trace_left")
    assert address_of(test, "trace_left") != named
    test.run()
    assert "is kept (any more)" not in said(test)

"""Drafts: what each operation does, and files that are hostile, stale or written by two tabs."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.web.choice import Network, find_run, network_of
from apps.web.trace import draft_files
from apps.web.trace.draft_files import DRAFTS, Draft, draft_ids, read_draft, write_draft
from apps.web.trace.draft_history import (
    MOST_STEPS,
    History,
    Operation,
    State,
    begin,
    did,
    undone,
)
from apps.web.trace.draft_operations import (
    AddComponent,
    AddEdge,
    Clear,
    Keep,
    MakeGroup,
    Pin,
    PruneDeadEnds,
    Remove,
    Rename,
    Replace,
    Ungroup,
)
from tests.app.app_folder import FRESH, FULL
from tests.app.draft_ground import GROUND, after, edges_after
from workbench.errors import AppError, CircuitError, RunError, WorkbenchError

# ---------------------------------------------------------------------- operations


def test_a_part_comes_with_its_edges_to_the_ends_and_to_those_that_are_in() -> None:
    first = edges_after(AddComponent("a0.h0"))
    assert set(first) == {
        *(f"{end}->a0.h0<{port}>" for end in ("embed", "pos_embed") for port in "qkv"),
        "a0.h0->logits",
    }
    both = edges_after(AddComponent("a0.h0"), AddComponent("m0"))
    assert set(both) - set(first) == {
        "embed->m0",
        "pos_embed->m0",
        "a0.h0->m0",
        "m0->logits",
    }
    assert edges_after(AddComponent("m0"), AddComponent("a0.h0")) == both


def test_a_part_at_positions_reaches_the_logits_where_they_are_read() -> None:
    start = Replace((), 3, "nothing")
    assert set(edges_after(start, AddComponent("m0"))) == {
        *(f"{end}->m0@{at}" for end in ("embed", "pos_embed") for at in range(3)),
        "m0->logits@2",
    }
    assert set(edges_after(start, AddComponent("m0@1"))) == {"embed->m0@1", "pos_embed->m0@1"}


def test_removing_a_node_removes_its_edges() -> None:
    whole = Replace(GROUND.graph(None).edges, None, "all")
    left = edges_after(whole, Remove("a0.h1"))
    assert left and not any("a0.h1" in edge for edge in left)
    assert edges_after(whole, Remove("m0->logits")) == tuple(
        edge for edge in GROUND.graph(None).edges if edge != "m0->logits"
    )
    at_positions = Replace(GROUND.graph(3).edges, 3, "all")
    gone = set(GROUND.graph(3).edges) - set(edges_after(at_positions, Remove("m0@1")))
    assert gone and all(edge.endswith("@1") and "m0" in edge for edge in gone)


def test_removing_a_group_removes_the_edges_of_its_nodes() -> None:
    whole = Replace(GROUND.graph(None).edges, None, "all")
    group = MakeGroup("heads", ("a0.h0", "a0.h1"))
    left = edges_after(whole, group, Remove("heads"))
    assert left == edges_after(whole, Remove("a0.h0"), Remove("a0.h1"))


def test_pruning_leaves_the_edges_of_pinned_nodes() -> None:
    dead = (AddEdge("embed->m0"), AddEdge("embed->logits"), AddEdge("embed->a0.h0<q>"))
    assert edges_after(*dead, PruneDeadEnds()) == ("embed->logits",)
    kept = edges_after(*dead, Pin("m0"), PruneDeadEnds())
    assert set(kept) == {"embed->m0", "embed->logits"}
    kept = edges_after(*dead, Pin("m0"), Keep(("pos_embed->logits",), "scores"))
    assert set(kept) == {"embed->m0", "pos_embed->logits"}
    kept = edges_after(*dead, Pin("m0"), Pin("m0", pinned=False), PruneDeadEnds())
    assert kept == ("embed->logits",)


def test_marks_stay_when_edges_go_and_follow_their_graph() -> None:
    history = after(AddEdge("embed->m0"), Rename("m0", " adds "), Pin("m0"), Clear())
    assert history.state.marks.labels == {"m0": "adds"}
    assert history.state.marks.pinned == ("m0",)
    by_position = did(history, Replace(("embed->m0@1",), 3, "another"), GROUND)
    assert not by_position.state.marks.labels
    assert undone(by_position).state == history.state
    assert did(history, Rename("m0", "  "), GROUND).state.marks.labels == {}


def test_a_node_is_in_one_group() -> None:
    history = did(begin(), MakeGroup("one", ("a0.h0", "a0.h1", "m0")), GROUND)
    history = did(history, MakeGroup("two", ("a0.h1", "m0")), GROUND)
    groups = {group.name: group.nodes for group in history.state.marks.groups}
    assert groups == {"one": ("a0.h0",), "two": ("a0.h1", "m0")}
    history = did(history, Ungroup("two"), GROUND)
    assert [group.name for group in history.state.marks.groups] == ["one"]


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (AddComponent("a9.h9"), "no head or MLP 'a9.h9'"),
        (AddComponent("embed"), "no head or MLP"),
        (AddEdge("m0->logit"), "did you mean 'm0->logits'"),
        (AddEdge("m0->logits@2"), "no edge"),
        (Pin("m0@1"), "no node"),
        (Rename("m0", "x" * 201), "at most 200"),
        (Rename("m0", "a\u202eb"), "U\\+202E"),
        (Rename("m0", "two\nlines"), "U\\+000A"),
        (MakeGroup("g", ("m0", "m0")), "two nodes or more"),
        (MakeGroup("m0", ("m0", "a0.h0")), "a name of its own"),
        (MakeGroup(" ", ("m0", "a0.h0")), "a name of its own"),
        (Replace((), 4, "other"), "this task has 3"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(operation: Operation, said: str) -> None:
    with pytest.raises(WorkbenchError, match=said) as error:
        did(begin(), operation, GROUND)
    assert len(str(error.value).splitlines()) == 1


def test_a_history_remembers_so_many_steps() -> None:
    history = begin()
    for i in range(MOST_STEPS + 5):
        history = did(history, Rename("m0", f"label {i}"), GROUND)
    assert len(history.done) == MOST_STEPS + 1
    assert did(history, Rename("m0", f"label {MOST_STEPS + 4}"), GROUND) is history
    for _ in range(MOST_STEPS):
        history = undone(history)
    assert history.state.marks.labels == {"m0": "label 4"} and history.to_undo is None


def test_bits_beyond_the_graph_are_refused() -> None:
    n = GROUND.graph(None).n_edges
    assert GROUND.circuit(State(bits=f"{(1 << n) - 1:x}")).n_edges == n
    with pytest.raises(AppError, match="edges that this network has not"):
        GROUND.circuit(State(bits=f"{1 << n:x}"))


# ---------------------------------------------------------------------- files


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def some_history(network: Network) -> History:
    return did(begin(), AddComponent("m0"), draft_files.ground_of(network))


def new_draft(network: Network) -> Draft:
    return write_draft(network, Draft(id=None, revision=0, history=some_history(network)))


def test_what_was_written_is_read_back(network: Network) -> None:
    written = new_draft(network)
    assert written.id is not None and written.revision == 1
    assert read_draft(network, written.id) == written
    again = write_draft(network, replace(written, history=undone(written.history)))
    assert (again.id, again.revision) == (written.id, 2)
    assert read_draft(network, written.id).history.to_redo == "add m0"
    assert draft_ids(network) == [written.id]


def test_the_later_of_two_tabs_writes_a_draft_of_its_own(network: Network) -> None:
    seen = new_draft(network)
    ground = draft_files.ground_of(network)
    first = write_draft(network, replace(seen, history=did(seen.history, Clear(), ground)))
    second = write_draft(network, replace(seen, history=undone(seen.history)))
    assert first.id == seen.id and second.id != seen.id and second.id is not None
    assert read_draft(network, seen.id or "").history == first.history
    assert read_draft(network, second.id).history == second.history


def test_a_draft_of_other_weights_is_refused(network: Network) -> None:
    written = new_draft(network)
    earlier = network_of(network.run, network.run.steps[0])
    with pytest.raises(AppError, match="of other weights of full"):
        read_draft(earlier, written.id or "")
    forked = write_draft(earlier, replace(written, history=begin()))
    assert forked.id != written.id
    assert read_draft(network, written.id or "") == written


@pytest.mark.parametrize(
    "named", ["", "../../config", "0" * 15, "0" * 17, "G" * 16, "0" * 15 + "/", "é" * 16]
)
def test_an_id_that_is_none_is_refused_before_any_path(network: Network, named: str) -> None:
    with pytest.raises(AppError, match="is no draft"):
        read_draft(network, named)


def test_a_draft_that_there_is_not_is_one_line(network: Network) -> None:
    with pytest.raises(AppError, match=f"no draft {'0' * 16} beside full"):
        read_draft(network, "0" * 16)


def _deep(document: Any) -> bytes:
    return b"[" * 100_000


def _changed(**changes: Any) -> Callable[[Any], bytes]:
    return lambda document: json.dumps(document | changes).encode()


def _state(**changes: Any) -> Callable[[Any], bytes]:
    def made(document: Any) -> bytes:
        document["history"]["done"][-1]["state"] |= changes
        return json.dumps(document).encode()

    return made


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (lambda _: b"\x80\x04pickle", "not valid JSON"),
        (_deep, "not valid JSON"),
        (lambda _: b'{"version": NaN}', "not valid JSON"),
        (lambda _: b'{"version": 1, "version": 1}', "twice"),
        (lambda _: b" " * (draft_files.MOST_BYTES + 1), "larger than"),
        (_changed(version=2), "version"),
        (_changed(extra=1), "extra"),
        (_changed(revision=0), "revision"),
        (_changed(network="../x"), "network"),
        (_changed(history={"done": []}), "done"),
        (_state(bits="zz"), "bits"),
        (_state(bits="f" * 25_001), "bits"),
        (_state(bits="f" * 1000), "edges that this network has not"),
        (_state(n_pos=7), "this task has"),
        (_state(n_pos=10**9), "n_pos"),
        (_state(marks={"labels": {"m0": "x" * 201}}), "labels"),
        (_state(marks={"labels": {"m0": "a\x1b[31m"}}), "U\\+001B"),
        (_state(scored_by="a\u202e"), "U\\+202E"),
    ],
)
def test_a_hostile_file_is_one_line(
    network: Network, hostile: Callable[[Any], bytes], said: str
) -> None:
    written = new_draft(network)
    path = network.run.path / DRAFTS / f"{written.id}.json"
    path.write_bytes(hostile(json.loads(path.read_bytes())))
    with pytest.raises(WorkbenchError, match=said) as error:
        read_draft(network, written.id or "")
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 700
    saved = write_draft(network, written)  # what cannot be read is not written over
    assert saved.id != written.id


def test_a_link_out_of_the_run_is_refused(network: Network, tmp_path: Path) -> None:
    written = new_draft(network)
    path = network.run.path / DRAFTS / f"{written.id}.json"
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(RunError, match="a link out of its directory"):
        read_draft(network, written.id or "")


def test_the_oldest_drafts_go(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_files, "MOST_DRAFTS", 3)
    made = []
    for age in (50, 40, 30, 20):
        written = new_draft(network)
        path = network.run.path / DRAFTS / f"{written.id}.json"
        os.utime(path, (1000 - age, 1000 - age))
        made.append(written.id)
    last = new_draft(network).id
    assert draft_ids(network) == [last, made[3], made[2]]


def test_a_large_draft_forgets_its_oldest_steps(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = draft_files.ground_of(network)
    history = begin()
    for i in range(60):
        history = did(history, Rename("m0", f"{i} " + "x" * 150), ground)
    monkeypatch.setattr(draft_files, "MOST_BYTES", 10_000)
    saved = write_draft(network, Draft(id=None, revision=0, history=history))
    path = network.run.path / DRAFTS / f"{saved.id}.json"
    assert path.stat().st_size <= 10_000 and 1 < len(saved.history.done) < 60
    assert read_draft(network, saved.id or "").history.state == history.state


def test_drafts_of_one_run_are_not_of_another(network: Network) -> None:
    written = new_draft(network)
    other = network_of(find_run(FRESH))
    assert draft_ids(other) == []
    with pytest.raises(AppError, match="no draft"):
        read_draft(other, written.id or "")


def test_an_edge_of_another_graph_is_a_circuit_error() -> None:
    with pytest.raises(CircuitError):
        did(begin(), Keep(("m0->logits@1",), "scores"), GROUND)

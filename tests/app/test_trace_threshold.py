"""The threshold of a circuit, by number and by score."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.web.choice import Network, find_run, network_of
from apps.web.trace.circuit_threshold import (
    levels_of,
    ranking_of,
    sizes_up_to,
    told_of,
    touches,
    unit_by,
)
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import nodes_of, touching
from apps.web.trace.draft_operations import Pin, Remove, Replace
from circuits.graph import Graph
from tests.app.app_folder import FULL
from tests.app.draft_ground import GROUND
from tests.app.trace_circuits import (
    ASKED,
    address_of,
    captions,
    draft_of,
    metric,
    page,
    saved_draft,
    whole,
)
from workbench.errors import CircuitError
from workbench.records import read_records

BY_SCORE = {"trace_cut": "By score"}


@pytest.fixture
def network(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


def some_scores(graph: Graph, **named: float) -> Tensor:
    """Scores that are 0 but for a few edges: embed->m0 by `embed_m0`."""
    scores = torch.zeros(graph.is_edge.shape)
    for name, score in named.items():
        scores[graph.index(name.replace("_", "->"))] = score
    return scores


def scored(network: Network) -> dict[str, float]:
    """The size of every edge's score by the page's usual method, by name."""
    from apps.web.trace.circuit_numbers import scores_of

    scores = scores_of(network, ASKED, None, "eap_ig")
    return {edge: abs(scores.of(edge)) for edge in scores.graph.edges}


# ---------------------------------------------------------------------- the two scales


def test_sizes_take_steps_of_a_tenth() -> None:
    sizes = sizes_up_to(2329)
    assert sizes[:16] == list(range(16)) and sizes[-1] == 2329 and len(sizes) < 80
    assert all(b - a <= max(1, round(0.11 * a)) for a, b in pairwise(sizes))


def test_levels_have_three_digits_and_keep_the_edges_they_are_of() -> None:
    graph = GROUND.graph(None)
    scores = some_scores(graph, m0_logits=-1.2345, embed_m0=0.5, embed_logits=-0.001239)
    ranking = ranking_of(graph, scores)
    levels = levels_of(ranking)
    assert levels == [0.0, 0.00123, 0.5, 1.23, 1.24]
    assert [ranking.reaching(level) for level in levels] == [graph.n_edges, 3, 2, 1, 0]
    assert set(ranking.best(2).edges) == {"m0->logits", "embed->m0"}  # whatever the sign
    assert (
        told_of(ranking, 2, "nats")
        == f"2 of {graph.n_edges} edges, of a score of 0.5 nats or more in size"
    )
    assert told_of(ranking, 0, "nats") == f"0 of {graph.n_edges} edges"


def test_levels_of_many_edges_are_few_and_all_apart() -> None:
    graph = GROUND.graph(3)
    order = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(graph.is_edge.shape)
    scores[graph.is_edge] = -(1.1**order)  # a tenth apart: three digits tell all apart
    ranking = ranking_of(graph, scores)
    levels = levels_of(ranking)
    counts = [ranking.reaching(level) for level in levels]
    assert counts[0] == graph.n_edges == counts[1] and counts[-1] == 0
    assert len({f"{level:.3g}" for level in levels}) == len(levels)
    assert counts == sorted(counts, reverse=True)
    assert set(range(17)) <= set(counts)  # every one of the strongest
    assert len(levels) < 40 < graph.n_edges


def test_scores_of_nothing_have_one_level_and_nan_is_refused() -> None:
    graph = GROUND.graph(None)
    assert levels_of(ranking_of(graph, some_scores(graph))) == [0.0]
    with pytest.raises(CircuitError, match="NaN"):
        ranking_of(graph, some_scores(graph, m0_logits=float("nan")))


@pytest.mark.parametrize("n_pos", [None, 3])
def test_edges_that_touch_a_node_are_those_that_are_named_after_it(n_pos: int | None) -> None:
    graph = GROUND.graph(n_pos)
    for node in (*nodes_of(graph), "a0.h1", "a0", "m0@9", "m0@x"):
        found = {graph.name(tuple(index)) for index in touches(graph, [node]).nonzero().tolist()}
        assert found == set(touching(graph.edges, [node])), node
    both = touches(graph, ["m0", "embed"])
    assert torch.equal(both, touches(graph, ["m0"]) | touches(graph, ["embed"]))


def test_units_are_the_metrics_where_scores_are_its_changes(network: Network) -> None:
    assert unit_by(network, "eap_ig", "logit_difference") == "nats"
    assert unit_by(network, "exact", "accuracy") == "share"
    assert unit_by(network, "edge_masks", "logit_difference") == ""
    kept = next(one for one in read_records(network.run) if one.kind == "circuit")
    assert unit_by(network, kept.id, "accuracy") == "nats"  # the record's own metric
    assert unit_by(network, "circuit-0000", "logit_difference") == ""


# ---------------------------------------------------------------------- the page


def test_a_score_is_chosen_undone_and_redone(app_folder: Path, network: Network) -> None:
    everything = whole(network).edges
    start = saved_draft(network, Replace(everything, None, "all"))
    test = page(app_folder, **BY_SCORE, trace_draft=start.id or "")
    slider = test.select_slider(key="trace_score")
    assert slider.label == "Least size of a score (nats)" and slider.value == 0.0
    assert f"{len(everything)} of {len(everything)} edges" in captions(test)
    level = levels_of_page(network)[-6]
    slider.set_value(level).run()
    expected = [edge for edge, size in scored(network).items() if size >= level]
    assert 1 < len(expected) < 10
    state = draft_of(test, network).history
    assert set(ground_of(network).circuit(state.state).edges) == set(expected)
    assert metric(test, "Edges") == str(len(expected))
    assert test.select_slider(key="trace_score").value == level
    words = f"{len(expected)} edges of a score of {level:.3g} or more by eap_ig"
    assert state.to_undo == words
    assert f"{len(expected)} of {len(everything)} edges" in captions(test)
    assert "the circuit has others" not in captions(test)
    test.button(key="trace_undo").click().run()
    assert metric(test, "Edges") == str(len(everything))
    assert test.select_slider(key="trace_score").value == 0.0
    test.button(key="trace_redo").click().run()
    assert metric(test, "Edges") == str(len(expected))
    assert test.select_slider(key="trace_score").value == level
    test.segmented_control(key="trace_cut").set_value("By number").run()
    assert test.select_slider(key="trace_size").value == len(expected)
    least = f"edges, of a score of {level:.3g} nats or more in size"
    assert f"{len(expected)} of {len(everything)} {least}" in captions(test)


def levels_of_page(network: Network) -> list[float]:
    from apps.web.trace.circuit_numbers import scores_of

    scores = scores_of(network, ASKED, None, "eap_ig").values
    return levels_of(ranking_of(ground_of(network).graph(None), scores))


@pytest.mark.parametrize("address", [BY_SCORE, {}])
def test_edges_of_pinned_nodes_stay_and_the_slider_too(
    app_folder: Path, network: Network, address: dict[str, str]
) -> None:
    everything = whole(network).edges
    pinned = [edge for edge in everything if "a0.h0" in edge]
    start = saved_draft(network, Replace(everything, None, "all"), Pin("a0.h0"))
    test = page(app_folder, **address, trace_draft=start.id or "")
    key = "trace_score" if address else "trace_size"
    chosen = levels_of_page(network)[-1] if address else 0  # above all scores
    test.select_slider(key=key).set_value(chosen).run()
    left = ground_of(network).circuit(draft_of(test, network).history.state).edges
    assert set(left) == set(pinned)
    assert test.select_slider(key=key).value == chosen
    assert "the circuit has others" not in captions(test)


def test_it_is_said_where_the_circuit_was_edited(app_folder: Path, network: Network) -> None:
    scores = scored(network)
    ranked = sorted(scores, key=lambda edge: -scores[edge])
    start = saved_draft(network, Replace(tuple(ranked[:4]), None, "x"), Remove(ranked[0]))
    test = page(app_folder, **BY_SCORE, trace_draft=start.id or "")
    assert test.select_slider(key="trace_score").value > 0
    assert "edges; the circuit has others" in captions(test)


def test_an_empty_choice_in_the_address_is_by_number(app_folder: Path, network: Network) -> None:
    start = saved_draft(network, Replace(("m0->logits",), None, "x"))
    test = page(app_folder, trace_cut="", trace_draft=start.id or "")
    assert not test.error and test.select_slider(key="trace_size").value == 1
    assert address_of(test) == start.id

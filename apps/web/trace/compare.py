"""The Compare section of the Trace page: two circuits side by side, and what they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from apps.web.charts.show import show, table
from apps.web.choice import Network, find_run, network_of, run_names
from apps.web.shell import escaped
from apps.web.trace import draft
from apps.web.trace.circuit_details import told
from apps.web.trace.circuit_kept import (
    DRAFT,
    choose_kept,
    draft_titles,
    record_titles,
    records_with_circuits,
)
from apps.web.trace.circuit_numbers import (
    Edges,
    Measured,
    drawn,
    faithfulness_of,
    is_quick,
    scores_of,
)
from apps.web.trace.circuit_picture import edge_label, picture_of, places_of
from apps.web.trace.circuit_sources import method_chosen
from apps.web.trace.draft_files import ground_of, read_draft
from apps.web.trace.draft_history import bits_of
from apps.web.trace.question import AskedQuestion, question
from circuits.analyses.circuit import circuit_of
from circuits.circuit import Circuit
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.records import read_arrays
from workbench.session.schema import Marks

HEIGHT = 380


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two circuits, on the network looked at."""

    title: str
    circuit: Circuit
    marks: Marks
    record: Record | None
    """Where it is from, if from a record."""


def draw(network: Network) -> None:
    """Draw the choice of two circuits, their pictures, their numbers and their edges."""
    asked = drawn(question(network))
    st.markdown("Choose two circuits: which edges do they share, and do these do the task alone?")
    others = runs_of_same_shape(network)
    columns = st.columns(2, gap="medium")
    sides: list[Side] = []
    for column, name in zip(columns, ("left", "right"), strict=True):
        with column:
            side = _choose(network, name, others)
        if side is not None:
            sides.append(side)
    if len(sides) < 2:
        st.info(
            "There are not two circuits yet. Build one in the Circuit section, and keep a finding "
            "or begin a new draft there.",
            icon=":material/compare:",
        )
        return
    left, right = sides
    if left.circuit.graph != right.circuit.graph:
        st.info("One of the two has edges for each position, the other has not: choose alike.")
        return
    _draw_pictures(network, asked, left, right, columns)
    _draw_shared(network, asked, left, right)


def runs_of_same_shape(network: Network) -> list[str]:
    """Names of runs whose networks have the same graph and task, this one first."""
    found = [network.name]
    for name in run_names():
        if name == network.name:
            continue
        try:
            run = find_run(name)
        except WorkbenchError:
            continue  # the Network page says what is wrong with it
        if run.steps and run.config.model == network.run.config.model and run.task == network.task:
            found.append(name)
    return found


def _choose(network: Network, side: str, others: list[str]) -> Side | None:
    """Draw the menus of one side; the circuit chosen."""
    name = others[0]
    if len(others) > 1:
        name = st.selectbox(
            f"Run, {side}",
            others,
            key=f"trace_{side}_run",
            bind="query-params",
            help="Networks of the same shape and task: their circuits have the same edges.",
        )
    other = network if name == network.name else network_of(find_run(name))
    titles = _circuits_of(network, other)
    if not titles:
        st.caption("No circuit of this run is kept.")
        return None
    choice = choose_kept(
        f"Circuit, {side}",
        titles,
        key=f"trace_{side}",
        usual=int(side == "right"),
        help="Drafts of this network, and its findings that hold a circuit.",
    )
    st.caption(escaped(titles[choice]))
    return _side(network, other, choice, titles[choice])


def _circuits_of(network: Network, other: Network) -> dict[str, str]:
    """Titles of the circuits of a network by identity: its drafts, if it is ours, and records."""
    drafts: dict[str, str] = {}
    if other.name == network.name:
        drafts = draft_titles(network, edited=draft.current(network).id, least=1)
    return drafts | record_titles(other)


def _side(network: Network, other: Network, choice: str, title: str) -> Side:
    """A chosen circuit. Raises what reading it raises."""
    if choice.startswith(DRAFT):
        state = read_draft(network, choice.removeprefix(DRAFT)).history.state
        circuit = ground_of(network).circuit(state)
        return Side(title=title, circuit=circuit, marks=state.marks, record=None)
    record = next(one for one in records_with_circuits(other) if one.id == choice)
    arrays = read_arrays(other.run, record)
    circuit, _ = circuit_of(record, arrays, network.run.config.model)
    return Side(title=title, circuit=circuit, marks=Marks(), record=record)


def _draw_pictures(
    network: Network,
    asked: AskedQuestion,
    left: Side,
    right: Side,
    columns: Sequence[Any],
) -> None:
    """Both circuits, nodes in the same places, edges by the same scores on one scale."""
    both = left.circuit.union(right.circuit)
    places = places_of(both.graph.n_pos, both.edges)
    method = method_chosen()
    method = method if is_quick(network, asked, both.graph.n_pos, method) else "eap"
    scores = scores_of(network, asked, both.graph.n_pos, method).values
    positions = ground_of(network).positions
    wide = both.graph.n_pos is not None  # a column for each position: one below the other
    if wide:
        columns = (st.container(), st.container())
    for column, side, name in zip(columns, (left, right), ("left", "right"), strict=True):
        picture = picture_of(
            side.circuit,
            scores,
            Marks(labels=side.marks.labels),
            name=f"circuit-{name}",
            measure=f"score by {method}",
            live=side.circuit.pruned(positions),
            places=places,
            limit=float(scores[both.member].abs().max()) if both.n_edges else None,
        )
        with column:
            show(picture.chart, key=f"trace_picture_{name}", height=HEIGHT)
    st.caption(
        "Nodes stand in the same places; edges are drawn by the same scores of this network."
    )


def _draw_shared(network: Network, asked: AskedQuestion, left: Side, right: Side) -> None:
    shared, either = left.circuit.intersection(right.circuit), left.circuit.union(right.circuit)
    likeness = shared.n_edges / either.n_edges if either.n_edges else 1.0
    only = [one.difference(shared).n_edges for one in (left.circuit, right.circuit)]
    for column, name, value in zip(
        st.columns(4),
        ("Only left", "In both", "Only right", "Jaccard index"),
        (f"{only[0]}", f"{shared.n_edges}", f"{only[1]}", f"{likeness:.3f}"),
        strict=True,
    ):
        column.metric(
            name,
            value,
            help="Edges in both, as a share of those in either." if "J" in name else None,
        )
    circuits = {
        "left": left.circuit,
        "right": right.circuit,
        "in both": shared,
        "in either": either,
    }
    with st.spinner("Measuring the faithfulness of both, of what they share, and of all …"):
        rows = [_row(network, asked, name, one) for name, one in circuits.items()]
    if left.record or right.record:
        records = (left.record, right.record, None, None)
        rows = [row | _recorded(one) for row, one in zip(rows, records, strict=True)]
    table(
        rows, key="trace_compared", alt="Faithfulness of the two circuits, and of what they share."
    )
    st.caption(
        "Faithfulness here is of this network, on pairs other than those that edges are scored on. "
        "Recorded numbers are of the network and the question of the finding. Open a draft in the "
        "Circuit section to see it beside random circuits of its size."
    )
    table(
        edge_rows(left.circuit, right.circuit, left.marks.labels | right.marks.labels),
        key="trace_compared_edges",
        alt="Every edge of the two circuits, and which of them it is in.",
    )


def edge_rows(
    left: Circuit, right: Circuit, labels: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """Every edge of either circuit, in the graph's order: only left, only right, or in both; with
    what somebody called it, where any has a label."""
    ours, theirs = set(left.edges), set(right.edges)
    where = {(True, True): "both", (True, False): "only left", (False, True): "only right"}
    either = left.union(right).edges
    called = {edge: edge_label(labels or {}, edge) for edge in either}
    rows = [{"edge": edge, "in": where[edge in ours, edge in theirs]} for edge in either]
    if any(called.values()):
        rows = [row | {"label": called[row["edge"]]} for row in rows]
    return rows


def _row(network: Network, asked: AskedQuestion, name: str, circuit: Circuit) -> dict[str, str]:
    edges = Edges(n_pos=circuit.graph.n_pos, bits=bits_of(circuit))
    found: Measured = faithfulness_of(network, asked, edges)
    return {
        "circuit": name,
        "edges": str(circuit.n_edges),
        "faithfulness here": told(found),
        "n": f"{found.n} pairs",
    }


def _recorded(record: Record | None) -> dict[str, str]:
    """The numbers of a record; empty where there is no record."""
    numbers = {
        "recorded": "faithfulness",
        "random circuits": "random_mean",
        "percentile": "random_percentile",
        "completeness": "completeness",
        "minimality": "minimality",
    }
    if record is None:
        return dict.fromkeys((*numbers, "verdict"), "")
    result: Any = record.result
    values = {name: f"{result[key]:.3g}" for name, key in numbers.items()}
    return values | {"verdict": record.findings[0].verdict}

"""Where a circuit starts from: a method, parts chosen by hand, a kept one, a file, everything."""

import csv
import io
import tempfile
from functools import partial
from pathlib import Path

import streamlit as st

from apps.orders.ask import AskOrder
from apps.tracing import read_circuit
from apps.web.choice import Network
from apps.web.jobs import Status, job_ids, panel, start, unwatch, watch
from apps.web.shell import guarded
from apps.web.tab import tab
from apps.web.trace import draft
from apps.web.trace.circuit_kept import DRAFT, draft_titles, labelled, record_titles, taking
from apps.web.trace.circuit_numbers import found_by, is_quick, search_of
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import Ground, Operation
from apps.web.trace.draft_operations import AddComponent, AddEdge, Replace
from apps.web.trace.question import AskedQuestion
from apps.web.words import help_of
from circuits.circuit import INPUTS, Circuit
from circuits.circuit import circuit_of as circuit_of_edges
from circuits.method import methods
from circuits.neuronpedia import from_neuronpedia
from workbench import config
from workbench.analysis import Analysis
from workbench.errors import AppError, CircuitError, WorkbenchError
from workbench.session.schema import Marks
from workbench.storage import from_json

METHOD, HAND, KEPT, FILE, WHOLE = "Found", "By hand", "Kept", "From a file", "Everything"
WAYS = (METHOD, HAND, KEPT, FILE, WHOLE)
"""As the address spells them."""
USUAL_METHOD = "eap_ig"
LARGEST_MB = 8
"""Of an uploaded file."""
JOBS = "trace_job"
"""The jobs of this section, in the address."""


def draw_start(network: Network, asked: AskedQuestion) -> None:
    """Draw the choice of a beginning. What is taken replaces the draft, and can be undone."""
    way = st.segmented_control(
        "Start from",
        WAYS,
        default=METHOD,
        required=True,
        key="trace_start",
        bind="query-params",
        help="A circuit that a method finds; parts that you choose; one that was kept, a draft or "
        "a finding; an edge list or a Neuronpedia graph; or the whole network, to prune.",
    )
    draws = {METHOD: _draw_method, KEPT: _draw_kept, FILE: _draw_file, WHOLE: _draw_whole}
    draws.get(way or METHOD, _draw_hand)(network, asked)


def draw_jobs(network: Network) -> None:
    """Draw the jobs of this section; what one found becomes the draft."""
    for job_id in job_ids(JOBS):
        status = panel(job_id, key=f"trace_job_{job_id}", on_done=partial(_job_done, network))
        if not status.unfinished:
            st.button("Put away", key=f"trace_away_{job_id}", on_click=unwatch, args=(JOBS, job_id))


def order(network: Network, analysis: Analysis) -> None:
    """Have an analysis asked in a job, which keeps its record; it is shown until it has ended."""
    asked = AskOrder(
        run=network.name,
        step=network.step,
        analysis=analysis.kind,
        parameters=config.to_dict(analysis),
    )
    watch(JOBS, start(asked, owner=tab()))


def method_chosen() -> str:
    """The method that edges are scored by where the draft names no record."""
    name = st.session_state.get("trace_method", USUAL_METHOD)
    return name if name in methods else USUAL_METHOD


def take_record(network: Network, record_id: str) -> None:
    """Make the circuit of a record the draft."""
    try:
        draft.do(network, taking(network, record_id))
    except (WorkbenchError, OSError) as error:
        draft.say("error", str(error))


def circuit_in(data: bytes, name: str, ground: Ground) -> tuple[Circuit, Marks | None]:
    """The circuit in an uploaded file, and its marks where it has any.

    A CSV with a column `edge`; or JSON that `workbench circuit --given` reads: a list of edges, a
    record, or a Neuronpedia graph. Raises `AppError`, `CircuitError` or `RunError`.
    """
    if len(data) > LARGEST_MB * 2**20:
        raise AppError(f"the file has {len(data):,} bytes; at most {LARGEST_MB} MB here")
    if name.lower().endswith(".csv"):
        edges = _edges_of_csv(data)
        graph = ground.graph(ground.n_ctx if any("@" in edge for edge in edges) else None)
        return circuit_of_edges(graph, edges), None
    return _circuit_of_json(data, ground)


def _circuit_of_json(data: bytes, ground: Ground) -> tuple[Circuit, Marks | None]:
    """Of whichever of the two graphs fits; the first one's fault where neither does."""
    faults: list[WorkbenchError] = []
    for n_pos in (None, ground.n_ctx):
        graph = ground.graph(n_pos)
        try:
            if b'"qParams"' in data and b'"links"' in data:
                circuit, _, marks = from_neuronpedia(from_json(data, where="the file"), graph)
                return circuit, marks
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "circuit.json"
                path.write_bytes(data)
                return read_circuit(path, graph), None
        except WorkbenchError as error:
            faults.append(error)
    by_position = b"@" in data and b'"qParams"' not in data
    fault = faults[1] if by_position else faults[0]
    words = str(fault).partition("circuit.json")[2].lstrip(": ") or str(fault)
    raise CircuitError(f"the file: {words.removeprefix('the file: ')}")


def _edges_of_csv(data: bytes) -> list[str]:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode())))
    except (ValueError, csv.Error):
        rows = []
    edges = [row.get("edge") or "" for row in rows]
    if not edges or not all(edges):
        raise CircuitError("the file holds no circuit: write a column edge, such as m0->logits")
    return edges


# ---------------------------------------------------------------------- each way


def _draw_method(network: Network, asked: AskedQuestion) -> None:
    choice, where, button = st.columns([2, 2, 1], vertical_alignment="bottom")
    names = list(methods)
    method = choice.selectbox(
        "Method",
        names,
        index=names.index(USUAL_METHOD),
        key="trace_method",
        bind="query-params",
        help="How edges are scored; the fewest that are faithful are taken.  \n"
        + "  \n".join(f"{name}: {methods.get(name).summary}" for name in names),
    )
    by_position = where.toggle(
        "Each position has its own edges",
        key="trace_per_position",
        bind="query-params",
        help=help_of("edge"),
    )
    n_pos = network.task.n_ctx if by_position else None
    quick = is_quick(network, asked, n_pos, method)
    button.button(
        "Find" if quick else "Find in a job",
        key="trace_find",
        type="primary",
        icon=":material/search:",
        on_click=_mark_search,
    )
    if not st.session_state.pop("trace_search", False):
        return
    if not quick:
        order(network, search_of(asked, n_pos, method))
        st.rerun()
    with st.spinner(f"Scoring {ground_of(network).graph(n_pos).n_edges} edges by {method} …"):
        edges = found_by(network, asked, n_pos, method)
    _do(network, Replace(edges, n_pos, f"{len(edges)} edges found by {method}"))


def _mark_search() -> None:
    st.session_state["trace_search"] = True


def _draw_hand(network: Network, asked: AskedQuestion) -> None:
    circuit = draft.circuit(network)
    parts, first, edges, second = st.columns([2, 1, 2, 1], vertical_alignment="bottom")
    names = [one for one in circuit.graph.writers if one not in INPUTS]
    part = parts.selectbox(
        "Head or MLP",
        names,
        key="trace_hand_part",
        help="With its edges from the embeddings, to the logits and to the parts that are in. The "
        "Effects section adds parts, too.",
    )
    first.button(
        "Add part",
        key="trace_add_part",
        icon=":material/add:",
        on_click=draft.do,
        args=(network, AddComponent(part)),
    )
    there = set(circuit.edges)
    left = [edge for edge in circuit.graph.edges if edge not in there]
    edge = edges.selectbox("Edge", left, key="trace_hand_edge", help=help_of("edge"))
    second.button(
        "Add edge",
        key="trace_add_edge",
        icon=":material/add:",
        disabled=edge is None,
        on_click=draft.do,
        args=(network, AddEdge(edge or "")),
    )


def _draw_kept(network: Network, asked: AskedQuestion) -> None:
    now = draft.current(network).id
    drafts = draft_titles(network, edited=now)
    drafts.pop(f"{DRAFT}{now}", None)
    options = labelled(record_titles(network) | drafts)
    if not options:
        st.info("Nothing is kept of this network yet: find a circuit, and keep the finding.")
        return
    choice, button = st.columns([4, 1], vertical_alignment="bottom")
    named = st.query_params.get(draft.KEPT)
    if named in options and st.session_state.get("_trace_kept_named") != named:
        st.session_state["trace_kept_menu"] = st.session_state["_trace_kept_named"] = named
    name = choice.selectbox(
        "Findings and drafts",
        list(options),
        format_func=lambda one: options.get(one, one),
        key="trace_kept_menu",
        help="A finding's circuit replaces the draft. Another draft is opened as you left it.",
    )
    is_draft = name.startswith(DRAFT)
    button.button(
        "Open it" if is_draft else "Take it",
        key="trace_take",
        icon=":material/download_done:",
        on_click=draft.open_draft if is_draft else take_record,
        args=(network, name.removeprefix(DRAFT)),
    )


def _draw_file(network: Network, asked: AskedQuestion) -> None:
    file = st.file_uploader(
        "Edge list or graph",
        type=["json", "csv"],
        key="trace_file",
        max_upload_size=LARGEST_MB,
        help="JSON: a list of edges, a record of a circuit, or a Neuronpedia graph of this "
        "network. CSV: a column `edge`.",
    )
    if file is not None:
        guarded(partial(_draw_taking, network, file.getvalue(), file.name))


def _draw_taking(network: Network, data: bytes, name: str) -> None:
    circuit, marks = circuit_in(data, name, ground_of(network))
    st.button(
        f"Take its {circuit.n_edges} edges",
        key="trace_take_file",
        icon=":material/download_done:",
        on_click=draft.do,
        args=(network, _replacing(circuit, f"{circuit.n_edges} edges of a file", marks=marks)),
    )


def _draw_whole(network: Network, asked: AskedQuestion) -> None:
    where, button = st.columns([3, 1], vertical_alignment="bottom")
    by_position = where.toggle(
        "Each position has its own edges", key="trace_per_position", bind="query-params"
    )
    graph = ground_of(network).graph(network.task.n_ctx if by_position else None)
    circuit = Circuit(graph, graph.is_edge)
    button.button(
        f"Take all {graph.n_edges} edges",
        key="trace_take_whole",
        on_click=draft.do,
        args=(network, _replacing(circuit, f"all {graph.n_edges} edges")),
    )


# ---------------------------------------------------------------------- helpers


def _replacing(
    circuit: Circuit, words: str, *, scored_by: str = "", marks: Marks | None = None
) -> Replace:
    return Replace(circuit.edges, circuit.graph.n_pos, words, scored_by=scored_by, marks=marks)


def _do(network: Network, operation: Operation) -> None:
    draft.do(network, operation)
    st.rerun()


def _job_done(network: Network, status: Status) -> None:
    """A circuit that a job found becomes the draft."""
    unwatch(JOBS, status.id)
    record_id = (status.result or {}).get("record")
    if not isinstance(record_id, str):
        return
    draft.say("success", f"The finding {record_id} is kept.")
    ours = (status.parameters.get("run"), status.parameters.get("step"))
    if record_id.startswith("circuit-") and ours == (network.name, network.step):
        take_record(network, record_id)

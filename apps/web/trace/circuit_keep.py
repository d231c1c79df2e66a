"""Keeping a circuit: as a finding beside the run, and as files that other tools read."""

import csv
import io
import re
from functools import partial

import streamlit as st
import torch
from torch import Tensor

from apps.recording import keep
from apps.web.choice import Network
from apps.web.shell import guarded
from apps.web.trace import draft
from apps.web.trace.circuit_numbers import (
    evaluation_of,
    found_by,
    is_empty,
    is_judged_at_once,
    is_quick,
    judged,
    search_of,
)
from apps.web.trace.circuit_sources import method_chosen, order
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import State
from apps.web.trace.question import AskedQuestion
from apps.web.words import help_of
from circuits.analyses.circuit import CircuitAnalysis
from circuits.analyses.evaluation import EvaluationAnalysis
from circuits.circuit import Circuit
from circuits.neuronpedia import to_neuronpedia
from circuits.tracing import EXHAUSTIVE_UP_TO
from workbench.records import read_notebook, write_notebook
from workbench.session.schema import Marks
from workbench.storage import to_json


def draw_keep(network: Network, asked: AskedQuestion, state: State, scores: Tensor | None) -> None:
    """Draw the button that keeps the finding, and the downloads."""
    circuit = ground_of(network).circuit(state)
    empty = is_empty(state)
    with st.container(horizontal=True):
        pressed = st.button(
            "Keep this finding",
            key="trace_keep",
            icon=":material/bookmark_add:",
            disabled=empty,
            help="Writes the record beside the run, with its controls and verdict, whatever the "
            "verdict is; labels, groups and pins go with it into a saved session.  \n"
            + help_of("verdict"),
        )
        stem = _stem(network, circuit)
        exports = {
            "CSV": ("csv", "text/csv", partial(edges_csv, circuit, scores)),
            "JSON": ("json", "application/json", partial(edges_json, circuit)),
            "Neuronpedia": (
                "neuronpedia.json",
                "application/json",
                partial(neuronpedia_json, network, asked, state, scores),
            ),
        }
        with st.popover("Circuit as a file", icon=":material/download:", disabled=empty):
            for label, (ending, kind, made) in exports.items():
                st.download_button(
                    label,
                    data=made,
                    file_name=f"{stem}.{ending}",
                    mime=kind,
                    key=f"trace_export_{ending}",
                    icon=":material/download:",
                    on_click="ignore",
                    disabled=empty,
                )
    if pressed:
        guarded(partial(keep_finding, network, asked, state))


def keep_finding(network: Network, asked: AskedQuestion, state: State) -> None:
    """Keep what was found, or have a job find and keep it, and write the marks beside the run."""
    analysis = finding_asked(network, asked, state)
    circuit = ground_of(network).circuit(state)
    keep_marks(network, state.marks)
    listed = isinstance(analysis, CircuitAnalysis) and network.task.domain_size <= EXHAUSTIVE_UP_TO
    if listed or not is_judged_at_once(network, asked, circuit):
        order(network, analysis)
    else:
        with st.spinner("Judging beside random circuits, to keep the record …"):
            recorded = judged(network, analysis)
        keep(network.run, recorded)
        draft.say("success", f"The finding {recorded.record.id} is kept.")
    st.rerun()


def finding_asked(
    network: Network, asked: AskedQuestion, state: State
) -> CircuitAnalysis | EvaluationAnalysis:
    """What the finding is asked as: the search, where nobody has edited what it found."""
    circuit, method = ground_of(network).circuit(state), method_chosen()
    if is_quick(network, asked, state.n_pos, method) and not state.scored_by:
        found = draft.current(network).history.done[-1].words.endswith(f"found by {method}")
        if found and found_by(network, asked, state.n_pos, method) == circuit.edges:
            return search_of(asked, state.n_pos, method)
    return evaluation_of(network, asked, circuit)


def keep_marks(network: Network, marks: Marks) -> None:
    """Write labels, groups and pins beside the run, where there are any; places stay."""
    if not (marks.labels or marks.groups or marks.pinned):
        return
    notebook = read_notebook(network.run)
    now = marks.model_copy(update={"positions": notebook.marks.positions})
    if now != notebook.marks:
        write_notebook(network.run, notebook.model_copy(update={"marks": now}))


def edges_csv(circuit: Circuit, scores: Tensor | None) -> bytes:
    """A row for every edge, with its score where there are any."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["edge"] if scores is None else ["edge", "score"])
    for edge in circuit.edges:
        score = [] if scores is None else [f"{float(scores[circuit.graph.index(edge)]):.9g}"]
        writer.writerow([edge, *score])
    return file.getvalue().encode()


def edges_json(circuit: Circuit) -> bytes:
    """What `workbench circuit --given` reads."""
    return to_json(circuit.to_dict(), where="the circuit", indent=1)


def neuronpedia_json(
    network: Network, asked: AskedQuestion, state: State, scores: Tensor | None
) -> bytes:
    """The circuit as a Neuronpedia graph, beside the first input that the seed draws."""
    circuit = ground_of(network).circuit(state)
    generator = torch.Generator().manual_seed(asked.seed)
    content = to_neuronpedia(
        circuit,
        scores,
        task=network.task,
        example=network.task.sample(1, generator),
        slug=_stem(network, circuit),
        marks=state.marks,
    )
    return to_json(content, where="the graph", indent=1)


def _stem(network: Network, circuit: Circuit) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "-", network.name)[:120]
    return f"{name}-{circuit.n_edges}-edges"

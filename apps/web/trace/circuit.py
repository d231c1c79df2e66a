"""The Circuit section of the Trace page: a draft, its picture, its numbers, what is done to it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st
from torch import Tensor

from apps.web.charts.show import choose, show, table
from apps.web.choice import Network
from apps.web.shell import escaped, guarded
from apps.web.trace import draft
from apps.web.trace.circuit_details import PART, draw_details, interval_text, with_interval
from apps.web.trace.circuit_keep import draw_keep
from apps.web.trace.circuit_numbers import (
    drawn,
    edges_of,
    evaluation_of,
    faithfulness_of,
    is_empty,
    is_judged_at_once,
    is_quick,
    is_whole,
    judged,
    kept_record,
    pairs_of,
    scores_of,
)
from apps.web.trace.circuit_picture import Picture, picture_of
from apps.web.trace.circuit_sources import draw_jobs, draw_start, method_chosen, order
from apps.web.trace.circuit_threshold import draw_threshold
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import State
from apps.web.trace.draft_operations import Clear, PruneDeadEnds
from apps.web.trace.question import AskedQuestion, question
from apps.web.words import help_of
from circuits.analyses.circuit import circuit_of
from circuits.circuit import Circuit
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.records import read_arrays, read_records

HEIGHT = 460
"""Of the picture, in pixels."""


def draw(network: Network) -> None:
    """Draw the section: start, tools, picture, numbers, the chosen part, keeping."""
    asked = drawn(question(network))
    empty = is_empty(draft.state(network))
    name = "Find a circuit, or build one" if empty else "Start from another circuit"
    with st.expander(name, expanded=empty, icon=":material/flag:"):
        draw_start(network, asked)
    draw_jobs(network)
    state = draft.state(network)
    _tell()
    _draw_tools(network)
    scores = scores_for(network, asked, state)
    draw_threshold(network, state, scores, asked.metric)
    picture = None if is_empty(state) else _picture(network, state, scores)
    wide = state.n_pos is not None  # a column for each position
    chosen = _draw_picture(picture) if wide else None
    left, right = st.columns([11, 9], gap="medium")
    with left:
        chosen = chosen if wide else _draw_picture(picture)
        if picture is not None:
            with st.container(border=True):
                guarded(partial(draw_details, network, asked, state, picture, chosen, scores))
        draw_keep(network, asked, state, None if scores is None else scores[0])
    with right:
        guarded(partial(_draw_numbers, network, asked, state))


def compare(network: Network) -> None:
    """Draw the Compare section."""
    from apps.web.trace import compare as trace_compare

    trace_compare.draw(network)


def scores_for(network: Network, asked: AskedQuestion, state: State) -> tuple[Tensor, str] | None:
    """Scores of all edges, and what they are by; None where only a job could tell.

    Those of the record that the draft was taken from, else those of the chosen method.
    """
    if state.scored_by:
        found = _recorded_scores(network, state)
        if found is not None:
            return found, state.scored_by
    method = method_chosen()
    if not is_quick(network, asked, state.n_pos, method):
        method = "eap"
    if not is_quick(network, asked, state.n_pos, method):
        return None
    try:
        with st.spinner(f"Scoring edges by {method} …"):
            return scores_of(network, asked, state.n_pos, method).values, method
    except WorkbenchError as error:
        st.warning(escaped(str(error)))
        return None


def _recorded_scores(network: Network, state: State) -> Tensor | None:
    records = [one for one in read_records(network.run) if one.id == state.scored_by]
    if not records:
        return None
    try:
        arrays = read_arrays(network.run, records[0])
        circuit, values = circuit_of(records[0], arrays, network.run.config.model)
    except WorkbenchError:
        return None
    return values if circuit.graph.n_pos == state.n_pos else None


# ---------------------------------------------------------------------- tools


def _tell() -> None:
    found = draft.said()
    if found is None:
        return
    kind, text = found
    shown: dict[str, Callable[..., Any]] = {"error": st.error, "success": st.success}
    shown.get(kind, st.warning)(escaped(text))


def _draw_tools(network: Network) -> None:
    history = draft.current(network).history
    undo, redo, empty = history.to_undo, history.to_redo, is_empty(history.state)
    with st.container(horizontal=True):
        _tool("Undo", "undo", draft.undo, network, undo is None, _about("Undo", undo), "U")
        _tool("Redo", "redo", draft.redo, network, redo is None, _about("Redo", redo), "Y")
        prune = partial(draft.do, operation=PruneDeadEnds())
        why = "Removes edges on no path from the embeddings to the answer's logits."
        _tool("Prune dead ends", "content_cut", prune, network, empty, why, "D")
        clear = partial(draft.do, operation=Clear())
        why = "Removes every edge. Labels, groups and pins stay; it can be undone."
        _tool("Clear", "delete_sweep", clear, network, empty, why, None)
        why = "Begins an empty draft. This one stays under Start from: Kept."
        _tool("New draft", "note_add", draft.new_draft, network, undo is None, why, None)


def _tool(
    label: str,
    icon: str,
    work: Callable[[Network], None],
    network: Network,
    disabled: bool,
    help: str,
    shortcut: str | None,
) -> None:
    st.button(
        label,
        key=f"trace_{icon}",
        icon=f":material/{icon}:",
        disabled=disabled,
        help=help,
        shortcut=shortcut,
        on_click=partial(_changed, network, work),
    )


def _changed(network: Network, work: Callable[[Network], None]) -> None:
    work(network)
    choose(PART, None)  # rows of the table stand for other parts now


def _about(verb: str, words: str | None) -> str:
    return f"{verb}: nothing" if words is None else f"{verb}: {escaped(words)}"


# ---------------------------------------------------------------------- picture and numbers


def _picture(network: Network, state: State, scores: tuple[Tensor, str] | None) -> Picture:
    ground = ground_of(network)
    circuit = ground.circuit(state)
    return picture_of(
        circuit,
        None if scores is None else scores[0],
        state.marks,
        name=f"circuit-of-{network.name}",
        measure="edge" if scores is None else f"score by {scores[1]}",
        live=circuit.pruned(ground.positions),
    )


def _draw_picture(picture: Picture | None) -> int | None:
    if picture is None:
        st.info(
            "The circuit is empty. Press Find above, add parts by hand, or take parts in the "
            "Effects section.",
            icon=":material/hub:",
        )
        return None
    chosen = show(picture.chart, key=PART, select=True, height=HEIGHT)
    if any("@" in node.name for node in picture.chart.nodes):
        st.caption("Columns are positions, from left to right; rows are parts, upwards.")
    return chosen


def _draw_numbers(network: Network, asked: AskedQuestion, state: State) -> None:
    ground = ground_of(network)
    circuit = ground.circuit(state)
    now = faithfulness_of(network, asked, edges_of(state))
    live = circuit.pruned(ground.positions).n_edges
    size, faithful = st.columns([1, 3])
    size.metric("Edges", circuit.n_edges)
    faithful.metric("Faithfulness", f"{now.value + 0.0:.3f}", help=help_of("faithfulness"))
    finding, judging = pairs_of(network, asked)
    dead = circuit.n_edges - live
    ends = f", {dead} of them dead ends" if dead else ""
    st.caption(
        f"95 % interval {interval_text(now.interval)}. Of {circuit.graph.n_edges} edges{ends}; on "
        f"{len(judging)} pairs, none of the {len(finding)} that edges are scored on."
    )
    if is_empty(state):
        st.caption("No edge at all is faithful 0 by definition.")
        return
    if is_whole(circuit):
        st.caption("All edges are faithful 1 by definition: nothing is left out yet.")
    _draw_judgement(network, asked, circuit)


def _draw_judgement(network: Network, asked: AskedQuestion, circuit: Circuit) -> None:
    """The rest, which takes longer: beside random circuits, completeness, minimality, verdict."""
    analysis = evaluation_of(network, asked, circuit)
    place = st.empty()  # emptied at once: what stood here is about the circuit before the change
    if is_judged_at_once(network, asked, circuit):
        words = f"Judging beside {2 * analysis.n_random} random circuits, and knocking parts out …"
        with place, st.spinner(words):
            record: Record | None = judged(network, analysis).record
    else:
        record = kept_record(network, analysis)
    if record is not None:
        with place.container():
            draw_record(record)
    else:
        st.caption("Not judged yet: beside no random circuit, a faithfulness says little.")
        place.button(
            "Judge beside random circuits",
            key="trace_judge",
            icon=":material/balance:",
            on_click=guarded,
            args=(partial(order, network, analysis),),
            help="Takes about half a minute for a network of this size, in a job, which keeps the "
            "record. " + help_of("percentile"),
        )


def draw_record(record: Record) -> None:
    """The numbers of an evaluation, each beside its control, and the verdict with its reason."""
    finding, result = record.findings[0], record.result
    good = finding.verdict == "supported"
    words = f"**{finding.verdict}**: {escaped(str(result['reason']))}"
    (st.success if good else st.warning)(
        words, icon=":material/verified:" if good else ":material/do_not_disturb_on:"
    )
    table(number_rows(record), key="trace_numbers", alt="The circuit's numbers and their controls.")
    numbers: Any = result
    st.caption(
        f"n = {numbers['n']} pairs, {numbers['n_random']} random circuits of each kind, worst of "
        f"{numbers['completeness_details']['n_sets']} sets knocked out; members removed on "
        f"{numbers['minimality_details']['n']} pairs."
    )
    with st.popover("The rule", icon=":material/gavel:"):
        st.markdown(escaped(finding.rule))
        st.caption(help_of("percentile", "completeness"))


def number_rows(record: Record) -> list[dict[str, str]]:
    """Rows of the table of a circuit's or evaluation's record, numbers before their controls."""
    result: Any = record.result
    minimal = result["minimality_details"]
    named = {
        "Faithfulness": with_interval(result["faithfulness"], result["faithfulness_interval"]),
        "random circuits": with_interval(result["random_mean"], result["random_interval"]),
        "random, no dead ends": with_interval(
            result["connected_mean"], result["connected_interval"]
        ),
        "Nearer to 1 than": f"{result['random_percentile']:.4g} % of random",
        "and than": f"{result['connected_percentile']:.4g} % without dead ends",
        "Completeness": f"{result['completeness']:.3g} (all edges 0, none 1)",
        "Members needed": f"{result['minimality']:.0%}",
        f"{minimal['n_outside']} edges outside": f"matter up to {minimal['threshold']:.3g}",
    }
    return [{"number": name, "value": value} for name, value in named.items()]

"""Section of the Probes page: from which checkpoint on a variable can be read, and is used."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st
import torch

from apps.orders.ask import AskOrder
from apps.web import jobs
from apps.web.charts.chart import HeatMap, LineChart, Series
from apps.web.charts.show import show
from apps.web.choice import Network
from apps.web.probes.ask import usual_variable, variables_of
from apps.web.probes.lines import control_text, lines_at, records_of
from apps.web.tab import tab
from apps.web.words import help_of

if TYPE_CHECKING:
    from probes.training_times import AcrossTraining, Kind, Level
    from workbench.record import Record

JOB = "probes_training_job"
FEWEST = 3
"""Checkpoints below which there is no course of training to see."""
WORDS: dict["Kind", str] = {
    "new_inputs": "probe, unseen inputs",
    "new_values": "probe, unseen values",
    "swapped": "swaps that change the answer",
    "erased": "right answers when erased",
}
SHARE = (-0.02, 1.02)


def draw_training(network: Network) -> None:
    """The lines over training where they were measured, the job that measures them, and a strip."""
    for job_id in jobs.job_ids(JOB):
        jobs.panel(job_id, key=f"probes_training_{job_id}", on_done=_found, watched=JOB)
    records = {
        str(record.parameters["variable"]): record
        for record in records_of(network, "probe_training")
    }
    if records:
        _draw_record(records)
    else:
        st.info(
            "No variable was followed across the training of this network yet. Ask below.",
            icon=":material/timeline:",
        )
    _draw_question(network, asked_before=bool(records))
    st.markdown("##### Checkpoints that were probed")
    strip = strip_of(network.run.steps, records_of(network, "probe"))
    if strip is None:
        st.caption("None yet: probe one under This network, or all of them in a sweep.")
    else:
        show(strip, key="probes_strip", height=120 + 26 * len(strip.rows))


def _draw_record(records: dict[str, "Record"]) -> None:
    from probes.analyses.probe_training import across_of

    left, right = st.columns(2)
    variable = left.selectbox(
        "Variable followed", list(records), key="probes_followed", bind="query-params"
    )
    found = across_of(records[variable])
    site = right.selectbox(
        "Site",
        list(found.sites),
        index=len(found.sites) - 1,
        key="probes_followed_site",
        bind="query-params",
        help="A hook and a position; the answer is read at the last.",
    )
    show(network_lines(found), key="probes_network_lines", height=300)
    for kind in found.kinds:
        show(measure_lines(found, site, kind), key=f"probes_lines_{kind}", height=300)
    st.caption(_times(found), help=help_of("verdict", "interval"))


def network_lines(found: "AcrossTraining") -> LineChart:
    """How often the network itself is right, over training."""
    names: list[tuple[str, list[Level | None]]] = [
        ("held-out inputs", [one.held_out_accuracy for one in found.checkpoints]),
        ("training inputs", [one.train_accuracy for one in found.checkpoints]),
        ("all inputs", [one.accuracy for one in found.checkpoints]),
    ]
    known = [(name, levels) for name, levels in names if any(levels)]
    series = [_series(name, levels) for name, levels in known]
    since = found.generalises_from
    return LineChart(
        name="network-across-training",
        alt="share of right answers of the network at every checkpoint",
        x=tuple(map(float, found.steps)),
        series=tuple(series),
        x_axis="training step",
        y_axis="right answers of the network",
        y_range=SHARE,
        marks=() if since is None else ((float(since), "generalises"),),
    )


def measure_lines(found: "AcrossTraining", site: str, kind: "Kind") -> LineChart:
    """One measure at one site over training, beside every one of its controls (dashed)."""
    from probes.analyses.probe_training import NAMES

    measures = found.series(site, kind)
    controls = list(dict.fromkeys(name for one in measures for name in one.controls))
    since = found.times(site, kind).holds
    return LineChart(
        name=f"{kind.replace('_', '-')}-across-training",
        alt=f"{WORDS[kind]}, of {found.variable} at {site}, at every checkpoint, beside controls",
        x=tuple(map(float, found.steps)),
        series=(
            _series(WORDS[kind], [one.level for one in measures]),
            *(
                _series(
                    f"control: {NAMES.get(name, words(name))}",
                    [one.controls.get(name) for one in measures],
                    True,
                )
                for name in controls
            ),
        ),
        x_axis="training step",
        y_axis=WORDS[kind],
        y_range=SHARE,
        marks=() if since is None else ((float(since), "holds"),),
    )


def words(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def _series(name: str, levels: Sequence["Level | None"], control: bool = False) -> Series:
    return Series(
        name=name,
        y=tuple(None if one is None else one.value for one in levels),
        low=tuple(None if one is None else one.low for one in levels),
        high=tuple(None if one is None else one.high for one in levels),
        dash="dashed" if control else "solid",
    )


def _times(found: "AcrossTraining") -> str:
    from probes.training_times import RULE

    said = [
        f"{words} from step {step:,}" if step is not None else f"{words}: never"
        for words, step in (
            ("can be read", found.decodable_from),
            ("is used", found.used_from),
            ("the network generalises", found.generalises_from),
        )
        if words != "is used" or "swapped" in found.kinds
    ]
    return f"{'; '.join(said).capitalize()}. The rule: {RULE}."


def _draw_question(network: Network, *, asked_before: bool) -> None:
    steps = network.run.steps
    with st.expander("Follow a variable", expanded=not asked_before, icon=":material/add:"):
        if len(steps) < FEWEST:
            st.info(
                f"This network has {len(steps)} checkpoint{'s' if len(steps) > 1 else ''}, too few "
                "to see a course of training. Train it with more: on the Train page with the "
                "recipe quick_grokking, or `workbench train TASK --set log_checkpoints=40`.",
                icon=":material/school:",
            )
            return
        names = variables_of(network.task)
        left, right = st.columns(2)
        variable = left.selectbox(
            "Variable to follow",
            names,
            index=names.index(usual_variable(network.task)),
            key="probes_follow",
            bind="query-params",
            help="One of the task's variables.",
        )
        swaps = right.toggle(
            "Also swap it (interchange)",
            value=True,
            key="probes_follow_swaps",
            bind="query-params",
            help="Searches, at every checkpoint, a subspace whose swap changes the answer as the "
            "variable would. Says whether it is used; takes most of the time.",
        )
        st.caption(f"At {len(steps)} checkpoints, up to step {steps[-1]:,}.")
        if st.button("Follow", key="probes_follow_start", type="primary"):
            order = AskOrder(
                run=network.name,
                analysis="probe_training",
                parameters={"variable": variable, "das": swaps},
            )
            jobs.watch(JOB, jobs.start(order, owner=tab()))
            st.rerun()


def strip_of(steps: Sequence[int], records: Sequence["Record"]) -> HeatMap | None:
    """Which checkpoints were probed for which variable: the best accuracy there; None for none."""
    lines = {step: lines_at(records, step) for step in steps}
    variables = list(dict.fromkeys(line.variable for some in lines.values() for line in some))
    if not variables:
        return None
    best = {
        (variable, step): max(own, key=lambda line: line.accuracy)
        for variable in variables
        for step in steps
        if (own := [line for line in lines[step] if line.variable == variable])
    }
    cells = [best.get((variable, step)) for variable in variables for step in steps]
    values = [math.nan if one is None else one.accuracy for one in cells]
    return HeatMap(
        name="probed-checkpoints",
        alt="best accuracy of a probe at each checkpoint; empty where none was asked",
        values=torch.tensor(values, dtype=torch.float64).reshape(len(variables), len(steps)),
        rows=tuple(variables),
        columns=tuple(f"{step:,}" for step in steps),
        row_axis="variable",
        column_axis="step",
        measure="accuracy at the best site",
        scale="share",
        details=(
            ("site", tuple("–" if one is None else str(one.place) for one in cells)),
            (
                "control task there [95 %]",
                tuple("–" if one is None else control_text(one) for one in cells),
            ),
        ),
    )


def _found(status: jobs.Status) -> None:
    jobs.unwatch(JOB, status.id)
    st.toast("Followed: the lines show it.", icon=":material/check_circle:")

"""Section of the Probes page: sweeps, started here, watched while they fill in, and asked."""

from typing import TYPE_CHECKING

import streamlit as st

from apps.orders.sweep import (
    QUESTION,
    RESULTS,
    SweepOrder,
    new_id,
    order_of,
    sweep_folder,
    sweep_ids,
)
from apps.web import jobs
from apps.web.charts.show import show
from apps.web.choice import find_run, run_names, runs_folder
from apps.web.probes.ask import (
    example_of,
    hooks_of_model,
    question_fields,
    rough,
    seconds_by_size,
    variables_of,
)
from apps.web.probes.lines import VALUES, kinds_of
from apps.web.probes.network import draw_maps
from apps.web.probes.query import draw_downloads, draw_query
from apps.web.probes.results import (
    Found,
    found_in,
    networks_map,
    networks_of,
    strength_bars,
    table_of_rows,
)
from apps.web.shell import escaped, guarded
from apps.web.tab import tab
from apps.web.words import help_of
from workbench.errors import WorkbenchError
from workbench.strict import one_line

if TYPE_CHECKING:
    from probes.batch import Status

JOB, CHOSEN = "probes_sweep_job", "probes_sweep"
"""In the address: the jobs, and the sweep."""
NEXT, BOX, KEPT = "_probes_sweep_next", "_probes_sweep_box", "_probes_sweep_kept"
"""In the session: the sweep to be chosen, the box, and its last value, as a change of page clears
box and address."""
EVERY = 2.0
"""Seconds between two looks at a sweep that is filling in."""
ONE, ALL = "One network", "All networks"


def draw_sweeps() -> None:
    """The sweep that is chosen, and the form that starts another."""
    runs = runs_folder()
    ids = sweep_ids(runs)
    for job_id in jobs.job_ids(JOB):
        jobs.panel(job_id, key=f"probes_sweep_panel_{job_id}", on_done=_finished, watched=JOB)
    if ids:
        chosen = _chosen(ids)
        guarded(lambda: _draw_sweep(chosen))
    else:
        st.info(
            "No sweep yet. Choose networks and variables below, and start one.",
            icon=":material/grid_view:",
        )
    _draw_form(open_form=not ids)


def _chosen(ids: list[str]) -> str:
    """The sweep in the address; the one just started, or the newest, is put there.

    A bound box would leave its default out of the address, and a link would lead to whichever is
    newest by then.
    """
    state, address = st.session_state, st.query_params
    wanted = state.pop(NEXT, None) or address.get(CHOSEN) or state.get(KEPT)
    if wanted is not None and wanted not in ids:
        st.warning(f"No sweep {escaped(wanted[:80])}: the newest is shown.")
    state[BOX] = wanted if wanted in ids else ids[0]
    chosen: str = st.selectbox("Sweep", ids, key=BOX, on_change=_taken, help=help_of("sweep"))
    address[CHOSEN] = state[KEPT] = chosen
    return chosen


def _taken() -> None:
    st.query_params[CHOSEN] = st.session_state[BOX]


def _draw_sweep(sweep: str) -> None:
    at_work = _job_of(sweep)
    every = EVERY if at_work else None
    st.fragment(lambda: guarded(lambda: _draw_progress(sweep)), run_every=every)()
    folder = sweep_folder(runs_folder(), sweep)
    if not (folder / RESULTS).is_dir():
        return
    found = found_in(folder / RESULTS)
    if found.networks:
        rows = table_of_rows(found)
        draw_query(rows, sweep)
        draw_downloads(rows, sweep)
    with st.expander("On the command line", icon=":material/terminal:"):
        st.caption("Save the question as sweep.yaml, and give these where the runs folder lies.")
        st.code((folder / QUESTION).read_text(encoding="utf-8"), language="yaml")
        at = f"{runs_folder().name}/{folder.parent.name}/{sweep}"
        st.code(
            f"workbench probe run {at}/{QUESTION} -o {at}/{RESULTS}\n"
            f"workbench probe summary {at}/{RESULTS}",
            language="shell",
        )


def _draw_progress(sweep: str) -> None:
    """How far it is, and what there is to see; drawn again while it fills in."""
    results = sweep_folder(runs_folder(), sweep) / RESULTS
    at_work = _job_of(sweep)
    if not (results / "plan.json").is_file():
        if at_work:
            st.info(
                "Looking at the networks: the first numbers follow.", icon=":material/schedule:"
            )
        else:
            st.warning("It was stopped before its first number.", icon=":material/pause_circle:")
            _draw_resume(sweep)
        return
    from probes.batch import status

    now = status(results)
    _draw_counts(now)
    if now.done < now.total and not at_work:
        _draw_resume(sweep)
    found = found_in(results)
    if found.networks:
        _draw_found(found)
    else:
        st.caption("Maps appear with the first shard.")


def _draw_counts(now: "Status") -> None:
    st.progress(now.done / now.total, text=f"{now.done:,} of {now.total:,} shards done")
    others = [
        f"{count:,} {word}"
        for count, word in (
            (now.running, "at work"),
            (now.failed, "failed"),
            (now.stale, "let go of"),
        )
        if count
    ]
    st.caption(
        f"{now.rows:,} numbers, {now.bytes / 2**20:.1f} MiB. A shard is one site of one checkpoint."
        + (f" Of the others: {', '.join(others)}." if others else "")
    )


def _draw_found(found: Found) -> None:
    view = st.segmented_control(
        "View",
        [ONE, ALL],
        default=ALL if len(found.networks) > 1 else ONE,
        key="probes_sweep_view",
        bind="query-params",
        label_visibility="collapsed",
    )
    every = [line for lines in found.networks.values() for line in lines]
    if view == ALL:
        left, right = st.columns(2)
        value = left.selectbox(
            "Shown in the map", list(VALUES), key="probes_sweep_all", bind="query-params"
        )
        kinds = {f"{probe}, {split}": (probe, split) for probe, split in kinds_of(every)}
        kind = right.selectbox(
            "Probe and split of the map", list(kinds), key="probes_sweep_of", bind="query-params"
        )
        probe, split = kinds[kind]
        chart = networks_map(found, value, probe=probe, split=split)
        show(chart, key="probes_sweep_map", height=150 + 26 * len(chart.rows), open_table=True)
        return
    names = dict(zip(networks_of(found), found.networks, strict=True))
    name = st.selectbox(
        "Network of the sweep", list(names), key="probes_sweep_network", bind="query-params"
    )
    which = names[name]
    line = draw_maps(
        found.networks[which], _tokens(which[0]), sites=found.hooks, key="probes_sweep"
    )
    bars = None if line is None else strength_bars(table_of_rows(found), which, line)
    if bars is not None:
        st.markdown("##### At every strength")
        show(bars, key="probes_sweep_strengths", height=260)


def _draw_resume(sweep: str) -> None:
    st.caption("It was stopped, or some of it failed. What is finished is kept.")
    if st.button("Resume", key="probes_sweep_resume", icon=":material/play_arrow:"):
        _start(order_of(runs_folder(), sweep))
        st.rerun()


# ---------------------------------------------------------------------- starting


def _draw_form(*, open_form: bool) -> None:
    with st.expander("Start a sweep", expanded=open_form, icon=":material/add:"):
        guarded(_form)


def _form() -> None:
    names = run_names()
    looked_at = [name for name in names if name == st.session_state.get("run")]
    chosen = st.multiselect(
        "Networks",
        names,
        default=looked_at or names[:1],
        key="probes_sweep_runs",
        bind="query-params",
        help="Of one task, so that they have the same variables and sites.",
    )
    if not chosen:
        st.info("Choose at least one network. Train one where there is none.")
        return
    known = [find_run(name) for name in chosen]
    steps = st.segmented_control(
        "Checkpoints",
        ["last", "all"],
        default="last",
        key="probes_sweep_steps",
        bind="query-params",
        required=True,
        help=help_of("checkpoint"),
    )
    first = known[0]
    asked = question_fields(first.task, hooks_of_model(first.config.model), key="probes_sweep")
    if not asked.variables or not asked.probes:
        st.info("Choose at least one variable and one kind of probe.")
        return
    question = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asked.to_dict().items()
        if value is not None
    }
    order = SweepOrder(
        sweep=new_id(asked.variables), runs=tuple(chosen), question={"steps": steps, **question}
    )
    st.caption(_amount(order))
    st.code(order.yaml(runs_folder()), language="yaml")
    st.caption("The same question for `workbench probe run`; it is kept beside the results.")
    if st.button("Start the sweep", key="probes_sweep_start", type="primary"):
        order.prepare(runs_folder())
        _start(order)
        st.rerun()


def _start(order: SweepOrder) -> None:
    job_id = jobs.start(order, owner=tab())
    for one in jobs.all_jobs():  # those that stopped at this sweep have nothing left to say
        if one.kind == order.kind and not one.unfinished and _sweep_of(one) == order.sweep:
            jobs.unwatch(JOB, one.id)
    jobs.watch(JOB, job_id)
    st.session_state[NEXT] = order.sweep


def _amount(order: SweepOrder) -> str:
    """How much it is, in words. Raises `WorkbenchError`s for what a network does not have."""
    from probes.counting import amount_of
    from probes.spec import check_spec

    spec = order.sweep_in(runs_folder()).spec
    probes = checkpoints = 0
    seconds = 0.0
    for name in order.runs:
        run = find_run(name)
        check_spec(spec, run.task, variables_of(run.task))
        times = len(run.steps) if spec.steps == "all" else 1
        amount = amount_of(spec, run.config.model, n_pos=run.task.n_ctx)
        probes += times * amount.probes
        checkpoints += times
        seconds += times * seconds_by_size(amount, spec.variables, run.task, run.config.model)
    many = "checkpoint" if checkpoints == 1 else "checkpoints"
    return (
        f"{checkpoints:,} {many}, {probes:,} probes, controls included: roughly {rough(seconds)}. "
        "It may be stopped and resumed."
    )


# ---------------------------------------------------------------------- helpers


def _job_of(sweep: str) -> str | None:
    """The job that is at a sweep, if any."""
    for one in jobs.all_jobs():
        if one.kind == SweepOrder.kind and one.unfinished and _sweep_of(one) == sweep:
            return one.id
    return None


def _sweep_of(job: jobs.Status) -> str:
    return str(job.parameters.get("sweep", ""))


def _tokens(run: str) -> list[str]:
    """What stands at the positions of a run's example; nothing where the run is gone."""
    try:
        return example_of(find_run(run).task)
    except WorkbenchError:
        return []


def _finished(status: jobs.Status) -> None:
    jobs.unwatch(JOB, status.id)
    words = one_line(str(status.parameters.get("sweep", "")))
    st.toast(f"The sweep {escaped(words)} is done.", icon=":material/check_circle:")

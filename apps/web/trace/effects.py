"""Effects: one part after another is patched, and a map shows how much each moves the metric.

A click on a cell of the map opens what is known of that part (`apps.web.trace.cell`). The sweep is
the analysis that `workbench patch` asks; "Keep this finding" puts its record beside the run.
"""

import streamlit as st
import torch

from apps.recording import keep
from apps.web.charts.chart import HeatMap
from apps.web.charts.show import choose, show
from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.trace import cell as trace_cell
from apps.web.trace.question import AskedQuestion
from apps.web.trace.sweep import (
    Control,
    Swept,
    control_of,
    grid_of,
    identity_of,
    is_kept,
    kept_sweep,
    sites_of,
    swept,
    unit_of,
)
from apps.web.words import help_of
from circuits.analyses.patching import PatchingAnalysis
from circuits.patching import SIGNIFICANT
from workbench import config
from workbench.finding import Finding

MAP = "trace_cell"
"""The key of the map: the chosen cell is in the address under it."""
NO_STRONGEST = (
    "No part is named the strongest: that takes two parts and 8 pairs, half of them to choose it "
    "on and half to test it. Choose a family of pairs."
)
SITES_IN_WORDS = {
    "resid_pre": "residual stream before a layer",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream after a layer",
    "attn_out": "what all heads of a layer write",
    "mlp_in": "what the MLP reads",
    "mlp_out": "what the MLP writes",
    "head": "what one head writes",
    "head_q": "a head's queries",
    "head_k": "a head's keys",
    "head_v": "a head's values",
    "head_pattern": "where a head looks, by the position that looks",
    "neuron": "one neuron of the MLP",
}


def draw(network: Network, asked: AskedQuestion) -> None:
    """Draw the section. Raises what the sweep raises."""
    left, right = st.columns([5, 6], gap="medium")
    with left:
        analysis = _asked_sweep(network, asked)
        found = _found(network, analysis)
        if found is None:
            return
        chosen = _draw_map(found)
    with right:
        with st.spinner("The same sweep on untrained networks"):
            quick = not isinstance(swept(network, analysis), Swept)
            control = control_of(network, asked, analysis.site, analysis.by or (), quick=quick)
        _draw_strongest(found, control)
        _draw_buttons(network, found)
        if chosen is None:
            st.info(
                "Click a cell of the map, or choose a row of its table, to see what the part does.",
                icon=":material/ads_click:",
            )
        else:
            trace_cell.draw_effect(network, found, chosen)
    if chosen is not None:
        trace_cell.draw_part(network, asked, found, chosen)


def map_of(found: Swept, *, normalised: bool) -> HeatMap:
    """The sweep as a heat map; a cell of it is a row of the sweep's record."""
    rows, columns, row_axis, column_axis = grid_of(found)
    told = [found.row(index) for index in range(len(found.cells))]
    shape = (len(rows), len(columns))

    def column(name: str) -> torch.Tensor | None:
        values = [row[name] for row in told]
        return None if None in values else torch.tensor(values, dtype=torch.float64).reshape(shape)

    values = column("normalised" if normalised else "effect")
    assert values is not None
    sweep, unit = found.sweep, unit_of(found.sweep.metric)
    measure = f"effect on {sweep.metric}"
    return HeatMap(
        name=f"patching-{sweep.site}",
        alt=f"Mean effect of patching each {sweep.site} on {sweep.metric}, {sweep.direction}, "
        f"{sweep.n} pairs; the largest is at {found.cells[found.largest].name(found.positions)}.",
        values=values,
        rows=rows,
        columns=columns,
        row_axis=row_axis,
        column_axis=column_axis,
        measure=f"{measure}, share of the gap" if normalised else f"{measure} ({unit})",
        scale="signed",
        low=None if normalised else column("low"),
        high=None if normalised else column("high"),
        details=(
            ("part", tuple(cell.name(found.positions) for cell in found.cells)),
            ("q", tuple(f"{row['q']:.2g}" for row in told)),
            ("pairs", (str(sweep.n),) * len(told)),
        ),
    )


def _asked_sweep(network: Network, asked: AskedQuestion) -> PatchingAnalysis:
    """The kind of part that is patched."""
    sites = sites_of(network)
    kind, split = st.columns([3, 2], vertical_alignment="bottom")
    chosen = kind.selectbox(
        "Part",
        sites,
        index=sites.index("head"),
        key="trace_site",
        bind="query-params",
        help="What is patched, one after another.  \n"
        + "  \n".join(f"`{one}`: {SITES_IN_WORDS[one]}" for one in sites),
    )
    by_position = split.toggle(
        "By position",
        value=True,
        key="trace_split",
        bind="query-params",
        help="Off: a part is patched at all positions together.",
    )
    return asked.patching(chosen, ("position",) if by_position else ())


def _found(network: Network, analysis: PatchingAnalysis) -> Swept | None:
    """The sweep; None where it takes long and a job is offered, or does it."""
    with st.spinner("Patching one part after another"):
        found = swept(network, analysis)
    if isinstance(found, Swept):
        return found
    identity = identity_of(network, analysis)
    if is_kept(network, identity):
        return kept_sweep(network, identity)
    _draw_job(network, analysis, found)
    return None


def _draw_job(network: Network, analysis: PatchingAnalysis, seconds: float) -> None:
    """A sweep that takes long is a job; the page shows it when its record is there."""
    from apps.orders.ask import AskOrder
    from apps.web import jobs
    from apps.web.tab import tab

    order = AskOrder(
        run=network.name,
        step=network.step,
        analysis=analysis.kind,
        parameters=config.to_dict(analysis),
    )
    asked = config.to_dict(order)
    same = (one for one in jobs.all_jobs() if one.kind == order.kind and one.parameters == asked)
    job = next(same, None)
    st.info(
        f"So many parts take about {seconds:.0f} s, so this sweep runs as a job. Its record is "
        "kept beside the run, and the map appears here when it is done.",
        icon=":material/hourglass_empty:",
    )
    owner = tab()
    if st.button(
        "Patch all of them",
        key="trace_patch_all",
        type="primary",
        disabled=job is not None and job.unfinished,
    ):
        job = jobs.status_of(jobs.start(order, owner=owner))
    if job is not None:
        jobs.panel(job.id, key="trace_sweep_job")


def _draw_strongest(found: Swept, control: Control) -> None:
    """The strongest part beside its runner-up and its control."""
    finding, best, unit = found.finding, found.best, unit_of(found.sweep.metric)
    st.markdown(
        f"**{'Largest' if best is None else 'Strongest'}: "
        f"{escaped(found.cells[found.strongest].name(found.positions))}**",
        help="The part with the largest effect, chosen on half of the pairs and measured on the "
        "other half, beside the part that came second; and the largest effect of any part in "
        "networks of this shape with fresh random weights, where nothing was learned.",
    )
    untrained = (
        f"untrained: at most {control.sweeps.mean:.3g} {unit} in size, "
        f"{len(control.sweeps.largest)} network{'s' * (len(control.sweeps.largest) > 1)}, "
        f"{control.pairs} pair{'s' * (control.pairs > 1)}"
    )
    if finding is None or best is None:
        row = found.row(found.strongest)
        n = f"{found.sweep.n} pair{'s' * (found.sweep.n > 1)}"
        st.markdown(_listed(f"effect {_told(row['effect'], None)} {unit}, {n}", untrained))
        st.caption(NO_STRONGEST)
        return
    second, other = found.cell_at(best.runner_up), finding.controls[0]
    effect = _told(*_as_measured(found, found.strongest, finding.value, finding.interval))
    beside = _told(*_as_measured(found, second, other.value, other.interval))
    st.markdown(
        _listed(
            f"effect {effect} {unit}, {finding.n} pairs",
            f"runner-up {beside} {unit}: {found.cells[second].name(found.positions)}",
            untrained,
        )
        + f"\n- verdict: **{finding.verdict}**. {escaped(reason_of(finding, unit))}",
        help=f"{help_of('verdict')} Here: {finding.rule}.",
    )


def reason_of(finding: Finding, unit: str) -> str:
    """Why the strongest part is called so, or is not."""
    details = finding.details
    ends = (details["lead from"], details["lead to"])
    lead = f"a lead over the runner-up of {_told(details['lead'], ends)} {unit}, pair by pair"
    q = f"q = {details['q']:.2g}"
    if finding.verdict == "supported":
        return f"It has {lead}; {q}."
    why = [f"{lead}, which may be none"] if ends[0] <= 0 else []
    why += [f"{q}, as luck would bring"] if details["q"] >= SIGNIFICANT else []
    return f"It has {' and '.join(why)}."


def _as_measured(
    found: Swept, index: int, value: float, interval: tuple[float, float] | None
) -> tuple[float, tuple[float, float] | None]:
    """An effect of a finding with the sign that it has in the map.

    A finding counts effects as positive towards the side on which the part was found.
    """
    chosen_on = found.sweep.effects.flatten(0, -2)[index, ::2]
    if float(chosen_on.mean()) >= 0:
        return value, interval
    return -value, None if interval is None else (-interval[1], -interval[0])


def _listed(*lines: str) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _told(value: float, interval: tuple[float, float] | None) -> str:
    ends = "" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]"
    return f"{value:+.3g}{ends}"


def _draw_buttons(network: Network, found: Swept) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Choose the strongest cell",
            key="trace_choose",
            icon=":material/target:",
            on_click=choose,
            args=(MAP, found.strongest),
        )
        if is_kept(network, found.recorded.record.id):
            st.badge("Kept: see Findings", icon=":material/check:", color="green")
        elif st.button(
            "Keep this finding" if found.finding else "Keep this sweep",
            key="trace_keep",
            icon=":material/bookmark:",
            help="Puts the record beside the run: it appears on Findings, and goes into sessions.",
        ):
            with st.spinner("Keeping the record, and drawing the report again"):
                keep(network.run, found.recorded)
            st.rerun()


def _draw_map(found: Swept) -> int | None:
    reason = found.recorded.record.result.get("normalised_undefined")
    normalised = st.toggle(
        "As a share of the gap",
        key="trace_normalised",
        bind="query-params",
        disabled=reason is not None,
        help="Divided by the mean gap between the two runs: 1 where a patch does it all. Not "
        "clamped: a patch may do more, or the opposite.",
    )
    if reason is not None:
        st.caption(escaped(str(reason)))
    chart = map_of(found, normalised=normalised and reason is None)
    height = min(640, max(280, 24 * len(chart.rows) + 110))
    return show(chart, key=MAP, select=True, height=height)

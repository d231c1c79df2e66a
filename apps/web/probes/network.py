"""Section of the Probes page: one network at one checkpoint, its maps, and a new question to it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.web.charts.show import show, table
from apps.web.choice import Network
from apps.web.probes.ask import draw_question
from apps.web.probes.line_in_full import accuracy_bars, erasure_bars, facts
from apps.web.probes.lines import (
    VALUES,
    accuracy_text,
    control_text,
    kinds_of,
    limit_of,
    lines_at,
    map_of,
    records_of,
    share,
    shuffled_text,
    verdict,
)
from apps.web.shell import escaped
from apps.web.words import help_of
from workbench.transformer import hook_names

if TYPE_CHECKING:
    from probes.summary import Line

MOST_MAPS = 4
"""Drawn at once."""


def draw_network(network: Network) -> None:
    """The maps of what was asked of this network, and the form that asks."""
    records = records_of(network, "probe")
    lines = lines_at(records, network.step)
    if lines:
        here: Any = next(one.result for one in records if one.step == network.step)
        sites = hook_names(network.run.config.model)
        draw_maps(lines, here["columns"], sites=sites, key="probes")
    else:
        asked = sorted({record.step for record in records})
        others = f" There are answers at step {', '.join(map(str, asked))}." if asked else ""
        st.info(
            f"Nothing was probed at step {network.step:,} of this network yet.{others} Ask below: "
            "which variables, at which sites.",
            icon=":material/sensors:",
        )
    draw_question(network)


def draw_maps(
    lines: Sequence["Line"], columns: Sequence[str], *, sites: Sequence[str], key: str
) -> "Line | None":
    """Controls, one map for each variable, and the line that was clicked last in full.

    Args:
        columns: what stands at each position of an example input.
        sites: the order of hooks.
        key: where the addresses of its widgets start.

    Returns:
        That line.
    """
    variables = list(dict.fromkeys(line.variable for line in lines))
    kinds = {f"{probe}, {split}": (probe, split) for probe, split in kinds_of(lines)}
    which, what, how = st.columns([3, 4, 2])
    chosen = which.multiselect(
        "Variables",
        variables,
        default=variables[:2],
        key=f"{key}_variables",
        bind="query-params",
        max_selections=MOST_MAPS,
        help="Of the task's variables, those that were probed. One map each.",
    )
    title = what.selectbox(
        "Shown in the maps",
        list(VALUES),
        key=f"{key}_value",
        bind="query-params",
        help=help_of("probe", "control task", "selectivity", "erasure"),
    )
    kind = how.selectbox(
        "Probe and split",
        list(kinds),
        key=f"{key}_kind",
        bind="query-params",
        help="The kind of probe, and how inputs were held out from it.",
    )
    if not chosen:
        st.info("Choose a variable to see its map.", icon=":material/arrow_upward:")
        return None
    of_kind = [line for line in lines if (line.probe, line.split) == kinds[kind]]
    shown = VALUES[title]
    limit = limit_of([line for line in of_kind if line.variable in chosen], shown)
    looked_at = None
    for variable in chosen:
        own = [line for line in of_kind if line.variable == variable]
        if own:
            st.markdown(f"##### {escaped(variable)}")
            st.caption(_best(own))
            made = map_of(own, shown, sites=sites, columns=columns, limit=limit)
            if bool(made.chart.values.isnan().all()):
                st.caption("This was not measured here: ask again, with erasure.")
            height = 150 + 26 * len(made.chart.rows)
            at = show(made.chart, key=f"{key}_cell_{variable}", select=True, height=height)
            line = None if at is None else made.lines[at]
            if line is not None:
                draw_line(line, key=f"{key}_line_{variable}")
                looked_at = line
    st.caption(_rule(), help=help_of("verdict", "q-value", "interval"))
    return looked_at


def draw_line(line: "Line", *, key: str) -> None:
    """One line in full, each number beside its controls."""
    with st.container(border=True):
        st.markdown(
            f"**{escaped(line.variable)}** at {escaped(line.place)}, position {line.position}"
        )
        show(accuracy_bars(line), key=f"{key}_accuracy", height=250)
        st.caption(
            "Whiskers are 95 % intervals: over inputs, and of the untrained over networks, whose "
            "bound is what one more might reach. Commonest: always that class. Noise has the "
            "lengths of the activations. A random subspace, of as many directions as there are "
            "classes, reads well where a variable is spread over the whole site; the rule asks "
            "nothing of it."
        )
        erased = erasure_bars(line)
        if erased is None:
            st.caption("It was not erased here: ask again with erasure to see whether it is used.")
        else:
            show(erased, key=f"{key}_erased", height=250)
            st.caption(
                "Beside the variable: as many random directions, and as many as a random function "
                "of the same tokens takes; the mean and the worst of the draws."
            )
        table(facts(line), key=f"{key}_facts", alt="what else was measured here")


def _best(lines: Sequence["Line"]) -> str:
    """Where one variable is read best, beside its controls."""
    best = max(lines, key=lambda line: (line.selective is True, line.accuracy))
    controls = ", ".join(
        f"{name} {value}"
        for name, value in (
            ("control task", control_text(best)),
            ("shuffled labels", shuffled_text(best)),
            ("bound of untrained networks", share(best.untrained_bound)),
        )
    )
    return (
        f"Read best at {escaped(best.place)}, position {best.position}: {accuracy_text(best)} of "
        f"{best.n:,} inputs ({controls}); {verdict(best)}."
    )


def _rule() -> str:
    from probes.summary import RULE

    return (
        f"The rule, over all lines of a record: {RULE}. A question mark: not asked, or a control "
        "is lacking."
    )

"""The threshold of a circuit: so many edges of the largest scores, or all from a score on.

Both cut one ranking of all edges, by the size of their scores. Where a slider stands follows from
the circuit, so that undo, redo and edits by hand move it, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import streamlit as st
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apps.web.charts.show import choose
from apps.web.choice import Network
from apps.web.shell import escaped
from apps.web.trace import draft
from apps.web.trace.circuit_details import PART
from apps.web.trace.draft_files import ground_of
from apps.web.trace.draft_history import State
from apps.web.trace.draft_operations import Keep
from apps.web.trace.sweep import unit_of
from apps.web.words import help_of
from circuits.circuit import Circuit, rank_edges
from circuits.graph import Graph, component
from circuits.method import methods
from workbench.records import read_records

CUT = "trace_cut"
"""Key of the choice between the two sliders, in the address."""
BY_NUMBER, BY_SCORE = "By number", "By score"
"""As the address spells them."""
NUMBER, SCORE = "trace_size", "trace_score"
"""Keys of the two sliders."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """All edges of a graph, that of the largest score first; ties in the graph's order."""

    graph: Graph
    order: Int[Tensor, " edge"]
    """Flat indices into `[*pos, writer, reader]`."""
    sizes: Float[Tensor, " edge"]
    """Of the scores, descending; float64."""

    def best(self, n: int) -> Circuit:
        """The first `n` edges."""
        member = torch.zeros_like(self.graph.is_edge)
        member.view(-1)[self.order[:n]] = True
        return Circuit(self.graph, member)

    def reaching(self, least: float) -> int:
        """How many edges have a score of this size or more."""
        return int((self.sizes >= least).sum())


def ranking_of(graph: Graph, scores: Float[Tensor, "*pos writer reader"]) -> Ranking:
    """The ranking that scores give. Raises `CircuitError` where some are NaN."""
    order = rank_edges(graph, scores, selection="absolute")
    sizes = scores.abs().detach().double().cpu().flatten()[order]
    return Ranking(graph=graph, order=order, sizes=sizes)


def draw_threshold(
    network: Network, state: State, scores: tuple[Tensor, str] | None, metric: str
) -> None:
    """Draw the choice of a threshold; what is chosen is one step of the draft's history."""
    if scores is None:
        st.caption("Edges have no scores yet: find a circuit in a job, or choose another method.")
        return
    values, by = scores
    if not bool(values.isfinite().all()):
        st.caption("Some scores are not finite, which ranks no edges: choose another method.")
        return
    ranking = ranking_of(ground_of(network).graph(state.n_pos), values)
    unit = unit_by(network, by, metric)
    which, slider, told = st.columns([9, 14, 9], vertical_alignment="center")
    with which:
        cut = st.segmented_control(
            "Threshold",
            (BY_NUMBER, BY_SCORE),
            default=BY_NUMBER,
            required=True,
            key=CUT,
            bind="query-params",
            help=help_of("threshold"),
        )
    with slider:
        if cut == BY_SCORE:
            n = _draw_scores(network, state, ranking, by, unit)
            words = f"{n} of {len(ranking.sizes)} edges"
        else:
            n = _draw_numbers(network, state, ranking, by)
            words = told_of(ranking, n, unit)
    told.caption(escaped(words + _edited(network, state, ranking, n)))


def sizes_up_to(most: int) -> list[int]:
    """Circuit sizes to choose from: every one up to 16, then in steps of about a tenth."""
    sizes = [0]
    while sizes[-1] < most:
        sizes.append(min(most, max(sizes[-1] + 1, round(sizes[-1] * 1.1))))
    return sizes


def levels_of(ranking: Ranking) -> list[float]:
    """Scores to choose from, of three digits, ascending: those of the sizes of `sizes_up_to`.

    Each is rounded down, so that it keeps the edge it is of. The first is 0, which keeps all; the
    last is above all scores.
    """
    ranks = sizes_up_to(len(ranking.sizes))[1:]
    sizes = [float(ranking.sizes[rank - 1]) for rank in ranks]
    levels = {0.0, *(_three_digits(size) for size in sizes)}
    if sizes and sizes[0] > 0:
        levels.add(_three_digits(sizes[0], further=1))
    return sorted(levels)


def told_of(ranking: Ranking, n: int, unit: str) -> str:
    """The `n` edges of the largest scores in words: how many of all, and from which score on."""
    words = f"{n} of {len(ranking.sizes)} edges"
    if not 0 < n < len(ranking.sizes):
        return words
    least = f"{_short(_three_digits(float(ranking.sizes[n - 1])))} {unit}".strip()
    return f"{words}, of a score of {least} or more in size"


def unit_by(network: Network, by: str, metric: str) -> str:
    """What scores by a method or of a record are measured in; empty where they are no changes of
    the metric."""
    if by not in methods:
        kept = next((one for one in read_records(network.run) if one.id == by), None)
        found = {} if kept is None else kept.parameters
        by, metric = str(found.get("method")), str(found.get("metric"))
    signed = by in methods and methods.get(by).signed
    return unit_of(metric) if signed else ""


# ---------------------------------------------------------------------- the two sliders


def _draw_numbers(network: Network, state: State, ranking: Ranking, by: str) -> int:
    """How many edges the slider stands at."""
    sizes = sizes_up_to(len(ranking.sizes))
    _stand(NUMBER, sizes, sizes, network, state, ranking)
    chosen: int = st.select_slider(
        "Edges of the highest score",
        sizes,
        key=NUMBER,
        help="Takes the edges of the largest scores, so many of them; edges of pinned nodes stay.",
        on_change=_take_number,
        args=(network, ranking, by),
    )
    return chosen


def _draw_scores(network: Network, state: State, ranking: Ranking, by: str, unit: str) -> int:
    """How many edges the slider's score keeps."""
    levels = levels_of(ranking)
    if len(levels) < 2:
        st.caption("Every score is 0: no threshold tells edges apart.")
        return len(ranking.sizes)
    counts = [ranking.reaching(level) for level in levels]
    _stand(SCORE, levels, counts, network, state, ranking)
    chosen = st.select_slider(
        f"Least size of a score ({unit})" if unit else "Least size of a score",
        levels,
        format_func=_short,
        key=SCORE,
        help="Takes every edge whose score, whatever its sign, is as large or larger; edges of "
        "pinned nodes stay.",
        on_change=_take_score,
        args=(network, ranking, by),
    )
    return ranking.reaching(chosen)


def _take_number(network: Network, ranking: Ranking, by: str) -> None:
    best = ranking.best(st.session_state[NUMBER])
    _take(network, Keep(best.edges, by))


def _take_score(network: Network, ranking: Ranking, by: str) -> None:
    least: float = st.session_state[SCORE]
    best = ranking.best(ranking.reaching(least))
    _take(network, Keep(best.edges, by, least=_short(least)))


def _take(network: Network, operation: Keep) -> None:
    draft.do(network, operation)
    choose(PART, None)  # rows of the table stand for other parts now


def _stand(
    key: str,
    options: Sequence[Any],
    counts: Sequence[int],
    network: Network,
    state: State,
    ranking: Ranking,
) -> None:
    """Put a slider where the circuit stands: at the option that keeps about as many edges.

    Edges of pinned nodes do not count, since no threshold removes them. Where several options keep
    as many, the slider stays at the one it is at.
    """
    free = ~touches(ranking.graph, state.marks.pinned)
    member = ground_of(network).circuit(state).member
    there = int((member & free).sum())
    kept = torch.cat((torch.zeros(1, dtype=torch.long), free.flatten()[ranking.order].cumsum(0)))
    apart = [abs(int(kept[count]) - there) for count in counts]
    nearest = [one for one, far in zip(options, apart, strict=True) if far == min(apart)]
    now = st.session_state.get(key)
    st.session_state[key] = now if now in nearest else nearest[0]


def _edited(network: Network, state: State, ranking: Ranking, n: int) -> str:
    """What is to be said where the circuit is not what the slider would take."""
    member = ground_of(network).circuit(state).member
    best, free = ranking.best(n).member, ~touches(ranking.graph, state.marks.pinned)
    same = torch.equal(member & free, best & free) and not bool((best & ~member).any())
    return "" if same else "; the circuit has others"


def touches(graph: Graph, nodes: Sequence[str]) -> Bool[Tensor, "*pos writer reader"]:
    """Edges that begin or end at one of some nodes, such as `a0.h1`, or `a0.h1@2` at position 2."""
    wanted, found = set(nodes), torch.zeros_like(graph.is_edge)
    for at in range(graph.n_pos or 1) if wanted else ():
        here = "" if graph.n_pos is None else f"@{at}"
        some = found if graph.n_pos is None else found[at]
        writers = [bool({one, one + here} & wanted) for one in graph.writers]
        bare = [component(one) for one in graph.readers]
        readers = [bool({one, one + here} & wanted) for one in bare]
        some |= torch.tensor(writers)[:, None] | torch.tensor(readers)
    return found & graph.is_edge


def _three_digits(size: float, *, further: int = 0) -> float:
    """A size rounded down to three digits, and so many units of the last one further."""
    exact = Decimal(repr(size))
    if not exact:
        return 0.0
    unit = Decimal(1).scaleb(exact.adjusted() - 2)
    return float(exact.quantize(unit, rounding=ROUND_FLOOR) + further * unit)


def _short(level: float) -> str:
    return f"{level:.3g}"

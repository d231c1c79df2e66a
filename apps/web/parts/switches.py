"""The switches of the Parts page for a network that adds on circles, in a grid and in the address.

One row per named frequency, one for all others, and the heads. Presets and "Only" set the same
widgets, so that a link restores them however they were set.
"""

from dataclasses import dataclass
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.grid_container import GridContainer

from apps.web.choice import Network
from apps.web.parts.data import board
from apps.web.words import help_of
from circuits.fourier.parts import structure
from circuits.fourier.switchboard import Switches, head_names

EMBEDDING, NEURONS, LOGITS, TURN = "parts_e", "parts_n", "parts_l", "parts_t"
"""Keys of a row's widgets, before its frequency."""
REST_EMBEDDING, REST_LOGITS = "parts_er", "parts_lr"
HEADS, FILL, SHIFT = "parts_heads", "parts_fill", "parts_shift"
HEADINGS = ("k", "Embed", "Neurons", "Logits", "Turn a by")
COLUMNS = len(HEADINGS) + 2
"""Of the grid: the neurons, with their number, and the turn take two each."""
NARROWEST = 42
"""Of its columns, in pixels; where there is less room, the grid scrolls."""
FILLS = ("mean", "zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One named frequency."""

    frequency: int
    embedded: bool
    """Whether its plane of the embeddings was named."""
    key: bool
    """Whether its plane of the logits was."""
    neurons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What can be switched."""

    rows: tuple[Row, ...]
    heads: tuple[str, ...]
    order: int
    """Of the group: shifts are modulo this."""
    logarithms: bool
    """Whether shifts are of logarithms, as the task multiplies."""

    @property
    def reach(self) -> int:
        """The largest shift to either side."""
        return self.order // 2

    @property
    def frequencies(self) -> int:
        """How many frequencies there are."""
        return self.order // 2


def grid_of(network: Network, seed: int) -> Grid:
    """The switches that a network has."""
    own = board(network, seed)
    parts, cyclic = own.study.parts, structure(own.study.subject)
    named = [*parts.key_frequencies]
    named += [k for k in parts.embedding_frequencies if k not in named]
    return Grid(
        rows=tuple(
            Row(
                frequency=k,
                embedded=k in parts.embedding_frequencies,
                key=k in parts.key_frequencies,
                neurons=int((parts.neuron_frequencies == k).sum()),
            )
            for k in named
        ),
        heads=tuple(head_names(own)),
        order=cyclic.order,
        logarithms=int(cyclic.elements[0]) == 1,
    )


def switches_set(grid: Grid) -> Switches:
    """The switches as the widgets have them (before or after they are drawn)."""
    state = st.session_state
    off = [row for row in grid.rows if row.embedded and not state.get(_e(row), True)]
    on = tuple(r.frequency for r in grid.rows if r.embedded and r not in off)
    logits_off = [row for row in grid.rows if row.key and not state.get(_l(row), True)]
    logits_on = tuple(r.frequency for r in grid.rows if r.key and r not in logits_off)
    rest, rest_logits = state.get(REST_EMBEDDING, True), state.get(REST_LOGITS, True)
    turns = {row.frequency: int(state.get(_t(row), 0)) for row in grid.rows if row.embedded}
    return Switches(
        embedding_only=None if rest else on,
        embedding_removed=tuple(row.frequency for row in off) if rest else (),
        rotated=tuple((k, s % grid.order) for k, s in turns.items() if s and k in on),
        neurons_ablated=tuple(
            r.frequency for r in grid.rows if r.neurons and not state.get(_n(r), True)
        ),
        logits_only=None if rest_logits else logits_on,
        logits_removed=tuple(row.frequency for row in logits_off) if rest_logits else (),
        heads_ablated=tuple(h for h in grid.heads if h in (state.get(HEADS) or ())),
        ablation="zero" if state.get(FILL) == "zero" else "mean",
    )


def draw_switches(grid: Grid) -> Switches:
    """Draw the grid and the heads; what is switched."""
    _tidy(grid)
    if grid.rows:
        with st.container(border=True, gap="small"):
            terms = ("key frequency", "embedding plane", "neurons of a frequency", "logit plane")
            st.caption(
                "The parts of each named frequency k. Press k to keep it alone.",
                help=help_of(*terms),
            )
            place = st.grid(
                COLUMNS,
                min_column_width=NARROWEST,
                wrap=False,
                gap=(4, 4),
                vertical_alignment="center",
            )
            _draw_heading(place)
            for row in grid.rows:
                _draw_row(place, grid, row)
            _draw_rest(place)
    else:
        st.caption("No frequency could be named, neither in the embeddings nor in the logits.")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.pills(
            "Heads off",
            grid.heads,
            selection_mode="multi",
            key=HEADS,
            bind="query-params",
            help=f"{help_of('ablation')}  \nThe formula does not say what a single head brings, so "
            "nothing is predicted: compare with other heads.",
        )
        st.segmented_control(
            "Put in place",
            FILLS,
            default="mean",
            required=True,
            key=FILL,
            bind="query-params",
            help="What heads and neurons that are off are set to: their mean over all inputs, or "
            "zero.",
        )
    return switches_set(grid)


# ---------------------------------------------------------------------- rows


def _draw_heading(place: GridContainer) -> None:
    k, embed, neurons, logits, turn = HEADINGS
    place.caption(k)
    place.caption(embed)
    place.cell(column_span=2).caption(neurons)
    place.caption(logits)
    place.cell(column_span=2).caption(turn, help=help_of("turning a plane"))


def _draw_row(place: GridContainer, grid: Grid, row: Row) -> None:
    """One cell after another."""
    k = row.frequency
    place.button(
        f"**{k}**",
        key=f"parts_only{k}",
        help=f"Keep frequency {k} alone of the embeddings.",
        on_click=partial(_keep_only, grid, row),
        disabled=not row.embedded,
        type="tertiary",
    )
    if row.embedded:
        _toggle(place, f"Embedding plane of frequency {k}", _e(row))
    else:
        place.caption("none")
    neurons = place.cell(column_span=2)
    if row.neurons:
        _toggle(neurons, f"Neurons of frequency {k}", _n(row), shown=f":small[{row.neurons:,}]")
    else:
        neurons.caption("0")
    if row.key:
        _toggle(place, f"Logit plane of frequency {k}", _l(row))
    else:
        place.caption("none")
    turn = place.cell(column_span=2)
    if row.embedded:
        turn.slider(
            f"Turn the plane of frequency {k} by",
            -grid.reach,
            grid.reach,
            0,
            key=_t(row),
            bind="query-params",
            label_visibility="collapsed",
        )


def _draw_rest(place: GridContainer) -> None:
    place.caption("rest")
    _toggle(place, "All other planes of the embeddings", REST_EMBEDDING)
    place.cell(column_span=2).caption("")
    _toggle(place, "All other planes of the logits", REST_LOGITS)


def _toggle(place: DeltaGenerator, label: str, key: str, shown: str | None = None) -> None:
    place.toggle(
        shown or label,
        value=True,
        key=key,
        bind="query-params",
        label_visibility="visible" if shown else "collapsed",
    )


# ---------------------------------------------------------------------- presets


def draw_presets(grid: Grid) -> None:
    """Draw the presets; after the switches, so that the shift they share is known."""
    st.session_state[SHIFT] = _common(grid)
    turned = any(row.embedded for row in grid.rows)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "All on", on_click=partial(_set, grid), key="parts_all", icon=":material/toggle_on:"
        )
        st.button(
            "Only the named planes",
            on_click=partial(_set, grid, rest=False),
            key="parts_named",
            disabled=not turned,
            help="Of the embeddings: the test of sufficiency.",
        )
        st.button(
            "Without the named planes",
            on_click=partial(_set, grid, off=True),
            key="parts_without",
            disabled=not turned,
            help="Of the embeddings: the test of necessity.",
        )
        st.button(
            "Only key logits",
            on_click=partial(_set, grid, rest_logits=False),
            key="parts_logits",
            disabled=not any(row.key for row in grid.rows),
            help="Keep the named planes of the logits alone.",
        )
        st.number_input(
            "Turn all by",
            -grid.reach,
            grid.reach,
            key=SHIFT,
            on_change=partial(_turn_all, grid),
            disabled=not turned,
            width=150,
            help=help_of("turning a plane"),
        )


def _set(
    grid: Grid, *, rest: bool = True, off: bool = False, rest_logits: bool = True, shift: int = 0
) -> None:
    """Every switch anew, for a preset. In a callback."""
    state = st.session_state
    for row in grid.rows:
        if row.embedded:
            state[_e(row)], state[_t(row)] = not off, shift
        if row.neurons:
            state[_n(row)] = True
        if row.key:
            state[_l(row)] = True
    if grid.rows:
        state[REST_EMBEDDING], state[REST_LOGITS] = rest, rest_logits
    state[HEADS], state[SHIFT] = [], shift


def _keep_only(grid: Grid, kept: Row) -> None:
    _set(grid, rest=False)
    for row in grid.rows:
        if row.embedded:
            st.session_state[_e(row)] = row == kept


def _turn_all(grid: Grid) -> None:
    _set(grid, shift=int(st.session_state[SHIFT]))


def _common(grid: Grid) -> int:
    """The shift of all planes where it is the same, else 0."""
    found = {int(st.session_state.get(_t(row), 0)) for row in grid.rows if row.embedded}
    return found.pop() if len(found) == 1 else 0


def _tidy(grid: Grid) -> None:
    """Drop values that this network does not have."""
    state = st.session_state
    for row in grid.rows:
        if abs(int(state.get(_t(row), 0))) > grid.reach:
            state[_t(row)] = 0
    known = [head for head in state.get(HEADS) or () if head in grid.heads]
    if HEADS in state and list(state[HEADS] or ()) != known:
        state[HEADS] = known


def _e(row: Row) -> str:
    return f"{EMBEDDING}{row.frequency}"


def _n(row: Row) -> str:
    return f"{NEURONS}{row.frequency}"


def _l(row: Row) -> str:
    return f"{LOGITS}{row.frequency}"


def _t(row: Row) -> str:
    return f"{TURN}{row.frequency}"

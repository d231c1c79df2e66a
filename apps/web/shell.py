"""What every page has in common: the menu, the choice of a network, and errors in one line."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.navigation.page import Page

from apps.web.choice import find_run, run_names
from apps.web.collection import keep_modules
from apps.web.view import ordered, views
from workbench.errors import WorkbenchError
from workbench.strict import one_line

OURS = "This is a fault of the Workbench, not yours. What happened is in the log of the app."
ICON = """<svg viewBox="0 0 24 24" xmlns="http://www.w3.org/2000/svg">
<g stroke="#3f7fe0" stroke-width="2"><path d="M5 6 12 12 19 6M12 12v8"/></g>
<g fill="#3f7fe0"><circle cx="5" cy="6" r="3"/><circle cx="19" cy="6" r="3"/>
<circle cx="12" cy="12" r="3"/><circle cx="12" cy="20" r="3"/></g></svg>"""
"""Of the tab. Drawn here: Streamlit fetches the picture of a symbol's name from another site."""
READABLE = """<style>
[data-variant][data-selected]:not([data-disabled]) { color: #8ab4f8 !important; }
</style>"""
"""The chosen one of several options in dark pages. Streamlit writes it in the colour of buttons,
where no colour gives 4.5 : 1 both here and under a button's white text."""
LAST_VIEW = "_last_view"
"""Key of the session state: the page that was looked at last and its address, which a session that
is saved takes along. The findings themselves, where it is saved, do not count."""
ONE_OF = frozenset(
    """
    network_attention network_drawn network_lens network_section network_shown parts_fill parts_map
    parts_operand parts_plane probes_section probes_sweep_steps trace_cut trace_of trace_section
    trace_start
    """.split()
)
"""Keys of the controls in which one option is always chosen."""
_SHOWN = "_shown_run"
"""Key of the session state: the run that this tab looked at last."""
_log = logging.getLogger(__name__)


def draw() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Workbench", page_icon=ICON, layout="wide")
    if st.context.theme.type == "dark":
        st.html(READABLE)
    start = st.Page(_start, title="Workbench", default=True, visibility="hidden")
    st.navigation([start, *(page_of(name) for name, _ in ordered())]).run()


def page_of(name: str) -> Page:
    """The page of this name, to be listed or led to."""
    view = views.get(name)
    return st.Page(
        partial(draw_page, name),
        title=view.title,
        icon=view.icon,
        url_path=name,
    )


def link_to(
    name: str, label: str, *, help: str | None = None, **address: str | Sequence[str]
) -> None:
    """A link to another page, with what it is to show: `link_to("trace", "Trace it", run=name)`.

    Values that the page does not know are dropped there, so they may be a stranger's.
    """
    icon = views.get(name).icon
    st.page_link(page_of(name), label=label, icon=icon, help=help, query_params=address)


def draw_page(name: str) -> None:
    """Draw one page, below the menu."""
    keep_modules()
    _mend_address()
    view = views.get(name)
    st.title(view.title)
    st.caption(view.summary)
    if view.needs_network:
        with st.sidebar:
            guarded(_network_choice)
    guarded(view.draw)
    if name != "findings":
        address = {key: st.query_params.get_all(key) for key in st.query_params}
        st.session_state[LAST_VIEW] = (name, address)


def _start() -> None:
    """The address without a page: lead to the first one, whose own address can then be shared."""
    address = {key: st.query_params.get_all(key) for key in st.query_params}
    st.switch_page(page_of(ordered()[0][0]), query_params=address)


def _mend_address() -> None:
    """Take values out of the address that make a bound widget of Streamlit's fail, or answer None
    where it promised not to: `inf` for whole numbers, and nothing for one of several options."""
    dropped = False
    for key in list(st.query_params):
        values = st.query_params.get_all(key)
        empty = key in ONE_OF and not any(values)
        if empty or (key != "run" and any(map(_is_infinite, values))):
            with suppress(StreamlitAPIException):  # its widget is there already, with a value
                del st.query_params[key]
                dropped = True
    if dropped:
        st.rerun()


def _is_infinite(text: str) -> bool:
    try:
        return math.isinf(float(text))
    except ValueError:
        return False


def guarded(work: Callable[[], None]) -> None:
    """Do something for a page; an error becomes one line on it, and never a stack trace."""
    try:
        work()
    except WorkbenchError as error:
        st.error(escaped(one_line(str(error))), icon=":material/error:")
    except OSError as error:
        st.error(
            escaped(one_line(f"{error.strerror or error}; free some space or mend its permissions"))
        )
    except Exception:
        _log.exception("while drawing a page")
        st.error(OURS, icon=":material/bug_report:")


def escaped(text: str) -> str:
    """Text as Markdown that shows it as it is: for names, notes and words of other people."""
    unlinked = AUTOLINK.sub(lambda found: f"{found[0]}{JOINER}", text)
    return "".join(f"\\{one}" if one in MARKUP else one for one in unlinked)


JOINER = "\u2060"
"""The word joiner: nothing to be seen, and no line ends at it."""
AUTOLINK = re.compile(r"https?:(?=//)|www(?=\.)|@", re.IGNORECASE)
"""What Streamlit makes a link of even where its marks are escaped, unless something follows it."""
MARKUP = frozenset("\\`*_{}[]()<>#+-.!|~:$&^=\"'@/")
"""Characters that Streamlit's Markdown may give a meaning to."""


def _network_choice() -> None:
    """The run and the checkpoint, in the sidebar and in the address."""
    names = run_names()
    if not names:
        st.info("No networks yet. Train one, or open a session.", icon=":material/school:")
        return
    st.session_state["run"] = _asked_run(names)
    name = st.selectbox(
        "Network",
        names,
        key="run",
        help="A trained or imported network. It is named after its task, seed and settings.",
    )
    st.session_state[_SHOWN] = name
    if st.query_params.get("run") != name:
        st.query_params["run"] = name
    steps = find_run(name).steps
    if len(steps) > 1:
        st.select_slider(
            "Checkpoint",
            steps,
            value=steps[-1],
            key="step",
            bind="query-params",
            help="The network as it was after so many training steps.",
        )


def _asked_run(names: list[str]) -> str:
    """The run that was chosen on the page, or else in the address, or else before; or the newest.

    It is always in the address (a bound widget leaves its default out), so that a link shows the
    same network after another one was trained.
    """
    shown, chosen = st.session_state.get(_SHOWN), st.session_state.get("run")
    address = st.query_params.get("run")
    for asked in (None if chosen == shown else chosen, address, shown):
        if asked in names:
            return str(asked)
        if asked and asked == address:
            st.warning(escaped(one_line(f"There is no run {asked!r} (any more).", longest=120)))
    return names[0]

"""What every page has in common: the menu, the choice of a network, and errors in one line."""

import logging
from collections.abc import Callable
from functools import partial

import streamlit as st

from apps.web.network import find_run, run_names
from apps.web.view import ordered, views
from workbench.errors import WorkbenchError
from workbench.strict import one_line

OURS = "This is a fault of the Workbench, not yours. What happened is in the log of the app."
_log = logging.getLogger(__name__)


def draw() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Workbench", page_icon=":material/hub:", layout="wide")
    pages = {
        name: st.Page(
            partial(draw_page, name),
            title=view.title,
            icon=view.icon,
            url_path=name,
            default=i == 0,
        )
        for i, (name, view) in enumerate(ordered())
    }
    st.navigation(list(pages.values())).run()


def draw_page(name: str) -> None:
    """Draw one page, below the menu."""
    view = views.get(name)
    st.title(view.title)
    st.caption(view.summary)
    if view.needs_network:
        with st.sidebar:
            guarded(_network_choice)
    guarded(view.draw)


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
    return "".join(f"\\{one}" if one in MARKUP else one for one in text)


MARKUP = frozenset("\\`*_{}[]()<>#+-.!|~:$&^=\"'@/")
"""Characters that Streamlit's Markdown may give a meaning to."""


def _network_choice() -> None:
    """The run and the checkpoint, in the sidebar and in the address."""
    names = run_names()
    if not names:
        st.info("No networks yet. Train one, or open a session.", icon=":material/school:")
        return
    name = st.selectbox(
        "Network",
        names,
        key="run",
        bind="query-params",
        help="A trained or imported network. It is named after its task, seed and settings.",
    )
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

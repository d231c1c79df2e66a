"""A page of the app: one file in `apps/views/`, registered by name."""

from collections.abc import Callable
from dataclasses import dataclass

from workbench.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A page. Its name under `views` is its path in the address."""

    title: str
    icon: str
    """A Material symbol, such as `:material/school:`."""
    order: int
    """Where it stands in the menu, ascending; the first is shown first."""
    summary: str
    """One line below the title: what is done here."""
    needs_network: bool
    """Whether the menu offers a run and a checkpoint to look at."""
    draw: Callable[[], None]
    """Draws the page. `WorkbenchError`s that it raises are shown in one line."""


views: Registry[View] = Registry("page", "apps.views")
"""Every page, by name."""


def ordered() -> list[tuple[str, View]]:
    """Names and pages, as the menu lists them."""
    return sorted(((name, views.get(name)) for name in views), key=lambda one: one[1].order)

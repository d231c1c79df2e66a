"""The Workbench: tasks, transformers, training, runs and sessions.

Names are imported when first used: reading a session file needs no torch.
"""

from typing import TYPE_CHECKING, Any

from workbench.version import __version__

if TYPE_CHECKING:
    from workbench.importing import import_network
    from workbench.run import open_run
    from workbench.session import open_session
    from workbench.task import make_task

_HOMES = {
    "import_network": "workbench.importing",
    "make_task": "workbench.task",
    "open_run": "workbench.run",
    "open_session": "workbench.session",
}
__all__ = ["__version__", "import_network", "make_task", "open_run", "open_session"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)

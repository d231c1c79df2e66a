"""Sessions: findings that travel, re-run and cannot harm.

    save_session(run, "adds-on-a-circle.workbench", note="seed 1")
    session = open_session("adds-on-a-circle.workbench")
    for replayed in replay(session): print(replayed.record.kind, replayed.state, replayed.why)

Opening and verifying need no torch; the other names are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from workbench.session.session import Session, open_session

if TYPE_CHECKING:
    from workbench.session.differing import diff
    from workbench.session.opening import open_as_run
    from workbench.session.replaying import replay
    from workbench.session.saving import save_session
    from workbench.session.verifying import verify

_HOMES = {
    "diff": "differing",
    "open_as_run": "opening",
    "replay": "replaying",
    "save_session": "saving",
    "verify": "verifying",
}
__all__ = ["Session", "diff", "open_as_run", "open_session", "replay", "save_session", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench.session' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"workbench.session.{_HOMES[name]}"), name)

"""Replaying an opened session in a job: what `workbench session replay` does."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from apps.session_targets import LIMIT
from apps.web.jobs.order import Order, orders
from workbench.progress import Progress

DIFFERENCES = 50
"""Of each record, the farthest ones, that are kept."""


@orders.register("replay")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOrder(Order):
    """Ask every question of a session again; the result is what `--json` prints of a replay."""

    kind: ClassVar[str] = "replay"

    session: str
    """Digest of a file that was opened in the app (`apps.web.findings.uploads`)."""
    limit: Annotated[int, Field(ge=1, le=24 * 3600)] = LIMIT
    """Seconds that one record may take."""

    def title(self) -> str:
        return f"Replay session {self.session[:12]}"

    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        from apps.session_console import replayed_document
        from apps.web.findings.uploads import opened_session
        from workbench.device import find_device
        from workbench.session.replaying import replay_steps

        session = opened_session(runs, self.session)
        device = find_device("auto")
        replayed = yield from replay_steps(session, device=device, limit=float(self.limit))
        document = replayed_document(session, replayed)
        for one in document["replayed"]:
            one["differences"] = one["differences"][:DIFFERENCES]
        return document

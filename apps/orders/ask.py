"""Asking an analysis in a job: what `workbench explain`, `patch`, `circuit` and `probe` do."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from apps.web.jobs.order import Order, orders
from workbench.errors import RunError
from workbench.progress import Progress


@orders.register("ask")
@dataclass(frozen=True, slots=True, kw_only=True)
class AskOrder(Order):
    """Ask an analysis of a run and keep its record; the result is `{"record": id}`."""

    kind: ClassVar[str] = "ask"

    run: str
    """The name of a run."""
    step: int | None = None
    """A checkpoint; the last when None."""
    analysis: str
    """A name of `workbench.analysis.analyses`."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Fields of that analysis that differ from its defaults."""

    def title(self) -> str:
        at = "" if self.step is None else f", step {self.step}"
        return f"Ask {self.analysis} of {self.run}{at}"

    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        from apps.recording import ask_run, keep
        from workbench.analysis import analysis_from
        from workbench.device import find_device
        from workbench.run import is_run, open_run

        analysis = analysis_from(self.analysis, self.parameters)
        if Path(self.run).name != self.run or not is_run(runs / self.run):
            raise RunError(f"no run {self.run!r}; it may have been removed since, choose another")
        run = open_run(runs / self.run)
        recorded = yield from ask_run(run, analysis, step=self.step, device=find_device("auto"))
        keep(run, recorded)
        return {"record": recorded.record.id}

"""What a job may be asked to do: an order, one kind a file in `apps/orders/`.

    @orders.register("train")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class TrainOrder(Order): ...

An order is data: its fields travel as JSON to the process that works it off, which makes it again
strictly (`workbench.config.from_json`). Needs neither torch nor Streamlit.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

from workbench.progress import Progress
from workbench.registry import Registry


class Order(ABC):
    """Work for a process of its own. Subclasses are frozen dataclasses of JSON parameters."""

    kind: ClassVar[str]
    """The name it is registered under."""

    @abstractmethod
    def title(self) -> str:
        """What is done, in a few words: `Train modular_addition-p59, seed 0`."""

    @abstractmethod
    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        """Do it, with the runs in this folder; the result is JSON.

        It may be closed at any progress (a cancelled job): what it then leaves must be whole.
        Imports torch itself where it needs it, so that listing orders stays cheap.
        """


orders: Registry[type[Order]] = Registry("order", "apps.orders")
"""Every kind of order, by name."""

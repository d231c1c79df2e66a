"""Repeated measurements, on any device."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Repeated measurements of one thing."""

    median: float
    low: float
    high: float

    def words(self, unit: str = "", digits: int = 1) -> str:
        """`median unit (low-high)`."""
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return f"{self.median:.{digits}f}{unit} ({low}-{high})"


def timed(step: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of one call, and what it returned."""
    synchronise(device)
    start = time.perf_counter()
    result = step()
    synchronise(device)
    return time.perf_counter() - start, result


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def divided(over: list[float], under: list[float]) -> list[float]:
    """Ratios, round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: list[float]) -> Spread:
    """Median and the range of the middle 80 %."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return Spread(
        median=statistics.median(ordered), low=ordered[cut], high=ordered[len(ordered) - 1 - cut]
    )

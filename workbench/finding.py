"""A finding: a claim, the number an intervention gave, and the same number where it should fail.

Findings are data. They are written as JSON beside the run and read back by reports and sessions.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

Support = Literal["supported", "not supported", "not applicable"]
Verdict = Literal["identified", "partial", "not identified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The number of a finding, measured where the claim should fail."""

    name: str
    value: float
    n: int
    """How many draws, networks or inputs the value averages over; see `unit`."""
    interval: Interval | None
    """95 % interval of the mean over draws; None where n counts every case there is."""
    unit: str = "draws"
    """What n counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One claim about one network."""

    id: str
    claim: str
    measure: str
    """What `value` is, in words, with its direction."""
    value: float
    n: int
    """How many inputs (or parts) the value covers."""
    interval: Interval | None
    """95 % interval; None where the value is exhaustive."""
    held_out: float | None
    """The same number over the pairs that neither training nor naming saw."""
    controls: tuple[Control, ...]
    verdict: Support
    rule: str
    """The rule that gave the verdict, with its thresholds."""
    details: dict[str, float] = field(default_factory=dict)


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """The finding as JSON data."""
    return asdict(finding)


def finding_from_dict(data: dict[str, Any]) -> Finding:
    """The inverse of `finding_to_dict`."""
    controls = tuple(
        Control(**{**control, "interval": _pair(control["interval"])})
        for control in data["controls"]
    )
    return Finding(**{**data, "interval": _pair(data["interval"]), "controls": controls})


def _pair(interval: Any) -> Interval | None:
    return None if interval is None else (float(interval[0]), float(interval[1]))

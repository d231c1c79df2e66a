"""A finding: a claim, the number an intervention gave, and the same number where it should fail.

Findings are data. They are written as JSON beside the run and read back by reports and sessions.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workbench import config as configuration
from workbench.errors import ConfigError
from workbench.registry import unknown

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
    """The inverse of `finding_to_dict`. Raises `ConfigError` for any key or value out of place."""
    _require_keys(Finding, data, where="finding")
    if not isinstance(data["controls"], list):
        raise ConfigError(f"finding controls = {data['controls']!r}: it must be a list [...]")
    for control in data["controls"]:
        _require_keys(Control, control, where="control")
    return configuration.from_dict(Finding, data, where="finding")


def _require_keys(cls: type[Any], data: Any, *, where: str) -> None:
    """Every key and no other; pydantic would let a nested unknown one pass."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} = {data!r}: it must be an object {{...}}")
    for key in data:
        if key not in configuration.keys(cls):
            raise ConfigError(unknown(f"{where} key", key, configuration.keys(cls)))
    missing = [key for key in configuration.keys(cls) if key not in data]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; write it again with explain")

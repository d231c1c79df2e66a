"""A finding: a claim, the number an intervention gave, and the same number where it should fail.

Findings are data: part of a record (`workbench.record`), which lies beside a run or in a session.
What a file says is taken strictly: no unknown key, no conversion, no NaN, bounded text.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from workbench.strict import STRICT, Label, Prose

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

Support = Literal["supported", "not supported", "not applicable"]
Verdict = Literal["identified", "partial", "not identified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The number of a finding, measured where the claim should fail."""

    __pydantic_config__ = STRICT

    name: Label
    value: float
    n: int
    """How many draws, networks or inputs the value averages over; see `unit`."""
    interval: Interval | None
    """95 % interval of the mean over draws; None where n counts every case there is."""
    unit: Label = "draws"
    """What n counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One claim about one network."""

    __pydantic_config__ = STRICT

    id: Label
    claim: Prose
    measure: Prose
    """What `value` is, in words, with its direction."""
    value: float
    n: int
    """How many inputs (or parts) the value covers."""
    interval: Interval | None
    """95 % interval; None where the value is exhaustive."""
    held_out: float | None
    """The same number over the pairs that neither training nor naming saw."""
    controls: Annotated[tuple[Control, ...], Field(max_length=100)]
    verdict: Support
    rule: Prose
    """The rule that gave the verdict, with its thresholds."""
    details: Annotated[dict[Label, float], Field(max_length=100)] = field(default_factory=dict)


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """The finding as JSON data."""
    return asdict(finding)

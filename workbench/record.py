"""A record: what was asked of a network, what came out, and how near a replay must come. No torch.

Every analysis (`workbench.analysis`) leaves one. Records lie beside a run (`workbench.records`) and
travel in sessions (`workbench.session`); both hold the same JSON.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from workbench.errors import SessionError
from workbench.finding import Finding
from workbench.registry import unknown
from workbench.storage import sha256, to_json
from workbench.strict import Digest, Label, Name, Strict

RecordId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}-[0-9a-f]{16}$")]
Step = Annotated[int, Field(ge=0, lt=10**9)]
Dtype = Literal["float32", "float64", "int64", "int32", "bool"]
ArrayName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.<>@\[\]-]{1,200}$")]


class Tolerance(Strict):
    """How far a replayed number may be from the recorded one: absolute + relative x |recorded|.

    Of arrays, |recorded| is the largest magnitude in the array.
    """

    absolute: Annotated[float, Field(ge=0)] = 0.0
    relative: Annotated[float, Field(ge=0)] = 0.0

    def of(self, size: float) -> float:
        """How far from a number of this size (its magnitude) a replay may be."""
        return self.absolute + self.relative * abs(size)


Tolerances = Annotated[dict[Label, Tolerance], Field(max_length=100)]
"""By pattern of a path such as `findings.*.value`, `result.rows.*.q` or `arrays.effects` (`*`
stands for anything, dots included); the longest pattern that fits decides. What no pattern fits
must be equal."""


def tolerance_finder(tolerances: Mapping[str, Tolerance]) -> Callable[[str], Tolerance]:
    """What gives the tolerance of the number at a path; patterns are compiled once."""
    longest_first = sorted(tolerances, key=lambda pattern: (-len(pattern), pattern))
    fits = [(re.compile(fnmatch.translate(one)), tolerances[one]) for one in longest_first]

    def at(path: str) -> Tolerance:
        return next((tolerance for fit, tolerance in fits if fit.match(path)), Tolerance())

    return at


class Checkpoint(Strict):
    """A network that was looked at."""

    step: Step
    weights_sha256: Digest
    """`workbench.tensor_files.weights_digest`."""


class TensorShape(Strict):
    """What kind of tensor lies under a name."""

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=8)]


class Arrays(Strict):
    """The safetensors file that goes with a record."""

    size: Annotated[int, Field(gt=0)]
    """In bytes."""
    sha256: Digest
    tensors: Annotated[dict[ArrayName, TensorShape], Field(min_length=1, max_length=10_000)]


class MadeWith(Strict):
    """What the numbers were computed with."""

    workbench: Label
    torch: Label
    python: Label
    device: Label
    """`cpu`, or the name of the card."""
    threads: Annotated[int, Field(ge=1)]


class Record(Strict):
    """One analysis of one network (or of several checkpoints of one run)."""

    id: RecordId
    kind: Name
    """A name of `workbench.analysis.analyses`."""
    parameters: dict[Name, JsonValue]
    """The fields of that analysis."""
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1, max_length=10_000)]
    result: dict[str, JsonValue]
    findings: Annotated[tuple[Finding, ...], Field(max_length=200)]
    """Each with an id of its own: a second one could hide behind it."""
    arrays: Arrays | None
    tolerances: Tolerances
    made_with: MadeWith
    seconds: Annotated[float, Field(ge=0)]
    """How long it took."""

    @model_validator(mode="after")
    def _findings_differ(self) -> "Record":
        ids = sorted(finding.id for finding in self.findings)
        twice = [one for one, following in pairwise(ids) if one == following]
        if twice:
            raise ValueError(f"finding ids must differ, and two are {twice[0]!r}")
        return self

    @property
    def step(self) -> int:
        """The (last) checkpoint that it is about."""
        return self.checkpoints[-1].step

    @property
    def weights_sha256(self) -> str:
        """Digest of that checkpoint's weights."""
        return self.checkpoints[-1].weights_sha256


def record_id(kind: str, parameters: Mapping[str, Any], checkpoints: tuple[Checkpoint, ...]) -> str:
    """The name of a record: the same question about the same weights has the same."""
    asked = [kind, parameters, [[one.step, one.weights_sha256] for one in checkpoints]]
    digest = sha256(to_json(asked, where="the parameters", sort_keys=True))
    return f"{kind}-{digest[:16]}"


def named(records: Sequence[Record], only: Sequence[str] | None) -> list[Record]:
    """The records that `only` names, by id, kind or the id of a finding; all of them when None.

    Raises `SessionError` for a name that there is not.
    """
    if only is None:
        return list(records)
    names = {one.id: {one.id, one.kind, *(f.id for f in one.findings)} for one in records}
    known = {name for some in names.values() for name in some}
    for name in only:
        if name not in known:
            raise SessionError(unknown("finding", name, known))
    return [record for record in records if names[record.id] & set(only)]

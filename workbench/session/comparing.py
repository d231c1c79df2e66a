"""Is a replayed record the recorded one? Leaf by leaf, within tolerances.

Both are walked together: a dictionary against a dictionary with the same keys, a list against a
list of the same length, findings in their order. A leaf has a path for people: `result.accuracy`,
`findings.0.controls.2.value`, `arrays.effects`. Fractional numbers may differ by the tolerance at
their path; whole numbers, words and truth values must be equal. A number inside words (a claim, a
reason) must be written in the same form, and is held to the tolerance of its path or to the last
digit that the replay writes. Of an array the largest difference counts.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.analysis import Recorded
from workbench.finding import finding_to_dict
from workbench.record import Record, Tolerance, record_id, tolerance_finder

ABSENT = "(absent)"
"""In place of a value that only the other side has."""
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*\.\d+(?:e[+-]?\d+)?")
"""A number with a fraction, as people write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One leaf that is not what was recorded."""

    path: str
    recorded: Any
    replayed: Any
    by: float | None
    """How far apart two numbers are; None for other things."""
    allowed: float | None
    """How far they may be."""

    def __str__(self) -> str:
        recorded, replayed = _short(self.recorded), _short(self.replayed)
        told = f"{self.path}: {recorded} recorded, {replayed} replayed"
        if self.by is None:
            return told
        return f"{told}, {self.by:.3g} apart (allowed {self.allowed:.3g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All leaves of a record beside those of its replay."""

    n: int
    """How many leaves were compared; an array counts once."""
    differences: tuple[Difference, ...]
    """Beyond tolerance, the farthest (in tolerances) first."""
    closeness: float
    """The largest difference within tolerance as a share of what was allowed; 0 where equal."""


def compare(
    recorded: Recorded,
    replayed: Recorded,
    own: Mapping[str, Tolerance],
    *,
    added: Sequence[str] = (),
) -> Comparison:
    """A replay beside the record; of its tolerances and the analysis' `own` the tighter counts.

    Args:
        added: patterns of paths, `*` for one name, that an older record does not have: where it
            has any path of a pattern, it must have all of them.
    """
    stated_at, own_at = tolerance_finder(recorded.record.tolerances), tolerance_finder(own)

    def tolerance(path: str) -> Tolerance:
        a, b = stated_at(path), own_at(path)
        return Tolerance(absolute=min(a.absolute, b.absolute), relative=min(a.relative, b.relative))

    trees = _tree(recorded), _tree(replayed)
    leaves = list(_leaves("", *trees))
    held = [path for path, a, _ in leaves if a is not ABSENT]
    older = [one for one in added if not any(_fits(path, one) for path in held)]
    found = [
        _compare(path, a, b, tolerance)
        for path, a, b in leaves
        if a is not ABSENT or not any(_fits(path, one) for one in older)
    ]
    beyond = [(apart, difference) for apart, difference in found if difference is not None]
    beyond.sort(key=lambda pair: -pair[0])
    return Comparison(
        n=len(found),
        differences=tuple(difference for _, difference in beyond),
        closeness=max((apart for apart, difference in found if difference is None), default=0.0),
    )


def _fits(path: str, pattern: str) -> bool:
    """Whether a path is one of a pattern's; a `*` stands for one name."""
    return path.count(".") == pattern.count(".") and fnmatch.fnmatchcase(path, pattern)


def _tree(recorded: Recorded) -> dict[str, Any]:
    """What a replay must give again. Parameters that the record leaves out had their defaults."""
    record = recorded.record
    return {
        "id is of its question": record.id == _own_id(record),
        "checkpoints": [one.model_dump() for one in record.checkpoints],
        "result": record.result,
        "findings": [finding_to_dict(finding) for finding in record.findings],
        "arrays": dict(recorded.arrays),
    }


def _own_id(record: Record) -> str:
    return record_id(record.kind, record.parameters, record.checkpoints)


def _leaves(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf of either side with its path; where the two have not one shape, that is a leaf."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            where = f"{path}.{key}" if path else str(key)
            yield from _leaves(where, a.get(key, ABSENT), b.get(key, ABSENT))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            yield f"{path} (how many)", len(a), len(b)
        for i, (one, two) in enumerate(zip(a, b, strict=False)):
            yield from _leaves(f"{path}.{i}", one, two)
    else:
        yield path, a, b


Apart = tuple[float, Difference | None]
"""How far apart two leaves are, in tolerances; and the difference where that is beyond 1."""


def _compare(path: str, a: Any, b: Any, tolerance: Callable[[str], Tolerance]) -> Apart:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return _compare_arrays(path, a, b, tolerance)
    if a is ABSENT or b is ABSENT:  # not the word, which a record may hold
        return _other(path, a, b)
    if type(a) is type(b) and a == b:
        return 0.0, None
    if isinstance(a, float) and isinstance(b, float):
        return _compare_numbers(path, a, b, tolerance(path), abs(a))
    if isinstance(a, str) and isinstance(b, str):
        return _compare_words(path, a, b, tolerance(path))
    return _other(path, a, b)


def _compare_numbers(path: str, a: float, b: float, tolerance: Tolerance, scale: float) -> Apart:
    by, allowed = abs(a - b), tolerance.of(scale)
    apart = by / allowed if allowed else math.inf
    if apart <= 1:
        return apart, None
    return apart, Difference(path=path, recorded=a, replayed=b, by=by, allowed=allowed)


def _compare_words(path: str, a: str, b: str, tolerance: Tolerance) -> Apart:
    """Equal but for fractions of one form, and those within tolerance or the last digit."""
    if _NUMBER.split(a) != _NUMBER.split(b):
        return _other(path, a, b)
    worst = 0.0
    for one, two in zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True):
        (x, form), (y, written) = _number(one), _number(two)
        if form != written:
            return _other(path, a, b)
        digit = 10.0 ** (written[1] - written[0])
        allowed = max(tolerance.of(x), digit) * (1 + 1e-9)
        worst = max(worst, abs(x - y) / allowed)
    return _other(path, a, b) if worst > 1 else (worst, None)


def _number(text: str) -> tuple[float, tuple[int, int]]:
    """A number in words; how many digits follow its point, and its exponent."""
    digits, _, exponent = text.replace(",", "").partition("e")
    return float(text.replace(",", "")), (len(digits.partition(".")[2]), int(exponent or 0))


def _compare_arrays(path: str, a: Any, b: Any, tolerance: Callable[[str], Tolerance]) -> Apart:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return _other(path, *(_shape(x) for x in (a, b)))
    if a.shape != b.shape or a.dtype != b.dtype:
        return _other(path, _shape(a), _shape(b))
    if a.equal(b):
        return 0.0, None
    if not a.is_floating_point():
        return _other(path, _shape(a), f"{int((a != b).sum())} entries are others")
    x, y = a.double().flatten(), b.double().flatten()
    worst = int((x - y).abs().argmax())
    scale = float(x.abs().max())
    return _compare_numbers(path, float(x[worst]), float(y[worst]), tolerance(path), scale)


def _other(path: str, a: Any, b: Any) -> Apart:
    return math.inf, Difference(path=path, recorded=a, replayed=b, by=None, allowed=None)


def _shape(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else str(value)


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

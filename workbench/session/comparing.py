"""Is a replayed result the recorded one? Leaf by leaf, within the recorded tolerances.

A leaf has a path: `result.accuracy`, `findings.sufficiency.controls.0.value`, `arrays.effects`.
Fractional numbers may differ by the tolerance at their path; whole numbers, words and truth values
must be equal. A number inside words (a claim, a reason) is held to the tolerance of its path, or to
the last digit that it is written with. Of an array the largest difference counts.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from workbench.analysis import Recorded
from workbench.finding import finding_to_dict
from workbench.record import Record, Tolerance, tolerance_at

V = TypeVar("V")

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


def compare(recorded: Recorded, replayed: Recorded, own: Mapping[str, Tolerance]) -> Comparison:
    """A replay beside the record; of its tolerances and the analysis' `own` the tighter counts."""
    stated = recorded.record.tolerances

    def tolerance(path: str) -> Tolerance:
        a, b = tolerance_at(stated, path), tolerance_at(own, path)
        return Tolerance(absolute=min(a.absolute, b.absolute), relative=min(a.relative, b.relative))

    leaves = _together(dict(_leaves(_tree(recorded.record))), dict(_leaves(_tree(replayed.record))))
    arrays = _together(
        {f"arrays.{name}": tensor for name, tensor in recorded.arrays.items()},
        {f"arrays.{name}": tensor for name, tensor in replayed.arrays.items()},
    )
    found = [_compare_leaf(path, a, b, tolerance(path)) for path, a, b in leaves]
    found += [_compare_arrays(path, a, b, tolerance(path)) for path, a, b in arrays]
    beyond = [(apart, difference) for apart, difference in found if difference is not None]
    beyond.sort(key=lambda pair: -pair[0])
    return Comparison(
        n=len(found),
        differences=tuple(difference for _, difference in beyond),
        closeness=max((apart for apart, difference in found if difference is None), default=0.0),
    )


def _together(a: Mapping[str, V], b: Mapping[str, V]) -> list[tuple[str, V | str, V | str]]:
    """Every path of either side, with what each has there."""
    return [(path, a.get(path, ABSENT), b.get(path, ABSENT)) for path in dict.fromkeys([*a, *b])]


def _tree(record: Record) -> dict[str, Any]:
    findings = {finding.id: finding_to_dict(finding) for finding in record.findings}
    return {"id": record.id, "result": record.result, "findings": findings}


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path; an empty list or dictionary is a leaf."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple) and tree:
        for i, value in enumerate(tree):
            yield from _leaves(value, f"{path}.{i}")
    else:
        yield path, tree


Apart = tuple[float, Difference | None]
"""How far apart two leaves are, in tolerances; and the difference where that is beyond 1."""


def _compare_leaf(path: str, a: Any, b: Any, tolerance: Tolerance) -> Apart:
    if isinstance(a, float) and isinstance(b, float):
        return _compare_numbers(path, a, b, tolerance, scale=abs(a))
    if isinstance(a, str) and isinstance(b, str) and a != b:
        return _compare_words(path, a, b, tolerance)
    if type(a) is type(b) and (a == b or (not a and isinstance(a, list | tuple | dict))):
        return 0.0, None
    return math.inf, Difference(path=path, recorded=a, replayed=b, by=None, allowed=None)


def _compare_numbers(path: str, a: float, b: float, tolerance: Tolerance, scale: float) -> Apart:
    by, allowed = abs(a - b), tolerance.absolute + tolerance.relative * scale
    if by == 0:
        return 0.0, None
    apart = by / allowed if allowed else math.inf
    if apart <= 1:
        return apart, None
    return apart, Difference(path=path, recorded=a, replayed=b, by=by, allowed=allowed)


def _compare_words(path: str, a: str, b: str, tolerance: Tolerance) -> Apart:
    """Equal but for fractional numbers, and those within the tolerance or their last digit."""
    other = math.inf, Difference(path=path, recorded=a, replayed=b, by=None, allowed=None)
    if _NUMBER.split(a) != _NUMBER.split(b):
        return other
    worst = 0.0
    for one, two in zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True):
        x, y = (float(text.replace(",", "")) for text in (one, two))
        written = 10.0 ** -len(one.partition(".")[2].partition("e")[0])
        allowed = max(tolerance.absolute + tolerance.relative * abs(x), written) * (1 + 1e-9)
        worst = max(worst, abs(x - y) / allowed)
    return other if worst > 1 else (worst, None)


def _compare_arrays(path: str, a: Tensor | str, b: Tensor | str, tolerance: Tolerance) -> Apart:
    if isinstance(a, str) or isinstance(b, str) or a.shape != b.shape or a.dtype != b.dtype:
        words = [x if isinstance(x, str) else f"{x.dtype} {list(x.shape)}" for x in (a, b)]
        return math.inf, Difference(
            path=path, recorded=words[0], replayed=words[1], by=None, allowed=None
        )
    if not a.numel():
        return 0.0, None
    if not a.is_floating_point():
        n = int((a != b).sum())
        if not n:
            return 0.0, None
        words = [f"{a.numel()} entries", f"{n} of them others"]
        return math.inf, Difference(
            path=path, recorded=words[0], replayed=words[1], by=None, allowed=None
        )
    x, y = a.double().flatten(), b.double().flatten()
    worst = int((x - y).abs().argmax())
    return _compare_numbers(path, float(x[worst]), float(y[worst]), tolerance, float(x.abs().max()))


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

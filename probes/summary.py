"""From rows to a table a person can read: one line per variable, site, probe and kind of split.

The rules, in one place:

- *decodable*: q <= .05 over all lines given (permutation p-values, Benjamini and Hochberg).
- *selective*: decodable, and the accuracy's interval lies above the control task, shuffled labels,
  the commonest class, and what an untrained network gives: the upper end of the prediction interval
  of several twins (mean + t sd sqrt(1 + 1/m), at .05 / number of lines, one-sided).
- *used*: decodable, and with the variable erased the network is right less often than under every
  erasure of as many random directions, and under every erasure of a random function of the tokens
  that decide the variable; its interval lies below the mean of either kind. With 19 of each, one
  site in 20 would pass by chance; over sites this is not corrected. A function of a variable that
  is used may pass, too.

What was not measured is None, and a rule that lacks a control it needs is None too: so is *used*
where the variable is all that a site holds, for erasing as many directions is then the same thing.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from scipy import special

from probes.rows import NONE, Row
from probes.statistics import discoveries

LEVEL = 0.05
RULE = (
    "decodable: q <= .05; selective: and the interval lies above the control task, shuffled "
    "labels, the commonest class and the prediction interval of untrained networks; used: "
    "decodable, and erasing it costs more right answers than each erasure of as many random "
    "directions, and of random functions of the same tokens"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One variable at one site, by one kind of probe."""

    variable: str
    hook: str
    position: int
    head: int | None
    probe: str
    split: str
    n: int
    accuracy: float
    low: float
    high: float
    """95 % interval of the accuracy."""
    p: float | None
    q: float | None
    control_accuracy: float | None
    """On the control task, mean over draws."""
    selectivity: float | None
    """Accuracy minus `control_accuracy`."""
    shuffled_accuracy: float | None
    untrained_accuracy: float | None
    """Mean over untrained networks."""
    untrained_sd: float | None
    n_untrained: int | None
    untrained_bound: float | None
    """What another untrained network would exceed at no more than .05 of all lines."""
    random_subspace_accuracy: float | None
    norm_matched_accuracy: float | None
    majority_accuracy: float | None
    answer_accuracy: float | None
    """How often the network is right, intact."""
    erased_accuracy: float | None
    erased_low: float | None
    erased_high: float | None
    """95 % interval of it."""
    n_asked: int | None
    """How many inputs the network was asked with something erased."""
    random_erased_accuracy: float | None
    """Mean over draws."""
    random_erased_lowest: float | None
    n_random: int | None
    """Draws of random directions."""
    control_erased_accuracy: float | None
    """With random functions of the same tokens erased, mean over draws; None where erasing random
    directions cost as much as erasing the variable."""
    control_erased_lowest: float | None
    rank: int | None
    """Directions that the erasure took."""
    interchange_accuracy: float | None
    """At the largest rank, mean over seeds."""
    interchange_control: float | None
    """The largest of its controls."""
    decodable: bool | None
    selective: bool | None
    used: bool | None
    control_low: float | None = None
    control_high: float | None = None
    """95 % interval of `control_accuracy`, over inputs: the mean of its draws' ends, which is no
    narrower than that of their mean. None in records older than it, as are those that follow."""
    shuffled_low: float | None = None
    shuffled_high: float | None = None
    random_subspace_low: float | None = None
    random_subspace_high: float | None = None
    norm_matched_low: float | None = None
    norm_matched_high: float | None = None

    @property
    def untrained_interval(self) -> tuple[float, float] | None:
        """95 % interval of `untrained_accuracy`, over networks: mean -+ t sd / sqrt(m), within 0
        and 1. None for fewer than two of them."""
        if self.untrained_accuracy is None or self.untrained_sd is None or not self.n_untrained:
            return None
        t = float(special.stdtrit(self.n_untrained - 1, 0.975))
        reach = t * self.untrained_sd / math.sqrt(self.n_untrained)
        mean = self.untrained_accuracy
        return max(mean - reach, 0.0), min(mean + reach, 1.0)

    @property
    def place(self) -> str:
        """Hook and head: `blocks.0.attn.hook_z[1]`."""
        return self.hook if self.head is None else f"{self.hook}[{self.head}]"

    def to_dict(self) -> dict[str, Any]:
        """The line as plain data."""
        return asdict(self)


def summarise(rows: Iterable[Row]) -> list[Line]:
    """Lines in the order of the rows; q-values over all of them.

    Rows of several networks do not belong in one call, but their lines may share a
    `with_discoveries`.
    """
    rows = list(rows)
    kinds = {row.split for row in rows if row.metric == "accuracy" and "/" not in row.split}
    by_place: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_place.setdefault((row.hook, row.position, row.head, row.variable), []).append(row)
    lines = []
    for row in rows:
        if row.control == NONE and row.metric == "accuracy" and row.split in kinds:
            near = by_place[row.hook, row.position, row.head, row.variable]
            lines.append(_line(row, near))
    return with_discoveries(lines)


def with_discoveries(lines: Sequence[Line]) -> list[Line]:
    """The same lines with q-values and bounds over all of them, and what follows from those."""
    tested = [i for i, line in enumerate(lines) if line.p is not None]
    made = list(lines)
    if not tested:
        return made
    found = discoveries(torch.tensor([lines[i].p for i in tested], dtype=torch.float64)).tolist()
    for i, q in zip(tested, found, strict=True):
        line = replace(lines[i], q=q, decodable=q <= LEVEL)
        line = replace(line, untrained_bound=_bound(line, len(tested)))
        line = replace(line, selective=_selective(line))
        made[i] = replace(line, used=_used(line))
    return made


def _bound(line: Line, n_lines: int) -> float | None:
    """Upper prediction bound for one more untrained network, at LEVEL over all lines."""
    if line.untrained_accuracy is None or line.untrained_sd is None or line.n_untrained is None:
        return None
    m = line.n_untrained
    t = float(special.stdtrit(m - 1, 1 - LEVEL / n_lines))
    return line.untrained_accuracy + t * line.untrained_sd * math.sqrt(1 + 1 / m)


def _selective(line: Line) -> bool | None:
    controls = (
        *(line.control_accuracy, line.shuffled_accuracy),
        *(line.untrained_bound, line.majority_accuracy),
    )
    known = [value for value in controls if value is not None]
    if not line.decodable:
        return False if len(known) == len(controls) else None
    return None if len(known) < len(controls) else line.low > max(known)


def _used(line: Line) -> bool | None:
    if line.erased_accuracy is None:
        return None
    if not line.decodable:
        return False
    if line.random_erased_lowest is None:
        return None
    if not _costs_more(line, line.random_erased_accuracy, line.random_erased_lowest):
        return False
    if line.control_erased_lowest is None:
        return None
    return _costs_more(line, line.control_erased_accuracy, line.control_erased_lowest)


def _costs_more(line: Line, mean: float | None, lowest: float) -> bool:
    """Whether erasing the variable left fewer right answers than each of some erasures did."""
    assert line.erased_accuracy is not None and line.erased_high is not None and mean is not None
    return line.erased_accuracy < lowest and line.erased_high < mean


def _line(row: Row, near: Sequence[Row]) -> Line:
    """Of one pooled accuracy and whatever was measured at the same place."""

    def drawn(name: str) -> list[Row]:
        return [
            other
            for other in near
            if other.control == name
            and other.metric == "accuracy"
            and other.split == row.split
            and other.probe in (row.probe, None)
        ]

    def control(name: str) -> float | None:
        return _mean([other.value for other in drawn(name)])

    twins = [other.value for other in drawn("untrained")]
    kind = f"{row.split}/"  # the network was asked on one split of this kind, or of another
    answers = [r for r in near if r.metric == "answer_accuracy" and r.split.startswith(kind)]
    intact, erased, random, same = (
        [other for other in answers if other.control == name]
        for name in (NONE, "erased", "random_erased", "control_erased")
    )
    task = control("control_task")
    assert row.probe is not None and row.low is not None and row.high is not None
    return Line(
        variable=row.variable,
        hook=row.hook,
        position=row.position,
        head=row.head,
        probe=row.probe,
        split=row.split,
        n=row.n,
        accuracy=row.value,
        low=row.low,
        high=row.high,
        p=row.p,
        q=None,
        control_accuracy=task,
        selectivity=None if task is None else row.value - task,
        shuffled_accuracy=control("shuffled"),
        untrained_accuracy=_mean(twins),
        untrained_sd=statistics.stdev(twins) if len(twins) > 1 else None,
        n_untrained=len(twins) or None,
        untrained_bound=None,
        random_subspace_accuracy=control("random_subspace"),
        norm_matched_accuracy=control("norm_matched"),
        majority_accuracy=control("majority"),
        answer_accuracy=intact[0].value if intact else None,
        erased_accuracy=erased[0].value if erased else None,
        erased_low=erased[0].low if erased else None,
        erased_high=erased[0].high if erased else None,
        n_asked=erased[0].n if erased else None,
        random_erased_accuracy=_mean([other.value for other in random]),
        random_erased_lowest=min((other.value for other in random), default=None),
        n_random=len(random) or None,
        control_erased_accuracy=_mean([other.value for other in same]),
        control_erased_lowest=min((other.value for other in same), default=None),
        rank=erased[0].rank if erased else None,
        **_interchange(near),
        decodable=None,
        selective=None,
        used=None,
        **_ends("control", drawn("control_task")),
        **_ends("shuffled", drawn("shuffled")),
        **_ends("random_subspace", drawn("random_subspace")),
        **_ends("norm_matched", drawn("norm_matched")),
    )


def _ends(name: str, draws: Sequence[Row]) -> dict[str, float | None]:
    """The interval of a control, where each of its draws has one."""
    lows = [row.low for row in draws if row.low is not None]
    highs = [row.high for row in draws if row.high is not None]
    whole = len(lows) == len(highs) == len(draws)
    return {
        f"{name}_low": _mean(lows) if whole else None,
        f"{name}_high": _mean(highs) if whole else None,
    }


def _interchange(near: Sequence[Row]) -> dict[str, float | None]:
    """Of the subspaces of the largest rank: there is nothing to choose after the fact."""
    rows = [row for row in near if row.metric == "interchange_accuracy"]
    largest = [row for row in rows if row.rank == max(row.rank or 0 for row in rows)]
    by_control: dict[str, list[float]] = {}
    for row in largest:
        by_control.setdefault(row.control, []).append(row.value)
    means = {name: sum(values) / len(values) for name, values in by_control.items()}
    accuracy = means.pop(NONE, None)
    return {
        "interchange_accuracy": accuracy,
        "interchange_control": max(means.values(), default=None),
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None

"""What a person asks of `workbench patch` and `workbench circuit`, checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from circuits.circuit import Selection
from circuits.problem import ABLATIONS, Ablation, Direction
from workbench.errors import CircuitError, PairError, UnknownName
from workbench.metrics import METRICS
from workbench.registry import unknown

T = TypeVar("T")

DIRECTIONS: Mapping[str, Direction] = {"denoise": "denoising", "noise": "noising"}
SELECTIONS: Mapping[str, Selection] = {"absolute": "absolute", "signed": "signed"}
USUAL_PAIRS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which pairs, which metric, what patching means."""

    metric: str = "logit_difference"
    ablation: Ablation = "resample"
    direction: Direction = "noising"
    selection: Selection = "absolute"
    pairs: int = USUAL_PAIRS
    corruptions: tuple[str, ...] = ()
    """The task's usual ones where empty."""
    clean: tuple[str, ...] = ()
    corrupted: tuple[str, ...] = ()
    """Inputs as text, instead of drawn ones."""
    seed: int = 0
    step: int | None = None
    per_position: bool = False
    exhaustive: bool = False

    def beside(self, usual: "Question") -> list[str]:
        """Words for what differs from the usual: another question has another finding."""
        names = ("metric", "ablation", "direction", "selection")
        words: list[str] = [
            getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)
        ]
        words += ["per_position"] * self.per_position + ["written_pairs"] * bool(self.clean)
        return words + [how for how in self.corruptions if self.corruptions != usual.corruptions]


def ask(
    *,
    metric: str,
    ablation: str,
    direction: str,
    pairs: int | None,
    corrupt: Sequence[str] | None,
    seed: int,
    step: int | None,
    selection: str = "absolute",
    clean: Sequence[str] | None = None,
    corrupted: Sequence[str] | None = None,
    per_position: bool = False,
    exhaustive: bool = False,
) -> Question:
    """A question from the words of the command line.

    Raises `UnknownName` with the nearest known name, `PairError` where pairs are both written out
    and to be drawn.
    """
    if (clean or corrupted) and (pairs is not None or corrupt):
        given = "--corrupt" if pairs is None else "--pairs"
        raise PairError(
            f"{given} says how to draw pairs, and --clean and --corrupted write them out; leave "
            "one of the two out"
        )
    return Question(
        metric=_choice("metric", metric, {name: name for name in METRICS}),
        ablation=_choice("ablation", ablation, {name: name for name in ABLATIONS}),
        direction=_choice("direction", direction, DIRECTIONS),
        selection=_choice("selection", selection, SELECTIONS),
        pairs=USUAL_PAIRS if pairs is None else pairs,
        corruptions=tuple(dict.fromkeys(corrupt or ())),
        clean=tuple(clean or ()),
        corrupted=tuple(corrupted or ()),
        seed=seed,
        step=step,
        per_position=per_position,
        exhaustive=exhaustive,
    )


def axes_asked(by: Sequence[str] | None) -> list[str] | None:
    """`--by head,position` and `--by head --by position` alike: each axis once."""
    if by is None:
        return None
    parts = [part.strip() for text in by for part in text.split(",")]
    return list(dict.fromkeys(filter(None, parts)))


def output_kind(path: Path, *, kinds: Sequence[str] = ("png", "svg", "csv")) -> str:
    """The format that a file's name asks for. Raises `CircuitError` where it cannot be written."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        *others, last = (f".{known}" for known in kinds)
        raise CircuitError(f"--out {path}: end its name in {', '.join(others)} or {last}")
    if path.is_dir():
        raise CircuitError(f"--out {path}: this is a folder; name a file")
    if not path.parent.is_dir():
        raise CircuitError(f"--out {path}: there is no folder {path.parent}; make it first")
    return kind


def _choice(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise UnknownName(unknown(kind, name, known))
    return known[name]

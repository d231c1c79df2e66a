"""From the words of the command line to the parameters of an analysis, before any work."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from circuits.circuit import Selection
from circuits.problem import ABLATIONS, Direction
from workbench.errors import CircuitError, PairError, UnknownName
from workbench.metrics import METRICS
from workbench.registry import unknown

T = TypeVar("T")

DIRECTIONS: Mapping[str, Direction] = {"denoise": "denoising", "noise": "noising"}
SELECTIONS: Mapping[str, Selection] = {"absolute": "absolute", "signed": "signed"}


def pairs_asked(
    *,
    metric: str,
    ablation: str,
    direction: str,
    pairs: int | None,
    corrupt: Sequence[str] | None,
    seed: int,
) -> dict[str, Any]:
    """Parameters that `patch` and `circuit` share; those that nobody named are left out.

    Raises `UnknownName` with the nearest known name.
    """
    return {
        "metric": choice("metric", metric, {name: name for name in METRICS}),
        "ablation": choice("ablation", ablation, {name: name for name in ABLATIONS}),
        "direction": choice("direction", direction, DIRECTIONS),
        "corruptions": tuple(dict.fromkeys(corrupt or ())),
        "seed": seed,
    } | ({} if pairs is None else {"pairs": pairs})


def pairs_written(
    clean: Sequence[str] | None,
    corrupted: Sequence[str] | None,
    *,
    pairs: int | None,
    corrupt: Sequence[str] | None,
) -> dict[str, Any]:
    """Pairs written out, as parameters.

    Raises `PairError` where pairs are both written out and to be drawn.
    """
    if (clean or corrupted) and (pairs is not None or corrupt):
        given = "--corrupt" if pairs is None else "--pairs"
        raise PairError(
            f"{given} says how to draw pairs, and --clean and --corrupted write them out; leave "
            "one of the two out"
        )
    return {"clean": tuple(clean or ()), "corrupted": tuple(corrupted or ())}


def axes_asked(by: Sequence[str] | None) -> tuple[str, ...] | None:
    """`--by head,position` and `--by head --by position` alike: each axis once."""
    if by is None:
        return None
    parts = [part.strip() for text in by for part in text.split(",")]
    return tuple(dict.fromkeys(filter(None, parts)))


def search_asked(
    method: str | None, n_edges: int | None, selection: str | None, *, given: Path | None
) -> dict[str, Any]:
    """How a circuit is to be searched, as parameters; those that nobody named are left out.

    Raises `CircuitError` where a circuit is given as well, `UnknownName` for a selection.
    """
    named = {"--method": method, "--edges": n_edges, "--selection": selection}
    asked = [option for option, value in named.items() if value is not None]
    if given is not None and asked:
        raise CircuitError(
            f"{asked[0]} says how to search a circuit, and --given names one; leave one of the two "
            "out"
        )
    found: dict[str, Any] = {} if method is None else {"method": method}
    if n_edges is not None:
        found["n_edges"] = n_edges
    if selection is not None:
        found["selection"] = choice("selection", selection, SELECTIONS)
    return found


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


def choice(kind: str, name: str, known: Mapping[str, T]) -> T:
    """What a name stands for. Raises `UnknownName` with the nearest known name."""
    if name not in known:
        raise UnknownName(unknown(kind, name, known))
    return known[name]

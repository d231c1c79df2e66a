"""What will be computed: a compute function and a list of specifications, frozen on the first run.

`plan.json` is the first file of a results directory. A later run must bring the same plan; with
another one it is refused, so that a directory never holds a mixture of two sweeps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from probes.batch.claims import exclusively
from probes.batch.compute import absolute_compute, compute_identity
from probes.batch.shards import PLAN, canonical_json, plain_json, shard_key, written
from workbench.errors import RunError, SweepError
from workbench.storage import LOCK, atomic_write, explained, from_json, sha256, to_json

FORMAT = 1

_JSON_NAMES: dict[type, str] = {str: "text", list: "a list", dict: "an object"}

_SHOWN = 3
"""How many keys, and how many values of each, a message names."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A batch: `compute` is called with every specification of `shards`, in any order.

    Raises `SweepError` for a specification that is not JSON, two that are the same, or a compute
    function whose name is malformed.
    """

    name: str
    """What people call it; not part of the fingerprint."""
    compute: str
    """`"package.module:function"`, or `"path/to/script.py:function"`."""
    shards: Sequence[Mapping[str, Any]]
    """The specifications, in the order of the results' rows."""

    def __post_init__(self) -> None:
        specs = [plain_json(dict(spec), where=f"shards[{i}]") for i, spec in enumerate(self.shards)]
        object.__setattr__(self, "shards", tuple(specs))
        object.__setattr__(self, "compute", absolute_compute(self.compute))
        if not self.keys:
            raise SweepError(f"the plan {self.name!r} has no shards; name something to compute")
        if len(set(self.keys)) < len(self.keys):
            twice = next(i for i, key in enumerate(self.keys) if key in self.keys[:i])
            raise SweepError(f"shards[{twice}] is in the plan twice; leave one of them out")

    @cached_property
    def identity(self) -> str:
        """What decides the results besides the specifications: see `compute_identity`."""
        return compute_identity(self.compute)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of every shard, in order."""
        return tuple(shard_key(self.identity, dict(spec)) for spec in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that is computed, in order."""
        return _fingerprint(self.identity, self.keys)

    def write_or_match(self, directory: Path) -> None:
        """Freeze the plan in a new directory, or check that it is the one frozen there.

        Raises `SweepError` where another plan is frozen there, where the directory holds something
        else, or where it cannot be written.
        """
        with written():
            _refuse_foreign(directory)
            with explained("make", directory):
                directory.mkdir(parents=True, exist_ok=True)
            with exclusively(directory):
                _refuse_foreign(directory)
                if not (directory / PLAN).exists():
                    atomic_write(directory / PLAN, to_json(self._as_json(), where=PLAN))
        frozen = read_plan(directory)
        if frozen.fingerprint != self.fingerprint:
            raise SweepError(
                f"{directory} holds another plan: {_differences(frozen, self)}; "
                "go back to that plan, or choose another directory"
            )

    def _as_json(self) -> dict[str, Any]:
        shards = [
            {"key": key, "spec": spec} for key, spec in zip(self.keys, self.shards, strict=True)
        ]
        return {
            "format": FORMAT,
            "name": self.name,
            "compute": self.compute,
            "identity": self.identity,
            "fingerprint": self.fingerprint,
            "shards": shards,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPlan:
    """A plan as its directory records it. The compute function need not be there to read it."""

    name: str
    compute: str
    identity: str
    fingerprint: str
    keys: tuple[str, ...]
    shards: tuple[dict[str, Any], ...]


def read_plan(directory: Path) -> FrozenPlan:
    """The plan frozen in a results directory. Raises `SweepError`."""
    path = directory / PLAN
    remedy = "restore it from a copy, or choose another directory"
    try:
        stored = from_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        raise SweepError(
            f"{directory} is no results directory: it has no {PLAN}; "
            "give the directory that a run writes into"
        ) from None
    except NotADirectoryError:
        raise SweepError(
            f"{directory} is no results directory but a file; "
            "give the directory that a run writes into"
        ) from None
    except OSError as error:
        raise SweepError(f"cannot read {path}: {error.strerror}") from None
    except RunError as error:
        raise SweepError(str(error)) from None
    if stored.get("format") != FORMAT:
        raise SweepError(f"{path} has format {stored.get('format')!r}, not {FORMAT}; {remedy}")
    try:
        frozen = _frozen(stored)
        keys = tuple(shard_key(frozen.identity, spec) for spec in frozen.shards)
        fits = (keys, _fingerprint(frozen.identity, keys)) == (frozen.keys, frozen.fingerprint)
    except SweepError as error:
        raise SweepError(f"{path} {error}; {remedy}") from None
    if not fits:
        raise SweepError(f"{path} was changed by hand: keys do not fit their shards; {remedy}")
    return frozen


def _frozen(stored: dict[str, Any]) -> FrozenPlan:
    """What the file holds, every entry of its type. Raises `SweepError` with the end of a line."""
    shards = _entry(stored, "shards", list)
    for i, shard in enumerate(shards):
        if not isinstance(shard, dict):
            raise SweepError(f"holds shards[{i}] = {_short(repr(shard))}, not an object")
    return FrozenPlan(
        name=_entry(stored, "name", str),
        compute=_entry(stored, "compute", str),
        identity=_entry(stored, "identity", str),
        fingerprint=_entry(stored, "fingerprint", str),
        keys=tuple(_entry(shard, "key", str, f"shards[{i}].") for i, shard in enumerate(shards)),
        shards=tuple(
            _entry(shard, "spec", dict, f"shards[{i}].") for i, shard in enumerate(shards)
        ),
    )


def _entry(stored: Mapping[str, Any], key: str, kind: type, of: str = "") -> Any:
    if key not in stored:
        raise SweepError(f"lacks {of + key!r}")
    if not isinstance(stored[key], kind):
        shown = _short(repr(stored[key]))
        raise SweepError(f"holds {of}{key} = {shown}, not {_JSON_NAMES[kind]}")
    return stored[key]


def _fingerprint(identity: str, keys: Sequence[str]) -> str:
    return sha256(canonical_json([FORMAT, identity, *keys], where="plan"))


def _refuse_foreign(directory: Path) -> None:
    """Raise `SweepError` for a directory with files in it that no run has put there."""
    with explained("read", directory):
        if not directory.exists() or (directory / PLAN).exists():
            return
        # A run killed before its plan was frozen leaves these.
        names = [
            path.name
            for path in directory.iterdir()
            if path.name != LOCK and not path.name.startswith(f".{PLAN}.")
        ]
    # A run that began meanwhile has frozen its plan before it puts anything else here.
    if names and not (directory / PLAN).exists():
        raise SweepError(
            f"{directory} is not empty and no results directory (it has {min(names)}, no {PLAN}); "
            "choose another directory"
        )


# ---------------------------------------------------------------------- what differs


def _differences(old: FrozenPlan, new: Plan) -> str:
    """Which keys of the specifications differ, and how, in a few words."""
    if old.identity != new.identity:
        return f"compute: {_short(old.identity)} -> {_short(new.identity)}"
    before, after = _values(old.shards), _values(new.shards)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if not changed and len(old.shards) != len(new.shards):
        return f"shards: {len(old.shards)} -> {len(new.shards)}"
    if not changed:
        same = sorted(old.keys) == sorted(new.keys)
        return "shards: in another order" if same else "shards: other combinations"
    said = [f"{key}: {_listed(before, key)} -> {_listed(after, key)}" for key in changed[:_SHOWN]]
    more = [f"{len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    return "; ".join(said + more)


def _values(specs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """For every key (dotted where nested) the values it takes, each once, as JSON."""
    values: dict[str, dict[str, None]] = {}
    for spec in specs:
        deciding = {key: value for key, value in spec.items() if not key.startswith("_")}
        for key, value in _leaves(deciding, ""):
            values.setdefault(key, {})[json.dumps(value)] = None
    return {key: list(taken) for key, taken in values.items()}


def _leaves(value: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            leaves += _leaves(inner, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", inner))
    return leaves


def _listed(values: dict[str, list[str]], key: str) -> str:
    taken = values.get(key, ["nothing"])
    shown = [_short(value) for value in taken[:_SHOWN]]
    return ", ".join([*shown, "..."] if len(taken) > _SHOWN else shown)


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

"""Whatever can be said in a session is read as it was written; and a kill leaves the old file."""

import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.session import making
from tests.unit.fork_server import fork_server
from workbench.session.archive import open_archive
from workbench.session.schema import TRAINING, SessionDocument, arrays_path, weights_path
from workbench.session.verifying import verify
from workbench.session.writing import write_archive
from workbench.strict import plain_line, plain_text

KILLS = 25
DOCUMENT = json.dumps(making.document_data())
WEIGHTS = making.safetensors_bytes(making.weights(0))
DIGEST = making.weights_digest(making.weights(0))


def _passes(check: Callable[[str], str], text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


words = st.text(max_size=12).filter(lambda text: _passes(plain_line, text))
prose = st.text(max_size=12).filter(lambda text: _passes(plain_text, text))
names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(10**38), 10**38) | floats


def json_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """JSON values whose keys and texts are such."""
    return st.recursive(
        scalars | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    )


anything, settled = json_of(prose), json_of(words)
intervals = st.none() | st.tuples(floats, floats).map(list)
controls = st.fixed_dictionaries(
    {"name": words, "value": floats, "n": st.integers(), "interval": intervals, "unit": words}
)
findings = st.fixed_dictionaries(
    {
        "id": words,
        "claim": prose,
        "measure": prose,
        "value": floats,
        "n": st.integers(),
        "interval": intervals,
        "held_out": st.none() | floats,
        "controls": st.lists(controls, max_size=2),
        "verdict": st.sampled_from(["supported", "not supported", "not applicable"]),
        "rule": prose,
        "details": st.dictionaries(words, floats, max_size=2),
    }
)
moments = st.datetimes().map(lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0"))
notebooks = st.fixed_dictionaries(
    {
        "parent": st.none() | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        "notes": st.lists(st.fixed_dictionaries({"text": prose, "created": moments}), max_size=2),
        "marks": st.fixed_dictionaries(
            {
                "labels": st.dictionaries(words, words, max_size=2),
                "groups": st.lists(
                    st.fixed_dictionaries({"name": words, "nodes": st.lists(words, max_size=2)}),
                    max_size=2,
                ),
                "positions": st.dictionaries(
                    words, st.tuples(floats, floats).map(list), max_size=2
                ),
                "pinned": st.lists(words, max_size=2),
            }
        ),
        "view": st.dictionaries(names, words | st.booleans() | st.integers() | floats, max_size=2),
    }
)
kinds = st.sampled_from(["float32", "float64", "int64", "int32", "bool"])
tensor_names = st.from_regex(r"[A-Za-z0-9_.<>@\[\]-]{1,12}", fullmatch=True)
tensor_shapes = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> making.Arrays:
    """Arrays of every type, any bits that are finite numbers."""
    found: making.Arrays = {}
    listed = draw(st.dictionaries(tensor_names, st.tuples(kinds, tensor_shapes), min_size=1))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    for name, (kind, shape) in listed.items():
        values = generator.standard_normal(shape) * 10 ** generator.uniform(-30, 30)
        found[name] = np.asarray(values % 100 if "int" in kind else values).astype(kind)
    return found


@st.composite
def sessions(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """`session.json` as data, and the other members."""
    data = json.loads(DOCUMENT)
    steps = draw(st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=3, unique=True))
    checkpoints = [{"step": step, "weights_sha256": DIGEST} for step in sorted(steps)]
    members = [(weights_path(one["step"]), WEIGHTS) for one in checkpoints]
    rows = draw(st.none() | st.integers(0, 5))
    if rows is not None:
        columns = {"step": np.arange(rows), "loss": np.linspace(0, 1, rows)}
        members.append((TRAINING, making.safetensors_bytes(columns)))
    records = []
    for number, name in enumerate(draw(st.lists(names, max_size=2))):
        record, arrays = draw(a_record(f"{name}-{number:016x}", checkpoints))
        records.append(record)
        members += arrays
    data["network"] |= {
        "task": draw(st.dictionaries(names, settled, max_size=2)),
        "recipe": draw(st.none() | st.dictionaries(names, settled, max_size=2)),
        "seed": draw(st.none() | st.integers(0, 2**63 - 1)),
        "source": draw(st.none() | st.dictionaries(words, words | st.integers() | floats)),
    }
    data |= {"checkpoints": checkpoints, "training_rows": rows, "records": records}
    data["notebook"] = draw(notebooks)
    return data, members


@st.composite
def a_record(
    draw: st.DrawFn, name: str, checkpoints: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """A record, and its arrays where it has any."""
    record = json.loads(DOCUMENT)["records"][0]
    record |= {
        "id": name,
        "checkpoints": checkpoints,
        "kind": draw(names),
        "parameters": draw(st.dictionaries(names, anything, max_size=2)),
        "result": draw(st.dictionaries(prose, anything, max_size=3)),
        "findings": draw(st.lists(findings, max_size=2, unique_by=lambda one: one["id"])),
        "seconds": draw(st.floats(0, 1e9)),
    }
    found = draw(st.none() | tensors())
    if found is None:
        return record | {"arrays": None}, []
    raw = making.safetensors_bytes(found)
    shapes = {key: {"dtype": a.dtype.name, "shape": list(a.shape)} for key, a in found.items()}
    told = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "tensors": shapes}
    return record | {"arrays": told}, [(arrays_path(name), raw)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(session=sessions())
def test_what_is_written_is_read(session: tuple[dict[str, Any], list[tuple[str, bytes]]]) -> None:
    data, members = session
    document = SessionDocument.model_validate_json(json.dumps(data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.workbench"
        parent = document.notebook.parent
        written = write_archive(path, document, members, parent=parent, made_with={"a": "1"})
        archive = open_archive(path)
        assert archive.manifest == written
        assert archive.document == document
        # equality of Python takes 1 and 1.0 for the same, and so True: the text does not
        assert archive.document.model_dump_json() == document.model_dump_json()
        assert {name: archive.read(name) for name, _ in members} == dict(members)
        verified = verify(path)
        assert verified.document == document
        assert [one.path for one in verified.members][1:] == [name for name, _ in members]


# ---------------------------------------------------------------------- killed while it writes


def is_whole(path: Path, expected: set[str]) -> str:
    """The id of the session there, which is one of those expected, and all of it sound."""
    identifier = verify(path).manifest.id
    assert identifier in expected
    return identifier


OLD, NEW = "0" * 32, "f" * 32


def write(path: Path, identifier: str) -> None:
    write_archive(
        path,
        making.small_document(),
        making.small_members(),
        parent=None,
        made_with=making.MADE_WITH,
        identifier=identifier,
    )


def _write_for_ever(path: Path) -> None:
    while True:
        write(path, NEW)
        write(path, OLD)


def _write_killed_at(path: Path, call: int) -> None:
    """Kill this process before its `call`-th step that reaches the disk."""
    left = [call]

    def before(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*given, **named)

        return stepping

    from workbench.session import writing

    for module, name in [(os, "fsync"), (Path, "replace"), (Path, "open")]:
        setattr(module, name, before(getattr(module, name)))
    for name in ("local_header", "central_directory", "sync_directory"):  # before each write
        setattr(writing, name, before(getattr(writing, name)))
    write(path, NEW)


@pytest.fixture(scope="module")
def forked() -> Iterator[ForkServerContext]:
    """Processes that begin with the imports of this file made."""
    with fork_server("tests.session.test_round_trip") as context:
        yield context


def test_killed_before_every_step(tmp_path: Path, forked: ForkServerContext) -> None:
    path = tmp_path / "a.workbench"
    outcomes = []
    for call in range(50):
        write(path, OLD)
        process = forked.Process(target=_write_killed_at, args=(path, call))
        process.start()
        process.join()
        outcomes.append(is_whole(path, {OLD, NEW}))
        left = [one for one in tmp_path.iterdir() if one != path]
        assert all(one.name.startswith(".a.workbench.") for one in left)
        for one in left:
            one.unlink()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    else:
        pytest.fail("it never ended by itself")
    # killed before the name was taken: the old one; after that: the new one
    assert outcomes == sorted(outcomes)
    assert outcomes.count(OLD) >= 10 and outcomes[-1] == NEW


def test_killed_at_random(tmp_path: Path, forked: ForkServerContext) -> None:
    path = tmp_path / "a.workbench"
    write(path, OLD)
    draw = random.Random(0)
    for _ in range(KILLS):
        process = forked.Process(target=_write_for_ever, args=(path,))
        process.start()
        time.sleep(draw.uniform(0.02, 0.15))
        process.kill()
        process.join()
        is_whole(path, {OLD, NEW})
    write(path, NEW)  # what kills left behind is in nobody's way
    assert is_whole(path, {NEW}) == NEW

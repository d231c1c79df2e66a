"""Atomic writes, digests, strict JSON."""

import errno
import hashlib
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.small_run import params_at
from workbench.errors import RunError
from workbench.params import Params, stack, unstack
from workbench.storage import atomic_write, from_json
from workbench.tensor_files import tensors_from_bytes, tensors_to_bytes, weights_digest


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# ---------------------------------------------------------------------- full disk, permissions


def temporary_files(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.endswith(".tmp")]  # noqa: PTH208


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "mend the permissions"),
        (errno.EROFS, "mend the permissions"),
        (errno.EIO, "mend that"),
    ],
)
@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, remedy: str
) -> None:
    file = tmp_path / "file"
    atomic_write(file, b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RunError, match=remedy):
        atomic_write(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old" and temporary_files(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from workbench.errors import RunError
from workbench.storage import atomic_write
file = Path(sys.argv[1])
atomic_write(file, b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    atomic_write(file, b"n" * 301)
except RunError as error:
    assert "file too large; free some space" in str(error), error
else:
    raise AssertionError("the limit was not met")
assert file.read_bytes() == b"old" and len(list(file.parent.iterdir())) == 1
atomic_write(file, b"n" * 300)
assert file.read_bytes() == b"n" * 300
"""


def test_a_real_limit_of_the_file_system(tmp_path: Path) -> None:
    """No file may grow beyond 300 bytes: a real short write, then a real error.

    In a process of its own, for the limit would hold for the log of this one as well.
    """
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_system_that_cannot_sync_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


# ---------------------------------------------------------------------- digests and files


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_digest_sees_the_network_and_nothing_else(data: st.DataObject) -> None:
    params = params_at(data.draw(st.integers(0, 99)))
    names = data.draw(st.permutations(list(params)))
    digest = weights_digest(params)
    assert weights_digest({name: params[name] for name in names}) == digest
    strided: dict[str, Tensor] = {
        name: params[name].mT.contiguous().mT for name in names if params[name].ndim > 1
    }
    assert weights_digest({**params, **strided}) == digest
    seed_of_two = unstack(stack([params_at(100), params]))[1]
    assert weights_digest(seed_of_two) == digest
    assert weights_digest(tensors_from_bytes(tensors_to_bytes(seed_of_two), where="x")) == digest
    changed = {name: tensor.clone() for name, tensor in params.items()}
    name = names[0]
    changed[name].view(-1).view(torch.int32)[0] ^= 1  # the last bit of one number
    assert weights_digest(changed) != digest


def test_the_digest_of_a_known_network() -> None:
    """Pinned, so that digests stay comparable between versions, and computed another way."""

    params = {"b": torch.tensor([1.5, -0.0]), "a": torch.tensor([[2]])}
    expected = hashlib.sha256()
    expected.update(b'["a", "int64", [1, 1]]\n' + struct.pack("<q", 2))
    expected.update(b'["b", "float32", [2]]\n' + struct.pack("<2f", 1.5, -0.0))
    assert weights_digest(params) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(2, 3), "b": torch.zeros(4)},
        {"a": torch.zeros(3, 2), "c": torch.zeros(4)},
        {"a": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.float64)},
        {"a": torch.zeros(3, 2), "b": -torch.zeros(4)},
        {"a": torch.zeros(3, 2)},
    ],
)
def test_the_digest_tells_networks_apart(other: Params) -> None:
    assert weights_digest({"a": torch.zeros(3, 2), "b": torch.zeros(4)}) != weights_digest(other)


def test_resume_states_may_hold_any_dtype() -> None:
    state = {
        "step": torch.tensor(7),
        "rng": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "done": torch.tensor([True, False]),
    }
    back = tensors_from_bytes(tensors_to_bytes(state), where="x")
    assert weights_digest(back) == weights_digest(state)
    assert all(back[name].dtype == state[name].dtype for name in state)


def test_tensors_come_back_sorted_and_where_rounding_expects_them() -> None:
    """Their order would decide what a generator draws for each; their address how sums round."""
    given = {f"t{i}": torch.full((i + 1, 3), float(i)) for i in (5, 0, 7, 2, 9, 1)}
    for _ in range(20):
        back = tensors_from_bytes(tensors_to_bytes(given), where="x")
        assert list(back) == sorted(given)
        assert all(tensor.data_ptr() % 64 == 0 for tensor in back.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e400}', "1e400 is too large"),
        (b"[1]", "holds a JSON list"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_json_is_strict(text: bytes, message: str) -> None:
    with pytest.raises(RunError, match=message):
        from_json(text, where="file.json")

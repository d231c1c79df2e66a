"""safetensors members, read without torch: header, shapes, values, digest of the weights.

Format: 8 bytes little-endian length N, N bytes of JSON, then the values of every tensor one after
another (https://github.com/huggingface/safetensors, "Format"). The parser here takes less than that
format allows: five types of numbers, no `__metadata__`, no gaps.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pydantic

from workbench.record import ArrayName, TensorShape
from workbench.session import limits
from workbench.session.json_text import read_json
from workbench.session.refusal import refusal

KINDS = {"F32": "float32", "F64": "float64", "I64": "int64", "I32": "int32", "BOOL": "bool"}
"""safetensors' name of a type to ours."""
BYTES = {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "bool": 1}

_array_names: pydantic.TypeAdapter[list[str]] = pydantic.TypeAdapter(list[ArrayName])


@runtime_checkable
class Stretch(Protocol):
    """Bytes that are read by offset."""

    size: int

    def at(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`."""


Data = bytes | memoryview | Stretch


class Header(NamedTuple):
    """What a safetensors file says of a tensor."""

    dtype: str
    """As in `workbench.record.Dtype`."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    stop: int


def tensor_headers(data: Data, *, where: str) -> dict[str, Header]:
    """Name to header, in the order of the file; the tensors fill the file to its last byte.

    Raises `SessionError`.
    """
    stretch = _stretch(data)
    length = int.from_bytes(stretch.at(0, min(8, stretch.size)), "little")
    if stretch.size < 8 or length > min(stretch.size - 8, limits.TENSOR_HEADER):
        raise refusal(where, f"not a safetensors file: a header of {length} bytes in all it is")
    text = stretch.at(8, 8 + length)
    if text[:1] != b"{":
        raise refusal(where, "not a safetensors file: its header does not begin with {")
    listed = read_json(text, where=where)
    if len(listed) > limits.TENSORS:
        raise refusal(where, f"{len(listed)} tensors; at most {limits.TENSORS}")
    _require_names(list(listed), where)
    headers = {name: _header(one, 8 + length, name, where) for name, one in listed.items()}
    position = 8 + length
    for name, one in sorted(headers.items(), key=lambda item: (item[1].start, item[1].stop)):
        if one.start != position:
            what = f"{name} is at byte {one.start} where byte {position} is next"
            raise refusal(where, f"{what}: tensors overlap, or something lies between them")
        position = one.stop
    if position != stretch.size:
        raise refusal(where, f"its tensors end at byte {position} of {stretch.size}")
    return headers


def check_tensors(data: Data, expected: Mapping[str, TensorShape], *, where: str) -> None:
    """Raise `SessionError` unless these tensors, and no others, are there with sound values.

    Sound: every float is finite, every bool is 0 or 1.
    """
    headers = tensor_headers(data, where=where)
    check_headers(headers, expected, where=where)
    check_values(data, headers, where=where)


def check_headers(
    headers: Mapping[str, Header], expected: Mapping[str, TensorShape], *, where: str
) -> None:
    """Raise `SessionError` unless names, types and shapes are exactly these."""
    if missing := sorted(expected.keys() - headers.keys()):
        raise refusal(where, f"the tensor {missing[0]!r} is missing")
    if strange := sorted(headers.keys() - expected.keys()):
        raise refusal(where, f"a tensor {strange[0]!r} that nothing speaks of")
    for name, one in headers.items():
        due = expected[name]
        if (one.dtype, one.shape) != (due.dtype, due.shape):
            got = f"{one.dtype} {list(one.shape)}"
            raise refusal(where, f"{name} is {got} where {due.dtype} {list(due.shape)} must be")


def check_values(data: Data, headers: Mapping[str, Header], *, where: str) -> None:
    """Raise `SessionError` for a float that is NaN or infinite, or a bool beyond 0 and 1."""
    import numpy as np  # here: most of what reads a session reads no values

    stretch = _stretch(data)
    for name, one in headers.items():
        for chunk in _chunks(stretch, one.start, one.stop):
            if one.dtype == "bool" and max(chunk) > 1:
                raise refusal(where, f"{name}: a bool whose byte is neither 0 nor 1")
            if one.dtype in ("float32", "float64"):
                values = np.frombuffer(chunk, f"<f{BYTES[one.dtype]}")
                if not np.isfinite(values).all():
                    raise refusal(where, f"{name}: a value that is NaN or infinite")


def weights_sha256(data: Data, *, where: str) -> str:
    """The digest that `workbench.tensor_files.weights_digest` gives. Raises `SessionError`."""
    stretch, headers = _stretch(data), tensor_headers(data, where=where)
    digest = hashlib.sha256()
    for name in sorted(headers):
        one = headers[name]
        digest.update(json.dumps([name, one.dtype, list(one.shape)]).encode() + b"\n")
        for chunk in _chunks(stretch, one.start, one.stop):
            digest.update(chunk)
    return digest.hexdigest()


class _Bytes:
    """Bytes in memory, as a `Stretch`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data).cast("B")
        self.size = len(self._view)

    def at(self, start: int, stop: int) -> bytes:
        return bytes(self._view[start:stop])


def _stretch(data: Data) -> Stretch:
    return _Bytes(data) if isinstance(data, bytes | memoryview) else data


def _chunks(stretch: Stretch, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, limits.CHUNK):
        yield stretch.at(at, min(at + limits.CHUNK, stop))


def _require_names(names: list[str], where: str) -> None:
    try:
        _array_names.validate_python(names)
    except pydantic.ValidationError as wrong:
        at = wrong.errors(include_url=False)[0]["loc"][0]
        raise refusal(where, f"a tensor called {names[int(at)][:80]!r}") from None


def _header(said: Any, values: int, name: str, where: str) -> Header:
    """One tensor's header; `values` is the offset of the first tensor."""
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise refusal(
            where, f"{name}: a header without dtype, shape and data_offsets, or with more"
        )
    kind, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise refusal(where, f"{name}: type {_short(kind)}; there may be {', '.join(KINDS)}")
    if not _are_counts(shape, limits.DIMENSION) or len(shape) > limits.DIMENSIONS:
        raise refusal(where, f"{name}: the shape {_short(shape)} cannot be")
    if not _are_counts(offsets, limits.FILE) or len(offsets) != 2:
        raise refusal(where, f"{name}: the offsets {_short(offsets)} cannot be")
    start, stop = offsets
    due = math.prod(shape) * BYTES[KINDS[kind]]
    if stop - start != due:
        raise refusal(where, f"{name}: {stop - start} bytes where {kind} {shape} takes {due}")
    return Header(KINDS[kind], tuple(shape), values + start, values + stop)


def _are_counts(numbers: Any, bound: int) -> bool:
    """Whether this is a list of whole numbers from 0 to below the bound."""
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < bound for n in numbers)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

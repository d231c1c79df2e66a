"""Hostile arrays: safetensors headers that lie, pickles, numbers that are none."""

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.session import making
from tests.session.changing import (
    Case,
    Data,
    packed,
    record_path,
    refused,
    small_members,
    with_array,
)
from tests.session.raw_zip import pack, part
from workbench.session.schema import TRAINING, weights_path


def _headed(header: Any, values: bytes, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def _with_header(name: str, edit: Callable[[Data], Any], says: str) -> Case:
    data = dict(small_members())[record_path()]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    content = packed(with_array(record_path(), _headed(header, data[8 + length :])))
    return refused(f"safetensors: {name}", content, says)


def safetensors_members() -> Iterator[Case]:
    """What is no safetensors file, or lies in its header."""
    whole = dict(small_members())[record_path()]
    length = int.from_bytes(whole[:8], "little")
    text, values = whole[8 : 8 + length], whole[8 + length :]
    for name, data, says in [
        ("pickle", pickle.dumps([1, 2, 3]), "safetensors"),
        ("pickle that calls", b"cos\nsystem\n(S'echo'\ntR.", "safetensors"),
        ("torch ZIP", pack([part(b"archive/data.pkl", pickle.dumps(1))]), "safetensors"),
        ("one byte", b"\0", "safetensors"),
        ("eight bytes", bytes(8), "does not begin with {"),
        ("header beyond the file", _headed(text, values, length=10**6), "a header of 1000000"),
        ("header of 2**64 - 1", _headed(text, values, length=2**64 - 1), "a header of"),
        ("header of 5 MB", _headed(text.ljust(5_000_000), values), "a header of 5000000"),
        ("header too short", _headed(text, values, length=length - 1), "not valid JSON"),
        ("header a list", _headed([], values), "does not begin with {"),
        ("header behind a space", _headed(b" " + text, values), "does not begin with {"),
        ("header deep", _headed(b'{"a":' + b"[" * 99_999, b""), "inside each other"),
        ("trailing bytes", whole + b"\0" * 8, "its tensors end"),
        ("values cut", whole[:-1], "its tensors end"),
        ("no values", _headed(text, b""), "its tensors end"),
        ("no tensors", _headed(b"{}", b""), "is missing"),
        ("duplicate name", _headed(b'{"none":0,' + text[1:], values), "twice"),
        ("100,000 tensors", _headed({str(n): 0 for n in range(100_000)}, b""), "100000 tensors"),
    ]:
        yield refused(f"safetensors: {name}", packed(with_array(record_path(), data)), says)
    yield from _lying_headers()


def _lying_headers() -> Iterator[Case]:
    def set_in(tensor: str, **what: Any) -> Callable[[Data], Any]:
        return lambda header: header[tensor].update(what)

    huge = 2**63 // 8
    for name, edit, says in [
        ("metadata", lambda h: h.update(__metadata__={"format": "pt"}), "__metadata__: a header"),
        ("dtype F64 as I64", set_in("effects", dtype="I64"), "must be"),
        ("dtype F32", set_in("effects", dtype="F32"), "takes 24"),
        ("dtype BF16", set_in("effects", dtype="BF16"), "type 'BF16'"),
        ("dtype a list", set_in("effects", dtype=["F64"]), "type ['F64']"),
        ("dtype an object", set_in("effects", dtype={}), "type {}"),
        ("shape turned", set_in("effects", shape=[3, 2]), "must be"),
        ("shape flat", set_in("effects", shape=[6]), "must be"),
        ("shape of words", set_in("effects", shape=["2", "3"]), "cannot be"),
        ("shape of bools", set_in("effects", shape=[True, 6]), "cannot be"),
        ("shape of floats", set_in("effects", shape=[2.0, 3]), "cannot be"),
        ("shape below 0", set_in("effects", shape=[-2, -3]), "cannot be"),
        ("shape a number", set_in("effects", shape=6), "cannot be"),
        ("shape null", set_in("effects", shape=None), "cannot be"),
        ("dimension of 10**15", set_in("none", shape=[0, 10**15]), "cannot be"),
        ("10**5 dimensions", set_in("small", shape=[1] * 10**5), "cannot be"),
        ("9 dimensions", set_in("small", shape=[1] * 9), "cannot be"),
        ("product that overflows", set_in("effects", shape=[huge, 8, 6]), "cannot be"),
        ("product of 2**31s", set_in("effects", shape=[2**30] * 8), "takes"),
        ("offsets overlap", set_in("order", data_offsets=[0, 24]), "overlap"),
        ("offsets beyond", set_in("none", data_offsets=[10**9, 10**9]), "overlap, or something"),
        ("offsets turned", set_in("effects", data_offsets=[48, 0]), "takes 48"),
        ("offsets below 0", set_in("effects", data_offsets=[-8, 40]), "cannot be"),
        ("offsets three", set_in("effects", data_offsets=[0, 48, 48]), "cannot be"),
        ("offsets words", set_in("effects", data_offsets=["0", "48"]), "cannot be"),
        ("offsets huge", set_in("effects", data_offsets=[2**70, 2**70 + 48]), "cannot be"),
        ("further key", set_in("effects", more=1), "or with more"),
        ("no shape", lambda h: h["effects"].pop("shape"), "a header without"),
        ("header null", lambda h: h.update(effects=None), "a header without"),
        ("tensor gone", lambda h: h.pop("effects"), "overlap, or something"),
        ("tensor more", lambda h: h.update(more=h["none"]), "nothing speaks of"),
        ("name leads out", lambda h: h.update({"../../x<script>": h.pop("none")}), "tensor called"),
        ("name empty", lambda h: h.update({"": h.pop("none")}), "tensor called"),
        ("name long", lambda h: h.update({"a" * 201: h.pop("none")}), "tensor called"),
        ("name steers", lambda h: h.update({"\x1b[2J": h.pop("none")}), "U+001B"),
        ("name with a line end", lambda h: h.update({"none\n": h.pop("none")}), "tensor called"),
    ]:
        yield _with_header(name, edit, says)


def array_values() -> Iterator[Case]:
    """Numbers that may not be, with every digest right."""
    for name, value in [("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)]:
        weights = making.weights(400)
        weights["unembed.W_U"][-1, -1] = value
        session = with_array(weights_path(400), making.safetensors_bytes(weights))
        digest = making.weights_digest(weights)
        session.document["checkpoints"][1]["weights_sha256"] = digest
        session.document["records"][0]["checkpoints"][0]["weights_sha256"] = digest
        yield refused(f"weights: {name}", packed(session), "NaN or infinite")
        arrays = making.arrays()
        arrays["effects"][1, 2] = value
        session = with_array(record_path(), making.safetensors_bytes(arrays))
        yield refused(f"arrays: {name}", packed(session), "NaN or infinite")
        rows = making.training()
        rows["train_loss"][0] = value
        session = with_array(TRAINING, making.safetensors_bytes(rows))
        yield refused(f"training: {name}", packed(session), "NaN or infinite")
    data = dict(small_members())[record_path()]
    kept = data.index(b"\x01\x00", len(data) - 4)
    bad = data[:kept] + b"\x02" + data[kept + 1 :]
    yield refused("arrays: bool of 2", packed(with_array(record_path(), bad)), "neither 0 nor 1")
    half = {name: one.astype("float64") for name, one in making.weights(400).items()}
    session = with_array(weights_path(400), making.safetensors_bytes(half))
    yield refused("weights: float64", packed(session), "must be")
    for name, rows, says in [
        ("no step", {"train_loss": np.zeros(3)}, "no column 'step'"),
        ("step of floats", {"step": np.zeros(3)}, "must be"),
        ("loss of integers", {**making.training(), "train_loss": np.zeros(3, "int64")}, "must be"),
        ("shorter column", {**making.training(), "train_loss": np.zeros(2)}, "must be"),
        ("two axes", {**making.training(), "train_loss": np.zeros((3, 1))}, "must be"),
        ("column name", {**making.training(), "A<b>": np.zeros(3)}, "a column called 'A<b>'"),
        ("401 columns", {f"a{n}": np.zeros(3) for n in range(400)} | making.training(), "columns"),
    ]:
        session = with_array(TRAINING, making.safetensors_bytes(rows))
        yield refused(f"training: {name}", packed(session), says)

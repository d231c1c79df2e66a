"""The parts that a session is read with: safetensors members without torch, JSON within bounds."""

import json
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.session import making
from workbench.errors import SessionError
from workbench.record import Record, TensorShape
from workbench.session import limits
from workbench.session.json_text import read_json
from workbench.session.schema import Network, Notebook
from workbench.session.tensor_members import (
    Header,
    check_tensors,
    tensor_headers,
    weights_sha256,
)
from workbench.session.verifying import check_training
from workbench.strict import BIDIRECTIONAL, plain_line, plain_text, validated
from workbench.tensor_files import tensors_to_bytes, weights_digest

# ---------------------------------------------------------------------- tensors


def test_headers_against_safetensors() -> None:
    """The offsets that we read out give the tensors that safetensors reads."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "embed.W_E": torch.randn(3, 4, generator=generator),
        "a": torch.randn(5, generator=generator, dtype=torch.float64),
        "scalar": torch.tensor(7),
        "small": torch.arange(3, dtype=torch.int32),
        "kept[a0.h1]": torch.tensor([True, False]),
        "none": torch.zeros(0, 9),
    }
    data = safetensors.torch.save(tensors)
    headers = tensor_headers(data, where="a")
    assert headers.keys() == tensors.keys()
    for name, one in headers.items():
        array = np.frombuffer(data[one.start : one.stop], one.dtype).reshape(one.shape)
        assert np.array_equal(array, tensors[name].numpy())
    assert tensor_headers(memoryview(data), where="a") == headers


def test_a_header_by_hand() -> None:
    text = b'{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}} '
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    assert tensor_headers(data, where="a") == {"a": Header("float32", (1, 2), 65, 73)}
    check_tensors(data, {"a": TensorShape(dtype="float32", shape=(1, 2))}, where="a")
    with pytest.raises(SessionError, match=r"a is float32 \[1, 2\] where float32 \[2, 1\] must"):
        check_tensors(data, {"a": TensorShape(dtype="float32", shape=(2, 1))}, where="a")
    with pytest.raises(SessionError, match="'b' is missing"):
        check_tensors(data, {"b": TensorShape(dtype="float32", shape=(2, 1))}, where="a")
    assert data.index(bytes(8), 8) == 65


def test_digest_of_weights_against_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(4, 3, generator=generator) for name in ("b", "a.W_E", "c")}
    params["d"] = torch.tensor(0.5, dtype=torch.float64)
    data = tensors_to_bytes(params)
    assert weights_sha256(data, where="a") == weights_digest(params)
    numpy = {name: tensor.numpy() for name, tensor in params.items()}
    assert weights_sha256(making.safetensors_bytes(numpy), where="a") == weights_digest(params)
    params["b"][0, 0] = -params["b"][0, 0]
    assert weights_sha256(data, where="a") != weights_digest(params)


@pytest.mark.parametrize("position", [0, 1, limits.CHUNK // 4 - 1, limits.CHUNK // 4, 400_000 - 1])
def test_every_number_is_looked_at(position: int) -> None:
    """Across the borders of the pieces that are read."""
    values = np.zeros(400_000, "float32")
    expected = {"a": TensorShape(dtype="float32", shape=(400_000,))}
    check_tensors(making.safetensors_bytes({"a": values}), expected, where="a")
    values[position] = np.nan
    with pytest.raises(SessionError, match="a: a value that is NaN or infinite"):
        check_tensors(making.safetensors_bytes({"a": values}), expected, where="a")


PIECE = limits.CHUNK // 8
"""Steps that are read at a time."""


@pytest.mark.parametrize(("at", "behind"), [(1, 0), (PIECE - 1, 2), (PIECE, 3), (PIECE + 1, 4)])
def test_every_step_is_compared_with_the_one_before(at: int, behind: int) -> None:
    """Across the border of the pieces that are read."""
    steps = np.arange(PIECE + 2) + 5
    data = making.safetensors_bytes({"step": steps, "loss": np.zeros(len(steps))})
    for read in (data, memoryview(data)):
        assert check_training(read, len(steps), where="a") == 2
    steps[at] = behind
    data = making.safetensors_bytes({"step": steps, "loss": np.zeros(len(steps))})
    with pytest.raises(SessionError, match=f"step {behind} behind step {at + 4}; "):
        check_training(data, len(steps), where="a")


# ---------------------------------------------------------------------- text and JSON


def test_a_label_is_one_line() -> None:
    """What Python takes for a line end, and tabs, beside what `plain_text` refuses."""
    ends = [one for one in map(chr, range(sys.maxunicode + 1)) if len(f"a{one}b".splitlines()) > 1]
    assert {"\n", "\r", "\x0b", "\x85", "\u2028", "\u2029"} <= set(ends)
    for one in [*ends, "\t", "\x1b", "\u202e"]:
        assert not allows(plain_line, f"a{one}b")
    for text in ("", "a b", "a\u00a0é", "\U0001f600", "heads.read_b <b>"):
        assert allows(plain_line, text)


def _network(**changed: object) -> Network:
    data = json.dumps({**making.document_data()["network"], **changed}).encode()
    return validated(Network, data, where="run", error=SessionError)


def test_a_network_is_told_in_labels() -> None:
    assert _network(task={"name": "a", "deep": [{"b": "c" * 200}]}, recipe=None).recipe is None
    for changed, says in [
        ({"task": {"name": "a\nb"}}, r"run: task: .*U\+000A is not allowed in a label"),
        ({"task": {"deep": [{"a": ["b\tc"]}]}}, r"run: task: .*U\+0009"),
        ({"task": {"deep": {"a\nb": 1}}}, r"run: task: .*U\+000A"),
        ({"recipe": {"lr": "c" * 201}}, r"run: recipe: .*text of 201 characters; at most 200"),
        ({"source": {"paper": "a\nb"}}, r"run: source\.paper.*U\+000A"),
    ]:
        with pytest.raises(SessionError, match=says):
            _network(**changed)


def test_findings_of_one_name_are_refused_beside_a_run_too() -> None:
    record = making.document_data()["records"][0]
    (finding,) = record["findings"]

    def read(*ids: str) -> Record:
        record["findings"] = [{**finding, "id": one} for one in ids]
        data = json.dumps(record).encode()
        return validated(Record, data, where="record", error=SessionError)

    assert [one.id for one in read("b", "a", "B").findings] == ["b", "a", "B"]
    with pytest.raises(SessionError, match="finding ids must differ, and two are 'b'"):
        read("b", "a", "b")


def test_all_notes_count_together() -> None:
    """To the character."""
    for last, fits in [("", True), ("a", False)]:
        note = {"created": "2026-11-20T18:53:06Z"}
        texts = ["b" * 20_000] * 50 + [last]
        data = json.dumps({"notes": [{**note, "text": text} for text in texts]}).encode()

        def read(data: bytes) -> Notebook:
            return validated(Notebook, data, where="notebook.json", error=SessionError)

        assert allows(read, data) == fits


def test_characters_are_those_that_plain_text_allows() -> None:
    """One expression against the function that looks at categories, for every character."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    categories = [unicodedata.category(one) for one in characters]
    suspect = [
        one
        for one, category in zip(characters, categories, strict=True)
        if category == "Cc" or one in BIDIRECTIONAL or (category == "Cs" and ord(one) % 64 == 0)
    ]
    assert len(suspect) == 65 + 9 + 32  # controls, marks, one in 64 of the surrogates
    for one in suspect:
        assert allows(plain_text, one) == allows(_read_text, one) == (one in "\n\t")
    rest = [
        one for one, kind in zip(characters, categories, strict=True) if kind not in ("Cc", "Cs")
    ]
    text = "".join(one for one in rest if one not in BIDIRECTIONAL)
    assert allows(plain_text, text)
    for at in range(0, len(text), limits.STRING):
        assert allows(_read_text, text[at : at + limits.STRING])


def allows(read: Callable[[Any], object], given: str | bytes) -> bool:
    try:
        read(given)
    except (SessionError, ValueError):
        return False
    return True


def _read_text(text: str) -> None:
    read_json(json.dumps({"a": text}).encode(), where="a")


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, -2.5e-3, true, null, "x\\n\\u00e9 [{,"], "": {}}', '{"a\\"b": "\\\\"}', " {}\n"],
)
def test_json_is_read_as_json(text: str) -> None:
    assert read_json(text.encode(), where="a") == json.loads(text)


def test_limits_of_json() -> None:
    for text, fits in [
        ('{"a": ' + "[" * 59 + "]" * 59 + "}", True),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", False),
        ('{"a": ' + "1" * 40 + "}", True),
        ('{"a": ' + "1" * 41 + "}", False),
        ('{"a": "' + "é" * 100_000 + '"}', True),
        ('{"a": "' + "é" * 100_001 + '"}', False),
        # as counted: one, and one for each comma and each opening bracket
        ('{"a": [' + "0," * 249_996 + "0]}", True),
        ('{"a": [' + "0," * 249_998 + "0]}", False),
        ('{"a": "' + ",[{" * 33_333 + '"}', True),
    ]:
        data = text.replace("é", "\\u00e9").encode()
        assert allows(lambda read: read_json(read, where="a"), data) == fits, text[:20]

"""Importing networks: every file that cannot be right is refused, and says why."""

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from tests.unit.saved_networks import MODEL, TASK, edit, make, weights
from tests.unit.saved_networks import network as network
from tests.unit.saved_networks import no_waiting as no_waiting
from workbench.config import to_dict
from workbench.errors import ConfigError, RunError, TaskError, WeightsError, WorkbenchError
from workbench.importing import import_network, read_network, save_network
from workbench.params import Params, init_params
from workbench.run import open_run
from workbench.tensor_files import tensors_to_bytes, weights_digest

# ---------------------------------------------------------------------- wrong directories


def test_a_directory_that_is_no_network(network: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it is missing"):
        import_network(tmp_path / "nowhere", tmp_path / "runs")
    with pytest.raises(RunError, match="it is a file"):
        import_network(network / "config.json", tmp_path / "runs")
    run = import_network(network, tmp_path / "runs")
    with pytest.raises(RunError, match="is a run already"):
        import_network(run.path, tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no config\.json and no weights\.safetensors"):
        import_network(tmp_path / "empty", tmp_path / "runs")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_links_out_of_the_directory_are_not_followed(
    network: Path, tmp_path: Path, name: str
) -> None:
    (network / name).rename(tmp_path / "outside")
    (network / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="is a link out of its directory"):
        import_network(network, tmp_path / "runs")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_pipe_is_not_waited_for(network: Path, tmp_path: Path, name: str) -> None:
    (network / name).unlink()
    os.mkfifo(network / name)
    with pytest.raises(RunError, match=f"no {name}"):
        import_network(network, tmp_path / "runs")


def test_a_saved_network_is_not_overwritten(network: Path) -> None:
    with pytest.raises(RunError, match=r"has a config\.json already"):
        make(network, seed=1)


# ---------------------------------------------------------------------- wrong configurations


@pytest.mark.parametrize(
    ("section", "changes", "error", "message"),
    [
        (None, {"format": 2}, RunError, r"newer Workbench \(format 2.*upgrade"),
        (None, {"format": 0}, ConfigError, "format = 0"),
        (None, {"format": "1"}, ConfigError, "format = '1'"),
        (None, {"format": True}, ConfigError, "format = True"),
        (None, {"format": ...}, ConfigError, "lacks the key 'format'"),
        (None, {"task": ...}, ConfigError, "lacks the key 'task'"),
        (None, {"sorce": {}}, ConfigError, "no .*key 'sorce'; did you mean 'source'"),
        (None, {"model": []}, ConfigError, "model = "),
        (None, {"task": "modular_addition"}, ConfigError, "task = 'modular_addition'"),
        (None, {"source": [1]}, ConfigError, "source = "),
        (None, {"source": {"a": {"b": 1}}}, ConfigError, "source a = .*text or a number"),
        (None, {"source": {"a": True}}, ConfigError, "source a = True"),
        ("model", {"n_layer": 1, "n_layers": ...}, ConfigError, "did you mean 'n_layers'"),
        ("model", {"n_layers": ...}, ConfigError, "lacks n_layers"),
        ("model", {"attention_dir": ...}, ConfigError, "lacks attention_dir"),
        ("model", {"n_layers": "1"}, ConfigError, "n_layers = '1'"),
        ("model", {"n_layers": True}, ConfigError, "n_layers = True"),
        ("model", {"n_layers": 0}, ConfigError, "n_layers = 0"),
        ("model", {"n_layers": 10**9}, WeightsError, "n_layers = 1000000000, but"),
        ("model", {"d_model": 10**30}, WeightsError, "embed.W_E: shape"),
        ("model", {"act_fn": "selu"}, ConfigError, "act_fn = 'selu'.*'relu' or 'gelu'"),
        ("model", {"attention_rate": 1.5}, ConfigError, "attention_rate = 1.5"),
        ("model", {"attention_rate": None}, ConfigError, "attention_rate = None"),
        ("model", {"d_vocab": 7}, ConfigError, "d_vocab = 7, but modular_addition-p5 has 6 tok"),
        ("model", {"d_vocab_out": 4}, ConfigError, "d_vocab_out = 4, but .* has 5 answers"),
        ("model", {"n_ctx": 4}, ConfigError, "n_ctx = 4, but .* has 3 tokens"),
        ("task", {"name": "modular_adition"}, WorkbenchError, "did you mean 'modular_addition'"),
        ("task", {"name": ...}, TaskError, "a task needs a name"),
        ("task", {"q": 5}, ConfigError, "no .*key 'q'"),
        ("task", {"p": 6}, TaskError, "needs a prime p"),
        ("task", {"p": "5"}, ConfigError, "p = '5'"),
        ("task", {"p": 7}, ConfigError, "d_vocab = 6, but modular_addition-p7 has 8 tokens"),
        ("task", {"separate_vocabularies": True}, ConfigError, "has 11 tokens"),
        ("task", {"equals_token": False}, ConfigError, "has 5 tokens"),
    ],
)
def test_a_wrong_configuration(
    network: Path,
    tmp_path: Path,
    section: str | None,
    changes: dict[str, Any],
    error: type[WorkbenchError],
    message: str,
) -> None:
    edit(network, section, **changes)
    with pytest.raises(error, match=message):
        import_network(network, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "format": 1}', '{"format": NaN}'])
def test_a_configuration_that_is_not_json(network: Path, tmp_path: Path, text: str) -> None:
    (network / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        import_network(network, tmp_path / "runs")


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    params = init_params(MODEL, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="d_vocab = 7"):
        save_network(tmp_path / "a", params, replace(MODEL, d_vocab=7), TASK)
    with pytest.raises(WeightsError, match="missing"):
        save_network(tmp_path / "a", params, replace(MODEL, n_layers=2), TASK)
    with pytest.raises(RunError, match="cannot store"):
        save_network(tmp_path / "a", params, MODEL, TASK, {"x": float("nan")})
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------------- wrong weights


def change(name: str, tensor: Tensor | None) -> Callable[[Params], Params]:
    def apply(params: Params) -> Params:
        changed = {**params} if tensor is None else {**params, name: tensor}
        if tensor is None:
            del changed[name]
        return changed

    return apply


def everything(convert: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
    return lambda params: {name: convert(tensor) for name, tensor in params.items()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("unembed.W_U", None), r"missing \['unembed.W_U'\]"),
        (change("blocks.1.attn.W_Q", torch.zeros(2, 4, 2)), r"unexpected \['blocks.1.attn.W_Q'\]"),
        (change("W_U", torch.zeros(4, 5)), r"unexpected \['W_U'\]"),
        (lambda params: {}, r"n_layers = 1, but weights.safetensors has only 0 tensors"),
        (change("unembed.W_U", torch.zeros(5, 4)), r"unembed.W_U: shape \[5, 4\].*\[4, 5\]"),
        (change("unembed.W_U", torch.zeros(0, 5)), r"unembed.W_U: shape \[0, 5\]"),
        (change("unembed.W_U", torch.tensor(1.0)), r"unembed.W_U: shape \[\]"),
        (change("unembed.W_U", torch.zeros(1, 4, 5)), r"unembed.W_U: shape \[1, 4, 5\]"),
        (change("embed.W_E", torch.full((6, 4), float("nan"))), "embed.W_E: NaN or Inf"),
        (change("embed.W_E", torch.full((6, 4), float("-inf"))), "embed.W_E: NaN or Inf"),
        (everything(torch.Tensor.half), "dtype torch.float16; convert to float32"),
        (everything(torch.Tensor.bfloat16), "dtype torch.bfloat16; convert to float32"),
        (everything(torch.Tensor.int), "dtype torch.int32; convert to float32"),
        (everything(torch.Tensor.bool), "dtype torch.bool; convert to float32"),
        (everything(lambda t: t.to(torch.float8_e4m3fn)), "dtype torch.float8_e4m3fn; convert"),
        (everything(lambda t: t.double() + 1e-12), r"torch.float64 values that float32 cannot"),
        (everything(lambda t: t.double() * 1e300), r"torch.float64 values that float32 cannot"),
        (change("blocks.0.mlp.b_in", None), r"some mlp_biases but not blocks.0.mlp.b_in"),
        (change("blocks.0.attn.b_Q", torch.zeros(2, 2)), r"some attn_biases but not .*b_K"),
    ],
)
def test_wrong_weights(
    network: Path, tmp_path: Path, wrong: Callable[[Params], Params], message: str
) -> None:
    edit(network, "model", attn_biases=..., mlp_biases=..., unembed_bias=...)
    (network / "weights.safetensors").write_bytes(tensors_to_bytes(wrong(weights(network))))
    with pytest.raises(WeightsError, match=message):
        import_network(network, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_biases_that_the_configuration_denies(network: Path, tmp_path: Path) -> None:
    edit(network, "model", mlp_biases=False)
    with pytest.raises(WeightsError, match=r"unexpected \['blocks.0.mlp.b_in'"):
        import_network(network, tmp_path / "runs")


def test_float64_that_float32_holds_is_float32(network: Path, tmp_path: Path) -> None:
    exact = weights(network)
    data = save({name: tensor.double() for name, tensor in exact.items()}, {"made": "elsewhere"})
    (network / "weights.safetensors").write_bytes(data)
    assert import_network(network, tmp_path / "runs").weights_sha256() == weights_digest(exact)


def header(content: object, body: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + body


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        pickle.dumps({"embed.W_E": [0.0]}),
        b"PK\x03\x04 a zip, as torch.save writes it",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000_001) + b"{}",
        header(b"{"),
        header([]),
        header({"a": TENSOR}),
        header({"a": {**TENSOR, "data_offsets": [0, 2**62]}}, b"\0" * 4),
        header({"a": {**TENSOR, "shape": [2**40, 2**40]}}, b"\0" * 4),
        header({"a": {**TENSOR, "shape": [-1]}}, b"\0" * 4),
        header({"a": {**TENSOR, "dtype": "F31"}}, b"\0" * 4),
        header({"a": TENSOR, "b": TENSOR}, b"\0" * 4),
        header({"a": TENSOR}, b"\0" * 9),
        header(b"[" * 50_000),
    ],
    ids=range(16),
)
def test_files_that_are_not_safetensors(network: Path, tmp_path: Path, data: bytes) -> None:
    (network / "weights.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        import_network(network, tmp_path / "runs")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("good") / "network"
    make(path)
    yield path


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_a_truncated_weights_file_is_never_read(good: Path, cut: float) -> None:
    file, whole = good / "weights.safetensors", (good / "weights.safetensors").read_bytes()
    try:
        file.write_bytes(whole[: int(cut * len(whole))])
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            read_network(good)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
)
@settings(max_examples=100, deadline=None)
def test_damage_is_a_clear_error_or_another_network(
    good: Path, name: str, flips: list[tuple[float, int]]
) -> None:
    """A shared network carries no digest, so a changed weight is another network; but nothing
    ever escapes as another kind of error."""
    file, whole = good / name, (good / name).read_bytes()
    damaged = bytearray(whole)
    for position, flip in flips:
        damaged[int(position * (len(whole) if name == "config.json" else 1100))] ^= flip
    try:
        file.write_bytes(damaged)
        read_network(good)
    except WorkbenchError as error:
        assert str(error)
    finally:
        file.write_bytes(whole)


def test_an_imported_run_is_checked_like_any_other(network: Path, tmp_path: Path) -> None:
    run = import_network(network, tmp_path / "runs")
    checkpoint = run.path / "checkpoints" / "step-000000.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(RunError, match=r"step-000000\.safetensors is damaged"):
        open_run(run.path)
    assert to_dict(run.config.model) == to_dict(MODEL)

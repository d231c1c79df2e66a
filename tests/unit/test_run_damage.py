"""Run directories: what cannot be trusted is refused, to the last flipped byte."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.small_run import CONFIG, files_of, params_at, stop_after, train
from tests.unit.small_run import no_waiting as no_waiting
from tests.unit.small_run import trained as trained
from workbench.errors import ConfigError, RunError, WeightsError
from workbench.manifest import MANIFEST, Manifest
from workbench.run import Run, RunConfig, list_runs, open_run
from workbench.run_writer import RunWriter
from workbench.tensor_files import tensors_to_bytes

# ---------------------------------------------------------------------- bad directories


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it is missing"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="it is missing"):
        RunWriter.reopen(tmp_path / "nowhere", CONFIG)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="it is a file"):
        open_run(tmp_path / "file")
    with pytest.raises(RunError, match="a file is where a directory should be"):
        RunWriter.create(tmp_path / "file", CONFIG)
    with pytest.raises(RunError, match="a file is where a directory should be"):
        RunWriter.create(tmp_path / "file" / "run", CONFIG)


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json and no manifest\.json"):
        open_run(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"is a network, not a run.*workbench import"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_newer_format(trained: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    content = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**content, "format": 2, "new": True}))
    with pytest.raises(RunError, match=rf"{name} was written by a newer .*format 2.*upgrade"):
        open_run(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 1, "format": 1}',
        '{"format": NaN}',
        '{"format": 1e999}',
        '{"format": true}',
        '{"format": "2"}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_no_manifest(tmp_path: Path, trained: Path, text: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    (path / MANIFEST).write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        open_run(path)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "checkpoints/../config.json"])
def test_a_manifest_lists_only_files_of_a_run(tmp_path: Path, trained: Path, name: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    content = json.loads((path / MANIFEST).read_text())
    content["files"][name] = content["files"]["config.json"]
    (path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(RunError, match="which no run has"):
        open_run(path)


def test_links_out_of_the_directory_are_refused(trained: Path, tmp_path: Path) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside.safetensors"
    shutil.copytree(trained, path)
    checkpoint = path / "checkpoints" / "step-000001.safetensors"
    checkpoint.rename(outside)
    checkpoint.symlink_to(outside)
    with pytest.raises(RunError, match="is a link out of its directory"):
        open_run(path)


def with_digests(path: Path, config: dict[str, Any]) -> Path:
    """A run whose config.json says this, and whose manifest agrees."""
    RunWriter.create(path, CONFIG).close()
    data = json.dumps(config).encode()
    (path / "config.json").write_bytes(data)
    manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), where="test")
    records = {**manifest.files, "config.json": type(manifest.files["config.json"]).of(data)}
    (path / MANIFEST).write_bytes(Manifest(files=records).to_bytes())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, r"no .*key 'sed'; did you mean 'seed'"),
        ({"seed": "3"}, r"seed = '3'"),
        ({"seed": 3.5}, r"seed = 3\.5"),
        ({"train_fraction": 1.5}, r"train_fraction"),
        ({"format": 0}, r"format"),
        ({"model": 7}, r"model = 7"),
        ({"model": {**CONFIG.to_dict()["model"], "n_layers": "1"}}, r"model n_layers = '1'"),
        ({"model": {**CONFIG.to_dict()["model"], "layers": 1}}, r"model key 'layers'"),
        ({"source": {"x": [1]}}, r"source"),
        ({"task": {"name": "modular_additon"}}, r"did you mean 'modular_addition'"),
        ({"task": {"name": "modular_addition", "p": 6}}, r"needs a prime p"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = with_digests(tmp_path / "run", {**CONFIG.to_dict(), **change})
    with pytest.raises(RunError, match=message):
        open_run(path)


def test_every_key_of_the_configuration_must_be_there() -> None:
    for key in CONFIG.to_dict():
        data = CONFIG.to_dict()
        del data[key]
        with pytest.raises(ConfigError, match=f"lacks {key}"):
            RunConfig.from_dict(data, where="test")


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    """Every digest agrees, yet the network is another one."""
    path = tmp_path / "run"
    train(path)
    larger = {**CONFIG.to_dict(), "model": {**CONFIG.to_dict()["model"], "d_mlp": 8}}
    data = json.dumps(larger).encode()
    (path / "config.json").write_bytes(data)
    manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), where="test")
    records = {**manifest.files, "config.json": type(manifest.files["config.json"]).of(data)}
    (path / MANIFEST).write_bytes(Manifest(files=records, complete=True).to_bytes())
    with pytest.raises(WeightsError, match=r"blocks\.0\.mlp\.W_in: shape \[4, 4\].*\[4, 8\]"):
        open_run(path).params()


def test_list_runs_reports_the_broken_ones(trained: Path, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        shutil.copytree(trained, tmp_path / name)
    (tmp_path / "b" / "config.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "note.txt").write_text("x")
    listed = list_runs(tmp_path)
    assert [type(item) for item in listed] == [Run, RunError, Run]
    assert [item.path.name for item in listed if isinstance(item, Run)] == ["a", "c"]
    assert "b/config.json is damaged" in str(listed[1])
    with pytest.raises(RunError, match="no directory"):
        list_runs(tmp_path / "nowhere")


# ---------------------------------------------------------------------- a flipped byte

FILES = [
    "config.json",
    "manifest.json",
    "metrics.jsonl",
    "checkpoints/step-000001.safetensors",
    "checkpoints/step-000002.safetensors",
    "resume/step-000001.safetensors",
    "resume/step-000002.safetensors",
]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "run"
    stop_after(path, 2)
    assert sorted(files_of(path)) == sorted(FILES)
    return path


@pytest.mark.parametrize("name", FILES)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_a_flipped_byte_is_found_and_its_file_named(
    two_steps: Path, name: str, position: float, flip: int
) -> None:
    file, whole = two_steps / name, (two_steps / name).read_bytes()
    offset = int(position * len(whole))
    try:
        file.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
        with pytest.raises(RunError, match=name):
            open_run(two_steps)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=8, deadline=None)
def test_a_shortened_file_is_found_and_named(two_steps: Path, name: str, cut: float) -> None:
    file, whole = two_steps / name, (two_steps / name).read_bytes()
    try:
        file.write_bytes(whole[: int(cut * len(whole))])
        with pytest.raises(RunError, match=name):
            open_run(two_steps)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_lost_file_is_named(two_steps: Path, name: str) -> None:
    file, whole = two_steps / name, (two_steps / name).read_bytes()
    try:
        file.unlink()
        with pytest.raises(RunError, match=name):
            open_run(two_steps)
    finally:
        file.write_bytes(whole)


def test_bytes_that_changed_after_opening_are_not_believed(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    run = open_run(path)
    (path / "checkpoints" / "step-000003.safetensors").write_bytes(tensors_to_bytes(params_at(9)))
    with pytest.raises(RunError, match=r"step-000003\.safetensors is damaged"):
        run.params()

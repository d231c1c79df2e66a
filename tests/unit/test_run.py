"""Run directories: what is written is read, and what cannot be trusted is refused."""

import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.small_run import CONFIG, MODEL, files_of, params_at, stop_after, train
from workbench.errors import ConfigError, RunError, WeightsError
from workbench.manifest import MANIFEST, METRICS, Manifest
from workbench.run import Run, RunConfig, list_runs, open_run
from workbench.run_writer import RunWriter
from workbench.task import make_task
from workbench.tensor_files import tensors_to_bytes, weights_digest


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(path)
    return path


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run stopped after its second step."""
    path = tmp_path / "unfinished"
    stop_after(path, 2)
    return path


# ---------------------------------------------------------------------- what is written is read


def test_a_finished_run_reads_back(trained: Path) -> None:
    run = open_run(trained)
    assert run.config == CONFIG
    assert run.task == make_task("modular_addition", {"p": 5})
    assert run.complete and run.stopped == "held-out accuracy stayed"
    assert run.steps == [1, 2, 3]
    assert run.metrics() == [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]
    for step in run.steps:
        params = run.params(step)
        assert params.keys() == params_at(step).keys()
        assert all(torch.equal(params[name], params_at(step)[name]) for name in params)
    assert run.weights_sha256() == weights_digest(params_at(3))
    assert run.weights_sha256(1) == weights_digest(params_at(1))


def test_a_finished_run_holds_these_files_and_no_others(trained: Path) -> None:
    assert sorted(files_of(trained)) == [
        "checkpoints/step-000001.safetensors",
        "checkpoints/step-000002.safetensors",
        "checkpoints/step-000003.safetensors",
        "config.json",
        "manifest.json",
        "metrics.jsonl",
    ]


def test_the_split_is_the_tasks(trained: Path) -> None:
    split, expected = (
        open_run(trained).split(),
        make_task("modular_addition", {"p": 5}).split(3, 0.4),
    )
    assert split is not None and split.train is not None and expected.train is not None
    assert torch.equal(split.train, expected.train)


@pytest.mark.parametrize("unknown", ["seed", "train_fraction"])
def test_the_split_is_unknown_without_seed_or_fraction(tmp_path: Path, unknown: str) -> None:
    config = RunConfig.from_dict({**CONFIG.to_dict(), unknown: None}, where="test")
    RunWriter.create(tmp_path / "run", config).close()
    assert open_run(tmp_path / "run").split() is None


def test_model_hands_the_weights_to_the_bridge(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = types.ModuleType("workbench.bridge")
    bridge.to_bridge = lambda params, config: (weights_digest(params), config)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "workbench.bridge", bridge)
    run = open_run(str(trained))
    assert run.model(step=2) == (run.weights_sha256(2), MODEL)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    RunWriter.create(tmp_path / "run", CONFIG).close()
    run = open_run(tmp_path / "run")
    assert (run.steps, run.complete, run.stopped, run.metrics()) == ([], False, None, [])
    with pytest.raises(RunError, match="no checkpoint yet"):
        run.params()


def test_an_unknown_step_is_refused(trained: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint at step 7; there are: 1, 2, 3"):
        open_run(trained).params(7)


def test_a_moved_run_is_the_same_run(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(trained, copy)
    assert open_run(copy).weights_sha256() == open_run(trained).weights_sha256()


# ---------------------------------------------------------------------- resuming


def test_two_resume_states_are_kept_until_the_end(tmp_path: Path) -> None:
    path, kept = tmp_path / "run", []
    train(path, after_commit=lambda _: kept.append(sorted(os.listdir(path / "resume"))))  # noqa: PTH208
    names = [f"step-{step:06d}.safetensors" for step in range(4)]
    assert kept == [[], names[1:2], names[1:3], names[2:4], []]


def test_a_stopped_run_is_incomplete_and_resumes_to_the_same_end(
    unfinished: Path, trained: Path
) -> None:
    run = open_run(unfinished)
    assert not run.complete and run.steps == [1, 2] and run.manifest.resume_step == 2
    train(unfinished)
    assert files_of(unfinished) == files_of(trained)


def test_replay_to_the_older_state_forgets_what_came_after(unfinished: Path, trained: Path) -> None:
    with RunWriter.reopen(unfinished, CONFIG) as writer:
        assert writer.resume_steps == [1, 2]
        older = writer.load_resume(1)
        assert older is not None and older.step == 1
        writer.replay_to(1)
        assert writer.resume_steps == [1]
    run = open_run(unfinished)
    assert run.steps == [1] and run.metrics() == [{"step": 1, "loss": 1.0}]
    train(unfinished)
    assert files_of(unfinished) == files_of(trained)


def test_a_missing_resume_state_is_named(unfinished: Path) -> None:
    with RunWriter.reopen(unfinished, CONFIG) as writer:
        with pytest.raises(RunError, match=r"no resume state at step 9; there are: 1, 2"):
            writer.load_resume(9)
        with pytest.raises(RunError, match="no resume state at step 0"):
            writer.replay_to(0)


def test_uncommitted_work_has_not_happened(unfinished: Path) -> None:
    before = files_of(unfinished)
    with RunWriter.reopen(unfinished, CONFIG) as writer:
        writer.append_metrics([{"step": 3, "loss": 9.0}])
        writer.save_checkpoint(3, params_at(3))
        writer.save_resume(3, {"moment": torch.zeros(2)})
    assert open_run(unfinished).steps == [1, 2]
    assert len(open_run(unfinished).metrics()) == 2
    RunWriter.reopen(unfinished, CONFIG).close()
    assert files_of(unfinished) == before


def test_a_half_written_last_line_is_ignored_then_cut_off(unfinished: Path) -> None:
    with (unfinished / METRICS).open("ab") as file:
        file.write(b'{"step": 3, "lo')
    assert [row["step"] for row in open_run(unfinished).metrics()] == [1, 2]
    RunWriter.reopen(unfinished, CONFIG).close()
    assert (unfinished / METRICS).read_bytes().endswith(b'"loss": 0.5}\n')


def test_a_copy_without_its_empty_folders_resumes(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / "run"
    RunWriter.create(path, CONFIG).close()
    (path / "checkpoints").rmdir()
    (path / "resume").rmdir()
    train(path)
    assert files_of(path) == files_of(trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"seed is 3 there, 4 here"),
        ({"recipe": {**(CONFIG.recipe or {}), "lr": 0.1}}, r"recipe\.lr is 0\.01 there, 0\.1 here"),
        ({"recipe": None}, r"recipe is \{.*\} there, None here"),
        ({"random_labels": 0.5}, r"random_labels is 0\.0 there, 0\.5 here"),
    ],
)
def test_another_configuration_is_refused_by_key(
    unfinished: Path, change: dict[str, Any], message: str
) -> None:
    other = RunConfig.from_dict({**CONFIG.to_dict(), **change}, where="test")
    with pytest.raises(RunError, match=message):
        RunWriter.reopen(unfinished, other)
    train(unfinished)  # the refusal let the lock go


def test_a_newer_torch_may_resume(unfinished: Path) -> None:
    newer = RunConfig.from_dict({**CONFIG.to_dict(), "versions": {"torch": "99"}}, where="test")
    with RunWriter.reopen(unfinished, newer) as writer:
        assert writer.config == CONFIG


def test_a_complete_run_is_not_written_again(trained: Path) -> None:
    before = files_of(trained)
    with pytest.raises(RunError, match="is complete"):
        RunWriter.reopen(trained, CONFIG)
    with pytest.raises(RunError, match="is a run already"):
        RunWriter.create(trained, CONFIG)
    assert files_of(trained) == before


def test_an_occupied_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"not empty \(it has thesis\.tex\)"):
        RunWriter.create(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == ["thesis.tex"]  # noqa: PTH208


def test_checkpoints_that_lost_their_manifest_are_not_overwritten(unfinished: Path) -> None:
    (unfinished / MANIFEST).unlink()
    before = files_of(unfinished)
    with pytest.raises(RunError, match=r"checkpoints, metrics\.jsonl, resume"):
        RunWriter.open(unfinished, CONFIG)
    assert files_of(unfinished) == before


def test_a_listed_checkpoint_is_never_overwritten(unfinished: Path) -> None:
    with RunWriter.reopen(unfinished, CONFIG) as writer:
        writer.save_checkpoint(2, params_at(2))  # the same again is nothing new
        with pytest.raises(RunError, match=r"step-000002.* is there with other contents"):
            writer.save_checkpoint(2, params_at(5))
    assert open_run(unfinished).weights_sha256(2) == weights_digest(params_at(2))


def test_what_cannot_be_read_back_is_not_written(unfinished: Path) -> None:
    spoilt = params_at(3)
    spoilt["unembed.W_U"][0, 0] = float("nan")
    with RunWriter.reopen(unfinished, CONFIG) as writer:
        with pytest.raises(WeightsError, match=r"unembed\.W_U: NaN or Inf"):
            writer.save_checkpoint(3, spoilt)
        with pytest.raises(RunError, match="cannot store metrics"):
            writer.append_metrics([{"step": 3, "loss": float("nan")}])
        with pytest.raises(AssertionError, match="out of order"):
            writer.append_metrics([{"step": 1, "loss": 1.0}])
        writer.commit()
    assert len(open_run(unfinished).metrics()) == 2


def test_a_complete_run_needs_a_checkpoint(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", CONFIG) as writer:
        with pytest.raises(RunError, match="needs a checkpoint"):
            writer.commit(complete=True)


def test_a_configuration_that_is_not_json_is_refused(tmp_path: Path) -> None:
    config = RunConfig(task=CONFIG.task, model=MODEL, recipe={"lr": float("inf")})
    with pytest.raises(RunError, match="cannot store"):
        RunWriter.create(tmp_path / "run", config)


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

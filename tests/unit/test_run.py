"""Run directories: what is written is what is read, and what cannot be trusted is refused."""

import contextlib
import errno
import functools
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.errors import ConfigError, RunError, WeightsError
from workbench.manifest import MANIFEST, METRICS, Manifest
from workbench.run import Run, RunConfig, list_runs, open_run
from workbench.run_writer import RunWriter
from workbench.storage import (
    atomic_write,
    from_json,
    tensors_from_bytes,
    tensors_to_bytes,
    weights_digest,
)
from workbench.task import make_task
from workbench.transformer import ModelConfig, Params, init_params, stack, unstack

REPOSITORY = Path(__file__).parents[2]

MODEL = ModelConfig(
    n_layers=1, n_heads=2, d_model=4, d_head=2, d_mlp=4, d_vocab=6, d_vocab_out=5, n_ctx=3
)
CONFIG = RunConfig(
    task=make_task("modular_addition", {"p": 5}).to_dict(),
    model=MODEL,
    recipe={"name": "fast", "lr": 0.01, "betas": [0.9, 0.98]},
    seed=3,
    train_fraction=0.4,
)
LAST_STEP = 3


def params_at(step: int) -> Params:
    return init_params(MODEL, torch.Generator().manual_seed(step))


def train(path: Path, *, after_commit: Callable[[int], None] = lambda step: None) -> None:
    """A trainer in miniature: resumes where it was, and commits after each of three steps."""
    with RunWriter.open(path, CONFIG) as writer:
        state = writer.load_resume()
        start = 0 if state is None else state.step
        if state is not None:
            assert torch.equal(state.tensors["moment"], torch.full((2,), float(start)))
            writer.replay_to(start)
        after_commit(start)
        for step in range(start + 1, LAST_STEP + 1):
            writer.append_metrics([{"step": step, "loss": 1 / step}])
            writer.save_checkpoint(step, params_at(step))
            writer.save_resume(step, {"moment": torch.full((2,), float(step))})
            writer.commit()
            after_commit(step)
        writer.commit(complete=True, stopped="held-out accuracy stayed")
        after_commit(LAST_STEP + 1)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk protects from power cuts, which no test here makes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def files_of(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


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


class Stop(Exception):
    """The trainer in miniature is told to stop."""


def stop_after(path: Path, step: int) -> None:
    def stop(done: int) -> None:
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        train(path, after_commit=stop)


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


# ---------------------------------------------------------------------- stopped at any write

WRITES = ("open", "pwrite", "fsync", "replace", "unlink", "mkdir", "ftruncate")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written after it, not even by clean-up."""


class Fault:
    """Counts low-level writes and breaks the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, kind: str) -> None:
        self.at, self.kind, self.count = at, kind, 0
        for name in WRITES:
            monkeypatch.setattr(os, name, functools.partial(self._call, name, getattr(os, name)))

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.kind == "kill" and self.count > self.at:
            raise Killed
        if self.count != self.at:
            return real(*args, **kwargs)
        if name == "pwrite":  # half of it reaches the disk
            descriptor, data, offset = args
            real(descriptor, data[: len(data) // 2], offset)
        if self.kind == "kill":
            raise Killed
        if self.kind == "Ctrl-C":
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken_training(path: Path, at: int, kind: str) -> tuple[list[int], bool]:
    """Train with the `at`-th write broken: the commits it saw done, and whether it got through."""
    done: list[int] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault = Fault(monkeypatch, at, kind)
        try:
            train(path, after_commit=done.append)
        except Killed:
            assert kind == "kill"
        except KeyboardInterrupt:
            assert kind == "Ctrl-C"
        except RunError as error:
            assert kind == "full disk" and "free some space" in str(error)
    return done, fault.count < at


def committed_step(path: Path) -> int:
    """The step a run stands at, after checking that every part of it stands there."""
    run = open_run(path)
    assert len(run.metrics()) == len(run.steps)
    step = len(run.steps)
    assert run.steps == [row["step"] for row in run.metrics()] == list(range(1, step + 1))
    for saved in run.steps:
        assert run.weights_sha256(saved) == weights_digest(params_at(saved))
    assert run.manifest.steps("resume") == ([] if run.complete else run.steps[-2:])
    assert not run.complete or step == LAST_STEP
    return LAST_STEP + 1 if run.complete else step


def check_stopped(path: Path, done: list[int], start: int | None) -> None:
    """The run is at the last commit seen, or the one after; nothing else is possible."""
    last = done[-1] if done else start
    if last is None:  # stopped while it began
        if not (path / MANIFEST).exists():
            with pytest.raises(RunError, match=r"half-written|missing|no config\.json"):
                open_run(path)
            return
        assert committed_step(path) == 0
    else:
        assert committed_step(path) in (last, last + 1)


def finish(path: Path) -> None:
    if (path / MANIFEST).exists() and open_run(path).complete:
        with pytest.raises(RunError, match="is complete"):
            train(path)
    else:
        train(path)


@pytest.mark.parametrize("kind", ["kill", "Ctrl-C", "full disk"])
def test_stopped_at_any_write_from_the_start(kind: str, trained: Path, tmp_path: Path) -> None:
    for at in range(1, 1000):
        path = tmp_path / str(at)
        done, through = broken_training(path, at, kind)
        if through:
            break
        check_stopped(path, done, None)
        finish(path)
        assert files_of(path) == files_of(trained)
        shutil.rmtree(path)
    assert through and at > 60


@pytest.mark.parametrize("kind", ["kill", "Ctrl-C", "full disk"])
def test_stopped_at_any_write_while_replaying(kind: str, trained: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    stop_after(stopped, 2)
    for name in ("checkpoints", "resume"):  # as after a kill before the third commit
        (stopped / name / "step-000003.safetensors").write_bytes(b"half")
        (stopped / name / ".step-000003.safetensors.12-ab.tmp").write_bytes(b"half")
    for at in range(1, 1000):
        path = tmp_path / str(at)
        shutil.copytree(stopped, path)
        done, through = broken_training(path, at, kind)
        if through:
            break
        check_stopped(path, done, 2)
        finish(path)
        assert files_of(path) == files_of(trained)
        shutil.rmtree(path)
    assert through and at > 30


@pytest.mark.parametrize("kind", ["kill", "Ctrl-C", "full disk"])
def test_going_back_one_state_is_one_commit(kind: str, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    stop_after(stopped, 2)
    seen = set()
    for at in range(1, 100):
        path = tmp_path / str(at)
        shutil.copytree(stopped, path)
        with RunWriter.reopen(path, CONFIG) as writer, pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, at, kind)
            with contextlib.suppress(Killed, KeyboardInterrupt, RunError):
                writer.replay_to(1)
        seen.add(committed_step(path))
        RunWriter.reopen(path, CONFIG).close()
        assert sorted(files_of(path)) == sorted(set(FILES) & set(files_of(path)))
        if fault.count < at:
            break
    assert seen == {1, 2} and 5 < at < 99


def test_training_goes_on_after_a_full_disk_has_room_again(tmp_path: Path, trained: Path) -> None:
    """The same writer, at each of its writes, in the same process."""
    for at in range(1, 60):
        path = tmp_path / str(at)
        writer = RunWriter.create(path, CONFIG)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(monkeypatch, at, "full disk")
            for step in (1, 2, 3):
                row, moment = {"step": step, "loss": 1 / step}, torch.full((2,), float(step))
                retry(writer.append_metrics, [row])
                retry(writer.save_checkpoint, step, params_at(step))
                retry(writer.save_resume, step, {"moment": moment})
                retry(writer.commit)
            retry(writer.commit, complete=True, stopped="held-out accuracy stayed")
        writer.close()
        assert files_of(path) == files_of(trained)


def retry(act: Callable[..., None], *args: object, **options: object) -> None:
    try:
        act(*args, **options)
    except RunError:
        act(*args, **options)


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


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 300 bytes: a real short write, then a real error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_real_limit_of_the_file_system(tmp_path: Path, small_files: None) -> None:
    file = tmp_path / "file"
    atomic_write(file, b"old")
    with pytest.raises(RunError, match="file too large; free some space"):
        atomic_write(file, b"n" * 301)
    assert file.read_bytes() == b"old" and temporary_files(tmp_path) == []
    atomic_write(file, b"n" * 300)
    assert file.read_bytes() == b"n" * 300


def test_a_file_system_that_cannot_sync_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


# ---------------------------------------------------------------------- several processes


def test_two_writers_in_one_process(unfinished: Path) -> None:
    with RunWriter.reopen(unfinished, CONFIG):
        with pytest.raises(RunError, match=r"another process is training into .*--runs directory"):
            RunWriter.reopen(unfinished, CONFIG)
        open_run(unfinished)  # reading needs no lock
    RunWriter.reopen(unfinished, CONFIG).close()


def hold(path: str) -> None:
    """In another process: begin a run, say so, and wait to be killed."""
    with RunWriter.create(path, CONFIG):
        os.write(1, b"locked\n")
        time.sleep(60)


def write_until_killed(path: Path) -> None:
    """In another process: commit as fast as possible."""
    with RunWriter.open(path, CONFIG) as writer:
        state = writer.load_resume()
        step = 0 if state is None else state.step
        if state is not None:
            writer.replay_to(step)
        while True:
            step += 1
            writer.append_metrics([{"step": step, "loss": 1 / step}])
            writer.save_checkpoint(step, params_at(step))
            writer.save_resume(step, {"moment": torch.full((2,), float(step))})
            writer.commit()


def kill_rounds(path: str, rounds: int, seed: int) -> None:
    """In another process: let a child write, kill it at a random moment, check; again."""
    torch.set_num_threads(1)
    draw, reached = random.Random(seed), 0
    for _ in range(rounds):
        child = os.fork()
        if child == 0:
            write_until_killed(Path(path))
            os._exit(1)
        time.sleep(draw.uniform(0.005, 0.15))
        if (Path(path) / MANIFEST).exists():
            check_alive(Path(path))  # while it is being written
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if not (Path(path) / MANIFEST).exists():
            continue
        step = check_alive(Path(path))
        assert step >= reached, "a committed step was lost"
        reached = step
    assert reached >= rounds
    os.write(1, f"reached {reached}\n".encode())


def check_alive(path: Path) -> int:
    run = open_run(path)
    assert run.steps == [row["step"] for row in run.metrics()] == [*range(1, len(run.steps) + 1)]
    assert run.manifest.steps("resume") == run.steps[-2:]
    if run.steps:
        assert run.weights_sha256() == weights_digest(params_at(run.steps[-1]))
    return len(run.steps)


def in_another_process(call: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"from tests.unit.test_run import *; {call}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_and_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = in_another_process(f"hold({str(path)!r})")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another process is training into"):
            RunWriter.reopen(path, CONFIG)
        with pytest.raises(RunError, match="is a run already"):
            RunWriter.create(path, CONFIG)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    RunWriter.reopen(path, CONFIG).close()  # the lock died with the process


def test_killed_at_random_moments(tmp_path: Path) -> None:
    process = in_another_process(f"kill_rounds({str(tmp_path / 'run')!r}, 25, 0)")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and output.startswith("reached")


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
    import hashlib
    import struct

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

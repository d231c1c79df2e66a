"""A run stopped at any write, by a full disk, Ctrl-C or a kill, is what it was at a commit."""

import contextlib
import errno
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.small_run import CONFIG, LAST_STEP, files_of, params_at, stop_after, train
from workbench.errors import RunError
from workbench.manifest import MANIFEST
from workbench.run import open_run
from workbench.run_writer import RunWriter
from workbench.tensor_files import weights_digest

REPOSITORY = Path(__file__).parents[2]


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


def broken_training(path: Path, at: int, kind: str, last: int) -> tuple[list[int], bool]:
    """Train with the `at`-th write broken: the commits it saw done, and whether it got through."""
    done: list[int] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault = Fault(monkeypatch, at, kind)
        try:
            train(path, last=last, after_commit=done.append)
        except Killed:
            assert kind == "kill"
        except KeyboardInterrupt:
            assert kind == "Ctrl-C"
        except RunError as error:
            assert kind == "full disk" and "free some space" in str(error)
    return done, fault.count < at


def committed_step(path: Path, last: int = LAST_STEP) -> int:
    """The step a run stands at, after checking that every part of it stands there."""
    run = open_run(path)
    assert len(run.metrics()) == len(run.steps)
    step = len(run.steps)
    assert run.steps == [row["step"] for row in run.metrics()] == list(range(1, step + 1))
    for saved in run.steps:
        assert run.weights_sha256(saved) == weights_digest(params_at(saved))
    assert run.manifest.steps("resume") == ([] if run.complete else run.steps[-2:])
    assert not run.complete or step == last
    return last + 1 if run.complete else step


def check_stopped(path: Path, done: list[int], start: int | None, last: int) -> None:
    """The run is at the last commit seen, or the one after; nothing else is possible."""
    seen = done[-1] if done else start
    if seen is None:  # stopped while it began
        if not (path / MANIFEST).exists():
            with pytest.raises(RunError, match=r"half-written|missing|no config\.json"):
                open_run(path)
            return
        assert committed_step(path, last) == 0
    else:
        assert committed_step(path, last) in (seen, seen + 1)


def finish(path: Path, last: int) -> None:
    if (path / MANIFEST).exists() and open_run(path).complete:
        with pytest.raises(RunError, match="is complete"):
            train(path, last=last)
    else:
        train(path, last=last)


@pytest.mark.parametrize("kind", ["kill", "Ctrl-C", "full disk"])
def test_stopped_at_any_write_from_the_start(kind: str, tmp_path: Path) -> None:
    train(tmp_path / "whole", last=1)
    for at in range(1, 1000):
        path = tmp_path / str(at)
        done, through = broken_training(path, at, kind, last=1)
        if through:
            break
        check_stopped(path, done, None, last=1)
        finish(path, last=1)
        assert files_of(path) == files_of(tmp_path / "whole")
        shutil.rmtree(path)
    assert through and at > 50


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
        done, through = broken_training(path, at, kind, LAST_STEP)
        if through:
            break
        check_stopped(path, done, 2, LAST_STEP)
        finish(path, LAST_STEP)
        assert files_of(path) == files_of(trained)
        shutil.rmtree(path)
    assert through and at > 30


@pytest.mark.parametrize("kind", ["kill", "Ctrl-C", "full disk"])
def test_going_back_one_state_is_one_commit(kind: str, tmp_path: Path) -> None:
    stopped, gone_back, seen = tmp_path / "stopped", tmp_path / "gone back", set()
    stop_after(stopped, 2)
    shutil.copytree(stopped, gone_back)
    with RunWriter.reopen(gone_back, CONFIG) as writer:
        writer.replay_to(1)
    for at in range(1, 100):
        path = tmp_path / str(at)
        shutil.copytree(stopped, path)
        with RunWriter.reopen(path, CONFIG) as writer, pytest.MonkeyPatch.context() as monkeypatch:
            fault = Fault(monkeypatch, at, kind)
            with contextlib.suppress(Killed, KeyboardInterrupt, RunError):
                writer.replay_to(1)
        step = committed_step(path)
        seen.add(step)
        RunWriter.reopen(path, CONFIG).close()  # removes what no longer counts
        assert files_of(path) == files_of(gone_back if step == 1 else stopped)
        if fault.count < at:
            break
    assert seen == {1, 2} and 5 < at < 99


@pytest.mark.parametrize("kind", ["Ctrl-C", "full disk"])
def test_the_same_writer_can_go_on(kind: str, tmp_path: Path, trained: Path) -> None:
    """A disk that has room again, or a trainer that saves once more after Ctrl-C."""
    for at in range(1, 60):
        path = tmp_path / str(at)
        writer = RunWriter.create(path, CONFIG)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(monkeypatch, at, kind)
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
    except (RunError, KeyboardInterrupt):
        act(*args, **options)


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
        [sys.executable, "-W", "ignore", "-c", f"from tests.unit.test_run_faults import *; {call}"],
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
    process = in_another_process(f"kill_rounds({str(tmp_path / 'run')!r}, 12, 0)")
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and output.startswith("reached")

"""Runs that are killed with SIGKILL, and runs that meet in one directory."""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from probes.batch import Plan, Results, ShardResult, run_plan
from probes.batch.shards import ShardStore
from tests.unit.fork_server import fork_server
from workbench.errors import SweepError

KILLS = 50
SHARDS = 40

pa.array([0.0])  # imports pandas where there is one: once here, rather than in every process

REFUSED = 3
"""How a process ends whose plan is refused."""


def draws(spec: dict[str, Any]) -> ShardResult:
    """Numbers that follow from the seed; every computation leaves a line when it starts."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, f"{spec['seed']}\n".encode())  # appended whole, by any number of processes
    os.close(log)
    generator = torch.Generator().manual_seed(spec["seed"])
    values = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    time.sleep(spec["seconds"])
    table = pa.table({"seed": [spec["seed"]] * 8, "value": (values @ values).sum(0).tolist()})
    return ShardResult(table, {"values": values})


def plan_of(log: Path, *, shards: int = SHARDS, seconds: float = 0.005) -> Plan:
    return Plan(
        name="draws",
        compute="tests.unit.test_batch_kill:draws",
        shards=[{"seed": seed, "log": str(log), "seconds": seconds} for seed in range(shards)],
    )


def computed(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def finished(plan: Plan, directory: Path) -> set[int]:
    store = ShardStore(directory)
    return {seed for seed, key in enumerate(plan.keys) if store.is_done(key)}


def content(directory: Path) -> tuple[bytes, list[torch.Tensor]]:
    """Every bit of the rows (keys aside, which name the log) and of the tensors."""
    results, sink = Results(directory), pa.BufferOutputStream()
    table = results.table().select(["seed", "value"]).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes(), [results.tensors(k)["values"] for k in results.keys()]


def same(one: Path, other: Path) -> bool:
    (rows, tensors), (other_rows, other_tensors) = content(one), content(other)
    return rows == other_rows and all(map(torch.equal, tensors, other_tensors))


# ---------------------------------------------------------------------- processes to kill


context = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def imported() -> Iterator[None]:
    """All processes of this file begin with its imports made."""
    with fork_server("tests.unit.test_batch_kill", "probes.batch.engines.local"):
        yield


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written survives a kill; waiting for the disk protects from power cuts only."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def attempt(
    plan: Plan, directory: Path, started: Connection, before: Callable[[], None] | None = None
) -> None:
    """One run, in a process of its own."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment,misc]
    torch.set_num_threads(1)
    if before is not None:
        before()
    started.send(None)
    try:
        for _ in run_plan(plan, directory):
            pass
    except SweepError as error:
        os._exit(REFUSED if "another plan" in str(error) else 1)


def begin(plan: Plan, directory: Path, *rest: Any) -> BaseProcess:
    """Start a run; it is about to work when this returns."""
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=attempt, args=(plan, directory, writer, *rest))
    process.start()
    writer.close()
    reader.recv()
    reader.close()
    return process


def test_fifty_kills_at_random_moments_change_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in run_plan(plan_of(tmp_path / "log", seconds=0), tmp_path / "whole"):
        pass
    kills = runs = wasted = 0
    while kills < KILLS:
        runs += 1
        log, directory = tmp_path / f"log{runs}", tmp_path / f"x{runs}"
        plan = plan_of(log)
        while kills < KILLS and len(finished(plan, directory)) < SHARDS:
            before, earlier = finished(plan, directory), len(computed(log))
            process = begin(plan, directory)
            time.sleep(draw.uniform(0, 0.08))
            process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            kills += process.exitcode == -signal.SIGKILL
            assert not before & set(computed(log)[earlier:])
            assert before <= finished(plan, directory)
        before, earlier = finished(plan, directory), len(computed(log))
        for _ in run_plan(plan, directory):
            pass
        assert set(computed(log)[earlier:]) == set(range(SHARDS)) - before
        assert same(directory, tmp_path / "whole")
        wasted += len(computed(log)) - SHARDS
    # Most of the time goes into computing, so most of the kills interrupt it.
    assert KILLS / 10 <= wasted <= KILLS


class KilledAt:
    """Kills this process just before its n-th call that changes the disk."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> None:
        for name in ("open", "pwrite", "replace", "unlink", "mkdir", "utime"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted


def test_a_kill_before_each_single_system_call_of_a_run_changes_nothing(tmp_path: Path) -> None:
    for _ in run_plan(plan_of(tmp_path / "log", shards=2, seconds=0), tmp_path / "whole"):
        pass
    for number in range(1000):
        log, directory = tmp_path / f"log{number}", tmp_path / f"x{number}"
        plan = plan_of(log, shards=2, seconds=0)
        process = begin(plan, directory, KilledAt(number))
        process.join()
        before, earlier = finished(plan, directory), len(computed(log))
        for _ in run_plan(plan, directory):
            pass
        assert set(computed(log)[earlier:]) == {0, 1} - before
        assert same(directory, tmp_path / "whole")
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    # Each of 5 files takes 4 calls (make, write, rename, open the directory), each claim 3.
    assert number >= 26


# ---------------------------------------------------------------------- two runs, one directory


def test_two_runs_share_the_work_and_compute_nothing_twice(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "log")
    processes = [begin(plan, tmp_path / "x") for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
        # Whoever ends first has waited for the other's last shard.
        assert finished(plan, tmp_path / "x") == set(range(SHARDS))
    assert sorted(computed(tmp_path / "log")) == list(range(SHARDS))
    for _ in run_plan(plan_of(tmp_path / "log2", seconds=0), tmp_path / "whole"):
        pass
    assert same(tmp_path / "x", tmp_path / "whole")


def test_when_one_of_two_runs_is_killed_the_other_does_its_work(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "log", shards=40, seconds=0.02)
    killed, other = (begin(plan, tmp_path / "x") for _ in range(2))
    while len(finished(plan, tmp_path / "x")) < 5:
        time.sleep(0.005)
    killed.kill()
    killed.join()
    other.join()
    assert (killed.exitcode, other.exitcode) == (-signal.SIGKILL, 0)
    counts = Counter(computed(tmp_path / "log"))
    assert set(counts) == set(range(40))
    assert sum(counts.values()) <= 41  # at most the shard that the killed one was at


def test_of_two_plans_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    for trial in range(4):
        plans = [plan_of(tmp_path / f"log{i}", shards=2, seconds=0) for i in range(2)]
        directory = tmp_path / f"x{trial}"
        processes = [begin(plan, directory) for plan in plans]
        for process in processes:
            process.join()
        assert sorted(process.exitcode or 0 for process in processes) == [0, REFUSED]
        assert Results(directory).table().num_rows == 16

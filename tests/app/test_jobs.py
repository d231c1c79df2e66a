"""Jobs as they are: real processes, killed, cancelled, waiting; and files tampered with."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apps.orders.ask import AskOrder
from apps.orders.train import TrainOrder, seeds_text
from apps.web import jobs
from apps.web.choice import RUNS
from apps.web.jobs import process as job_process
from apps.web.jobs.files import (
    LONGEST,
    STATUS,
    STATUS_BYTES,
    StatusFile,
    hold_lock,
    lock_is_held,
    read_pid,
    read_status,
    status_bytes,
    write_last_status,
)
from apps.web.jobs.order import Order, orders
from apps.web.jobs.process import OURS, Cancelled, Work, _follow, waiting_words
from apps.web.jobs.queue import PLACES, SLOTS, enter_queue, jobs_ahead, take_place
from workbench import config
from workbench.errors import AppError, RunError, WorkbenchError
from workbench.progress import Progress
from workbench.run import open_run

QUICK = TrainOrder(task="modular_addition", settings=("p=7", "steps=20", "train_fraction=0.8"))
LONG = TrainOrder(
    task="modular_addition", settings=("p=7", "steps=900000", "train_fraction=0.8"), seeds=(3,)
)


class Unknown(Order):
    """Fails as soon as its process has read it."""

    kind = "unknown"

    def title(self) -> str:
        return "Something unknown"

    def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
        raise NotImplementedError


BRIEF = dataclass(Unknown)()
PATIENCE = 60.0
"""Seconds that a test waits for a process; none takes as long unless something is wrong."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty runs folder, whose jobs are ended after the test."""
    folder = tmp_path / "runs"
    monkeypatch.setenv(RUNS, str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    for status in jobs.all_jobs():
        kill(folder / ".jobs" / status.id)


def kill(folder: Path) -> None:
    """End the process of a job at once, as a power cut would."""
    if lock_is_held(folder):
        wait_until(lambda: read_pid(folder) is not None or not lock_is_held(folder))
        if lock_is_held(folder):
            pid = read_pid(folder)
            assert pid is not None and pid != os.getpid()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not lock_is_held(folder))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def ended(job_id: str) -> jobs.Status:
    wait_until(lambda: not jobs.status_of(job_id).unfinished)
    return jobs.status_of(job_id)


def trains(job_id: str) -> bool:
    """Whether a job has made some progress."""
    progress = jobs.status_of(job_id).progress
    return progress is not None and progress.total > 0


def folder_of(runs: Path, job_id: str) -> Path:
    return runs / ".jobs" / job_id


# ---------------------------------------------------------------------- to the end


def test_two_jobs_at_once_are_done(runs: Path) -> None:
    trained = jobs.start(QUICK, owner="me")
    wrong = jobs.start(AskOrder(run="nothing", analysis="patching"), owner="me")
    first, second = ended(trained), ended(wrong)

    assert first.state == "done" and first.error is None
    assert first.progress is not None and first.progress[:2] == (20, 20)
    (row,) = (first.result or {})["runs"]
    assert row["run"] == QUICK.run_names()[0] and row["seed"] == 0 and row["steps"] == 20
    assert open_run(runs / row["run"]).complete
    assert first.title == "Train modular_addition-p7, seed 0" and first.seconds > 0
    assert first.parameters == {
        "task": "modular_addition",
        "recipe": None,
        "settings": ["p=7", "steps=20", "train_fraction=0.8"],
        "seeds": [0],
    }

    assert second.state == "failed" and second.result is None
    assert second.error == "no run 'nothing'; it may have been removed since, choose another"
    assert [one.id for one in jobs.all_jobs()] == [wrong, trained]

    asked = ended(jobs.start(ask_of(row["run"]), owner="me"))
    assert asked.state == "done", asked.error
    record = (asked.result or {})["record"]
    assert (runs / row["run"] / "records" / f"{record}.json").is_file()
    wait_until(lambda: not any(one.name.startswith("job ") for one in threading.enumerate()))


def ask_of(run: str) -> AskOrder:
    parameters = {"site": "head", "by": ["position"], "pairs": 16}
    return AskOrder(run=run, analysis="patching", parameters=parameters)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ValueError("inner\nwords"), OURS),
        (OSError(28, "No space left on device"), "No space left on device; free some space or"),
        (MemoryError(), "out of memory; choose something smaller, or end other jobs first"),
        (AppError("do something else"), "do something else"),
    ],
)
def test_a_fault_is_one_line_and_its_traceback_is_in_the_log(
    fault: Exception,
    said: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Faulty(Order):
        def title(self) -> str:
            return ""

        def work(self, runs: Path) -> Generator[Progress, None, dict[str, Any]]:
            yield Progress(3, 10, "working")
            raise fault

    folder = plant(runs, "a" * 16, state="waiting")
    lock = hold_lock(folder / "lock", wait=True)
    assert lock is not None
    monkeypatch.setattr(job_process, "_ordered", lambda job: Faulty())
    monkeypatch.setattr(job_process.os, "nice", lambda by: 0)
    monkeypatch.setattr(job_process.signal, "signal", lambda *given: None)
    job_process.main(folder, lock)
    os.close(lock)
    status = read_status(folder)
    assert status.state == "failed" and status.progress == Progress(3, 10, "working")
    assert (status.error or "").startswith(said) and "\n" not in (status.error or "")
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == (not isinstance(fault, AppError))


# ---------------------------------------------------------------------- stopped


def test_a_cancelled_job_goes_on_when_ordered_again(runs: Path) -> None:
    job_id = jobs.start(LONG, owner="me")
    wait_until(lambda: trains(job_id))
    with pytest.raises(AppError, match="another tab started this job; cancel it there"):
        jobs.cancel(job_id, owner="you")
    assert jobs.status_of(job_id).state == "running"
    jobs.cancel(job_id, owner="me")
    status = ended(job_id)
    assert status.state == "cancelled" and status.error is None and status.result is None
    run = open_run(runs / LONG.run_names()[0])
    assert not run.complete

    again = jobs.start(LONG, owner="me")
    wait_until(lambda: trains(again))
    kill(folder_of(runs, again))
    lost = jobs.status_of(again)
    assert lost.state == "lost" and "start it again" in (lost.error or "")
    rows = open_run(runs / LONG.run_names()[0]).metrics()
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[: len(run.metrics())] == [
        row["step"] for row in run.metrics()
    ]
    jobs.cancel(again, owner="me")  # one that has ended stays as it is
    assert jobs.status_of(again).state == "lost"


def test_a_job_that_does_not_stop_is_stopped(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.start(LONG, owner="me")
    wait_until(lambda: trains(job_id))
    pid = read_pid(folder_of(runs, job_id))
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # deaf to everything but SIGKILL
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    jobs.cancel(job_id, owner="me")
    assert ended(job_id).state == "cancelled"


def test_no_process_but_the_job_is_ever_killed(runs: Path) -> None:
    job_id = jobs.start(BRIEF, owner="me")
    ended(job_id)
    folder = folder_of(runs, job_id)
    lock = hold_lock(folder / "lock", wait=True)  # when the process is gone
    assert lock is not None
    ours = StatusFile(state="running", pid=os.getpid(), updated=time.time())
    write_last_status(folder, ours)
    jobs._signal(folder, signal.SIGKILL)  # it is held, but our command line is of no job
    os.close(lock)
    jobs._signal(folder, signal.SIGKILL)  # it is free: the number is somebody else's by now


def test_a_job_waits_for_a_place_and_for_those_before_it(runs: Path) -> None:
    slots = runs / ".jobs" / SLOTS
    slots.mkdir(parents=True)
    held = [hold_lock(slots / str(i), wait=False) for i in range(PLACES)]
    assert None not in held
    first = jobs.start(QUICK, owner="me")
    second = jobs.start(BRIEF, owner="me")

    def said(job_id: str) -> str:
        progress = jobs.status_of(job_id).progress
        return "" if progress is None else progress.doing

    wait_until(lambda: said(first) == waiting_words(0))
    wait_until(lambda: said(second) == waiting_words(1))
    assert jobs.status_of(first).state == jobs.status_of(second).state == "waiting"
    assert jobs.status_of(second).seconds_left is None
    jobs.cancel(first, owner="me")
    assert ended(first).state == "cancelled"
    wait_until(lambda: said(second) == waiting_words(0))
    assert jobs.status_of(second).state == "waiting"
    os.close(held[0] or 0)
    assert ended(second).state == "failed"  # it ran
    for lock in held[1:]:
        os.close(lock or 0)


def test_a_dead_job_in_the_queue_is_passed_over(tmp_path: Path) -> None:
    first, second, third = (tmp_path / (f"{i}" * 16) for i in range(3))
    for folder in (first, second, third):
        folder.mkdir()
    lock = hold_lock(first / "lock", wait=True)
    (second / "lock").touch()
    tickets = [enter_queue(folder, float(i)) for i, folder in enumerate((first, second, third))]
    assert [jobs_ahead(ticket) for ticket in (tickets[0], tickets[2])] == [0, 1]
    assert not tickets[1].exists()
    os.close(lock or 0)
    assert jobs_ahead(tickets[2]) == 0


def test_places_are_so_many(tmp_path: Path) -> None:
    held = [take_place(tmp_path) for _ in range(PLACES)]
    assert None not in held and take_place(tmp_path) is None
    for lock in held:
        os.close(lock or 0)
    again = take_place(tmp_path)
    assert again is not None
    os.close(again)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "job_id",
    ["../..", "", "a" * 15, "a" * 17, "A" * 16, "a" * 15 + "\0", "0" * 10_000, "/etc/passwd",
     "a" * 16 + "\n", "．" * 16],
)  # fmt: skip
def test_what_is_no_id_is_refused(job_id: str, runs: Path) -> None:
    for ask in (jobs.status_of, lambda one: jobs.cancel(one, owner="me")):
        with pytest.raises(AppError, match="this is not the id of a job") as caught:
            ask(job_id)
        assert len(str(caught.value)) < 200


def test_an_id_of_no_job_is_refused(runs: Path) -> None:
    with pytest.raises(AppError, match="there is no job aaaaaaaaaaaaaaaa any more"):
        jobs.status_of("a" * 16)
    assert jobs.all_jobs() == []


def test_so_many_jobs_and_no_more(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST_UNFINISHED", 1)
    jobs.start(LONG, owner="me")
    with pytest.raises(AppError, match="1 jobs are unfinished; wait for one"):
        jobs.start(QUICK, owner="me")
    assert len(jobs.all_jobs()) == 1


def test_a_wrong_order_makes_no_job(runs: Path) -> None:
    for order in (
        TrainOrder(task="modular_additoin"),
        TrainOrder(task="modular_addition", settings=("p=4",)),
        TrainOrder(task="modular_addition", settings=("q=5",)),
    ):
        with pytest.raises(WorkbenchError) as caught:
            jobs.start(order, owner="me")
        assert "\n" not in str(caught.value)
    assert jobs.all_jobs() == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, runs: Path) -> None:
    runs.mkdir()
    (runs / ".jobs").write_text("a file")
    with pytest.raises(RunError, match="a file is where a directory should be"):
        jobs.start(QUICK, owner="me")


def test_old_jobs_are_swept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT", 2)
    for i in range(4):
        plant(runs, f"{i}" * 16, created=float(i), state="done")
    (runs / ".jobs" / ".new-ffff").mkdir()
    job_id = jobs.start(BRIEF, owner="me")
    assert [one.id for one in jobs.all_jobs()] == [job_id, "3" * 16, "2" * 16]
    assert not (runs / ".jobs" / ".new-ffff").exists()
    ended(job_id)


# ---------------------------------------------------------------------- damaged files


def plant(runs: Path, job_id: str, *, created: float = 0.0, state: str = "running") -> Path:
    """The folder of a job without a process."""
    folder = runs / ".jobs" / job_id
    folder.mkdir(parents=True)
    job = {"format": 1, "kind": "train", "parameters": {}, "title": "Something", "created": created}
    (folder / "job.json").write_text(json.dumps({**job, "owner_sha256": "0" * 64}))
    (folder / STATUS).write_bytes(status_bytes(StatusFile(state=state, updated=1.0)))  # type: ignore[arg-type]
    (folder / "result.json").write_text("{}")
    (folder / "lock").touch()
    return folder


def test_what_a_process_left_behind_is_lost(runs: Path) -> None:
    folder = plant(runs, "a" * 16)
    assert read_status(folder).state == "lost"
    (folder / "cancel").touch()
    assert read_status(folder).state == "cancelled"
    lock = hold_lock(folder / "lock", wait=True)
    assert read_status(folder).state == "running"
    os.close(lock or 0)


@pytest.mark.parametrize("name", ["job.json", STATUS, "result.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'{"format": 1, "format": 1}', b"[]",
     b'{"format": 2}'],
)  # fmt: skip
def test_a_damaged_file_leaves_a_job_that_can_be_shown(
    name: str, content: bytes, runs: Path
) -> None:
    folder = plant(runs, "a" * 16, state="done")
    (folder / name).write_bytes(content)
    status = jobs.status_of("a" * 16)
    if name == "result.json" and content == b'{"format": 2}':
        assert status.state == "done"  # what a result holds is not ours to judge
        return
    assert status.state == ("done" if name == "job.json" else "lost")
    assert status.error is not None and len(status.error.splitlines()) == 1
    assert jobs.all_jobs() == [status]
    assert not jobs.is_owner(status, "")


def test_unknown_kinds_and_keys_are_refused_by_the_process(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = jobs.start(BRIEF, owner="me")
    order = AskOrder(run="x", analysis="patching")
    made = config.to_dict(order)
    monkeypatch.setattr(config, "to_dict", lambda one: {**made, "more": 1})
    key = jobs.start(order, owner="me")
    assert (ended(kind).error or "").startswith("no order 'unknown'; known: ")
    assert (ended(key).error or "").startswith("no parameters of ask key 'more'")


def test_every_order_is_registered_under_its_kind() -> None:
    assert {"train", "ask"} <= set(orders)
    for name in orders:
        assert orders.get(name).kind == name


# ---------------------------------------------------------------------- the process from inside


def test_the_last_status_fits_even_where_no_file_can_be_made(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise RunError("no space left on device")

    folder = plant(runs, "a" * 16)
    monkeypatch.setattr("apps.web.jobs.files.atomic_write", full)
    longest = "é" * LONGEST
    write_last_status(folder, StatusFile(state="failed", doing=longest, error=longest, updated=1.0))
    assert (folder / STATUS).stat().st_size == STATUS_BYTES
    status = read_status(folder)
    assert status.state == "failed" and status.error == longest


def test_time_left_is_counted_from_where_a_resumed_job_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("apps.web.jobs.process.time.monotonic", lambda: now[0])
    work = Work(tmp_path)
    for done, at in ((500, 100.0), (600, 110.0)):
        now[0] = at
        work.tell(Progress(done, 1000, "training"))
    said = StatusFile.model_validate_json((tmp_path / STATUS).read_bytes())
    assert said.seconds_left == pytest.approx(40.0)  # 10 steps a second, 400 to go
    now[0] = 120.0
    work.tell(Progress(0, 1000, "training"))  # it started again: what was known no longer counts
    said = StatusFile.model_validate_json((tmp_path / STATUS).read_bytes())
    assert said.seconds_left is None and said.done == 0 and said.seconds == pytest.approx(20.0)


def test_statuses_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []
    monkeypatch.setattr("apps.web.jobs.process.time.monotonic", lambda: now[0])
    monkeypatch.setattr("apps.web.jobs.process.write_status", lambda *said: written.append(said))
    work = Work(tmp_path)
    for i in range(1000):  # over one second
        now[0] = i / 1000
        work.tell(Progress(i, 1000, ""))
    assert len(written) == 5


def test_a_stopped_generator_is_closed(tmp_path: Path) -> None:
    closed = []

    def steps():  # type: ignore[no-untyped-def]
        try:
            while True:
                yield Progress(1, 2, "x")
        finally:
            closed.append(True)

    work = Work(tmp_path)
    work.stop(signal.SIGTERM, None)
    with pytest.raises(Cancelled):
        _follow(steps(), work)
    assert closed == [True]


@pytest.mark.parametrize(
    ("seeds", "said"),
    [((0,), "0"), ((0, 1), "0, 1"), ((0, 1, 2, 3), "0-3"), ((0, 2, 4), "0, 2, 4")],
)
def test_seeds_in_words(seeds: tuple[int, ...], said: str) -> None:
    assert seeds_text(seeds) == said


def test_cancelling_again_ends_a_job_that_nobody_waits_for_any_more(runs: Path) -> None:
    job_id = jobs.start(LONG, owner="me")
    wait_until(lambda: trains(job_id))
    folder = folder_of(runs, job_id)
    pid = read_pid(folder)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    (folder / "cancel").touch()
    assert jobs.status_of(job_id).stopping
    os.utime(folder / "cancel", (0, 0))  # asked long ago, by an app that has ended
    jobs.cancel(job_id, owner="me")
    assert ended(job_id).state == "cancelled" and not jobs.status_of(job_id).stopping

"""Every engine gives what the local one gives, and outlives the processes that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from probes.batch import Engine, Plan, Results, run_plan, status
from probes.batch.engine import Order, Outcome, engines
from probes.batch.engines.local import LocalEngine, visible_devices
from probes.batch.engines.ray import RayEngine
from probes.batch.engines.submitit import SubmititEngine
from workbench.errors import SweepError

SCRIPT = '''
"""A user's script: squares, with a line in the log for every computation."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import torch

from probes.batch import ShardResult


def square(spec):
    with Path(spec["log"]).open("a") as log:
        log.write(f"{spec['number']} {os.getpid()}\\n")
    if spec["number"] in spec["kill"] and not Path(spec["log"] + ".killed").exists():
        Path(spec["log"] + ".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if spec["number"] in spec["deadly"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if spec["number"] in spec["broken"]:
        raise ValueError("not this one")
    time.sleep(spec["seconds"])
    table = pa.table({"number": [spec["number"]], "square": [spec["number"] ** 2]})
    return ShardResult(table, {"root": torch.tensor([spec["number"]])})


def surroundings(spec):
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    time.sleep(0.1)
    row = {"device": [device], "threads": [torch.get_num_threads()], "pid": [os.getpid()]}
    return ShardResult(pa.table(row))
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def plan_of(
    script: Path,
    shards: int = 6,
    *,
    seconds: float = 0.0,
    kill: tuple[int, ...] = (),
    deadly: tuple[int, ...] = (),
    broken: tuple[int, ...] = (),
) -> Plan:
    shared = {
        "log": str(script.with_suffix(".log")),
        "seconds": seconds,
        "kill": kill,
        "deadly": deadly,
        "broken": broken,
    }
    return Plan(
        name="squares",
        compute=f"{script}:square",
        shards=[{"number": number, **shared} for number in range(shards)],
    )


def computed(script: Path) -> list[tuple[int, int]]:
    """Which number was computed by which process, in order."""
    lines = script.with_suffix(".log").read_text().splitlines()
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def squares(directory: Path) -> list[int]:
    rows: list[int] = Results(directory).table().column("square").to_pylist()
    return rows


def run(plan: Plan, directory: Path, engine: Any) -> list[Any]:
    return list(run_plan(plan, directory, engine))


# ---------------------------------------------------------------------- local


def test_processes_give_what_one_gives_though_one_is_killed(script: Path, tmp_path: Path) -> None:
    plan = plan_of(script, kill=(3,), deadly=(4,))
    with pytest.raises(SweepError, match=r"1 of 6 .* \(shards\[4\]\): its process was killed"):
        run(plan, tmp_path / "x", LocalEngine(workers=2))
    assert squares(tmp_path / "x") == [0, 1, 4, 9, 25]
    begun = computed(script)
    assert os.getpid() not in {pid for _, pid in begun}
    assert [number for number, _ in begun].count(3) >= 2
    assert status(tmp_path / "x")[:5] == (6, 5, 1, 0, 0)
    mended = plan_of(script)
    run(mended, tmp_path / "one", LocalEngine())
    assert squares(tmp_path / "one") == [0, 1, 4, 9, 16, 25]


class Losing(Engine):
    """An engine whose processes never come back."""

    name = "losing"
    summary = "loses everything"

    def outcomes(self, orders: Sequence[Order]) -> Iterator[Outcome]:
        return iter(())


def test_processes_that_die_every_time_are_one_clear_error(script: Path, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"'losing' died 3 times .* 6 shards.* fewer workers"):
        run(plan_of(script), tmp_path / "x", Losing())


def test_each_process_has_one_thread_and_its_own_device(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(threads, "2")  # what they would have of themselves
    plan = Plan(
        name="x",
        compute=f"{script}:surroundings",
        shards=[{"i": i} for i in range(12)],
    )
    run(plan, tmp_path / "x", LocalEngine(workers=2, devices=("4", "7")))
    rows = Results(tmp_path / "x").table().to_pylist()
    assert {row["threads"] for row in rows} == {1}
    seen = {(row["pid"], row["device"]) for row in rows}
    assert sorted(device for _, device in seen) == ["4", "7"]
    assert len({pid for pid, _ in seen}) == 2


@pytest.mark.parametrize(("named", "expected"), [("2, 5", ("2", "5")), ("", ())])
def test_visible_devices_are_those_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, named: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == expected


def test_leaving_a_run_early_ends_its_processes(script: Path, tmp_path: Path) -> None:
    steps = run_plan(plan_of(script, seconds=0.05), tmp_path / "x", LocalEngine(workers=2))
    next(steps)
    steps.close()
    for pid in {pid for _, pid in computed(script)}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("name", ["local", "submitit"])
def test_engines_refuse_too_few_workers(script: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SweepError, match="workers = 0; give at least 1"):
        run(plan_of(script), tmp_path / "x", engines.get(name)(workers=0))


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_engines_that_are_not_installed_say_what_to_install(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SweepError, match=rf"pip install 'mechinterp-workbench\[{name}\]'"):
        run(plan_of(script), tmp_path / "x", engines.get(name)())


# ---------------------------------------------------------------------- ray


def kill_first_worker(script: Path, killed: list[int]) -> None:
    """SIGKILL the process that computes when four shards have begun."""
    log = script.with_suffix(".log")
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        time.sleep(0.01)
    killed.append(computed(script)[3][1])
    os.kill(killed[0], signal.SIGKILL)


def test_a_worker_lost_in_ray_loses_nothing(script: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    plan, killed = plan_of(script, 10, seconds=0.1), list[int]()
    handler = signal.getsignal(signal.SIGTERM)
    killer = threading.Thread(target=kill_first_worker, args=(script, killed), daemon=True)
    killer.start()
    steps = run(plan, tmp_path / "x", RayEngine(workers=2))
    killer.join()
    assert [step.error for step in steps] == [None] * 10
    begun = computed(script)
    assert len({pid for _, pid in begun}) >= 3  # two workers, and one in place of the lost
    assert killed[0] != os.getpid()
    # What it had finished was kept: only the shard it was at began twice.
    assert len(begun) == 11
    run(plan, tmp_path / "local", LocalEngine())
    assert Results(tmp_path / "x").table().equals(Results(tmp_path / "local").table())
    assert signal.getsignal(signal.SIGTERM) is handler
    ray = sys.modules["ray"]
    assert not ray.is_initialized()


# ---------------------------------------------------------------------- submitit


def test_submitit_gives_what_one_process_gives_and_survives_a_killed_job(
    script: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    plan = plan_of(script, kill=(2,), broken=(5,))
    engine = SubmititEngine(workers=2, cluster="local", poll=0.05)
    with pytest.raises(SweepError, match=r"1 of 6 shards failed, .*ValueError: not this one"):
        run(plan, tmp_path / "x", engine)
    assert squares(tmp_path / "x") == [0, 1, 4, 9, 16]
    begun = computed(script)
    assert sorted(number for number, _ in begun) == [0, 1, 2, 2, 3, 4, 5]
    assert os.getpid() not in {pid for _, pid in begun}
    stored = (tmp_path / "x" / "shards").iterdir()
    assert {path.suffix for path in stored} == {".parquet", ".safetensors"}


def test_options_that_submitit_does_not_know_are_one_line(script: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    engine = SubmititEngine(cluster="local", options={"slurm_partitoin": "gpu"})
    with pytest.raises(SweepError, match=r"submitit refuses: .*slurm_partitoin"):
        run(plan_of(script), tmp_path / "x", engine)


def test_importing_batches_imports_no_optional_engine() -> None:
    code = (
        "import sys; from probes.batch.engine import engines; engines.names(); "
        "sys.exit(bool({'ray', 'submitit'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

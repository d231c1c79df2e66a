"""Run directories: what is written is read, and what stopped is resumed."""

import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.small_run import CONFIG, MODEL, files_of, params_at, stop_after, train
from tests.unit.small_run import no_waiting as no_waiting
from tests.unit.small_run import trained as trained
from workbench.errors import RunError, WeightsError
from workbench.manifest import MANIFEST, METRICS
from workbench.run import RunConfig, open_run
from workbench.run_writer import RunWriter
from workbench.task import make_task
from workbench.tensor_files import weights_digest


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

"""Importing networks: every shape that a task can have, names, and repeats."""

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.saved_networks import MODEL, TASK, edit, make, weights
from tests.unit.saved_networks import network as network
from tests.unit.saved_networks import no_waiting as no_waiting
from workbench.errors import RunError
from workbench.importing import import_network, save_network
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.run_writer import RunWriter
from workbench.task import make_task, tasks
from workbench.tensor_files import weights_digest
from workbench.transformer import forward

PUBLISHED = Path(
    os.environ.get("WORKBENCH_NETWORKS")
    or Path(__file__).parents[2].parent / "shared" / "data" / "networks"
)


# ---------------------------------------------------------------------- published networks


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no {PUBLISHED}; set WORKBENCH_NETWORKS")
@pytest.mark.parametrize(
    ("name", "accuracy", "attention_rate"),
    [("l8k1hzciux", 1.0, 1.0), ("p99zdpze5l", 1.0, 0.0), ("f5dh675z97", 0.0181, 0.3903)],
)
def test_a_published_network_does_what_its_readme_says(
    tmp_path: Path, name: str, accuracy: float, attention_rate: float
) -> None:
    run = import_network(PUBLISHED / name, tmp_path)
    assert run.path == tmp_path / f"modular_addition-p59-equals_tokenFalse-{name}"
    assert run.complete and run.steps == [0] and run.metrics() == [] and run.split() is None
    assert run.config.recipe is None and run.config.seed is None
    assert run.config.source is not None and run.config.source["run"] == name
    model = run.config.model
    assert (model.attn_biases, model.mlp_biases, model.unembed_bias) == (False, True, False)
    assert round(model.attention_rate, 4) == attention_rate
    inputs = run.task.domain()
    logits = forward(run.params(), run.task.encode(inputs), model, positions=[1]).logits
    right = logits[:, 0].argmax(-1) == run.task.solve(inputs)[:, 0]
    assert len(right) == 59**2
    assert round(float(right.float().mean()), 4) == accuracy


# ---------------------------------------------------------------------- every shape


SHAPES = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 4),
        "n_heads": st.integers(1, 3),
        "d_model": st.integers(1, 5),
        "d_head": st.integers(1, 3),
        "d_mlp": st.sampled_from([0, 1, 6]),
        "act_fn": st.sampled_from(["relu", "gelu"]),
        "normalization": st.sampled_from([None, "LN"]),
        "attention_dir": st.sampled_from(["causal", "bidirectional"]),
        "attention_rate": st.floats(0, 1),
        "attn_biases": st.booleans(),
        "mlp_biases": st.booleans(),
        "unembed_bias": st.booleans(),
    }
)
TASKS = st.fixed_dictionaries(
    {"p": st.just(5), "equals_token": st.booleans(), "separate_vocabularies": st.booleans()}
)


@given(shape=SHAPES, settings_=TASKS, spare=st.integers(0, 2), seed=st.integers(0, 99), say=...)
@settings(max_examples=20, deadline=None)
def test_every_shape_comes_back_whole(
    shape: dict[str, Any], settings_: dict[str, Any], spare: int, seed: int, say: bool
) -> None:
    """With and without the biases named in config.json, and with outputs that are no answer."""
    task = make_task("modular_addition", settings_)
    n_tokens, n_outputs = len(task.vocabulary), task.n_answer_tokens + spare
    model = ModelConfig(**shape, d_vocab=n_tokens, d_vocab_out=n_outputs, n_ctx=task.n_ctx)
    with tempfile.TemporaryDirectory() as folder:
        params = make(Path(folder) / "shared", model=model, task=task, seed=seed)
        if not say:
            shared = Path(folder) / "shared"
            edit(shared, "model", attn_biases=..., mlp_biases=..., unembed_bias=...)
        run = import_network(str(Path(folder) / "shared"), str(Path(folder) / "runs"))
        expected = model if say or model.d_mlp else replace(model, mlp_biases=True)
        assert (run.config.model, run.task) == (expected, task)
        assert run.weights_sha256() == weights_digest(params)
        tokens = task.encode(task.domain())
        imported = forward(run.params(), tokens, run.config.model).logits
        assert torch.equal(imported, forward(params, tokens, model).logits)


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_can_be_imported(tmp_path: Path, name: str) -> None:
    task = make_task(name)
    n_tokens, n_outputs = len(task.vocabulary), task.n_answer_tokens
    model = replace(MODEL, d_vocab=n_tokens, d_vocab_out=n_outputs, n_ctx=task.n_ctx)
    params = make(tmp_path / "network", model=model, task=task)
    run = import_network(tmp_path / "network", tmp_path / "runs")
    assert run.task == task and run.weights_sha256() == weights_digest(params)


def test_origin_travels(tmp_path: Path) -> None:
    source: dict[str, str | int | float] = {"paper": "arXiv:0", "year": 2023, "decay": 0.5}
    params = init_params(MODEL, torch.Generator().manual_seed(0))
    save_network(tmp_path / "shared", params, MODEL, TASK, source)
    assert import_network(tmp_path / "shared", tmp_path / "runs").config.source == source


def test_a_run_can_be_shared_and_imported_again(network: Path, tmp_path: Path) -> None:
    run = import_network(network, tmp_path / "runs")
    save_network(tmp_path / "again", run.params(), run.config.model, run.task, run.config.source)
    assert weights_digest(weights(tmp_path / "again")) == run.weights_sha256()


# ---------------------------------------------------------------------- names and repeats


def test_importing_twice_is_importing_once(network: Path, tmp_path: Path) -> None:
    first = import_network(network, tmp_path / "runs")
    before = (first.path / "manifest.json").stat()
    second = import_network(network, tmp_path / "runs")
    assert first == second and (first.path / "manifest.json").stat() == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["modular_addition-p5-network"]


def test_the_same_name_with_another_network_gets_a_suffix(network: Path, tmp_path: Path) -> None:
    first = import_network(network, tmp_path / "runs")
    make(tmp_path / "other" / "network", seed=1)
    second = import_network(tmp_path / "other" / "network", tmp_path / "runs")
    assert second.path.name.startswith("modular_addition-p5-network-")
    assert second.weights_sha256() != first.weights_sha256()
    assert import_network(tmp_path / "other" / "network", tmp_path / "runs") == second
    # The same weights read with another attention rate are another network.
    edit(network, "model", attention_rate=0.5)
    third = import_network(network, tmp_path / "runs")
    assert third.weights_sha256() == first.weights_sha256()
    assert len({first.path, second.path, third.path}) == 3


@pytest.mark.parametrize(
    ("folder", "name"),
    [("a b/ü§", "modular_addition-p5-[0-9a-f]{8}"), ("x y (1)", "modular_addition-p5-x-y-1")],
)
def test_folder_names_become_plain(tmp_path: Path, folder: str, name: str) -> None:
    make(tmp_path / folder)
    path = import_network(tmp_path / folder, tmp_path / "runs").path
    assert re.fullmatch(name, path.name)


def test_an_import_that_was_killed_is_finished(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "modular_addition-p5-network"
    finished = import_network(network, tmp_path / "runs")
    config = finished.config
    shutil.rmtree(path)
    RunWriter.create(path, config).close()
    assert import_network(network, tmp_path / "runs") == finished


def test_a_damaged_run_of_that_name_is_reported(network: Path, tmp_path: Path) -> None:
    run = import_network(network, tmp_path / "runs")
    (run.path / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"config\.json is damaged.*import it again"):
        import_network(network, tmp_path / "runs")

"""Importing a network that was trained elsewhere, and sharing one of ours.

A shared network is a directory of two files: `config.json` (keys `format`, `model`, `task` and
optionally `source`, free-form) and `weights.safetensors` (parameters named and laid out as in
`workbench.transformer`, TransformerLens' way). Importing checks both against each other and
against the task, and makes a complete run of them with one checkpoint, at step 0.

Whether the network has biases may be left out of `model`; the weights say it. Nothing in the
directory is executed, and nothing outside it is read.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from workbench import config as configuration
from workbench.errors import ConfigError, RunError, WeightsError
from workbench.manifest import CONFIG, FORMAT, refuse_newer
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, check_params
from workbench.registry import unknown
from workbench.run import Run, RunConfig, is_run, open_run
from workbench.run_writer import RunWriter
from workbench.storage import atomic_write, explained, from_json, read_file, sha256, to_json
from workbench.task import Task, task_from_dict
from workbench.tensor_files import as_float32, tensors_from_bytes, tensors_to_bytes, weights_digest

WEIGHTS = "weights.safetensors"
_KEYS = ("format", "model", "task", "source")
_BIASES = ("attn_biases", "mlp_biases", "unembed_bias")

Source = dict[str, str | int | float]
"""Where a network is from, in its publisher's words."""


class Network(NamedTuple):
    """A network as shared: weights, shape, task and origin, which fit each other."""

    params: Params
    model: ModelConfig
    task: Task
    source: Source | None


def import_network(source: Path | str, runs: Path | str) -> Run:
    """Make a complete run, in the directory `runs`, of the network in the directory `source`.

    The run is called `<task>-<name of source>`. Importing the same network again returns the run
    that is there; another network of the same name gets a suffix. Raises `RunError`,
    `ConfigError`, `TaskError` or `WeightsError`.
    """
    source = Path(source)
    network = read_network(source)
    config = RunConfig(
        task=network.task.to_dict(), model=network.model, recipe=None, source=network.source
    )
    identity = _identity(config, weights_digest(network.params))
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().name).strip("-.")[:64]
    name = f"{network.task.label}-{folder or identity[:8]}"
    for path in (Path(runs) / name, Path(runs) / f"{name}-{identity[:8]}"):
        run = open_run(path) if is_run(path) else None
        if run is None or (not run.steps and _identity(run.config, "") == _identity(config, "")):
            return _record(path, config, network.params)
        if run.steps and _identity(run.config, run.weights_sha256()) == identity:
            return run
    raise RunError(f"{path} is another run; choose another --runs directory")


def read_network(source: Path | str) -> Network:
    """Read and check a shared network.

    Raises `RunError`, `ConfigError`, `TaskError` or `WeightsError`.
    """
    source = Path(source)
    where = source / CONFIG
    data = _read_config(source)
    weights = read_file(source, WEIGHTS)
    params = tensors_from_bytes(weights, where=str(source / WEIGHTS))
    task = task_from_dict(data["task"])
    configuration.require_same(data["task"], task.to_dict(), where=f"{where} task")
    model = _model_config(data["model"], params, where=f"{where} model")
    _check_task(model, task, where=where)
    check_params(params, model)
    return Network(as_float32(params), model, task, _source(data.get("source"), where=where))


def save_network(
    path: Path | str,
    params: Mapping[str, Tensor],
    model: ModelConfig,
    task: Task,
    source: Source | None = None,
) -> None:
    """Write a network to a new directory, for sharing; the inverse of `read_network`.

    Raises `WeightsError` or `ConfigError` where the parts do not fit, `RunError` where there is
    a network or a run already.
    """
    path = Path(path)
    _check_task(model, task, where=path)
    check_params(params, model)
    content = {
        "format": FORMAT,
        "model": configuration.to_dict(model),
        "task": task.to_dict(),
        **({} if source is None else {"source": _source(source, where=path)}),
    }
    if (path / CONFIG).exists():
        raise RunError(f"{path} has a {CONFIG} already; choose another directory")
    written = to_json(content, where=str(path / CONFIG), indent=1)
    with explained("create", path):
        path.mkdir(parents=True, exist_ok=True)
    atomic_write(path / WEIGHTS, tensors_to_bytes(as_float32(params)))
    atomic_write(path / CONFIG, written)  # last: without it there is no network


def _read_config(source: Path) -> dict[str, Any]:
    """The checked outer shape of `config.json`."""
    if not source.is_dir():
        what = "a file" if source.exists() else "missing"
        raise RunError(f"no network at {source}: it is {what}; name the directory that holds one")
    if is_run(source):
        raise RunError(f"{source} is a run already; use it as it is, for example to explain it")
    absent = [name for name in (CONFIG, WEIGHTS) if not (source / name).is_file()]
    if absent:
        raise RunError(f"{source} is not a network: it has no {' and no '.join(absent)}")
    where = source / CONFIG
    data = from_json(read_file(source, CONFIG), where=str(where))
    refuse_newer(data, where=where)
    for key in data:
        if key not in _KEYS:
            raise ConfigError(unknown(f"{where} key", key, _KEYS))
    for key in ("format", "model", "task"):
        if key not in data:
            raise ConfigError(f"{where} lacks the key {key!r}; add it")
    if type(data["format"]) is not int or data["format"] != FORMAT:
        raise ConfigError(f"{where} format = {data['format']!r}; it must be {FORMAT}")
    for key in ("model", "task"):
        if not isinstance(data[key], dict):
            raise ConfigError(f"{where} {key} = {data[key]!r}; it must be an object {{...}}")
    return data


def _model_config(data: dict[str, Any], params: Params, *, where: str) -> ModelConfig:
    """The model section, with biases left out of it read off the weights."""
    known = configuration.keys(ModelConfig)
    lacking = [key for key in known if key not in data and key not in _BIASES]
    if lacking and data.keys() <= set(known):  # an unknown key is the likelier slip
        raise ConfigError(f"{where} lacks {', '.join(lacking)}; add what the network was made with")
    model = configuration.from_json(ModelConfig, data, where=where)
    if model.n_layers > len(params):
        raise WeightsError(
            f"{where} n_layers = {model.n_layers}, but {WEIGHTS} has only {len(params)} tensors"
        )
    inferred: dict[str, Any] = {
        key: _has_biases(model, key, params) for key in _BIASES if key not in data
    }
    return replace(model, **inferred)


def _has_biases(model: ModelConfig, kind: str, params: Params) -> bool:
    """Whether the weights have the biases of one kind: all of them or none."""
    yes: dict[str, Any] = {kind: True}
    no: dict[str, Any] = {kind: False}
    biases = param_shapes(replace(model, **yes)).keys() - param_shapes(replace(model, **no)).keys()
    absent = biases - params.keys()
    if not biases:
        return bool(getattr(model, kind))
    if absent and absent != biases:
        raise WeightsError(
            f"weights have some {kind} but not {', '.join(sorted(absent))}; "
            "export all of them (zeros where there are none)"
        )
    return not absent


def _check_task(model: ModelConfig, task: Task, *, where: Path) -> None:
    """Raise `ConfigError` unless the network can read this task's tokens and write its answers."""
    n_tokens = len(task.vocabulary)
    if model.d_vocab != n_tokens:
        raise ConfigError(
            f"{where}: d_vocab = {model.d_vocab}, but {task.label} has {n_tokens} tokens; "
            "correct d_vocab or the task (p, equals_token, separate_vocabularies ...)"
        )
    if model.d_vocab_out < task.n_answer_tokens:
        raise ConfigError(
            f"{where}: d_vocab_out = {model.d_vocab_out}, but {task.label} has "
            f"{task.n_answer_tokens} answers; correct d_vocab_out or the task"
        )
    if model.n_ctx != task.n_ctx:
        raise ConfigError(
            f"{where}: n_ctx = {model.n_ctx}, but an input of {task.label} has {task.n_ctx} "
            "tokens; correct n_ctx or the task (equals_token ...)"
        )


def _source(source: object, *, where: Path) -> Source | None:
    if source is None:
        return None
    if not isinstance(source, dict):
        raise ConfigError(f"{where} source = {source!r}; it must be an object {{...}}")
    for key, value in source.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{where} source {key} = {value!r}; it must be text or a number")
    return source


def _identity(config: RunConfig, digest: str) -> str:
    """What makes two imported networks the same: task, shape and weights."""
    parts = [config.task, configuration.to_dict(config.model), digest]
    return sha256(to_json(parts, where="the network"))


def _record(path: Path, config: RunConfig, params: Params) -> Run:
    with RunWriter.open(path, config) as writer:
        writer.save_checkpoint(0, params)
        writer.commit(complete=True, stopped="imported")
    return open_run(path)

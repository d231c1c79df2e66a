"""Small valid sessions, built without torch: the ground that the hostile ones are changed from."""

import functools
import hashlib
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from workbench.model_config import ModelConfig, param_shapes
from workbench.record import Checkpoint, record_id
from workbench.session.schema import TRAINING, SessionDocument, arrays_path, weights_path
from workbench.session.writing import write_archive

GOLDEN = Path(__file__).parent / "golden" / "v1.workbench"
MODEL = {
    "n_layers": 1,
    "n_heads": 2,
    "d_model": 4,
    "d_head": 2,
    "d_mlp": 8,
    "d_vocab": 6,
    "d_vocab_out": 5,
    "n_ctx": 3,
    "act_fn": "relu",
    "normalization": None,
    "attention_dir": "causal",
    "attention_rate": 1.0,
    "attn_biases": False,
    "mlp_biases": True,
    "unembed_bias": False,
}
STEPS = (0, 400)
ROWS = 3
MADE_WITH = {"workbench": "0.5.0", "python": "3.12.0", "torch": "2.13.0", "numpy": "2.3.0"}
CREATED = datetime(2026, 11, 20, 18, 53, 6, tzinfo=UTC)
IDENTIFIER = "0123456789abcdef0123456789abcdef"

Arrays = dict[str, np.ndarray[Any, Any]]

_KINDS = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "bool": "BOOL"}


def safetensors_bytes(tensors: Arrays) -> bytes:
    """A safetensors file, in the order of the dictionary."""
    header, values, position = {}, [], 0
    for name, array in tensors.items():
        raw = array.tobytes()
        offsets = [position, position + len(raw)]
        kind = _KINDS[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        values.append(raw)
        position += len(raw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(values)


def weights_digest(tensors: Arrays) -> str:
    """As `workbench.tensor_files.weights_digest` says it, from its docstring."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()


def weights(step: int) -> Arrays:
    """A network's weights: not trained, only of the right shapes."""
    draw = np.random.default_rng(step)
    shapes = param_shapes(ModelConfig(**MODEL))  # type: ignore[arg-type]
    return {name: draw.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def arrays() -> Arrays:
    """A record's arrays: one of every type of number, one empty."""
    return {
        "effects": np.arange(6, dtype="float64").reshape(2, 3) / 7,
        "scores[a0.h1]": np.array([0.5, -0.5], dtype="float32"),
        "order": np.array([3, 1, 2], dtype="int64"),
        "small": np.array(7, dtype="int32"),
        "kept": np.array([[True], [False]]),
        "none": np.zeros((0, 4), dtype="float64"),
    }


def training() -> Arrays:
    """What training recorded."""
    return {
        "step": np.array([0, 200, 400], dtype="int64"),
        "train_loss": np.array([1.6, 0.5, 0.01]),
    }


def document_data() -> dict[str, Any]:
    """`session.json` of the small session, as data that nothing else holds."""
    data: dict[str, Any] = json.loads(_document_text())
    return data


@functools.cache
def _document_text() -> str:
    checkpoints = [{"step": one, "weights_sha256": weights_digest(weights(one))} for one in STEPS]
    network = {
        "task": {"name": "modular_addition", "p": 5},
        "model": dict(MODEL),
        "recipe": {"lr": 0.001, "steps": 400},
        "seed": 3,
        "train_fraction": 0.5,
        "random_labels": 0.0,
        "source": None,
        "split_sha256": hashlib.sha256(b"split").hexdigest(),
    }
    notebook = {
        "parent": None,
        "notes": [{"text": "It adds on a circle.\nSee a0.h1.", "created": "2026-11-20T18:53:06Z"}],
        "marks": {
            "labels": {"a0.h1": "carries b"},
            "groups": [{"name": "readers", "nodes": ["a0.h0", "a0.h1"]}],
            "positions": {"a0.h1": [0.25, -1.0]},
            "pinned": ["a0.h1"],
        },
        "view": {"tab": "circuit", "step": 400, "log": True},
    }
    return json.dumps(
        {
            "network": network,
            "checkpoints": checkpoints,
            "training_rows": ROWS,
            "records": [record_data(checkpoints)],
            "notebook": notebook,
        }
    )


def record_data(checkpoints: list[dict[str, Any]]) -> dict[str, Any]:
    """A record with a finding, a control and arrays."""
    raw = safetensors_bytes(arrays())
    parameters = {"metric": "logit_difference", "heads": [0, 1], "deep": {"a": [None, 1.5]}}
    about = tuple(Checkpoint(**one) for one in checkpoints[-1:])
    finding = {
        "id": "heads.read_b",
        "claim": "Head 0.1 reads b.",
        "measure": "loss of logit difference when it is resampled, in nats",
        "value": 2.5,
        "n": 25,
        "interval": [2.25, 2.75],
        "held_out": None,
        "controls": [
            {"name": "other head", "value": 0.25, "n": 8, "interval": None, "unit": "draws"}
        ],
        "verdict": "supported",
        "rule": "value > 1 and control < 0.5",
        "details": {"largest": 3.0},
    }
    return {
        "id": record_id("patching", parameters, about),
        "kind": "patching",
        "parameters": parameters,
        "checkpoints": checkpoints[-1:],
        "result": {"rows": [{"node": "a0.h1", "effect": 2.5, "n": 25}], "skipped": []},
        "findings": [finding],
        "arrays": {
            "size": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "tensors": {
                name: {"dtype": one.dtype.name, "shape": list(one.shape)}
                for name, one in arrays().items()
            },
        },
        "tolerances": {"findings.*.value": {"absolute": 0.0, "relative": 0.001}},
        "made_with": {
            "workbench": "0.5.0",
            "torch": "2.13.0",
            "python": "3.12.0",
            "device": "cpu",
            "threads": 1,
        },
        "seconds": 0.125,
    }


def small_document() -> SessionDocument:
    """The small session's models."""
    return SessionDocument.model_validate_json(json.dumps(document_data()))


def small_members() -> list[tuple[str, bytes]]:
    """The small session's members besides the JSON ones."""
    record = document_data()["records"][0]["id"]
    members = [(weights_path(step), safetensors_bytes(weights(step))) for step in STEPS]
    members.append((TRAINING, safetensors_bytes(training())))
    return [*members, (arrays_path(record), safetensors_bytes(arrays()))]


def write_small(path: Path) -> Path:
    """Write the small session; the same bytes every time."""
    write_archive(
        path,
        small_document(),
        small_members(),
        parent=None,
        made_with=MADE_WITH,
        created=CREATED,
        identifier=IDENTIFIER,
    )
    return path


def write_golden() -> None:
    """Make the golden file of schema version 1, which was done once, before it was published."""
    write_small(GOLDEN)

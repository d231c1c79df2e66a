"""A session of every published schema version, as it was written then, is read today.

A golden file is never made again: when one of these tests fails, the reader is wrong.
"""

import hashlib

import numpy as np

from tests.session import making
from workbench.finding import Control, Finding
from workbench.record import Checkpoint, TensorShape, Tolerance
from workbench.session.archive import open_archive
from workbench.session.readers import READERS
from workbench.session.tensor_members import tensor_headers
from workbench.session.verifying import verify

SHA256 = "0f67adc7eee76a7100135d63821884b412a9b187fa7ea69929972f3e61f03add"
WEIGHTS = "152bbb69507a55c9d94818d0baa0fec36d4185828a994e9b561fcbe442719297"


def test_there_is_one_for_every_version() -> None:
    found = {path.name for path in making.GOLDEN.parent.glob("v*.workbench")}
    assert found == {f"v{version}.workbench" for version in READERS}


def test_version_1_is_the_file_that_was_written() -> None:
    data = making.GOLDEN.read_bytes()
    assert len(data) < 30_000
    assert hashlib.sha256(data).hexdigest() == SHA256


def test_version_1_is_verified() -> None:
    assert [(one.path, one.what) for one in verify(making.GOLDEN).members] == [
        ("session.json", "1 record"),
        ("arrays/weights-000000.safetensors", "network at step 0: 11 tensors, 196 numbers"),
        ("arrays/weights-000400.safetensors", "network at step 400: 11 tensors, 196 numbers"),
        ("arrays/training.safetensors", "training: 2 columns, 3 rows"),
        (
            "arrays/patching-594a9cb2afdffad2.safetensors",
            "arrays of patching-594a9cb2afdffad2: 6 tensors, 14 numbers",
        ),
    ]


def test_version_1_says_what_it_said() -> None:
    archive = open_archive(making.GOLDEN)
    manifest, document = archive.manifest, archive.document
    assert manifest.id == "0123456789abcdef0123456789abcdef"
    assert (manifest.schema_version, manifest.oldest_reader, manifest.parent) == (1, 1, None)
    assert manifest.made_with["torch"] == "2.13.0"
    assert document.network.task == {"name": "modular_addition", "p": 5}
    assert document.network.shape.d_mlp == 8
    assert document.network.recipe == {"lr": 0.001, "steps": 400}
    assert (document.network.seed, document.network.train_fraction) == (3, 0.5)
    assert document.checkpoints[1] == Checkpoint(step=400, weights_sha256=WEIGHTS)
    assert document.notebook.notes[0].text == "It adds on a circle.\nSee a0.h1."
    assert document.notebook.marks.labels == {"a0.h1": "carries b"}
    assert document.notebook.marks.positions == {"a0.h1": (0.25, -1.0)}
    assert document.notebook.view == {"tab": "circuit", "step": 400, "log": True}


def test_version_1_holds_its_finding() -> None:
    (record,) = open_archive(making.GOLDEN).document.records
    assert record.id == "patching-594a9cb2afdffad2"
    assert record.parameters["deep"] == {"a": [None, 1.5]}
    assert record.result["rows"] == [{"node": "a0.h1", "effect": 2.5, "n": 25}]
    assert record.tolerances == {"findings.*.value": Tolerance(relative=0.001)}
    assert record.findings == (
        Finding(
            id="heads.read_b",
            claim="Head 0.1 reads b.",
            measure="loss of logit difference when it is resampled, in nats",
            value=2.5,
            n=25,
            interval=(2.25, 2.75),
            held_out=None,
            controls=(Control(name="other head", value=0.25, n=8, interval=None),),
            verdict="supported",
            rule="value > 1 and control < 0.5",
            details={"largest": 3.0},
        ),
    )
    assert record.arrays is not None
    assert record.arrays.tensors["none"] == TensorShape(dtype="float64", shape=(0, 4))


def test_version_1_holds_its_numbers() -> None:
    data = open_archive(making.GOLDEN).read("arrays/patching-594a9cb2afdffad2.safetensors")
    one = tensor_headers(data, where="golden")["effects"]
    effects = np.frombuffer(data[one.start : one.stop], "<f8")
    assert (one.shape, effects.tolist()) == ((2, 3), [n / 7 for n in range(6)])

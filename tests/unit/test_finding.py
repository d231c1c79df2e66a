"""Findings travel as JSON and come back the same; what is no finding is refused. And devices."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from workbench.device import find_device
from workbench.errors import DeviceError, RunError
from workbench.finding import Control, Finding, finding_to_dict
from workbench.record import Record
from workbench.strict import validated

CONTROL = Control(name="random subspace", value=0.011, n=20, interval=(0.009, 0.013))
FINDING = Finding(
    id="sufficiency",
    claim="the key frequencies suffice",
    measure="accuracy with nothing else kept; higher is better",
    value=0.9998,
    n=12_769,
    interval=None,
    held_out=0.9997,
    controls=(CONTROL, Control(name="untrained", value=0.0, n=1, interval=None, unit="networks")),
    verdict="supported",
    rule="value >= 0.99 and above every control",
    details={"restricted_loss": 0.01},
)


def as_json(finding: Finding) -> dict[str, Any]:
    read = json.loads(json.dumps(finding_to_dict(finding), allow_nan=False))
    assert isinstance(read, dict)
    return read


def read(data: Any) -> Finding:
    """A finding as a record reads it."""
    record = {
        "id": "mechanism-0123456789abcdef",
        "kind": "mechanism",
        "parameters": {},
        "checkpoints": [{"step": 0, "weights_sha256": "a" * 64}],
        "result": {},
        "findings": [data],
        "arrays": None,
        "tolerances": {},
        "made_with": dict.fromkeys(("workbench", "torch", "python", "device"), "x")
        | {"threads": 1},
        "seconds": 1.0,
    }
    text = json.dumps(record).encode()
    return validated(Record, text, where="record", error=RunError).findings[0]


def test_a_finding_travels_as_json() -> None:
    again = read(as_json(FINDING))
    assert again == FINDING
    assert again.controls[0] == CONTROL and type(again.controls[0].interval) is tuple


def test_every_field_is_written() -> None:
    written = as_json(FINDING)
    assert written["controls"][0] == {
        "name": "random subspace",
        "value": 0.011,
        "n": 20,
        "interval": [0.009, 0.013],
        "unit": "draws",
    }
    assert {written[key] for key in ("id", "value", "n", "held_out", "verdict")} == {
        *("sufficiency", 0.9998, 12_769, 0.9997, "supported")
    }


def test_a_finding_without_controls_or_with_an_interval() -> None:
    bare = replace(FINDING, controls=(), interval=(0.5, 0.6), details={})
    assert read(as_json(bare)) == bare


def broken(**changes: Any) -> dict[str, Any]:
    return {**as_json(FINDING), **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in as_json(FINDING).items() if name != key}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (broken(verdit="supported"), "findings.0.verdit: Unexpected keyword argument"),
        (
            broken(controls=[{**as_json(FINDING)["controls"][0], "m": 1}]),
            "controls.0.m: Unexpected",
        ),
        (without("rule"), "findings.0.rule: Field required"),
        (without("controls"), "findings.0.controls: Field required"),
        (broken(controls=[{"name": "untrained"}]), "findings.0.controls.0.value: Field required"),
        (broken(controls={}), "findings.0.controls: Input should be a valid"),
        (broken(controls=[1]), "findings.0.controls.0: Input should be"),
        (broken(verdict="maybe"), "findings.0.verdict: Input should be 'supported', "),
        (broken(value="0.5"), "findings.0.value: Input should be a valid number, got '0.5'"),
        (broken(n=True), "findings.0.n: Input should be a valid integer"),
        (broken(interval=[0.5]), "findings.0.interval"),
        (broken(interval=[0.1, 0.2, 0.3]), "findings.0.interval"),
        (broken(claim="it\x1b[2J adds"), "U+001B is not allowed in text"),
        (broken(claim="a" * 20_001), "findings.0.claim: String should have at most 20000"),
        (broken(details={"a\x1b[2J\nb": "high"}), "details.a\\x1b[2J\\nb"),
    ],
)
def test_what_is_no_finding_is_refused_in_one_line(data: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RunError) as error:
        read(data)
    assert complaint in str(error.value) and str(error.value).isprintable()


# ---------------------------------------------------------------------- devices


@pytest.mark.parametrize("present", [True, False])
def test_devices(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto") == torch.device("cuda" if present else "cpu")
    if present:
        assert find_device("cuda") == torch.device("cuda")
        return
    with pytest.raises(DeviceError, match=r"no CUDA device is present; use --device cpu, or auto"):
        find_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:0", "mps"])
def test_an_unknown_device_says_which_there_are(name: str) -> None:
    with pytest.raises(DeviceError, match=f"no device '{name}'; choose auto, cpu or cuda"):
        find_device(name)

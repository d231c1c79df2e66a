"""From a finding about a mechanism to the switches that show it."""

from pathlib import Path
from typing import Any

import pytest

from apps.web.choice import find_run
from apps.web.findings.mechanism_places import switches_address, switches_of
from tests.app.app_folder import FULL, opened
from tests.app.findings_helpers import the_run, words
from workbench.record import Record
from workbench.records import read_records

PARTS: dict[str, Any] = {
    "key_frequencies": [3, 5],
    "embedding_frequencies": [3, 7],
    "planes": [
        {"frequency": 3, "neurons": 20},
        {"frequency": 5, "neurons": 30},
        {"frequency": 9, "neurons": 99},  # not named
    ],
}


@pytest.fixture
def record(app_folder: Path) -> Record:
    return next(one for one in read_records(the_run(app_folder)) if one.kind == "mechanism")


def switched(record: Record, name: str, parts: object = PARTS) -> Any:
    changed = record.model_copy(update={"result": {"parts": parts}})
    finding = next(one for one in record.findings if one.id == name)
    return switches_of(changed, finding)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sufficiency", {"parts_er": False}),
        ("sufficiency_logits", {"parts_lr": False}),
        ("necessity", {"parts_e3": False, "parts_e7": False}),
        ("necessity_logits", {"parts_l3": False, "parts_l5": False}),
        ("edit", {"parts_t3": 1, "parts_t7": 1, "parts_map": "As predicted"}),
        ("neurons", {"parts_plane": 5, "parts_gallery": True}),
        ("neuron_ablation", {"parts_n5": False}),
        ("formula", None),
        ("formula_logits", None),
    ],
)
def test_the_switches_of_a_finding(
    record: Record, name: str, expected: dict[str, Any] | None
) -> None:
    assert switched(record, name) == expected


def test_switches_in_an_address() -> None:
    told = switches_address({"parts_er": False, "parts_t3": 1, "parts_map": "As predicted"})
    assert told == {"parts_er": "false", "parts_t3": "1", "parts_map": "As predicted"}


@pytest.mark.parametrize(
    "parts",
    [
        *(None, [], {}, {"embedding_frequencies": "37", "key_frequencies": {}}),
        {
            "embedding_frequencies": [[3]],
            "key_frequencies": [True],
            "planes": [3, {"neurons": "9"}],
        },
        {"embedding_frequencies": list(range(101)), "key_frequencies": [1.5], "planes": "x"},
    ],
)
def test_a_strangers_record_sets_nothing(record: Record, parts: object) -> None:
    for finding in record.findings:
        assert switched(record, finding.id, parts) is None


def test_only_findings_about_mechanisms_have_switches(record: Record) -> None:
    other = record.model_copy(update={"kind": "circuit"})
    assert switches_of(other, record.findings[0]) is None


def test_the_first_carry_is_shown(record: Record) -> None:
    rows = [{"variable": 3}, {"variable": "a_0"}, {"variable": "carry_1"}, {"variable": "carry_2"}]
    for name, variable in (("carry", "carry_1"), ("digits", "a_0")):
        finding = record.findings[0].__class__(
            **{
                one: getattr(record.findings[0], one)
                for one in record.findings[0].__dataclass_fields__
            }
            | {"id": name}
        )
        parts = record.model_copy(update={"result": {"parts": {"variables": rows}}})
        assert switches_of(parts, finding) == {"parts_variable": variable}


@pytest.mark.parametrize("name", ["sufficiency", "necessity", "necessity_logits", "edit"])
def test_the_claim_is_seen_to_happen(app_folder: Path, record: Record, name: str) -> None:
    finding = next(one for one in record.findings if one.id == name)
    switches = switches_of(record, finding)
    assert switches is not None
    page = opened("parts", app_folder, run=FULL, **switches_address(switches))
    assert not page.exception and not page.error
    if name == "edit":
        assert "every answer moves by +1" in words(page)
    else:
        said = words(page).split(f"of this test, {name}, says ")[1]
        recorded, here = said.split("; here it is ")
        assert recorded == f"{finding.value:.4f}" == here[: len(recorded)]


def test_a_finding_on_the_page_has_its_button(app_folder: Path) -> None:
    page = opened("findings", app_folder, run=FULL)
    seen = [one for one in page.button if one.label == "See it happen"]
    record = next(one for one in read_records(find_run(FULL)) if one.kind == "mechanism")
    with_switches = [one for one in record.findings if switches_of(record, one)]
    assert len(seen) == len(with_switches) > 5

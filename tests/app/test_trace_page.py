"""The Trace page's frame and its effects, as a visitor uses them."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from apps.orders.ask import AskOrder
from apps.web import jobs
from apps.web.choice import find_run
from apps.web.shell import escaped
from apps.web.trace import sweep as trace_sweep
from apps.web.trace.effects import reason_of
from apps.web.trace.question import FAMILY, PAIR, AskedQuestion
from tests.app.app_folder import FRESH, FULL, IMPORTED, opened
from workbench import config
from workbench.analysis import analysis_from
from workbench.device import find_device
from workbench.progress import finish
from workbench.record import Record
from workbench.records import ask, read_records

ONE = {"run": FULL, "trace_of": PAIR, "clean": "3 + 4 =", "corrupted": "3 + 9 ="}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(trace_sweep, "LONG", 1e9)


def words(page: AppTest) -> str:
    shown: Sequence[object] = (*page.markdown, *page.caption, *page.info, *page.subheader)
    return " ".join(str(one.value).replace("\\", "") for one in shown)  # type: ignore[attr-defined]


def labels(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


def patching_records(name: str) -> list[Record]:
    return [one for one in read_records(find_run(name)) if one.kind == "patching"]


def whole(page: AppTest) -> None:
    assert not page.exception
    assert [error.value for error in page.error] == []


def test_the_page_opens_on_the_strongest_cell_beside_its_controls(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FRESH)
    whole(page)
    asked = analysis_from("patching", {"site": "head", "by": ["position"]})
    finding = ask(find_run(FULL), asked).record.findings[0]  # trained alike: the same bits
    (name,) = (one for one in page.markdown if one.value.startswith("**Strongest"))
    layer, head, position = (int(one) for one in re.findall(r" (\d+)", finding.claim)[:3])
    place = f"head {layer}.{head} at position {('0 a', '1 b', '2 =')[position]}"
    assert name.value.replace("\\", "") == f"**Strongest: {place}**"
    assert f"effect {finding.value:+.3g} [" in words(page)
    assert f"nats, {finding.n} pairs" in words(page)
    assert "nats: head 0." in words(page)
    assert f"runner-up {finding.controls[0].value:+.3g} [" in words(page)
    assert "untrained: at most 0." in words(page)
    assert f"verdict: **{finding.verdict}**. It has " in words(page)
    assert f"{finding.details['lead']:+.3g} [" in words(page)
    assert "Click a cell" in words(page) and "place " not in words(page)


def test_effects_have_the_sign_of_the_map(app_folder: Path) -> None:
    # Corrupted activations in the clean run take the answer away, whatever the finding counts as
    # positive: the strongest, its runner-up and the cell itself.
    page = opened("trace", app_folder, run=FULL, trace_direction="noising", trace_site="resid_pre")
    page.button(key="trace_choose").click().run()
    whole(page)
    found = re.findall(r"(?:effect|runner-up|Effect) \**([+-][0-9.]+)", words(page))
    assert len(found) == 3
    assert all(float(value) < 0 for value in found)
    low, high = re.search(r"- effect \S+ \[(\S+), (\S+)\]", words(page)).groups()  # type: ignore[union-attr]
    assert float(low) < float(found[0]) < float(high) < 0


def test_the_strongest_cell_can_be_chosen_and_looked_at(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL)
    page.button(key="trace_choose").click().run()
    whole(page)
    name = words(page).split("**Strongest: ")[1].split("**")[0]
    assert [one.value.replace("\\", "") for one in page.subheader] == [name.capitalize()]
    assert page.query_params["trace_cell"]
    assert "the logit difference" in words(page)
    assert any(label.startswith("Add a0.h") for label in labels(page))


def test_a_cell_in_the_address_opens_its_panel(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_cell="7")  # heads by 3 positions
    whole(page)
    assert "Head 0.2 at position 1 b" in words(page)
    assert "of 12 by size" in words(page)
    assert "reaches the logits through later parts alone: answers are read at 2 =" in words(page)


@pytest.mark.parametrize(
    ("site", "cell", "said"),
    [
        ("head", "2", "Where it looks, mean over 64 clean inputs"),
        ("head_pattern", "2", "promotes the right answer above all others"),
        ("attn_out", "2", "a0.h0 to a0.h3 writes"),
        ("mlp_out", "2", "neurons of layer 0 that add most"),
        ("resid_post", "2", "What the stream says at position 2 ="),
        ("neuron", "5", "Neuron 0.1 adds"),
    ],
)
def test_every_kind_of_part_has_a_panel(site: str, cell: str, said: str, app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_site=site, trace_cell=cell)
    whole(page)
    assert said in words(page).replace("*", "")


def test_a_part_is_added_to_the_circuit(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_cell="8")
    page.button(key="trace_add").click().run()
    whole(page)
    assert "a0.h2 in the circuit" in words(page)
    assert "trace_add" not in [button.key for button in page.button]
    page.button(key="trace_to_circuit").click().run()  # and from there to what it is worth
    whole(page)
    assert page.query_params["trace_section"] in ("Circuit", ["Circuit"])
    assert [one.value for one in page.metric if one.label == "Edges"] == ["7"]


def test_without_a_circuit_there_is_none_to_test(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_cell="8")
    keys = [button.key for button in page.button]
    assert "trace_add" in keys and "trace_to_circuit" not in keys


def test_an_imported_network_has_two_positions(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=IMPORTED)
    whole(page)
    assert "at position 1 b**" in words(page)


@pytest.mark.parametrize(
    ("lead", "ends", "q", "verdict", "said"),
    [
        (2.0, (1.0, 3.0), 0.001, "supported", "It has a lead over the runner-up of +2 [1, 3] nats"),
        (
            1.0,
            (-3.0, 5.0),
            0.001,
            "not supported",
            "[-3, 5] nats, pair by pair, which may be none.",
        ),
        (1.0, (0.5, 2.0), 0.7, "not supported", "It has q = 0.7, as luck would bring."),
    ],
)
def test_a_verdict_comes_with_its_reason(
    lead: float, ends: tuple[float, float], q: float, verdict: str, said: str, app_folder: Path
) -> None:
    (kept,) = patching_records(FULL)
    details = {"lead": lead, "lead from": ends[0], "lead to": ends[1], "q": q}
    finding = replace(kept.findings[0], details=details, verdict=verdict)
    assert said in reason_of(finding, "nats")


# ---------------------------------------------------------------------- one pair


@pytest.mark.parametrize("section", ["Circuit", "Compare"])
def test_a_circuit_says_that_it_is_not_judged_on_one_pair(section: str, app_folder: Path) -> None:
    page = opened("trace", app_folder, **ONE, trace_section=section, trace_pairs="16")
    whole(page)
    assert "One pair is too few to find or judge a circuit on" in words(page)
    assert page.number_input(key="trace_pairs").value == 16  # those it is judged on are in sight
    assert "One pair is too few" not in words(opened("trace", app_folder, **ONE))


def test_one_pair_has_no_strongest_part_and_says_why(app_folder: Path) -> None:
    page = opened("trace", app_folder, **ONE, trace_cell="2")
    whole(page)
    assert "Strongest" not in words(page)
    assert "**Largest: head 0." in words(page)
    assert "8 pairs" in words(page)
    assert "q =" not in words(page) and "too few for an interval or a test" in words(page)
    assert "at position 2 =" in words(page)
    assert "Of all answers, a0.h0 promotes these most. The right one, 7," in words(page)
    assert "What it reads and writes on" not in [one.label for one in page.selectbox]


def test_one_pair_of_a_family_can_be_looked_at(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_cell="2")
    box = page.selectbox(key="trace_example")
    box.select(box.options[3]).run()
    whole(page)
    assert "Of all answers, a0.h0 promotes these most" in words(page)


def test_an_input_that_cannot_be_read_is_one_line(app_folder: Path) -> None:
    page = opened("trace", app_folder, **(ONE | {"corrupted": "3 + 400 ="}))
    assert not page.exception
    assert len(page.error) == 1
    assert "400" in page.error[0].value
    assert "\n" not in page.error[0].value


def test_a_pair_with_one_answer_is_one_line(app_folder: Path) -> None:
    page = opened("trace", app_folder, **(ONE | {"corrupted": "4 + 3 ="}))
    assert not page.exception
    assert [one.value for one in page.error] == [
        escaped(
            "'3 + 4 =' and '4 + 3 =' have the same answer, so no metric can tell them apart; "
            "choose another corrupted input"
        )
    ]


def test_a_normalised_effect_that_is_undefined_says_why(app_folder: Path) -> None:
    # Before training nothing is answered rightly, on either side of a pair.
    first = str(find_run(FRESH).steps[0])
    page = opened("trace", app_folder, run=FRESH, step=first, trace_metric="accuracy")
    whole(page)
    assert page.toggle(key="trace_normalised").disabled
    assert "normalised effects are undefined" in words(page)


# ---------------------------------------------------------------------- keeping


def test_a_kept_sweep_is_a_record_that_replays_equal(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FRESH, trace_pairs="16", trace_direction="noising")
    assert patching_records(FRESH) == []
    page.button(key="trace_keep").click().run()
    whole(page)
    assert "Kept: see Findings" in words(page)
    assert "trace_keep" not in [button.key for button in page.button]
    (record,) = patching_records(FRESH)
    assert (record.parameters["pairs"], record.parameters["direction"]) == (16, "noising")
    again = finish(
        trace_sweep.record_steps(
            analysis_from("patching", record.parameters),
            find_run(FRESH),
            step=record.step,
            device=find_device("auto"),
        )
    ).record
    assert again.result == record.result
    assert again.findings == record.findings
    page.run()
    assert [one.id for one in patching_records(FRESH)] == [record.id]


def test_another_question_is_not_kept_yet(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FRESH)
    page.button(key="trace_keep").click().run()
    page.number_input(key="trace_seed").set_value(1).run()
    whole(page)
    assert "Keep this finding" in labels(page)


# ---------------------------------------------------------------------- long sweeps


def test_a_long_sweep_is_a_job_and_then_a_map(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered: list[AskOrder] = []

    def start(order: AskOrder, *, owner: str) -> str:
        ordered.append(order)
        finish(order.work(app_folder / "runs"))
        raise jobs.AppError("worked off by the test itself")

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(trace_sweep, "LONG", 0.0)
    address = {"run": FRESH, "trace_site": "neuron", "trace_pairs": "8", "trace_seed": "7"}
    page = opened("trace", app_folder, **address)
    whole(page)
    assert "runs as a job" in words(page) and "Strongest" not in words(page)
    page.button(key="trace_patch_all").click().run()
    (order,) = ordered
    assert (order.run, order.analysis) == (FRESH, "patching")
    assert json.dumps(config.to_dict(order))  # as a job's file holds it
    page.run()
    whole(page)
    assert "**Strongest: neuron 0." in words(page)
    assert "Kept: see Findings" in words(page)


def test_only_the_chosen_section_is_drawn(app_folder: Path) -> None:
    page = opened("trace", app_folder, run=FULL, trace_section="Circuit")
    assert not page.exception
    assert "trace_site" not in [box.key for box in page.selectbox]
    assert "trace_direction" in [box.key for box in page.selectbox]


def test_a_question_gives_the_parameters_of_analyses() -> None:
    asked = AskedQuestion(
        metric="accuracy",
        ablation="mean",
        direction="noising",
        pairs=3,
        corruptions=("change_a",),
        seed=4,
        clean=("1 + 2 =",),
        corrupted=("1 + 3 =",),
    )
    analysis = asked.patching("resid_pre", ("position",))
    told = config.to_dict(analysis)
    assert told == {
        "metric": "accuracy",
        "ablation": "mean",
        "direction": "noising",
        "pairs": 3,
        "corruptions": ["change_a"],
        "seed": 4,
        "clean": ["1 + 2 ="],
        "corrupted": ["1 + 3 ="],
        "site": "resid_pre",
        "by": ["position"],
    }
    assert set(asked.drawn) == set(asked.parameters) - {"clean", "corrupted"}
    assert (FAMILY, PAIR) == ("Family", "One pair")

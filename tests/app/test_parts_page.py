"""The Parts page: its switches, what they say, and that they live in the address."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from apps.web.choice import find_run, network_of, subject
from apps.web.parts.ablate import neurons_of
from apps.web.parts.circles import AS_PREDICTED, RIGHT, accuracy_map
from apps.web.parts.data import board, explanation_of, switched
from apps.web.parts.planes import neurons_of as neurons_of_frequency
from apps.web.parts.planes import scatter
from apps.web.parts.switches import grid_of
from circuits.fourier.switchboard import Switches
from tests.app.app_folder import FRESH, FULL, IMPORTED, opened, unfolded
from workbench.errors import AppError
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.run import RunConfig
from workbench.run_writer import RunWriter
from workbench.task import Task, make_task
from workbench.transformer import forward


def words(page: AppTest) -> str:
    return " ".join(one.value for one in (*page.markdown, *page.caption))


def sentence(page: AppTest) -> str:
    return next(one.value for one in page.markdown if "**Predicted:**" in one.value)


def key_rows(folder: Path, run: str) -> list[int]:
    network = network_of(find_run(run))
    return [row.frequency for row in grid_of(network, 0).rows if row.embedded]


def test_the_numbers_are_those_of_the_record(app_folder: Path) -> None:
    """Sufficiency, necessity and edit on a trained network, to the last digit."""
    network = network_of(find_run(FULL))
    record = explanation_of(network)
    assert record is not None
    values = {finding.id: finding.value for finding in record.findings}
    own = board(network, 0)
    parts = record.result["parts"]
    assert isinstance(parts, dict)
    named = own.study.parts
    assert list(named.key_frequencies) == parts["key_frequencies"]
    embedded = named.embedding_frequencies
    assert list(embedded) == parts["embedding_frequencies"]

    def accuracy(**switches: object) -> float:
        return switched(network, 0, Switches(**switches)).accuracy  # type: ignore[arg-type]

    key = named.key_frequencies
    whole = float(own.right.double().mean())
    close = pytest.approx
    assert accuracy(embedding_only=embedded) == close(values["sufficiency"], abs=1e-9)
    assert whole - accuracy(embedding_removed=embedded) == close(values["necessity"], abs=1e-9)
    assert accuracy(logits_only=key) == close(values["sufficiency_logits"], abs=1e-9)
    assert whole - accuracy(logits_removed=key) == close(values["necessity_logits"], abs=1e-9)
    shares = [
        switched(network, 0, Switches(rotated=tuple((k, s) for k in embedded))).share
        for s in own.study.shifts.tolist()
    ]
    assert all(share is not None for share in shares)
    mean = sum(share or 0.0 for share in shares) / len(shares)
    assert mean == close(values["edit"], abs=1e-9)


def test_a_preset_says_what_the_record_says(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=FULL)
    assert "Nothing is switched" in words(page)
    page.button(key="parts_named").click().run()
    assert not page.exception and not page.error
    assert "every answer stays as it is" in sentence(page)
    assert "**The record** of this test, sufficiency" in sentence(page)
    said = sentence(page).split("says ")[-1]
    recorded, here = said.split("; here it is ")
    assert recorded == here.rstrip(".")
    page.button(key="parts_without").click().run()
    assert "accuracy falls to chance, 1 in 23" in sentence(page)
    page.button(key="parts_all").click().run()
    assert "Nothing is switched" in words(page)


@pytest.mark.parametrize("run", [FULL, IMPORTED])
def test_turning_all_planes_moves_every_answer(run: str, app_folder: Path) -> None:
    page = opened("parts", app_folder, run=run)
    page.number_input(key="parts_shift").set_value(3).run()
    assert "every answer moves by +3" in sentence(page)
    assert "as many parts that were not named" in sentence(page)
    for k in key_rows(app_folder, run):
        assert page.slider(key=f"parts_t{k}").value == 3
    if run == IMPORTED:  # built by hand: exactly so
        assert "as predicted on **100.0%** (all 121 inputs)" in sentence(page)


def test_an_address_restores_the_switches(app_folder: Path) -> None:
    opened("parts", app_folder, run=IMPORTED)
    first, other = key_rows(app_folder, IMPORTED)
    page = opened(
        "parts", app_folder, run=IMPORTED, **{f"parts_e{first}": "false", f"parts_t{other}": "2"}
    )
    assert page.toggle(key=f"parts_e{first}").value is False
    assert page.slider(key=f"parts_t{other}").value == 2
    assert f"frequency {first} vanishes" in sentence(page)
    assert "every answer moves by +2" in sentence(page)


def test_a_frequency_alone_and_its_neurons(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=IMPORTED)
    first, other = key_rows(app_folder, IMPORTED)
    page.button(key=f"parts_only{first}").click().run()
    assert f"frequency {other} vanishes from the logits" in sentence(page)
    assert page.toggle(key="parts_er").value is False
    page.toggle(key="parts_gallery").set_value(True).run()
    assert not page.exception and not page.error


def test_every_neuron_of_a_frequency_can_be_paged_to(app_folder: Path) -> None:
    """Ordered by variance worked out here, six at a time, all of them and each once."""
    network = network_of(find_run(FULL))
    frequencies = board(network, 0).study.parts.neuron_frequencies
    counts = {row.frequency: row.neurons for row in grid_of(network, 0).rows}
    frequency = max(counts, key=lambda k: counts[k])
    count = counts[frequency]
    assert count > 6
    one, name = subject(network), "blocks.0.mlp.hook_post"
    tokens = one.task.encode(one.task.domain())
    read = forward(one.params, tokens, one.config, taps=[name]).activations[name][:, -1]
    named = (frequencies == frequency).nonzero()[:, 0].tolist()
    expected = sorted(named, key=lambda i: -float(read[:, i].var()))
    assert neurons_of_frequency(network, 0, frequency) == tuple((0, i) for i in expected)
    address = {"parts_gallery": "true", "parts_plane": str(frequency)}
    page = opened("parts", app_folder, run=FULL, **address)
    assert f"Neurons 1 to 6 of {count}, those that vary most first" in words(page)
    page = unfolded(page, "parts_neurons")
    assert maps_of_table(page) == [f"m0.{i}" for i in expected[:6]]
    (turner,) = page.pagination
    last = -(-count // 6)
    page = turner.set_value(last).run()
    assert f"Neurons {6 * (last - 1) + 1} to {count} of {count}" in words(page)
    key = f"parts_page{frequency}"
    page = opened("parts", app_folder, run=FULL, **address, **{key: str(last)})
    page = unfolded(page, "parts_neurons")
    assert maps_of_table(page) == [f"m0.{i}" for i in expected[6 * (last - 1) :]]
    page = opened("parts", app_folder, run=FULL, **address, **{key: "9999"})
    assert not page.exception and not page.error and "Neurons " in words(page)


def maps_of_table(page: AppTest) -> list[str]:
    return next(one.value["map"].tolist() for one in page.dataframe if "map" in one.value)


def test_heads_are_not_predicted(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=FULL, parts_map="As predicted")
    page.button_group(key="parts_heads").set_value(["a0.h1"]).run()
    assert "does not say what a single head brings" in sentence(page)
    assert "Nothing is predicted while heads are off." in words(page)


def test_a_map_of_what_was_predicted_does_not_speak_of_right_and_wrong(app_folder: Path) -> None:
    network = network_of(find_run(IMPORTED))
    found = switched(network, 0, Switches())
    assert found.as_predicted is not None
    right = accuracy_map(network, found.right, RIGHT)
    predicted = accuracy_map(network, found.as_predicted, AS_PREDICTED)
    assert right.words == ("right", "wrong")
    assert predicted.words == ("predicted", "other")


def test_a_plane_that_is_off_is_seen_to_shrink(app_folder: Path) -> None:
    network = network_of(find_run(IMPORTED))
    (k, *_) = key_rows(app_folder, IMPORTED)
    whole = scatter(network, 0, Switches(), k, "a")
    off = scatter(network, 0, Switches(embedding_removed=(k,)), k, "a")
    size = max(map(abs, (*whole.x, *whole.y)))
    assert whole.reach == off.reach == size > 0  # the same axes, switched on or off
    left = max(map(abs, (*off.x, *off.y)))
    assert left < size / 20  # what its directions share with other planes


def test_a_clicked_input_is_carried(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=IMPORTED)
    page.session_state["parts_input_chosen"] = 15  # 1 + 4, row by row of 11
    page.run()
    assert page.text_input(key="clean").value == "1 + 4 ="
    assert [one.value for one in page.metric[:2]] == ["5", "5"]


def test_a_network_that_was_not_explained_can_be(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=FRESH)
    assert "not been tested" in words(page)
    assert page.button(key="parts_explain").label == "Explain this network"
    explained = opened("parts", app_folder, run=FULL)
    assert "parts_explain" not in [one.key for one in explained.button]


def test_a_verdict_of_not_identified_stands_on_top(app_folder: Path) -> None:
    run = find_run(FULL)
    path = next((run.path / "records").glob("mechanism-*.json"))
    text = path.read_text()
    record = explanation_of(network_of(run))
    assert record is not None
    verdict = str(record.result["verdict"])
    path.write_text(text.replace(f'"verdict": "{verdict}"', '"verdict": "not identified"'))
    page = opened("parts", app_folder, run=FULL)
    assert page.warning[0].value.startswith("**not identified**")
    assert "Expect the predictions to fail" in words(page)


def test_an_untrained_network_does_nothing_as_predicted(app_folder: Path) -> None:
    page = opened("parts", app_folder, run=FRESH, step="0")
    assert not page.exception
    page.number_input(key="parts_shift").set_value(3).run()
    share = float(sentence(page).split("as predicted on **")[1].split("%")[0])
    assert share < 15


def small_run(path: Path, task: Task) -> None:
    model = ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=16,
        d_head=8,
        d_mlp=16,
        d_vocab=len(task.vocabulary),
        d_vocab_out=len(task.vocabulary),
        n_ctx=task.n_ctx,
    )
    settings = RunConfig(task=task.to_dict(), model=model, seed=0, train_fraction=0.8)
    with RunWriter.open(path, settings) as writer:
        numbers = dict.fromkeys(("train_loss", "held_out_loss"), 0.1)
        shares = dict.fromkeys(("train_accuracy", "held_out_accuracy"), 0.0)
        writer.append_metrics([{"step": 0, "seconds": 1.0, **numbers, **shares}])
        import torch

        writer.save_checkpoint(0, init_params(model, torch.Generator().manual_seed(0)))
        writer.commit(complete=True)


def test_digit_addition_patches_heads(app_folder: Path) -> None:
    small_run(app_folder / "runs" / "digits", make_task("digit_addition", {"n_digits": 2}))
    page = opened("parts", app_folder, run="digits", parts_variable="carry_1")
    assert not page.exception and not page.error
    assert "answer digit 1 becomes the twin's" in sentence(page)
    key = "parts_h_carry_1"
    page.button_group(key=key).set_value(["a0.h0"]).run()
    assert "as many other heads" in sentence(page)
    assert [one.label for one in page.metric] == ["Twin", "Before", "Predicted", "After"]


def test_a_task_without_a_mechanism_says_so(app_folder: Path) -> None:
    small_run(app_folder / "runs" / "squares", make_task("modular_square_plus", {"p": 11}))
    page = opened("parts", app_folder, run="squares", parts_neurons_off="1, 3-5")
    assert not page.exception and not page.error
    assert "No mechanism is known" in page.info[0].value
    assert "With as many other parts off" in words(page)
    page.text_input(key="parts_neurons_off").set_value("99").run()
    assert "no neurons '99'" in page.error[0].value.replace("\\", "")


def test_neurons_are_read_from_text() -> None:
    assert neurons_of(" 3, 17,40-42 ,3", 64) == (3, 17, 40, 41, 42)
    assert neurons_of("", 64) == ()
    for text in ("x", "1-2-3", "5-3", "64", "-1", "1--2"):
        with pytest.raises(AppError, match="neurons"):
            neurons_of(text, 64)


def test_a_record_that_goes_is_gone(app_folder: Path) -> None:
    network = network_of(find_run(FULL))
    assert explanation_of(network) is not None
    shutil.rmtree(network.run.path / "records")
    assert explanation_of(network) is None


def test_a_damaged_explanation_is_one_line_and_the_switches_work(app_folder: Path) -> None:
    record = next((app_folder / "runs" / FULL / "records").glob("mechanism-*.json"))
    record.write_text("{")
    page = opened("parts", app_folder, run=FULL)
    assert not page.exception
    assert len(page.error) == 1 and record.name in page.error[0].value.replace("\\", "")
    assert page.button(key="parts_named").click().run()
    assert len(page.error) == 1

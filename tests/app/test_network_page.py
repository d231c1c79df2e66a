"""The Network page: what it shows against independent computation, and what clicks do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from apps.web.choice import RUNS, Network, find_run, network_of, subject
from apps.web.network import answers as network_answers
from apps.web.network import data as network_data
from apps.web.network import lens as network_lens
from apps.web.network import neurons as network_neurons
from apps.web.network import spectra as network_spectra
from apps.web.network.attention import mean_gallery, one_input_gallery
from apps.web.network.training import training_charts
from tests.app.app_folder import FRESH, FULL, IMPORTED, P, opened
from tests.unit.small_training import network as model_config
from workbench.accuracy import measure_accuracy, right
from workbench.layers import layer_norm
from workbench.manifest import METRICS
from workbench.recipe import find_recipe
from workbench.records import read_records
from workbench.subject import untrained
from workbench.task import make_task
from workbench.training import train
from workbench.transformer import forward

SECTIONS = ("Answers", "Training", "Attention", "Logit lens", "Spectra", "Neurons")


@pytest.fixture
def full(app_folder: Path) -> Network:
    return network_of(find_run(FULL))


@pytest.fixture
def early(full: Network) -> Network:
    """The same run before it was trained."""
    return network_of(full.run, full.run.steps[0])


def said(page: AppTest) -> str:
    return " ".join(one.value for one in (*page.markdown, *page.caption, *page.info))


# ---------------------------------------------------------------------- values


def test_the_map_is_right_where_the_network_is(early: Network) -> None:
    one, task = subject(early), early.task
    chart = network_answers.answer_map(early, False)
    assert torch.equal(chart.values.flatten(), right(one.params, one.config, task, task.domain()))
    logits = forward(one.params, task.encode(torch.tensor([[3, 7]])), one.config).logits[0, -1]
    others = torch.cat([logits[:10], logits[11:]])
    margins = network_answers.answer_map(early, True)
    assert float(margins.values[3, 7]) == pytest.approx(float(logits[10] - others.max()), abs=1e-4)
    assert (margins.scale, chart.scale) == ("signed", "right_wrong")
    assert chart.details[0][1][3 * P + 7] in (str(int(logits.argmax())), "token '='")


def test_accuracies_are_those_of_the_library(early: Network, full: Network) -> None:
    for network in (early, full):
        one = subject(network)
        found = network_data.accuracies(network)
        assert found.all == measure_accuracy(one.params, one.config, one.task)
        split = network.run.split()
        assert split is not None and split.held_out is not None and found.held_out is not None
        held_out = right(one.params, one.config, one.task, split.held_out)
        assert found.held_out.value == pytest.approx(float(held_out.double().mean()))
        assert found.held_out.n == len(split.held_out)


def test_the_story_of_the_training_is_that_of_the_metrics(full: Network) -> None:
    digest = full.run.manifest.files[METRICS].sha256
    charts = training_charts(full, digest, full.step)
    assert charts is not None
    rows = full.run.metrics()
    assert charts[0].x == tuple(float(row["step"]) for row in rows)
    assert charts[0].series[1].y == tuple(row["held_out_accuracy"] for row in rows)
    assert charts[1].series[0].y == tuple(row["train_loss"] for row in rows)
    assert charts[0].marks == ((float(full.step), f"step {full.step:,}"),)


def test_attention_is_that_of_the_forward_pass(full: Network) -> None:
    one = subject(full)
    name = "blocks.0.attn.hook_pattern"
    tokens = one.task.encode(torch.tensor([[4, 9]]))
    read = forward(one.params, tokens, one.config, taps=[name]).activations[name]
    gallery = one_input_gallery(full, (4, 9))
    for head, chart in enumerate(gallery.maps):
        torch.testing.assert_close(chart.values, read[0, head], atol=1e-6, rtol=0)
        assert chart.rows == ("0: 4", "1: 9", "2: =")
    everything = forward(one.params, one.task.encode(one.task.domain()), one.config, taps=[name])
    mean = everything.activations[name].mean(0)
    torch.testing.assert_close(mean_gallery(full).maps[2].values, mean[2], atol=1e-5, rtol=0)
    assert mean_gallery(full).maps[2].low is None  # all inputs: no interval
    assert mean_gallery(full).maps[2].rows == ("0: ·", "1: ·", "2: =")


def test_the_lens_reads_every_layer_with_the_last_unembedding(full: Network) -> None:
    one = subject(full)
    names = [f"blocks.0.hook_resid_{part}" for part in ("pre", "mid", "post")]
    tokens = one.task.encode(torch.tensor([[4, 9]]))
    read = forward(one.params, tokens, one.config, taps=names).activations
    chart = network_lens.lens_map(full, (4, 9), 0, "probability")
    assert chart.rows == ("embedding", "attention 0", "MLP 0")
    for row, name in enumerate(names):
        stream = layer_norm(one.params, one.config, "ln_final", read[name][0])
        shares = (stream @ one.params["unembed.W_U"]).softmax(-1)[:, 13]
        torch.testing.assert_close(chart.values[row], shares, atol=1e-5, rtol=0)
    # The network itself, at the answer's position: right, on top, on every input.
    everywhere = network_lens.accuracy_map(full, 0)
    own = network_data.accuracies(full).all
    assert float(everywhere.values[-1, -1]) == pytest.approx(own.value)
    assert network_data.lens_accuracy(full, 0).constant == pytest.approx(1 / P)


def test_spectra_stand_beside_an_untrained_network(full: Network) -> None:
    shape = network_data.shape_of(full)
    embedding, logits = network_spectra.spectrum_charts(full, shape)
    keys = network_data.spectra_of(full).key_frequencies
    for chart in (embedding, logits):
        named, others, control = chart.series
        assert [k for k, y in enumerate(named.y, 1) if y is not None] == sorted(keys)
        assert all((a is None) != (b is None) for a, b in zip(named.y, others.y, strict=True))
        assert control.name == "untrained network" and control.dash == "dashed"
    blank = untrained(subject(full), network_data.CONTROL_SEED)
    for name, tensor in shape.subject().params.items():
        assert torch.equal(tensor, blank.params[name].to(tensor.dtype)), name
    # Trained: a few frequencies. Untrained: about 1/11 each.
    assert max(y or 0 for y in embedding.series[0].y) > 2 * max(embedding.series[2].y)  # type: ignore[type-var,operator]


def test_neurons_are_those_of_the_forward_pass(full: Network) -> None:
    one = subject(full)
    name = "blocks.0.mlp.hook_post"
    tokens = one.task.encode(torch.tensor([[4, 9]]))
    read = forward(one.params, tokens, one.config, taps=[name]).activations[name][0, -1]
    choice = network_neurons.Choice(0, 0, "variance", None)
    order = network_neurons.neurons_of(full, choice)
    first = int(order[0])
    chart = network_neurons.neuron_map(full, choice, first)
    assert float(chart.values[4, 9]) == pytest.approx(float(read[first]), abs=1e-5)
    spread = network_data.maps_of(full, 0, 0).flatten(1).var(1)
    assert float(spread[first]) == pytest.approx(float(spread.max()))
    top = network_neurons.top_inputs(full, choice, first)[0]
    assert top["activation"] == f"{float(chart.values.max()):.3f}"
    a, b = (int(x) for x in top["input"].removesuffix(" =").split(" + "))
    assert float(chart.values[a, b]) == float(chart.values.max())
    assert top["right answer"] == str((a + b) % P)


def test_a_frequency_lists_its_neurons_alone(full: Network) -> None:
    best = network_data.best_of(full, 0)
    k = network_data.spectra_of(full).key_frequencies[0]
    chosen = network_neurons.neurons_of(
        full, network_neurons.Choice(0, 0, "share of its frequency", k)
    )
    assert sorted(chosen.tolist()) == (best.frequency == k).nonzero()[:, 0].tolist()
    shares = best.share[chosen]
    assert torch.equal(shares, shares.sort(descending=True).values)


# ---------------------------------------------------------------------- the page


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("run", [FULL, IMPORTED])
def test_every_section_draws(section: str, run: str, app_folder: Path) -> None:
    page = opened("network", app_folder, run=run, network_section=section)
    assert not page.exception
    assert [one.value for one in page.error] == []
    assert page.segmented_control(key="network_section").value == section


def test_the_header_says_where_the_network_is_from(app_folder: Path) -> None:
    trained = said(opened("network", app_folder, run=FRESH))
    assert "trained here" in trained and "seed 0" in trained and "all 529 inputs" in trained
    page = opened("network", app_folder, run=IMPORTED)
    assert "imported" in said(page)
    assert page.metric[1].value == "unknown"


def test_the_verdict_of_a_record_is_shown(app_folder: Path) -> None:
    assert opened("network", app_folder, run=FRESH).metric[3].value == "not asked"
    [mechanism] = [one for one in read_records(find_run(FULL)) if one.kind == "mechanism"]
    verdict = mechanism.result["verdict"]
    assert opened("network", app_folder, run=FULL).metric[3].value == verdict


def test_a_click_on_the_map_becomes_the_input(app_folder: Path) -> None:
    page = opened("network", app_folder, run=FULL)
    page.session_state["network_map_chosen"] = 5 * P + 20
    page.run()
    assert not page.exception
    assert page.text_input(key="clean").value == "5 + 20 ="
    assert "answers **2**, which is right" in said(page)
    # What is typed afterwards counts, and the map follows.
    page.text_input(key="clean").set_value("1 + 2 =").run()
    assert page.session_state["network_map_chosen"] == P + 2
    page.text_input(key="clean").set_value("").run()
    assert page.session_state["network_map_chosen"] is None


def test_a_link_restores_the_input_and_the_section(app_folder: Path) -> None:
    page = opened("network", app_folder, run=FULL, clean="7 + 8 =", network_section="Logit lens")
    assert "The right answer token of 7 + 8 = is 15" in said(page)
    page = opened("network", app_folder, run=FULL, clean="7 + 8 =", network_map="0")
    assert page.text_input(key="clean").value == "7 + 8 ="


def test_whether_an_input_was_trained_on(full: Network, app_folder: Path) -> None:
    split = full.run.split()
    assert split is not None and split.train is not None and split.held_out is not None
    for inputs, words in ((split.train, "a training input"), (split.held_out, "a held-out input")):
        a, b = inputs[0].tolist()
        assert words in said(opened("network", app_folder, run=FULL, clean=f"{a} + {b} ="))
    assert "not known" in said(opened("network", app_folder, run=IMPORTED))


def test_scrubbing_changes_the_accuracy(full: Network, app_folder: Path) -> None:
    page = opened("network", app_folder, run=FULL)
    assert page.metric[0].value == "100 %"
    first = full.run.steps[0]
    page.select_slider(key="step").set_value(first).run()
    assert not page.exception
    assert float(page.metric[0].value.removesuffix(" %")) < 20
    assert f"at step {first:,} of" in said(page)


def test_a_clicked_neuron_stays_while_checkpoints_and_orders_change(
    full: Network, app_folder: Path
) -> None:
    page = opened("network", app_folder, run=FULL, network_section="Neurons", network_page="2")
    order = network_neurons.neurons_of(
        full, network_neurons.Choice(0, 0, "share of its frequency", None)
    ).tolist()
    page.session_state["network_gallery_chosen"] = 3
    page.run()
    neuron = order[12 + 3]
    titles = [one.value for one in page.subheader]
    assert titles == [f"Neuron {neuron} of layer 0"]
    page.select_slider(key="step").set_value(full.run.steps[0]).run()
    page.selectbox(key="network_sort").set_value("index").run()
    assert [one.value for one in page.subheader] == titles
    page.number_input(key="network_neuron").set_value(7).run()
    assert [one.value for one in page.subheader] == ["Neuron 7 of layer 0"]


def test_fewer_neurons_to_choose_from_leave_no_page_beyond_the_last(
    full: Network, app_folder: Path
) -> None:
    page = opened("network", app_folder, run=FULL, network_section="Neurons", network_page="20")
    assert page.number_input(key="network_page").value == 20
    page.number_input(key="network_neuron").set_value(500).run()
    counts = torch.bincount(network_data.best_of(full, 0).frequency)
    k = next(k for k in counts.nonzero()[:, 0].tolist() if k and 12 < counts[k] < 230)
    page.selectbox(key="network_frequency").set_value(str(k)).run()
    assert not page.exception and [one.value for one in page.error] == []
    assert page.number_input(key="network_page").value <= -(-int(counts[k]) // 12)
    page.selectbox(key="run").set_value(IMPORTED).run()  # 256 neurons
    assert not page.exception and [one.value for one in page.error] == []


def test_a_task_without_frequencies_says_so() -> None:
    squares = make_task("modular_square_plus", {"p": 7})
    assert "no cyclic group" in str(network_spectra.why_none(squares))
    assert network_spectra.why_none(make_task("modular_division", {"p": 7})) is None


# ---------------------------------------------------------------------- sums of digits


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three-digit sums, hardly trained: right on few inputs."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("digits")
    task = make_task("digit_addition", {"n_digits": 3})
    recipe = replace(
        find_recipe("digits"), steps=2, batch_size=8, log_checkpoints=0, evaluate_every=2
    )
    made = train(task, seeds=[0], recipe=recipe, runs=folder / "runs", model=model_config(task))
    made[0].run.path.rename(folder / "runs" / "digits")
    return folder


@pytest.fixture
def digits(digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(RUNS, str(digits_folder / "runs"))
    yield digits_folder


@pytest.mark.parametrize("section", SECTIONS)
def test_a_sum_of_digits_draws(section: str, digits: Path) -> None:
    page = opened("network", digits, run="digits", clean="123 + 989 =", network_section=section)
    assert not page.exception
    assert [one.value for one in page.error] == []
    assert "right is **1112**" in said(page)


def test_of_too_many_inputs_none_is_said_to_have_been_trained_on(digits: Path) -> None:
    network = network_of(find_run("digits"))
    inputs = network.task.sample(200, torch.Generator().manual_seed(3))
    config = network.run.config
    assert config.seed is not None and config.train_fraction is not None
    held_out = network.task.held_out_mask(
        inputs, seed=config.seed, train_fraction=config.train_fraction
    )
    assert held_out.any() and not held_out.all()
    for mask, words in (
        (held_out, "a held-out input"),
        (~held_out, "not held out: training draws"),
    ):
        clean = network.task.text(inputs[mask][:1])[0]
        shown = said(opened("network", digits, run="digits", clean=clean))
        assert words in shown and "a training input" not in shown


def test_shares_by_carries_and_position(digits: Path) -> None:
    network = network_of(find_run("digits"))
    by_carries, by_position = network_answers.share_charts(network, "uniform")
    answers = network_data.answers_of(network)
    inputs = network_data.measured_inputs(network.task)
    assert len(inputs) == 10_000
    for column in range(4):
        share = float(answers.right[:, column].double().mean())
        low, high = by_position.series[0].low, by_position.series[0].high
        assert low is not None and high is not None
        assert by_position.series[0].y[column] == pytest.approx(share)
        assert (low[column] or 0) <= share <= (high[column] or 0)
    a, b = inputs.unbind(1)
    carried = sum(((a % 10**k + b % 10**k) >= 10**k).long() for k in (1, 2, 3))
    counts = torch.bincount(torch.as_tensor(carried))
    assert by_carries.names == tuple(f"{k} (n = {n:,})" for k, n in enumerate(counts.tolist()))


def test_neurons_of_digits_are_means_over_two_digits(digits: Path) -> None:
    page = opened(
        "network",
        digits,
        run="digits",
        network_section="Neurons",
        network_column="1",
        network_token="3",
    )
    assert not page.exception
    assert page.selectbox(key="network_column").value == 1
    assert page.selectbox(key="network_token").value == 2  # written as 3: people count from 1
    assert "digits of both operands worth 10," in said(page)
    network = network_of(find_run("digits"))
    choice = network_neurons.Choice(0, 2, "variance", None, 1)
    one, inputs = subject(network), network_data.measured_inputs(network.task)
    a, b = inputs.unbind(1)
    inside = inputs[(a // 10 % 10 == 4) & (b // 10 % 10 == 7)]
    name = "blocks.0.mlp.hook_post"
    read = forward(one.params, one.task.encode(inside), one.config, taps=[name]).activations[name]
    expected = read[:, one.task.answer_positions[2], 5].mean()
    chart = network_neurons.neuron_map(network, choice, 5)
    assert float(chart.values[4, 7]) == pytest.approx(float(expected), abs=1e-5)
    assert (chart.row_axis, chart.column_axis) == ("a_1", "b_1")

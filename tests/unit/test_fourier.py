"""The Fourier mechanism on networks whose answer is known: built by hand, or knowing nothing."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from circuits.cells import logits_of, run_cells, split_operands
from circuits.control_networks import memorising, permuted
from circuits.fourier.parts import (
    frequency_shares,
    keep_transform,
    name_parts,
    neuron_activations,
    structure,
    transformed_embedding,
)
from circuits.fourier.study import Measured
from circuits.mechanism import Case, Explanation, mechanism_for
from circuits.mechanisms.fourier import RULES, support
from circuits.verdict import judge
from tests.hand_built import NEURONS, circle_adder
from workbench.finding import Control, Finding
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.progress import finish
from workbench.subject import Subject, untrained
from workbench.task import make_task

SETTINGS = {"p": 31, "separate_vocabularies": True, "equals_token": False}
HAND_BUILT = {
    "modular_addition": (3, 7, 12, 5),
    "modular_subtraction": (3, 7, 12, 5),
    "modular_multiplication": (3, 8, 11, 4),
    "modular_division": (3, 8, 11, 4),
}
GAINS = (1.0, 0.9, 0.8, 0.7)


def hand_built(name: str) -> Subject:
    return circle_adder(make_task(name, SETTINGS), HAND_BUILT[name], GAINS)


def explain(subject: Subject, **arguments: torch.Tensor) -> Explanation:
    mechanism = mechanism_for(subject.task)
    assert mechanism is not None
    case = Case(subject=subject, train=arguments.get("train"))
    return finish(mechanism.explain(case, seed=0, n_draws=6))


@cache
def explained(name: str) -> Explanation:
    return explain(hand_built(name))


def finding(explanation: Explanation, id: str) -> Finding:
    return next(found for found in explanation.findings if found.id == id)


@pytest.mark.parametrize("name", HAND_BUILT)
def test_a_network_built_on_known_frequencies_is_identified_with_exactly_those(name: str) -> None:
    explanation = explained(name)
    assert explanation.accuracy == 1.0
    assert explanation.verdict == "identified", explanation.reason
    # Strongest first: the order of the gains.
    assert explanation.key_frequencies == HAND_BUILT[name]
    assert set(explanation.parts["embedding_frequencies"]) == set(HAND_BUILT[name])


def test_the_amplitudes_found_are_those_that_were_built_in() -> None:
    explanation = explained("modular_addition")
    alpha = {plane["frequency"]: plane["alpha"] for plane in explanation.parts["planes"]}
    # A chord lies above the parabola by at most (4 / KNOTS)^2 / 4 = 1.6 %, and the embedding's
    # noise adds about as much.
    for k, gain in zip(HAND_BUILT["modular_addition"], GAINS, strict=True):
        assert alpha[k] == pytest.approx(gain, rel=0.04)
    formula = finding(explanation, "formula_logits")
    assert formula.value > 0.97


def test_every_neuron_is_named_for_the_frequency_it_was_built_for() -> None:
    subject = hand_built("modular_addition")
    domain = subject.task.domain()
    parts = name_parts(subject, domain[::3], subject.task.solve(domain[::3])[:, 0])
    expected = torch.tensor(HAND_BUILT["modular_addition"]).repeat_interleave(NEURONS)
    assert parts.neuron_frequencies.tolist() == expected.tolist()


def test_frequency_shares_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression

    subject = untrained(hand_built("modular_addition"), seed=3)
    inputs = subject.task.domain()[::7]
    values = neuron_activations(subject, inputs)[:, :5]
    shares = frequency_shares(structure(subject), inputs, values)
    for k in (1, 9, 15):
        a, b = (inputs[:, i].double() * (2 * torch.pi * k / 31) for i in (0, 1))
        ca, sa, cb, sb = a.cos(), a.sin(), b.cos(), b.sin()
        design = torch.stack([ca, sa, cb, sb, ca * cb, sa * sb, ca * sb, sa * cb], dim=1)
        fit = LinearRegression().fit(design.numpy(), values.double().numpy())
        for column in range(5):
            left = values[:, column].double().numpy() - fit.predict(design.numpy())[:, column]
            expected = 1 - left.var() / values[:, column].double().numpy().var()
            assert float(shares[k - 1, column]) == pytest.approx(expected, abs=1e-6)


def test_splitting_operands_changes_no_logit() -> None:
    task = make_task("modular_addition", {"p": 11})
    config = ModelConfig(
        n_layers=2, n_heads=2, d_model=16, d_head=8, d_mlp=32, d_vocab=12, d_vocab_out=12, n_ctx=3
    )
    params = init_params(config, torch.Generator().manual_seed(0))
    subject = Subject(params=params, config=config, task=task)
    domain = task.domain()
    torch.testing.assert_close(
        logits_of(split_operands(subject), domain), logits_of(subject, domain), atol=1e-6, rtol=0
    )


def test_cells_equal_one_network_each() -> None:
    subject = hand_built("modular_addition")
    domain = subject.task.domain()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 31, 31, generator=generator, dtype=torch.float64)
    whole = torch.eye(31).double().expand(3, -1, -1)
    embed = transformed_embedding(subject, mixing, whole)
    target = subject.task.solve(domain)[:, 0].expand(3, -1)
    outcome = run_cells(subject, domain, target, overrides={"embed.W_E": embed})
    for i in range(3):
        alone = replace(subject, params={**subject.params, "embed.W_E": embed[i]})
        logits = logits_of(alone, domain)
        assert torch.equal(outcome.answer[i], logits.argmax(-1))
        expected = torch.nn.functional.cross_entropy(logits, target[i], reduction="none")
        torch.testing.assert_close(outcome.loss[i], expected, atol=1e-9, rtol=1e-9)


def test_keeping_everything_changes_nothing() -> None:
    subject = hand_built("modular_addition")
    n = 31
    all_planes = torch.eye(n).double() - torch.full((n, n), 1 / n, dtype=torch.float64)
    kept = keep_transform(all_planes)[None]
    embed = transformed_embedding(subject, kept, kept)[0]
    torch.testing.assert_close(embed, subject.params["embed.W_E"], atol=1e-12, rtol=0)


def test_an_edit_by_hand() -> None:
    """Rotating a's whole embedding by s is reading the row of a + s."""
    explanation = explained("modular_addition")
    edit = finding(explanation, "edit")
    assert edit.value == 1.0
    assert edit.details["shifts"] == 30  # every s there is
    others = {control.name: control.value for control in edit.controls}
    assert others["other frequencies"] == 0.0  # they carry nothing: the answer stays that of a
    assert others["another angle"] == 0.0


def test_removing_other_planes_does_nothing_and_removing_the_named_ones_leaves_chance() -> None:
    necessity = finding(explained("modular_addition"), "necessity")
    assert necessity.details["accuracy_without"] <= 3 / 31
    falls = {control.name: control.value for control in necessity.controls}
    assert falls["other frequencies"] == 0.0


def test_a_permuted_network_does_not_depend_on_the_order_of_its_parameters() -> None:
    subject = hand_built("modular_addition")
    turned = replace(subject, params=dict(reversed(subject.params.items())))
    one, two = permuted(subject, 3).params, permuted(turned, 3).params
    for name, tensor in subject.params.items():
        assert torch.equal(one[name], two[name])
        assert torch.equal(one[name].flatten().sort().values, tensor.flatten().sort().values)


@pytest.mark.parametrize("kind", ["untrained", "permuted", "memorised"])
def test_networks_that_learned_nothing_are_not_identified(kind: str) -> None:
    subject = hand_built("modular_addition")
    subject = replace(subject, params={k: v.float() for k, v in subject.params.items()})
    train = subject.task.split(0, 0.3).train
    assert train is not None
    network = {
        "untrained": lambda: untrained(subject, 0),
        "permuted": lambda: permuted(subject, 0),
        "memorised": lambda: memorising(subject, train, 0).subject,
    }[kind]()
    explanation = explain(network, train=train)
    assert explanation.verdict == "not identified"
    assert "does not do its task" in explanation.reason
    # Not for its accuracy alone: judged as if it did its task, its findings fail as well.
    verdicts = {found.id: found.verdict for found in explanation.findings}
    assert judge(1.0, verdicts)[0] == "not identified", verdicts


def test_permuting_keeps_every_number_and_moves_it() -> None:
    subject = hand_built("modular_addition")
    shuffled = permuted(subject, 0)
    for name, tensor in subject.params.items():
        assert torch.equal(
            shuffled.params[name].flatten().sort().values, tensor.flatten().sort().values
        )
    assert not torch.equal(shuffled.params["embed.W_E"], subject.params["embed.W_E"])


def test_a_control_network_knows_the_labels_it_memorised() -> None:
    subject = hand_built("modular_addition")
    subject = replace(subject, params={k: v.float() for k, v in subject.params.items()})
    train = subject.task.split(0, 0.3).train
    assert train is not None
    control = memorising(subject, train, 0)
    answers = logits_of(control.subject, train).argmax(-1)
    assert float((answers == control.label(train)).double().mean()) >= 0.95
    # ... which agree with the task no more often than chance (31 answers, 288 pairs: < 8 %).
    agree = control.label(train) == subject.task.solve(train)[:, 0]
    assert float(agree.double().mean()) < 0.08


def test_parts_are_named_without_looking_at_held_out_pairs() -> None:
    """Whatever the network answers on held-out pairs, the named parts are the same."""
    subject = hand_built("modular_addition")
    domain = subject.task.domain()
    naming = domain[::2]
    first = name_parts(subject, naming, subject.task.solve(naming)[:, 0])
    seen: list[int] = []

    class Watching(type(subject.task)):  # type: ignore[misc]
        def encode(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.extend((inputs[:, 0] * 31 + inputs[:, 1]).tolist())
            return super().encode(inputs)

    watched = replace(subject, task=Watching(**SETTINGS))
    again = name_parts(watched, naming, subject.task.solve(naming)[:, 0])
    assert again.key_frequencies == first.key_frequencies
    assert seen and set(seen) <= set((naming[:, 0] * 31 + naming[:, 1]).tolist())


# ---------------------------------------------------------------- rules


def test_every_test_has_a_rule() -> None:
    from circuits.fourier.tests import TESTS

    assert [test.id for test in TESTS] == list(RULES)


def test_a_finding_whose_control_does_as_well_is_not_supported() -> None:
    same = Control(name="other frequencies", value=1.0, n=20, interval=None)
    good = Measured(1.0, None, {"accuracy_without": 0.01, "chance": 0.01})
    for id in RULES:
        assert support(id, good, (same,)) == "not supported", id
        low = Control(name="other frequencies", value=0.0, n=20, interval=None)
        assert support(id, good, (low,)) == "supported", id
        assert support(id, good, ()) == "not applicable", id


def test_the_verdict_by_rule() -> None:
    supported = dict.fromkeys(RULES, "supported")
    assert judge(1.0, supported)[0] == "identified"
    assert judge(0.95, supported)[0] == "partial"
    assert judge(0.5, supported)[0] == "not identified"
    one_failed = {**supported, "edit": "not supported"}
    verdict, reason = judge(1.0, one_failed)
    assert verdict == "partial" and "edit" in reason
    assert judge(1.0, dict.fromkeys(RULES, "not supported"))[0] == "not identified"
    assert judge(1.0, dict.fromkeys(RULES, "not applicable"))[0] == "not identified"
    assert judge(1.0, {**supported, "neurons": "not applicable"})[0] == "identified"

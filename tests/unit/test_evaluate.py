"""The verdict: networks whose circuit is known, networks that know nothing, and a clear no.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.circuit import Circuit, circuit_of, top_edges
from circuits.control_networks import permuted
from circuits.edges import measure_circuits
from circuits.evaluate import Evaluation, evaluate, judge
from circuits.graph import Graph
from circuits.method import methods
from circuits.problem import ABLATIONS, GROWS, Answers, Problem, make_problem
from circuits.random_circuits import percentile_near_one, random_circuits
from tests.hand_built import circle_adder
from tests.unit.test_edges import problem as random_problem
from workbench.errors import CircuitError
from workbench.metrics import METRICS, Metric, make_metric
from workbench.model_config import ModelConfig, param_shapes
from workbench.pairs import Pairs, draw_pairs
from workbench.params import Params, init_params
from workbench.progress import finish
from workbench.subject import Subject
from workbench.task import make_task
from workbench.transformer import forward

V = 5
"""Tokens of the planted network."""


def close(ours: Tensor, expected: object) -> None:
    torch.testing.assert_close(
        ours, torch.as_tensor(expected, dtype=ours.dtype), atol=1e-10, rtol=0
    )


def planted_config() -> ModelConfig:
    return ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=2 * V,
        d_head=V,
        d_mlp=V,
        d_vocab=V,
        d_vocab_out=V,
        n_ctx=1,
        mlp_biases=False,
    )


def zeros(config: ModelConfig) -> Params:
    shapes = param_shapes(config).items()
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes}


def planted_params() -> Params:
    """Token x is written on axis x; m0 alone moves it to axis V + x, which the logits read."""
    params = zeros(planted_config())
    eye = torch.eye(V, dtype=torch.float64)
    params["embed.W_E"][:, :V] = eye
    params["blocks.0.mlp.W_in"][:V] = eye
    params["blocks.0.mlp.W_out"][:, V:] = eye
    params["unembed.W_U"][V:] = eye
    return params


PLANTED = ("embed->m0", "m0->logits")


def task_problem(
    params: Params,
    config: ModelConfig,
    metric: str = "logit_difference",
    *,
    answered: bool = False,
) -> Problem:
    """All ordered pairs of different tokens; the answer is the token itself."""
    tokens = range(config.d_vocab)
    pairs = [(a, b) for a in tokens for b in tokens if a != b]
    clean, corrupted = (torch.tensor(side)[:, None] for side in zip(*pairs, strict=True))
    scored = torch.ones_like(clean, dtype=torch.bool)
    logits = forward(params, clean, config, positions=(0,)).logits
    return Problem(
        params=params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        metric=make_metric(
            metric, answer=clean, wrong_answer=corrupted, clean_logits=logits, scored=scored
        ),
        positions=(0,),
        graph=Graph(config),
        answers=Answers(clean=clean, corrupted=corrupted, scored=scored) if answered else None,
    )


def planted() -> Problem:
    return task_problem(planted_params(), planted_config())


def or_gate(n_heads: int = 2) -> Problem:
    """Heads that each copy the clean token's 1 to one logit; the metric is min(1, their sum)."""
    config = ModelConfig(
        n_layers=1, n_heads=n_heads, d_model=2, d_head=1, d_mlp=0, d_vocab=2, d_vocab_out=2, n_ctx=1
    )
    params = zeros(config)
    params["embed.W_E"][1, 0] = 1
    params["blocks.0.attn.W_V"][:, 0, 0] = 1
    params["blocks.0.attn.W_O"][:, 0, 1] = 1
    params["unembed.W_U"][1, 0] = 1
    return Problem(
        params=params,
        config=config,
        clean=torch.ones(3, 1, dtype=torch.long),
        corrupted=torch.zeros(3, 1, dtype=torch.long),
        metric=Metric(name="or", function=lambda x: x[..., 0, 0].clamp(max=1)),
        positions=(0,),
        graph=Graph(config),
    )


def paths(made: Problem, *heads: str) -> Circuit:
    """The path through each of these heads of the OR gate."""
    edges = [edge for name in heads for edge in (f"embed->{name}<v>", f"{name}->logits")]
    return circuit_of(made.graph, edges)


def test_random_circuits_take_every_edge_alike() -> None:
    graph = or_gate().graph
    drawn = random_circuits(graph, 3, 2000, seed=0)
    assert {circuit.n_edges for circuit in drawn} == {3}
    counts = torch.stack([circuit.member for circuit in drawn]).sum(0)[graph.is_edge]
    # 2000 * 3/16 = 375 each, sd sqrt(375 * 13/16) = 17.5; 5 sd for the largest of 16.
    assert (counts - 375).abs().max() < 88
    again = random_circuits(graph, 3, 5, seed=0)
    assert [circuit.edges for circuit in again] == [circuit.edges for circuit in drawn[:5]]
    with pytest.raises(CircuitError, match="at most the 16 edges"):
        random_circuits(graph, 17, 1, seed=0)


@pytest.mark.parametrize("per_position", [False, True])
def test_connected_random_circuits_have_no_dead_ends(per_position: bool) -> None:
    graph = random_problem(7, per_position=per_position).graph
    drawn = random_circuits(graph, 20, 30, seed=1, kind="connected")
    sizes = [circuit.n_edges for circuit in drawn]
    assert [circuit.pruned().n_edges for circuit in drawn] == sizes
    # One more edge revives a few others at most.
    assert 18 <= sum(sizes) / 30 <= 22 and min(sizes) > 0
    assert len({circuit.edges for circuit in drawn}) == 30


def test_the_percentile_counts_distance_from_one_and_halves_ties() -> None:
    others = torch.tensor([0.2, 0.95, 1.5, 0.9, 1.1], dtype=torch.float64)
    # 0.9 is nearer than 0.2 and 1.5, ties with 0.9 and 1.1, farther than 0.95.
    assert percentile_near_one(0.9, others) == pytest.approx(100 * (2 + 2 / 2) / 5)


def test_the_planted_circuit_is_supported() -> None:
    made = task_problem(planted_params(), planted_config(), answered=True)
    found = finish(evaluate(made, circuit_of(made.graph, PLANTED)))
    assert (found.verdict, found.clean_right, found.corrupted_right) == ("supported", 1, 1)
    assert (found.n_edges, found.total_edges, found.n, found.gap_share) == (2, 61, 20, 1.0)
    assert found.faithfulness == pytest.approx(1, abs=1e-10)
    assert found.random_percentile >= 99 and found.random_mean < 0.1
    data = json.loads(json.dumps(found.to_dict()))
    assert data["completeness"]["worst"] == pytest.approx(0, abs=1e-10)
    assert data["minimality"]["share"] == 1.0 and data["verdict"] == "supported"
    assert set(data) == set(Evaluation.__dataclass_fields__)


def test_what_holds_every_input_has_an_interval_too() -> None:
    """Every input is there, but with one random twin of many."""
    made = random_problem(0)
    circuit = random_circuits(made.graph, made.graph.n_edges // 2, 1, seed=1)[0]
    some, every = (finish(evaluate(made, circuit, exhaustive=flag)) for flag in (False, True))
    assert (some.exhaustive, every.exhaustive) == (False, True)
    assert every.faithfulness_interval == some.faithfulness_interval is not None


def test_wrong_circuits_of_the_planted_network_are_not_supported() -> None:
    made = planted()
    whole = Circuit(made.graph, made.graph.is_edge)
    everything = finish(evaluate(made, whole))
    # All edges are perfectly faithful, and so is every other circuit of that size.
    assert everything.faithfulness == pytest.approx(1, abs=1e-10)
    assert everything.random_percentile == 50 and everything.verdict == "not supported"
    half = finish(evaluate(made, circuit_of(made.graph, PLANTED[:1])))
    assert half.verdict == "not supported" and "faithfulness" in half.reason


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("logit_difference", "denoising"),
        ("log_probability", "noising"),
        ("kl_divergence", "noising"),
        ("kl_divergence", "denoising"),
        ("accuracy", "denoising"),
    ],
)
def test_the_planted_circuit_is_supported_by_every_metric(metric: str, direction: str) -> None:
    made = task_problem(planted_params(), planted_config(), metric, answered=True)
    made = replace(made, direction=direction)
    found = finish(evaluate(made, circuit_of(made.graph, PLANTED)))
    assert (found.verdict, found.gap_share, found.clean_right) == ("supported", 1, 1)


@pytest.mark.parametrize("metric", ["logit_difference", "kl_divergence"])
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_supported_on_an_untrained_network(seed: int, metric: str) -> None:
    config = replace(planted_config(), d_vocab=8, d_vocab_out=8)
    params = init_params(config, torch.Generator().manual_seed(seed))
    doubles = {name: tensor.double() for name, tensor in params.items()}
    made = task_problem(doubles, config, metric, answered=True)
    scores = finish(methods.get("exact")().score(made)).values
    found = finish(evaluate(made, top_edges(made.graph, scores, 6).pruned()))
    assert found.verdict == "not supported"
    assert (found.clean_right or 0) < 0.9 and "does not do its task" in found.reason
    # The sign alone tells it by one metric, and not by what the network itself does.
    assert (found.gap_share >= 0.9) == (metric == "kl_divergence")


def with_unembedding(columns: Tensor) -> Params:
    """The planted network, whose token x now has the logits of one row."""
    params = planted_params()
    params["unembed.W_U"] = torch.cat([torch.zeros(V, V), columns]).double()
    return params


UNABLE = {
    # Share of the five tokens that the network repeats, counted by hand.
    "next token": (with_unembedding(torch.eye(V).roll(1, 1)), 0.0),
    "three of five": (with_unembedding(torch.eye(V)[[0, 1, 2, 4, 3]]), 0.6),
    "always the first": (
        with_unembedding(torch.eye(V) + 9 * torch.eye(V)[0] * torch.arange(V)[:, None]),
        0.2,
    ),
    "negated": (with_unembedding(-torch.eye(V)), 0.0),
}


@pytest.mark.parametrize("name", UNABLE)
def test_a_metric_of_what_the_network_does_supports_none_that_does_not_do_its_task(
    name: str,
) -> None:
    """Each does something of its own through the planted path, which is faithful to it."""
    params, right = UNABLE[name]
    made = task_problem(params, planted_config(), "kl_divergence", answered=True)
    circuit = circuit_of(made.graph, PLANTED)
    found = finish(evaluate(made, circuit))
    assert found.verdict == "not supported" and "does not do its task" in found.reason
    assert found.clean_right == pytest.approx(right, abs=1e-12)
    assert (found.gap_share, found.faithfulness) == (1, pytest.approx(1, abs=1e-10))


def test_without_answers_the_sign_alone_decides_and_the_verdict_says_so() -> None:
    params, _ = UNABLE["next token"]
    made = task_problem(params, planted_config(), "kl_divergence")
    found = finish(evaluate(made, circuit_of(made.graph, PLANTED)))
    assert found.verdict == "supported" and "without answers" in found.reason
    assert found.clean_right is None is found.corrupted_right


def test_a_network_that_works_against_the_answer_is_not_supported() -> None:
    """Its gap has one sign in all pairs: the wrong one."""
    params, _ = UNABLE["negated"]
    made = task_problem(params, planted_config())
    circuit = circuit_of(made.graph, PLANTED)
    found = finish(evaluate(made, circuit))
    assert (found.verdict, found.gap_share, found.gap) == ("not supported", 0, -2)
    assert "expected sign" in found.reason
    # What a metric of one's own wants, nobody knows.
    own = replace(made, metric=replace(made.metric, name="own"))
    found = finish(evaluate(own, circuit))
    assert (found.verdict, found.gap_share) == ("supported", 1)


def test_a_percentile_needs_a_hundred_draws() -> None:
    made = planted()
    with pytest.raises(CircuitError, match=r"99 random circuits asked for.*at least 100"):
        finish(evaluate(made, circuit_of(made.graph, PLANTED), n_random=99))


def test_the_verdict_follows_its_rule() -> None:
    assert judge(0.91, 99.0, 95.0, gap_share=1.0, n=20)[0] == "supported"
    assert judge(1.09, 99.0, 95.0, gap_share=0.9, n=20, clean_right=0.9)[0] == "supported"
    for wrong, why in (
        (judge(0.89, 99.0, 95.0, gap_share=1.0, n=20), "faithfulness is 0.890"),
        (judge(1.11, 99.0, 95.0, gap_share=1.0, n=20), "faithfulness is 1.110"),
        (judge(0.91, 98.9, 95.0, gap_share=1.0, n=20), "percentile 98.9"),
        (judge(0.91, 99.0, 94.9, gap_share=1.0, n=20), "94.9 among"),
        (judge(0.91, 99.0, 95.0, gap_share=0.89, n=100), "in only 89% of 100 pairs"),
        (judge(0.91, 99.0, 95.0, gap_share=1.0, n=100, clean_right=0.89), "it answers 89%"),
        # 7 of 7 pairs: 2 / 2^7 = 0.016 by chance; 8 of 8: 0.008. 9 of 10: 2 * 11 / 2^10 = 0.021.
        (judge(0.91, 99.0, 95.0, gap_share=1.0, n=7), "only 7 pairs: too few to tell"),
        (judge(0.91, 99.0, 95.0, gap_share=0.9, n=10), "only 10 pairs: too few to tell"),
    ):
        assert wrong[0] == "not supported" and why in wrong[1]
    assert judge(0.91, 99.0, 95.0, gap_share=1.0, n=8)[0] == "supported"


def adder() -> tuple[Subject, Pairs]:
    """A network that adds modulo 7, worked out on paper, and 40 pairs."""
    task = make_task(
        "modular_addition", {"p": 7, "separate_vocabularies": True, "equals_token": False}
    )
    subject = circle_adder(task, (1,), (1.0,))
    return subject, draw_pairs(task, "change_a", 40, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", ["adds", "works against it", "permuted"])
def test_a_problem_of_a_task_knows_what_is_right(network: str) -> None:
    subject, pairs = adder()
    if network == "works against it":
        turned = {name: -x if name == "unembed.W_U" else x for name, x in subject.params.items()}
        subject = replace(subject, params=turned)
    elif network == "permuted":
        subject = permuted(subject, 0)
    made = make_problem(subject, pairs, metric="kl_divergence")
    shares = []
    for inputs, found in (
        (pairs.clean, made.clean_right),
        (pairs.corrupted, made.corrupted_right),
    ):
        tokens = subject.task.encode(inputs)
        logits = forward(subject.params, tokens, subject.config).logits[:, -1]
        right = logits.argmax(-1) == inputs.sum(-1) % 7
        assert found is not None and torch.equal(found, right)
        shares.append(float(right.double().mean()))
    if network == "adds":
        assert shares == [1, 1]
    else:
        assert max(shares) < 0.5
        found = finish(evaluate(made, Circuit(made.graph, made.graph.is_edge)))
        assert "does not do its task" in found.reason
        assert [found.clean_right, found.corrupted_right] == shares


def test_only_scored_tokens_have_to_be_right() -> None:
    made = random_problem(7)
    best = forward(made.params, made.clean, made.config, positions=made.positions).logits.argmax(-1)
    answer, scored = best.clone(), torch.ones_like(best, dtype=torch.bool)
    answer[0, 1] += 1
    scored[0, 1] = False
    answer[1, 1] += 1
    answered = replace(made, answers=Answers(clean=answer, corrupted=answer, scored=scored))
    assert answered.clean_right is not None
    assert answered.clean_right.tolist() == [True, False, True]
    with pytest.raises(CircuitError, match="3 answers for 2 pairs"):
        replace(answered, clean=made.clean[:2], corrupted=made.corrupted[:2])


def test_an_answer_token_that_there_is_not_is_an_error() -> None:
    subject, pairs = adder()
    assert make_problem(subject, pairs, answers=[0]).answers is not None
    for wrong in (9, 1, -1):
        with pytest.raises(CircuitError, match=rf"token {wrong} asked for.* have 1, counted"):
            make_problem(subject, pairs, answers=[wrong])


def test_the_sign_that_a_metric_wants() -> None:
    assert set(GROWS) == set(METRICS)
    made = planted()
    for name, sign in (("accuracy", 1), ("kl_divergence", -1), ("own", None)):
        named = replace(made, metric=Metric(name=name, function=made.metric.function))
        assert named.expected_sign == sign
        turned = replace(named, direction="denoising").expected_sign
        assert turned == (None if sign is None else -sign)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_problem_of_some_pairs_measures_what_all_would(ablation: str) -> None:
    made = replace(random_problem(7), ablation=ablation)
    rows = torch.tensor([2, 0])
    some = made.of_pairs(rows)
    close(some.base_metric, made.base_metric[rows])
    kept = torch.cat([c.keep for c in random_circuits(made.graph, 20, 5, seed=0)])
    close(measure_circuits(some, kept), measure_circuits(made, kept)[:, rows])
    answered = task_problem(planted_params(), planted_config(), answered=True).of_pairs(rows)
    assert answered.clean_right is not None and answered.clean_right.tolist() == [True, True]

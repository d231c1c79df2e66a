"""What every registered method must do; a new file is covered without an edit."""

import json
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
import torch

from circuits.circuit import Selection, top_edges
from circuits.faithfulness import faithfulness_curve, ranked, smallest_circuit
from circuits.graph import Graph
from circuits.method import Method, Scores, methods
from circuits.problem import Problem
from circuits.tracing import circuit_steps
from workbench import config as configuration
from workbench.errors import CircuitError, ConfigError
from workbench.metrics import make_metric
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.progress import Progress, finish
from workbench.transformer import forward

SELECTIONS: tuple[Selection, ...] = ("signed", "absolute")
N_TOKENS = 4
PLANTED = ("embed->a0.h1<v>", "a0.h1->logits")
"""The one way from the first token to the logits."""


def planted_problem(
    *, per_position: bool = False, metric: str = "logit_difference"
) -> tuple[Problem, tuple[str, ...]]:
    """A network that repeats its first token, by one head, and the edges that do it.

    The embedding holds a token as one of the directions 0 to 3; head a0.h1 copies them to the
    directions 4 to 7 from every visible position alike (attention_rate 0); only those are
    unembedded. All else is noise of a fiftieth of that.
    """
    config = ModelConfig(
        n_layers=2,
        n_heads=2,
        d_model=8,
        d_head=4,
        d_mlp=8,
        d_vocab=N_TOKENS,
        d_vocab_out=N_TOKENS,
        n_ctx=2,
        attention_rate=0.0,
    )
    noise = init_params(config, torch.Generator().manual_seed(0), scale=0.02)
    params = {name: tensor.double() for name, tensor in noise.items()}
    eye = torch.eye(N_TOKENS)
    params["embed.W_E"][:, :4] += eye
    params["blocks.0.attn.W_V"][1, :4] += eye
    params["blocks.0.attn.W_O"][1, :, 4:] += eye
    params["unembed.W_U"][4:] += eye
    first, answer = torch.arange(N_TOKENS), torch.arange(N_TOKENS)[:, None]
    clean, corrupted = (
        torch.stack([tokens, torch.zeros_like(tokens)], dim=1)
        for tokens in (first, (first + 1) % N_TOKENS)
    )
    measured = make_metric(
        metric,
        answer=answer,
        wrong_answer=(answer + 1) % N_TOKENS,
        clean_logits=forward(params, clean, config, positions=[1]).logits,
        scored=torch.ones(N_TOKENS, 1, dtype=torch.bool),
    )
    problem = Problem(
        params=params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        metric=measured,
        positions=(1,),
        graph=Graph(config, 2 if per_position else None),
    )
    at = ("@0", "@1") if per_position else ("", "")
    return problem, tuple(edge + where for edge, where in zip(PLANTED, at, strict=True))


def watched(
    steps: Generator[Progress, None, Scores],
) -> tuple[Scores, list[Progress]]:
    """A method's scores and the progress it told of."""
    seen: list[Progress] = []

    def note() -> Generator[Progress, None, Scores]:
        while True:
            try:
                seen.append(next(steps))
            except StopIteration as end:
                result: Scores = end.value
                return result
            yield seen[-1]

    return finish(note()), seen


def made(name: str) -> Method:
    """A method as it comes, but no more than 20 steps: runtime type checks make them slow."""
    kind: Any = methods.get(name)
    method: Method = kind()
    if (getattr(method, "steps", None) or 0) > 20:
        method = configuration.override(method, {"steps": "20"}, where=name)
    return method


@pytest.mark.parametrize(
    ("per_position", "direction"), [(False, "noising"), (True, "noising"), (False, "denoising")]
)
@pytest.mark.parametrize("name", methods.names())
def test_a_method_finds_the_planted_edges(name: str, per_position: bool, direction: str) -> None:
    problem, truth = planted_problem(per_position=per_position)
    problem = replace(problem, direction=direction)
    try:
        scores, seen = watched(made(name).score(problem, seed=3))
    except CircuitError:
        assert per_position  # a method may do without positions, not without edges
        return
    assert scores.values.shape == problem.graph.is_edge.shape
    assert scores.values.device.type == "cpu"
    assert bool(torch.isfinite(scores.values).all())
    assert (scores.values[~problem.graph.is_edge] == 0).all()
    assert set(problem.graph.edges[i] for i in _best_two(scores)) == set(truth)
    assert seen and seen[-1].done == seen[-1].total
    assert [step.done for step in seen] == sorted(step.done for step in seen)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", methods.names())
def test_the_planted_edges_are_the_best_under_both_selections(name: str, direction: str) -> None:
    """The other edges do a fiftieth as much, and a rank without a sign must not be turned round."""
    problem, truth = planted_problem()
    problem = replace(problem, direction=direction)
    scores = finish(made(name).score(problem, seed=3))
    if not scores.signed:
        assert scores.values.min() >= 0
    for selection in SELECTIONS:
        order = ranked(problem, scores, selection)
        assert top_edges(problem.graph, order, 2, selection=selection).edges == truth
        found = finish(smallest_circuit(problem, scores, selection=selection))
        assert found.circuit is not None and found.circuit.edges == truth
        curve = finish(faithfulness_curve(problem, scores, [2], selection=selection))
        # What the noise carries, at most a few fiftieths of the gap.
        assert float(curve.values[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_circuit_found_by_a_method_without_a_sign_is_the_planted_one(
    selection: Selection,
) -> None:
    problem, truth = planted_problem()
    found = finish(circuit_steps(problem, method="acdc", n_edges=2, selection=selection))
    assert found.circuit.edges == truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_that_are_rounding_noise_are_an_error(dtype: torch.dtype) -> None:
    """The KL divergence to the clean run has no slope there, so first order says nothing."""
    problem, truth = planted_problem(metric="kl_divergence")
    params = {name: tensor.to(dtype) for name, tensor in problem.params.items()}
    clean = forward(params, problem.clean, problem.config, positions=[1]).logits
    one = torch.ones(N_TOKENS, 1, dtype=torch.long)
    metric = make_metric(
        "kl_divergence", answer=one, wrong_answer=one, clean_logits=clean, scored=one.bool()
    )
    problem = replace(problem, params=params, metric=metric)
    with pytest.raises(CircuitError, match=r"eap scores no edge above .* choose another metric"):
        finish(made("eap").score(problem))
    for name in ("exact", "eap_ig"):
        scores = finish(made(name).score(problem))
        assert {problem.graph.edges[i] for i in _best_two(scores)} == set(truth)
    # Run backwards there is a slope; without a difference there is nothing to find.
    assert finish(made("eap").score(replace(problem, direction="denoising"))).values.any()
    same = replace(problem, corrupted=problem.clean)
    assert finish(made("eap").score(same)).values.abs().max() < 1e-6


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_reproducible_and_leaves_everything_as_it_was(name: str) -> None:
    problem, _ = planted_problem()
    method = made(name)
    before = {key: tensor.clone() for key, tensor in problem.params.items()}
    state = torch.get_rng_state()
    first, second = (finish(method.score(problem, seed=3)) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert (first.method, first.metric, first.n) == (name, "logit_difference", N_TOKENS)
    assert (first.ablation, first.direction) == ("resample", "noising")
    assert first.seed == (3 if method.random else None)
    assert first.signed == method.signed
    told = json.loads(json.dumps(first.to_dict()))
    assert told["signed"] == method.signed
    again = configuration.from_dict(type(method), told["settings"], where=name)
    for setting, chosen in configuration.to_dict(method).items():
        # What is None is found out by the method, and told.
        assert chosen is None or getattr(again, setting) == chosen
    assert torch.equal(finish(again.score(problem, seed=3)).values, first.values)
    with pytest.raises(ConfigError, match="no x key 'nonsense'"):
        configuration.from_dict(type(method), {"nonsense": 1}, where="x")
    assert type(method).name == name and type(method).summary
    other = finish(method.score(problem, seed=4)).values
    assert torch.equal(other, first.values) != method.random
    assert torch.equal(torch.get_rng_state(), state)
    for key, tensor in problem.params.items():
        assert torch.equal(tensor, before[key])
        assert not tensor.requires_grad


def _best_two(scores: Scores) -> list[int]:
    sizes = torch.tensor([abs(scores.of(edge)) for edge in scores.graph.edges])
    best: list[int] = sizes.topk(2).indices.tolist()
    return best

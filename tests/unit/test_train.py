"""The trainer against torch's own optimiser and autograd, and seeds apart and together."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import workbench.batches
import workbench.train
from tests.unit.small_training import (
    ADDITION,
    CPU,
    DIGITS,
    histories,
    network,
    recipe,
    sampled,
    trained,
)
from workbench.gradients import flatten_params, unflatten
from workbench.losses import exact_loss, unevenness
from workbench.model_config import param_shapes
from workbench.params import init_params
from workbench.recipe import Recipe
from workbench.train import State, adamw, fit
from workbench.transformer import forward


def same_state(one: State, other: State) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------------- the optimiser


def optimise(how: Recipe, schedule: Callable[[int], tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """30 steps on random gradients: our weights and those of torch.optim.AdamW."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    zeros = torch.zeros_like(weights)
    none = torch.zeros(2).long()
    state = State(weights.clone(), weights.clone(), zeros, zeros.clone(), none, none)
    theirs = torch.nn.Parameter(weights.clone())
    optimiser = torch.optim.AdamW([theirs], betas=(how.beta1, how.beta2), eps=how.eps)
    for step in range(30):
        gradient = torch.randn(2, 50, generator=generator, dtype=torch.float64)
        adamw(state, gradient, how, step)
        theirs.grad = gradient
        optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["weight_decay"] = schedule(step)
        optimiser.step()
    return state.weights, theirs.detach()


@pytest.mark.parametrize(("beta1", "beta2", "eps"), [(0.9, 0.98, 1e-8), (0.0, 0.5, 1e-2)])
def test_adamw_is_torchs(beta1: float, beta2: float, eps: float) -> None:
    """Float64, and the same operations but for their order: 30 steps of rounding at 1e-16."""
    how = recipe(lr=((0, 0.03),), weight_decay=((0, 0.7),), beta1=beta1, beta2=beta2, eps=eps)
    ours, theirs = optimise(how, lambda step: (0.03, 0.7))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_adamw_follows_its_schedules() -> None:
    how = recipe(lr=((0, 0.0), (30, 0.3)), weight_decay=((0, 3.0), (30, 0.0)))
    ours, theirs = optimise(how, lambda step: (0.01 * step, 3.0 - 0.1 * step))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- the loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_loss_is_torchs_and_the_formulas(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 3, 7, generator=generator, dtype=torch.float64)
    answers = torch.randint(7, (2, 5, 3), generator=generator)
    loss = exact_loss(logits, answers, smoothing)
    for seed, row, position in [(0, 0, 0), (1, 4, 2), (0, 3, 1)]:
        at = (seed, row, position)
        theirs = F.cross_entropy(logits[at][None], answers[at][None], label_smoothing=smoothing)
        given, answer = logits[at].tolist(), int(answers[at])
        shares = [smoothing / 7 + (1 - smoothing) * (k == answer) for k in range(7)]
        total = sum(math.exp(x) for x in given)
        by_hand = sum(-q * (x - math.log(total)) for q, x in zip(shares, given, strict=True))
        assert loss[at].item() == pytest.approx(theirs.item(), abs=1e-12)
        assert loss[at].item() == pytest.approx(by_hand, abs=1e-12)


def test_unevenness_by_hand() -> None:
    """Right answers 2 and 1 above the mean logit on two inputs: variance 1/4 around 3/2."""
    logits = torch.tensor([[[[3.0, 0.0, 0.0]], [[0.0, 5.0, 7.0]]]])
    answers = torch.tensor([[[0], [1]]])
    torch.testing.assert_close(unevenness(logits, answers), torch.tensor([0.25]))
    assert unevenness(logits + 10, answers) == unevenness(logits, answers)
    assert unevenness(logits[:, :1], answers[:, :1]) == 0


def test_the_loss_of_equal_logits_is_the_log_of_their_number() -> None:
    loss = exact_loss(torch.zeros(1, 2, 1, 8), torch.tensor([[[0], [5]]]))
    assert loss.shape == (1, 2, 1)
    assert loss.flatten().tolist() == pytest.approx([math.log(8)] * 2, abs=1e-6)  # float32


# ---------------------------------------------------------------------- weights


def test_flatten_and_unflatten_are_inverse() -> None:
    config = network(ADDITION, normalization="LN", n_layers=2)
    one, two = (init_params(config, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    flat = torch.stack([flatten_params(one, config), flatten_params(two, config)])
    stacked = unflatten(flat, config)
    assert list(stacked) == list(param_shapes(config))
    for name in stacked:
        assert torch.equal(stacked[name][0], one[name])
        assert torch.equal(stacked[name][1], two[name])


def test_training_begins_at_the_seeds_own_weights() -> None:
    how = recipe(init_scale=0.5)
    first = next(fit(ADDITION, network(ADDITION), how, [3, 8], device=CPU))
    assert first.step == 0 and first.seeds == (3, 8)
    for row, seed in enumerate((3, 8)):
        generator = torch.Generator().manual_seed(seed)
        expected = init_params(network(ADDITION), generator, scale=0.5)
        params = first.params(row)
        assert params.keys() == expected.keys()
        assert all(torch.equal(params[name], expected[name]) for name in params)


def test_the_weights_of_a_snapshot_outlive_it() -> None:
    steps = fit(ADDITION, network(ADDITION), recipe(), [0], device=CPU)
    early = next(steps).params(0)
    before = {name: tensor.clone() for name, tensor in early.items()}
    assert next(steps).step == 5
    assert all(torch.equal(early[name], before[name]) for name in early)


# ---------------------------------------------------------------------- one step


def by_autograd(seed: int, how: Recipe, n_steps: int) -> Tensor:
    """One network alone, in float64: autograd, torch.optim.AdamW, and the same split."""
    config = network(ADDITION)
    params = init_params(config, torch.Generator().manual_seed(seed))
    leaves = {name: tensor.double().requires_grad_() for name, tensor in params.items()}
    inputs = ADDITION.split(seed, how.train_fraction).train
    assert inputs is not None
    optimiser = torch.optim.AdamW(leaves.values(), betas=(how.beta1, how.beta2), eps=how.eps)
    for step in range(n_steps):
        group = optimiser.param_groups[0]
        group["lr"], group["weight_decay"] = 0.004 * step, 1.0 - 0.05 * step
        logits = forward(leaves, ADDITION.encode(inputs), config).logits[:, -1]
        answers, smoothing = ADDITION.solve(inputs)[:, 0], 0.1 - 0.1 / 15 * step
        optimiser.zero_grad()
        F.cross_entropy(logits, answers, label_smoothing=smoothing).backward()
        optimiser.step()
    return flatten_params({name: leaf.detach() for name, leaf in leaves.items()}, config)


def test_a_few_steps_are_autograds() -> None:
    """Float32 beside float64: steps of at most lr each, so rounding stays far below 1e-4."""
    decay = ((0, 1.0), (20, 0.0))
    how = recipe(steps=4, lr=((0, 0.0), (5, 0.02)), weight_decay=decay, average=0.0)
    end = trained(ADDITION, how, [0, 5])[-1]
    for row, seed in enumerate((0, 5)):
        expected = by_autograd(seed, how, 4).float()
        assert (expected - end.state.weights[row]).abs().max() < 1e-4
        start = init_params(network(ADDITION), torch.Generator().manual_seed(seed))
        assert (expected - flatten_params(start, network(ADDITION))).abs().max() > 0.01
    assert torch.equal(end.state.averaged, end.state.weights)


def test_a_steps_gradient_is_the_mean_over_the_seeds_own_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As autograd's on one network at a time, to float32 rounding."""
    seen: list[Tensor] = []
    monkeypatch.setattr(workbench.train, "adamw", lambda state, g, *rest: seen.append(g.clone()))
    how, config = sampled(steps=1), network(DIGITS)
    first = next(fit(DIGITS, config, how, [0, 1], device=CPU))
    source = workbench.batches.Source(DIGITS, how, (0, 1), CPU, None)
    tokens, answers = source.batch([0, 1], 0)
    trained(DIGITS, how, [0, 1])
    for row in (0, 1):
        leaves = {name: tensor.requires_grad_() for name, tensor in first.params(row).items()}
        logits = forward(leaves, tokens[row], config).logits[:, list(DIGITS.answer_positions)]
        losses = F.cross_entropy(
            logits.flatten(0, 1), answers[row].flatten(), label_smoothing=0.1, reduction="none"
        )
        gradient = torch.autograd.grad(losses.mean(), list(leaves.values()))
        alone = flatten_params(dict(zip(leaves, gradient, strict=True)), config)
        assert (seen[0][row] - alone).abs().max() < 1e-5 * alone.abs().max()


def test_the_average_follows_its_recursion() -> None:
    """averaged <- d averaged + (1 - d) weights, d = min(average, (1 + step) / (10 + step))."""
    how = recipe(evaluate_every=1, average=0.3)
    averaged, largest = None, 0.0
    for snapshot in fit(ADDITION, network(ADDITION), how, [0], device=CPU):
        if averaged is None:
            averaged = snapshot.state.weights.double()
        else:
            decay = min(0.3, snapshot.step / (9 + snapshot.step))
            averaged = decay * averaged + (1 - decay) * snapshot.state.weights.double()
        largest = max(largest, (averaged - snapshot.state.averaged).abs().max().item())
        params = unflatten(snapshot.state.averaged, snapshot.config)
        assert torch.equal(snapshot.params(0)["embed.W_E"], params["embed.W_E"][0])
    assert largest < 1e-6  # weights near 1 in float32
    assert not torch.equal(snapshot.state.averaged, snapshot.state.weights)


# ---------------------------------------------------------------------- seeds apart and together


@pytest.mark.parametrize(
    ("task", "how"),
    [
        (ADDITION, recipe()),
        (ADDITION, recipe(batch_size=8, random_labels=0.5)),
        (DIGITS, sampled()),
    ],
    ids=["full batch", "minibatches", "sampled"],
)
def test_seeds_together_are_each_alone(task: Any, how: Recipe) -> None:
    """To the rounding of 20 steps: a batched product may sum in another order."""
    together = trained(task, how, [0, 1, 2])
    for row, seed in enumerate((0, 1, 2)):
        alone = trained(task, how, [seed])
        ours, theirs = together[-1].state.averaged[row], alone[-1].state.averaged[0]
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
        for a, b in zip(histories(together)[seed], histories(alone)[seed], strict=True):
            assert a == pytest.approx(b, rel=1e-5)


def test_seeds_in_several_passes_are_seeds_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = trained(ADDITION, recipe(), [0, 1, 2])
    monkeypatch.setattr(workbench.train, "CPU_BYTES", 1)
    source = workbench.batches.Source(ADDITION, recipe(), (0, 1, 2), CPU, None)
    assert workbench.train._seeds_per_pass(network(ADDITION), source, CPU) == 1
    apart = trained(ADDITION, recipe(), [0, 1, 2])
    difference = (together[-1].state.weights - apart[-1].state.weights).abs().max()
    assert difference <= 1e-6 * apart[-1].state.weights.abs().max()


@pytest.mark.parametrize(("task", "how"), [(ADDITION, recipe(batch_size=8)), (DIGITS, sampled())])
def test_the_same_call_gives_the_same_bits_whatever_the_global_generator(
    task: Any, how: Recipe
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = trained(task, how, [0, 4])
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        again = trained(task, how, [0, 4])
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same_state(first[-1].state, again[-1].state)
    assert [s.metrics for s in first] == [s.metrics for s in again]


@pytest.mark.parametrize(("task", "how"), [(ADDITION, recipe(batch_size=8)), (DIGITS, sampled())])
def test_training_goes_on_from_any_snapshot_to_the_same_bits(task: Any, how: Recipe) -> None:
    whole = trained(task, how, [0, 4])
    for snapshot in fit(task, network(task), how, [0, 4], device=CPU):
        if snapshot.step == how.steps:
            break
        start = (snapshot.step, State(*(tensor.clone() for tensor in snapshot.state)))
        rest = trained(task, how, [0, 4], start=start)
        assert [s.step for s in rest] == [s.step for s in whole if s.step > snapshot.step]
        assert [s.metrics for s in rest] == [s.metrics for s in whole if s.step > snapshot.step]
        assert same_state(rest[-1].state, whole[-1].state)
        assert same_state(start[1], snapshot.state), "the given state was changed"

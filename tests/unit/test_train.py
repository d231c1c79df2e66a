"""The trainer against torch's own optimiser and autograd, and against what it promises."""

import math
from collections.abc import Callable
from itertools import pairwise
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
from workbench.errors import ConfigError, TaskError
from workbench.model_config import param_shapes
from workbench.params import init_params
from workbench.recipe import Recipe
from workbench.task import Inputs, make_task, randomise_labels
from workbench.train import (
    Batch,
    Metrics,
    State,
    adamw,
    exact_loss,
    fit,
    flatten_params,
    grokking_step,
    unevenness,
    unflatten,
)
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


# ---------------------------------------------------------------------- batches


def batches(task: Any, how: Recipe, seed: int, n_steps: int) -> list[Batch]:
    source = workbench.batches.Source(task, how, (seed,), CPU, None)
    return [source.batch([0], step) for step in range(n_steps)]


def operands(task: Any, batch: Batch) -> Inputs:
    """The inputs of a batch of one seed, from their tokens, whatever label is fed back."""
    tokens = batch.tokens[0]
    if task is not DIGITS:
        return task.decode(tokens)
    n, worth = task.n_digits, 10 ** torch.arange(task.n_digits).flip(0)
    a, b = tokens[:, :n], tokens[:, n + 1 : 2 * n + 1]
    return torch.stack([(a * worth).sum(1), (b * worth).sum(1)], dim=1)


def as_set(inputs: Tensor | None) -> set[tuple[int, ...]]:
    assert inputs is not None
    return set(map(tuple, inputs.tolist()))


def test_minibatches_draw_training_inputs_without_repetition() -> None:
    train = as_set(ADDITION.split(2, 0.5).train)
    drawn = [as_set(operands(ADDITION, b)) for b in batches(ADDITION, recipe(batch_size=8), 2, 40)]
    assert all(len(rows) == 8 and rows <= train for rows in drawn)
    assert len(set(map(frozenset, drawn))) == 40  # of 735,471 possible ones
    assert set.union(*drawn) == train  # (1 - 8/24)^40 = 9e-8 for each to be missed


def test_minibatches_are_decided_by_seed_and_step() -> None:
    first, again = (batches(ADDITION, recipe(batch_size=8), 2, 3) for _ in range(2))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    source = workbench.batches.Source(ADDITION, recipe(batch_size=8), (5, 2), CPU, None)
    pair = source.batch([0, 1], 2)
    assert torch.equal(pair.tokens[1], first[2].tokens[0])
    assert not torch.equal(pair.tokens[0], pair.tokens[1])
    assert torch.equal(source.batch([1], 2).tokens[0], pair.tokens[1])


@pytest.mark.parametrize("batch_size", [None, 24, 1000])
def test_full_batches_are_the_training_side(batch_size: int | None) -> None:
    for batch in batches(ADDITION, recipe(batch_size=batch_size), 2, 2):
        assert torch.equal(operands(ADDITION, batch), ADDITION.split(2, 0.5).train)
        assert torch.equal(batch.answers[0], ADDITION.solve(operands(ADDITION, batch)))


def test_sampled_batches_hold_out_what_the_seeds_hash_holds_out() -> None:
    source = workbench.batches.Source(DIGITS, sampled(batch_size=300), (6,), CPU, None)
    for step in range(5):
        inputs = operands(DIGITS, source.batch([0], step))
        assert len(inputs) == 300
        assert not DIGITS.held_out_mask(inputs, seed=6, train_fraction=0.8).any()
    held_out = source.held_out([0])
    assert held_out is not None and held_out.tokens.shape[1] == 30
    inputs = operands(DIGITS, held_out)
    assert DIGITS.held_out_mask(inputs, seed=6, train_fraction=0.8).all()
    assert torch.equal(held_out.answers[0], DIGITS.solve(inputs))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.4, 80), (1.0, 200)])
def test_the_enriched_share_of_each_batch(
    share: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by giving enriched inputs away: a is 9999 in them, and in 1 of 10^4 others."""
    cls = type(DIGITS)
    real = cls._sample

    def marked(task: Any, n: int, generator: torch.Generator, distribution: str) -> Tensor:
        inputs = real(task, n, generator, distribution)
        if distribution == "carry_heavy":
            inputs[:, 0] = 9999
        return inputs

    monkeypatch.setattr(cls, "_sample", marked)
    for batch in batches(DIGITS, sampled(batch_size=200, enriched_share=share), 0, 3):
        inputs = operands(DIGITS, batch)
        assert len(inputs) == 200
        assert int((inputs[:, 0] == 9999).sum()) == count


def test_without_enrichment_all_is_uniform() -> None:
    plain = batches(DIGITS, sampled(enriched=None, enriched_share=0.4), 0, 1)
    same = batches(DIGITS, sampled(enriched="uniform", enriched_share=0.0), 0, 1)
    assert torch.equal(plain[0].tokens, same[0].tokens)


@pytest.mark.parametrize("task", [ADDITION, DIGITS], ids=["listed", "sampled"])
def test_random_labels_are_trained_and_true_ones_held_out(task: Any) -> None:
    how = recipe(random_labels=0.7) if task is ADDITION else sampled(random_labels=0.7)
    source = workbench.batches.Source(task, how, (4,), CPU, None)
    for batch in (source.batch([0], 3), source.training([0], 3)):
        inputs = operands(task, batch)
        labels = randomise_labels(task, inputs, fraction=0.7, seed=4)
        assert torch.equal(batch.answers[0], labels)
        assert not torch.equal(labels, task.solve(inputs))
    held_out = source.held_out([0])
    assert held_out is not None
    assert torch.equal(held_out.answers[0], task.solve(operands(task, held_out)))


@pytest.mark.parametrize("order", ["least_significant_first", "most_significant_first"])
def test_the_answer_fed_back_is_the_label(order: str) -> None:
    task = make_task("digit_addition", {"n_digits": 4, "answer_order": order})
    source = workbench.batches.Source(task, sampled(random_labels=1.0), (4,), CPU, None)
    batch = source.batch([0], 0)
    fed_back = batch.tokens[0][:, list(task.answer_positions)]
    assert (fed_back[:, 0] == 11).all()  # the equals token
    assert torch.equal(fed_back[:, 1:], batch.answers[0][:, :-1])


def test_given_inputs_are_trained_on_and_nothing_is_held_out() -> None:
    inputs = ADDITION.domain()[3:20]
    source = workbench.batches.Source(ADDITION, recipe(), (0, 1), CPU, inputs)
    assert torch.equal(source.batch([0, 1], 0).tokens, ADDITION.encode(inputs).expand(2, -1, -1))
    last = trained(ADDITION, recipe(), [0, 1], inputs=inputs)[-1].metrics[1]
    assert math.isnan(last.held_out_loss) and math.isnan(last.held_out_accuracy)
    assert last.train_loss < math.log(8)


def test_any_number_of_operands_can_be_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is one new file: nothing here may know that today's have two operands."""
    source = workbench.batches.Source(DIGITS, sampled(enriched=None), (0,), CPU, None)
    monkeypatch.setattr(
        type(DIGITS), "_sample", lambda task, n, generator, name: torch.ones(n, 3).long()
    )
    monkeypatch.setattr(
        type(DIGITS),
        "held_out_mask",
        lambda task, inputs, **options: torch.zeros(len(inputs), dtype=torch.bool),
    )
    assert source._fresh(0, 0, 7).shape == (7, 3)


# ---------------------------------------------------------------------- metrics


@pytest.mark.parametrize("task", [ADDITION, DIGITS], ids=["listed", "sampled"])
def test_metrics_are_loss_and_exact_answers_of_the_averaged_network(task: Any) -> None:
    """Evaluated in several parts: 24 or 25 inputs are no multiple of the batch's 9."""
    how = recipe(batch_size=9) if task is ADDITION else sampled(batch_size=9)
    source = workbench.batches.Source(task, how, (3, 1), CPU, None)
    for snapshot in fit(task, network(task), how, [3, 1], device=CPU):
        sides = [source.training([0, 1], snapshot.step), source.held_out([0, 1])]
        for row, metrics in enumerate(snapshot.metrics):
            expected: list[float] = []
            for side in sides:
                assert side is not None
                logits = forward(snapshot.params(row), side.tokens[row], snapshot.config).logits
                logits = logits[:, list(task.answer_positions)]
                answers = side.answers[row]
                loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten()).item()
                right = (logits.argmax(-1) == answers).all(1).float().mean().item()
                expected += [loss, right]
            assert metrics == pytest.approx((snapshot.step, *expected), rel=1e-5)


def test_snapshots_come_at_evaluations_and_at_kept_steps() -> None:
    how = recipe(steps=23, evaluate_every=10, checkpoint_steps=(3,))
    assert [s.step for s in trained(ADDITION, how, [0])] == [0, 3, 10, 20, 23]
    assert trained(ADDITION, how, [0])[-1].finished == (True,)


def row(step: int, held_out_accuracy: float) -> Metrics:
    return Metrics(step, 1.0, 1.0, 1.0, held_out_accuracy)


@pytest.mark.parametrize(
    ("accuracies", "step"),
    [
        ([0.1, 0.5, 0.9989], None),
        ([0.1, 0.999, 1.0], 10),
        ([0.1, 1.0, 0.5, 1.0], 30),
        ([0.1, 1.0, 0.5], None),
        ([1.0, 0.9995], 0),
        ([math.nan, math.nan], None),
        ([], None),
    ],
)
def test_grokking_is_reached_for_good(accuracies: list[float], step: int | None) -> None:
    assert grokking_step([row(10 * i, a) for i, a in enumerate(accuracies)]) == step


# ---------------------------------------------------------------------- ending early


def sequence_of_losses(
    monkeypatch: pytest.MonkeyPatch, losses: dict[int, list[float]], held_out: float
) -> None:
    """Training losses by seed, one per evaluation; held-out ones all the same."""
    asked: list[int] = []
    real = workbench.train._observe

    def observe(*args: Any) -> Any:
        source, rows = args[3], args[4]
        answers = {
            "train": ([losses[source.seeds[r]][len(asked)] for r in rows], [0.0] * len(rows)),
            "held out": ([held_out] * len(rows), [held_out] * len(rows)),
        }
        kinds = iter(("train", "held out"))
        monkeypatch.setattr(workbench.train, "_measure", lambda *args: answers[next(kinds)])
        asked.append(args[5])
        return real(*args)

    monkeypatch.setattr(workbench.train, "_observe", observe)


@pytest.mark.parametrize("held_out", [0.0, 9.0, math.nan])
def test_each_seed_stops_when_its_training_loss_stayed_low(
    held_out: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {
        0: [9, 0.1, 0.1, 9, 0.1, 0.1, 0.1, 0.1],  # two in a row are too few, three enough
        1: [9, 0.1, 0.1, 0.1, 0, 0, 0, 0],
        2: [0.11, 0.2, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1],
    }
    sequence_of_losses(monkeypatch, losses, held_out)
    how = recipe(steps=7, evaluate_every=1, stop_train_loss=0.1, stop_sustained=3)
    snapshots = trained(ADDITION, how, [0, 1, 2])
    ends = {
        seed: snapshot.step
        for snapshot in snapshots
        for seed, done in zip(snapshot.seeds, snapshot.finished, strict=True)
        if done
    }
    assert ends == {0: 6, 1: 3, 2: 7}
    assert [s.seeds for s in snapshots[3:]] == [(0, 1, 2), *[(0, 2)] * 3, (2,)]
    assert all(failure is None for s in snapshots for failure in s.failures)


def test_without_a_criterion_no_seed_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence_of_losses(monkeypatch, {0: [0.0] * 8}, 0.0)
    assert trained(ADDITION, recipe(steps=7, evaluate_every=1), [0])[-1].step == 7


def test_seeds_that_stop_leave_the_others_as_they_were() -> None:
    """A real early stop: seed by seed, the others train on to the weights they reach alone."""
    how = recipe(steps=60, stop_train_loss=0.9, stop_sustained=2, evaluate_every=3)
    snapshots = trained(ADDITION, how, [0, 1, 2, 3])
    history = histories(snapshots)
    ends = {seed: rows[-1].step for seed, rows in history.items()}
    assert len(set(ends.values())) > 1 and min(ends.values()) < 60
    for seed, rows in history.items():
        alone = histories(trained(ADDITION, how, [seed]))[seed]
        assert [r.step for r in alone] == [r.step for r in rows]
        low = [r.train_loss <= 0.9 for r in rows]
        assert all(low[-2:]) and not any(a and b for a, b in pairwise(low[:-1]))
        assert rows[-1] == pytest.approx(alone[-1], rel=1e-4)


def test_divergence_ends_a_seed_and_no_other() -> None:
    """A seed whose weights are broken on the way, and one whose are not."""
    how = recipe(evaluate_every=5)
    snapshots = []
    for snapshot in fit(ADDITION, network(ADDITION), how, [0, 1, 2], device=CPU):
        snapshots.append(snapshot)
        if snapshot.step == 5:
            snapshot.state.weights[1] = 1e30
    assert [s.seeds for s in snapshots] == [(0, 1, 2)] * 3 + [(0, 2)] * 2
    assert snapshots[2].finished == (False, True, False)
    assert snapshots[2].failures[0] is snapshots[2].failures[2] is None
    failure = snapshots[2].failures[1]
    assert failure is not None and "\n" not in failure
    assert failure.startswith("diverged: training loss is nan at step 10; lower lr (now 0.0166")
    whole = trained(ADDITION, how, [0, 2])[-1]
    difference = (snapshots[-1].state.weights - whole.state.weights).abs().max()
    assert difference <= 1e-6 * whole.state.weights.abs().max()


def test_a_huge_learning_rate_diverges_and_is_reported() -> None:
    how = recipe(lr=((0, 1e3),), weight_decay=((0, 10.0),))
    last = trained(ADDITION, how, [0, 1])[-1]
    assert last.step < how.steps
    assert all(
        failure is not None and "lower lr (now 1000)" in failure for failure in last.failures
    )


# ---------------------------------------------------------------------- refusals


def test_what_cannot_begin_is_refused_before_any_step() -> None:
    with pytest.raises(ConfigError, match="d_vocab_out = 3: modular_addition-p7 needs at least 7"):
        next(fit(ADDITION, network(ADDITION, d_vocab_out=3), recipe(), [0], device=CPU))
    with pytest.raises(ConfigError, match="set batch_size="):
        trained(DIGITS, recipe(), [0])
    with pytest.raises(ConfigError, match="did you mean 'carry_heavy'"):
        trained(DIGITS, sampled(enriched="carry"), [0])
    with pytest.raises(TaskError, match="too few to train on"):
        trained(ADDITION, recipe(train_fraction=0.001), [0])

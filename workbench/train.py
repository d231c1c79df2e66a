"""Training: many seeds together, along the leading axis of one forward and backward pass.

`fit` is a generator. At every evaluation it yields a `Snapshot`: metrics per seed, and the
weights and optimiser state to whoever wants to keep them. It draws nothing from any global
generator: seed and step alone decide initialisation, split, labels and batches, so that a run
resumed from a snapshot continues as if it had never stopped.

Held-out inputs are looked at to report, never to decide: schedules are fixed, and early stopping
reads the training loss.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.batches import Batch, Source
from workbench.errors import ConfigError
from workbench.gradients import (
    Objective,
    find_gradient,
    flatten_params,
    kept_neurons,
    unflatten,
)
from workbench.losses import exact_loss, sureness
from workbench.model_config import ModelConfig
from workbench.one_block import Workspace
from workbench.params import Params, init_params
from workbench.recipe import Recipe, at, kept_steps
from workbench.registry import unknown
from workbench.task import Inputs, Task
from workbench.transformer import forward

CPU_BYTES = 32 * 2**20
"""Seeds share a pass as long as their largest activation stays below this (CPU caches, malloc)."""
CUDA_BYTES = 4 * 2**30

ATTEMPT_STRIDE = 1_000_003
"""Between the generators of one seed's attempts."""

GROKKED = 0.999
"""Held-out accuracy that counts as having grokked."""


class State(NamedTuple):
    """All that training changes: one row per seed."""

    weights: Float[Tensor, "seed param"]
    averaged: Float[Tensor, "seed param"]
    """What is evaluated and kept: the exponential average, or a copy of the weights."""
    mean: Float[Tensor, "seed param"]
    """AdamW's first moment."""
    variance: Float[Tensor, "seed param"]
    """AdamW's second moment."""
    sustained: Int[Tensor, " seed"]
    """Evaluations in a row at which the training loss was low enough to stop."""
    attempt: Int[Tensor, " seed"]
    """How often training has started again from other initial weights."""


class Metrics(NamedTuple):
    """How one seed was doing at one step; losses in nats."""

    step: int
    train_loss: float
    train_accuracy: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where training stands at one evaluation."""

    step: int
    seeds: tuple[int, ...]
    """The seeds still training, in the order of the rows."""
    metrics: tuple[Metrics, ...]
    finished: tuple[bool, ...]
    """Which of them end here: out of steps, stopped by the sustained criterion, or failed."""
    restarting: tuple[bool, ...]
    """Which of them start again: what was kept of them until here no longer counts."""
    failures: tuple[str | None, ...]
    """Why a seed cannot go on (its training diverged), or None."""
    state: State
    config: ModelConfig

    def params(self, row: int) -> Params:
        """The weights of one seed, as they are evaluated and kept."""
        return {
            name: tensor[0].detach().clone()
            for name, tensor in unflatten(self.state.averaged[row : row + 1], self.config).items()
        }


def fit(
    task: Task,
    config: ModelConfig,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    device: torch.device,
    inputs: Inputs | None = None,
    start: tuple[int, State] | None = None,
    attempts: Mapping[int, int] | None = None,
) -> Generator[Snapshot, None, None]:
    """Train one network per seed, together. Yields at every evaluation, the first at step 0.

    Args:
        inputs: train on exactly these, instead of the split that the seed decides.
        start: (step, state) of an earlier snapshot to continue from; rows as in `seeds`.
        attempts: without `start`, how often a seed started again before; 0 where it is not named.
            It begins at step 0, observed as ever, with the initial weights of that attempt.

    A seed that the recipe's `restart_at` turns back starts again when the others have finished.
    A seed whose loss is no longer finite ends with a reason in `Snapshot.failures`; the others
    go on. The state of a snapshot is the trainer's own: copy what is to outlive the next step.
    Raises what `check_training` raises.
    """
    check_training(task, config, recipe, inputs=inputs)
    source = Source(task, recipe, tuple(seeds), device, inputs)
    resumed_at = None if start is None else start[0]
    turns = {seed: (attempts or {}).get(seed, 0) for seed in seeds}
    first = start or (0, _initial_state(config, recipe, turns, device))
    while True:
        again = yield from _fit_once(task, config, recipe, source, first, resumed_at)
        if not again:
            return
        source = Source(task, recipe, tuple(again), device, inputs)
        first, resumed_at = (0, _initial_state(config, recipe, again, device)), None


def _fit_once(
    task: Task,
    config: ModelConfig,
    recipe: Recipe,
    source: Source,
    start: tuple[int, State],
    resumed_at: int | None,
) -> Generator[Snapshot, None, dict[int, int]]:
    """Train every seed to its end, or until it must start again; which must, and their attempt."""
    step, state = start
    state = State(*(tensor.clone() for tensor in state))  # steps are taken in place
    rows = list(range(len(source.seeds)))
    size, work = _seeds_per_pass(config, source, source.device), Workspace()
    observed = {*kept_steps(recipe), *range(0, recipe.steps, recipe.evaluate_every)}
    observed |= {recipe.restart_at} if recipe.restart_at else set()
    again: dict[int, int] = {}
    while rows:
        if step in observed and step != resumed_at:
            snapshot = _observe(state, config, recipe, source, rows, step, size)
            yield snapshot
            leaving = zip(snapshot.finished, snapshot.restarting, strict=True)
            keep = [i for i, (done, restarts) in enumerate(leaving) if not (done or restarts)]
            attempts = state.attempt.tolist()
            for i, restarts in enumerate(snapshot.restarting):
                if restarts:
                    again[snapshot.seeds[i]] = attempts[i] + 1
            if len(keep) < len(rows):
                rows = [rows[i] for i in keep]
                state = State(*(tensor[keep] for tensor in state))
        if rows:
            alive = tuple(source.seeds[row] for row in rows)
            batch = source.batch(rows, step)
            _step(state, config, recipe, task, alive, batch, step, size, work)
            step += 1
    return again


def check_training(
    task: Task, config: ModelConfig, recipe: Recipe, *, inputs: Inputs | None = None
) -> None:
    """Raise `ConfigError` or `TaskError` where this training could not begin."""
    least = {
        "n_ctx": task.n_ctx,
        "d_vocab": len(task.vocabulary),
        "d_vocab_out": task.n_answer_tokens,
    }
    for key, needed in least.items():
        if (got := getattr(config, key)) < needed:
            raise ConfigError(f"model {key} = {got}: {task.label} needs at least {needed}")
    if inputs is not None:
        return
    if task.enumerable:
        task.split(0, recipe.train_fraction)  # says so where the domain is too small
        return
    if recipe.batch_size is None:
        raise ConfigError(
            f"recipe batch_size = None: {task.label} has {task.domain_size} inputs, too many for "
            "one batch; set batch_size=256, or so"
        )
    if recipe.enriched is not None and recipe.enriched not in task.distributions:
        kind = f"{task.name} distribution"
        raise ConfigError(f"recipe enriched: {unknown(kind, recipe.enriched, task.distributions)}")


def grokking_step(history: Sequence[Metrics]) -> int | None:
    """First evaluated step from which held-out accuracy stays at least 99.9 % to the end."""
    reached = None
    for row in history:
        if not row.held_out_accuracy >= GROKKED:  # NaN: nothing is held out
            reached = None
        elif reached is None:
            reached = row.step
    return reached


def _initial_state(
    config: ModelConfig, recipe: Recipe, attempts: Mapping[int, int], device: torch.device
) -> State:
    """Fresh weights for each seed, by its attempt."""
    rows = []
    for seed, attempt in attempts.items():
        generator = torch.Generator().manual_seed(seed + attempt * ATTEMPT_STRIDE)
        params = init_params(
            config, generator, scale=recipe.init_scale, query_key_scale=recipe.query_key_scale
        )
        rows.append(flatten_params(params, config))
    weights = torch.stack(rows).to(device)
    zeros = torch.zeros_like(weights)
    sustained = torch.zeros(len(weights), dtype=torch.long, device=device)
    turn = torch.tensor(list(attempts.values()), dtype=torch.long, device=device)
    return State(weights, weights.clone(), zeros, zeros.clone(), sustained, turn)


def _seeds_per_pass(config: ModelConfig, source: Source, device: torch.device) -> int:
    widest = max(config.d_mlp, config.d_model * config.n_ctx)
    positions = 1 if config.n_layers == 1 else config.n_ctx
    per_seed = 4 * source.n_train * positions * widest
    budget = CPU_BYTES if device.type == "cpu" else CUDA_BYTES
    return max(1, budget // per_seed)


def _step(
    state: State,
    config: ModelConfig,
    recipe: Recipe,
    task: Task,
    seeds: Sequence[int],
    batch: Batch,
    step: int,
    size: int,
    work: Workspace,
) -> None:
    """One AdamW step of every seed, in place."""
    gradient = torch.empty_like(state.weights)
    share = at(recipe.neuron_dropout, step)
    for start in range(0, len(state.weights), size):
        rows = slice(start, start + size)
        objective = Objective(
            config=config,
            batch=Batch(batch.tokens[rows], batch.answers[rows]),
            positions=task.answer_positions,
            smoothing=at(recipe.label_smoothing, step),
            uneven=at(recipe.evenness, step),
            kept=kept_neurons(config, share, seeds[rows], step, like=gradient),
        )
        gradient[rows] = find_gradient(state.weights[rows], objective, work)
    adamw(state, gradient, recipe, step)
    if recipe.average == 0:
        state.averaged.copy_(state.weights)
    else:
        # A young average is a short one, so that it soon lets go of the initial weights.
        decay = min(recipe.average, (1 + step) / (10 + step))
        state.averaged.lerp_(state.weights, 1 - decay)


def adamw(state: State, gradient: Float[Tensor, "seed param"], recipe: Recipe, step: int) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) for every row, in place; step counts from 0.

    As torch.optim.AdamW: first the decay, then the bias-corrected step.
    """
    lr, decay = at(recipe.lr, step), at(recipe.weight_decay, step)
    state.mean.lerp_(gradient, 1 - recipe.beta1)
    state.variance.mul_(recipe.beta2).addcmul_(gradient, gradient, value=1 - recipe.beta2)
    state.weights.mul_(1 - lr * decay)
    scale = state.variance.div(1 - recipe.beta2 ** (step + 1)).sqrt_().add_(recipe.eps)
    state.weights.addcdiv_(state.mean, scale, value=-lr / (1 - recipe.beta1 ** (step + 1)))


def _answer_logits(
    params: Params,
    config: ModelConfig,
    task: Task,
    tokens: Int[Tensor, "seed batch pos"],
) -> Float[Tensor, "seed batch answer d_vocab_out"]:
    return forward(params, tokens, config, positions=task.answer_positions).logits


@torch.no_grad()
def _observe(
    state: State,
    config: ModelConfig,
    recipe: Recipe,
    source: Source,
    rows: list[int],
    step: int,
    size: int,
) -> Snapshot:
    """Measure every seed, and decide from its training loss alone whether it ends here."""
    train = _measure(state, config, source, source.training(rows, step), size)
    held_out = source.held_out(rows)
    nothing = [math.nan] * len(rows)
    other = (nothing, nothing)
    if held_out is not None:
        other = _measure(state, config, source, held_out, size)
    metrics = tuple(Metrics(step, *values) for values in zip(*train, *other, strict=True))
    failures = tuple(
        None
        if math.isfinite(row.train_loss)
        else f"diverged: training loss is {row.train_loss} at step {step}; lower lr "
        f"(now {at(recipe.lr, step):g}) or lengthen its warm-up"
        for row in metrics
    )
    enough = -1.0 if recipe.stop_train_loss is None else recipe.stop_train_loss
    low = torch.tensor([row.train_loss <= enough for row in metrics], device=state.sustained.device)
    state.sustained.copy_((state.sustained + 1) * low)
    finished = tuple(
        step == recipe.steps or failure is not None or count >= recipe.stop_sustained
        for failure, count in zip(failures, state.sustained.tolist(), strict=True)
    )
    restarting = (False,) * len(rows)
    if step == recipe.restart_at and step < recipe.steps:
        uneven = _lead_unevenly(state, config, recipe, source, source.training(rows, step))
        restarting = tuple(
            bad and not done and attempt < recipe.restarts
            for bad, done, attempt in zip(uneven, finished, state.attempt.tolist(), strict=True)
        )
    seeds = tuple(source.seeds[row] for row in rows)
    return Snapshot(step, seeds, metrics, finished, restarting, failures, state, config)


@torch.no_grad()
def _lead_unevenly(
    state: State, config: ModelConfig, recipe: Recipe, source: Source, batch: Batch
) -> list[bool]:
    """Whether each seed's training answers lead too unevenly (`Recipe.restart_above`)."""
    found: list[bool] = []
    for row in range(len(batch.tokens)):
        params = unflatten(state.averaged[row : row + 1], config)
        parted = []
        parts = (torch.split(part[row : row + 1], source.n_train, dim=1) for part in batch)
        for tokens, answers in zip(*parts, strict=True):
            logits = _answer_logits(params, config, source.task, tokens)
            parted.append(sureness(logits, answers).flatten())
        leads = torch.cat(parted)
        spread, mean = float(leads.std(correction=0)), float(leads.mean())
        found.append(spread >= recipe.restart_above * mean)
    return found


@torch.no_grad()
def _measure(
    state: State, config: ModelConfig, source: Source, batch: Batch, size: int
) -> tuple[list[float], list[float]]:
    """Mean loss per answer token, and share of inputs answered exactly, for each seed."""
    loss = torch.zeros(len(batch.tokens), dtype=torch.float64, device=batch.tokens.device)
    right = torch.zeros_like(loss)
    for start in range(0, len(batch.tokens), size):
        rows = slice(start, start + size)
        # As many inputs at once as a training step has, which is what `size` allows for.
        parts = (torch.split(part[rows], source.n_train, dim=1) for part in batch)
        for tokens, answers in zip(*parts, strict=True):
            logits = _answer_logits(
                unflatten(state.averaged[rows], config), config, source.task, tokens
            )
            loss[rows] += exact_loss(logits, answers).double().sum((1, 2))
            right[rows] += (logits.argmax(-1) == answers).all(-1).sum(1)
    _, n_inputs, n_answers = batch.answers.shape
    return (loss / (n_inputs * n_answers)).tolist(), (right / n_inputs).tolist()

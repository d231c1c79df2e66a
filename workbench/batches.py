"""Where training inputs come from: seed and step decide every batch, and nothing else."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.recipe import Recipe
from workbench.task import Inputs, Task, randomise_labels


class Batch(NamedTuple):
    """Tokens and answers for every seed."""

    tokens: Int[Tensor, "seed batch pos"]
    answers: Int[Tensor, "seed batch answer"]


class Source:
    """Where batches come from: seed and step decide them, and nothing else."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        seeds: tuple[int, ...],
        device: torch.device,
        inputs: Inputs | None,
    ) -> None:
        self.task, self.recipe, self.seeds, self.device = task, recipe, seeds, device
        self.sampled = inputs is None and not task.enumerable
        self._train: Batch | None = None
        self._held_out: Batch | None = None
        if self.sampled:
            fresh = [self._fresh(seed, -1, recipe.evaluate_on) for seed in seeds]
            self._held_out = self._encode(fresh, random_labels=0.0)
            return
        if inputs is not None:
            self._train = self._encode([inputs] * len(seeds))
            return
        splits = [task.split(seed, recipe.train_fraction) for seed in seeds]
        self._train = self._encode([_known(split.train) for split in splits])
        held_out = [_known(split.held_out) for split in splits]
        self._held_out = self._encode(held_out, random_labels=0.0)

    @property
    def n_train(self) -> int:
        """Inputs in one step's batch."""
        if self._train is None:
            assert self.recipe.batch_size is not None
            return self.recipe.batch_size
        n = self._train.tokens.shape[1]
        return min(n, self.recipe.batch_size or n)

    def batch(self, rows: list[int], step: int) -> Batch:
        """What the seeds in these rows train on at this step."""
        if self._train is None:
            n = self.n_train
            return self._encode([self._fresh(self.seeds[row], step, n) for row in rows], rows)
        if self.n_train == self._train.tokens.shape[1]:
            return self._train if len(rows) == len(self.seeds) else self._rows(self._train, rows)
        chosen = torch.stack(
            [
                torch.randperm(
                    self._train.tokens.shape[1], generator=generator_for(self.seeds[row], step)
                )[: self.n_train]
                for row in rows
            ]
        ).to(self.device)
        picked = self._rows(self._train, rows)
        index = torch.arange(len(rows), device=self.device)[:, None]
        return Batch(picked.tokens[index, chosen], picked.answers[index, chosen])

    def training(self, rows: list[int], step: int) -> Batch:
        """What training loss and accuracy are measured on."""
        if self._train is None:
            return self.batch(rows, step)
        return self._rows(self._train, rows)

    def held_out(self, rows: list[int]) -> Batch | None:
        """Held-out inputs with their true answers, or None where there are none."""
        return None if self._held_out is None else self._rows(self._held_out, rows)

    def _rows(self, batch: Batch, rows: list[int]) -> Batch:
        return Batch(batch.tokens[rows], batch.answers[rows])

    def _fresh(self, seed: int, step: int, n: int) -> Inputs:
        """Sampled inputs on the training side of the seed's hash (step -1: the held-out side)."""
        recipe, generator = self.recipe, generator_for(seed, step)
        enriched = round(n * recipe.enriched_share) if step >= 0 and recipe.enriched else 0
        parts = [(n - enriched, "uniform"), (enriched, recipe.enriched or "uniform")]
        drawn = [self._draw(k, name, seed, step < 0, generator) for k, name in parts if k]
        return torch.cat(drawn)

    def _draw(
        self, n: int, distribution: str, seed: int, held_out: bool, generator: torch.Generator
    ) -> Inputs:
        found: list[Tensor] = []
        while sum(map(len, found)) < n:
            drawn = self.task.sample(2 * n + 16, generator, distribution=distribution)
            mask = self.task.held_out_mask(
                drawn, seed=seed, train_fraction=self.recipe.train_fraction
            )
            found.append(drawn[mask == held_out])
        return torch.cat(found)[:n]

    def _encode(
        self,
        inputs: list[Inputs],
        rows: list[int] | None = None,
        *,
        random_labels: float | None = None,
    ) -> Batch:
        """Tokens and labels; where an answer has several tokens, its label's are fed back."""
        seeds = self.seeds if rows is None else [self.seeds[row] for row in rows]
        fraction = self.recipe.random_labels if random_labels is None else random_labels
        answers = torch.stack(
            [
                randomise_labels(self.task, x, fraction=fraction, seed=seed)
                for x, seed in zip(inputs, seeds, strict=True)
            ]
        )
        tokens = torch.stack([self.task.encode(x) for x in inputs])
        tokens[..., list(self.task.answer_positions[1:])] = answers[..., :-1]
        return Batch(tokens.to(self.device), answers.to(self.device))


def generator_for(seed: int, step: int) -> torch.Generator:
    """A generator for one seed at one step."""
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)


def _known(inputs: Inputs | None) -> Inputs:
    assert inputs is not None
    return inputs

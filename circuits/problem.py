"""What a circuit is sought for: a network, pairs of inputs, a metric, and what patching means.

*Noising* runs the clean input and patches in what breaks it; *denoising* runs the corrupted input
and patches in the clean activation. What is patched in is decided by the ablation: `resample` takes
the other input of the pair, `mean` and `mean_positional` take means over reference inputs, `zero`
takes zero. An *effect* is always m(patched) - m(run that is patched), per input.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.graph import Graph
from workbench.errors import CircuitError
from workbench.memory import needs_memory
from workbench.metrics import Metric, make_metric
from workbench.model_config import ModelConfig
from workbench.pairs import Pairs
from workbench.params import Params
from workbench.subject import Subject
from workbench.transformer import forward
from workbench.writers import residual_writers

Ablation = Literal["resample", "zero", "mean", "mean_positional"]
ABLATIONS: tuple[Ablation, ...] = ("resample", "zero", "mean", "mean_positional")
Direction = Literal["noising", "denoising"]

GROWS: Mapping[str, int] = {
    "logit_difference": 1,
    "log_probability": 1,
    "accuracy": 1,
    "kl_divergence": -1,
}
"""By name: 1 for a metric that grows as the network gets better at the clean answer, -1 for one
that shrinks. Of other metrics nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the network should answer, to tell whether it does its task at all."""

    clean: Int[Tensor, "batch answer"]
    corrupted: Int[Tensor, "batch answer"]
    scored: Bool[Tensor, "batch answer"]
    """Which answer tokens count."""

    def of(self, rows: Int[Tensor, " row"]) -> "Answers":
        """The answers of some pairs."""
        return Answers(
            clean=self.clean[rows], corrupted=self.corrupted[rows], scored=self.scored[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A network and inputs for which to find or test a circuit."""

    params: Params
    config: ModelConfig
    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    metric: Metric
    positions: tuple[int, ...]
    """Where the metric's logits are read."""
    graph: Graph
    ablation: Ablation = "resample"
    direction: Direction = "noising"
    reference: Int[Tensor, "reference pos"] | None = None
    """What means are taken over; the inputs that are patched in when None."""
    answers: Answers | None = None
    """None where nobody says what is right: whether the network does its task is then unknown."""

    def __post_init__(self) -> None:
        if self.answers is not None and len(self.answers.clean) != len(self.clean):
            raise CircuitError(
                f"{len(self.answers.clean)} answers for {len(self.clean)} pairs; give the answers "
                "of these pairs, or answers=None"
            )

    @property
    def base(self) -> Int[Tensor, "batch pos"]:
        """The inputs that are run and patched."""
        return self.clean if self.direction == "noising" else self.corrupted

    @property
    def other(self) -> Int[Tensor, "batch pos"]:
        """The inputs whose activations are patched in."""
        return self.corrupted if self.direction == "noising" else self.clean

    @functools.cached_property
    def patch(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer writes where it is patched."""
        with torch.no_grad(), needs_memory(f"what writers write on {len(self.base)} pairs"):
            if self.ablation == "zero":
                return torch.zeros_like(writer_outputs(self.params, self.base, self.config))
            if self.ablation == "resample":
                return writer_outputs(self.params, self.other, self.config)
            tokens = self.other if self.reference is None else self.reference
            written = writer_outputs(self.params, tokens, self.config).mean(1, keepdim=True)
            if self.ablation == "mean":
                written = written.mean(2, keepdim=True)
            return written.expand(-1, *self.base.shape, -1)

    @functools.cached_property
    def base_metric(self) -> Float[Tensor, " batch"]:
        """The metric of the run that is patched."""
        return self.measure(self.base)

    @functools.cached_property
    def other_metric(self) -> Float[Tensor, " batch"]:
        """The metric of the inputs patched in."""
        return self.measure(self.other)

    @functools.cached_property
    def clean_right(self) -> Bool[Tensor, " batch"] | None:
        """Whether the clean run has the largest logit at every scored token of its answer."""
        answers = self.answers
        return None if answers is None else self._right(self.clean, answers.clean, answers.scored)

    @functools.cached_property
    def corrupted_right(self) -> Bool[Tensor, " batch"] | None:
        """The same of the corrupted run and its own answer."""
        answers = self.answers
        if answers is None:
            return None
        return self._right(self.corrupted, answers.corrupted, answers.scored)

    @property
    def expected_sign(self) -> int | None:
        """The sign of m(all edges) - m(no edge) where the network does its task.

        By the metric's name: under noising all edges are the clean run, under denoising the
        corrupted one. None for a metric that `GROWS` does not know.
        """
        grows = GROWS.get(self.metric.name)
        return grows if grows is None or self.direction == "noising" else -grows

    def measure(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
        """The metric of an unpatched run."""
        with needs_memory(f"a run of {len(tokens)} inputs"):
            return self.metric(self._logits(tokens))

    def of_pairs(self, rows: Int[Tensor, " row"]) -> "Problem":
        """The same problem of some of its pairs, each at most once. Means stay those of all."""
        rows, reference = rows.to(self.clean.device), self.reference
        if reference is None and self.ablation in ("mean", "mean_positional"):
            reference = self.other
        return replace(
            self,
            clean=self.clean[rows],
            corrupted=self.corrupted[rows],
            metric=_metric_of(self.metric, len(self.clean), rows),
            reference=reference,
            answers=None if self.answers is None else self.answers.of(rows),
        )

    def _right(self, tokens: Tensor, answer: Tensor, scored: Tensor) -> Tensor:
        found = self._logits(tokens).argmax(-1)
        return ((found == answer) | ~scored).all(-1)

    def _logits(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(self.params, tokens, self.config, positions=self.positions).logits


def make_problem(
    subject: Subject,
    pairs: Pairs,
    *,
    metric: str = "logit_difference",
    ablation: Ablation = "resample",
    direction: Direction = "noising",
    per_position: bool = False,
    reference: Int[Tensor, "reference pos"] | None = None,
    answers: Sequence[int] | None = None,
) -> Problem:
    """A problem from a task's pairs and a metric's name.

    Args:
        per_position: edges of their own at every position.
        answers: only these answer tokens count, by index (all in which the answers differ when
            None). Raises `CircuitError` for one that there is not, and where some pair then has
            nothing left to score.
    """
    device, config = subject.device, subject.config
    clean, corrupted = (x.to(device) for x in (pairs.clean_tokens, pairs.corrupted_tokens))
    right, wrong = (x.to(device) for x in (pairs.answer, pairs.wrong_answer))
    scored, positions = _scored(pairs, answers).to(device), tuple(subject.task.answer_positions)
    with torch.no_grad():
        clean_logits = forward(subject.params, clean, config, positions=positions).logits
    return Problem(
        params=subject.params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        metric=make_metric(
            metric, answer=right, wrong_answer=wrong, clean_logits=clean_logits, scored=scored
        ),
        positions=positions,
        graph=Graph(config, clean.shape[1] if per_position else None),
        ablation=ablation,
        direction=direction,
        reference=reference,
        answers=Answers(clean=right, corrupted=wrong, scored=scored),
    )


def writer_outputs(
    params: Params, tokens: Int[Tensor, "batch pos"], config: ModelConfig
) -> Float[Tensor, "writer batch pos d_model"]:
    """What every writer of the graph writes, in the graph's order."""
    names, written = residual_writers(params, tokens, config)
    return written[[i for i, name in enumerate(names) if not name.endswith(".bias")]]


def _scored(pairs: Pairs, answers: Sequence[int] | None) -> Bool[Tensor, "batch answer"]:
    """Which answer tokens count: those that differ, out of those asked for."""
    scored = pairs.scored
    if answers is None:
        return scored
    there = scored.shape[1]
    beyond = [index for index in answers if not 0 <= index < there]
    if beyond:
        raise CircuitError(
            f"answer token {beyond[0]} asked for; the answers of {pairs.task.label} have {there}, "
            f"counted from 0: choose from 0 to {there - 1}"
        )
    chosen = torch.zeros_like(scored)
    chosen[:, list(answers)] = True
    scored = scored & chosen
    if not bool(scored.any(1).all()):
        raise CircuitError(
            f"{int((~scored.any(1)).sum())} pairs have the same answer tokens {list(answers)}; "
            "choose others, or another corruption"
        )
    return scored


def _metric_of(metric: Metric, n: int, rows: Int[Tensor, " row"]) -> Metric:
    """A metric of `n` inputs as one of some of them.

    It knows the answers of all inputs and wants them all: those not in `rows` are given the logits
    of the first row, and what is measured there is dropped. Few cells are measured at a time, so
    that this takes no more memory than the logits do.
    """
    fill = torch.zeros(n, dtype=torch.long, device=rows.device)
    fill[rows] = torch.arange(len(rows), device=rows.device)

    def function(logits: Tensor) -> Tensor:
        cells = logits.flatten(0, -4) if logits.ndim > 3 else logits[None]
        parts = torch.split(cells, max(1, len(cells) * len(rows) // n))
        values = torch.cat([metric(part[:, fill])[:, rows] for part in parts])
        return values.reshape(logits.shape[:-2])

    return Metric(name=metric.name, function=function)

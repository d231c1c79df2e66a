"""What a circuit is sought for: a network, pairs of inputs, a metric, and what patching means.

*Noising* runs the clean input and patches in what breaks it; *denoising* runs the corrupted input
and patches in the clean activation. What is patched in is decided by the ablation: `resample` takes
the other input of the pair, `mean` and `mean_positional` take means over reference inputs, `zero`
takes zero. An *effect* is always m(patched) - m(run that is patched), per input.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cells import Subject
from circuits.graph import Graph
from workbench.errors import CircuitError
from workbench.metrics import Metric, make_metric
from workbench.pairs import Pairs
from workbench.params import ModelConfig, Params
from workbench.transformer import forward
from workbench.writers import residual_writers

Ablation = Literal["resample", "zero", "mean", "mean_positional"]
ABLATIONS: tuple[Ablation, ...] = ("resample", "zero", "mean", "mean_positional")
Direction = Literal["noising", "denoising"]


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
        with torch.no_grad():
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

    def measure(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
        """The metric of an unpatched run."""
        with torch.no_grad():
            out = forward(self.params, tokens, self.config, positions=self.positions)
        return self.metric(out.logits)


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
            None). Raises `CircuitError` where some pair then has nothing left to score.
    """
    device, config = subject.device, subject.config
    clean, corrupted = (x.to(device) for x in (pairs.clean_tokens, pairs.corrupted_tokens))
    positions = subject.task.answer_positions
    scored = pairs.scored
    if answers is not None:
        chosen = torch.zeros_like(scored)
        chosen[:, list(answers)] = True
        scored = scored & chosen
        if not bool(scored.any(1).all()):
            raise CircuitError(
                f"{int((~scored.any(1)).sum())} pairs have the same answer tokens {list(answers)}; "
                "choose others, or another corruption"
            )
    with torch.no_grad():
        clean_logits = forward(subject.params, clean, config, positions=positions).logits
    made = make_metric(
        metric,
        answer=pairs.answer.to(device),
        wrong_answer=pairs.wrong_answer.to(device),
        clean_logits=clean_logits,
        scored=scored.to(device),
    )
    return Problem(
        params=subject.params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        metric=made,
        positions=tuple(positions),
        graph=Graph(config, clean.shape[1] if per_position else None),
        ablation=ablation,
        direction=direction,
        reference=reference,
    )


def writer_outputs(
    params: Params, tokens: Int[Tensor, "batch pos"], config: ModelConfig
) -> Float[Tensor, "writer batch pos d_model"]:
    """What every writer of the graph writes, in the graph's order."""
    names, written = residual_writers(params, tokens, config)
    return written[[i for i, name in enumerate(names) if not name.endswith(".bias")]]

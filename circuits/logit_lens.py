"""The logit lens: what the network would answer if it stopped after each layer.

The residual stream after every layer and at every position is read as the last one is: through the
final LayerNorm, with its statistics taken anew at each place, and the unembedding (nostalgebraist
2020, "interpreting GPT: the logit lens"). At the last place this is the network's own answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.reading import check_answers, check_positions
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import forward, hook_names, unembed

LENS_HOOKS = ("hook_resid_mid", "hook_resid_post")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogitLens:
    """Logits of the residual stream at every place."""

    places: tuple[str, ...]
    """Hook names, in order: `blocks.0.hook_resid_pre`, then after every attention and MLP."""
    logits: Float[Tensor, "place batch pos d_vocab_out"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LensScores:
    """How well every place and position gives every answer token, per input.

    Every position is scored against every answer token: where an answer is already readable at a
    position that does not have to give it, this shows it. Average with
    `circuits.reading.average_share(scores.correct, dim=1)` or `average(..., dim=1)`.
    """

    places: tuple[str, ...]
    correct: Bool[Tensor, "place batch pos answer"]
    """Whether the answer token has the largest logit of all."""
    log_probability: Float[Tensor, "place batch pos answer"]
    """Of the answer token, in nats."""
    logit_difference: Float[Tensor, "place batch pos answer"] | None
    """Logit of the answer minus that of the wrong answer; None where none was given."""
    constant_accuracy: Float[Tensor, " answer"]
    """The control of `correct`: the best share of these inputs that one fixed token gets right."""


@torch.no_grad()
def logit_lens(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    *,
    positions: Sequence[int] | None = None,
) -> LogitLens:
    """Logits at every place and at `positions` (all when None).

    Raises `HookError` for a position outside the input.
    """
    places = ["blocks.0.hook_resid_pre"]
    places += [name for name in hook_names(config) if name.endswith(LENS_HOOKS)]
    read = forward(params, tokens, config, taps=places).activations
    stream = torch.stack([read[place] for place in places])
    if positions is not None:
        stream = stream[:, :, check_positions(positions, tokens.shape[1])]
    folded = rearrange(stream, "place batch pos d -> (place batch) pos d")
    logits = unembed(params, config, folded)
    logits = rearrange(logits, "(place batch) pos v -> place batch pos v", place=len(places))
    return LogitLens(places=tuple(places), logits=logits)


def score_lens(
    lens: LogitLens,
    answer: Int[Tensor, "batch answer"],
    wrong_answer: Int[Tensor, "wrong_batch wrong_answer"] | None = None,
) -> LensScores:
    """Score every place and position of a lens against every answer token.

    Raises `PairError` for answers of another shape, `TaskError` for a token out of range.
    """
    _, batch, _, d_vocab_out = lens.logits.shape
    check_answers(answer, batch, None, d_vocab_out)
    right = _pick(lens.logits, answer)
    difference = None
    if wrong_answer is not None:
        check_answers(wrong_answer, batch, answer.shape[1], d_vocab_out)
        difference = right - _pick(lens.logits, wrong_answer)
    top = lens.logits.argmax(-1)
    counts = torch.stack([column.bincount().max() for column in answer.T])
    return LensScores(
        places=lens.places,
        correct=top[..., None] == answer[:, None],
        log_probability=right - lens.logits.logsumexp(-1, keepdim=True),
        logit_difference=difference,
        constant_accuracy=counts.to(lens.logits.dtype) / batch,
    )


def _pick(
    logits: Float[Tensor, "place batch pos d_vocab_out"], answer: Int[Tensor, "batch answer"]
) -> Float[Tensor, "place batch pos answer"]:
    places, _, n_pos, _ = logits.shape
    spread = "batch answer -> place batch pos answer"
    return logits.gather(-1, repeat(answer, spread, place=places, pos=n_pos))

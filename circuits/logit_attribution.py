"""Direct logit attribution: what each writer adds to a logit, by its own output alone.

A logit is linear in the normed residual stream, and the residual stream is the sum of what writers
wrote, so that a logit is a sum over writers (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; Wang et al. 2022, arXiv:2211.00593, section 3).

LayerNorm is made linear by *freezing* its scale: with sigma the scale that the final LayerNorm
has in this very run, at this input and position, what a writer adds to the logit of token t is

    (x_writer - mean(x_writer)) / sigma * ln_final.w @ W_U[:, t]

with the mean over d_model, as TransformerLens does in `ActivationCache.logit_attrs`. What removing
the writer would do differs from this, as sigma would change: patch the writer's edge to the logits
for that.

What no input changes is listed too, so that the terms sum exactly to the logit: `a0.bias` (the
attention output bias b_O of layer 0), `ln_final.b` and `b_U`. The bias b_out is part of its MLP,
and the bias b_V is part of its head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.reading import (
    Average,
    average,
    check_answers,
    check_positions,
    find,
    layer_norm_scale,
)
from workbench.errors import PairError
from workbench.intervene import CPU_BUDGET, CUDA_BUDGET
from workbench.model_config import ModelConfig
from workbench.pairs import Pairs
from workbench.params import Params
from workbench.subject import Subject
from workbench.transformer import unembed
from workbench.writers import residual_writers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogitAttribution:
    """What every writer adds to logits (or logit differences), in logits."""

    writers: tuple[str, ...]
    """As `circuits.graph` names them, in the order in which they write; then constant terms."""
    values: Float[Tensor, "writer batch answer"]
    """Positive where the writer raises the answer (over the wrong answer)."""
    total: Float[Tensor, "batch answer"]
    """The network's own logits, or logit differences: the sum of `values` over writers."""

    def of(self, writer: str) -> Float[Tensor, "batch answer"]:
        """What one writer adds, by name."""
        return self.values[find("writer", writer, self.writers)]

    def average(
        self,
        scored: Bool[Tensor, "scored_batch scored_answer"] | None = None,
        *,
        exhaustive: bool = False,
    ) -> Average:
        """`[writer]`: the mean over inputs of each input's mean over its scored answer tokens.

        With `Pairs.scored` the writers' means sum to the mean of `metrics.logit_difference`.
        """
        if scored is None:
            per_input = self.values.mean(-1)
        else:
            if scored.shape != self.total.shape or not bool(scored.any(-1).all()):
                raise PairError(
                    f"scored {list(scored.shape)} must mark at least one answer token of each "
                    f"input, {list(self.total.shape)} [batch, answer]"
                )
            per_input = (self.values * scored).sum(-1) / scored.sum(-1)
        return average(per_input, dim=1, exhaustive=exhaustive)


@torch.no_grad()
def logit_attribution(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    *,
    positions: Sequence[int],
    answer: Int[Tensor, "answer_batch answer"],
    wrong_answer: Int[Tensor, "wrong_batch wrong_answer"] | None = None,
    budget: int | None = None,
) -> LogitAttribution:
    """What every writer adds to the logit of `answer[:, i]` at `positions[i]`, per input.

    Args:
        wrong_answer: where given, differences: the logit of the answer minus that of this.
        budget: bytes that what writers wrote may take at once; None for the device's default.

    Raises `HookError` for a position outside the input, `PairError` for answers of another shape,
    `TaskError` for a token that the network does not know.
    """
    where = check_positions(positions, tokens.shape[1])
    sides = [(answer, 1)] + ([] if wrong_answer is None else [(wrong_answer, -1)])
    for chosen, _ in sides:
        check_answers(chosen, len(tokens), len(where), config.d_vocab_out)
    W_U = params["unembed.W_U"]
    direction = torch.stack([sign * W_U.T[chosen] for chosen, sign in sides]).sum(0)
    parts, totals = [], []
    size = _inputs_per_chunk(config, tokens, budget)
    for start in range(0, len(tokens), size):
        rows = slice(start, start + size)
        names, written = residual_writers(params, tokens[rows], config)
        written = written[:, :, where]
        parts.append(_through_final_norm(params, config, written, direction[rows]))
        logits = unembed(params, config, written.sum(0))
        picked = [sign * logits.gather(-1, x[rows][..., None])[..., 0] for x, sign in sides]
        totals.append(torch.stack(picked).sum(0))
    constants = _constants(params, config, direction, sides)
    return LogitAttribution(
        writers=(*names, *constants),
        values=torch.cat([torch.cat(parts, 1), *(x[None] for x in constants.values())]),
        total=torch.cat(totals),
    )


def attribute_pairs(
    subject: Subject, pairs: Pairs, *, budget: int | None = None
) -> LogitAttribution:
    """What writers add, on the clean inputs, to the clean answer's logit minus the corrupted's."""
    tokens, answer, wrong = (
        x.to(subject.device) for x in (pairs.clean_tokens, pairs.answer, pairs.wrong_answer)
    )
    return logit_attribution(
        subject.params,
        tokens,
        subject.config,
        positions=subject.task.answer_positions,
        answer=answer,
        wrong_answer=wrong,
        budget=budget,
    )


def _through_final_norm(
    params: Params,
    config: ModelConfig,
    written: Float[Tensor, "writer batch answer d_model"],
    direction: Float[Tensor, "batch answer d_model"],
) -> Float[Tensor, "writer batch answer"]:
    """What each writer adds in the direction, with the LayerNorm's scale of the whole stream."""
    if config.normalization is not None:
        scale = layer_norm_scale(written.sum(0))
        written = written - reduce(
            written, "writer batch answer d -> writer batch answer 1", "mean"
        )
        direction = direction * params["ln_final.w"] / scale
    equation = "writer batch answer d, batch answer d -> writer batch answer"
    return einsum(written, direction, equation)


def _constants(
    params: Params,
    config: ModelConfig,
    direction: Float[Tensor, "batch answer d_model"],
    sides: list[tuple[Tensor, int]],
) -> dict[str, Float[Tensor, "batch answer"]]:
    """What the final biases add."""
    found = {}
    if config.normalization is not None:
        found["ln_final.b"] = direction @ params["ln_final.b"]
    bias = params.get("unembed.b_U")
    if bias is not None:
        found["b_U"] = torch.stack([sign * bias[chosen] for chosen, sign in sides]).sum(0)
    return found


def _inputs_per_chunk(config: ModelConfig, tokens: Tensor, budget: int | None) -> int:
    if budget is None:
        budget = CUDA_BUDGET if tokens.device.type == "cuda" else 4 * CPU_BUDGET
    writers = 2 + config.n_layers * (config.n_heads + 2)
    per_input = 8 * tokens.shape[1] * (2 * writers * config.d_model + 2 * config.d_mlp)
    return max(1, budget // per_input)

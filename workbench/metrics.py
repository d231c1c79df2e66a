"""What is measured of logits: one number per input, averaged only at the end.

A `Metric` takes logits `[*cell, batch, answer, d_vocab_out]` at the answer positions and returns
`[*cell, batch]`. Where an answer has several tokens, the mean over the scored ones is taken, except
for `accuracy`, which wants all of them right. All but `kl_divergence` grow as the network gets
better at the clean answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import MetricError
from workbench.registry import unknown

Logits = Float[Tensor, "*cell batch answer d_vocab_out"]
Tokens = Int[Tensor, "batch answer"]
Scored = Bool[Tensor, "batch answer"]
"""Which answer tokens count; at least one per input."""
PerInput = Float[Tensor, "*cell batch"]


def logit_difference(
    logits: Logits, answer: Tokens, wrong_answer: Tokens, scored: Scored
) -> PerInput:
    """Logit of the right answer minus that of the wrong one."""
    difference = _pick(logits, answer) - _pick(logits, wrong_answer)
    return _mean(difference, scored)


def log_probability(logits: Logits, answer: Tokens, scored: Scored) -> PerInput:
    """Log-probability of the right answer, in nats."""
    return _mean(_pick(logits, answer) - logits.logsumexp(-1), scored)


def kl_divergence(
    logits: Logits, clean_logits: Float[Tensor, "batch answer d_vocab_out"], scored: Scored
) -> PerInput:
    """KL(clean || patched) of the output distributions, in nats: 0 where nothing changed."""
    clean = clean_logits.log_softmax(-1)
    per_token = (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)
    return _mean(per_token, scored)


def accuracy(logits: Logits, answer: Tokens, scored: Scored) -> PerInput:
    """1 where every scored token of the answer has the largest logit, else 0."""
    right = logits.argmax(-1) == answer
    return (right | ~scored).all(-1).to(logits.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric with everything it needs but the logits."""

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, logits: Logits) -> PerInput:
        """One number per cell and input.

        Raises `MetricError` for what is no float tensor, a wrong shape, NaN or infinity.
        """
        value = self.function(logits)
        wanted = f"one number per input, a float tensor {list(logits.shape[:-2])}"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = f"{value.dtype} numbers" if isinstance(value, Tensor) else repr(value)[:80]
            raise MetricError(f"metric {self.name} returned {got}; it must give {wanted}")
        if value.shape != logits.shape[:-2]:
            raise MetricError(
                f"metric {self.name} returned shape {list(value.shape)} for logits "
                f"{list(logits.shape)}; it must give {wanted}"
            )
        if not bool(torch.isfinite(value).all()):
            got = "NaN" if bool(value.isnan().any()) else "infinity"
            raise MetricError(
                f"metric {self.name} returned {got} for logits "
                f"{'that are finite' if bool(logits.isfinite().all()) else 'that are not'}; look "
                "at the activations put in, or choose another metric"
            )
        return value


METRICS = ("logit_difference", "log_probability", "kl_divergence", "accuracy")


def make_metric(
    name: str,
    *,
    answer: Tokens,
    wrong_answer: Tokens,
    clean_logits: Float[Tensor, "batch answer d_vocab_out"],
    scored: Scored,
) -> Metric:
    """The metric called `name` for these inputs. Raises `UnknownName`."""
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "logit_difference": lambda x: logit_difference(x, answer, wrong_answer, scored),
        "log_probability": lambda x: log_probability(x, answer, scored),
        "kl_divergence": lambda x: kl_divergence(x, clean_logits, scored),
        "accuracy": lambda x: accuracy(x, answer, scored),
    }
    if name not in made:
        raise MetricError(unknown("metric", name, made))
    return Metric(name=name, function=made[name])


def _pick(logits: Logits, tokens: Tokens) -> Tensor:
    index = tokens[..., None].expand(*logits.shape[:-1], 1)
    return logits.gather(-1, index)[..., 0]


def _mean(per_token: Tensor, scored: Scored) -> Tensor:
    return (per_token * scored).sum(-1) / scored.sum(-1)

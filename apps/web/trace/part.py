"""What one part of a network reads and writes, on the pairs of a question. No drawing here.

Everything is computed once for all pairs, kept by content, and then summed up over all of them or
looked at in one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apps.web.cache import remembered
from apps.web.choice import Network, subject
from apps.web.trace.question import AskedQuestion, pairs_of
from circuits.attention_patterns import Attention, read_attention
from circuits.direct_writing import DirectLogits, direct_logits, neuron_attribution
from circuits.logit_attribution import LogitAttribution, attribute_pairs
from circuits.logit_lens import LensScores, logit_lens, score_lens
from circuits.reading import Average, average


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Written:
    """What every writer adds to the logit difference."""

    writers: tuple[str, ...]
    added: Average
    """`[writer]`, in nats."""
    total: float
    """The logit difference itself: the sum of `added` over writers, but for rounding."""

    def of(self, writer: str) -> float:
        """What one writer adds."""
        return float(self.added.mean[self.writers.index(writer)])

    def of_other_heads(self, writers: tuple[str, ...]) -> float | None:
        """The mean of the heads that are not among these; None where there are none."""
        others = [name for name in self.writers if ".h" in name and name not in writers]
        return sum(map(self.of, others)) / len(others) if others else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Promoted:
    """Answer tokens that a writer promotes at one answer position."""

    at: int
    """The position."""
    tokens: tuple[str, ...]
    added: tuple[float, ...]
    """By the writer, in logits above the mean token, the largest first."""
    by_others: tuple[float, ...]
    """By the other heads, in the mean: the control."""
    answer: str
    rank: int
    """Of the right answer, 1 for the token that is promoted most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named:
    """How often writers name the right answer by themselves."""

    writers: tuple[str, ...]
    share: Average
    """`[writer]`: of the right answer tokens."""


def answers_at(network: Network, position: int | None) -> tuple[int, ...]:
    """Which answer tokens are read at a position, by index: all of them when it is None."""
    read_at = network.task.answer_positions
    return tuple(i for i, at in enumerate(read_at) if position in (None, at))


def attention_of(
    network: Network, asked: AskedQuestion, head: str, pair: int | None, *, corrupted: bool
) -> Float[Tensor, "query key"]:
    """Where a head looks in one pair's input; the mean over pairs when None."""
    pattern = _attention(network, asked, corrupted).of(head)
    return pattern.mean(0) if pair is None else pattern[pair]


@remembered
def written(
    network: Network, asked: AskedQuestion, position: int | None, pair: int | None
) -> Written | None:
    """What every writer adds to the answer's logit over the wrong one's, on the clean inputs.

    At all answer positions, or at the one given; None where no differing answer token is read.
    """
    rows, answers = _rows(network, asked, position, pair)
    if not len(rows):
        return None
    whole = _attribution(network, asked)
    scored = pairs_of(network, asked).scored[rows][:, answers].to(whole.values.device)
    found = LogitAttribution(
        writers=whole.writers,
        values=whole.values[:, rows][:, :, answers],
        total=whole.total[rows][:, answers],
    )
    added = found.average(scored)
    total = float(((found.total * scored).sum(-1) / scored.sum(-1)).mean())
    return Written(writers=whole.writers, added=added, total=total)


@remembered
def promoted(
    network: Network,
    asked: AskedQuestion,
    writers: tuple[str, ...],
    position: int | None,
    pair: int,
    n: int = 8,
) -> Promoted | None:
    """The answer tokens that writers promote most on one clean input.

    At the first answer position where the answers differ; None where none is read there.
    """
    rows, answers = _rows(network, asked, position, pair)
    if not len(rows):
        return None
    scored = pairs_of(network, asked).scored[pair].tolist()
    which = next(i for i in answers if scored[i])
    values = _direct(network, asked)
    words = network.task.vocabulary
    at_answer = values.values[:, pair, which, : network.task.n_answer_tokens].cpu()
    added = torch.stack([at_answer[values.writers.index(name)] for name in writers]).sum(0)
    others = [i for i, name in enumerate(values.writers) if ".h" in name and name not in writers]
    control = at_answer[others].mean(0) if others else torch.full_like(added, torch.nan)
    order = added.sort(descending=True, stable=True).indices
    answer = int(pairs_of(network, asked).answer[pair, which])
    top = order[:n].tolist()
    return Promoted(
        at=network.task.answer_positions[which],
        tokens=tuple(words[i] for i in top),
        added=tuple(added[top].tolist()),
        by_others=tuple(control[top].tolist()),
        answer=words[answer],
        rank=order.tolist().index(answer) + 1,
    )


@remembered
def names_the_answer(network: Network, asked: AskedQuestion, position: int | None) -> Named | None:
    """By writer: the share of right answer tokens that it promotes most, all by itself."""
    rows, answers = _rows(network, asked, position, None)
    if not len(rows):
        return None
    pairs, direct = pairs_of(network, asked), _direct(network, asked)
    values = direct.values[:, rows][:, :, answers, : network.task.n_answer_tokens].cpu()
    scored = pairs.scored[rows][:, answers]
    right = (values.argmax(-1) == pairs.answer[rows][:, answers]) & scored
    shares = average(right.sum(-1) / scored.sum(-1), dim=1)
    return Named(writers=direct.writers, share=shares)


@remembered
def neurons(
    network: Network, asked: AskedQuestion, layer: int, position: int | None, pair: int | None
) -> Average | None:
    """`[neuron]`: what each neuron adds to the logit difference; None as in `written`."""
    rows, answers = _rows(network, asked, position, pair)
    if not len(rows):
        return None
    pairs = pairs_of(network, asked)
    added = neuron_attribution(subject(network), pairs, layer).cpu()[:, rows][:, :, answers]
    scored = pairs.scored[rows][:, answers]
    return average((added * scored).sum(-1) / scored.sum(-1), dim=1)


@remembered
def lens(network: Network, asked: AskedQuestion) -> LensScores:
    """How well each place and position of the clean runs gives each answer token."""
    on, pairs = subject(network), pairs_of(network, asked)
    tokens, answer = pairs.clean_tokens.to(on.device), pairs.answer.to(on.device)
    return score_lens(logit_lens(on.params, tokens, on.config), answer)


def _rows(
    network: Network, asked: AskedQuestion, position: int | None, pair: int | None
) -> tuple[Int[Tensor, " row"], list[int]]:
    """The pairs with a differing answer token that is read at the position, and these tokens."""
    answers = list(answers_at(network, position))
    there = pairs_of(network, asked).scored[:, answers].any(-1)
    if pair is not None:
        only = torch.zeros_like(there)
        only[pair] = True
        there &= only
    return there.nonzero()[:, 0], answers


@remembered
def _attention(network: Network, asked: AskedQuestion, corrupted: bool) -> Attention:
    on, pairs = subject(network), pairs_of(network, asked)
    tokens = pairs.corrupted_tokens if corrupted else pairs.clean_tokens
    return read_attention(on.params, tokens.to(on.device), on.config)


@remembered
def _attribution(network: Network, asked: AskedQuestion) -> LogitAttribution:
    return attribute_pairs(subject(network), pairs_of(network, asked))


@remembered
def _direct(network: Network, asked: AskedQuestion) -> DirectLogits:
    on = subject(network)
    tokens = pairs_of(network, asked).clean_tokens.to(on.device)
    where = network.task.answer_positions
    return direct_logits(on.params, tokens, on.config, positions=where)

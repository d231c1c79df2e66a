"""Where heads look: attention scores and patterns of every head, and what sums them up.

Every layer's heads stand along one axis, in the order of `circuits.reading.head_names`. Scores are
divided by sqrt(d_head); keys hidden by the causal mask score minus infinity. A pattern of a network
with attention_rate a below 1 does not sum to 1 (a * softmax + (1 - a) on every visible key): its
entropy is that of the pattern divided by its sum.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from circuits.reading import Average, average, find, head_names
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import forward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attention:
    """Scores and patterns of every head on every input."""

    heads: tuple[str, ...]
    scores: Float[Tensor, "head batch query key"]
    pattern: Float[Tensor, "head batch query key"]

    @property
    def entropy(self) -> Float[Tensor, "head batch query"]:
        """Of every query's pattern, in nats: 0 for one key, `uniform_entropy` for all alike."""
        share = self.pattern / self.pattern.sum(-1, keepdim=True)
        entropy: Tensor = torch.special.entr(share).sum(-1)
        return entropy

    @property
    def uniform_entropy(self) -> Float[Tensor, " query"]:
        """The control of `entropy`: that of equal attention to all visible keys, in nats."""
        visible = (self.scores[0, 0] > -torch.inf).sum(-1)
        return visible.to(self.scores.dtype).log()

    def of(self, head: str) -> Float[Tensor, "batch query key"]:
        """The pattern of one head, by name."""
        return self.pattern[find("head", head, self.heads)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionSummary:
    """What every head looks at, on average over inputs."""

    heads: tuple[str, ...]
    weight: Average
    """`[head, query, key]`: the pattern."""
    entropy: Average
    """`[head, query]`: the pattern's entropy, in nats."""
    uniform_entropy: Float[Tensor, " query"]
    """What the entropy would be where all visible keys count alike."""
    variation: Float[Tensor, "head query"]
    """Mean over inputs of half the summed distance of the pattern (divided by its sum) from the
    mean one: 0 for a head that looks at the same positions whatever the input, at most 1."""


@torch.no_grad()
def read_attention(
    params: Params, tokens: Int[Tensor, "batch pos"], config: ModelConfig
) -> Attention:
    """Scores and patterns of every head on every input, from one forward pass."""
    blocks = [f"blocks.{layer}.attn.hook" for layer in range(config.n_layers)]
    taps = [f"{block}_{part}" for part in ("attn_scores", "pattern") for block in blocks]
    read = forward(params, tokens, config, taps=taps).activations
    both = torch.stack([read[tap] for tap in taps])
    scores, pattern = rearrange(
        both, "(part layer) b head q k -> part (layer head) b q k", part=2
    ).unbind(0)
    return Attention(heads=head_names(config), scores=scores, pattern=pattern)


def summarise_attention(attention: Attention, *, exhaustive: bool = False) -> AttentionSummary:
    """Averages over inputs, with n and intervals (none where the inputs are all there are)."""
    share = attention.pattern / attention.pattern.sum(-1, keepdim=True)
    distance = (share - share.mean(1, keepdim=True)).abs().sum(-1) / 2
    return AttentionSummary(
        heads=attention.heads,
        weight=average(attention.pattern, dim=1, exhaustive=exhaustive),
        entropy=average(attention.entropy, dim=1, exhaustive=exhaustive),
        uniform_entropy=attention.uniform_entropy,
        variation=reduce(distance, "head batch query -> head query", "mean"),
    )

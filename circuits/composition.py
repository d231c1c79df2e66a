"""Composition: how much of what a head writes can be read by a later head, from weights alone.

With rows times matrices, W_OV = W_V W_O of the writer and W_QK = W_Q W_K^T of the reader,

    Q  ||W_OV W_QK||   / (||W_OV|| ||W_QK||)       what the reader's queries read
    K  ||W_OV W_QK^T|| / (||W_OV|| ||W_QK||)       what its keys read
    V  ||W_OV W_OV'||  / (||W_OV|| ||W_OV'||)      what its values read

in Frobenius norms (Elhage et al. 2021, section "Two-layer attention-only transformers"; their
matrices act on columns, so that theirs are transposed). Scores lie between 0 and 1. Random matrices
score well above 0 too, the more so the smaller d_model: scores stand beside heads of the same shape
with Gaussian weights, whose Q, K and V scores share one distribution.

With LayerNorm, matrices are those of `circuits.head_matrices.head_matrices`; its scale cancels, and
as all matrices are centred the random ones have one dimension less.
"""

import re
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.head_matrices import head_matrices
from circuits.reading import Baseline, find, head_names
from workbench.errors import CircuitError
from workbench.model_config import ModelConfig
from workbench.params import Params

LETTERS = ("q", "k", "v")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompositionScores:
    """Composition of every pair of heads."""

    heads: tuple[str, ...]
    scores: Float[Tensor, "letter writer reader"]
    """For q, k and v. Zero where the writer is not in an earlier layer; NaN where a matrix is 0."""
    is_pair: Bool[Tensor, "writer reader"]
    """Where the writer is in an earlier layer than the reader."""
    baseline: Baseline

    def of(self, edge: str) -> float:
        """The score of an edge such as `a0.h1->a1.h0<q>`."""
        match = re.fullmatch(r"(\S+)->(\S+)<(.)>", edge)
        if match is None:
            raise CircuitError(f"edge {edge!r}: write it as a0.h1->a1.h0<q>")
        writer, head, letter = match.groups()
        at = (find("head", name, self.heads) for name in (writer, head))
        return float(self.scores[find("letter", letter, LETTERS), *at])

    @property
    def percentile(self) -> Float[Tensor, "letter writer reader"]:
        """The share of random heads that compose less; NaN where there is no pair."""
        return self.baseline.percentile(self.scores.masked_fill(~self.is_pair, torch.nan))


@torch.no_grad()
def composition_scores(
    params: Params, config: ModelConfig, generator: torch.Generator, *, n_draws: int = 200
) -> CompositionScores:
    """Composition of every head with every later one, beside `n_draws` pairs of random heads."""
    heads = head_matrices(params, config)
    qk, ov = (heads.W_Q, heads.W_K.mT), (heads.W_V, heads.W_O)
    readers = (qk, (heads.W_K, heads.W_Q.mT), ov)
    scores = torch.stack([_compose(*ov, *reader) for reader in readers])
    layer = torch.arange(config.n_layers).repeat_interleave(config.n_heads)
    is_pair = (layer[:, None] < layer).to(scores.device)
    dimension = config.d_model - (config.normalization is not None)
    draws = random_composition(dimension, config.d_head, generator, n_draws=n_draws)
    return CompositionScores(
        heads=head_names(config),
        scores=scores.masked_fill(~is_pair, 0),
        is_pair=is_pair,
        baseline=Baseline(
            what=f"pairs of Gaussian heads, {n_draws}, in {dimension} dimensions",
            draws=draws.to(scores),
        ),
    )


def random_composition(
    d_model: int, d_head: int, generator: torch.Generator, *, n_draws: int
) -> Float[Tensor, " draw"]:
    """Composition scores of pairs of heads with Gaussian weights, each pair drawn anew."""
    shape = (4, n_draws, 1, d_model, d_head)
    left, out, read, right = torch.randn(shape, generator=generator, dtype=torch.float64)
    composed: Tensor = torch.vmap(_compose)(left, out.mT, read, right.mT)[:, 0, 0]
    return composed


def _compose(
    A: Float[Tensor, "writer d_model d_head"],
    B: Float[Tensor, "writer d_head d_model"],
    C: Float[Tensor, "reader d_model d_head"],
    D: Float[Tensor, "reader d_head d_model"],
) -> Float[Tensor, "writer reader"]:
    """||A B C D|| / (||A B|| ||C D||) for every pair, without a matrix of d_model squared.

    With A = Q R, Q orthonormal, ||A M|| = ||R M||; likewise for the transpose of D.
    """
    writer = torch.linalg.qr(A).R @ B
    reader = C @ torch.linalg.qr(D.mT).R.mT
    product = einsum(writer, reader, "writer a d, reader d b -> writer reader a b")
    norms = [rearrange(x, "head a b -> head (a b)").norm(dim=-1) for x in (writer, reader)]
    composed: Tensor = product.flatten(-2).norm(dim=-1) / (norms[0][:, None] * norms[1])
    return composed

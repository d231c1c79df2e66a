"""What networks built by hand are made with: empty weights, heads that look and copy, the truth."""

import math

import torch
from torch import Tensor

from tests.ground_truth.scoring import GroundTruth, Truth
from workbench.metrics import Metric, make_metric
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, check_params
from workbench.transformer import forward

HARD = 60.0
"""A score so far above the rest that attention is on one position but for exp(-60)."""
SOFT = 6.0
"""A score that leaves some per cent of attention elsewhere, so that gradients are alive."""


def zeros(config: ModelConfig) -> Params:
    return {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }


def look_by_position(
    params: Params,
    config: ModelConfig,
    layer: int,
    looks: tuple[dict[int, int], ...],
    *,
    first: int,
    score: float = HARD,
) -> None:
    """One direction per position from `first` on, and heads that look from position to position."""
    for pos in range(config.n_ctx):
        params["pos_embed.W_pos"][pos, first + pos] = 1
    for head, look in enumerate(looks):
        for pos in range(config.n_ctx):
            if pos < config.d_head:
                params[f"blocks.{layer}.attn.W_K"][head, first + pos, pos] = 1
        for query, key in look.items():
            sharp = score * math.sqrt(config.d_head)
            params[f"blocks.{layer}.attn.W_Q"][head, first + query, key] = sharp


def copy_directions(
    params: Params, layer: int, head: int, read: int, write: int, width: int
) -> None:
    """A head that copies `width` directions from `read` on to those from `write` on."""
    identity = torch.eye(width, dtype=torch.float64)
    params[f"blocks.{layer}.attn.W_V"][head, read : read + width, :width] = identity
    params[f"blocks.{layer}.attn.W_O"][head, :width, write : write + width] = identity


def make_ground_truth(
    name: str,
    network: tuple[Params, ModelConfig],
    pairs: tuple[Tensor, Tensor],
    positions: tuple[int, ...],
    edges: tuple[frozenset[str], frozenset[str]],
    *,
    answers: tuple[Tensor, Tensor] | None = None,
    metric: Metric | None = None,
    note: str = "",
) -> GroundTruth:
    """With the logit difference where answers are given; `edges` under resample, then zero."""
    params, config = network
    check_params(params, config)
    clean, corrupted = pairs
    if answers is not None:
        differ = (answers[0] != answers[1]).any(1)
        clean, corrupted = clean[differ], corrupted[differ]
        answer, wrong_answer = answers[0][differ], answers[1][differ]
        metric = make_metric(
            "logit_difference",
            answer=answer,
            wrong_answer=wrong_answer,
            clean_logits=forward(params, clean, config, positions=positions).logits,
            scored=answer != wrong_answer,
        )
    assert metric is not None
    resample, zero = (Truth(edges=e, unique=not note, note=note) for e in edges)
    return GroundTruth(
        name=name,
        params=params,
        config=config,
        clean=clean,
        corrupted=corrupted,
        positions=positions,
        metrics={"resample": metric, "zero": metric},
        truths={"resample": resample, "zero": zero},
    )

"""Networks whose subspaces are looked for: what the tests of alignment and steering share.

The network added on circles by hand (tests.hand_built) holds operand a at its answer position in
two known dimensions of the residual stream, so the right subspace is known there.
"""

import torch

from probes.sites import ProbeSite
from tests.hand_built import circle_adder
from tests.reference.networks import random_params
from workbench.model_config import ModelConfig
from workbench.task import make_task

CIRCLES = make_task(
    "modular_addition", {"p": 13, "equals_token": False, "separate_vocabularies": True}
)
SUBJECT = circle_adder(CIRCLES, [1], [20.0])
MID = ProbeSite(hook="blocks.0.hook_resid_mid", position=1)


ADDITION = make_task("modular_addition", {"p": 5})
SMOOTH = ModelConfig(
    n_layers=2,
    n_heads=2,
    d_model=6,
    d_head=6,
    d_mlp=6,
    d_vocab=6,
    d_vocab_out=5,
    n_ctx=3,
    act_fn="gelu",
    normalization="LN",
    attn_biases=True,
)
"""Every hook holds six numbers, and the loss has no kinks."""
WEIGHTS = random_params(SMOOTH, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

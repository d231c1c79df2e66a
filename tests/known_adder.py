"""A run whose last network is worked out on paper to hold `answer` in 23 dimensions of its own.

One layer, one head, p = 23, no training. The operand is embedded as a number; attention of rate 0
copies the sum s = a + b to the later positions; ReLU neurons make a hat at every s = 0 ... 24, and
the hats at c and c + 23 are added into one dimension, which the unembedding reads as answer c. At
the last position `answer` is then one of 23 axes after the MLP, and nowhere before. Random
dimensions beside them make an erasure of as many random directions harmless.

Step 0 of the run is a random network of the same shape.
"""

from pathlib import Path

import torch

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, init_params
from workbench.run import RunConfig
from workbench.run_writer import RunWriter
from workbench.task import Task, make_task

P = 23
KNOTS = 2 * P + 1
"""Thresholds -1 ... 25 of the neurons that make hats."""
COPIED, NOISE = 12, 32
"""Random dimensions that attention copies, and those that the MLP makes of them."""
OPERAND, ONE, SUM, ANSWER = 0, 1, 2, 3
RANDOM = slice(ANSWER + P, ANSWER + P + COPIED)
MODEL = ModelConfig(
    n_layers=1,
    n_heads=1,
    d_model=ANSWER + P + COPIED + NOISE,
    d_head=1 + COPIED,
    d_mlp=KNOTS + NOISE,
    d_vocab=P + 1,
    d_vocab_out=P + 1,
    n_ctx=3,
    attention_rate=0.0,
)
LAST = 20
"""The step of the network worked out on paper."""


def adder_task() -> Task:
    return make_task("modular_addition", {"p": P})


def adder_params(seed: int) -> Params:
    """The network; `seed` decides its random dimensions."""
    generator = torch.Generator().manual_seed(seed)
    params = {name: torch.zeros(shape) for name, shape in param_shapes(MODEL).items()}
    params["embed.W_E"][:P, OPERAND] = torch.arange(P).float()
    params["embed.W_E"][:P, RANDOM] = torch.randn(P, COPIED, generator=generator)
    params["pos_embed.W_pos"][:, ONE] = 1.0
    copied = torch.arange(RANDOM.start, RANDOM.stop)
    params["blocks.0.attn.W_V"][0, OPERAND, 0] = 1.0
    params["blocks.0.attn.W_O"][0, 0, SUM] = 1.0
    params["blocks.0.attn.W_V"][0, copied, 1 + torch.arange(COPIED)] = 1.0
    params["blocks.0.attn.W_O"][0, 1 + torch.arange(COPIED), copied] = 1.0
    params["blocks.0.mlp.W_in"][SUM, :KNOTS] = 1.0
    params["blocks.0.mlp.b_in"][:KNOTS] = 1.0 - torch.arange(KNOTS)
    for total in range(2 * P - 1):  # a hat: slopes 1, -1 and 0 after total - 1, total, total + 1
        rows, slopes = slice(total, total + 3), torch.tensor([1.0, -2.0, 1.0])
        params["blocks.0.mlp.W_out"][rows, ANSWER + total % P] += slopes
    shape = (COPIED, NOISE)
    params["blocks.0.mlp.W_in"][RANDOM, KNOTS:] = torch.randn(shape, generator=generator)
    params["blocks.0.mlp.W_out"][KNOTS:, RANDOM.stop :] = torch.eye(NOISE)
    params["unembed.W_U"][ANSWER : ANSWER + P, :P] = 10 * torch.eye(P)
    return params


def write_run(path: Path, *, seed: int = 0, complete: bool = True) -> Path:
    """A run with a random network at step 0 and the one worked out on paper at step 20."""
    config = RunConfig(task=adder_task().to_dict(), model=MODEL, seed=seed, train_fraction=0.8)
    networks = {
        0: init_params(MODEL, torch.Generator().manual_seed(seed)),
        LAST: adder_params(seed),
    }
    with RunWriter.open(path, config) as writer:
        for step, params in networks.items():
            numbers = dict.fromkeys(("train_loss", "held_out_loss"), 0.1)
            shares = dict.fromkeys(("train_accuracy", "held_out_accuracy"), float(step > 0))
            writer.append_metrics([{"step": step, "seconds": 1.0, **numbers, **shares}])
            writer.save_checkpoint(step, params)
            writer.commit(complete=complete and step == LAST)
    return path

"""Networks and tasks of which it is known what is where: what the tests of probing share."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, init_params
from workbench.subject import Subject
from workbench.task import Inputs, Task, make_task, uniform_hash
from workbench.tasks.modular_addition import ModularAddition


def adder(p: int) -> Subject:
    """One-hot addition mod p, in float64, the residual stream of zeros and ones.

    The residual stream holds the token in dimensions 0 ... p - 1, a in p ... 2p - 1, b in
    2p ... 3p - 1, the answer in 3p ... 4p - 1, and the position in three more. Attention is hard:
    head 0 copies the token of position 0 to everywhere, head 1 that of position 1 (at position 0,
    which sees no other, that of position 0). At the last position alone, a neuron per pair fires
    for its pair and writes its sum. Of answers with one logit, the smallest is given.
    """
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=4 * p + 3,
        d_head=p,
        d_mlp=p * p,
        d_vocab=p + 1,
        d_vocab_out=p,
        n_ctx=3,
        unembed_bias=True,
    )
    params: Params = {
        name: torch.zeros(shape, dtype=torch.float64)
        for name, shape in param_shapes(config).items()
    }
    one = torch.eye(p).double()
    params["embed.W_E"][:p, :p] = one
    params["pos_embed.W_pos"][:, 4 * p :] = torch.eye(3)
    for head in range(2):
        # A score of 100 sqrt(p) / sqrt(p) for the position to copy: the others get e^-100.
        params["blocks.0.attn.W_Q"][head, 4 * p :, 0] = p**0.5
        params["blocks.0.attn.W_K"][head, 4 * p + head, 0] = 100
        params["blocks.0.attn.W_V"][head, :p] = one
        params["blocks.0.attn.W_O"][head, :, (1 + head) * p : (2 + head) * p] = one
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    neuron = torch.arange(p * p)
    params["blocks.0.mlp.W_in"][p + a, neuron] = 1
    params["blocks.0.mlp.W_in"][2 * p + b, neuron] = 1
    params["blocks.0.mlp.W_in"][4 * p + 2] = 2
    params["blocks.0.mlp.b_in"][:] = -3
    params["blocks.0.mlp.W_out"][neuron, 3 * p + (a + b) % p] = 1
    params["unembed.W_U"][3 * p : 4 * p] = one
    params["unembed.b_U"][:] = -1e-3 * torch.arange(p)
    return Subject(params=params, config=config, task=make_task("modular_addition", {"p": p}))


@dataclass(frozen=True, kw_only=True)
class Noise(ModularAddition):
    """Addition, with variables that follow from the operands by tables of random numbers."""

    salt: int = 0
    name: ClassVar[str] = "noise"

    def variables(self, inputs: Inputs) -> dict[str, Int[Tensor, " batch"]]:
        found = super().variables(inputs)
        for k in (2, 3, 5):
            found[f"noise_{k}"] = (uniform_hash(inputs, 100 * self.salt + k) * k).long()
        return found


def random_subject(
    task: Task, seed: int = 0, *, n_layers: int = 1, d_mlp: int = 12, scale: float = 1.0
) -> Subject:
    """A small untrained network for a task, in float32; the larger `scale`, the more its answers
    differ."""
    config = ModelConfig(
        n_layers=n_layers,
        n_heads=2,
        d_model=8,
        d_head=4,
        d_mlp=d_mlp,
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.n_answer_tokens,
        n_ctx=task.n_ctx,
    )
    params = init_params(config, torch.Generator().manual_seed(1000 + seed), scale=scale)
    return Subject(params=params, config=config, task=task)

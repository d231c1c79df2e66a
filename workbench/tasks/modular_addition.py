"""Modular addition: a + b mod p, the field's best understood algorithmic task.

Power et al. 2022 (arXiv:2201.02177); Nanda et al. 2023 (arXiv:2301.05217).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.task import CyclicStructure, Inputs, tasks
from workbench.tasks._modular import ModularTask


@tasks.register("modular_addition")
@dataclass(frozen=True, kw_only=True)
class ModularAddition(ModularTask):
    """`a + b mod p` over all residues."""

    name: ClassVar[str] = "modular_addition"
    summary: ClassVar[str] = "a + b mod p"
    symbol: ClassVar[str] = "+"

    def variables(self, inputs: Inputs) -> dict[str, Int[Tensor, " batch"]]:
        self._check(inputs)
        a, b = inputs[:, 0], inputs[:, 1]
        total = a + b
        return {
            "a": a,
            "b": b,
            "sum": total,
            "wraps": (total >= self.p).to(a.dtype),
            "answer": total % self.p,
        }

    def cyclic(self) -> CyclicStructure:
        residues = torch.arange(self.p)
        return CyclicStructure(self.p, residues, residues, +1)

    def _result(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) % self.p

    def _operand_b(self, a: Tensor, answer: Tensor) -> Tensor:
        return (answer - a) % self.p

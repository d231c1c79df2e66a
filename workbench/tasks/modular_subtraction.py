"""Modular subtraction: a - b mod p, addition's mirror image and not symmetric in a and b.

Power et al. 2022 (arXiv:2201.02177); taken apart in Furuta et al. 2024 (arXiv:2402.16726).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.task import CyclicStructure, Inputs, tasks
from workbench.tasks._modular import ModularTask


@tasks.register("modular_subtraction")
@dataclass(frozen=True, kw_only=True)
class ModularSubtraction(ModularTask):
    """`a - b mod p` over all residues."""

    name: ClassVar[str] = "modular_subtraction"
    summary: ClassVar[str] = "a - b mod p"
    symbol: ClassVar[str] = "-"

    def variables(self, inputs: Inputs) -> dict[str, Int[Tensor, " batch"]]:
        """`difference` is a - b before reduction (it may be negative); `borrows` is a < b."""
        self._check(inputs)
        a, b = inputs[:, 0], inputs[:, 1]
        difference = a - b
        return {
            "a": a,
            "b": b,
            "difference": difference,
            "borrows": (difference < 0).to(a.dtype),
            "answer": difference % self.p,
        }

    def cyclic(self) -> CyclicStructure:
        residues = torch.arange(self.p)
        return CyclicStructure(self.p, residues, residues, -1)

    def _result(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b) % self.p

    def _operand_b(self, a: Tensor, answer: Tensor) -> Tensor:
        return (a - answer) % self.p

"""Modular multiplication: a * b mod p over the non-zero residues, addition of discrete logarithms.

Gromov 2023 (arXiv:2301.02679); taken apart in Furuta et al. 2024 (arXiv:2402.16726) and, along
the logarithms, in Nguyen 2026 (arXiv:2606.17399).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from workbench.task import tasks
from workbench.tasks._multiplicative import MultiplicativeTask


@tasks.register("modular_multiplication")
@dataclass(frozen=True, kw_only=True)
class ModularMultiplication(MultiplicativeTask):
    """`a * b mod p` over the non-zero residues."""

    name: ClassVar[str] = "modular_multiplication"
    summary: ClassVar[str] = "a * b mod p, over the non-zero residues"
    symbol: ClassVar[str] = "*"
    b_sign: ClassVar[int] = +1

    def _intermediate(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"product": a * b}

    def _result(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b % self.p

    def _operand_b(self, a: Tensor, answer: Tensor) -> Tensor:
        return answer * self._inverse(a) % self.p

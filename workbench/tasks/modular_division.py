"""Modular division: a * b^-1 mod p over the non-zero residues, subtraction of discrete logarithms.

Power et al. 2022 (arXiv:2201.02177), who also allow a = 0; here a has a logarithm.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from workbench.task import tasks
from workbench.tasks._multiplicative import MultiplicativeTask


@tasks.register("modular_division")
@dataclass(frozen=True, kw_only=True)
class ModularDivision(MultiplicativeTask):
    """`a / b mod p`: the answer times b is a."""

    name: ClassVar[str] = "modular_division"
    summary: ClassVar[str] = "a / b mod p, over the non-zero residues"
    symbol: ClassVar[str] = "/"
    b_sign: ClassVar[int] = -1

    def _intermediate(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"inverse_b": self._inverse(b)}

    def _result(self, a: Tensor, b: Tensor) -> Tensor:
        return a * self._inverse(b) % self.p

    def _operand_b(self, a: Tensor, answer: Tensor) -> Tensor:
        return a * self._inverse(answer) % self.p

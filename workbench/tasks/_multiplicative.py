"""What modular multiplication and division share: the non-zero residues are one cyclic group.

With g the smallest primitive root of p, every non-zero residue is g^log mod p for exactly one
log in 0 ... p - 2 (its discrete logarithm). Multiplying residues adds their logs mod p - 1 and
dividing subtracts them. Zero has no log, so both operands run over 1 ... p - 1.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.task import CyclicStructure, Inputs, is_prime
from workbench.tasks._modular import ModularTask


@dataclass(frozen=True, kw_only=True)
class MultiplicativeTask(ModularTask):
    """`a symbol b mod p` over the non-zero residues."""

    smallest: ClassVar[int] = 1
    b_sign: ClassVar[int]
    """+1 where b's log is added to a's, -1 where it is subtracted."""

    @abstractmethod
    def _intermediate(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The variables that only this task has."""

    def variables(self, inputs: Inputs) -> dict[str, Int[Tensor, " batch"]]:
        """`log_a`, `log_b`, `log_answer` are discrete logarithms to the smallest primitive root."""
        self._check(inputs)
        a, b = inputs[:, 0], inputs[:, 1]
        answer = self._result(a, b)
        logs = self.cyclic().logs.to(inputs.device)
        return {
            "a": a,
            "b": b,
            "log_a": logs[a - 1],
            "log_b": logs[b - 1],
            **self._intermediate(a, b),
            "answer": answer,
            "log_answer": logs[answer - 1],
        }

    def cyclic(self) -> CyclicStructure:
        powers = _powers(primitive_root(self.p), self.p)
        return CyclicStructure(self.p - 1, torch.arange(1, self.p), powers.argsort(), self.b_sign)

    def _inverse(self, residue: Tensor) -> Tensor:
        """The residue's inverse: g^(-log)."""
        powers = _powers(primitive_root(self.p), self.p)
        inverses = powers[-powers.argsort() % (self.p - 1)]
        return inverses.to(residue)[residue - 1]


def primitive_root(p: int) -> int:
    """The smallest g whose powers are all the non-zero residues of the prime p.

    g generates them exactly when g^((p-1)/q) is not 1 for any prime q that divides p - 1.
    """
    factors = [q for q in range(2, p) if (p - 1) % q == 0 and is_prime(q)]
    return next(g for g in range(1, p) if all(pow(g, (p - 1) // q, p) != 1 for q in factors))


def _powers(g: int, p: int) -> Int[Tensor, " exponent"]:
    """g^0, g^1, ..., g^(p-2) mod p."""
    powers = [1]
    while len(powers) < p - 1:
        powers.append(powers[-1] * g % p)
    return torch.tensor(powers)

"""Characters of a cyclic group as orthonormal planes over its elements.

The plane of frequency k is spanned by cos(2 pi k x / n) and sin(2 pi k x / n), x the logarithm of
an element. Frequencies run over 1 ... n // 2; for even n the last has a cosine alone, so its
second row is zero. Planes are orthonormal, orthogonal to each other and to the constant.

Rows are over `task.cyclic().elements` in ascending order, so that a plane can be applied to an
embedding matrix or to logits as they stand.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from workbench.task import CyclicStructure

Planes = Float[Tensor, "frequency 2 element"]


def frequencies(order: int) -> Int[Tensor, " frequency"]:
    """All frequencies of a cyclic group: 1 ... order // 2."""
    return torch.arange(1, order // 2 + 1)


def fourier_planes(cyclic: CyclicStructure) -> Planes:
    """One orthonormal plane per frequency, over the group's elements (float64)."""
    angle = _angles(cyclic.order, cyclic.logs)
    return _unit_rows(torch.stack([angle.cos(), angle.sin()], dim=1))


def wrong_structure(cyclic: CyclicStructure) -> CyclicStructure:
    """The other structure on the same residues: a control that should explain nothing.

    For a task that adds residues this is the multiplicative group (residue 0 left out); for one
    that multiplies them, addition modulo p.
    """
    residues = cyclic.elements
    if int(residues[0]) == 0:
        logs = discrete_logs(cyclic.order)
        return CyclicStructure(cyclic.order - 1, residues[1:], logs, cyclic.b_sign)
    return CyclicStructure(cyclic.order + 1, residues, residues, cyclic.b_sign)


def wrong_planes(cyclic: CyclicStructure) -> Planes:
    """Planes of `wrong_structure`, over the elements of the right one (zero outside).

    Rows have unit norm and no mean; planes are not orthogonal to each other.
    """
    wrong = wrong_structure(cyclic)
    angle = _angles(wrong.order, wrong.logs)
    planes = torch.zeros(len(angle), 2, len(cyclic.elements), dtype=torch.float64)
    inside = torch.isin(cyclic.elements, wrong.elements)
    planes[:, :, inside] = torch.stack([angle.cos(), angle.sin()], dim=1)
    return _unit_rows(planes - planes.mean(-1, keepdim=True))


def discrete_logs(p: int) -> Int[Tensor, " residue"]:
    """Logarithms of the residues 1 ... p - 1 to the smallest primitive root modulo a prime p."""
    for root in range(2, p):
        powers = [1]
        while (following := powers[-1] * root % p) != 1:
            powers.append(following)
        if len(powers) == p - 1:
            logs = torch.empty(p - 1, dtype=torch.long)
            logs[torch.tensor(powers) - 1] = torch.arange(p - 1)
            return logs
    raise AssertionError(f"{p} has no primitive root; it is not a prime")


def plane_energy(planes: Planes, values: Float[Tensor, "element d"]) -> Float[Tensor, " frequency"]:
    """Squared norm of `values` (columns over elements) inside each plane."""
    return einsum(planes, values, "f row x, x d -> f row d").square().sum((1, 2))


def projector(planes: Float[Tensor, "chosen 2 element"]) -> Float[Tensor, "element element"]:
    """Orthogonal projector onto the span of some planes."""
    rows = rearrange(planes, "f row x -> x (f row)")
    keep = rows.square().sum(0) > 1e-12
    q: Tensor = torch.linalg.qr(rows[:, keep]).Q
    return q @ q.T


def random_projector(
    n_elements: int, rank: int, generator: torch.Generator
) -> Float[Tensor, "element element"]:
    """Projector onto a uniformly random subspace of given rank, orthogonal to the constant."""
    basis = torch.randn(n_elements, rank, generator=generator, dtype=torch.float64)
    q: Tensor = torch.linalg.qr(basis - basis.mean(0)).Q
    return q @ q.T


def sum_profile(
    cyclic: CyclicStructure,
    logs_a: Int[Tensor, " batch"],
    logs_b: Int[Tensor, " batch"],
    logits: Float[Tensor, "batch element"],
) -> tuple[Float[Tensor, " order"], float]:
    """Mean centred logit as a function of d = log a + sign * log b - log c, and total variance.

    Logits are centred over c for each input and over inputs for each c. The second value is their
    mean square, so that frequency shares of the profile are shares of all centred variance.
    """
    centred = logits.double()
    centred = centred - centred.mean(1, keepdim=True)
    centred = centred - centred.mean(0, keepdim=True)
    total = (logs_a + cyclic.b_sign * logs_b) % cyclic.order
    difference = (total[:, None] - cyclic.logs.to(total.device)[None]) % cyclic.order
    sums = torch.zeros(cyclic.order, dtype=torch.float64, device=logits.device)
    sums.index_add_(0, difference.flatten(), centred.flatten())
    counts = torch.bincount(difference.flatten(), minlength=cyclic.order).clamp_min(1)
    return sums / counts, float(centred.square().mean())


def profile_amplitudes(
    profile: Float[Tensor, " order"],
) -> tuple[Float[Tensor, " frequency"], Float[Tensor, " frequency"]]:
    """Coefficients (alpha_k, beta_k) of cos and sin(2 pi k d / n) in a profile over d."""
    n = len(profile)
    angle = _angles(n, torch.arange(n)).to(profile.device)
    scale = torch.full((len(angle),), 2.0 / n, dtype=torch.float64, device=profile.device)
    if n % 2 == 0:
        scale[-1] = 1.0 / n
    return scale * (angle.cos() @ profile), scale * (angle.sin() @ profile)


def amplitude_shares(
    alpha: Float[Tensor, " frequency"],
    beta: Float[Tensor, " frequency"],
    order: int,
    variance: float,
) -> Float[Tensor, " frequency"]:
    """Share of the centred logit variance that each frequency of (a + b - c) carries."""
    power = (alpha.square() + beta.square()) / 2
    if order % 2 == 0:
        power[-1] = alpha[-1].square()
    return power / variance if variance > 0 else torch.zeros_like(power)


def _angles(order: int, logs: Int[Tensor, " x"]) -> Float[Tensor, "frequency x"]:
    """2 pi k x / n, reduced modulo n first so that large products stay exact."""
    product = (frequencies(order)[:, None] * logs[None]) % order
    return product.double() * (2 * math.pi / order)


def _unit_rows(planes: Planes) -> Planes:
    """Rows scaled to norm 1; a row that vanishes stays zero."""
    norm = planes.square().sum(-1, keepdim=True).sqrt()
    return torch.where(norm > 1e-6, planes / norm.clamp_min(1e-12), torch.zeros_like(planes))

"""Characters: orthonormal planes, projectors and amplitudes, against sums done by hand."""

import math

import numpy as np
import pytest
import torch

from circuits.fourier import characters
from workbench.task import CyclicStructure, make_task


def structure_of(name: str, p: int) -> CyclicStructure:
    cyclic = make_task(name, {"p": p}).cyclic()
    assert cyclic is not None
    return cyclic


@pytest.mark.parametrize(("name", "p"), [("modular_addition", 7), ("modular_division", 13)])
def test_planes_are_an_orthonormal_basis_of_everything_but_the_constant(name: str, p: int) -> None:
    cyclic = structure_of(name, p)
    rows = characters.fourier_planes(cyclic).flatten(0, 1)
    rows = rows[rows.square().sum(1) > 0.5]
    n = cyclic.order
    assert rows.shape == (n - 1, n)
    torch.testing.assert_close(rows @ rows.T, torch.eye(n - 1).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(rows.sum(1), torch.zeros(n - 1).double(), atol=1e-12, rtol=0)


def test_the_last_plane_of_an_even_order_has_a_cosine_alone() -> None:
    planes = characters.fourier_planes(structure_of("modular_multiplication", 13))
    assert planes[-1, 1].abs().max() == 0
    torch.testing.assert_close(planes[-1, 0].abs(), torch.full((12,), 12**-0.5).double())


def test_multiplicative_planes_are_characters() -> None:
    # chi(xy) = chi(x) chi(y) for chi = cos + i sin, unnormalised by sqrt(n / 2).
    cyclic = structure_of("modular_multiplication", 11)
    plane = characters.fourier_planes(cyclic)[2] * math.sqrt(10 / 2)
    chi = torch.complex(plane[0], plane[1])
    for x in range(1, 11):
        for y in range(1, 11):
            assert abs(chi[x * y % 11 - 1] - chi[x - 1] * chi[y - 1]) < 1e-12


def test_discrete_logs_of_seven_by_hand() -> None:
    # Powers of 3 modulo 7: 1 3 2 6 4 5.
    assert characters.discrete_logs(7).tolist() == [0, 2, 1, 4, 5, 3]


def test_wrong_structure_swaps_sum_and_product() -> None:
    addition = structure_of("modular_addition", 11)
    wrong = characters.wrong_structure(addition)
    assert (wrong.order, wrong.elements.tolist()) == (10, list(range(1, 11)))
    assert wrong.logs.tolist() == characters.discrete_logs(11).tolist()
    back = characters.wrong_structure(structure_of("modular_multiplication", 11))
    assert (back.order, back.logs.tolist()) == (11, list(range(1, 11)))


def test_wrong_planes_are_no_plane_of_the_task() -> None:
    # Gauss sums: a multiplicative character has equal energy sqrt(p) in every additive one.
    cyclic = structure_of("modular_addition", 13)
    right, wrong = characters.fourier_planes(cyclic), characters.wrong_planes(cyclic)
    overlap = torch.einsum("frx,gsx->fgrs", right, wrong).square().sum((2, 3))
    assert overlap.max() < 0.5


def test_projectors_project() -> None:
    planes = characters.fourier_planes(structure_of("modular_addition", 11))
    for projector, rank in [
        (characters.projector(planes[[0, 3]]), 4),
        (
            characters.projector(characters.wrong_planes(structure_of("modular_addition", 11))[:2]),
            4,
        ),
        (characters.random_projector(11, 3, torch.Generator().manual_seed(0)), 3),
    ]:
        torch.testing.assert_close(projector @ projector, projector, atol=1e-12, rtol=0)
        torch.testing.assert_close(projector, projector.T, atol=1e-12, rtol=0)
        assert float(projector.trace()) == pytest.approx(rank)
        assert float(projector.sum(1).abs().max()) < 1e-12  # orthogonal to the constant


@pytest.mark.parametrize("name", ["modular_addition", "modular_subtraction", "modular_division"])
def test_amplitudes_of_a_formula_are_read_back(name: str) -> None:
    task = make_task(name, {"p": 13})
    cyclic = structure_of(name, 13)
    log_of = dict(zip(cyclic.elements.tolist(), cyclic.logs.tolist(), strict=True))
    inputs = task.domain()
    logits = np.zeros((len(inputs), cyclic.order))
    for row, (a, b) in enumerate(inputs.tolist()):
        for column, c in enumerate(cyclic.elements.tolist()):
            d = log_of[a] + cyclic.b_sign * log_of[b] - log_of[c]
            logits[row, column] = 3 * math.cos(2 * math.pi * 2 * d / cyclic.order) - 0.5 * math.sin(
                2 * math.pi * 5 * d / cyclic.order
            )
    logs = [torch.tensor([log_of[x] for x in inputs[:, i].tolist()]) for i in (0, 1)]
    profile, variance = characters.sum_profile(cyclic, *logs, torch.tensor(logits))
    alpha, beta = characters.profile_amplitudes(profile)
    expected = torch.zeros(cyclic.order // 2).double()
    expected[1] = 3
    torch.testing.assert_close(alpha, expected, atol=1e-12, rtol=0)
    assert float(beta[4]) == pytest.approx(-0.5)
    # Variance of 3 cos is 9/2, of 0.5 sin 1/8.
    assert variance == pytest.approx(4.5 + 0.125)
    shares = characters.amplitude_shares(alpha, beta, cyclic.order, variance)
    assert shares[[1, 4]].tolist() == pytest.approx([4.5 / 4.625, 0.125 / 4.625])


def test_the_share_of_the_last_frequency_of_an_even_order() -> None:
    # cos(pi d) alternates +-1: its variance is 1, not 1/2.
    cyclic = CyclicStructure(4, torch.arange(4), torch.arange(4), 1)
    domain = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    d = domain.sum(1)[:, None] - torch.arange(4)
    logits = 2 * (-1.0) ** (d % 2)
    profile, variance = characters.sum_profile(cyclic, domain[:, 0], domain[:, 1], logits)
    alpha, beta = characters.profile_amplitudes(profile)
    assert alpha.tolist() == pytest.approx([0, 2])
    shares = characters.amplitude_shares(alpha, beta, 4, variance)
    assert shares.tolist() == pytest.approx([0, 1])

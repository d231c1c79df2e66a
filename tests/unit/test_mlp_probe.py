"""MLP probes against PyTorch, finite differences, and by hand."""

import itertools

import pytest
import torch
from torch import Tensor

from probes.design import Design
from probes.methods import mlp as mlp_module
from probes.methods.mass_mean import MassMean
from probes.methods.mlp import Batch, Layers, Mlp, first_layers, objective_and_gradient
from probes.methods.pca import Pca
from probes.methods.sparse import Sparse
from tests.unit.probe_problems import (
    WIDTH,
    K,
    N,
    sample,
    targets,
    two_splits,
)


def xor(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Whether two coordinates of six have the same sign, each at least 0.2 from 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    x[:, :2] += 0.2 * x[:, :2].sign()
    return x, (x[:, 0] * x[:, 1] > 0).long()


def test_mlp_solves_what_linear_probes_cannot() -> None:
    x, y = xor(600, 0)
    fresh, truth = xor(1000, 1)
    deep = Mlp(hidden=32).fit(x, y)
    assert float(deep.score(fresh, truth)) > 0.95
    assert bool(deep.fitted_.convergence.converged.all())
    # Every linear boundary through the middle is right for half; standard error 0.016.
    for flat in (MassMean(0.1), Pca(6), Sparse(2)):
        assert abs(float(flat.fit(x, y).score(fresh, truth)) - 0.5) < 0.1


def small_batch(n_probes: int) -> tuple[Layers, Batch, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    p = n_probes
    layers = Layers(draw(p, 5, 3), draw(p, 5), draw(p, K, 5), draw(p, K))
    weight = torch.rand(p, 7, generator=generator, dtype=torch.float64)
    classes = torch.randint(K, (p, 7), generator=generator)
    return layers, Batch(draw(p, 7, 3), classes, weight), torch.tensor([0.0, 0.3][:p]).double()


def test_mlp_gradient_matches_finite_differences() -> None:
    layers, batch, penalty = small_batch(2)
    _, gradient = objective_and_gradient(layers, batch, penalty)
    step = 1e-6
    for tensor, slope in zip(layers, gradient, strict=True):
        for at in itertools.product(*(range(size) for size in tensor.shape[1:])):
            ends = []
            for sign in (1, -1):
                tensor[:, *at] += sign * step
                ends.append(objective_and_gradient(layers, batch, penalty)[0])
                tensor[:, *at] -= sign * step
            numeric = (ends[0] - ends[1]) / (2 * step)
            # Central differences: step^2 times a third derivative, and 1e-16 / step of rounding.
            torch.testing.assert_close(slope[:, *at], numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("batch_size", [512, 16])
def test_mlp_is_adam_of_pytorch(batch_size: int) -> None:
    """The same network in `torch.nn`, trained by autograd and `torch.optim.Adam`."""
    x, classes = sample(sites=1)
    y, weights = classes[0], two_splits()[:1]
    probe = Mlp(0.01, hidden=8, steps=40, batch_size=batch_size)  # fewer than a window: no cut
    fitted = probe.fit_many(Design(x, weights), targets(classes[:1]), [0.01], seed=5)
    rows = weights[0] > 0
    mean, deviation = x[0, rows].mean(0), x[0, rows].std(0, correction=0)
    z = (x[0, rows] - mean) / deviation
    generator = torch.Generator().manual_seed(5)
    first = first_layers(1, WIDTH, 8, K, generator)
    net = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 8), torch.nn.ReLU(), torch.nn.Linear(8, K)
    ).double()
    for parameter, start in zip(net.parameters(), first, strict=True):
        parameter.data.copy_(start[0])
    penalised = [p for p in net.parameters() if p.ndim == 2]
    free = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": penalised, "weight_decay": 0.01}, {"params": free}]
    adam = torch.optim.Adam(groups, lr=0.01)
    for _ in range(40):
        at = torch.arange(60)
        if batch_size < 60:  # one of each stretch of 60 / 16 inputs
            places = torch.arange(16) + torch.rand(16, generator=generator, dtype=torch.float64)
            at = (places * 60 / 16).long()
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(z[at]), y[rows][at]).backward()
        adam.step()
    with torch.no_grad():
        expected = net((x[0] - mean) / deviation)
        loss = torch.nn.functional.cross_entropy(net(z), y[rows])
        objective = loss + 0.005 * sum(p.square().sum() for p in penalised)
    # 1e-16 per step, and each of the 40 may multiply it a little.
    got = fitted.scores(x, strength=0, split=0)[0, 0]
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        fitted.convergence.objective.flatten()[0], objective, rtol=1e-11, atol=0
    )
    assert fitted.convergence.iterations.flatten().tolist() == [40]
    assert not bool(fitted.convergence.converged.any())


def test_mlp_gap_is_the_length_of_the_gradient() -> None:
    """A heavily penalised probe converges to weights 0, where only the biases matter and the
    gradient vanishes; an untrained one is far from there."""
    x, classes = sample(sites=1)
    design, labels = Design(x, two_splits()), targets(classes)
    done = Mlp(hidden=4).fit_many(design, labels, [10.0])
    counts = design.class_moments(labels).weight
    share = counts / counts.sum(-1, keepdim=True)
    entropy = -(share * share.log()).sum(-1)  # the loss of knowing only how frequent classes are
    # Adam's last steps are 1e-4 long, and the penalty has curvature 10.
    torch.testing.assert_close(done.convergence.objective[0, :, 0], entropy, rtol=0, atol=1e-3)
    assert bool(done.convergence.converged.all())
    assert float(done.convergence.gap.max()) < 0.05
    started = Mlp(hidden=4, steps=1).fit_many(design, labels, [10.0])
    # The gradient of the penalty alone: 10 |W|, with |W|^2 near 2 * 4 + 2 * 4.
    assert 20 < float(started.convergence.gap.min()) < 80


def test_mlp_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, classes = sample()
    design, labels = Design(x, two_splits()), targets(classes)
    probe = Mlp(hidden=8, steps=60, batch_size=32)  # 60 and 55 inputs train: batches are drawn
    together = probe.fit_many(design, labels, [1e-3]).tensors()
    monkeypatch.setattr(mlp_module, "BUDGET_BYTES", 1)  # one probe at a time
    alone = probe.fit_many(design, labels, [1e-3]).tensors()
    for key, tensor in together.items():
        # 60 steps that multiply rounding.
        torch.testing.assert_close(alone[key], tensor, rtol=1e-8, atol=1e-8)
    other = probe.fit_many(design, labels, [1e-3], seed=1).tensors()
    assert not torch.allclose(other["into"], together["into"], atol=1e-2)


def test_mlp_reads_only_inputs_that_train() -> None:
    """Where batches are drawn too, and where another split has few inputs."""
    x, classes = sample()
    weights = torch.ones(2, N, dtype=torch.float64)
    weights[0, ::3], weights[1, 9:] = 0, 0
    labels, probe = targets(classes), Mlp(hidden=8, steps=60, batch_size=20)
    plain = probe.fit_many(Design(x, weights), labels, [1e-3])
    changed = x.clone()
    changed[:, ::3] = 1e3
    other = probe.fit_many(Design(changed, weights), labels, [1e-3])
    fresh, _ = sample(seed=1)
    # The mean of all inputs, about which sums are taken, is 500 times as large: 1e-13 is 1e-10.
    torch.testing.assert_close(
        other.scores(fresh, strength=0, split=0),
        plain.scores(fresh, strength=0, split=0),
        rtol=1e-6,
        atol=1e-6,
    )
    # The split of nine inputs takes every step on all nine, whatever the other split draws.
    alone = probe.fit_many(Design(x, weights[1:]), labels, [1e-3])
    torch.testing.assert_close(
        plain.scores(fresh, strength=0, split=1),
        alone.scores(fresh, strength=0, split=0),
        rtol=1e-8,
        atol=1e-8,
    )


def test_mlp_probes_stop_one_by_one() -> None:
    x, classes = sample(sites=1)
    design, labels, probe = Design(x, two_splits()[:1]), targets(classes[:1]), Mlp(hidden=4)
    together = probe.fit_many(design, labels, [10.0, 0.0]).convergence
    n_steps = together.iterations.flatten().tolist()
    assert n_steps[0] < n_steps[1]  # nothing to learn but the biases; something to learn
    for i, weight_decay in enumerate([10.0, 0.0]):
        alone = probe.fit_many(design, labels, [weight_decay]).convergence
        assert alone.iterations.flatten().tolist() == [n_steps[i]]


def test_mlp_ignores_a_coordinate_that_did_not_vary() -> None:
    x, y = xor(301, 0)
    x[:, 3:] = torch.tensor([0.1, 0.3, 0.7])  # not binary fractions: means are rounded
    x[200:, 3:] = 50.0  # not in the training set, but sums are taken about the mean of all
    for n_train in (200, 150):
        weights = (torch.arange(301) < n_train).double()
        probe = Mlp(hidden=8, steps=50).fit(x, y, sample_weight=weights)
        moved = x.clone()
        moved[:, 3:] = 99.0
        assert torch.equal(probe.decision_function(moved), probe.decision_function(x))

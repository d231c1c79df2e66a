"""Spectra: of a network built on known circles, and against the least squares of every neuron."""

import pytest
import torch

from circuits.fourier.parts import frequency_shares, neuron_activations
from circuits.fourier.spectra import best_frequencies, neuron_shares, read_spectra
from circuits.neuron_maps import neuron_maps
from tests.hand_built import NEURONS, circle_adder
from workbench.subject import Subject, untrained
from workbench.task import make_task

SEPARATE = {"equals_token": False, "separate_vocabularies": True}


def adder(name: str = "modular_addition", p: int = 13) -> Subject:
    """Frequencies 2 and 5, the second half as strong in the logits."""
    return circle_adder(make_task(name, {"p": p, **SEPARATE}), (2, 5), (1.0, 0.5))


@pytest.mark.parametrize("name", ["modular_addition", "modular_division"])
def test_a_hand_built_adder_has_power_at_its_frequencies_alone(name: str) -> None:
    spectra = read_spectra(adder(name))
    assert spectra.key_frequencies == (2, 5)
    elsewhere = torch.ones(len(spectra.embedding), dtype=torch.bool)
    elsewhere[[1, 4]] = False
    # Logits of amplitude 1 and 1/2: power 4 to 1.
    assert float(spectra.logits[1]) == pytest.approx(0.8, abs=0.02)
    assert float(spectra.logits[4]) == pytest.approx(0.2, abs=0.02)
    assert float(spectra.logits[elsewhere].max()) < 0.002
    # Circles of the same radius, and noise of 1 % of it in 20 dimensions.
    assert float(spectra.embedding[1]) == pytest.approx(0.5, abs=0.01)
    assert float(spectra.embedding[elsewhere].max()) < 0.002
    assert float(spectra.embedding.sum()) == pytest.approx(1)


def test_an_untrained_network_has_power_everywhere() -> None:
    blank = read_spectra(untrained(adder(p=23), 0))
    assert float(blank.embedding.max()) < 0.2
    assert float(blank.embedding.min()) > 0.02


def test_neurons_of_a_hand_built_adder_serve_the_frequency_that_they_were_built_for() -> None:
    subject = adder()
    cyclic = subject.task.cyclic()
    assert cyclic is not None
    best = best_frequencies(neuron_shares(cyclic, neuron_maps(subject, 0)))
    live = best.frequency > 0
    built = torch.tensor([2, 5]).repeat_interleave(NEURONS)
    assert torch.equal(best.frequency[live], built[live])
    assert int(live.sum()) == 2 * NEURONS
    blank = neuron_shares(cyclic, neuron_maps(untrained(subject, 0), 0))
    assert float(best.share[live].median()) > float(best_frequencies(blank).share.median()) + 0.2


@pytest.mark.parametrize("name", ["modular_addition", "modular_multiplication"])
def test_shares_are_those_of_least_squares(name: str) -> None:
    task = make_task(name, {"p": 11})
    cyclic = task.cyclic()
    assert cyclic is not None
    side = len(cyclic.elements)
    maps = torch.randn(6, side, side, generator=torch.Generator().manual_seed(0)).double()
    maps[4] = 3.0
    maps[5] = 0.0
    flat = maps.flatten(1).T
    expected = frequency_shares(cyclic, task.domain(), flat)
    torch.testing.assert_close(neuron_shares(cyclic, maps), expected, atol=1e-6, rtol=0)
    assert best_frequencies(expected).frequency[4:].tolist() == [0, 0]


def test_shares_of_a_network_are_those_of_its_activations() -> None:
    subject = adder()
    cyclic = subject.task.cyclic()
    assert cyclic is not None
    found = neuron_shares(cyclic, neuron_maps(subject, 0))
    inputs = subject.task.domain()
    expected = frequency_shares(cyclic, inputs, neuron_activations(subject, inputs))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_wave_has_all_its_variance_at_its_frequency() -> None:
    cyclic = make_task("modular_addition", {"p": 13}).cyclic()
    assert cyclic is not None
    x = torch.arange(13).double() * (2 * torch.pi / 13)
    waves = torch.stack(
        [
            (3 * (x[:, None] + x[None, :])).cos(),
            (4 * x[:, None]).sin().expand(13, 13),
            (5 * x[None, :]).cos().expand(13, 13) + 7,
        ]
    )
    shares = neuron_shares(cyclic, waves)
    expected = torch.zeros(6, 3, dtype=torch.float64)
    expected[2, 0] = expected[3, 1] = expected[4, 2] = 1
    torch.testing.assert_close(shares, expected, atol=1e-9, rtol=0)

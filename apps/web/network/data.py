"""What the Network page shows, computed once for each network and kept.

Every function here goes by content: what is kept for a checkpoint is right for no other.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apps.web.cache import remembered
from apps.web.choice import Network, subject
from apps.web.inputs import as_inputs
from circuits.attention_patterns import AttentionSummary, read_attention, summarise_attention
from circuits.fourier.spectra import (
    BestFrequencies,
    Spectra,
    best_frequencies,
    neuron_shares,
    read_spectra,
)
from circuits.lens_reading import LensReading, read_lens
from circuits.logit_lens import logit_lens, score_lens
from circuits.neuron_maps import mean_maps, neuron_maps
from circuits.reading import Average, average_share
from workbench.accuracy import SAMPLED_INPUTS, Accuracy
from workbench.answers import Answers, read_answers
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.stats import wilson_interval
from workbench.subject import Subject, untrained
from workbench.task import Inputs, Task

CONTROL_SEED = 0
"""Of the untrained networks that stand beside the trained ones."""
LENS_FLOATS = 24_000_000
"""Logits that a lens over many inputs may take, in numbers."""
SOME_INPUTS = 2_000
"""Sampled for the mean attention and the lens where inputs cannot be listed."""


@remembered
def measured_inputs(task: Task, distribution: str = "uniform") -> Inputs:
    """All inputs, or the 10,000 that `workbench.accuracy.measure_accuracy` draws."""
    if task.enumerable and distribution == "uniform":
        return task.domain()
    generator = torch.Generator().manual_seed(0)
    return task.sample(SAMPLED_INPUTS, generator, distribution=distribution)


@remembered
def answers_of(network: Network, distribution: str = "uniform") -> Answers:
    """What the network answers to all of `measured_inputs`."""
    one = subject(network)
    return read_answers(one.params, one.config, one.task, measured_inputs(one.task, distribution))


@remembered
def held_out_mask(task: Task, seed: int, train_fraction: float) -> Tensor:
    """Which of the measured inputs were held out of training."""
    return task.held_out_mask(measured_inputs(task), seed=seed, train_fraction=train_fraction)


class Accuracies(NamedTuple):
    """How often a network is right."""

    all: Accuracy
    held_out: Accuracy | None
    """None where the network came without its split."""


@remembered
def accuracies(network: Network) -> Accuracies:
    """Over all inputs (or a sample), and over those that were held out."""
    config, task = network.run.config, network.task
    right = answers_of(network).all_right
    held_out = None
    if config.seed is not None and config.train_fraction is not None:
        inside = right[held_out_mask(task, config.seed, config.train_fraction)]
        held_out = _accuracy(inside, task) if len(inside) else None
    return Accuracies(_accuracy(right, task), held_out)


def answer_to(network: Network, operands: tuple[int, ...]) -> Answers:
    """What the network answers to one input."""
    one = subject(network)
    return read_answers(one.params, one.config, one.task, as_inputs(operands))


@remembered
def attention_to(network: Network, operands: tuple[int, ...]) -> Float[Tensor, "head query key"]:
    """Every head's pattern on one input."""
    one = subject(network)
    tokens = one.task.encode(as_inputs(operands)).to(one.device)
    return read_attention(one.params, tokens, one.config).pattern[:, 0].cpu()


@remembered
def mean_attention(network: Network) -> AttentionSummary:
    """Every head's pattern in the mean over all inputs, or over a sample."""
    one = subject(network)
    inputs = measured_inputs(one.task)
    if not one.task.enumerable:
        inputs = inputs[:SOME_INPUTS]
    read = read_attention(one.params, one.task.encode(inputs).to(one.device), one.config)
    return summarise_attention(read, exhaustive=one.task.enumerable)


@remembered
def lens_of(network: Network, operands: tuple[int, ...], answer: int) -> LensReading:
    """The logit lens of one input, seen by one token of the right answer."""
    one, inputs = subject(network), as_inputs(operands)
    lens = logit_lens(one.params, one.task.encode(inputs).to(one.device), one.config)
    return read_lens(lens, int(one.task.solve(inputs)[0, answer]))


class LensAccuracy(NamedTuple):
    """How often the answer is already the largest logit of the lens."""

    places: tuple[str, ...]
    share: Average
    """`[place, pos]`."""
    constant: float
    """The control: the best share that one fixed token gets right."""


@remembered
def lens_accuracy(network: Network, answer: int) -> LensAccuracy:
    """The lens over all inputs, or over as many of them as fit."""
    one = subject(network)
    inputs, config = measured_inputs(one.task), one.config
    fits = LENS_FLOATS // (config.n_ctx * config.d_vocab_out * (2 * config.n_layers + 1))
    fits = fits if one.task.enumerable else min(fits, SOME_INPUTS)
    whole = one.task.enumerable and len(inputs) <= fits
    if len(inputs) > fits:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        inputs = inputs[order[:fits]]
    wanted = one.task.solve(inputs)[:, answer : answer + 1].to(one.device)
    lens = logit_lens(one.params, one.task.encode(inputs).to(one.device), config)
    scores = score_lens(lens, wanted)
    share = average_share(scores.correct[..., 0].cpu(), dim=1, exhaustive=whole)
    return LensAccuracy(scores.places, share, float(scores.constant_accuracy[0]))


@remembered
def spectra_of(network: Network) -> Spectra:
    """Embedding and logit spectra."""
    return read_spectra(subject(network))


@remembered
def control_spectra(shape: "Shape") -> Spectra:
    """Those of an untrained network of the same shape."""
    return read_spectra(shape.subject())


@remembered
def maps_of(
    network: Network, layer: int, answer: int, column: int | None = None
) -> Float[Tensor, "neuron a b"]:
    """Every neuron of a layer over all inputs; with `column`, its mean by two digits."""
    if column is None:
        return neuron_maps(subject(network), layer, answer=answer)
    inputs, digits = measured_inputs(network.task), (f"a_{column}", f"b_{column}")
    return mean_maps(subject(network), layer, inputs, digits, answer=answer).mean.float()


@remembered
def shares_of(network: Network, layer: int) -> Float[Tensor, "frequency neuron"]:
    """Share of every neuron's variance explained by every single frequency."""
    cyclic = network.task.cyclic()
    assert cyclic is not None, network.task.name
    return neuron_shares(cyclic, maps_of(network, layer, 0))


@remembered
def best_of(network: Network, layer: int) -> BestFrequencies:
    """Each neuron's best frequency."""
    return best_frequencies(shares_of(network, layer))


@remembered
def control_best(shape: "Shape", layer: int) -> BestFrequencies:
    """Those of an untrained network of the same shape."""
    cyclic = shape.task.cyclic()
    assert cyclic is not None, shape.task.name
    return best_frequencies(neuron_shares(cyclic, neuron_maps(shape.subject(), layer)))


class Shape(NamedTuple):
    """All that an untrained twin depends on: the same at every checkpoint of a run."""

    config: ModelConfig
    task: Task
    init_scale: float
    query_key_scale: float

    def subject(self) -> Subject:
        """The untrained twin."""
        config, task = self.config, self.task
        blank = init_params(config, torch.Generator().manual_seed(0))
        one = Subject(
            params=blank,
            config=config,
            task=task,
            init_scale=self.init_scale,
            query_key_scale=self.query_key_scale,
        )
        return untrained(one, CONTROL_SEED)


def shape_of(network: Network) -> Shape:
    """What a network's untrained twin depends on."""
    one = subject(network)
    return Shape(one.config, one.task, one.init_scale, one.query_key_scale)


@remembered
def variances(
    network: Network, layer: int, answer: int, column: int | None = None
) -> Float[Tensor, " neuron"]:
    """How much each neuron's map varies."""
    return maps_of(network, layer, answer, column).var((1, 2))


def carries(task: Task, inputs: Inputs) -> Int[Tensor, " batch"]:
    """How many columns of a digit sum receive a carry."""
    found = [value for name, value in task.variables(inputs).items() if name.startswith("carry_")]
    return torch.stack(found).sum(0)


def _accuracy(right: Tensor, task: Task) -> Accuracy:
    n, found = len(right), int(right.sum())
    interval = None if task.enumerable else wilson_interval(found, n)
    return Accuracy(found / n, n, task.enumerable, interval)

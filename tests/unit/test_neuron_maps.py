"""Neurons over a and b, and what they write, against the cache of the forward pass."""

import pytest
import torch

from circuits.fourier.parts import neuron_activations
from circuits.neuron_maps import direct_logit_weights, mean_maps, neuron_maps, operand_grid
from tests.unit.small_training import network
from workbench.errors import CircuitError, UnknownName
from workbench.params import init_params
from workbench.subject import Subject
from workbench.task import Task, make_task
from workbench.transformer import forward

DIVISION = make_task("modular_division", {"p": 7})
DIGITS = make_task("digit_addition", {"n_digits": 1})


def subject(task: Task = DIVISION, **settings: object) -> Subject:
    config = network(task, **settings)
    drawn = init_params(config, torch.Generator().manual_seed(0), scale=3.0)
    params = {name: one.double() for name, one in drawn.items()}
    return Subject(params=params, config=config, task=task)


def test_the_grid_of_a_task() -> None:
    assert operand_grid(DIVISION) == (tuple(range(1, 7)), tuple(range(1, 7)))
    assert operand_grid(DIGITS) == (tuple(range(10)), tuple(range(10)))
    assert operand_grid(make_task("digit_addition", {"n_digits": 5})) is None


@pytest.mark.parametrize("layer", [0, 1])
def test_maps_hold_the_activation_of_every_pair(layer: int) -> None:
    one = subject(n_layers=2)
    maps = neuron_maps(one, layer)
    name = f"blocks.{layer}.mlp.hook_post"
    for a, b in [(1, 1), (2, 5), (6, 3)]:
        tokens = DIVISION.encode(torch.tensor([[a, b]]))
        read = forward(one.params, tokens, one.config, taps=[name]).activations[name]
        torch.testing.assert_close(maps[:, a - 1, b - 1], read[0, -1], atol=1e-9, rtol=0)
    whole = neuron_activations(one, DIVISION.domain())
    width = one.config.d_mlp
    own = whole[:, layer * width : (layer + 1) * width].T.reshape(maps.shape)
    torch.testing.assert_close(maps, own, atol=1e-9, rtol=0)


def test_maps_are_read_where_the_answer_token_is() -> None:
    one = subject(DIGITS)
    name = "blocks.0.mlp.hook_post"
    tokens = DIGITS.encode(torch.tensor([[7, 8]]))
    read = forward(one.params, tokens, one.config, taps=[name]).activations[name]
    for answer, position in enumerate(DIGITS.answer_positions):
        maps = neuron_maps(one, 0, answer=answer)
        torch.testing.assert_close(maps[:, 7, 8], read[0, position], atol=1e-9, rtol=0)


def test_means_by_digits_are_counted_by_hand() -> None:
    task = make_task("digit_addition", {"n_digits": 3})
    one = subject(task, n_layers=2)
    inputs = task.sample(60, torch.Generator().manual_seed(0))
    for layer in (0, 1):
        name = f"blocks.{layer}.mlp.hook_post"
        found = mean_maps(one, layer, inputs, ("a_1", "b_0"), answer=2)
        read = forward(one.params, task.encode(inputs), one.config, taps=[name]).activations[name]
        seen: dict[tuple[int, int], list[torch.Tensor]] = {}
        for (a, b), post in zip(inputs.tolist(), read[:, task.answer_positions[2]], strict=True):
            seen.setdefault((a // 10 % 10, b % 10), []).append(post)
        for row, column in [(r, c) for r in range(10) for c in range(10)]:
            there = seen.get((row, column), [])
            assert int(found.count[row, column]) == len(there)
            own = found.mean[:, row, column]
            if there:
                expected = torch.stack(there).mean(0)
                torch.testing.assert_close(own, expected, atol=1e-9, rtol=0)
            else:
                assert bool(own.isnan().all())


def test_direct_weights_are_what_raising_the_activation_does() -> None:
    one = subject()
    tokens = DIVISION.encode(torch.tensor([[2, 3]]))
    name = "blocks.0.mlp.hook_post"

    def logits(step: float) -> torch.Tensor:
        def raised(post: torch.Tensor) -> torch.Tensor:
            moved = post.clone()
            moved[..., 4] += step
            return moved

        found = forward(one.params, tokens, one.config, edits={name: raised}).logits
        return found[0, -1, : DIVISION.n_answer_tokens]

    change = logits(1.0) - logits(0.0)
    expected = change - change.mean()
    torch.testing.assert_close(direct_logit_weights(one, 0, 4), expected, atol=1e-9, rtol=0)


def test_direct_weights_carry_the_weights_of_the_final_norm() -> None:
    one = subject(normalization="LN")
    one.params["ln_final.w"][:] = torch.arange(1.0, one.config.d_model + 1).double()
    written = one.params["blocks.0.mlp.W_out"][2]
    centred = [float(x - written.mean()) * (i + 1) for i, x in enumerate(written)]
    unembed = one.params["unembed.W_U"]
    sums = [
        sum(x * float(unembed[i, token]) for i, x in enumerate(centred))
        for token in range(DIVISION.n_answer_tokens)
    ]
    expected = torch.tensor(sums, dtype=torch.float64) - sum(sums) / len(sums)
    torch.testing.assert_close(direct_logit_weights(one, 0, 2), expected, atol=1e-9, rtol=0)


def test_refusals_say_what_there_is() -> None:
    with pytest.raises(CircuitError, match="no neuron 99 in layer 0; the network has 1 layers of"):
        direct_logit_weights(subject(), 0, 99)
    with pytest.raises(CircuitError, match="no neuron 0 in layer 3"):
        neuron_maps(subject(), 3)
    with pytest.raises(UnknownName, match="digit_addition variable 'c_0'"):
        mean_maps(subject(DIGITS), 0, DIGITS.domain(), ("a_0", "c_0"))
    big = make_task("digit_addition", {"n_digits": 5})
    with pytest.raises(CircuitError, match="has no grid of two operands"):
        neuron_maps(subject(big), 0)

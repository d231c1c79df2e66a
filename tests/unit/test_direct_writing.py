"""What parts say by themselves: against attributions, and a network worked out by hand.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

import pytest
import torch

from circuits.direct_writing import direct_logits, neuron_attribution
from circuits.logit_attribution import attribute_pairs, logit_attribution
from tests.reference.networks import SEEDS, random_config, random_params, random_tokens
from tests.unit.small_networks import CONFIG, assert_close, generator, zeros
from tests.unit.small_training import DIGITS, network
from workbench.pairs import draw_pairs
from workbench.params import init_params
from workbench.subject import Subject


def test_logits_of_writers_worked_out_by_hand() -> None:
    # Embeddings are the unit vectors, positions add (1, 1), and W_U doubles the first coordinate:
    # token 1 embeds to (0, 1) and is unembedded to (0, 1), which is (-1/2, 1/2) about its mean.
    eye = torch.eye(2)
    params = zeros(CONFIG, W_E=eye, W_pos=torch.ones(2, 2), W_U=torch.tensor([[2.0, 0.0], [0, 1]]))
    made = direct_logits(params, torch.tensor([[0, 1]]), CONFIG, positions=(1,))
    assert made.writers == ("embed", "pos_embed", "a0.h0")
    assert_close(made.of("embed"), torch.tensor([[[-0.5, 0.5]]]).double())
    assert_close(made.of("pos_embed"), torch.tensor([[[0.5, -0.5]]]).double())
    assert_close(made.of("a0.h0"), torch.zeros(1, 1, 2).double())


@pytest.mark.parametrize("seed", SEEDS)
def test_differences_of_logits_are_attributions(seed: int) -> None:
    config = random_config(seed)
    params, tokens = random_params(config, seed), random_tokens(config, seed, batch=3)
    answer, wrong = (
        torch.randint(config.d_vocab_out, (3, 2), generator=generator(seed + i)) for i in range(2)
    )
    positions = (-1, 0)
    made = direct_logits(params, tokens, config, positions=positions)
    known = logit_attribution(
        params, tokens, config, positions=positions, answer=answer, wrong_answer=wrong
    )
    for i, name in enumerate(made.writers):
        value = made.values[i]
        right, other = (value.gather(-1, x[..., None])[..., 0] for x in (answer, wrong))
        assert_close(right - other, known.of(name))


@pytest.mark.parametrize("changes", [{}, {"normalization": "LN"}, {"act_fn": "gelu"}])
def test_neurons_sum_to_what_their_mlp_adds_less_its_bias(changes: dict[str, str]) -> None:
    config = network(DIGITS, n_layers=2, **changes)
    drawn = init_params(config, generator(1))
    params = {
        name: one.double() + 0.1 * torch.randn(one.shape, generator=generator(i)).double()
        for i, (name, one) in enumerate(drawn.items())
    }
    params["blocks.1.mlp.b_out"].zero_()
    subject = Subject(params=params, config=config, task=DIGITS)
    pairs = draw_pairs(DIGITS, "change_a", 4, generator())
    added = neuron_attribution(subject, pairs, 1)
    assert added.shape == (32, 4, 5)
    assert_close(added.sum(0), attribute_pairs(subject, pairs).of("m1"))

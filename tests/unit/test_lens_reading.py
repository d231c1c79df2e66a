"""The lens of one input as a table, against logits worked through in plain Python."""

import math

import pytest
import torch

from circuits.lens_reading import read_lens
from circuits.logit_lens import LogitLens, logit_lens
from tests.unit.small_training import network
from workbench.errors import CircuitError
from workbench.params import init_params
from workbench.task import make_task
from workbench.transformer import forward


def test_a_table_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 1.0, 2.0]], [[0.0, 0.0, 0.0]]]])
    lens = LogitLens(places=("blocks.0.hook_resid_pre",), logits=logits.expand(1, 2, 1, 3))
    first = read_lens(lens, 1)
    assert first.logit.tolist() == [[1.0]]
    assert float(first.probability) == pytest.approx(math.e / (1 + math.e + math.e**2))
    assert (first.rank.tolist(), first.top.tolist()) == ([[2]], [[2]])
    tied = read_lens(lens, 1, row=1)
    assert float(tied.probability) == pytest.approx(1 / 3)
    assert tied.rank.tolist() == [[3]]  # nothing tells it from the other two


def test_the_last_place_is_the_networks_own_answer() -> None:
    task = make_task("modular_addition", {"p": 7})
    config = network(task)
    drawn = init_params(config, torch.Generator().manual_seed(0), scale=3.0)
    params = {name: one.double() for name, one in drawn.items()}
    tokens = task.encode(torch.tensor([[2, 3], [6, 5]]))
    own = forward(params, tokens, config).logits[1, -1]
    read = read_lens(logit_lens(params, tokens, config), 4, row=1)
    assert float(read.logit[-1, -1]) == pytest.approx(float(own[4]), abs=1e-9)
    assert int(read.top[-1, -1]) == int(own.argmax())
    assert int(read.rank[-1, -1]) == 1 + sum(float(one) > float(own[4]) for one in own)


def test_a_token_that_is_not_written_is_refused() -> None:
    lens = LogitLens(places=("blocks.0.hook_resid_pre",), logits=torch.zeros(1, 1, 1, 3))
    with pytest.raises(CircuitError, match="no output token 3; the network writes 0 to 2"):
        read_lens(lens, 3)

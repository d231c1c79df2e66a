"""The checks of types and shapes are at work in the tests, on the first calls of a function."""

import pytest
import torch
from jaxtyping import TypeCheckError

from circuits.hypotheses import holm
from tests.type_checks import ENOUGH


def test_a_wrong_shape_is_refused_in_the_first_calls_of_each_test() -> None:
    for _ in range(ENOUGH):
        with pytest.raises(TypeCheckError, match="p_values"):
            holm(torch.ones(2, 2))
    assert holm(torch.ones(2)).tolist() == [1, 1]


def test_a_wrong_shape_is_refused_again_in_the_next_test() -> None:
    with pytest.raises(TypeCheckError, match="p_values"):
        holm(torch.ones(2, 2))

"""Steering: adding a direction, and what it does to the answer."""

import pytest
import torch
from torch import Tensor

from probes.sites import ProbeSite
from probes.steer import steer
from tests.unit.aligned_networks import ADDITION, CIRCLES, SMOOTH, SUBJECT, WEIGHTS, generator
from workbench.errors import HookError, ProbeError
from workbench.transformer import forward


def test_steering_is_adding_the_direction():
    site = ProbeSite(hook="blocks.0.hook_resid_post", position=2)
    direction = torch.randn(6, generator=generator(2), dtype=torch.float64)
    inputs, amounts = ADDITION.domain(), (0.0, 1.5)
    found = steer(WEIGHTS, SMOOTH, ADDITION, site, direction, amounts, inputs, n_random=2)
    assert found.steered.shape == (4, 2, 25, 1)
    assert not bool(found.changed()[:, 0].any())
    for i, sign in enumerate((1, -1)):

        def add(x: Tensor, sign: int = sign) -> Tensor:
            moved = x.clone()
            moved[:, 2] += sign * 1.5 * direction
            return moved

        edits = {site.hook: add}
        logits = forward(WEIGHTS, ADDITION.encode(inputs), SMOOTH, edits=edits).logits
        assert torch.equal(found.steered[i, 1, :, 0], logits[:, 2].argmax(-1))
    changed = found.changed()
    assert found.share(1, of=changed).n == 25 and found.random(1, of=changed).n == 50
    assert torch.equal(found.against(1, of=changed).right, changed[1, 1])
    with pytest.raises(ProbeError, match="no target"):
        found.reached()


def test_steering_far_along_a_class_reaches_it():
    """At the end the logit of c is cos w(c - x) for what the last two dimensions hold."""
    site = ProbeSite(hook="blocks.0.hook_resid_post", position=1)
    towards = SUBJECT.params["unembed.W_U"][:, 4]
    inputs = CIRCLES.domain()
    target = torch.full((len(inputs), 1), 4)
    found = steer(
        SUBJECT.params,
        SUBJECT.config,
        CIRCLES,
        site,
        towards,
        [0.0, 1e3],
        inputs,
        target=target,
        n_random=39,
    )
    reached = found.reached()
    assert found.share(1, of=reached).value == 1.0
    assert found.against(1, of=reached).value == 0.0
    # A random direction leads to a random one of 13 answers: 3 of 39 expected, deviation 1.7.
    assert found.random(1, of=reached).value < 10 / 39
    assert torch.equal(reached[0, 0], CIRCLES.solve(inputs)[:, 0] == 4)
    assert torch.equal(found.movable(), ~reached[0, 0])


def test_steering_that_cannot_be_is_refused():
    site, inputs = ProbeSite(hook="blocks.0.hook_resid_post", position=2), ADDITION.domain()
    one = torch.ones(6, dtype=torch.float64)
    with pytest.raises(ProbeError, match="5 numbers"):
        steer(WEIGHTS, SMOOTH, ADDITION, site, one[:5], [1.0], inputs)
    with pytest.raises(ProbeError, match="zero or not finite"):
        steer(WEIGHTS, SMOOTH, ADDITION, site, 0 * one, [1.0], inputs)
    with pytest.raises(ProbeError, match="at least one"):
        steer(WEIGHTS, SMOOTH, ADDITION, site, one, [], inputs)
    with pytest.raises(ProbeError, match="targets"):
        steer(WEIGHTS, SMOOTH, ADDITION, site, one, [1.0], inputs, target=torch.ones(2, 1).long())
    away = ProbeSite(hook="blocks.5.hook_resid_post", position=2)
    with pytest.raises(HookError, match="hook_resid_post"):
        steer(WEIGHTS, SMOOTH, ADDITION, away, one, [1.0], inputs)

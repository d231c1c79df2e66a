"""Interchange, and the search for subspaces: gradients by differences, subspaces known by hand."""

import itertools

import pytest
import torch

from probes.align import Alignment, fit_das
from probes.interchange import (
    InterchangePairs,
    draw_interchange_pairs,
    interchange,
    probe_subspace,
    random_subspace,
    swapped_right,
)
from probes.sites import ProbeSite, make_sites
from probes.subspace_search import Plan, loss_and_gradient, retract, search, training_pairs
from probes.upper import upper_networks
from tests.reference.networks import random_params
from tests.unit.aligned_networks import ADDITION, CIRCLES, MID, SMOOTH, SUBJECT, WEIGHTS, generator
from workbench.errors import ProbeError
from workbench.intervene import Intervention, OtherInput, Site, intervene
from workbench.model_config import ModelConfig
from workbench.params import init_params
from workbench.progress import Progress, finish
from workbench.task import make_task

HOLDS_A = torch.eye(10, dtype=torch.float64)[4:6]
HOLDS_B = torch.eye(10, dtype=torch.float64)[6:8]


EVERYWHERE = [
    "hook_embed",
    "blocks.0.hook_resid_pre",
    "blocks.0.attn.hook_v",
    "blocks.0.attn.hook_z",
    "blocks.0.hook_resid_mid",
    "blocks.0.mlp.hook_post",
    "blocks.0.hook_resid_post",
    "blocks.1.hook_q_input",
    "blocks.1.attn.hook_k",
    "blocks.1.hook_attn_out",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_mlp_in",
    "blocks.1.hook_mlp_out",
    "blocks.1.hook_resid_post",
]


# ---------------------------------------------------------------------- interchange


def circle_pairs(n: int = 150) -> InterchangePairs:
    return draw_interchange_pairs(CIRCLES, "a", CIRCLES.domain(), n, generator())


def test_the_known_subspace_carries_the_operand_and_controls_do_not():
    untrained = init_params(SUBJECT.config, generator(5))
    untrained = {name: value.double() for name, value in untrained.items()}
    found = interchange(
        SUBJECT.params, SUBJECT.config, circle_pairs(), MID, HOLDS_A, untrained=untrained
    )
    assert found.swapped.value == 1.0 and found.swapped.n == 150
    assert found.swapped.interval[0] > 0.97  # Wilson: 150 / (150 + 1.96^2) = 0.975
    assert found.identity.value == 0.0  # pairs differ, and the network is always right
    assert found.random.n == 5 * 150 and found.random.value < 0.5
    assert found.arbitrary is not None and found.arbitrary.value == 0.0
    assert found.untrained is not None and found.untrained.value < 0.3
    assert found.selective > 0.5
    # The whole site swaps b too: right only where source and base share their b.
    pairs = circle_pairs()
    same_b = pairs.base[:, 1] == pairs.source[:, 1]
    assert torch.equal(found.whole.right, same_b)


def test_another_variable_of_the_same_site_is_told_apart():
    found = interchange(SUBJECT.params, SUBJECT.config, circle_pairs(), MID, HOLDS_B)
    pairs = circle_pairs()
    b_gives_it = (pairs.base[:, 0] + pairs.source[:, 1] - pairs.answer[:, 0]) % 13 == 0
    assert torch.equal(found.swapped.right, b_gives_it)
    assert found.untrained is None


def test_probe_subspace_spans_the_differences_of_the_rows():
    rows = torch.tensor([[3.0, 0, 1, 0], [-3, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0]]).double()
    torch.testing.assert_close(probe_subspace(rows, 1).abs(), torch.eye(4).double()[:1])
    both = probe_subspace(rows, 2)
    torch.testing.assert_close(both.T @ both, torch.diag(torch.tensor([1.0, 1, 0, 0]).double()))
    one = torch.tensor([[0.0, 3, 4]]).double()
    torch.testing.assert_close(probe_subspace(one, 1).abs(), one / 5)
    with pytest.raises(ProbeError, match="span 2 directions"):
        probe_subspace(rows, 3)


def test_random_subspaces_are_orthonormal_and_their_ranks_checked():
    three = random_subspace(7, 3, generator())
    torch.testing.assert_close(three @ three.T, torch.eye(3).double())
    with pytest.raises(ProbeError, match="rank 8"):
        random_subspace(7, 8, generator())


# ---------------------------------------------------------------------- the search


def test_losses_are_those_of_the_intervention_primitive_at_every_site():
    sites = make_sites(SMOOTH, hooks=EVERYWHERE)
    assert len(sites) == 3 * (len(EVERYWHERE) + 4)  # v, z, k and q_input: two heads each
    pairs = draw_interchange_pairs(ADDITION, "a", ADDITION.domain(), 7, generator())
    bases = torch.stack([random_subspace(6, 2, generator(i)).T for i in range(len(sites))])
    loss, _ = measured(sites, pairs, bases)
    wanted = primitive_losses(sites, pairs, bases)
    torch.testing.assert_close(loss, wanted, atol=1e-12, rtol=0)  # float64, sums of ten terms
    assert bool((loss[:6] != loss[0]).any())


@pytest.mark.parametrize("normalization", ["LN", None])
@pytest.mark.parametrize("d_mlp", [6, 0])
def test_losses_of_one_layer_and_several_answer_tokens(normalization, d_mlp):
    task = make_task("digit_addition", {"n_digits": 1})
    config = ModelConfig(
        n_layers=1,
        n_heads=2,
        d_model=6,
        d_head=6,
        d_mlp=d_mlp,
        d_vocab=12,
        d_vocab_out=12,
        n_ctx=5,
        act_fn="gelu",
        normalization=normalization,
    )
    params = random_params(config, 1)
    hooks = [
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_z",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_post",
    ]
    sites = make_sites(config, hooks=hooks + (["blocks.0.hook_mlp_out"] if d_mlp else []))
    generator_of = itertools.count(50)
    bases = torch.stack([random_subspace(6, 3, generator(next(generator_of))).T for _ in sites])
    for scored in (None, [1]):
        pairs = draw_interchange_pairs(task, "a_0", task.domain(), 9, generator(), scored=scored)
        loss, _ = measured(sites, pairs, bases, params, config)
        wanted = primitive_losses(sites, pairs, bases, params, config)
        torch.testing.assert_close(loss, wanted, atol=1e-12, rtol=0)


def test_gradient_by_finite_differences():
    hooks = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"]
    sites = [ProbeSite(hook=hook, position=at) for hook, at in zip(hooks, (1, 2, 2), strict=True)]
    sites += [ProbeSite(hook="blocks.1.attn.hook_z", position=2, head=1)]
    pairs = draw_interchange_pairs(ADDITION, "b", ADDITION.domain(), 6, generator())
    bases = torch.stack([random_subspace(6, 2, generator(i)).T for i in range(len(sites))])
    _, gradient = measured(sites, pairs, bases)
    along = torch.randn(bases.shape, generator=generator(9), dtype=torch.float64)
    along -= bases @ (bases.mT @ along)  # on the tangent space
    step = 1e-5
    ends = [
        primitive_losses(sites, pairs, torch.linalg.qr(bases + sign * step * along).Q)
        for sign in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    # Central differences of step 1e-5 in float64 are off by about 1e-10.
    torch.testing.assert_close((gradient * along).sum((1, 2)), slope, atol=1e-8, rtol=1e-7)
    assert bool((slope.abs() > 1e-3).all())


def test_together_is_as_alone():
    sites = make_sites(SMOOTH, hooks=["blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"])[2:4]
    pairs = draw_interchange_pairs(ADDITION, "a", ADDITION.domain(), 40, generator())
    plan = Plan(tuple(sites), (1, 3), (0, 7), 2, 8, 8, 0.05)
    together = finish(search(WEIGHTS, SMOOTH, pairs, plan))
    for kind, i, (j, k) in itertools.product(range(2), range(len(sites)), ((0, 0), (1, 1))):
        own = pairs.take(torch.arange(20 * kind, 20 * kind + 20))
        alone = finish(
            search(
                WEIGHTS,
                SMOOTH,
                own,
                Plan((sites[i],), (plan.ranks[j],), (plan.seeds[k],), 1, 8, 8, 0.05),
            )
        )
        got = together.bases[kind, i, j, k]
        # float64: products of another batch size round differently, eight steps long
        torch.testing.assert_close(
            got[:, : plan.ranks[j]], alone.bases[0, 0, 0, 0], atol=1e-9, rtol=0
        )
        assert not bool(got[:, plan.ranks[j] :].any())


def test_retraction_keeps_the_span_and_is_orthonormal():
    moved = torch.randn(3, 6, 2, generator=generator(), dtype=torch.float64)
    padded = torch.cat([moved, torch.zeros(3, 6, 1).double()], 2)
    got = retract(padded, torch.tensor([[[1.0, 1, 0]]]).double().expand(3, 1, 3))
    q = torch.linalg.qr(moved).Q
    torch.testing.assert_close(got @ got.mT, q @ q.mT)
    torch.testing.assert_close(
        got[:, :, :2].mT @ got[:, :, :2], torch.eye(2).double().expand(3, 2, 2)
    )


@pytest.fixture(scope="module")
def aligned() -> Alignment:
    untrained = init_params(SUBJECT.config, generator(5))
    steps = fit_das(
        {name: value.float() for name, value in SUBJECT.params.items()},
        SUBJECT.config,
        CIRCLES,
        "a",
        [MID, ProbeSite(hook="blocks.0.hook_resid_mid", position=0)],
        [1, 2],
        [0, 1],
        untrained=untrained,
        n_pairs=600,
        n_held_out=200,
        steps=80,
        batch=32,
        lr=0.05,
    )
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            assert all(isinstance(one, Progress) and one.done <= one.total for one in seen)
            return end.value


def test_search_finds_the_known_subspace(aligned):
    accuracy = aligned.accuracy()
    assert bool((accuracy[0, 1] > 0.95).all())  # rank 2, both seeds
    assert bool((accuracy[0, 0] < 0.6).all())  # a circle needs two dimensions
    for k in range(2):
        inside = (aligned.rows(0, 1, k).double() @ HOLDS_A.T).norm() ** 2 / 2
        assert inside > 0.95  # the share of the learned plane in the known one
    assert bool((aligned.selective()[0, 1] > 0.4).all())


def test_controls_of_the_search(aligned):
    controls = {name: value[0, 1] for name, value in aligned.controls().items()}
    assert set(controls) == {"identity", "random", "arbitrary", "untrained"}
    assert bool((controls["identity"] == 0).all())
    for name in ("random", "arbitrary", "untrained"):
        assert bool((controls[name] < 0.5).all()), name
    assert aligned.share(0, 1, 0).n == 200
    # Nothing reads the residual stream of position 0 after attention: a swap there does nothing.
    assert not bool(aligned.swapped[1].any())
    assert bool((aligned.selective()[1] <= 0).all())


def test_held_out_inputs_are_in_no_training_pair(monkeypatch):
    import probes.align as align

    seen: list[InterchangePairs] = []
    real = align.search

    def spy(params, config, pairs, plan):
        seen.append(pairs)
        return real(params, config, pairs, plan)

    monkeypatch.setattr(align, "search", spy)
    site = ProbeSite(hook="blocks.1.hook_resid_mid", position=2)
    found = finish(
        fit_das(
            WEIGHTS, SMOOTH, ADDITION, "a", [site], [2], [0], untrained=WEIGHTS,
            n_pairs=40, n_held_out=20, steps=2, batch=8,
        )
    )  # fmt: skip
    held = [*found.held_out.base.tolist(), *found.held_out.source.tolist()]
    held += [*found.arbitrary_held_out.base.tolist(), *found.arbitrary_held_out.source.tolist()]
    trained = [row for pairs in seen for row in (*pairs.base.tolist(), *pairs.source.tolist())]
    assert len(seen) == 2 and trained and held
    assert not {tuple(row) for row in trained} & {tuple(row) for row in held}
    rows = found.rows(0, 0, 0)
    again = swapped_right(WEIGHTS, SMOOTH, found.held_out, [(site, rows)])
    assert torch.equal(found.swapped[0, 0, 0], again[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [7]}, "rank 7 in a site of width 6"),
        ({"sites": []}, "nothing to train"),
        ({"steps": 0}, "nothing to train"),
        ({"variable": "wraps"}, "not defined"),
    ],
)
def test_a_search_that_cannot_be_is_refused(change, message):
    site = ProbeSite(hook="blocks.1.hook_resid_mid", position=2)
    given = {"variable": "a", "sites": [site], "ranks": [2], "seeds": [0], "steps": 2, **change}
    with pytest.raises(ProbeError, match=message):
        finish(fit_das(WEIGHTS, SMOOTH, ADDITION, **given))


def measured(sites, pairs, bases, params=WEIGHTS, config=SMOOTH):
    """Loss and gradient of one basis per site, over all pairs."""
    data = training_pairs(params, config, pairs, sites)
    answers = [pairs.task.answer_positions[i] for i in pairs.scored]
    uppers = upper_networks(params, config, data.tokens, answers, sites)
    rows = torch.arange(len(pairs)).expand(len(sites), -1)
    return loss_and_gradient(uppers, data, torch.arange(len(sites)), rows, bases)


def primitive_losses(sites, pairs, bases, params=WEIGHTS, config=SMOOTH):
    """The same losses through `intervene`."""
    cells = []
    for site, basis in zip(sites, bases, strict=True):
        heads = None if site.head is None else (site.head,)
        where = Site(hook=site.hook, positions=(site.position,), heads=heads, subspace=basis.T)
        cells.append((Intervention(site=where, source=OtherInput()),))
    task, columns = pairs.task, list(pairs.scored)
    logits = intervene(
        params,
        task.encode(pairs.base),
        config,
        cells,
        other=task.encode(pairs.source),
        positions=[task.answer_positions[i] for i in columns],
    )
    wanted = pairs.answer[:, columns].expand(len(cells), -1, -1)
    return -logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].mean((1, 2))

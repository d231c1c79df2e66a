"""Interchange and DAS beside TransformerLens' own, on the same weights."""

import torch
from transformer_lens.tools.analysis.interchange import (
    SubspaceInterchange,
    collect_activations,
    fit_das,
    intervened_logits,
)

from probes import align
from probes.interchange import draw_interchange_pairs, random_subspace, swapped_right
from probes.sites import ProbeSite
from tests.hand_built import circle_adder
from tests.reference.networks import random_params
from workbench.bridge import to_bridge
from workbench.intervene import Intervention, OtherInput, Site, intervene
from workbench.model_config import ModelConfig
from workbench.progress import finish
from workbench.task import make_task

ADDITION = make_task("modular_addition", {"p": 7})
CONFIG = ModelConfig(
    n_layers=2, n_heads=2, d_model=12, d_head=4, d_mlp=16, d_vocab=8, d_vocab_out=7, n_ctx=3,
    normalization="LN",
)  # fmt: skip
CIRCLES = make_task(
    "modular_addition", {"p": 13, "equals_token": False, "separate_vocabularies": True}
)


def test_swapped_logits_are_those_of_transformer_lens():
    params = random_params(CONFIG, 0, torch.float32)
    bridge = to_bridge(params, CONFIG).eval()
    pairs = draw_interchange_pairs(
        ADDITION, "a", ADDITION.domain(), 30, torch.Generator().manual_seed(0)
    )
    base, source = ADDITION.encode(pairs.base), ADDITION.encode(pairs.source)

    def last(tokens):
        return bridge(tokens)[:, -1]

    for hook, position in (
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.0.hook_attn_out", 2),
        ("blocks.0.hook_resid_post", 1),
        ("blocks.1.hook_mlp_out", 2),
    ):
        rows = random_subspace(12, 3, torch.Generator().manual_seed(1)).float()
        at = torch.full((30,), position)
        theirs = intervened_logits(
            bridge,
            hook,
            SubspaceInterchange(rows.T),
            base,
            collect_activations(bridge, hook, source, last, positions=at),
            last,
            positions=at,
        )
        site = Site(hook=hook, positions=(position,), subspace=rows)
        cell = (Intervention(site=site, source=OtherInput()),)
        ours = intervene(params, base, CONFIG, [cell], other=source, positions=[2])[0, :, 0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # float32, logits near 1
        plain = last(base)
        assert not torch.allclose(ours, plain, atol=1e-3)  # the swap did something
        right = swapped_right(
            params, CONFIG, pairs, [(ProbeSite(hook=hook, position=position), rows)]
        )
        assert torch.equal(right[0], theirs.argmax(-1) == pairs.answer[:, 0])


def test_both_searches_find_the_plane_of_an_operand():
    subject = circle_adder(CIRCLES, [1], [20.0])
    params = {name: value.float() for name, value in subject.params.items()}
    site = ProbeSite(hook="blocks.0.hook_attn_out", position=1)
    ours = finish(
        align.fit_das(
            params, subject.config, CIRCLES, "a", [site], [2], [0], n_pairs=256, n_held_out=150,
            steps=120, batch=64, lr=0.05,
        )
    )  # fmt: skip
    bridge = to_bridge(params, subject.config).eval()

    def last(tokens):
        return bridge(tokens)[:, -1]

    pairs = draw_interchange_pairs(
        CIRCLES, "a", CIRCLES.domain(), 256, torch.Generator().manual_seed(3)
    )
    theirs = fit_das(
        bridge,
        site.hook,
        CIRCLES.encode(pairs.base),
        CIRCLES.encode(pairs.source),
        pairs.answer[:, 0],
        last,
        rank=2,
        base_positions=torch.ones(256, dtype=torch.long),
        source_positions=torch.ones(256, dtype=torch.long),
        epochs=30,
        batch_size=64,
        lr=0.05,
    )
    their_right = swapped_right(
        params, subject.config, ours.held_out, [(site, theirs.basis.T.contiguous())]
    )
    our_accuracy = float(ours.accuracy())
    assert our_accuracy > 0.95
    # 150 held-out pairs: two shares near 1 differ by less than this.
    assert abs(our_accuracy - float(their_right.double().mean())) < 0.1

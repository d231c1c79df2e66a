"""Path patching: a path of one edge, linear networks, and a slow way that recomputes by hand.

float64; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.graph import Graph
from circuits.methods.exact import edge_cells
from circuits.path_patching import all_paths, path_patch, path_patches
from circuits.problem import ABLATIONS, Problem, writer_outputs
from tests.reference.networks import SEEDS, random_config
from tests.unit.test_edges import problem
from workbench.errors import CircuitError
from workbench.intervene import intervene
from workbench.metrics import Metric
from workbench.transformer import forward


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_a_path_of_one_edge_is_that_edge_patched(seed: int) -> None:
    """By interventions at the reader, which share nothing with paths; per pair."""
    made = replace(problem(seed), ablation=ABLATIONS[seed % 4])
    reader = made.graph.reading_hooks[-1]
    read = forward(made.params, made.base, made.config, taps=[reader.hook]).activations
    change = made.patch - writer_outputs(made.params, made.base, made.config)
    _, cells = edge_cells(made, reader, change, read[reader.hook])
    logits = intervene(made.params, made.base, made.config, cells, positions=made.positions)
    paths = [[(writer, "logits")] for writer in made.graph.writers]
    assert_close(path_patches(made, paths), made.metric(logits) - made.base_metric)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_all_paths_of_a_linear_network_sum_to_the_whole_effect(seed: int, direction: str) -> None:
    config = replace(random_config(seed), attention_rate=0.0, d_mlp=0, normalization=None)
    config = replace(config, n_layers=min(config.n_layers, 2))
    weights = torch.randn(2, config.d_vocab_out, generator=torch.Generator().manual_seed(seed))
    linear = Metric(name="linear", function=lambda x: (x * weights).sum((-1, -2)))
    made = replace(problem(seed, config=config), metric=linear, direction=direction)
    paths = [path for start in ("embed", "pos_embed") for path in all_paths(made.graph, start)]
    effects = path_patches(made, [[path] for path in paths])
    assert_close(effects.sum(0), made.other_metric - made.base_metric)
    assert_close(path_patch(made, *paths), made.other_metric - made.base_metric)
    for path, effect in zip(paths, effects, strict=True):
        if any(node.endswith(("<q>", "<k>")) for node in path):  # attention does not look
            assert_close(effect, torch.zeros(3).double())
    assert effects.abs().max() > 0.01


@pytest.mark.parametrize("seed", [1, 3, 4, 6])
def test_paths_against_recomputing_each_component(seed: int) -> None:
    """Every path of three nodes and some longer ones; one component at a time."""
    config = replace(random_config(seed), n_layers=2, n_heads=2, d_mlp=10)
    made = replace(problem(seed, config=config), ablation=ABLATIONS[seed % 4])
    paths = [p for start in ("embed", "a0.h1", "m0") for p in all_paths(made.graph, start)]
    chosen = paths[:: 1 + len(paths) // 12]
    assert max(len(path) for path in chosen) >= 4
    effects = path_patches(made, [[path] for path in chosen])
    for path, effect in zip(chosen, effects, strict=True):
        assert_close(effect, along_slowly(made, path))


def along_slowly(made: Problem, path: tuple[str, ...]) -> Tensor:
    """Carry one change along a path: edit one input, read one output, edit the next."""
    graph = Graph(made.config)
    base = writer_outputs(made.params, made.base, made.config)
    start = graph.writers.index(path[0])
    carried = made.patch[start] - base[start]
    for node in path[1:-1]:
        block = f"blocks.{node[1]}"
        if node.startswith("m"):
            edits = {f"{block}.hook_mlp_in": _shift(carried, None)}
            out = f"{block}.hook_mlp_out"
        else:
            name, letter = node[:-1].split("<")
            head = int(name.split(".h")[1])
            edits = {f"{block}.hook_{letter}_input": _shift(carried, head)}
            out = f"{block}.attn.hook_result"
        after = forward(made.params, made.base, made.config, taps=[out], edits=edits)
        writer = graph.writers.index(node.split("<")[0])
        written = after.activations[out]
        written = written if node.startswith("m") else written[:, :, head]
        carried = written - base[writer]
    last = f"blocks.{made.config.n_layers - 1}.hook_resid_post"
    logits = forward(made.params, made.base, made.config, edits={last: _shift(carried, None)})
    return made.metric(logits.logits[:, list(made.positions)]) - made.base_metric


def test_paths_that_meet_add_before_the_reader() -> None:
    """Two embeddings into one MLP: its input moves by both, and its output once."""
    config = replace(random_config(1), n_layers=1, d_mlp=10)
    made = replace(problem(1, config=config), ablation="zero")
    base = writer_outputs(made.params, made.base, made.config)
    both = (made.patch - base)[:2].sum(0)
    taps = ["blocks.0.hook_mlp_out"]
    edits = {"blocks.0.hook_mlp_in": _shift(both, None)}
    run = forward(made.params, made.base, config, taps=taps, edits=edits)
    moved = run.activations[taps[0]] - base[made.graph.writers.index("m0")]
    last = {"blocks.0.hook_resid_post": _shift(moved, None)}
    logits = forward(made.params, made.base, config, edits=last).logits
    expected = made.metric(logits[:, list(made.positions)]) - made.base_metric
    paths = [("embed", "m0", "logits"), ("pos_embed", "m0", "logits")]
    assert_close(path_patch(made, *paths, paths[0]), expected)
    apart = path_patch(made, paths[0]) + path_patch(made, paths[1])
    assert (apart - expected).abs().max() > 1e-3  # the MLP is not linear


def test_all_paths_patched_together_are_the_other_input() -> None:
    for seed in (0, 2, 6):
        config = replace(random_config(seed), n_layers=1 + seed % 3 // 2, n_heads=2, d_mlp=10)
        made = problem(seed, config=config)
        paths = [path for start in ("embed", "pos_embed") for path in all_paths(made.graph, start)]
        assert_close(path_patch(made, *paths), made.other_metric - made.base_metric)


def test_every_path_of_a_small_network_by_name() -> None:
    config = replace(random_config(0), n_layers=1, n_heads=1, d_mlp=4)
    heads = [("embed", f"a0.h0<{letter}>") for letter in "qkv"]
    expected = [(*head, "m0", "logits") for head in heads]
    expected += [(*head, "logits") for head in heads]
    expected += [("embed", "m0", "logits"), ("embed", "logits")]
    for n_pos in (None, 3):
        assert sorted(all_paths(Graph(config, n_pos), "embed")) == sorted(expected)


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        ([("embed", "a0.h0", "logits")], "no edge 'embed->a0.h0'; did you mean 'embed->a0.h0<"),
        ([("a0.h0", "a0.h0<q>", "logits")], "no edge 'a0.h0->a0.h0<q>'"),
        ([("a0.h0<q>", "logits")], "no edge 'a0.h0<q>->logits'"),
        ([("embed", "a0.h0<q>")], "must be a list of at least two nodes and end at 'logits'"),
        ([("logits",)], "must be a list of at least two nodes"),
        (["embed"], "must be a list of at least two nodes"),
        ([], "no path to patch"),
    ],
)
def test_paths_that_do_not_exist(paths: list[tuple[str, ...]], match: str) -> None:
    with pytest.raises(CircuitError, match=match):
        path_patch(problem(0), *paths)
    with pytest.raises(CircuitError, match="no writer 'm9'"):
        all_paths(problem(0).graph, "m9")


def _shift(change: Tensor, head: int | None) -> Callable[[Tensor], Tensor]:
    def shift(read: Tensor) -> Tensor:
        if head is None:
            return read + change
        moved = read.clone()
        moved[:, :, head] += change
        return moved

    return shift

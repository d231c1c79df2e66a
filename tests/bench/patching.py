"""Patching, measured beside TransformerLens on the same weights and inputs.

    OMP_NUM_THREADS=2 python -m tests.bench.patching              # the table
    python -m tests.bench.patching --device cuda --json           # the same on a GPU, as data

Three tables: (a) the sweep over every head and position of a 4-layer network; (b) attribution of
every edge at every position; (c) exact patching of every edge of a 2-layer network. The two sides
take turns, so that the *ratio* survives a machine whose speed drifts; medians and the range of the
middle 80 % are given. Where TransformerLens is not installed its side is left out.
"""

import argparse
import importlib.util
import itertools
import json
import os
import platform
import resource
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # before TransformerLens draws its bars

import torch
from torch import Tensor

from circuits.graph import Graph
from circuits.method import methods
from circuits.patching import sweep
from circuits.problem import Problem
from tests.bench.gpt2 import edge_name, gpt2
from tests.bench.measuring import divided, spread, timed
from tests.bench.sweep_arithmetic import arithmetic_seconds, forward_seconds, whole_passes
from workbench.intervene import CPU_BUDGET, CUDA_BUDGET
from workbench.metrics import Metric
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params
from workbench.progress import finish
from workbench.recipe import default_model
from workbench.task import make_task

NETWORK = ModelConfig(
    n_layers=4,
    n_heads=8,
    d_model=128,
    d_head=16,
    d_mlp=512,
    d_vocab=64,
    d_vocab_out=64,
    n_ctx=12,
    normalization="LN",
)
"""Of the sweep: 4 * 8 * 12 = 384 cells."""
SUBSET = 16
"""At batch 64 TransformerLens runs every 16th cell; a cell costs it the same wherever it lies."""
EAP_PAIRS, EXACT_PAIRS = 256, 64


def main() -> None:
    """Print the tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each side")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    lens = importlib.util.find_spec("transformer_lens") is not None
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    told: dict[str, Any] = {
        "machine": where,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "transformer_lens": lens,
    }
    told["sweep"] = [sweep_times(b, device, arguments.rounds, lens) for b in (1, 64)]
    told["edge_attribution"] = attribution_times(device, arguments.rounds, lens)
    told["exact_edges"] = exact_times(device, arguments.rounds)
    print(json.dumps(told, default=vars) if arguments.json else tables(told))


def sweep_times(batch: int, device: torch.device, rounds: int, lens: bool) -> dict[str, Any]:
    """(a) Every head at every position, denoising, logit difference at the last position."""
    problem = random_problem(NETWORK, batch, device)
    cells = NETWORK.n_layers * NETWORK.n_heads * NETWORK.n_ctx
    before = peak_bytes(device)
    finish(sweep(problem, "head", by=["position"]))
    peak = peak_bytes(device) - before
    theirs = lens_sweep(problem, 1 if batch == 1 else SUBSET) if lens else None
    rows: dict[str, list[float]] = {"ours": [], "lens": [], "arithmetic": [], "plain": []}
    passes = cells * whole_passes(NETWORK)
    for _ in range(rounds):
        seconds, found = timed(lambda: finish(sweep(problem, "head", by=["position"])), device)
        rows["ours"].append(seconds)
        rows["arithmetic"].append(arithmetic_seconds(NETWORK, batch, device))
        rows["plain"].append(passes * forward_seconds(NETWORK, batch, device))
        if theirs is not None:
            seconds, values = timed(theirs[0], device)
            rows["lens"].append(seconds * cells / len(theirs[1]))
    told: dict[str, Any] = {
        "batch": batch,
        "cells": cells,
        "ours_ms": spread([x * 1e3 for x in rows["ours"]]),
        "arithmetic_ms": spread([x * 1e3 for x in rows["arithmetic"]]),
        "over_arithmetic": spread(divided(rows["ours"], rows["arithmetic"])),
        "plain_arithmetic_ms": spread([x * 1e3 for x in rows["plain"]]),
        "over_plain_arithmetic": spread(divided(rows["ours"], rows["plain"])),
        "budget_mib": (CUDA_BUDGET if device.type == "cuda" else CPU_BUDGET) / 2**20,
        "peak_mib": peak / 2**20,
    }
    if theirs is not None:
        patched = found.effects.mean(-1) + found.base_metric.mean()
        ours = torch.stack([patched[layer, head, pos] for layer, pos, head in theirs[1]])
        told |= {
            "lens_cells": len(theirs[1]),
            "lens_ms_per_cell": spread([x * 1e3 / cells for x in rows["lens"]]),
            "times_faster": spread(divided(rows["lens"], rows["ours"])),
            "max_difference": float((ours - values.cpu()).abs().max()),
        }
    return told


def lens_sweep(
    problem: Problem, every: int
) -> tuple[Callable[[], Tensor], list[tuple[int, int, int]]]:
    """TransformerLens' sweep over z by (layer, pos, head), of every so-manieth cell."""
    import pandas as pd
    from transformer_lens import patching

    from workbench.bridge import to_bridge

    model = to_bridge(problem.params, problem.config).eval()
    with torch.no_grad():
        _, clean_cache = model.run_with_cache(problem.clean)
    config, n_pos = problem.config, problem.clean.shape[1]
    axes = (range(config.n_layers), range(n_pos), range(config.n_heads))
    cells = list(itertools.product(*axes))[::every]
    given = (model, problem.corrupted, clean_cache)

    def metric(logits: Tensor) -> Tensor:
        return problem.metric(logits[:, list(problem.positions)]).mean()

    @torch.no_grad()
    def run() -> Tensor:
        if every == 1:
            result = patching.get_act_patch_attn_head_out_by_pos(*given, metric)
            return torch.as_tensor(result).flatten()
        result = patching.generic_activation_patch(
            *given,
            metric,
            patching.layer_pos_head_vector_patch_setter,
            "z",
            index_df=pd.DataFrame(cells, columns=["layer", "pos", "head"]),
        )
        return torch.as_tensor(result)

    return run, cells


def attribution_times(device: torch.device, rounds: int, lens: bool) -> dict[str, Any]:
    """(b) EAP of every edge at every position, beside TransformerLens' edge attribution.

    Its edges work on a wrapped GPT-2 only, so both run one (2 layers, 4 heads, d_model 64, ReLU).
    It takes pair by pair, whatever their number, so it is timed on 8 of them.
    """
    config = ModelConfig(
        n_layers=2,
        n_heads=4,
        d_model=64,
        d_head=16,
        d_mlp=256,
        d_vocab=32,
        d_vocab_out=32,
        n_ctx=6,
        normalization="LN",
        unembed_bias=False,
    )
    model, params = gpt2(config, device) if lens else (None, random_params(config))
    params = {name: tensor.to(device) for name, tensor in params.items()}
    problem = random_problem(config, EAP_PAIRS, device, params, per_position=True)
    eap = methods.get("eap")()
    finish(eap.score(problem))
    ours, theirs, few = [], [], 8
    for _ in range(rounds):
        seconds, scores = timed(lambda: finish(eap.score(problem)), device)
        ours.append(seconds / EAP_PAIRS)
        if model is not None:
            seconds, result = timed(lambda: lens_edges(model, problem, few), device)
            theirs.append(seconds / few)
    told: dict[str, Any] = {
        "edges": problem.graph.n_edges,
        "pairs": EAP_PAIRS,
        "ours_pairs_per_second": spread([1 / x for x in ours]),
    }
    if model is not None:
        small = random_problem(config, few, device, params, per_position=True, of=EAP_PAIRS)
        scores = finish(eap.score(small))
        found = {edge_name(*edge): value for edge, value in result.edge_scores.items()}
        off = max(abs(scores.of(name) - value) for name, value in found.items())
        told |= {
            "lens_pairs_per_second": spread([1 / x for x in theirs]),
            "times_faster": spread(divided(theirs, ours)),
            "edges_compared": len(found),
            "max_difference": off,
        }
    return told


def lens_edges(model: Any, problem: Problem, few: int) -> Any:
    """TransformerLens' own attribution of every edge, over the first few pairs."""
    from transformer_lens.tools.analysis import attribution_patching as lens

    def metric(logits: Tensor) -> Tensor:
        return problem.metric(logits[:, list(problem.positions)]).mean()

    config = lens.EdgeAttributionConfig(granularity="edge")
    return lens.attribution_patch(
        model, problem.clean[:few], problem.corrupted[:few], metric, config
    )


def exact_times(device: torch.device, rounds: int) -> dict[str, Any]:
    """(c) Exact patching of every edge of the network that digit addition trains."""
    config = default_model(make_task("digit_addition"))
    problem = random_problem(config, EXACT_PAIRS, device)
    exact = methods.get("exact")()
    seconds = [timed(lambda: finish(exact.score(problem)), device)[0] for _ in range(rounds)]
    return {"edges": problem.graph.n_edges, "pairs": EXACT_PAIRS, "seconds": spread(seconds)}


def random_problem(
    config: ModelConfig,
    batch: int,
    device: torch.device,
    params: Params | None = None,
    *,
    per_position: bool = False,
    of: int | None = None,
) -> Problem:
    """Denoising random pairs; the metric is the difference of two logits at the last position.

    `of`: draw as many pairs, and keep the first `batch`.
    """
    given = random_params(config) if params is None else params
    generator = torch.Generator().manual_seed(1)
    shape = (of or batch, 2, config.n_ctx)
    tokens = torch.randint(config.d_vocab, shape, generator=generator)[:batch].to(device)
    return Problem(
        params={name: tensor.to(device) for name, tensor in given.items()},
        config=config,
        clean=tokens[:, 0],
        corrupted=tokens[:, 1],
        metric=Metric(name="difference", function=lambda x: x[..., 0, 1] - x[..., 0, 2]),
        positions=(config.n_ctx - 1,),
        graph=Graph(config, config.n_ctx if per_position else None),
        direction="denoising",
    )


def random_params(config: ModelConfig) -> Params:
    """Gaussian weights of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(0)
    params: Params = {}
    for name, shape in param_shapes(config).items():
        leaf = name.rsplit(".", 1)[1]
        noise = torch.randn(shape, generator=generator)
        scale = 0.7 / config.d_model**0.5 if leaf.startswith("W") else 0.2
        params[name] = scale * noise + (leaf == "w")
    return params


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: of the device, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tables(told: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [
        f"{told['machine']}, {told['threads']} threads, torch {told['torch']}; median of "
        f"{told['rounds']} (middle 80 %)"
    ]
    for row in told["sweep"]:
        lines += ["", f"head x position sweep, {row['cells']} cells, batch {row['batch']}"]
        lines.append(f"  ours             {row['ours_ms'].words(' ms')}")
        lines.append(f"  its arithmetic   {row['arithmetic_ms'].words(' ms')}")
        lines.append(f"  ours/arithmetic  {row['over_arithmetic'].words(digits=2)}")
        lines.append(f"  plainly counted  {row['plain_arithmetic_ms'].words(' ms')}")
        lines.append(f"  ours/plainly     {row['over_plain_arithmetic'].words(digits=2)}")
        lines.append(
            f"  peak memory      +{row['peak_mib']:.0f} MiB in all; budget of a chunk "
            f"{row['budget_mib']:.0f} MiB"
        )
        if "times_faster" in row:
            lines.append(
                f"  TransformerLens  {row['lens_ms_per_cell'].words(' ms', 2)} a cell, timed on "
                f"{row['lens_cells']} cells"
            )
            lines.append(f"  times faster     {row['times_faster'].words()}")
            lines.append(f"  max |difference| {row['max_difference']:.1e}")
    row = told["edge_attribution"]
    lines += ["", f"EAP, {row['edges']} edges (per position), {row['pairs']} pairs"]
    lines.append(f"  ours             {row['ours_pairs_per_second'].words(' pairs/s', 0)}")
    if "times_faster" in row:
        lines.append(f"  TransformerLens  {row['lens_pairs_per_second'].words(' pairs/s')}")
        lines.append(f"  times faster     {row['times_faster'].words(digits=0)}")
        lines.append(
            f"  max |difference| {row['max_difference']:.1e} over {row['edges_compared']} edges"
        )
    row = told["exact_edges"]
    lines += ["", f"exact patching of {row['edges']} edges, {row['pairs']} pairs"]
    lines.append(f"  ours             {row['seconds'].words(' s', 2)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

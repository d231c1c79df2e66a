"""Running out of memory, as an allocator that refuses would have it: smaller chunks, or one error.

Whatever is computed in halved chunks must be what it is in one; float64, sums in another order.
"""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import edge_attribution, edges, path_patching
from circuits.edge_attribution import Course, attribute_edges
from circuits.edges import measure_circuits
from circuits.graph import Graph
from circuits.path_patching import path_patches
from circuits.problem import Problem
from tests.reference.networks import random_config, random_params, random_tokens
from workbench import cell_plan, layers, patched_forward
from workbench.errors import ResourceError
from workbench.intervene import Cell, Intervention, Mean, OtherInput, Site, Zero, intervene
from workbench.memory import halving_chunks, needs_memory, out_of_memory
from workbench.metrics import Metric
from workbench.progress import finish

FAILURES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
)
BATCH = 4


def refusing(
    function: Callable[..., Any], most: int, argument: int
) -> tuple[Callable[..., Any], list[int]]:
    """The function, out of memory where that argument is longer than `most`; and all lengths."""
    lengths: list[int] = []

    def refuse(*args: Any, **options: Any) -> Any:
        lengths.append(len(args[argument]))
        if lengths[-1] > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return function(*args, **options)

    return refuse, lengths


def problem(seed: int) -> Problem:
    config = random_config(seed)
    return Problem(
        params=random_params(config, seed),
        config=config,
        clean=random_tokens(config, seed, batch=BATCH),
        corrupted=random_tokens(config, seed + 1, batch=BATCH),
        metric=Metric(name="odd", function=lambda x: x.tanh().sum((-1, -2))),
        positions=(config.n_ctx - 1,),
        graph=Graph(config),
    )


@pytest.mark.parametrize("failure", FAILURES)
def test_chunks_halve_until_they_fit_and_stay_small(failure: Exception) -> None:
    tried = []

    def run(part: slice) -> list[int]:
        tried.append((part.start, part.stop))
        if part.stop - part.start > 3:
            raise failure
        return list(range(10))[part]

    parts = list(halving_chunks([2] * 10, 16, run, one="one"))
    assert [made for _, made in parts] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert tried == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


def test_chunks_hold_what_the_budget_allows_and_at_least_one() -> None:
    parts = [part for part, _ in halving_chunks([5, 1, 1, 9, 1, 1], 6, lambda part: 0, one="one")]
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(halving_chunks([], 6, lambda part: 0, one="one")) == []


@pytest.mark.parametrize("failure", FAILURES)
def test_what_does_not_fit_at_all_is_one_clear_error(failure: Exception) -> None:
    def run(part: slice) -> int:
        raise failure

    mend = r"\); use fewer inputs, or a device with more memory$"
    with pytest.raises(ResourceError, match=r"^one thing does not fit in memory \(" + ".*" + mend):
        list(halving_chunks([1, 1], 2, run, one="one thing"))
    with pytest.raises(ResourceError, match=r"^this run does not fit"), needs_memory("this run"):
        raise failure


def test_other_errors_pass_through_at_once() -> None:
    calls = []

    def run(part: slice) -> int:
        calls.append(part)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(halving_chunks([1, 1], 2, run, one="one"))
    assert len(calls) == 1
    with pytest.raises(RuntimeError, match="multiplied"), needs_memory("this run"):
        run(slice(0))
    assert not out_of_memory(ValueError("out of memory"))


def random_cells(made: Problem) -> list[Cell]:
    sites = [f"blocks.{layer}.attn.hook_z" for layer in range(made.config.n_layers)]
    return [
        (Intervention(site=Site(hook=hook, heads=(0,)), source=source),)
        for hook in sites
        for source in (OtherInput(), Zero(), Mean())
    ]


def intervened(made: Problem) -> Tensor:
    return intervene(made.params, made.base, made.config, random_cells(made), other=made.other)


def test_interventions_run_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(3)
    expected, n_cells = intervened(made), len(random_cells(made))
    refuse, lengths = refusing(patched_forward._Chunk, 2, 2)
    monkeypatch.setattr(patched_forward, "_Chunk", refuse)
    torch.testing.assert_close(intervened(made), expected, atol=1e-12, rtol=0)
    assert lengths[0] == n_cells > 4 and max(lengths[-3:]) <= 2


@pytest.mark.parametrize(
    ("module", "name", "argument", "match"),
    [
        (cell_plan, "forward", 1, "the unpatched run of 4 inputs does not fit"),
        (layers, "attention_pattern", 0, "the unpatched run of 4 inputs does not fit"),
        (patched_forward, "_Chunk", 2, r"one cell on 4 inputs of \d positions does not fit"),
    ],
)
def test_interventions_that_do_not_fit(
    module: types.ModuleType, name: str, argument: int, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse, _ = refusing(getattr(module, name), 0, argument)
    monkeypatch.setattr(module, name, refuse)
    with pytest.raises(ResourceError, match=match):
        intervened(problem(3))


def test_source_runs_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(3)
    refuse, _ = refusing(cell_plan.forward, BATCH, 1)
    monkeypatch.setattr(cell_plan, "forward", refuse)
    reference = random_tokens(made.config, 9, batch=BATCH + 1)
    with pytest.raises(ResourceError, match="the run of 5 reference inputs does not fit"):
        intervene(
            *(made.params, made.base, made.config, random_cells(made)),
            other=made.other,
            reference=reference,
        )


def circuits_measured(made: Problem) -> Tensor:
    draw = torch.rand(7, *made.graph.is_edge.shape, generator=torch.Generator().manual_seed(0))
    return measure_circuits(made, (draw < 0.6).double())


def paths_patched(made: Problem) -> Tensor:
    firsts = made.graph.writers[:5]
    return path_patches(made, [[(writer, "logits")] for writer in firsts])


def edges_attributed(made: Problem) -> Tensor:
    course = Course((0, 1), tuple(range(len(made.graph.writers))))
    return finish(attribute_edges(made, [course], [0.1, 0.3, 0.5, 0.7, 0.9]))


RUNS = [
    (edges, circuits_measured, 2 * BATCH, BATCH - 1, "one circuit on 4 pairs"),
    (path_patching, paths_patched, 2 * BATCH, BATCH - 1, "unpatched run of 4 pairs"),
    (edge_attribution, edges_attributed, 10, 4, "the gradient of one pair in 5 cells"),
]


@pytest.mark.parametrize(("module", "run", "fits", "too_few", "match"), RUNS)
def test_circuits_and_gradients_run_in_smaller_chunks(
    module: types.ModuleType,
    run: Callable[[Problem], Tensor],
    fits: int,
    too_few: int,
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = problem(3)
    expected, real = run(made), module.forward
    refuse, lengths = refusing(real, fits, 1)
    monkeypatch.setattr(module, "forward", refuse)
    torch.testing.assert_close(run(made), expected, atol=1e-12, rtol=0)
    assert max(lengths) > fits and min(lengths) <= fits
    refuse, _ = refusing(real, too_few, 1)
    monkeypatch.setattr(module, "forward", refuse)
    with pytest.raises(ResourceError, match=match):
        run(made)


def test_memory_that_runs_out_in_the_middle_of_a_chunk_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last product of the first chunk fails, once; what was summed before it is dropped."""
    made = problem(3)
    expected, calls = edges_attributed(made), [0]
    real, last = edge_attribution.contract, len(made.graph.reading_hooks)

    def once(*args: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == last:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(edge_attribution, "contract", once)
    torch.testing.assert_close(edges_attributed(made), expected, atol=1e-12, rtol=0)
    assert calls[0] == 3 * last  # one chunk that failed, then its halves


def test_writers_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is patched in is computed before the chunks: no chunk is blamed for it."""

    def refuse(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr("circuits.problem.writer_outputs", refuse)
    for run in (circuits_measured, edges_attributed):
        with pytest.raises(ResourceError, match="what writers write on 4 pairs does not fit"):
            run(problem(3))

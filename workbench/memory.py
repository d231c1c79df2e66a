"""Work in chunks that fit in memory, and a clear error where nothing does.

An estimate of the bytes that a chunk takes decides how large chunks are at first. Where memory runs
out all the same, the chunk is run again as smaller ones, and later chunks stay small.
"""

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from workbench.errors import ResourceError

Result = TypeVar("Result")

FAILED_ALLOCATIONS = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
)
"""What a `RuntimeError` of PyTorch says where memory ran out, by allocator and library."""


def halving_chunks(
    costs: Sequence[int], budget: int, run: Callable[[slice], Result], *, one: str
) -> Iterator[tuple[slice, Result]]:
    """What `run` makes of one chunk of items after another, and which items those were.

    Args:
        costs: bytes of each item, above 0.
        budget: bytes that the items of a chunk may cost together; a chunk holds at least one.
        run: called with the items of a chunk, as a slice. Where it runs out of memory it is called
            again with half of them: what it did until then must not count.
        one: what an item is, for the error.

    Raises `ResourceError` where not even one item fits in memory.
    """
    ends = list(itertools.accumulate(costs))
    start = 0
    while start < len(costs):
        stop = bisect.bisect_right(ends, ends[start] - costs[start] + budget)
        chunk = slice(start, max(stop, start + 1))
        try:
            made = run(chunk)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if chunk.stop == start + 1:
                raise _does_not_fit(one, error) from error
            budget = (ends[chunk.stop - 1] - ends[start] + costs[start]) // 2
            continue
        yield chunk, made
        start = chunk.stop


@contextlib.contextmanager
def needs_memory(what: str) -> Iterator[None]:
    """For work that cannot be split: running out of memory inside raises `ResourceError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise _does_not_fit(what, error) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and any(part in words for part in FAILED_ALLOCATIONS)


def _does_not_fit(what: str, error: BaseException) -> ResourceError:
    said = " ".join((str(error) or type(error).__name__).split())[:120]
    return ResourceError(
        f"{what} does not fit in memory ({said}); use fewer inputs, or a device with more memory"
    )

"""What was computed once is kept for everyone, by content, until there is too much of it.

    @remembered
    def attention(network: Network, tokens: tuple[int, ...]) -> Tensor: ...

Arguments must be hashable *by content*: networks (`apps.web.choice`), analyses, strings, numbers,
tuples. Never a tensor: what samples or takes the identity of one answers with another's numbers.
Two sessions that ask the same at once compute it once. What is returned is shared: nobody may
write to it.
"""

import sys
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields, is_dataclass
from numbers import Number
from typing import Any, ParamSpec, TypeVar

import cachetools
import cachetools.keys
from pydantic import BaseModel
from torch import Tensor

MOST_BYTES = 512 * 2**20
"""Of everything that is kept."""
OVERHEAD = 512
"""Bytes that a kept object is counted as, at least."""

P = ParamSpec("P")
T = TypeVar("T")


def bytes_of(value: Any) -> int:
    """About how much memory a value takes: tensors in full, containers with what they hold."""
    if isinstance(value, Tensor):
        return OVERHEAD + value.untyped_storage().nbytes()
    if isinstance(value, str | bytes):
        return sys.getsizeof(value)
    if isinstance(size := getattr(value, "nbytes", None), int):  # of numpy and of Arrow
        return OVERHEAD + size
    return OVERHEAD * (not isinstance(value, Number)) + sum(map(bytes_of, _held(value)))


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """Keep what a function returns, by its name and the content of its arguments."""
    name = f"{function.__module__}.{function.__qualname__}"

    def key(*arguments: Hashable, **named: Hashable) -> Hashable:
        return cachetools.keys.typedkey(name, *arguments, **named)  # True is not 1

    kept: Callable[P, T] = cachetools.cached(_kept, key=key, condition=_condition)(function)
    return kept


def forget() -> None:
    """Drop everything that is kept."""
    with _condition:
        _kept.clear()


def kept_bytes() -> int:
    """How much is kept."""
    with _condition:
        return int(_kept.currsize)


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, BaseModel):
        return list(vars(value).values())
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return ()


_kept: cachetools.LRUCache[Hashable, Any] = cachetools.LRUCache(MOST_BYTES, getsizeof=bytes_of)
_condition = threading.Condition()

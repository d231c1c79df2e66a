"""Types and shapes are checked on the first calls of each function in each test, and no further.

The import hook of jaxtyping wraps every function of our packages: each call is bound to its
signature and checked twice, which in a loop of thousands of small calls costs more than the work,
and a function defined inside another one is compiled anew with each. What a test would find it
finds in the first calls; those that follow go straight to the function.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

import jaxtyping
from jaxtyping import _decorator

ENOUGH = 5
"""Calls of a function that are checked in one test."""

checked: Counter[CodeType] = Counter()
"""Of the test that runs, by the function's code: one defined in a loop is still one."""

every_call = jaxtyping.jaxtyped


def first_calls(fn: Any = _decorator._sentinel, *, typechecker: Any = _decorator._sentinel) -> Any:
    """`jaxtyping.jaxtyped`, for as many calls of a function as are checked."""
    if not inspect.isfunction(fn):
        if fn is _decorator._sentinel:
            return functools.partial(first_calls, typechecker=typechecker)
        return every_call(fn, typechecker=typechecker)  # which comes back with what it holds
    code = fn.__code__
    strict: Callable[..., Any] | None = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal strict
        __tracebackhide__ = True
        if checked[code] >= ENOUGH:
            return fn(*args, **kwargs)
        checked[code] += 1
        if strict is None:
            strict = every_call(fn, typechecker=typechecker)
        return strict(*args, **kwargs)

    return call


def install() -> None:
    """Before any of our packages is imported; also where jaxtyping calls itself."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = first_calls

"""Processes to kill, forked from a server that has imported everything.

A kill then costs milliseconds and lands in the work, not in imports.
"""

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext


@contextmanager
def fork_server(*modules: str) -> Iterator[ForkServerContext]:
    """A server with these imports, though another file had one with its own, and may need it again.

    There is one server in a process, and it takes no more imports once it runs: each process
    forked from another file's would import torch, for seconds in which no kill finds any work.
    """
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    context = multiprocessing.get_context("forkserver")
    server._stop()
    context.set_forkserver_preload(list(modules))
    yield context
    server._stop()

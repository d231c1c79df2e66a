"""Sites shared out among the threads of a CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Fitted = TypeVar("Fitted")


def on_threads(fit: Callable[[range], Fitted], n_sites: int, device: torch.device) -> list[Fitted]:
    """Sites shared out among the threads of a CPU, each of which computes alone.

    A step is many small operations, of which each would otherwise wait for all threads.
    """
    n_threads = min(torch.get_num_threads(), n_sites) if device.type == "cpu" else 1
    if n_threads == 1:
        return [fit(range(n_sites))]
    ends = [n_sites * i // n_threads for i in range(n_threads + 1)]
    gradients, before = torch.is_grad_enabled(), torch.get_num_threads()

    def one(sites: range) -> Fitted:
        with torch.set_grad_enabled(gradients):
            return fit(sites)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(one, map(range, ends[:-1], ends[1:])))
    finally:
        torch.set_num_threads(before)

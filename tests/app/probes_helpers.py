"""What the tests of the Probes page share."""

from collections.abc import Mapping
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from apps.orders.sweep import SweepOrder
from apps.web import jobs
from tests.app.app_folder import FULL

POST = "blocks.0.hook_resid_post"
TINY: dict[str, Any] = {
    "variables": ["answer"],
    "hooks": ["blocks.0.hook_resid_mid", POST],
    "positions": [2],
    "seeds": [0],
    "n_permutations": 39,
    "n_untrained": 2,
    "n_random_erasures": 2,
}
ID = "answer-0123abcd"
ORDER = SweepOrder(sweep=ID, runs=(FULL,), question=TINY)
JOB = "00000000000000aa"
"""The id of every job that `noted_starts` notes."""


def words(page: AppTest) -> str:
    shown = (*page.info, *page.markdown, *page.caption, *page.warning, *page.error)
    return " ".join(one.value for one in shown)


def address(page: AppTest, key: str) -> str:
    """Streamlit gives what it was told: a text, or a list of one."""
    told = page.query_params[key]
    return told if isinstance(told, str) else "".join(told)


def flat(address: Mapping[str, Any]) -> dict[str, str]:
    """Streamlit's test has two forms of what stands in an address."""
    return {name: one if isinstance(one, str) else one[0] for name, one in address.items()}


def noted_starts(monkeypatch: pytest.MonkeyPatch) -> list[jobs.Order]:
    """Orders that are started from now on; none is worked off."""
    found: list[jobs.Order] = []

    def start(order: jobs.Order, *, owner: str) -> str:
        found.append(order)
        return JOB

    monkeypatch.setattr(jobs, "start", start)
    return found

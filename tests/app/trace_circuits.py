"""What tests of the Trace page's circuits share: a question, the page, and what stands on it."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from apps.web.choice import Network
from apps.web.shell import OURS
from apps.web.trace.circuit_numbers import AskedQuestion
from apps.web.trace.draft_files import Draft, ground_of, read_draft, write_draft
from apps.web.trace.draft_history import Operation, begin, did
from circuits.circuit import Circuit
from tests.app.app_folder import FULL, opened

ASKED = AskedQuestion(
    metric="logit_difference",
    ablation="resample",
    direction="denoising",
    pairs=16,
    corruptions=(),
    seed=0,
    clean=(),
    corrupted=(),
)
ADDRESS = {"trace_section": "Circuit", "trace_pairs": "16"}


def page(folder: Path, **address: str) -> AppTest:
    test = opened("trace", folder, **({"run": FULL} | ADDRESS | address))
    assert not test.exception and OURS not in [one.value for one in test.error]
    return test


def metric(test: AppTest, label: str) -> str:
    return next(str(one.value) for one in test.metric if one.label == label)


def said(test: AppTest) -> str:
    shown = (*test.success, *test.warning, *test.error, *test.info)
    return " ".join(one.value for one in shown).replace("\\", "")


def draft_of(test: AppTest, network: Network) -> Draft:
    return read_draft(network, address_of(test))


def address_of(test: AppTest, key: str = "trace_draft") -> str:
    """What the address has under a key; the draft's id."""
    named = test.query_params[key]
    return named if isinstance(named, str) else str(named[0])


def captions(test: AppTest) -> str:
    return " ".join(one.value for one in test.caption).replace("\\", "")


def whole(network: Network, n_pos: int | None = None) -> Circuit:
    graph = ground_of(network).graph(n_pos)
    return Circuit(graph, graph.is_edge)


def saved_draft(network: Network, *operations: Operation) -> Draft:
    """A draft in which these were done, as it was saved."""
    history = begin()
    for operation in operations:
        history = did(history, operation, ground_of(network))
    return write_draft(network, Draft(id=None, revision=0, history=history))

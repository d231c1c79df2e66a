"""The head of the Network page: what this network is, where from, and how often it is right."""

from functools import partial
from typing import Any

import streamlit as st

from apps.web.cache import remembered
from apps.web.choice import Network
from apps.web.network.data import accuracies
from apps.web.shell import escaped, guarded
from apps.web.words import help_of
from workbench.accuracy import Accuracy
from workbench.errors import RunError
from workbench.model_config import ModelConfig, n_params
from workbench.records import RECORDS, read_notebook, read_records

MECHANISM = "mechanism"
"""The kind of record whose verdict is shown."""


def draw_header(network: Network) -> None:
    """Name, origin, shape, accuracy with n and chance, and the verdict where there is one."""
    st.markdown(f"{_named(network)} · {_shape(network.run.config.model)} · {_origin(network)}")
    with st.spinner("Answering every input with this checkpoint…", show_time=True):
        measured = accuracies(network)
    chance = f"chance {_percent(network.task.chance)}"
    columns = st.columns(4)
    _accuracy(columns[0], "Accuracy", measured.all, "inputs", chance, help_of("answer"))
    if measured.held_out is None:
        columns[1].metric(
            "Held-out accuracy",
            "unknown",
            help=f"{help_of('held out')} It came without a list of its training inputs.",
        )
    else:
        _accuracy(
            columns[1],
            "Held-out accuracy",
            measured.held_out,
            "of them",
            chance,
            help_of("held out"),
        )
    columns[2].metric(
        "Parameters", f"{n_params(network.run.config.model):,}", help="Numbers that training sets."
    )
    columns[2].caption(_when(network))
    with columns[3]:
        guarded(partial(_verdict, network))  # a damaged record hides nothing else


def _accuracy(
    column: Any, label: str, measured: Accuracy, what: str, chance: str, help: str
) -> None:
    column.metric(label, _percent(measured.value), help=help)
    if measured.interval is None:
        column.caption(f"all {measured.n:,} {what}; {chance}")
    else:
        low, high = measured.interval
        ends = f"95 %: {100 * low:.2f} to {100 * high:.2f}"
        column.caption(f"{measured.n:,} sampled {what}, {ends}; {chance}")


def _percent(share: float) -> str:
    """A share for reading: 100 % and 0 % are exact."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return "below 0.01 %" if share < 1e-4 else f"{100 * share:.2f} %"


def _when(network: Network) -> str:
    """Which checkpoint this is."""
    steps = network.run.steps
    if len(steps) == 1:
        return "one checkpoint"
    return f"at step {network.step:,} of {steps[-1]:,}"


def _named(network: Network) -> str:
    seed = network.run.config.seed
    name = f"**{escaped(network.task.label)}**: {escaped(network.task.summary)}"
    return name if seed is None else f"{name} · seed {seed}"


def _shape(config: ModelConfig) -> str:
    layers = f"{config.n_layers} layer{'s' if config.n_layers > 1 else ''}"
    heads = f"{config.n_heads} head{'s' if config.n_heads > 1 else ''}"
    neurons = f"{config.d_mlp} neurons" if config.d_mlp else "no MLP"
    return f"{layers} of {heads} and {neurons}"


def _origin(network: Network) -> str:
    """Where the weights are from, and whose word that is."""
    config, parent = network.run.config, _parent(network)
    if parent is not None:
        return (
            f"opened from session {escaped(parent[:12])}: what was not asked again here is its "
            "author's word"
        )
    if config.source:
        told = ", ".join(f"{key} {value}" for key, value in config.source.items())
        return f"imported; its publisher says: {escaped(told)}"
    if config.recipe is None:
        return "imported; its publisher says nothing about it"
    labels = config.random_labels
    return f"trained here{f' on labels of which {labels:.0%} are random' if labels else ''}"


def _parent(network: Network) -> str | None:
    """The session it was opened from; Findings tells of a notebook that is damaged."""
    try:
        return read_notebook(network.run).parent
    except RunError:
        return None


def _verdict(network: Network) -> None:
    found = _found(network, _listing(network))
    if found is None:
        st.metric("Mechanism", "not asked", help=help_of("verdict"))
        st.caption("ask on the Findings page")
        return
    st.metric("Mechanism", found[0], help=help_of("verdict"))
    st.caption(f"{escaped(found[1])}; controls on Findings")


@remembered
def _found(network: Network, listing: tuple[tuple[str, int], ...]) -> tuple[str, str] | None:
    """Verdict and mechanism of the record about this checkpoint."""
    for record in read_records(network.run, network.step):
        if record.kind == MECHANISM:
            result = record.result
            return str(result["verdict"]), str(result["mechanism"] or "no mechanism known")
    return None


def _listing(network: Network) -> tuple[tuple[str, int], ...]:
    """Changes whenever a record beside the run does."""
    folder = network.run.path / RECORDS
    if not folder.is_dir():
        return ()
    return tuple(sorted((one.name, one.stat().st_mtime_ns) for one in folder.glob("*.json")))

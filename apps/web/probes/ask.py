"""Asking a network about its variables: the form, how long it will take, and the job."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.orders.ask import AskOrder
from apps.web import jobs
from apps.web.cache import remembered
from apps.web.choice import Network
from apps.web.probes.lines import position_name, records_of
from apps.web.shell import escaped
from apps.web.tab import tab
from apps.web.words import help_of
from workbench import config
from workbench.model_config import ModelConfig
from workbench.task import Task
from workbench.transformer import hook_names

if TYPE_CHECKING:
    from probes.analyses.probe import ProbeAnalysis
    from probes.counting import Amount

JOB = "probes_job"
"""Where the job of the form is in the address."""
UNPROBED = ("attn_scores", "pattern")
"""Ends of hooks that hold keys, not features."""
SECONDS_A_FIT = 6e-10
"""Per input, class and number of a site, with permutations and erasures: measured on two cores."""
FEWEST_VALUES = 16
"""A variable of fewer values takes as long as one of so many."""
SPLITS = {
    "grouped": "whole groups of like inputs, of any kind.",
    "network": "exactly the inputs that the network was not trained on.",
    "out_of_distribution": "all inputs in which a variable has certain values.",
}
"""How inputs may be held out from a probe."""
SAMPLED = 2048
"""Inputs by which the values of variables are counted."""


def draw_question(network: Network) -> None:
    """The form, folded where something was asked already, and how its job is doing."""
    for job_id in jobs.job_ids(JOB):
        jobs.panel(job_id, key=f"probes_panel_{job_id}", on_done=_found, watched=JOB)
    asked_before = any(one.step == network.step for one in records_of(network, "probe"))
    with st.expander("Ask a new question", expanded=not asked_before, icon=":material/add:"):
        analysis = _form(network)
        if analysis is None:
            st.info("Choose at least one variable and one kind of probe.")
            return
        amount = _checked(network, analysis)
        st.caption(told(amount, seconds_of(network, analysis, amount)))
        if st.button("Probe", key="probes_start", type="primary", icon=":material/sensors:"):
            order = AskOrder(
                run=network.name,
                step=network.step,
                analysis="probe",
                parameters=config.to_dict(analysis),
            )
            jobs.watch(JOB, jobs.start(order, owner=tab()))
            st.rerun()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the fields of a question say."""

    variables: tuple[str, ...]
    hooks: tuple[str, ...] | None
    positions: tuple[int, ...] | None
    probes: tuple[str, ...]
    seeds: tuple[int, ...]
    splits: tuple[str, ...]
    held_out_by: str | None
    n_permutations: int
    erase: bool

    def to_dict(self) -> dict[str, Any]:
        """As `probes.spec.ProbeSpec` takes it."""
        return {name: getattr(self, name) for name in self.__slots__}


def question_fields(task: Task, hooks: list[str], *, key: str) -> Asked:
    """The fields that a question to one network and a sweep share."""
    names, columns = variables_of(task), example_of(task)
    places = {position_name(at, columns): at for at in range(len(columns))}
    left, right = st.columns(2)
    variables = left.multiselect(
        "Variables to probe",
        names,
        default=[usual_variable(task)],
        key=f"{key}_ask_variables",
        bind="query-params",
        help="What the task computes on its way. " + help_of("probe"),
    )
    kinds = right.multiselect(
        "Kinds of probe",
        list(summaries()),
        default=["ridge"],
        key=f"{key}_ask_probes",
        bind="query-params",
        help="  \n".join(f"{name}: {summary}" for name, summary in summaries().items()),
    )
    chosen = left.multiselect(
        "Sites",
        hooks,
        key=f"{key}_ask_sites",
        bind="query-params",
        placeholder="The residual stream after each part",
        help="Hooks, as TransformerLens names them. The residual stream where none is chosen.",
    )
    at = right.multiselect(
        "Positions",
        list(places),
        key=f"{key}_ask_positions",
        bind="query-params",
        placeholder="All",
        help="Token positions, with the tokens of an example. All where none is chosen.",
    )
    seeds = left.text_input(
        "Seeds of splits",
        value="0:3",
        key=f"{key}_ask_seeds",
        bind="query-params",
        help="One split of the inputs, and one draw of every control, for each: 3, 0,4,7 or 0:3.",
    )
    erase = right.toggle(
        "Erase it, and ask again",
        value=True,
        key=f"{key}_ask_erase",
        bind="query-params",
        help=help_of("erasure"),
    )
    splits, held_out_by, n_permutations = _splits(names, key)
    many = [name for name in variables if 2 * values_of(task)[name] > SAMPLED]
    if many:
        st.warning(
            f"{escaped(', '.join(many))}: nearly every input has a value of its own, which leaves "
            "nothing to learn from. Probe a part of it.",
            icon=":material/warning:",
        )
    from apps.targets import parse_seeds

    return Asked(
        variables=tuple(variables),
        hooks=tuple(chosen) or None,
        positions=tuple(places[one] for one in at) or None,
        probes=tuple(kinds),
        seeds=tuple(parse_seeds(seeds)),
        splits=splits,
        held_out_by=held_out_by,
        n_permutations=n_permutations,
        erase=erase,
    )


def _splits(names: Sequence[str], key: str) -> tuple[tuple[str, ...], str | None, int]:
    """How inputs are held out from a probe, of which variable values are, and permutations."""
    left, middle, right = st.columns([3, 2, 2])
    splits = left.multiselect(
        "Held out from the probe",
        list(SPLITS),
        default=["grouped"],
        key=f"{key}_ask_splits",
        bind="query-params",
        help="  \n".join(f"{name}: {said}" for name, said in SPLITS.items()),
    )
    by = None
    if "out_of_distribution" in splits:
        by = middle.selectbox(
            "Values held out are of",
            names,
            key=f"{key}_ask_held_out_by",
            bind="query-params",
            help="The probe is fitted without inputs in which this variable has certain values, "
            "and read on those.",
        )
    permutations = right.number_input(
        "Permutations",
        min_value=19,
        max_value=100_000,
        value=999,
        step=100,
        key=f"{key}_ask_permutations",
        bind="query-params",
        help="The p-value counts how many of so many permuted labels are read as well. It is at "
        "least one in their number and one; several seeds need 39 or more.",
    )
    return tuple(splits), by, int(permutations)


def told(amount: "Amount", seconds: float) -> str:
    """How much it is, in words, before it is started."""
    passes = f" and {amount.forward_passes:,} erasures" if amount.forward_passes else ""
    return (
        f"{amount.probes:,} probes at {amount.sites:,} sites{passes}, controls included: "
        f"roughly {rough(seconds)}. You may leave the page meanwhile."
    )


def rough(seconds: float) -> str:
    """A length of time that is only known roughly."""
    if seconds < 8:
        return "a few seconds"
    if seconds < 50:
        return f"{round(seconds, -1):.0f} seconds"
    if seconds < 50 * 60:
        minutes = max(1, round(seconds / 60))
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.1f} hours"


def seconds_of(network: Network, analysis: "ProbeAnalysis", amount: "Amount") -> float:
    """About how long it takes: as long a probe as the last time here, else by its size."""
    for record in reversed(records_of(network, "probe")):
        from workbench.analysis import analysis_from

        before = analysis_from("probe", record.parameters)
        if getattr(before, "probes", None) == analysis.probes:
            done = _amount(before, network)
            return record.seconds * amount.probes / max(done.probes, 1)
    return seconds_by_size(amount, analysis.variables, network.task, network.run.config.model)


def seconds_by_size(
    amount: "Amount", variables: Sequence[str], task: Task, model: ModelConfig
) -> float:
    """About how long it takes, by its size alone."""
    inputs = min(task.domain_size if task.enumerable else 8192, 16384)
    values = [max(FEWEST_VALUES, values_of(task)[name]) for name in variables]
    mean = sum(values) / len(values)
    return SECONDS_A_FIT * amount.probes * inputs * mean * model.d_model


def variables_of(task: Task) -> list[str]:
    """The names of a task's variables."""
    return list(values_of(task))


def usual_variable(task: Task) -> str:
    """The answer; where it is in several parts, the variable that has the fewest values."""
    values = values_of(task)
    return "answer" if "answer" in values else min(values, key=lambda name: values[name])


@remembered
def values_of(task: Task) -> dict[str, int]:
    """How many values each variable takes, among `SAMPLED` inputs."""
    import torch

    inputs = task.sample(SAMPLED, torch.Generator().manual_seed(0))
    return {name: len(torch.unique(found)) for name, found in task.variables(inputs).items()}


@remembered
def example_of(task: Task) -> list[str]:
    """The tokens of one input, in words."""
    import torch

    example = task.sample(1, torch.Generator().manual_seed(0))
    return [task.vocabulary[token] for token in task.encode(example)[0].tolist()]


@remembered
def summaries() -> dict[str, str]:
    """Kinds of probe, each in a line."""
    from probes.method import methods

    return {name: methods.get(name).summary for name in methods}


def hooks_of_model(model: ModelConfig) -> list[str]:
    """Hooks that can be probed, in the order they fire."""
    return [name for name in hook_names(model) if not name.endswith(UNPROBED)]


def _form(network: Network) -> "ProbeAnalysis | None":
    from probes.analyses.probe import ProbeAnalysis

    st.caption(f"Of {escaped(network.name)}, at step {network.step:,}.")
    asked = question_fields(network.task, hooks_of_model(network.run.config.model), key="probes")
    if not asked.variables or not asked.probes:
        return None
    return config.from_dict(ProbeAnalysis, asked.to_dict(), where="the question")


def _checked(network: Network, analysis: "ProbeAnalysis") -> "Amount":
    """What it is, after looking for what this task does not have. Raises `WorkbenchError`s."""
    from probes.spec import check_spec

    check_spec(analysis, network.task, variables_of(network.task))
    return _amount(analysis, network)


def _amount(analysis: Any, network: Network) -> "Amount":
    from probes.counting import amount_of

    return amount_of(analysis, network.run.config.model, n_pos=network.task.n_ctx)


def _found(status: jobs.Status) -> None:
    """The maps above show it; the panel has said what there was to say."""
    jobs.unwatch(JOB, status.id)
    st.toast("Probed: the maps show it.", icon=":material/check_circle:")

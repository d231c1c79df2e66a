"""When does a variable become decodable, when used, and when does the network generalise?

    found = finish(follow_variable(run, "a_squared"))
    found.decodable_from, found.used_from, found.generalises_from

At every checkpoint of a run a variable is measured at a few sites, each number beside its controls:

| measure      | share of                                            | beside                      |
|--------------|-----------------------------------------------------|-----------------------------|
| `new_inputs` | unseen inputs whose class a probe names             | relabelled types, untrained |
| `new_values` | the same, where the probe has seen none with their  | the same                    |
|              | value of the token that decides the variable        |                             |
| `erased`     | right answers of the network, the variable erased   | as many random directions,  |
|              |                                                     | relabelled types            |
| `swapped`    | interchanges that give the counterfactual answer in | arbitrary function, random  |
|              | learned subspaces (`probes.align`)                  | subspace, nothing swapped,  |
|              |                                                     | untrained                   |

Lepori, Serre and Pavlick 2024 (COLM, "Uncovering intermediate variables in transformers using
circuit probing") follow the first and the last, and find that a² can be read long before it is
used. But in a wide network every token has a direction of its own: any function of one token can
be read wherever the token is, in an untrained network too, which the controls of `new_inputs` show.
`new_values` asks for more (`probes.unseen_values`).

A network cannot give counterfactual answers to inputs that it gets wrong: its accuracy over all
inputs bounds `swapped` from above, and grows with it. When a measure says that something is there
is a rule, the same for all: see `probes.training_times`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.align import fit_das
from probes.asked import asked_inputs
from probes.causal import erase_and_ask
from probes.counterfactual import counterfactual
from probes.design import Design, Targets
from probes.draws import generator_of
from probes.examples import classes_of, make_examples
from probes.measure import measure
from probes.method import methods
from probes.probing import TWINS
from probes.sites import ProbeSite, make_sites, read_activations, residual_hooks
from probes.spec import ProbeSpec
from probes.splits import groups_of
from probes.statistics import measure_accuracy
from probes.training_times import AcrossTraining, Checkpoint, Kind, Level, Measure
from probes.unseen_values import Question, new_inputs_question, new_values_question
from workbench.accuracy import right
from workbench.errors import ProbeError
from workbench.progress import Progress, part
from workbench.run import Run
from workbench.stats import wilson_interval
from workbench.subject import Subject, subject_of, untrained
from workbench.task import Inputs

N_RANDOM_ERASURES = 9
N_ASKED = 1024
"""At most so many held-out inputs, drawn at random, are asked again under each erasure."""
N_UNTRAINED = 5
"""Fresh networks that stand in for a run's checkpoint 0 where there is none."""


def follow_variable(
    run: Run,
    variable: str,
    *,
    steps: Sequence[int] | None = None,
    sites: Sequence[ProbeSite] | None = None,
    probe: str = "ridge",
    seeds: Sequence[int] = (0, 1, 2),
    das: bool = True,
    rank: int | None = None,
    das_seeds: Sequence[int] = (0, 1),
    das_steps: int = 200,
    device: torch.device | str = "cpu",
) -> Generator[Progress, None, AcrossTraining]:
    """Measure a variable at every checkpoint of a run, beside its controls.

    Args:
        steps: checkpoints to look at; all when None.
        sites: of one width; the residual stream after each part, where the answer is read, when
            None.
        probe: a kind of probe (`probes.methods`).
        seeds: one split of each kind and one draw of every label control per seed.
        das: whether interchange is measured.
        rank: dimensions of the swapped subspaces; an eighth of the width when None.
        das_seeds: of the first subspaces; `swapped` is their mean.
        das_steps: training steps of the subspaces at each checkpoint.

    The untrained network is the run's checkpoint 0, which says how these very weights began. Where
    there is none it is `N_UNTRAINED` fresh networks: their mean, and the widest ends of their
    intervals. Raises `UnknownName`, `HookError`, `RunError` or `ProbeError` for what this run or
    task does not have, and `ProbeError` with `das` for a variable without counterfactuals.
    """
    chosen = steps_of(run, steps)
    subject = subject_of(run, step=chosen[-1], device=device)
    plan = _plan(run, variable, sites, probe, seeds)
    search = None
    if das:
        counterfactual(run.task, variable, plan.inputs[:1], plan.inputs[:1])
        width = read_activations(
            subject.params, plan.tokens[:1].to(subject.device), subject.config, plan.sites
        ).shape[-1]
        search = _Search(max(1, width // 8) if rank is None else rank, tuple(das_seeds), das_steps)
    first = subject_of(run, step=0, device=device) if 0 in run.steps else None
    blanks = [first] if first else [untrained(subject, TWINS + i) for i in range(N_UNTRAINED)]
    known = yield from part(_baseline(plan, search, blanks), 0, len(chosen) + 1)
    checkpoints = []
    for i, step in enumerate(chosen):
        subject = subject_of(run, step=step, device=device)
        made = yield from part(_measures(plan, search, subject), i + 1, len(chosen) + 1)
        beside = tuple(_beside_untrained(found, known) for found in made)
        checkpoints.append(_checkpoint(plan, subject, step, beside))
    return AcrossTraining(
        variable=variable,
        n_classes=plan.new_inputs.targets[0].n_classes,
        probe=probe,
        sites=tuple(map(str, plan.sites)),
        kinds=tuple(dict.fromkeys(kind for _, kind in known)),
        rank=search.rank if search else None,
        checkpoints=tuple(checkpoints),
    )


def steps_of(run: Run, steps: Sequence[int] | None = None) -> list[int]:
    """The checkpoints that are followed, ascending; all where none is named.

    Raises `RunError` for one there is not, `ProbeError` where there is none at all.
    """
    chosen = sorted(set(run.steps if steps is None else steps))
    if not chosen:
        raise ProbeError(f"no checkpoint to follow in {run.path}; train it, or name steps")
    for step in chosen:
        if step not in run.steps:
            run.params(step)  # raises, and says which there are
    return chosen


# ---------------------------------------------------------------------- what checkpoints share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What all checkpoints share; on the CPU."""

    variable: str
    probe: str
    sites: tuple[ProbeSite, ...]
    inputs: Inputs
    tokens: Int[Tensor, "n pos"]
    exhaustive: bool
    trained_on: Bool[Tensor, " n"] | None
    new_inputs: Question
    new_values: Question | None


class _Search(NamedTuple):
    rank: int
    seeds: tuple[int, ...]
    steps: int


def _plan(
    run: Run, variable: str, sites: Sequence[ProbeSite] | None, probe: str, seeds: Sequence[int]
) -> _Plan:
    task, config = run.task, run.config
    spec = ProbeSpec(variables=(variable,), probes=(probe,), seeds=tuple(seeds))
    examples = make_examples(task, spec)
    if sites is None:
        hooks, last = residual_hooks(config.model)[1:], [task.answer_positions[0]]
        sites = make_sites(config.model, hooks=hooks, positions=last, n_pos=task.n_ctx)
    classes, values = classes_of(examples.variables[variable], variable)
    deciding = examples.tokens[:, list(task.decided_by(variable))]
    types: Tensor = torch.unique(deciding, dim=0, return_inverse=True)[1]
    groups = groups_of(task, examples.inputs)
    unseen = None
    if deciding.shape[1] == 1:
        unseen = new_values_question(types, classes, values, seeds=seeds)
    trained_on = None
    if config.seed is not None and config.train_fraction is not None:
        trained_on = ~task.held_out_mask(
            examples.inputs, seed=config.seed, train_fraction=config.train_fraction
        )
    return _Plan(
        variable=variable,
        probe=probe,
        sites=tuple(sites),
        inputs=examples.inputs,
        tokens=examples.tokens,
        exhaustive=examples.exhaustive,
        trained_on=trained_on,
        new_inputs=new_inputs_question(types, classes, values, groups, seeds=seeds),
        new_values=unseen,
    )


# ---------------------------------------------------------------------- one checkpoint


def _baseline(
    plan: _Plan, search: _Search | None, blanks: Sequence[Subject]
) -> Generator[Progress, None, dict[tuple[str, Kind], Level]]:
    """What untrained networks give, by site and kind."""
    drawn: dict[tuple[str, Kind], list[Level]] = {}
    for i, blank in enumerate(blanks):
        made = yield from part(_measures(plan, search, blank), i, len(blanks))
        for found in made:
            drawn.setdefault((found.site, found.kind), []).append(found.level)
    return {place: _widest(levels) for place, levels in drawn.items()}


def _measures(
    plan: _Plan, search: _Search | None, subject: Subject
) -> Generator[Progress, None, list[Measure]]:
    """Everything about one network, but what needs the untrained one."""
    yield Progress(0, 8, f"{plan.variable}: probes")
    tokens = plan.tokens.to(subject.device)
    x = read_activations(subject.params, tokens, subject.config, plan.sites)
    found = _probed(plan, "new_inputs", plan.new_inputs, x)
    if plan.new_values is not None:
        found += _probed(plan, "new_values", plan.new_values, x)
    yield Progress(1, 8, f"{plan.variable}: erasing")
    found += _erased(plan, subject, x)
    if search is not None:
        found += yield from part(_swapped(plan, search, subject), 1, 2)
    return found


def _probed(
    plan: _Plan, kind: Kind, question: Question, x: Float[Tensor, "site n d"]
) -> list[Measure]:
    """Accuracy of the probes; each input counts once, at its mean over the splits that held it."""
    probe = methods.get(plan.probe)()
    correct = []
    for splits, targets in zip(question.splits, question.targets, strict=True):
        design = Design(x, splits.train.to(x))
        moved = _moved(targets, slice(None), x)
        correct.append(measure(probe, probe.grid, design, moved, splits).correct.cpu())
    times = torch.cat([splits.held_out for splits in question.splits]).sum(0)
    share = torch.cat(correct).sum(0)[:, :, times > 0] / times[times > 0].double()
    levels = _levels(plan, kind, share, question.splits[0].groups[times > 0])
    return [
        Measure(
            site=str(site),
            kind=kind,
            level=variable,
            controls={"relabelled": _widest(relabelled)},
            most=question.ceiling,
        )
        for site, (variable, *relabelled) in zip(plan.sites, levels, strict=True)
    ]


def _erased(plan: _Plan, subject: Subject, x: Float[Tensor, "site n d"]) -> list[Measure]:
    """Erasers are fitted on what trains in the first split; some of its held-out inputs are asked.

    The same at every checkpoint. Relabelled types are erased where the variable costs more than
    every random erasure tried; elsewhere it is not below its controls whatever they cost.
    """
    splits = plan.new_inputs.splits[0]
    asked = asked_inputs(splits.held_out[0], N_ASKED, "across training", "asked")
    # Late in training most directions have a millionth of the largest variance, and still carry
    # answers. Sums in float32 would take them for rounding, and leave nothing to compare with.
    x = x.cpu().double()
    made = erase_and_ask(
        subject,
        plan.sites,
        Design(x, splits.train[:1].to(x)),
        _moved(plan.new_inputs.targets[0], slice(1), x),
        plan.inputs[asked],
        n_random=N_RANDOM_ERASURES,
        controls=_moved(plan.new_inputs.targets[0], slice(1, None), x),
        generator=generator_of("across training", "erased"),
    )
    measures = []
    for i, site in enumerate(plan.sites):
        # Where the variable is all that a site holds, as many random directions are the same.
        random = made.random[i] if len(made.random[i]) else made.erased[i : i + 1]
        share = torch.cat([made.erased[i : i + 1], random, made.control[i]])[None].double()
        ((level, *drawn),) = _levels(plan, "erased", share, splits.groups[asked])
        controls = {"random_erased": _widest(drawn[: len(random)])}
        if len(made.control[i]):
            controls["relabelled"] = _widest(drawn[len(random) :])
        measures.append(
            Measure(site=str(site), kind="erased", level=level, controls=controls, most=0.0)
        )
    return measures


def _swapped(
    plan: _Plan, search: _Search, subject: Subject
) -> Generator[Progress, None, list[Measure]]:
    """Interchange in learned subspaces; a pair counts at its mean over the first subspaces."""
    aligned = yield from fit_das(
        *(subject.params, subject.config, subject.task, plan.variable),
        *(plan.sites, [search.rank], search.seeds),
        steps=search.steps,
    )
    nothing = aligned.identity.expand(len(plan.sites), 1, 1, -1)
    swaps = {"swapped": aligned.swapped, "arbitrary": aligned.arbitrary, "random": aligned.random}
    levels = {
        name: _levels(plan, "swapped", each.double().mean(2), torch.arange(each.shape[-1]))
        for name, each in {**swaps, "identity": nothing}.items()
    }
    variable = levels.pop("swapped")
    return [
        Measure(
            site=str(site),
            kind="swapped",
            level=variable[i][0],
            controls={name: level[i][0] for name, level in levels.items()},
            most=1.0,
        )
        for i, site in enumerate(plan.sites)
    ]


def _beside_untrained(found: Measure, known: dict[tuple[str, Kind], Level]) -> Measure:
    """With the same measure of the untrained network among its controls.

    Not erasures: what matters is what they cost this network.
    """
    if found.kind == "erased":
        return found
    return replace(found, controls={**found.controls, "untrained": known[found.site, found.kind]})


def _checkpoint(
    plan: _Plan, subject: Subject, step: int, measures: tuple[Measure, ...]
) -> Checkpoint:
    correct = right(subject.params, subject.config, subject.task, plan.inputs)
    on, exhaustive = plan.trained_on, plan.exhaustive
    return Checkpoint(
        step=step,
        accuracy=_share(correct, exhaustive),
        train_accuracy=None if on is None else _share(correct[on], exhaustive),
        held_out_accuracy=None if on is None else _share(correct[~on], exhaustive),
        measures=measures,
    )


# ---------------------------------------------------------------------- shares


def _share(correct: Bool[Tensor, " n"], exhaustive: bool) -> Level:
    n, value = len(correct), float(correct.double().mean())
    low, high = (value, value) if exhaustive else wilson_interval(int(correct.sum()), n)
    return Level(value=value, low=low, high=high, n=n, exhaustive=exhaustive)


def _levels(
    plan: _Plan, kind: Kind, share: Float[Tensor, "site draw n"], groups: Int[Tensor, " n"]
) -> list[list[Level]]:
    """The mean of each site and draw, with its interval over groups."""
    generator = generator_of("across training", plan.variable, kind)
    found = measure_accuracy(share, groups, generator)
    # A bootstrap's ends are means of what it drew, less rounding.
    low, high = found.low.clamp(min=0.0), found.high.clamp(max=1.0)
    ends = zip(found.value.tolist(), low.tolist(), high.tolist(), strict=True)
    return [
        [Level(value=v, low=lo, high=hi, n=found.n) for v, lo, hi in zip(*of_site, strict=True)]
        for of_site in ends
    ]


def _widest(draws: Sequence[Level]) -> Level:
    """Several draws of a control as one: their mean, and the widest ends."""
    return Level(
        value=sum(draw.value for draw in draws) / len(draws),
        low=min(draw.low for draw in draws),
        high=max(draw.high for draw in draws),
        n=draws[0].n,
    )


def _moved(targets: Targets, labels: slice, x: Float[Tensor, "site n d"]) -> Targets:
    """Some label sets of these, beside the activations."""
    return Targets(
        names=targets.names[labels],
        classes=targets.classes[labels].to(x.device),
        values=targets.values.to(x.device),
    )

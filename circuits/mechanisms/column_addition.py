"""Column addition: heads bring the digits of a column and the carry into it to its answer digit.

The parts are named on some pairs of inputs and tested on others (`circuits.digit_columns`), each
test beside other heads, twins that leave the variable alone, and an untrained network. Quirke and
Barez 2023 (arXiv:2310.13121) describe such heads; here each claim is an exact prediction of the
answer.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.cells import Subject
from circuits.control_networks import untrained
from circuits.digit_columns import (
    Bringers,
    Head,
    Variable,
    all_heads,
    answer_index,
    answers_with,
    as_predicted,
    carry_variables,
    digit_task,
    digit_variables,
    idle_twins,
    name_heads,
    twins,
)
from circuits.mechanism import Case, Explanation, Mechanism, Progress, mechanisms
from circuits.verdict import judge
from workbench.accuracy import measure_accuracy
from workbench.finding import Control, Finding, Support
from workbench.stats import mean_interval, wilson_interval
from workbench.task import Task
from workbench.tasks.digit_addition import DigitAddition
from workbench.transformer import forward

NAMING_PAIRS, TESTING_PAIRS = 100, 200
"""Pairs per variable; drawn apart."""
HOLDS, CONTROL_HOLDS = 0.9, 0.25
"""A finding needs at least this share, and of every control at most that."""
RULE = f"value >= {HOLDS} and every control <= {CONTROL_HOLDS}"
MARGIN_INPUTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A finding about one kind of variable."""

    id: str
    text: str
    measure: str
    variables: Callable[[DigitAddition], list[Variable]]


CLAIMS = (
    Claim(
        id="digits",
        text="the named heads bring the two digits of each column to where its answer digit is "
        "predicted",
        measure="share of pairs in which patching them from a twin with another digit there gives "
        "the twin's answer digit, and changes no other",
        variables=digit_variables,
    ),
    Claim(
        id="carry",
        text="the named heads bring the carry into each column to where its answer digit is "
        "predicted",
        measure="share of pairs in which patching them from a twin with the other carry moves that "
        "answer digit up or down by one, and changes no other",
        variables=carry_variables,
    ),
)


def support(value: float, controls: tuple[Control, ...]) -> Support:
    """Whether a finding's rule holds."""
    below = all(control.value <= CONTROL_HOLDS for control in controls)
    return "supported" if value >= HOLDS and below else "not supported"


class ColumnAddition(Mechanism):
    """Heads bring digits and carries, column by column."""

    name: ClassVar[str] = "column_addition"
    summary: ClassVar[str] = "heads bring each column's digits and the carry to its answer digit"

    def applies_to(self, task: Task) -> bool:
        """Addition digit by digit."""
        return isinstance(task, DigitAddition)

    def explain(
        self, case: Case, *, seed: int, n_draws: int
    ) -> Generator[Progress, None, Explanation]:
        """Name the heads on some pairs, freeze them, and test them on others."""
        subject, task = case.subject, digit_task(case.subject)
        generator = torch.Generator().manual_seed(seed)
        variables = [v for claim in CLAIMS for v in claim.variables(task)]
        total = 2 * len(variables) + 1
        named: dict[str, Bringers] = {}
        for done, variable in enumerate(variables):
            yield Progress(done, total, f"naming the heads that bring {variable.name}")
            pairs = twins(task, variable, NAMING_PAIRS, generator)
            named[variable.name] = name_heads(subject, pairs, variable)
        tested: dict[str, _Tested] = {}
        fresh = untrained(subject, seed)
        for done, variable in enumerate(variables):
            yield Progress(len(variables) + done, total, f"testing {variable.name}")
            heads = named[variable.name].heads
            tested[variable.name] = _test(subject, fresh, variable, heads, generator, n_draws)
        yield Progress(total - 1, total, "measuring accuracy")
        findings = tuple(
            _finding(claim, [tested[v.name] for v in claim.variables(task)]) for claim in CLAIMS
        )
        return _explanation(subject, findings, named, tested, seed)


mechanisms.register("column_addition")(ColumnAddition())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tested:
    """One variable's test: where the prediction came true, for its heads and for the controls."""

    held: Bool[Tensor, " batch"]
    others: list[float]
    """Share per draw of as many other heads."""
    idle: Bool[Tensor, " batch"] | None
    """Where the answer digit changed with the same heads patched from a twin in which the variable
    is the same (`idle_twins`); None where there are no such twins."""
    untrained: Bool[Tensor, " batch"]


def _test(
    subject: Subject,
    fresh: Subject,
    variable: Variable,
    heads: tuple[Head, ...],
    generator: torch.Generator,
    n_draws: int,
) -> _Tested:
    task, column = digit_task(subject), variable.column
    pairs = twins(task, variable, TESTING_PAIRS, generator)
    sets = _other_heads(subject, heads, n_draws, generator)
    shares = as_predicted(subject, pairs, column, [heads, *sets])
    idle, idle_pairs = None, idle_twins(task, variable, TESTING_PAIRS, generator)
    if idle_pairs is not None:
        digit = answer_index(task, column)
        answers = answers_with(subject, idle_pairs, column, [heads, ()])[..., digit]
        idle = answers[0] != answers[1]
    return _Tested(
        held=shares[0],
        others=shares[1:].double().mean(-1).tolist(),
        idle=idle,
        untrained=as_predicted(fresh, pairs, column, [heads])[0],
    )


def _other_heads(
    subject: Subject, heads: tuple[Head, ...], n_draws: int, generator: torch.Generator
) -> list[tuple[Head, ...]]:
    """Draws of as many other heads (of all others, where there are fewer)."""
    others = [head for head in all_heads(subject) if head not in heads]
    size = min(max(len(heads), 1), len(others))
    orders = [torch.randperm(len(others), generator=generator) for _ in range(n_draws)]
    return [tuple(others[int(i)] for i in order[:size]) for order in orders]


def _finding(claim: Claim, tested: list[_Tested]) -> Finding:
    held = torch.cat([test.held for test in tested])
    value = float(held.double().mean())
    others = [
        float(sum(draw) / len(draw)) for draw in zip(*(t.others for t in tested), strict=True)
    ]
    controls = [
        Control(
            name="as many other heads",
            value=sum(others) / len(others),
            n=len(others),
            interval=mean_interval(others),
        ),
        _share("same heads, twins in which it is the same", [test.idle for test in tested]),
        _share("same heads of an untrained network", [test.untrained for test in tested]),
    ]
    made = tuple(control for control in controls if control is not None)
    return Finding(
        id=claim.id,
        claim=claim.text,
        measure=claim.measure,
        value=value,
        n=len(held),
        interval=wilson_interval(int(held.sum()), len(held)),
        held_out=value,
        controls=made,
        verdict=support(value, made),
        rule=RULE,
        details={"least of any column": min(float(t.held.double().mean()) for t in tested)},
    )


def _share(name: str, parts: list[Bool[Tensor, " batch"] | None]) -> Control | None:
    """A control counted over inputs; None where it could not be made."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    all_of_them = torch.cat(there)
    count, n = int(all_of_them.sum()), len(all_of_them)
    interval = wilson_interval(count, n)
    return Control(name=name, value=count / n, n=n, interval=interval, unit="inputs")


def _explanation(
    subject: Subject,
    findings: tuple[Finding, ...],
    named: dict[str, Bringers],
    tested: dict[str, _Tested],
    seed: int,
) -> Explanation:
    accuracy = measure_accuracy(subject.params, subject.config, subject.task, seed=seed)
    inputs = "all inputs" if accuracy.exhaustive else f"{accuracy.n:,} sampled inputs"
    supports = {finding.id: finding.verdict for finding in findings}
    verdict, reason = judge(accuracy.value, supports, inputs=inputs)
    return Explanation(
        mechanism=ColumnAddition.name,
        verdict=verdict,
        reason=reason,
        key_frequencies=(),
        findings=findings,
        n_inputs=accuracy.n,
        exhaustive=accuracy.exhaustive,
        accuracy=accuracy.value,
        accuracy_interval=accuracy.interval,
        held_out_accuracy=None,
        min_margin=_least_margin(subject, seed),
        parts={"variables": [_part(bringers, tested[name]) for name, bringers in named.items()]},
    )


def _part(bringers: Bringers, test: _Tested) -> dict[str, Any]:
    return {
        "variable": bringers.variable.name,
        "heads": [f"a{layer}.h{head}" for layer, head in bringers.heads],
        "naming": bringers.share,
        "tested": float(test.held.double().mean()),
    }


@torch.no_grad()
def _least_margin(subject: Subject, seed: int) -> float:
    """Smallest logit of a right answer token minus the largest other, over sampled inputs."""
    task = subject.task
    inputs = task.sample(MARGIN_INPUTS, torch.Generator().manual_seed(seed))
    tokens = task.encode(inputs).to(subject.device)
    logits = forward(subject.params, tokens, subject.config, positions=task.answer_positions).logits
    answers = task.solve(inputs).to(subject.device)[..., None]
    right = logits.gather(-1, answers)[..., 0]
    return float((right - logits.scatter(-1, answers, -torch.inf).amax(-1)).min())

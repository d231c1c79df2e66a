"""Probing one network: what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from probes.spec import ProbeSpec
from tests.unit import small_run
from tests.unit.probed_networks import random_subject
from tests.unit.probing_one import ADDITION, SMALL, probe, spec_of
from workbench.errors import HookError, ProbeError, RunError, TaskError, UnknownName, WorkbenchError
from workbench.run import open_run
from workbench.subject import Subject, subject_of
from workbench.task import Inputs, make_task


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (spec_of("anwser"), UnknownName, "did you mean 'answer'?"),
        (spec_of(), ProbeError, "no variables given"),
        (spec_of("a", "b", "a"), ProbeError, "variables a, b, a: one is named twice"),
        (spec_of("a", hooks=("blocks.0.hook_resid_psot",)), HookError, "did you mean 'blocks.0"),
        (spec_of("a", hooks=("blocks.0.attn.hook_pattern",)), HookError, "probe hook_z"),
        (spec_of("a", hooks=()), ProbeError, "no hooks given"),
        (spec_of("a", positions=()), ProbeError, "no positions given"),
        (spec_of("a", positions=(3,)), HookError, "inputs have positions 0 to 2"),
        (spec_of("a", positions=(-4,)), HookError, "inputs have positions 0 to 2"),
        (spec_of("a", probes=("rigde",)), UnknownName, "did you mean 'ridge'?"),
        (spec_of("a", probes=()), ProbeError, "no probes given"),
        (spec_of("a", probes=("ridge", "ridge")), ProbeError, "named twice"),
        (
            spec_of("a", strengths={"logistic": (1.0,)}),
            ProbeError,
            "'logistic', which is not among",
        ),
        (spec_of("a", strengths={"logisitc": (1.0,)}), UnknownName, "did you mean 'logistic'?"),
        (spec_of("a", strengths={"ridge": ()}), ProbeError, "no strengths of ridge given"),
        (spec_of("a", strengths={"ridge": (0.0,)}), ProbeError, "above 0"),
        (spec_of("a", seeds=()), ProbeError, "no seeds given"),
        (spec_of("a", seeds=(1, 1)), ProbeError, "named twice"),
        (spec_of("a", splits=()), ProbeError, "no splits given"),
        (spec_of("a", splits=("network",)), ProbeError, "use the split 'grouped'"),
        (spec_of("a", splits=("out_of_distribution",)), ProbeError, "give both or neither"),
        (spec_of("a", held_out_by="b"), ProbeError, "give both or neither"),
        (spec_of("a", held_out_by="c"), UnknownName, "no modular_addition variable 'c'"),
        (
            spec_of("wraps", splits=("out_of_distribution",), held_out_by="wraps"),
            ProbeError,
            "'wraps' is . on all .* split out_of_distribution/0",
        ),
        (spec_of("sum", n_inputs=16), ProbeError, "take at least two inputs a class"),
        (spec_of("a", distribution="carry_heavy"), TaskError, "no modular_addition distribution"),
    ],
)
def test_questions_that_cannot_be_asked(
    spec: ProbeSpec, error: type[WorkbenchError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        probe(SMALL, spec)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [("splits", "gruoped", "'grouped'"), ("controls", "control-task", "'control_task'")],
)
def test_splits_and_controls_that_there_are_not(key: str, name: str, message: str) -> None:
    spec = spec_of("a")
    object.__setattr__(spec, key, (name,))  # as where nothing checks types
    with pytest.raises(UnknownName, match=f"did you mean {message}"):
        probe(SMALL, spec)


def test_a_constant_variable_is_refused() -> None:
    digits = make_task("digit_addition", {"n_digits": 2})
    subject = random_subject(digits)

    class Low(type(digits)):  # type: ignore[misc]
        """Without carries."""

        def variables(self, inputs: Inputs) -> dict[str, Tensor]:
            return {**super().variables(inputs), "carry_1": 0 * inputs[:, 0]}

    task = Low(n_digits=2)
    with pytest.raises(ProbeError, match="'carry_1' is 0 on all 10000 inputs; there is nothing"):
        probe(Subject(params=subject.params, config=subject.config, task=task), spec_of("carry_1"))


def test_training_inputs_that_leave_nothing_to_hold_out() -> None:
    spec = spec_of("answer", splits=("network",))
    with pytest.raises(ProbeError, match="network/0 has no held_out input"):
        probe(SMALL, spec, network_train=ADDITION.domain())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_activations_that_are_no_numbers_are_refused(value: float) -> None:
    double = {name: tensor.double() for name, tensor in SMALL.params.items()}
    subject = Subject(params=double, config=SMALL.config, task=ADDITION)
    double["blocks.0.mlp.b_in"][0] = value
    # 1e300 is a number, but not in the single precision that is asked for.
    spec = spec_of("answer", hooks=("blocks.0.mlp.hook_post",), dtype="float32")
    with pytest.raises(ProbeError, match="hold NaN or infinity") as raised:
        probe(subject, spec)
    assert "\n" not in str(raised.value)


def test_an_incomplete_run_is_refused_unless_a_checkpoint_is_named(tmp_path: Path) -> None:
    small_run.stop_after(tmp_path / "run", 2)
    run = open_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"is incomplete; .*there are: 1, 2"):
        subject_of(run)
    subject = subject_of(run, step=1)
    expected = small_run.params_at(1)
    assert subject.task == run.task and subject.config == small_run.MODEL
    assert all(torch.equal(subject.params[name], expected[name]) for name in expected)

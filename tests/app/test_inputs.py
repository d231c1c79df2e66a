"""The inputs in the address: read, written, carried, and refused in one line."""

from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from apps.web import inputs
from apps.web.choice import RUNS
from workbench.errors import TaskError
from workbench.task import Task, make_task

MODULAR = make_task("modular_addition", {"p": 23})
DIGITS = make_task("digit_addition", {"n_digits": 3})


@pytest.mark.parametrize("task", [MODULAR, DIGITS, make_task("modular_division", {"p": 7})])
def test_text_and_operands_are_inverse(task: Task) -> None:
    for operands in [(3, 4), (6, 1), (5, 5)]:
        assert inputs.read(task, inputs.text_of(task, operands)) == operands


def test_an_input_is_written_as_the_task_writes_it() -> None:
    assert inputs.text_of(MODULAR, (3, 14)) == "3 + 14 ="
    assert inputs.text_of(DIGITS, (3, 14)) == "003 + 014 ="


@pytest.mark.parametrize("text", ["3 - 4 =", "3 + 23 =", "1; import os", "9" * 5000])
def test_what_is_no_input_is_refused(text: str) -> None:
    with pytest.raises(TaskError):
        inputs.read(MODULAR, text)


@pytest.mark.parametrize("task", [MODULAR, DIGITS, make_task("modular_square_plus", {"p": 7})])
def test_a_twin_is_a_neighbour_with_another_answer_and_always_the_same(task: Task) -> None:
    for operands in [(3, 4), (0, 0), (6, 6)]:
        twin = inputs.twin_of(task, operands)
        answers = [task.solve(torch.tensor([one])).tolist() for one in (operands, twin)]
        assert answers[0] != answers[1]
        assert sum(x != y for x, y in zip(operands, twin, strict=True)) == 1
        assert inputs.twin_of.__wrapped__(task, operands) == twin  # type: ignore[attr-defined]


def test_the_default_is_an_input_of_the_task() -> None:
    assert all(0 <= one < 23 for one in inputs.default_of(MODULAR))


def _page() -> None:  # run from its source, so it imports for itself
    import streamlit as st

    from apps.web.choice import find_run, network_of
    from apps.web.inputs import carry, input_choice, operands

    network = network_of(find_run("full"))
    if st.toggle("click", key="click"):
        carry(network, "clean", (5, 6))
    st.text(f"before {operands(network, 'clean')}")
    st.text(f"looked at {input_choice(network, 'clean', default=(1, 2))}")


def page(folder: Path, monkeypatch: pytest.MonkeyPatch, clean: str | None) -> AppTest:
    monkeypatch.setenv(RUNS, str(folder / "runs"))
    test = AppTest.from_function(_page, default_timeout=60)
    if clean is not None:
        test.query_params["clean"] = clean
    return test.run()


@pytest.mark.parametrize(
    ("clean", "before", "looked_at", "errors"),
    [
        (None, None, (1, 2), 0),
        ("3 + 4 =", (3, 4), (3, 4), 0),
        ("3+4", (3, 4), (3, 4), 0),
        ("3 + 99 =", None, (1, 2), 1),
        ("**bold** [x](http://a)", None, (1, 2), 1),
    ],
)
def test_the_input_comes_from_the_address(
    clean: str | None,
    before: tuple[int, int] | None,
    looked_at: tuple[int, int],
    errors: int,
    app_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    test = page(app_folder, monkeypatch, clean)
    assert not test.exception
    assert [one.value for one in test.text] == [f"before {before}", f"looked at {looked_at}"]
    assert len(test.error) == errors
    assert not any("**bold" in one.value for one in test.error)


def test_a_click_carries_an_input_into_the_box(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = page(app_folder, monkeypatch, "3 + 4 =")
    test.toggle(key="click").set_value(True).run()
    assert not test.exception
    assert test.text_input(key="clean").value == "5 + 6 ="
    assert test.text[1].value == "looked at (5, 6)"
    assert test.query_params["clean"] == "5 + 6 ="

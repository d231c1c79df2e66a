"""Tasks against Python's own integers, for inputs that Hypothesis looks for."""

from typing import Any, Literal

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.task import is_prime, make_task
from workbench.tasks.digit_addition import DigitAddition

few = settings(deadline=None, max_examples=40)
primes = st.sampled_from([p for p in range(5, 200) if is_prime(p)])
orders = st.sampled_from(["least_significant_first", "most_significant_first"])


@st.composite
def additions(draw: st.DrawFn) -> tuple[int, int, int]:
    """n, a, b with n digits at most; nines are frequent, so that carries cascade."""
    n = draw(st.integers(1, 18))
    digits = st.lists(st.sampled_from([0, 1, 4, 5, 8, 9, 9]), min_size=n, max_size=n)
    operands = st.one_of(st.integers(0, 10**n - 1), digits.map(lambda d: int("".join(map(str, d)))))
    return n, draw(operands), draw(operands)


def values(task: Any, a: int, b: int) -> dict[str, int]:
    """The task's variables for one input, as Python integers."""
    return {name: value.item() for name, value in task.variables(torch.tensor([[a, b]])).items()}


@few
@given(additions(), orders)
def test_digit_addition_writes_what_python_adds(
    addition: tuple[int, int, int],
    order: Literal["least_significant_first", "most_significant_first"],
) -> None:
    n, a, b = addition
    task = DigitAddition(n_digits=n, answer_order=order)
    total = str(a + b).zfill(n + 1)
    written = total if order == "most_significant_first" else total[::-1]
    sentence = f"{a:0{n}d}+{b:0{n}d}={written}"
    inputs = torch.tensor([[a, b]])
    tokens, answer = task.encode(inputs)[0].tolist(), task.solve(inputs)[0].tolist()
    assert "".join(task.vocabulary[token] for token in tokens) == sentence[:-1]
    assert "".join(map(str, answer)) == written
    # Teacher forcing: what stands one place after each answer position is that answer digit.
    assert [sentence[position + 1] for position in task.answer_positions] == list(written)
    assert task.answer_text(task.solve(inputs)) == [str(a + b)]
    assert task.parse(f"{a} + {b}").tolist() == [[a, b]]


@few
@given(additions())
def test_carries_are_those_of_column_addition(addition: tuple[int, int, int]) -> None:
    n, a, b = addition
    found = values(DigitAddition(n_digits=n), a, b)
    carry = 0
    for k in range(n):
        x, y = a // 10**k % 10, b // 10**k % 10
        assert (found[f"a_{k}"], found[f"b_{k}"], found[f"digit_sum_{k}"]) == (x, y, x + y)
        assert found[f"answer_{k}"] == (x + y + carry) % 10
        carry = (x + y + carry) // 10
        assert found[f"carry_{k + 1}"] == carry
    assert found[f"answer_{n}"] == carry
    assert found["sum"] == a + b


@few
@given(additions(), st.data(), st.integers(0, 2**32))
def test_change_carry_flips_exactly_the_carry(
    addition: tuple[int, int, int], data: st.DataObject, seed: int
) -> None:
    n, a, b = addition
    k = data.draw(st.integers(1, n))
    place = 10 ** (k - 1)
    column = a // place % 10 + b // place % 10
    task = DigitAddition(n_digits=n)
    inputs = torch.tensor([[a, b]])
    assert task.corruptible(inputs, f"change_carry_{k}").item() == (column != 9)
    assume(column != 9)
    generator = torch.Generator().manual_seed(seed)
    (twin_a, twin_b) = task.corrupt(inputs, f"change_carry_{k}", generator)[0].tolist()
    # One column moves by 10, so the sum moves by one unit of the next column, and no more.
    assert abs(twin_a + twin_b - a - b) == 10 * place
    for operand, twin in ((a, twin_a), (b, twin_b)):
        assert 0 <= twin < 10**n
        assert operand // (10 * place) == twin // (10 * place)
        assert operand % place == twin % place
    low = 10 * place
    assert (twin_a % low + twin_b % low >= low) != (a % low + b % low >= low)


@few
@given(additions(), st.data(), st.integers(0, 2**32))
def test_change_digit_changes_one_digit_of_a(
    addition: tuple[int, int, int], data: st.DataObject, seed: int
) -> None:
    n, a, b = addition
    k = data.draw(st.integers(0, n - 1))
    task = DigitAddition(n_digits=n)
    generator = torch.Generator().manual_seed(seed)
    twin = task.corrupt(torch.tensor([[a, b]]), f"change_digit_{k}", generator)[0].tolist()
    written, twin_written = f"{a:0{n}d}"[::-1], f"{twin[0]:0{n}d}"[::-1]
    assert [j for j in range(n) if written[j] != twin_written[j]] == [k]
    assert twin[1] == b


@few
@given(primes, st.data())
def test_modular_tasks_agree_with_python(p: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(1, p - 1)), data.draw(st.integers(1, p - 1))
    answers = {
        "modular_addition": (a + b) % p,
        "modular_subtraction": (a - b) % p,
        "modular_multiplication": a * b % p,
        "modular_division": a * pow(b, -1, p) % p,
    }
    for name, answer in answers.items():
        task = make_task(name, {"p": p})
        assert task.solve(torch.tensor([[a, b]])).tolist() == [[answer]]
    division = values(make_task("modular_division", {"p": p}), a, b)
    assert division["inverse_b"] == pow(b, -1, p)


@few
@given(primes, st.data())
def test_logs_are_exponents_of_the_smallest_root(p: int, data: st.DataObject) -> None:
    """The root is the residue whose log is 1, and no smaller residue generates all of them."""
    group = make_task("modular_multiplication", {"p": p}).cyclic()
    assert group is not None
    log = dict(zip(group.elements.tolist(), group.logs.tolist(), strict=True))
    root = next(residue for residue, exponent in log.items() if exponent == 1)
    residue = data.draw(st.integers(1, p - 1))
    assert pow(root, log[residue], p) == residue
    for smaller in range(1, root):
        assert len({pow(smaller, k, p) for k in range(p - 1)}) < p - 1


@few
@given(primes, st.integers(0, 2**32))
def test_keep_answer_keeps_the_answer(p: int, seed: int) -> None:
    for name in ("modular_subtraction", "modular_division"):
        task = make_task(name, {"p": p})
        generator = torch.Generator().manual_seed(seed)
        clean = task.sample(20, generator)
        twin = task.corrupt(clean, "keep_answer", generator)
        assert torch.equal(task.solve(clean), task.solve(twin))
        assert (clean != twin).all()

"""Hash, primes, messages and distributions of `workbench.task` and its tasks, worked out apart.

Random draws are tested against bounds that a right implementation exceeds with probability
below 1e-6; the seeds are fixed.
"""

import math

import pytest
import torch
from torch import Tensor

from workbench.errors import ConfigError, PairError, TaskError, UnknownName
from workbench.registry import Registry
from workbench.task import is_prime, make_task, randomise_labels, task_from_dict, uniform_hash
from workbench.tasks._multiplicative import primitive_root
from workbench.tasks.digit_addition import DigitAddition

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix(x: int) -> int:
    """The splitmix64 finaliser in Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def assert_uniform(values: Tensor) -> None:
    """Kolmogorov's distance from uniform below the bound that Massart (1990) gives at 1e-6."""
    n = len(values)
    above = torch.arange(1, n + 1, dtype=torch.float64) / n
    ordered = values.sort().values
    distance = max((above - ordered).max().item(), (ordered - above + 1 / n).max().item())
    assert distance < math.sqrt(math.log(2 / 1e-6) / (2 * n))


def assert_independent(x: Tensor, y: Tensor) -> None:
    """Pairs fill a 16 x 16 grid evenly: chi-square below Laurent and Massart's bound at 1e-6."""
    counts = torch.bincount((x * 16).long() * 16 + (y * 16).long(), minlength=256).double()
    expected = len(x) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    slack = math.log(1e6)
    assert chi_square < 255 + 2 * math.sqrt(255 * slack) + 2 * slack


# ---------------------------------------------------------------------- the hash


def test_hash_gives_the_published_splitmix64_outputs() -> None:
    """Seed 1234567 of the reference generator (Rosetta Code, "Pseudo-random numbers/Splitmix64").

    Its n-th output is the finaliser of `seed + n * golden`; one operand adds one golden.
    """
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for seed, output in enumerate(outputs):
        value = uniform_hash(torch.tensor([[1234567]]), seed).item()
        assert value == (output >> 11) / 2**53


@pytest.mark.parametrize("seed", [0, 1, -5, 2**40, 2**70 + 3])
def test_hash_agrees_with_python_integers(seed: int) -> None:
    rows = [[0, 0], [0, 1], [1, 0], [112, 57], [10**18 - 1, 10**18 - 1]]
    expected = []
    for row in rows:
        state = seed * GOLDEN & MASK
        for operand in row:
            state = mix((state + operand + GOLDEN) & MASK)
        expected.append((state >> 11) / 2**53)
    assert uniform_hash(torch.tensor(rows), seed).tolist() == expected


def test_hash_is_uniform_over_consecutive_inputs() -> None:
    grid = torch.cartesian_prod(torch.arange(300), torch.arange(300))
    assert_uniform(uniform_hash(grid, 0))
    assert_uniform(uniform_hash(torch.arange(100_000)[:, None], 0))


def test_hash_is_uniform_over_consecutive_seeds() -> None:
    row = torch.tensor([[37, 92]])
    assert_uniform(torch.cat([uniform_hash(row, seed) for seed in range(3000)]))


def test_hash_of_neighbours_is_independent() -> None:
    """Consecutive seeds, neighbouring operands and swapped operands share nothing."""
    grid = torch.cartesian_prod(torch.arange(300), torch.arange(300, 600))
    values = uniform_hash(grid, 0)
    assert_independent(values, uniform_hash(grid, 1))
    assert_independent(values[:-1], values[1:])
    assert_independent(values[:-300], values[300:])
    assert_independent(values, uniform_hash(grid.flip(1), 0))


def test_hash_tells_inputs_apart() -> None:
    """Of 90,000 inputs two share one of 2^53 values with probability below 1e-6."""
    grid = torch.cartesian_prod(torch.arange(300), torch.arange(300))
    assert len(uniform_hash(grid, 0).unique()) == 90_000


# ---------------------------------------------------------------------- number theory


def test_is_prime_agrees_with_a_sieve() -> None:
    n = 3000
    sieve = [False, False, *[True] * (n - 2)]
    for d in range(2, n):
        sieve[2 * d :: d] = [False] * len(sieve[2 * d :: d])
    assert [is_prime(k) for k in range(n)] == sieve
    assert not is_prime(-7)


def test_smallest_primitive_roots() -> None:
    """OEIS A001918."""
    roots = {5: 2, 7: 3, 11: 2, 23: 5, 41: 6, 71: 7, 97: 5, 113: 3, 191: 19, 409: 21}
    assert {p: primitive_root(p) for p in roots} == roots


def test_logs_mod_7_by_hand() -> None:
    """3^0 ... 3^5 mod 7 = 1, 3, 2, 6, 4, 5, so 1 ... 6 have logs 0, 2, 1, 4, 5, 3."""
    task = make_task("modular_division", {"p": 7})
    group = task.cyclic()
    assert group is not None
    assert group.order == 6
    assert group.elements.tolist() == [1, 2, 3, 4, 5, 6]
    assert group.logs.tolist() == [0, 2, 1, 4, 5, 3]
    variables = task.variables(torch.tensor([[2, 3], [6, 5]]))
    assert variables["inverse_b"].tolist() == [5, 3]
    assert variables["answer"].tolist() == [3, 4]
    assert variables["log_answer"].tolist() == [1, 4]
    product = make_task("modular_multiplication", {"p": 7}).variables(torch.tensor([[6, 5]]))
    assert (product["product"].item(), product["answer"].item()) == (30, 2)


def test_subtraction_borrows_by_hand() -> None:
    variables = make_task("modular_subtraction").variables(torch.tensor([[3, 5], [5, 3], [4, 4]]))
    assert variables["difference"].tolist() == [-2, 2, 0]
    assert variables["borrows"].tolist() == [1, 0, 0]
    assert variables["answer"].tolist() == [111, 2, 0]


# ---------------------------------------------------------------------- digits


def test_digit_addition_by_hand() -> None:
    """123 + 989 = 1112: every column carries; column 1 (2 + 8) only in its own right."""
    task = DigitAddition(n_digits=3)
    inputs = torch.tensor([[123, 989]])
    assert task.encode(inputs).tolist() == [[1, 2, 3, 10, 9, 8, 9, 11, 2, 1, 1]]
    assert task.solve(inputs).tolist() == [[2, 1, 1, 1]]
    assert task.text(inputs) == ["123 + 989 ="]
    assert task.answer_text(task.solve(inputs)) == ["1112"]
    values = {name: value.item() for name, value in task.variables(inputs).items()}
    assert values == {
        **{"a": 123, "b": 989, "sum": 1112},
        **{"a_0": 3, "a_1": 2, "a_2": 1, "b_0": 9, "b_1": 8, "b_2": 9},
        **{"digit_sum_0": 12, "digit_sum_1": 10, "digit_sum_2": 10},
        **{"carry_1": 1, "carry_2": 1, "carry_3": 1},
        **{"answer_0": 2, "answer_1": 1, "answer_2": 1, "answer_3": 1},
    }


def test_most_significant_first_writes_the_answer_as_people_do() -> None:
    task = DigitAddition(n_digits=3, answer_order="most_significant_first")
    inputs = torch.tensor([[7, 45]])
    assert task.text(inputs) == ["007 + 045 ="]
    assert task.encode(inputs).tolist() == [[0, 0, 7, 10, 0, 4, 5, 11, 0, 0, 5]]
    assert task.solve(inputs).tolist() == [[0, 0, 5, 2]]
    assert task.answer_text(task.solve(inputs)) == ["52"]
    assert task.parse("7+45").tolist() == [[7, 45]]


def test_longest_operands_do_not_overflow() -> None:
    task = DigitAddition(n_digits=18)
    inputs = torch.tensor([[10**18 - 1, 10**18 - 1]])
    assert task.answer_text(task.solve(inputs)) == ["1999999999999999998"]
    assert torch.equal(task.decode(task.encode(inputs)), inputs)


def test_a_column_that_sums_to_nine_has_no_carry_twin() -> None:
    """9 can move neither to 19 nor to -1, whether or not it receives a carry."""
    task = DigitAddition(n_digits=2)
    inputs = torch.tensor([[45, 54], [45, 57], [42, 57], [11, 11]])
    assert task.corruptible(inputs, "change_carry_1").tolist() == [False, True, False, True]
    assert task.corruptible(inputs, "change_carry_2").tolist() == [False, False, False, True]
    with pytest.raises(PairError) as error:
        task.corrupt(inputs, "change_carry_1", seeded())
    assert str(error.value) == (
        "2 of 4 inputs have no twin by 'change_carry_1' (first: 45 + 54 =); "
        "select with corruptible()"
    )


def test_carry_heavy_shares() -> None:
    """Sum 9: 1/2 + 1/2 * 10/100 above the ones. A carry out of the ones: 1/2 + 1/2 * 45/100.
    A cascade from the ones through all four others: 0.725 * 0.55^4 and what they add."""
    n = 40_000
    task = DigitAddition()
    variables = task.variables(task.sample(n, seeded(), distribution="carry_heavy"))
    shares = {f"digit_sum_{k}": 0.55 for k in range(1, 5)} | {"carry_1": 0.725, "digit_sum_0": 0.05}
    for name, share in shares.items():
        hits = variables[name] == (1 if name == "carry_1" else 9)
        bound = 5 * math.sqrt(share * (1 - share) / n)
        assert abs(hits.double().mean().item() - share) < bound, name
    cascade = variables["carry_1"] == 1
    for k in range(1, 5):
        cascade &= variables[f"digit_sum_{k}"] == 9
    share = 0.725 * 0.55**4
    assert abs(cascade.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_carry_heavy_digits_stay_uniform_above_the_ones() -> None:
    task = DigitAddition()
    variables = task.variables(task.sample(40_000, seeded(1), distribution="carry_heavy"))
    for name in ("a_1", "b_1", "a_4", "b_4"):
        shares = torch.bincount(variables[name], minlength=10).double() / 40_000
        assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / 40_000)


# ---------------------------------------------------------------------- messages


MESSAGES = [
    ("modular_addition", {"p": 91}, "modular_addition needs a prime p, got 91; try 97"),
    ("modular_division", {"p": 1}, "modular_division needs a prime p, got 1; try 5"),
    (
        "modular_addition",
        {"p": 3},
        "modular_addition with p = 3 is too small to split; try p = 113",
    ),
    (
        "digit_addition",
        {"n_digits": 0},
        "digit_addition with n_digits = 0; choose 1 to 18 (longer sums do not fit in 64 bits)",
    ),
    (
        "digit_addition",
        {"n_digits": 19},
        "digit_addition with n_digits = 19; choose 1 to 18 (longer sums do not fit in 64 bits)",
    ),
]


@pytest.mark.parametrize(("name", "settings", "message"), MESSAGES)
def test_impossible_tasks_say_what_would_be_possible(
    name: str, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(TaskError) as error:
        make_task(name, settings)
    assert str(error.value) == message


def test_wrong_types_and_choices_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"task modular_addition p = 'many': Input should be"):
        make_task("modular_addition", {"p": "many"})
    with pytest.raises(ConfigError, match=r"answer_order = 'up': .*least_significant_first"):
        make_task("digit_addition", {"answer_order": "up"})


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no task 'modular_adition'; did you mean 'modular_add"):
        make_task("modular_adition")
    with pytest.raises(TaskError, match="a task needs a name, got None; known: digit_addition, "):
        task_from_dict({"p": 7})


OPERANDS = [
    ("modular_addition", [[3, 113]], "operands must lie in 0 ... 112, got 3 ... 113; reduce"),
    ("modular_subtraction", [[-1, 5]], "operands must lie in 0 ... 112, got -1 ... 5; reduce"),
    ("modular_division", [[4, 0]], "operands must lie in 1 ... 112, got 0 ... 4; reduce"),
    ("modular_multiplication", [[0, 4]], "operands must lie in 1 ... 112, got 0 ... 4; reduce"),
    ("digit_addition", [[100_000, 1]], "0 ... 99999, got 1 ... 100000; raise n_digits"),
    ("digit_addition", [[-1, 1]], "operands must lie in 0 ... 99999, got -1 ... 1; raise"),
    ("modular_addition", [[1, 2, 3]], "an input is a pair (a, b), got 3 columns"),
    ("digit_addition", [[1]], "an input is a pair (a, b), got 1 columns"),
]


@pytest.mark.parametrize(("name", "rows", "message"), OPERANDS)
def test_operands_outside_the_domain(name: str, rows: list[list[int]], message: str) -> None:
    task = make_task(name)
    for method in (task.encode, task.solve, task.variables):
        with pytest.raises(TaskError) as error:
            method(torch.tensor(rows))
        assert message in str(error.value)
        assert str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modular_division", "5 / 0 ="),
        ("modular_addition", "3 + 113 ="),
        ("modular_addition", f"{10**30} + 1"),
        ("digit_addition", f"{10**30} + 1"),
    ],
)
def test_parsed_operands_outside_the_domain(name: str, text: str) -> None:
    with pytest.raises(TaskError, match=rf"{name}: operands must lie in \d \.\.\. \d+, got "):
        make_task(name).parse(text)


def test_parse_refuses_another_operator() -> None:
    with pytest.raises(TaskError) as error:
        make_task("modular_subtraction").parse("3 + 4 =")
    assert str(error.value) == "cannot read '3 + 4 ='; write it as '3 - 4 ='"


def test_unknown_distribution_and_corruption_name_the_nearest() -> None:
    task = make_task("digit_addition")
    with pytest.raises(TaskError) as error:
        task.sample(3, seeded(), distribution="carry-heavy")
    assert str(error.value) == (
        "no digit_addition distribution 'carry-heavy'; did you mean 'carry_heavy'? "
        "known: carry_heavy, uniform"
    )
    for unknown in (task.corruptible, lambda x, how: task.corrupt(x, how, seeded())):
        with pytest.raises(TaskError, match="corruption 'change_c'; did you mean 'change_"):
            unknown(torch.tensor([[1, 2]]), "change_c")


@pytest.mark.parametrize("train_fraction", [0.0, 1.0, -0.1, 1.5])
def test_fractions_outside_their_range(train_fraction: float) -> None:
    task = make_task("modular_addition")
    message = f"train_fraction = {train_fraction}; it must lie between 0 and 1"
    with pytest.raises(TaskError, match=message):
        task.split(0, train_fraction)
    with pytest.raises(TaskError, match=message):
        task.held_out_mask(task.domain(), seed=0, train_fraction=train_fraction)


def test_a_split_with_an_empty_side() -> None:
    with pytest.raises(TaskError, match="has 25 inputs, too few to train on 1% of them; choose"):
        make_task("modular_addition", {"p": 5}).split(0, 0.01)


def test_label_fraction_outside_its_range() -> None:
    task = make_task("modular_addition")
    with pytest.raises(TaskError, match=r"fraction = 1.5 of the labels; it must lie between"):
        randomise_labels(task, task.domain(), fraction=1.5, seed=0)


def test_a_failed_discovery_fails_again() -> None:
    """A registry that could not import its package does not pretend to be empty later."""
    registry: Registry[int] = Registry("thing", "workbench.no_such_package")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            registry.names()

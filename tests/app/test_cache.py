"""What is kept, how much of it, and that two who ask at once wait for one answer."""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cachetools
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from apps.web import cache
from apps.web.cache import MOST_BYTES, OVERHEAD, bytes_of, forget, kept_bytes, remembered
from workbench.record import Checkpoint


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    forget()
    yield
    forget()


@dataclass(frozen=True)
class Pair:
    left: Tensor
    right: Tensor


def test_tensors_count_in_full_wherever_they_lie() -> None:
    one = torch.zeros(1000)  # 4,000 bytes
    assert bytes_of(one) == OVERHEAD + 4000
    assert bytes_of(one[:2]) == OVERHEAD + 4000  # a view keeps what it is of
    assert bytes_of([one, {"x": one}]) >= 8000
    assert bytes_of(Pair(one, one)) >= 8000


def test_arrays_tables_and_records_count_too() -> None:
    assert bytes_of(np.zeros(1000)) == OVERHEAD + 8000
    assert bytes_of(pa.table({"x": np.zeros(1000)})) >= 8000
    assert bytes_of(Checkpoint(step=0, weights_sha256="a" * 64)) > OVERHEAD + 64
    assert bytes_of(tuple(range(100))) == OVERHEAD  # numbers weigh nothing beside tensors


def test_the_same_question_is_computed_once_and_another_apart() -> None:
    asked: list[tuple[int, str]] = []

    @remembered
    def work(x: int, name: str) -> str:
        asked.append((x, name))
        return f"{x}{name}"

    assert [work(1, "a"), work(1, "a"), work(2, "a"), work(1, name="a")] == ["1a", "1a", "2a", "1a"]
    assert asked[:2] == [(1, "a"), (2, "a")]


def test_functions_of_one_name_in_two_places_are_apart() -> None:
    def make(result: str) -> object:
        def inner() -> str:
            return result

        inner.__qualname__ = result
        return remembered(inner)()

    assert (make("x"), make("y")) == ("x", "y")


def test_the_oldest_goes_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    @remembered
    def big(i: int) -> Tensor:
        calls.append(i)
        return torch.zeros(MOST_BYTES // 4 // 4)  # a quarter of the room, and a little more

    for i in range(4):
        big(i)
    assert kept_bytes() <= MOST_BYTES
    big(3)
    assert calls == [0, 1, 2, 3]
    big(0)
    assert calls[-1] == 0  # it had gone


def test_what_is_larger_than_all_the_room_is_given_and_not_kept() -> None:
    @remembered
    def huge() -> Tensor:
        return torch.empty(MOST_BYTES // 4 + 1)

    assert len(huge()) == MOST_BYTES // 4 + 1
    assert kept_bytes() == 0


def test_two_who_ask_at_once_wait_for_one_answer() -> None:
    began, go, calls = threading.Event(), threading.Event(), []

    @remembered
    def slow() -> str:
        calls.append(0)
        began.set()
        assert go.wait(20)
        return "done"

    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(slow())) for _ in range(3)]
    threads[0].start()
    assert began.wait(20)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["done"] * 3
    assert len(calls) == 1


def test_a_failure_is_not_kept() -> None:
    fails = [True]

    @remembered
    def work() -> str:
        if fails[0]:
            raise ValueError("once")
        return "well"

    with pytest.raises(ValueError, match="once"):
        work()
    fails[0] = False
    assert work() == "well"


def test_other_work_goes_on_meanwhile() -> None:
    began, go = threading.Event(), threading.Event()

    @remembered
    def slow() -> str:
        began.set()
        assert go.wait(20)
        return "slow"

    @remembered
    def quick() -> str:
        return "quick"

    thread = threading.Thread(target=slow)
    thread.start()
    assert began.wait(20)
    assert quick() == "quick"  # nobody waits for another's question
    go.set()
    thread.join(20)


def test_the_limit_is_one_of_all_functions() -> None:
    assert cache._kept.maxsize == MOST_BYTES


def test_a_truth_value_is_not_a_number() -> None:
    @remembered
    def kind(x: float) -> str:
        return type(x).__name__

    assert [kind(1), kind(True), kind(1.0)] == ["int", "bool", "float"]


def test_many_at_once_get_their_own_while_there_is_never_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two networks' numbers of one shape, asked for by sixteen threads, with constant evictions."""
    room = cachetools.LRUCache(40_000, getsizeof=bytes_of)
    monkeypatch.setattr(cache, "_kept", room)

    @remembered
    def numbers(network: str, i: int) -> Tensor:
        return torch.full((500,), hash((network, i)) % 10_007, dtype=torch.float32)

    @remembered
    def total(network: str, i: int) -> float:
        return float(numbers(network, i).sum())

    wrong: list[tuple[str, int]] = []
    largest: list[float] = []

    def person(seed: int) -> None:
        draws = random.Random(seed)
        for _ in range(400):
            network, i = draws.choice("ab"), draws.randrange(40)
            expected = hash((network, i)) % 10_007
            found = numbers(network, i)
            if not bool((found == expected).all()) or total(network, i) != 500 * expected:
                wrong.append((network, i))
            largest.append(room.currsize)

    threads = [threading.Thread(target=person, args=(seed,)) for seed in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert not any(one.is_alive() for one in threads)
    assert wrong == [] and len(largest) == 16 * 400
    assert max(largest) <= 40_000 and len(room) < 80  # it never had room for all

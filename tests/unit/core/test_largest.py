"""Sums by key, and the key with the largest."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.largest import SLACK, Largest

Change = tuple[int, int, bool]
changes = st.lists(st.tuples(st.integers(0, 5), st.integers(-20, 20), st.booleans()), max_size=200)


@given(changes)
def test_it_agrees_with_a_plain_dict(taken: list[Change]) -> None:
    largest: Largest[int] = Largest()
    model: dict[int, int] = {}
    for key, amount, ask in taken:
        change = max(amount, -model.get(key, 0))
        largest.add(key, change)
        model[key] = model.get(key, 0) + change
        if not model[key]:
            del model[key]
        assert (len(largest), largest.total, largest.of(key)) == (len(model), sum(model.values()), model.get(key, 0))
        if ask:  # not each time: what changed since the last time counts too
            top = largest.top()
            assert (None if top is None else model[top]) == max(model.values(), default=None)


def test_a_sum_below_zero_is_an_error_and_changes_nothing() -> None:
    largest: Largest[str] = Largest()
    largest.add("ann", 3)
    with pytest.raises(ValueError, match="fall to -1"):
        largest.add("ann", -4)
    assert (largest.of("ann"), largest.total) == (3, 3)


class Key:
    pass


def test_memory_follows_the_keys_that_are_left_and_no_forgotten_key_is_kept_alive() -> None:
    largest: Largest[Key] = Largest()
    keys = [Key() for _ in range(1000)]
    for _ in range(20):
        for key in keys:
            largest.add(key, 1)
        assert largest.top() is not None
        assert len(largest._heap) <= 2 * len(keys) + SLACK
    gone = weakref.ref(keys[0])
    while len(keys) > 10:
        largest.add(keys.pop(0), -20)
    gc.collect()
    assert gone() is None
    assert len(largest._heap) <= 2 * len(keys) + SLACK
    assert len(largest._keys) == len(largest._numbers) == len(largest) == 10


def test_taking_from_the_top_until_nothing_is_left_builds_the_heap_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = Largest._build

    def count(largest: Largest[int]) -> None:
        built.append(len(largest))
        build(largest)

    monkeypatch.setattr(Largest, "_build", count)
    largest: Largest[int] = Largest()
    for key in range(1000):
        largest.add(key, 10)
    steps = 0
    while (top := largest.top()) is not None:
        largest.add(top, -1)
        steps += 1
    assert steps == 10_000
    assert sum(built) < 2 * steps  # what building costs in all: a constant for each step

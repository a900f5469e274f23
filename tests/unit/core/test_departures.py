"""Who has to leave, and when. Nothing here waits: the time is a number."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.departures import (
    GRACE,
    LONGEST_WINDOW,
    RETURNS_PER_SECOND,
    ROOM,
    Departures,
    Reason,
    Step,
    return_window,
    slots,
)

ALL = 10**9


def chance(seed: int = 1) -> random.Random:
    return random.Random(seed)


def filled(count: int, timeout: float = 3600, now: float = 0.0) -> Departures[int]:
    departures: Departures[int] = Departures(timeout)
    random_numbers = chance()
    for socket in range(count):
        departures.join(socket, now, random_numbers.random)
    return departures


def times(
    departures: Departures[int], until: float, step: float, now: float = 0.0
) -> Iterator[tuple[float, Step[int]]]:
    """All that is due until then, with its time."""
    while now <= until:
        yield from ((now, found) for found in departures.due(now, ALL))
        now += step


# The return of the clients


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_each_slot_has_one_return_at_a_random_time_within(count: int) -> None:
    found = list(slots(count, 10.0, chance().random))
    assert len(found) == count
    width = 10.0 / count
    assert all(number * width <= slot < (number + 1) * width for number, slot in enumerate(found))
    assert list(slots(count, 10.0, chance(2).random)) != found


def test_of_no_clients_none_returns() -> None:
    assert list(slots(0, 10.0, chance().random)) == []


@pytest.mark.parametrize(("count", "window"), [(0, 1), (1, 1), (200, 1), (1000, 5), (6000, 30), (100_000, 30)])
def test_the_window_grows_with_the_clients_and_has_an_end(count: int, window: float) -> None:
    assert return_window(count) == window


@pytest.mark.parametrize("count", [300, 1000, 5000])
def test_the_others_never_get_more_at_once_than_they_take(count: int) -> None:
    found = Counter(int(slot) for slot in slots(count, return_window(count), chance().random))
    assert max(found.values()) <= RETURNS_PER_SECOND + 1


# Age


@pytest.mark.parametrize("timeout", [1, 10, 60, 300, 3600])
def test_each_is_told_and_closed_between_80_and_95_percent_of_the_timeout(timeout: float) -> None:
    departures = filled(500, timeout, now=1000)
    told: dict[int, float] = {}
    closed: dict[int, float] = {}
    for now, (socket, reason, closes) in times(departures, 1000 + timeout, timeout / 2000, now=1000):
        assert reason is Reason.AGE
        assert socket not in (closed if closes else told)
        (closed if closes else told)[socket] = now - 1000
    assert set(told) == set(closed) == set(range(500))
    assert 0.80 * timeout <= min(told.values())
    assert max(closed.values()) <= 0.951 * timeout
    # At random: neither all at once, nor in the order of their coming.
    assert max(told.values()) - min(told.values()) > 0.09 * timeout
    assert list(told) != sorted(told)
    for socket, when in closed.items():
        assert departures.grace <= when - told[socket] <= departures.grace + timeout / 1000
        assert departures.grace == min(GRACE, 0.05 * timeout)


def test_who_has_left_is_neither_told_nor_closed() -> None:
    departures = filled(3)
    departures.leave(0)
    (first,) = departures.due(3600, 1)
    departures.leave(first.socket)
    assert {step.socket for _, step in times(departures, 4000, 100)} == {1, 2} - {first.socket}


def test_no_more_is_done_at_once_than_is_asked_for() -> None:
    departures = filled(10)
    sizes = []
    while steps := departures.due(3600, 4):
        assert all(not step.closes for step in steps)
        sizes.append(len(steps))
    assert sizes == [4, 4, 2]


# A reason that all have at once


def test_all_leave_evenly_over_the_time_in_random_order() -> None:
    departures = filled(600)
    departures.hurry(Reason.ROLLOVER, 300, 0, chance(2).random)
    told = [(now, step) for now, step in times(departures, 301, 1) if not step.closes]
    assert {step.reason for _, step in told} == {Reason.ROLLOVER}
    per_second = Counter(now for now, _ in told)
    assert max(per_second.values()) <= 4  # two, and the slots' jitter
    order = [step.socket for _, step in told]
    assert sorted(order) == list(range(600))
    assert order != sorted(order)
    assert sum(first < second for first, second in pairwise(order)) < 400  # in no order that one could name


def test_who_joins_meanwhile_leaves_within_the_same_time_of_its_own() -> None:
    departures = filled(1)
    departures.hurry(Reason.ROLLOVER, 100, 0, chance().random)
    for socket in range(1, 101):
        departures.join(socket, 90, chance(socket).random)
    told = {step.socket: now for now, step in times(departures, 200, 1) if not step.closes}
    assert set(told) == set(range(101))
    late = [now for socket, now in told.items() if socket]
    assert min(late) >= 90
    assert max(late) <= 191
    assert max(late) - min(late) > 60


def test_who_is_older_than_that_leaves_because_of_its_age() -> None:
    departures = filled(100)
    departures.hurry(Reason.ROLLOVER, 10_000, 0, chance().random)
    told = {step.socket: (now, step.reason) for now, step in times(departures, 3500, 1) if not step.closes}
    assert set(told) == set(range(100))
    assert {reason for _, reason in told.values()} == {Reason.AGE, Reason.ROLLOVER}
    assert all(now >= 2880 for now, reason in told.values() if reason is Reason.AGE)


def test_the_more_urgent_of_two_reasons_counts_and_the_other_when_that_has_gone() -> None:
    departures = filled(50)
    departures.hurry(Reason.ROLLOVER, 1000, 0, chance(2).random)
    departures.hurry(Reason.DEAFNESS, 10, 0, chance(3).random)
    departures.join(50, 0, chance(4).random)
    first = departures.due(5, ALL)
    assert 15 < len(first) < 35
    assert {step.reason for step in first} <= {Reason.DEAFNESS, Reason.ROLLOVER}
    departures.calm(Reason.DEAFNESS, 5, chance(5).random)
    assert len([step for step in departures.due(11, ALL) if not step.closes]) < 5
    later = [step for _, step in times(departures, 1006, 1, now=11) if not step.closes]
    assert {step.reason for step in later} == {Reason.ROLLOVER}
    assert {step.socket for step in first} | {step.socket for step in later} >= set(range(1, 50))


def test_when_the_reason_has_gone_who_was_not_told_stays_and_who_was_goes() -> None:
    departures = filled(100)
    departures.hurry(Reason.DEAFNESS, 10, 0, chance(2).random)
    told = {step.socket for step in departures.due(5, ALL)}
    departures.calm(Reason.DEAFNESS, 5, chance(3).random)
    departures.join(100, 5, chance(4).random)
    after = [step for _, step in times(departures, 2800, 1, now=5)]
    assert {step.socket for step in after if step.closes} == told
    assert [step for step in after if not step.closes] == []
    assert {step.socket for step in departures.due(3600, ALL)} == set(range(101)) - told


def test_a_reason_that_was_not_there_may_go() -> None:
    departures = filled(10)
    departures.calm(Reason.DEAFNESS, 0, chance().random)
    assert departures.due(2000, ALL) == []


def test_who_was_told_once_is_not_told_again() -> None:
    departures = filled(10)
    departures.hurry(Reason.DEAFNESS, 1, 0, chance().random)
    assert len(departures.due(2, ALL)) == 10
    departures.hurry(Reason.ROLLOVER, 1, 2, chance().random)
    steps = [step for _, step in times(departures, 4000, 1, now=2)]
    assert [(step.reason, step.closes) for step in steps] == [(Reason.DEAFNESS, True)] * 10


# Bounds


def test_what_is_kept_is_bounded_by_the_sockets_that_are_there() -> None:
    departures = filled(5)
    numbers = chance(2)
    for socket in range(10, 100_000):
        departures.join(socket, socket / 100, numbers.random)
        departures.leave(socket)
        assert len(departures) <= 2 * 6 + ROOM
    for _ in range(1000):
        departures.hurry(Reason.DEAFNESS, 10, 1000, numbers.random)
        departures.calm(Reason.DEAFNESS, 1000, numbers.random)
    assert len(departures) <= 2 * 6 + ROOM
    assert set(departures.sockets) == set(range(5))
    assert {step.socket for step in departures.due(4000, ALL)} == set(range(5))


ACTIONS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, 20)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("hurry"), st.sampled_from([Reason.ROLLOVER, Reason.DEAFNESS])),
    st.tuples(st.just("calm"), st.sampled_from([Reason.ROLLOVER, Reason.DEAFNESS])),
    st.tuples(st.just("wait"), st.floats(0, 50)),
)


@given(st.lists(ACTIONS, max_size=60), st.integers())
def test_whatever_happens_everyone_is_told_once_then_closed_once_and_before_the_timeout(
    actions: list[tuple[str, object]], seed: int
) -> None:
    departures: Departures[int] = Departures(100)
    numbers = chance(seed).random
    now = 0.0
    joined: dict[int, float] = {}
    told: dict[int, float] = {}
    closed: set[int] = set()

    def take(now: float) -> None:
        for socket, _, closes in departures.due(now, ALL):
            assert socket in joined
            if closes:
                assert now >= told[socket] + departures.grace
                assert socket not in closed
                closed.add(socket)
            else:
                assert socket not in told
                told[socket] = now

    for action, value in [*actions, *([("wait", 1.0)] * 101)]:
        if action == "join" and value not in joined:
            assert isinstance(value, int)
            joined[value] = now
            departures.join(value, now, numbers)
        elif action == "leave" and value in joined:
            assert isinstance(value, int)
            departures.leave(value)
            del joined[value]
            told.pop(value, None)
            closed.discard(value)
        elif action == "hurry":
            assert isinstance(value, Reason)
            departures.hurry(value, 10, now, numbers)
        elif action == "calm":
            assert isinstance(value, Reason)
            departures.calm(value, now, numbers)
        elif action == "wait":
            assert isinstance(value, float)
            until = now + value
            while now < until:
                now = min(now + 1, until)
                take(now)
    assert set(told) == closed == set(joined)
    assert set(departures.sockets) == set(joined)


def test_the_longest_absence_of_a_client_has_a_bound() -> None:
    assert max(slots(100_000, return_window(100_000), chance().random)) <= LONGEST_WINDOW

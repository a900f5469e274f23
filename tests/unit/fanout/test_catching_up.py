"""After an outage: what may be said, and what has to wait."""

import pytest

from app.fanout import Delivery
from app.fanout.pubsub import catching_up as module
from app.fanout.pubsub.catching_up import CatchingUp, HeldBack
from app.fanout.pubsub.second_look import in_order


def delivery(number: int) -> Delivery:
    return Delivery(b"x" * 10, {}, str(number), number * 1000)


def test_it_is_up_to_date_until_a_stop_and_again_when_all_that_was_said_after_it_is_heard() -> None:
    catching_up = CatchingUp()
    assert catching_up.through_ns is None
    catching_up.begin(7)
    catching_up.end(catching_up.stops)
    assert catching_up.through_ns is None


def test_what_was_heard_before_the_first_of_several_stops_counts() -> None:
    catching_up = CatchingUp()
    catching_up.begin(7)
    before_the_second = catching_up.stops
    catching_up.begin(9)
    assert catching_up.through_ns == 7
    catching_up.end(before_the_second)  # what was said before the last stop proves nothing
    assert catching_up.through_ns == 7
    catching_up.end(catching_up.stops)
    assert catching_up.through_ns is None


def test_what_is_held_back_is_handed_over_once_and_in_order() -> None:
    held, got = HeldBack(), list[Delivery]()
    assert all(held.add(delivery(number)) for number in (3, 5))
    held.let_go(got.append)
    held.let_go(got.append)
    assert got == [delivery(3), delivery(5)]


def test_what_a_second_look_found_comes_in_its_place_and_once() -> None:
    held, got = HeldBack(), list[Delivery]()
    for number in (3, 5, 11):
        held.add(delivery(number))
    held.let_go(got.append, [delivery(4), delivery(5), delivery(10)])
    assert [int(each.id or 0) for each in got] == [3, 4, 5, 10, 11]


def test_ids_are_numbers_within_a_millisecond() -> None:
    same_time = [Delivery(b"", {}, number, 1000) for number in ("10", "9", "100")]
    assert [each.id for each in in_order(same_time)] == ["9", "10", "100"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_HELD", 3), ("MAX_HELD_BYTES", 30)])
def test_what_is_held_back_has_a_bound(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, limit, value)
    held = HeldBack()
    assert [held.add(delivery(number)) for number in range(3)] == [True, True, False]


def test_one_that_cannot_be_delivered_does_not_keep_the_others_back() -> None:
    held, got = HeldBack(), list[Delivery]()
    for number in range(3):
        held.add(delivery(number))

    def deliver(one: Delivery) -> None:
        if one.id == "1":
            raise ValueError("not this one")
        got.append(one)

    held.let_go(deliver)
    assert got == [delivery(0), delivery(2)]


def test_what_comes_again_is_not_held_twice() -> None:
    held, got = HeldBack(), list[Delivery]()
    held.add(delivery(1))
    held.drop()
    held.let_go(got.append)
    assert got == []

"""Lanes: what is sent again of several channels, what has to come behind it, and what goes ahead."""

import cProfile
import pstats
from collections.abc import Sequence

import pytest

from app.connection import Connection
from app.core.position import Position
from app.outgoing import Outgoing
from app.protocol.frame import Frame
from app.replaying import AHEAD, LEAST_AHEAD, Again, Join, Order, Pace, Replaying, Run
from tests.support.outlet import FakeOutlet
from tests.support.replays import BEGINNING, again, lanes, ordered, replay


def frames(*texts: str) -> list[Frame]:
    return [Frame(text.encode()) for text in texts]


def rest(waiting: Replaying) -> list[str]:
    """All that is left, in order."""
    found = []
    while (frame := waiting.next()) is not None:
        found.append(frame.text)
    return found


def for_joins(numbers: Sequence[int], join: Join, name: str = "news", sub_id: str = "1") -> tuple[Run, list[Again]]:
    run = Run((name,), BEGINNING, (join,), sub_id)
    _, items = again([Frame(b"%d" % number) for number in numbers], name)
    return run, [
        Again(number, item.message, BEGINNING, run, own=True) for number, item in zip(numbers, items, strict=True)
    ]


def make(outlet: FakeOutlet, max_buffered: int = 10**6) -> Connection:
    connection = Connection("id", None, None, outgoing=Outgoing(10**9), max_buffered=max_buffered, outlet=outlet)
    connection.open()
    return connection


async def test_an_answer_goes_ahead_and_what_is_new_of_a_lane_behind() -> None:
    connection = make(outlet := FakeOutlet())
    replay(connection, frames("1", "2"), "news")
    connection.send(ordered(Frame(b"news"), "news"))
    connection.send(ordered(Frame(b"sport"), "sport"))
    connection.send(Frame(b"answer"))
    connection.flush()
    assert outlet.texts == ["sport", "answer", "1", "2", "news"]


async def test_while_the_kernel_holds_back_enough_nothing_is_sent_again_and_answers_are() -> None:
    connection = make(outlet := FakeOutlet())
    outlet.untaken = LEAST_AHEAD
    replay(connection, frames("1"), "news")
    connection.flush()
    assert outlet.texts == []
    connection.send(Frame(b"answer"))
    connection.flush()
    assert outlet.texts == ["answer"]
    outlet.untaken = 0
    connection.measure()
    assert outlet.texts == ["answer", "1"]


def test_lanes_share_by_bytes() -> None:
    waiting = lanes(10**6)
    waiting.replay(*again([Frame(b"a" * 8000) for _ in range(100)], "much"))
    waiting.replay(*again([Frame(b"b" * 80) for _ in range(100)], "little"))
    first = [waiting.next() for _ in range(110)]
    little = sum(frame is not None and frame.data.startswith(b"b") for frame in first)
    assert little == 100
    assert 4 <= 110 - little <= 12


def test_replays_of_one_channel_are_merged_in_the_order_of_arrival_each_message_once() -> None:
    waiting = lanes(10**6)
    one, other = Join(0), Join(0)
    assert waiting.replay(*for_joins([2, 4, 5], one)) == 3
    assert waiting.replay(*for_joins([1, 3, 4, 6], other, sub_id="2")) == 3
    one.left = True
    assert waiting.leave("news") == 0  # from its first on the other gets all of them
    assert rest(waiting) == ["1", "2", "3", "4", "5", "6"]


def test_what_is_merged_later_comes_before_what_is_new_and_arrived_later() -> None:
    waiting = lanes(10**6)
    waiting.replay(*for_joins([1, 2], Join(0)))
    new, local = Frame(b"4"), Frame(b"local")
    new.order = Order(("news",), 4)
    local.order = Order(("news",), 2.5)
    assert waiting.holds(local)
    assert waiting.holds(new)
    waiting.replay(*for_joins([2, 3, 4], Join(0)))
    assert rest(waiting) == ["1", "2", "local", "3", "4"]
    assert waiting.bytes == 0
    assert not waiting


def test_what_is_left_is_dropped_with_what_is_new_of_it() -> None:
    join = Join(0)
    waiting = Replaying(
        lambda one, _: one.message(), lambda order: order, lambda _: {} if join.left else {"1": join}, 10**6
    )
    waiting.replay(*for_joins([1, 2], join))
    new = Frame(b"new")
    new.order = Order(("news",), 3, ("news", None))
    waiting.holds(new)
    join.left = True
    assert waiting.leave("news") == 2
    assert (bool(waiting), waiting.bytes) == (False, 0)


def test_what_is_of_two_lanes_waits_for_both_and_holds_both() -> None:
    waiting = lanes(10**6)
    waiting.replay(*again(frames("1", "2"), "news"))
    both = Frame(b"both")
    both.order = Order((None, "news"), 10, None, Position("", 7))
    assert waiting.holds(both)
    inbox = ordered(Frame(b"inbox"), None, 11)
    assert waiting.holds(inbox)
    assert rest(waiting) == ["1", "2", "both", "inbox"]
    again_both = Frame(b"both")
    again_both.order = Order((None, "news"), 20, None, Position("", 9))
    assert not waiting.holds(again_both)
    waiting.replay(*again(frames("3"), None))
    assert waiting.holds(again_both)
    assert waiting.frontier("news") == Position("", 9)


def test_who_asks_again_is_not_told_that_another_brings_it() -> None:
    waiting = lanes(10**6)
    run, items = for_joins([1, 2], Join(0))
    waiting.replay(run, items)
    assert waiting.brings("news", "2", BEGINNING)
    assert not waiting.brings("news", "2", Position("", 5))
    assert not waiting.brings("news", "1", BEGINNING)
    assert not waiting.brings("news", "2", BEGINNING)
    assert not waiting.brings("sport", "2", BEGINNING)


def test_whoever_asks_and_leaves_again_and_again_has_no_more_kept_for_it() -> None:
    waiting = lanes(10**6)
    waiting.replay(*for_joins([1, 2], stays := Join(0)))
    for number in range(50):
        passes = Join(0)
        run, items = for_joins([1, 2], passes)
        run.sub_id = f"guest {number}"
        waiting.replay(run, items)
        waiting.replay(run, items)
        passes.left = True
        assert waiting.leave("news") == 0
    lane = waiting._lanes["news"]
    assert list(lane.asked) == ["1"]
    assert list(lane.wants) == ["1"]
    stays.left = True
    assert waiting.leave("news") == 2


@pytest.mark.parametrize("speed", [200_000, 2_000_000])
def test_what_waits_in_the_kernel_is_what_goes_out_in_a_quarter_of_a_second(speed: int) -> None:
    pace, now, unsent = Pace(10**6), 0.0, 0
    for _ in range(100):
        room = pace.room(unsent, now)
        unsent += max(0, room)
        now += 0.1
        unsent = max(0, unsent - speed // 10)
    assert pace.ahead == pytest.approx(max(LEAST_AHEAD, speed * AHEAD), rel=1)


def test_a_fast_client_is_sent_as_much_as_may_wait() -> None:
    pace, now = Pace(500_000), 0.0
    for _ in range(10):
        pace.room(pace.ahead, now)
        now += 0.1
        pace.room(0, now)
    assert pace.ahead == 500_000


def calls(subscriptions: int, messages: int) -> int:
    """Count the calls that it takes to replay to so many subscriptions of a channel, and to leave each of them."""
    joins = {f"{number}": Join(0) for number in range(subscriptions)}
    waiting = Replaying(lambda one, _: one.message(), lambda order: order, lambda _: joins, 10**6)
    numbers = range(1, messages + 1)
    runs = [for_joins(numbers, join, sub_id=name) for name, join in joins.items()]
    new = [Frame(b"new") for _ in numbers]
    for at, frame in enumerate(new):
        frame.order = Order(("news",), messages + 1 + at, ("news", None))
    profile = cProfile.Profile()
    profile.enable()
    for run, items in runs:
        waiting.replay(run, items)
    for frame in new:
        assert waiting.holds(frame)
    for name in tuple(joins):
        joins.pop(name).left = True
        waiting.leave("news")
    profile.disable()
    assert not waiting
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def test_what_a_subscription_costs_grows_with_what_waits_and_not_with_the_other_subscriptions_too() -> None:
    few = calls(50, 100)
    assert calls(100, 100) < 2.6 * few
    assert calls(50, 200) < 2.6 * few


def test_what_waits_keeps_nothing_for_each_subscription() -> None:
    joins = {f"{number}": Join(0) for number in range(1000)}
    waiting = Replaying(lambda one, _: one.message(), lambda order: order, lambda _: joins, 10**6)
    for name, join in joins.items():
        waiting.replay(*for_joins([1, 2], join, sub_id=name))
    new = Frame(b"new")
    new.order = Order(("news",), 3, ("news", None))
    waiting.holds(new)
    lane = waiting._lanes["news"]
    assert all(item.address == ("news", None) for item in lane.items)
    assert len(lane.wants) == len(joins)

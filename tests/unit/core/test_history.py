"""What is kept, what goes when, and the traces it leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.history import ENTRY_BYTES, EVERYONE, KEY_BYTES, LOG_BYTES, NOTHING, History, Stream
from app.core.position import MAX_KEYS, Mark, Position

NEWS = Stream.channel("news")
SPORT = Stream.channel("sport")
TOMBSTONE = LOG_BYTES + KEY_BYTES + len("news")


def history(size: int = 100, ttl: float = 100, max_bytes: int = 10**9) -> History[str]:
    return History(size=size, ttl=ttl, max_bytes=max_bytes)


def add(
    log: History[str], stream: Stream, time: int, key: str | None = "k", now: float = 0, size: int = 10
) -> Position:
    return log.add(stream, Mark(time, f"m{time}", key), f"m{time}", size, now)


def kept(log: History[str], stream: Stream) -> list[str]:
    return [entry.message for entry in log.logs([stream])[0].entries]


def gone(log: History[str], stream: Stream) -> list[int]:
    return [seen.last.time for seen in log.logs([stream])[0].evicted.values()]


def test_a_position_names_the_last_message_of_each_key_so_far() -> None:
    log = history()
    assert [last.id for last in add(log, NEWS, 1).last] == ["m1"]
    assert {last.id for last in add(log, NEWS, 2, "other").last} == {"m1", "m2"}
    assert {last.id for last in add(log, NEWS, 3, None).last} == {"m1", "m2"}
    assert {last.id for last in add(log, NEWS, 4).last} == {"m4", "m2"}
    assert add(log, SPORT, 5, None).last == ()


def test_a_position_is_the_same_whatever_else_this_instance_heard() -> None:
    one, two = history(size=1), history()
    add(one, SPORT, 1, "other")
    add(one, NEWS, 2)
    add(two, EVERYONE, 1)
    assert add(one, NEWS, 3).encode() == add(two, NEWS, 3).encode()


def test_several_streams_have_one_position() -> None:
    log = history()
    inbox = Stream.inbox("ann")
    add(log, inbox, 1)
    add(log, EVERYONE, 2)
    add(log, inbox, 3, "other")
    together = log.position([inbox, EVERYONE, Stream.inbox("bob")], 9)
    assert (together.time, {last.id for last in together.last}) == (9, {"m2", "m3"})
    assert log.position([], 9) == Position("", 9)


def test_a_broadcast_bears_more_than_its_own_only_where_an_inbox_calls_for_it() -> None:
    log = history()
    inbox = Stream.inbox("ann")
    streams = [inbox, EVERYONE]
    add(log, inbox, 1)
    broadcast = add(log, EVERYONE, 21, "all")
    assert log.widened(broadcast, streams, 10) is broadcast
    assert log.widened(broadcast, streams, 11) == log.position(streams, 21) != broadcast
    add(log, inbox, 22, "all")
    broadcast = add(log, EVERYONE, 23, "all")
    assert log.widened(broadcast, streams, 10) is broadcast, "the key is named, and its last is this"
    add(log, inbox, 24, "all")
    broadcast = add(log, EVERYONE, 99, "other")
    assert log.widened(broadcast, streams, 10) != broadcast, "an older place of the same key would bring repeats"


def test_a_channel_and_an_inbox_of_one_name_are_two_streams() -> None:
    log = history()
    add(log, Stream.channel("ann"), 1)
    assert kept(log, Stream.inbox("ann")) == []


def test_a_stream_keeps_its_newest() -> None:
    log = history(size=2)
    for time in (1, 2, 3):
        add(log, NEWS, time)
    add(log, SPORT, 4)
    assert (kept(log, NEWS), gone(log, NEWS), kept(log, SPORT)) == (["m2", "m3"], [1], ["m4"])
    assert log.evicted == {"size": 1, "age": 0, "bytes": 0}


def test_what_is_too_old_goes_also_when_nothing_comes() -> None:
    log = history(ttl=10)
    add(log, NEWS, 1, now=0)
    add(log, SPORT, 2, now=5)
    add(log, NEWS, 3, now=6)
    log.expire(9.9)
    assert log.messages == 3
    log.expire(10)
    assert (kept(log, NEWS), kept(log, SPORT)) == (["m3"], ["m2"])
    log.expire(15)
    assert (kept(log, NEWS), kept(log, SPORT), gone(log, SPORT)) == (["m3"], [], [2])
    assert log.evicted == {"size": 0, "age": 2, "bytes": 0}


def test_adding_lets_the_old_go_too() -> None:
    log = history(ttl=10)
    add(log, NEWS, 1, now=0)
    add(log, SPORT, 2, now=10)
    assert kept(log, NEWS) == []


def test_a_stream_that_aged_out_is_a_tombstone_and_can_begin_again() -> None:
    log = history(ttl=10)
    add(log, NEWS, 1)
    log.expire(10)
    assert (log.messages, log.streams, log.bytes) == (0, 1, TOMBSTONE)
    add(log, NEWS, 2, now=11)
    assert (kept(log, NEWS), gone(log, NEWS)) == (["m2"], [1])


def test_when_bytes_run_out_the_stream_that_rested_longest_gives_first() -> None:
    log = history(max_bytes=2 * (TOMBSTONE + 1) + 4 * (ENTRY_BYTES + 10))
    add(log, NEWS, 1)
    add(log, SPORT, 2)
    add(log, NEWS, 3)
    add(log, SPORT, 4)
    add(log, NEWS, 5)
    assert (kept(log, NEWS), kept(log, SPORT), gone(log, SPORT)) == (["m1", "m3", "m5"], ["m4"], [2])
    add(log, NEWS, 6)
    assert (kept(log, SPORT), log.streams, log.forgotten_through) == ([], 2, NOTHING)
    add(log, NEWS, 7)
    assert (log.streams, log.forgotten_through) == (1, 4)
    assert log.logs([SPORT])[0].floor == 4, "a stream that is not there may be one that was forgotten"
    add(log, SPORT, 8)
    assert log.logs([SPORT])[0].floor == 4
    assert log.evicted["bytes"] == 4


def test_a_message_too_large_for_all_is_gone_at_once() -> None:
    log = history(max_bytes=10_000)
    add(log, NEWS, 1, size=20_000)
    assert (log.messages, log.streams, log.bytes, log.forgotten_through) == (0, 1, TOMBSTONE, NOTHING)
    assert gone(log, NEWS) == [1]


def test_what_has_no_order_leaves_its_time() -> None:
    log = history(size=1)
    for time in (5, 3, 1):
        add(log, NEWS, time, None)
    assert (log.logs([NEWS])[0].floor, log.logs([NEWS])[0].evicted) == (5, {})


def test_of_too_many_keys_the_stalest_are_given_up() -> None:
    log = history(size=1)
    for time in range(1, MAX_KEYS + 3):
        position = add(log, NEWS, time, f"key{time}")
    assert len(position.last) == MAX_KEYS
    assert (log.logs([NEWS])[0].floor, len(gone(log, NEWS))) == (2, MAX_KEYS - 1)
    assert log.bytes == LOG_BYTES + len("news") + MAX_KEYS * KEY_BYTES + ENTRY_BYTES + 10


@pytest.mark.parametrize(("size", "ttl", "max_bytes"), [(0, 1, 10**6), (1, 0, 10**6), (1, 1, 0)])
def test_any_bound_of_zero_is_off(size: int, ttl: float, max_bytes: int) -> None:
    log = history(size, ttl, max_bytes)
    assert len(add(log, NEWS, 1).last) == 1
    assert not log.on
    assert (log.messages, log.streams, log.bytes, log.logs([NEWS])) == (0, 0, 0, [])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", None]), st.integers(0, 5), st.integers(0, 900))),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 8_000),
)
def test_it_never_holds_more_than_it_may_and_counts_right(
    added: list[tuple[int, str | None, int, int]], size: int, ttl: int, max_bytes: int
) -> None:
    log = history(size, ttl, max_bytes)
    streams = [Stream.channel("a"), Stream.channel("bb"), Stream.inbox("a"), EVERYONE]
    now = 0
    for time, (stream, key, pause, length) in enumerate(added):
        now += pause
        add(log, streams[stream], time, key, now, length)
        entries = [entry for each in streams for entry in log.logs([each])[0].entries]
        assert log.bytes <= max_bytes
        assert all(len(log.logs([each])[0].entries) <= size for each in streams)
        assert all(entry.at + ttl > now for entry in entries)
        assert log.messages == len(entries) == time + 1 - sum(log.evicted.values())
        assert log.bytes == sum(entry.size + ENTRY_BYTES for entry in entries) + sum(
            LOG_BYTES + len(each.name) + KEY_BYTES * len(known.last)
            for each in streams
            if (known := log._logs.get(each)) is not None
        )

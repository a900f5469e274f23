"""What is kept, what goes when, and the traces it leaves."""

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.arrival import Arrival
from app.core.history import (
    EMPTY,
    ENTRY_BYTES,
    EVERYONE,
    EXACT_BELOW,
    GRAVE_BYTES,
    KEY_BYTES,
    LOG_BYTES,
    NOTHING,
    PART,
    SLACK,
    History,
    Log,
    Owner,
    Ranking,
    Stream,
)
from app.core.position import MAX_KEYS, Mark, Position
from app.core.sizes import text_bytes
from app.fanout import Delivery

NEWS = Stream.channel("news")
SPORT = Stream.channel("sport")
TOMBSTONE = LOG_BYTES + KEY_BYTES + text_bytes("news")
GRAVE = GRAVE_BYTES + text_bytes("news")


def history(size: int = 100, ttl: float = 100, max_bytes: int = 10**9) -> History[str]:
    return History(size=size, ttl=ttl, max_bytes=max_bytes)


def add(
    log: History[str],
    stream: Stream,
    time: int,
    key: str | None = "k",
    now: float = 0,
    size: int = 10,
    owner: str = "",
) -> Position:
    return log.add(stream, Mark(time, f"m{time}", key), f"m{time}", size, now, owner)


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


def test_when_bytes_run_out_the_fullest_stream_loses_its_oldest() -> None:
    log = history(max_bytes=2 * (TOMBSTONE + 1) + 4 * (ENTRY_BYTES + 10))
    for time in (1, 2, 3, 4):
        add(log, NEWS, time)
    add(log, SPORT, 5)
    assert (kept(log, NEWS), kept(log, SPORT), gone(log, NEWS)) == (["m2", "m3", "m4"], ["m5"], [1])
    add(log, SPORT, 6)
    add(log, SPORT, 7)
    assert (kept(log, NEWS), kept(log, SPORT)) == (["m3", "m4"], ["m6", "m7"])
    add(log, SPORT, 8, size=4 * ENTRY_BYTES)
    assert (kept(log, NEWS), kept(log, SPORT), gone(log, SPORT)) == (["m3", "m4"], [], [8]), "too large for its share"
    assert (log.evicted["bytes"], log.forgotten_through) == (6, NOTHING)


def test_a_flood_on_many_channels_leaves_a_quiet_one_its_message() -> None:
    log = history(max_bytes=400_000)
    add(log, NEWS, 1)
    for time in range(2, 3000):
        add(log, Stream.channel(f"flooded{time % 100}"), time)
    assert kept(log, NEWS) == ["m1"]
    assert log.evicted["bytes"] > 2000


def test_what_takes_less_than_its_share_stays_whatever_others_do() -> None:
    log = history(max_bytes=400_000)
    for time in range(10):
        add(log, NEWS, time)
    for time in range(10, 3000):
        add(log, Stream.channel(f"large{time % 20}"), time, size=1000)
    assert log._logs[NEWS].bytes * log.streams < 400_000
    assert len(kept(log, NEWS)) == 10


def test_of_two_that_are_nearly_equal_the_one_below_its_share_stays() -> None:
    log = history(size=2)

    def grow(stream: Stream, time: int, to: int) -> None:
        known = log._logs.get(stream)
        here = LOG_BYTES + KEY_BYTES + text_bytes(stream.name) if known is None else known.bytes
        add(log, stream, time, size=to - here - ENTRY_BYTES)

    shrunk, others = NEWS, [SPORT, Stream.channel("third")]
    add(log, shrunk, 1, size=200)
    grow(shrunk, 2, to=25_000)
    add(log, shrunk, 3, size=1)  # so it lost the first, and takes less than it was ranked with
    for time, other in enumerate(others):
        grow(other, 4 + time, to=23_500)
        grow(other, 6 + time, to=25_200)
    log._max_bytes = log.bytes - 1
    log.lose(shrunk, 0, now=0)
    assert [len(kept(log, stream)) for stream in (shrunk, *others)] in ([2, 1, 2], [2, 2, 1])


def test_who_has_more_than_an_eighth_loses_the_oldest_of_its_fullest_stream() -> None:
    log = history(max_bytes=400_000)
    for time in range(200):
        add(log, NEWS, time, owner="")
    for time in range(200, 210):
        add(log, SPORT, time, owner="ann", size=2000)
    began = len(kept(log, NEWS))
    time = 210
    while not log.evicted["bytes"]:
        add(log, Stream.channel(f"chat{time}"), time, owner="ann")
        time += 1
    assert (len(kept(log, NEWS)), kept(log, SPORT)[0]) == (began, "m201")
    for more in range(time, time + 500):
        add(log, Stream.channel(f"chat{more}"), more, owner="ann")
    assert (len(kept(log, NEWS)), log.messages < 400) == (began, True)


def test_a_seventh_is_more_than_an_eighth() -> None:
    log = history(size=1000, max_bytes=100_000)
    for time in range(2):
        add(log, SPORT, time, owner="ann", size=5600)
    for time in range(2, 200):
        add(log, NEWS, time)
        if log.evicted["bytes"]:
            break
    assert (kept(log, SPORT), gone(log, SPORT), gone(log, NEWS)) == (["m1"], [0], [])


def test_who_has_less_than_an_eighth_gives_way_like_all_others() -> None:
    log = history(max_bytes=100_000)
    for time in range(5):
        add(log, NEWS, time, owner="ann")
    for time in range(5, 200):
        add(log, SPORT, time, size=200)
    assert (len(kept(log, NEWS)), log._owners["ann"].bytes * PART < 100_000) == (5, True)


def test_a_stream_stays_its_first_senders() -> None:
    log = history(max_bytes=100_000)
    add(log, NEWS, 1, owner="ann")
    for time in range(2, 30):
        add(log, NEWS, time, owner="bob")
    assert ([*log._owners], log._owners["ann"].bytes) == (["ann"], log._logs[NEWS].bytes)


def test_one_client_that_begins_very_many_channels_loses_its_own() -> None:
    log = history(max_bytes=1_000_000)
    for time in range(100):
        add(log, Stream.channel(f"innocent{time % 20}"), time, owner=f"innocent{time % 20}")
    for time in range(100, 10_100):
        add(log, Stream.channel(f"flood{time}"), time, owner="flood")
    assert all(len(kept(log, Stream.channel(f"innocent{number}"))) == 5 for number in range(20))
    assert (log.bytes <= 1_000_000, len(log._owners)) == (True, 21)
    assert len(log._ranking._places) <= 2 * log.streams + SLACK
    assert not any(place[2].last for place in log._ranking._places if not place[2].rank), "nothing hangs on the buried"


def test_tombstones_go_before_messages_and_the_one_that_rested_longest_first() -> None:
    log = history(max_bytes=40_000, ttl=10)
    for number, name in enumerate("abc"):
        add(log, Stream.channel(name), number, now=number)
    log.expire(12)
    log.lose(Stream.channel("a"), 4, now=12)  # it is of use
    add(log, NEWS, 5, now=12)
    while len(log._graves) < 2:
        add(log, SPORT, 6, now=12)
    assert [*log._graves] == [Stream.channel("b"), Stream.channel("c")]
    assert log.evicted == {"size": 0, "age": 3, "bytes": 0}


def test_the_tombstones_of_who_has_too_much_go_before_those_of_others() -> None:
    log = history(max_bytes=100_000, ttl=10)
    add(log, NEWS, 1, owner="ann")
    for time in range(2, 100):
        add(log, Stream.channel(f"flood{time}"), time, now=time / 4, owner="flood")
    assert gone(log, NEWS) == [1]
    assert log._graves
    assert all(stream.name.startswith("flood") for stream in log._graves)


def test_what_was_buried_has_its_own_floor_and_raises_no_others() -> None:
    log = history(max_bytes=2 * TOMBSTONE + 2 * ENTRY_BYTES, ttl=10)
    log.add(NEWS, Mark(7, "m7", "k"), "m7", 0, 0)
    log.expire(10)
    for time in (8, 9):
        add(log, SPORT, time, now=10, size=1)
    assert ([*log._graves.items()], log.forgotten_through) == ([(NEWS, 7)], NOTHING)
    assert [log.logs([stream])[0].floor for stream in (NEWS, SPORT, EVERYONE)] == [7, NOTHING, NOTHING]
    log.expire(20)
    add(log, NEWS, 10, now=20)
    assert (log._graves, log.logs([NEWS])[0].floor, kept(log, NEWS)) == ({}, 7, ["m10"])


def test_of_too_many_graves_one_number_is_left_for_all() -> None:
    log = history(max_bytes=80_000)
    for time in range(1000):
        add(log, Stream.channel(f"n{time:03}"), time, owner="flood")
    assert 0 < len(log._graves) * GRAVE <= 80_000 // PART
    oldest, floor = next(iter(log._graves.items()))
    assert log.forgotten_through == floor - 1
    assert log.logs([EVERYONE])[0].floor == floor - 1
    assert log.logs([oldest])[0].floor == floor


def test_a_flood_does_not_bring_the_time_of_the_forgotten_near_to_now() -> None:
    """An unknown stream's floor is as old as it was when the stream that rested longest was forgotten first."""
    log = history(size=1000, max_bytes=1_000_000)
    for time in range(1000):
        add(log, NEWS, time, size=1000)  # what others have takes nearly all of it
    flood = range(1000, 5000)
    for time in flood:
        add(log, Stream.channel(f"n{time:04}"), time, owner="flood")
    assert len(kept(log, NEWS)) > 300
    of_all_bytes = 1_000_000 // (TOMBSTONE + ENTRY_BYTES + 10)
    assert flood[-1] - log.forgotten_through > 0.9 * of_all_bytes / 1.6  # what it counted was 1.6 times too little


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
    assert log.bytes == LOG_BYTES + text_bytes("news") + MAX_KEYS * KEY_BYTES + ENTRY_BYTES + 10


@pytest.mark.parametrize(("size", "ttl", "max_bytes"), [(0, 1, 10**6), (1, 0, 10**6), (1, 1, 0)])
def test_any_bound_of_zero_is_off(size: int, ttl: float, max_bytes: int) -> None:
    log = history(size, ttl, max_bytes)
    assert len(add(log, NEWS, 1).last) == 1
    assert not log.on
    assert (log.messages, log.streams, log.bytes, log.logs([NEWS])) == (0, 0, 0, [])


class Checked(History[str]):
    """One that looks at every choice: what a plain search over all streams would allow."""

    largest: Owner[str] | None = None

    def _largest_owner(self) -> Owner[str] | None:
        self.largest = super()._largest_owner()
        return self.largest

    def _fullest(self, ranking: Ranking[str]) -> Log[str] | None:
        owners = sorted(self._owners.values(), key=lambda owner: owner.bytes)
        if owners and owners[-1].bytes * PART > self._max_bytes:
            assert isinstance(ranking, Owner)
            assert ranking.bytes == owners[-1].bytes
            streams = [log for log in self._logs.values() if log.owner is ranking]
        else:
            assert ranking is self._ranking
            streams = [*self._logs.values()]
        chosen = super()._fullest(ranking)
        if not streams:
            assert chosen is None
            return chosen
        assert chosen in streams
        if chosen.entries:
            assert all(log.entries for log in streams)
            most = max(log.bytes for log in streams)
            assert chosen.bytes >= max(most * (PART - 1) / PART, min(most, self._max_bytes / len(self._logs)))
        return chosen


SMALL = st.tuples(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["a", "b", None]), st.integers(0, 5), st.integers(0, 900)),
        max_size=60,
    ),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 30_000),
)
LARGE = st.tuples(
    st.lists(st.tuples(st.integers(0, 7), st.just("a"), st.just(0), st.integers(0, 2 * EXACT_BELOW)), max_size=60),
    st.just(100),
    st.just(9),
    st.integers(3 * EXACT_BELOW, 20 * EXACT_BELOW),
)


@given(SMALL | LARGE, st.integers(0, 8))
def test_it_never_holds_more_than_it_may_and_counts_right(
    drawn: tuple[list[tuple[int, str | None, int, int]], int, int, int], owners: int
) -> None:
    added, size, ttl, max_bytes = drawn
    log = Checked(size=size, ttl=ttl, max_bytes=max_bytes)
    streams = [*(Stream.channel(name) for name in ("a", "bb", "c", "d", "e", "f")), Stream.inbox("a"), EVERYONE]
    now = 0
    for time, (stream, key, pause, length) in enumerate(added):
        now += pause
        add(log, streams[stream], time, key, now, length, owner="xyz"[stream % 3] if stream < owners else "")
        entries = [entry for each in streams for entry in log.logs([each])[0].entries]
        assert log.bytes <= max_bytes
        assert all(len(log.logs([each])[0].entries) <= size for each in streams)
        assert all(entry.at + ttl > now for entry in entries)
        assert log.messages == len(entries) == time + 1 - sum(log.evicted.values())
        for each, known in log._logs.items():
            assert known.bytes == LOG_BYTES + text_bytes(each.name) + KEY_BYTES * len(known.last) + sum(
                entry.size + ENTRY_BYTES for entry in known.entries
            )
            assert known.bytes <= known.bound < EMPTY if known.entries else known.bound == EMPTY
        graves = sum(GRAVE_BYTES + text_bytes(each.name) for each in log._graves)
        assert log.bytes == graves + sum(known.bytes for known in log._logs.values())
        assert graves <= max_bytes // PART
        for name, owner in log._owners.items():
            own = [known for known in log._logs.values() if known.owner is owner]
            assert (owner.name, owner.bytes, owner.streams) == (name, sum(known.bytes for known in own), len(own))
            assert own


def kept_bytes(count: int, name: str, channels: int, senders: int, keys: int) -> tuple[int, int]:
    """The bytes that a history counts, and those that it takes, after so many tiny messages as Pub/Sub brings them."""

    def fresh(text: str) -> str:
        return text.encode().decode()

    def come(log: History[Arrival], number: int) -> None:
        attributes: dict[str, Any] = {
            fresh("type"): fresh("announce"),
            fresh("channel"): fresh(f"{number % channels:06}{name}"),
            fresh("origin"): fresh("0123456789ab"),
            fresh("sender"): fresh(f"{number % senders:08}-2222-4222-8222-222222222222"),
        }
        key = fresh(f"cloud-sockets-{number % keys}")
        delivery = Delivery(bytes(bytearray(b'{"n":1}')), attributes, fresh(str(10**16 + number)), 10**18 + number, key)
        arrival = Arrival(delivery)
        stream = Stream.channel(arrival.address.channel or "")
        log.add(stream, Mark(10**18 + number, delivery.id or "", key), arrival, arrival.size, number, arrival.sender)

    gc.collect()
    tracemalloc.start()
    try:
        log: History[Arrival] = History(size=1000, ttl=10**9, max_bytes=1_500_000)
        for number in range(count):
            come(log, number)
        gc.collect()
        return log.bytes, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "channels", "senders", "keys"),
    [
        ("", 1, 1, 1), ("", 300, 10, 1), ("", 10**6, 1, 1), ("", 10**6, 10**6, 1), ("", 2000, 10**6, 16),
        ("x" * 249, 10**6, 1, 1), ("\U0001f600" * 249, 10**6, 1, 1), ("\U0001f600" * 249, 10, 1, 1),
    ],
)  # fmt: skip
def test_what_it_counts_is_what_it_takes(name: str, channels: int, senders: int, keys: int) -> None:
    for count in (500, 2000):  # as it fills, and when it is full
        counted, taken = kept_bytes(count, name, channels, senders, keys)
        assert taken <= 1.25 * counted

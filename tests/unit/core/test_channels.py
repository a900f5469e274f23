"""The registry of subscriptions."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.channels import (
    CHANNEL_BYTES,
    CONNECTION_BYTES,
    FEW,
    KEY_BYTES,
    MEMBERSHIP_BYTES,
    PLACE_BYTES,
    POSITION_BYTES,
    SUBSCRIPTION_BYTES,
    ChannelManager,
    Removed,
)
from app.core.sizes import text_bytes
from app.protocol.errors import ErrorCode, MessageError


@pytest.fixture
def channels() -> ChannelManager[str]:
    return ChannelManager()


def test_subscribing_twice_changes_nothing(channels: ChannelManager[str]) -> None:
    channels.subscribe("ann", "news", "a")
    channels.subscribe("ann", "news", "a")
    assert list(channels.connections_of("news", "a")) == ["ann"]
    assert channels.subscription_count_of("ann") == 1


def test_a_connection_in_two_sub_ids_is_in_the_channel_once(channels: ChannelManager[str]) -> None:
    for sub_id in ("a", "b"):
        channels.subscribe("ann", "news", sub_id)
    channels.subscribe("bob", "news", "b")
    assert list(channels.connections_of("news")) == ["ann", "bob"]


def test_the_three_forms_of_unsubscribe_count_what_they_took_away(channels: ChannelManager[str]) -> None:
    for connection in ("ann", "bob"):
        for channel in ("news", "sport"):
            for sub_id in ("a", "b"):
                channels.subscribe(connection, channel, sub_id)
    assert channels.unsubscribe("ann", "news", "a") == Removed(1, 0, 0)
    assert channels.unsubscribe("bob", "news", "a") == Removed(1, 1, 0)
    assert channels.unsubscribe("ann", "news") == Removed(1, 0, 0)
    assert channels.unsubscribe("bob", "news") == Removed(1, 1, 1)
    assert channels.unsubscribe("ann") == Removed(2, 0, 0)
    assert channels.unsubscribe("bob") == Removed(2, 2, 1)
    assert channels.unsubscribe("bob") == Removed(0, 0, 0)
    assert (list(channels.channels), channels.subscription_count) == ([], 0)


@pytest.mark.parametrize("place", [("other",), ("news", "other"), ("other", "a")])
def test_taking_away_what_is_not_there_is_no_error(channels: ChannelManager[str], place: tuple[str, ...]) -> None:
    channels.subscribe("ann", "news", "a")
    assert channels.unsubscribe("ann", *place) == Removed(0, 0, 0)
    assert channels.unsubscribe("stranger", "news", "a") == Removed(0, 0, 0)
    assert channels.has("ann", "news", "a")


def test_a_channel_may_have_any_name(channels: ChannelManager[str]) -> None:
    for name in ("user", "__class__", "constructor"):
        channels.subscribe("ann", name, name)
    assert list(channels.channels) == ["user", "__class__", "constructor"]


Step = tuple[bool, int, int, int]
steps = st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 2)), max_size=60)


@given(steps)
def test_it_agrees_with_a_plain_set_of_memberships(taken: list[Step]) -> None:
    channels: ChannelManager[int] = ChannelManager()
    model: set[tuple[int, str, str]] = set()

    def matching(connection: int, channel: int, sub_id: int) -> Iterator[tuple[int, str, str]]:
        for entry in model:
            if (
                entry[0] == connection
                and channel in (-1, int(entry[1]))
                and (channel == -1 or sub_id in (-1, int(entry[2])))
            ):
                yield entry

    for subscribe, connection, channel, sub_id in taken:
        if subscribe:
            place = str(max(channel, 0)), str(max(sub_id, 0))
            channels.subscribe(connection, *place)
            model.add((connection, *place))
        else:
            gone = set(matching(connection, channel, sub_id))
            before = {entry[1:] for entry in model}, {entry[1] for entry in model}
            model -= gone
            after = {entry[1:] for entry in model}, {entry[1] for entry in model}
            given_channel = None if channel == -1 else str(channel)
            given_sub_id = None if channel == -1 or sub_id == -1 else str(sub_id)
            removed = channels.unsubscribe(connection, given_channel, given_sub_id)
            assert removed == Removed(len(gone), len(before[0] - after[0]), len(before[1] - after[1]))
        assert set(channels.channels) == {entry[1] for entry in model}
        assert channels.subscription_count == len({entry[1:] for entry in model})
        assert set(channels.subscribed_connections()) == {entry[0] for entry in model}
        for name in "012":
            assert set(channels.connections_of(name)) == {entry[0] for entry in model if entry[1] == name}
            counts = {sub_id: len({e for e in model if e[1:] == (name, sub_id)}) for sub_id in "012"}
            assert dict(channels.subscriptions_of(name)) == {key: value for key, value in counts.items() if value}
        for who in range(3):
            assert channels.subscription_count_of(who) == len({entry for entry in model if entry[0] == who})


def own_bytes(memberships: dict[tuple[str, str], int]) -> int:
    """Count anew what a connection has, each with the bytes of its position: as if it were alone."""
    channels = {channel for channel, _ in memberships}
    return (
        CONNECTION_BYTES * bool(memberships)
        + sum(PLACE_BYTES + CHANNEL_BYTES + text_bytes(channel) for channel in channels)
        + sum(
            MEMBERSHIP_BYTES + SUBSCRIPTION_BYTES + text_bytes(sub_id) + position
            for (_, sub_id), position in memberships.items()
        )
    )


def all_bytes(model: dict[int, dict[tuple[str, str], int]]) -> int:
    """Count anew what all have, with each channel and each subId once."""
    places = [(connection, *place) for connection, own in model.items() for place in own]
    return (
        CONNECTION_BYTES * len({place[0] for place in places})
        + PLACE_BYTES * len({place[:2] for place in places})
        + MEMBERSHIP_BYTES * len(places)
        + sum(position for own in model.values() for position in own.values())
        + sum(CHANNEL_BYTES + text_bytes(channel) for channel in {place[1] for place in places})
        + sum(SUBSCRIPTION_BYTES + text_bytes(sub_id) for _, sub_id in {place[1:] for place in places})
    )


NAMES = ("a", "news-" * 20, "\U0001f600" * 255)
ONE_KEY = "1.epoch.5.1_2_id"
FULL = "1.epoch.5" + "".join(f".{key}_2_id" for key in range(8))
POSITIONS = {
    None: 0,
    "1.epoch.5": POSITION_BYTES,
    ONE_KEY: POSITION_BYTES + KEY_BYTES,
    FULL: POSITION_BYTES + 8 * KEY_BYTES,
    FULL + "." * 500: POSITION_BYTES + 8 * KEY_BYTES,
    "no position": POSITION_BYTES,
}
Call = tuple[bool, int, int, int, str | None]
calls = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, 3), st.integers(-1, 2), st.integers(-1, 2), st.sampled_from(list(POSITIONS))
    ),
    max_size=60,
)


@given(calls)
def test_what_is_counted_is_what_is_there_after_any_calls(taken: list[Call]) -> None:
    """The sums are those of a recount, and 0 when all are gone; one who is refused has what it had."""
    channels: ChannelManager[int] = ChannelManager(max_bytes=60_000)
    model: dict[int, dict[tuple[str, str], int]] = {connection: {} for connection in range(4)}
    for subscribe, connection, channel, sub_id, position in taken:
        own = model[connection]
        if subscribe:
            place = NAMES[max(channel, 0)], NAMES[max(sub_id, 0)]
            wanted = {**own, place: max(own.get(place, 0), POSITIONS[position])}
            free = 60_000 - all_bytes(model)
            is_one_of_few = len(own) - (place in own) < FEW and own_bytes(wanted) - own_bytes(own) <= free
            refused = own_bytes(wanted) > free**2 / 8 / 60_000 and wanted != own and not is_one_of_few
            try:
                channels.subscribe(connection, *place, position)
            except MessageError:
                assert refused
            else:
                assert not refused
                model[connection] = wanted
        else:
            given_channel = None if channel == -1 else NAMES[channel]
            given_sub_id = None if channel == -1 or sub_id == -1 else NAMES[sub_id]
            channels.unsubscribe(connection, given_channel, given_sub_id)
            model[connection] = {
                place: position_bytes
                for place, position_bytes in own.items()
                if (given_channel is not None and place[0] != given_channel)
                or (given_sub_id is not None and place[1] != given_sub_id)
            }
        assert channels.bytes == all_bytes(model) <= 60_000
        assert [channels.bytes_of(each) for each in range(4)] == [own_bytes(model[each]) for each in range(4)]
    for connection in range(4):
        channels.unsubscribe(connection)
    assert channels.bytes == 0


def test_no_connection_is_charged_for_another(channels: ChannelManager[str]) -> None:
    """A connection's sum stays the same whoever else comes to its channels, goes, or made them."""
    channels.subscribe("ann", "news", "a")
    alone = channels.bytes_of("ann")
    for connection in ("bob", "eve"):
        channels.subscribe(connection, "news", "a")
        channels.subscribe(connection, "news", "b")
    assert channels.bytes_of("ann") == alone
    channels.unsubscribe("bob")
    assert channels.bytes_of("ann") == alone
    channels.unsubscribe("ann")
    channels.subscribe("ann", "news", "a")
    assert channels.bytes_of("ann") == alone


def fill(channels: ChannelManager[str], connection: str) -> int:
    """Subscribe a connection to all that it can get."""
    for number in range(10_000):
        try:
            channels.subscribe(connection, f"{connection}-{number}", "1")
        except MessageError:
            return number
    raise AssertionError("nothing ended it")


def test_a_newcomer_finds_room_however_many_are_greedy() -> None:
    """Also when they come one after another and each takes what it can, which leaves an ever smaller part."""
    limit = 4_000_000
    channels: ChannelManager[str] = ChannelManager(max_bytes=limit)
    for number in range(50):
        fill(channels, f"greedy-{number}")
    free = limit - channels.bytes
    assert free == pytest.approx(8 * limit / (8 + 50), rel=0.1)
    assert fill(channels, "newcomer") == pytest.approx(max(FEW, free**2 / limit / 8 / 1640), abs=1)
    assert channels.subscription_count_of("newcomer") >= 5
    assert channels.bytes < limit


def test_greedy_connections_that_come_together_share_evenly() -> None:
    channels: ChannelManager[str] = ChannelManager(max_bytes=4_000_000)
    refused: set[int] = set()
    for number in range(1000):
        for connection in range(20):
            try:
                channels.subscribe(str(connection), f"{connection}-{number}", "1")
            except MessageError:
                refused.add(connection)
        if len(refused) == 20:
            break
    counts = [channels.subscription_count_of(str(connection)) for connection in range(20)]
    assert min(counts) >= max(counts) - 1 > 30


def test_who_is_refused_has_what_it_had_and_may_have_it_again() -> None:
    channels: ChannelManager[str] = ChannelManager(max_bytes=400_000)
    had = fill(channels, "ann")
    before = channels.bytes, channels.bytes_of("ann"), channels.subscription_count, list(channels.channels)
    with pytest.raises(MessageError, match="all connections") as raised:
        channels.subscribe("ann", "one more", "1")
    assert raised.value.code is ErrorCode.TOO_MANY_SUBSCRIPTIONS
    with pytest.raises(MessageError):
        channels.subscribe("ann", "ann-0", "1", FULL)
    channels.subscribe("ann", "ann-0", "1")
    assert before == (channels.bytes, channels.bytes_of("ann"), channels.subscription_count, list(channels.channels))
    assert channels.subscription_count_of("ann") == had


def test_a_stranger_who_is_refused_leaves_no_trace() -> None:
    channels: ChannelManager[str] = ChannelManager(max_bytes=1000)
    with pytest.raises(MessageError):
        channels.subscribe("ann", "news", "a")
    assert (channels.bytes, list(channels.channels), len(channels.subscribed_connections())) == (0, [], 0)


def test_names_are_kept_once(channels: ChannelManager[str]) -> None:
    """Who keeps the names that it is given keeps no second copy, and no copy is left of those of later members."""
    first = channels.subscribe("ann", "news" * 2, "front" * 2)
    second = channels.subscribe("bob", "news" * len(first), "front" * len(first))
    assert all(name is again for name, again in zip(first, second, strict=True))
    assert next(iter(channels._owners["bob"].channels)) is first[0]
    assert next(iter(channels._channels["newsnews"].memberships["bob"])) is first[1]


def test_who_keeps_one_of_many_takes_little_again(channels: ChannelManager[str]) -> None:
    """A dict that had 1,000 entries takes 26 kB by itself, also when one is left."""
    for number in range(1000):
        channels.subscribe("ann", f"channel-{number}", "a")
        channels.subscribe("ann", "one", str(number))
        channels.subscribe(f"client-{number}", "all", "a")
    members = channels.connections_of("all", "a")
    for number in range(1, 1000):
        channels.unsubscribe("ann", f"channel-{number}")
        channels.unsubscribe("ann", "one", str(number))
        channels.unsubscribe(f"client-{number}")
    one, everybody = channels._channels["one"], channels._channels["all"]
    left = channels._owners["ann"].channels, one.subscriptions, one.memberships["ann"], everybody.memberships
    assert [len(places) for places in left] == [2, 1, 1, 1]
    assert all(sys.getsizeof(places) < 1100 for places in left)
    assert channels.connections_of("all", "a") is members
    assert (list(members), sys.getsizeof(members) < 1100) == (["client-0"], True)

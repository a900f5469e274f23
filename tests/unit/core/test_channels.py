"""The registry of subscriptions."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.channels import ChannelManager, Removed


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

"""Work does not grow with what else is there: the same bytecode runs at 100 channels and at 100,000."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from app.core.channels import ChannelManager
from app.core.history import History, Stream
from app.core.position import Mark, Position
from app.core.recovery import recover


def lines_run(action: Callable[[], object]) -> int:
    """How many lines of Python run in an action: exact, and the same on any machine."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # what it would run is not the action's
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def filled(channel_count: int) -> ChannelManager[int]:
    channels: ChannelManager[int] = ChannelManager()
    for number in range(channel_count):
        channels.subscribe(number, f"channel-{number}", "a")
    return channels


@pytest.fixture(scope="module")
def small() -> ChannelManager[int]:
    return filled(100)


@pytest.fixture(scope="module")
def large() -> ChannelManager[int]:
    return filled(100_000)


ACTIONS: dict[str, Callable[[ChannelManager[int]], object]] = {
    "subscribe": lambda channels: channels.subscribe(-1, "mine", "a"),
    "announce to a subscription": lambda channels: list(channels.connections_of("channel-7", "a")),
    "announce to a channel": lambda channels: list(channels.connections_of("channel-7")),
    "unsubscribe": lambda channels: channels.unsubscribe(-1, "mine", "a"),
    "subscribe again": lambda channels: channels.subscribe(-1, "mine", "a"),
    "disconnect": lambda channels: channels.unsubscribe(-1),
}


def test_no_operation_grows_with_the_number_of_channels(small: ChannelManager[int], large: ChannelManager[int]) -> None:
    for name, action in ACTIONS.items():
        few = lines_run(lambda: action(small))  # noqa: B023 - called at once
        many = lines_run(lambda: action(large))  # noqa: B023 - called at once
        assert 0 < few == many < 100, name


def kept(stream_count: int, owner: str) -> History[str]:
    """A message of each of so many channels, each a second after the one before; the oldest is about to age out."""
    history: History[str] = History(size=2, ttl=stream_count, max_bytes=10**9)
    for number in range(stream_count):
        history.add(Stream.channel(f"channel-{number}"), Mark(number, str(number), "k"), "", 1, number, owner)
    return history


def full(history: History[str]) -> History[str]:
    """The same when no byte is left: what is added takes the place of something else."""
    history._max_bytes = history.bytes
    return history


@pytest.mark.parametrize("owner", ["", "of all"])
def test_keeping_and_letting_go_do_not_grow_with_the_number_of_streams(owner: str) -> None:
    def costs(count: int) -> list[int]:
        history = kept(count, owner)
        mine = Stream.channel("mine")

        def add(number: int, now: float) -> Position:
            return history.add(mine, Mark(count + number, f"mine-{number}", "k"), "", 1, now)

        steps: list[Callable[[], object]] = [
            lambda: add(0, count - 1),  # a new stream
            lambda: add(1, count - 1),
            lambda: add(2, count - 1),  # one too many
            lambda: history.expire(count),  # one too old
            lambda: full(history) and add(3, count),
            lambda: add(4, count),
            lambda: recover(history.logs([mine]), Position("", count), epoch="", covers_from=0, skew=0),
        ]
        return [lines_run(step) for step in steps]

    few, many = costs(100), costs(100_000)
    assert few == many
    assert all(0 < lines < 200 for lines in few)

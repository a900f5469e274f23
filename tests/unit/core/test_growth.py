"""Work does not grow with what else is there: the same bytecode runs at 100 channels and at 100,000."""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from app.core.channels import ChannelManager


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

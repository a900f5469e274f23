"""A bound on what came in and is not handled yet, for all connections together.

Each connection has bounds of its own, yet ten thousand of them could still hold gigabytes: parts of messages of which
more is to come, the inflaters of these, whole messages that wait for a handler, bodies of requests.
"""

from collections.abc import Callable
from typing import Protocol

from app.core.largest import Largest

NOTED_FROM = 16 * 1024
"""Bytes of one connection that count. What is less is part of what any connection may take: to count it would take
time with each message."""


class Holder(Protocol):
    """A connection that holds what came in."""

    def shed(self) -> None:
        """End this connection and let go of all that it holds."""
        ...

    def __hash__(self) -> int: ...


class Unfinished:
    """Budget of the bytes that all connections hold.

    Above `limit` whoever holds most is ended first: of the sockets where these hold more than the others do, else of
    the others. So a flood of requests ends no sockets, and one of messages no requests.
    """

    def __init__(self, limit: int, on_shed: Callable[[], object]) -> None:
        self._limit = limit
        self._on_shed = on_shed
        self._sockets: Largest[Holder] = Largest()
        self._requests: Largest[Holder] = Largest()

    @property
    def bytes(self) -> int:
        """Bytes that all connections hold."""
        return self._sockets.total + self._requests.total

    def hold(self, holder: Holder, size: int, *, is_request: bool = False) -> None:
        """Note that a connection holds so many bytes now: for a socket, or for a request."""
        if size < NOTED_FROM:
            size = 0
        held = self._requests if is_request else self._sockets
        before = held.of(holder)
        if size == before:
            return
        held.add(holder, size - before)
        while self.bytes > self._limit:
            larger = max(self._sockets, self._requests, key=lambda kind: kind.total)
            largest = larger.top()
            assert largest is not None  # noqa: S101  # what holds more than nothing has a largest
            larger.add(largest, -larger.of(largest))
            self._on_shed()
            largest.shed()

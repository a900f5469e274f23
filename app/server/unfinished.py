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
    """What all connections hold, in bytes. Above `limit` whoever holds most is ended first."""

    def __init__(self, limit: int, on_shed: Callable[[], object]) -> None:
        self._limit = limit
        self._on_shed = on_shed
        self._held: Largest[Holder] = Largest()

    @property
    def bytes(self) -> int:
        """What all of them hold."""
        return self._held.total

    def hold(self, holder: Holder, size: int) -> None:
        """Note that a connection holds so many bytes now."""
        if size < NOTED_FROM:
            size = 0
        before = self._held.of(holder)
        if size == before:
            return
        self._held.add(holder, size - before)
        while self._held.total > self._limit and (largest := self._held.top()) is not None:
            self._held.add(largest, -self._held.of(largest))
            self._on_shed()
            largest.shed()

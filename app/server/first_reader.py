"""Between a connection's transport and its stream: who reads first, how much, and hears of the end in time."""

import asyncio
from collections.abc import Callable
from typing import Any

MAX_READ = 64 * 1024
"""Bytes of one read. asyncio reads four times as much, all of which one connection could leave lying."""
PAUSE_FROM = 16 * 1024
"""Bytes that wait to be handled: with so many, no more is read."""


class FirstReader(asyncio.Protocol):
    """Takes the place of what was a transport's protocol, such as that of asyncio's streams, and stands before it.

    What can be handled at once is. A stream would wake a task that fetches it in the next turn of the loop, which takes
    as long as all else of reading.
    """

    __slots__ = ("_is_paused", "_next", "_on_lost", "_take", "_transport", "behind", "on_pause")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._next: Any = transport.get_protocol()
        self._take: Callable[[bytes], bool] | None = None
        self._on_lost: Callable[[], object] | None = None
        self._is_paused = False
        self.behind = 0
        """Bytes that went to the next and were not handled yet."""
        self.on_pause: Callable[[], object] | None = None
        """Called when so much waits to be handled that no more is read."""
        if self._next is not None:  # else it is gone already
            transport.set_protocol(self)
            if hasattr(transport, "max_size"):  # not of every loop's, such as uvloop's
                transport.max_size = MAX_READ

    @classmethod
    def of(cls, transport: Any) -> "FirstReader":
        """Return the one that a transport has; make one where it has none."""
        protocol = transport.get_protocol()
        return protocol if isinstance(protocol, cls) else cls(transport)

    def read(self, take: Callable[[bytes], bool]) -> None:
        """Offer what comes to this, as long as nothing before it is still to be handled; see `handled`.

        What it does not take, and answers False for, is read as it would be without.
        """
        self._take = take

    def handled(self, size: int) -> None:
        """Note that so many bytes of what was not taken have been handled. Whoever reads owes it for all it read."""
        self.behind -= size
        if self._is_paused and self.behind < PAUSE_FROM:
            self._is_paused = False
            self._transport.resume_reading()

    def tell_of_the_end(self, on_lost: Callable[[], object]) -> None:
        """Call this when the connection has ended, just before its socket is closed."""
        self._on_lost = on_lost

    def data_received(self, data: bytes) -> None:
        if self._take is None or self.behind or not self._take(data):
            self.behind += len(data)
            self._next.data_received(data)
            if self.behind >= PAUSE_FROM and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
                if self.on_pause is not None:
                    self.on_pause()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if self._on_lost is not None:
                self._on_lost()
        finally:
            self.on_pause = None
            self._next.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return bool(self._next.eof_received())

    def pause_writing(self) -> None:
        self._next.pause_writing()

    def resume_writing(self) -> None:
        self._next.resume_writing()

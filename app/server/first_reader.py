"""Between a connection's transport and its stream: who reads first, and hears of the end in time."""

import asyncio
from collections.abc import Callable
from typing import Any


class FirstReader(asyncio.Protocol):
    """Takes the place of what was a transport's protocol, such as that of asyncio's streams, and stands before it.

    What can be handled at once is. A stream would wake a task that fetches it in the next turn of the loop, which takes
    as long as all else of reading.
    """

    __slots__ = ("_behind", "_next", "_on_lost", "_take")

    def __init__(self, transport: Any) -> None:
        self._next: Any = transport.get_protocol()
        self._take: Callable[[bytes], bool] | None = None
        self._on_lost: Callable[[], object] | None = None
        self._behind = 0
        """Bytes that went to the next and were not handled yet. Without `read` nobody says what is handled, or asks."""
        if self._next is not None:  # else it is gone already
            transport.set_protocol(self)

    @classmethod
    def of(cls, transport: Any) -> "FirstReader":
        """The one that a transport has; else it gets one."""
        protocol = transport.get_protocol()
        return protocol if isinstance(protocol, cls) else cls(transport)

    def read(self, take: Callable[[bytes], bool]) -> None:
        """Offer what comes to this, as long as nothing before it is still to be handled; see `handled`.

        What it does not take, and answers False for, is read as it would be without.
        """
        self._take = take

    def handled(self, size: int) -> None:
        """So many bytes of what was not taken have been handled."""
        self._behind -= size

    def tell_of_the_end(self, on_lost: Callable[[], object]) -> None:
        """Call this when the connection has ended, just before its socket is closed."""
        self._on_lost = on_lost

    def data_received(self, data: bytes) -> None:
        if self._take is None or self._behind or not self._take(data):
            self._behind += len(data)
            self._next.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if self._on_lost is not None:
                self._on_lost()
        finally:
            self._next.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return bool(self._next.eof_received())

    def pause_writing(self) -> None:
        self._next.pause_writing()

    def resume_writing(self) -> None:
        self._next.resume_writing()

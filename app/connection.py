"""One socket's outgoing side: what waits to be sent, how much may wait, and how it ends."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from app.core.rate import RateLimit
from app.core.users import User
from app.protocol.close_codes import CloseCode
from app.protocol.codec import Frame

CLOSE_TIMEOUT = 2.0
"""Seconds in which a client takes what still waits for it and the close frame; then the connection is cut."""
ERRORS_ALLOWED = 50
ERRORS_PERIOD = 10.0


class Outgoing:
    """What waits for all connections together, in bytes. Over the limit the slowest connection goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: set[Connection] = set()
        self.bytes = 0

    def add(self, connection: "Connection", size: int) -> None:
        """Count what was queued for a connection, and end the slowest while it is too much."""
        self.bytes += size
        self._waiting.add(connection)
        while self.bytes > self._limit and self._waiting:
            max(self._waiting, key=lambda waiting: waiting.buffered).overflow()

    def take(self, connection: "Connection", size: int) -> None:
        """Count what a connection no longer has to send."""
        self.bytes -= size
        if not connection.buffered:
            self._waiting.discard(connection)


class Connection:
    """A client's socket as the hub sees it: frames go in at once, in order, and a task of the web takes them out."""

    def __init__(
        self,
        id: str,
        user: User | None,
        session_user: Any,
        *,
        outgoing: Outgoing,
        max_buffered: int,
        abort: Callable[[], None],
    ) -> None:
        self.id = id
        """Unique among all connections of all instances; not shown to other clients."""
        self.user = user
        """How others reach this user; None for an anonymous client."""
        self.session_user = session_user
        """The user as the session has it, for custom handlers."""
        self.errors = RateLimit(ERRORS_ALLOWED, ERRORS_PERIOD)
        self.buffered = 0
        self.close_code: int | None = None
        """The code of a close that the service began."""
        self._outgoing = outgoing
        self._max_buffered = max_buffered
        self._abort = abort
        self._frames: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._close_reason = ""
        self._cut: asyncio.TimerHandle | None = None

    def send(self, frame: Frame) -> bool:
        """Queue a frame; answers whether it was (not on a connection that is closing). Never waits."""
        if self.close_code is not None:
            return False
        self._frames.append(frame)
        self.buffered += frame.size
        self._wake.set()
        self._outgoing.add(self, frame.size)
        if self.buffered > self._max_buffered:
            self.overflow()
        return self.close_code is None

    def close(self, code: CloseCode, reason: str, farewell: Frame | None = None) -> None:
        """Send what waits, then the farewell, then the close frame; cut what takes too long. Once only."""
        if self.close_code is not None:
            return
        if farewell is not None and not self.send(farewell):
            return
        self.close_code = code
        self._close_reason = reason
        self._wake.set()
        self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._abort)

    def overflow(self) -> None:
        """End a connection that does not take what is sent to it. What waited is dropped, so there is no farewell."""
        self._drop()
        self.close(CloseCode.SLOW_CONSUMER, "slow consumer")

    async def write(self, send: Callable[[str], Awaitable[None]], close: Callable[[int, str], Awaitable[None]]) -> None:
        """Send frames until the connection is closed from this side."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                self.buffered -= frame.size
                self._outgoing.take(self, frame.size)
                await send(frame.text)
            if self.close_code is not None:
                await close(self.close_code, self._close_reason)
                return
            self._wake.clear()
            await self._wake.wait()

    def ended(self) -> None:
        """The socket is gone: nothing waits any more."""
        if self.close_code is None:
            self.close_code = 0
        if self._cut is not None:
            self._cut.cancel()
        self._drop()

    def cut(self) -> None:
        """End the connection at once, without a word."""
        self._abort()

    def _drop(self) -> None:
        size, self.buffered = self.buffered, 0
        self._frames.clear()
        self._outgoing.take(self, size)

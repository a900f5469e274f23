"""One socket's outgoing side: what waits to be sent, how much may wait, and how it ends."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from app.core.rate import RateLimit
from app.core.users import User
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds in which a client takes what still waits for it and the close frame; then the connection is cut."""
LOOK_AGAIN = 0.1
"""Seconds between two looks at how much waits for clients that are behind."""
REPLAYED_IN_ONE_TURN = 100
"""Messages that one connection is sent again before others have their turn."""
ERRORS_ALLOWED = 50
ERRORS_PERIOD = 10.0


class Outlet(Protocol):
    """The way to a client; `app.web` has one for each kind of server. None of these waits."""

    def write(self, frames: list[Frame]) -> int:
        """Send these in this order, in one go; answers how many bytes the client has yet to take."""
        ...

    def waiting(self) -> int:
        """How many bytes the client has yet to take."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind all that was written."""
        ...

    def abort(self) -> None:
        """Cut the connection, with all that waits."""
        ...


class Outgoing:
    """What leaves for all connections together.

    Frames for one connection that fall into one turn of the event loop leave in one write, at the turn's end. Over
    `limit`, in bytes that wait for clients to take them, the slowest connections go first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._this_turn: list[Connection] = []
        self._behind: dict[Connection, int] = {}
        """Who has not taken all that was written, and how many bytes wait for each."""
        self._look_again: asyncio.TimerHandle | None = None
        self.bytes = 0

    def at_the_end_of_this_turn(self, connection: "Connection") -> None:
        """Have a connection flush what it has."""
        if not self._this_turn:
            asyncio.get_running_loop().call_soon(self._flush)
        self._this_turn.append(connection)

    def _flush(self) -> None:
        connections, self._this_turn = self._this_turn, []
        for connection in connections:
            try:
                connection.flush()
            except Exception:  # the others of this turn shall not suffer for it
                logger.exception("a connection could not be written to")
                connection.cut()

    def waits(self, connection: "Connection", before: int, size: int) -> None:
        """Count what a connection has yet to take, and end the slowest while that is too much for all together."""
        self.bytes += size - before
        if size:
            self._behind[connection] = size
        else:
            self._behind.pop(connection, None)
        while self.bytes > self._limit and self._behind:
            max(self._behind, key=self._behind.__getitem__).overflow()
        if self._behind and self._look_again is None:
            self._look_again = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        self._look_again = None
        for connection in tuple(self._behind):
            connection.measure()


class Connection:
    """A client's socket as the hub sees it. What is sent before `open` leaves then."""

    def __init__(
        self,
        id: str,
        user: User | None,
        session_user: Any,
        *,
        outgoing: Outgoing,
        max_buffered: int,
        outlet: Outlet,
    ) -> None:
        self.id = id
        """Unique among all connections of all instances; not shown to other clients."""
        self.user = user
        """How others reach this user; None for an anonymous client."""
        self.session_user = session_user
        """The user as the session has it, for custom handlers."""
        self.errors = RateLimit(ERRORS_ALLOWED, ERRORS_PERIOD)
        self.buffered = 0
        """Bytes that were sent and not taken, when they were last looked at."""
        self.close_code: int | None = None
        """The code of a close that the service began."""
        self._outgoing = outgoing
        self._max_buffered = max_buffered
        self._outlet = outlet
        self._frames: list[Frame] = []
        self._waiting = 0
        """The part of `buffered` that was written."""
        self._later: deque[Frame | Iterator[Frame]] | None = None
        """What is sent again as the client takes it, and what has to come behind it; None: nothing."""
        self._held = 0
        """The part of `buffered` that has to come behind what is sent again."""
        self._is_open = False
        self._close_reason = ""
        self._cut: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """The handshake is done: frames may be written."""
        self._is_open = True
        self.flush()
        if self.close_code:
            self._outlet.close(self.close_code, self._close_reason)

    def send(self, frame: Frame) -> bool:
        """Send a frame; answers whether it will be (not on a connection that is closing). Never waits."""
        if self.close_code is not None:
            return False
        if self._later is None:
            frames = self._frames
            if not frames:
                self._outgoing.at_the_end_of_this_turn(self)
            frames.append(frame)
        else:
            self._later.append(frame)
            self._held += frame.size
        self.buffered += frame.size
        return self.buffered <= self._max_buffered or self._is_taken()

    def replay(self, frames: Iterator[Frame]) -> None:
        """Send these as fast as the client takes them, and all that is sent from now on behind them."""
        if self.close_code is not None:
            return
        if self._later is None:
            self._later = deque()
            self._outgoing.at_the_end_of_this_turn(self)
        self._later.append(frames)

    @property
    def is_behind(self) -> bool:
        """Whether the client has yet to take what was sent to it before."""
        return self._later is not None or (self._waiting > 0 and self._outlet.waiting() > 0)

    def _is_taken(self) -> bool:
        """Whether the client takes what is too much for one turn; if not, it ends here."""
        self.flush()
        if self.buffered > self._max_buffered:
            self.overflow()
        return self.close_code is None

    def flush(self) -> None:
        """Write what was sent in this turn."""
        if not self._is_open:
            return
        frames = self._frames
        if frames:
            self._frames = []
            self._write(frames)
        if self._later is not None:
            self._go_on(self._later)

    def _write(self, frames: list[Frame]) -> None:
        waiting = self._outlet.write(frames)
        if waiting or self._waiting:
            self._waits(waiting)
        self.buffered = waiting + self._held

    def _go_on(self, later: deque[Frame | Iterator[Frame]]) -> None:
        """Write as much of what comes later as the client has room for."""
        room = max(1, self._max_buffered // 2) - self._waiting
        frames: list[Frame] = []
        while later and room > 0 and len(frames) < REPLAYED_IN_ONE_TURN:
            first = later[0]
            if isinstance(first, Frame):
                frame = first
                self._held -= frame.size
                later.popleft()
            elif (replayed := next(first, None)) is not None:
                frame = replayed
            else:
                later.popleft()
                continue
            frames.append(frame)
            room -= frame.size
        if not later:
            self._later = None
        if frames:
            self._write(frames)
        if self._later is not None and (room > 0 or not self._waiting):
            self._outgoing.at_the_end_of_this_turn(self)  # the others have their turn; then more

    def measure(self) -> None:
        """Look at how much the client has yet to take."""
        waiting = self._outlet.waiting()
        self.buffered += waiting - self._waiting
        self._waits(waiting)
        if self._later is not None and self._is_open:
            self._go_on(self._later)

    def close(self, code: CloseCode, reason: str, farewell: Frame | None = None) -> None:
        """Send what waits, then the farewell, then the close frame; cut what takes too long. Once only."""
        if self.close_code is not None:
            return
        if self._later is not None:
            self._drop_later()
        if farewell is not None and not self.send(farewell):
            return
        self.flush()
        self.close_code = code
        self._close_reason = reason
        self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._outlet.abort)
        if self._is_open:
            self._outlet.close(code, reason)

    def _drop_later(self) -> None:
        """What was not sent again in time; the client asks for it anew, from the position that it has come to."""
        self._later = None
        self.buffered -= self._held
        self._held = 0

    def overflow(self) -> None:
        """End a connection that does not take what is sent to it. What was not written is dropped: no farewell."""
        self._forget()
        self.close(CloseCode.SLOW_CONSUMER, "slow consumer")

    def ended(self) -> None:
        """The socket is gone: nothing waits any more."""
        if self.close_code is None:
            self.close_code = 0
        if self._cut is not None:
            self._cut.cancel()
        if self._outlet.waiting():  # the client has closed, and does not take what was written before
            self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._outlet.abort)
        self._forget()

    def cut(self) -> None:
        """End the connection at once, without a word."""
        self._outlet.abort()

    def _forget(self) -> None:
        self._frames = []
        self._later = None
        self._held = self.buffered = 0
        if self._waiting:
            self._waits(0)

    def _waits(self, size: int) -> None:
        before, self._waiting = self._waiting, size
        self._outgoing.waits(self, before, size)

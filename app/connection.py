"""One socket's outgoing side: what waits to be sent, how much may wait, and how it ends."""

import asyncio
import socket
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol

from app.core.rate import RateLimit, SenderLimits, SenderRate
from app.core.users import User
from app.outgoing import Outgoing, Pending
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame
from app.replaying import Again, Replaying, ReplayLost, Run

CLOSE_TIMEOUT = 2.0
"""Seconds in which a client takes what still waits for it and the close frame; then the connection is cut."""
REPLAYED_IN_ONE_TURN = 100
"""Messages that one connection is sent again before others have their turn."""
ERRORS_ALLOWED = 50
ERRORS_PERIOD = 10.0


class Outlet(Protocol):
    """The way to a client; `app.web` has one for each kind of server. None of these waits."""

    sock: socket.socket | None
    """What takes bytes without more ado while nothing is in `backlog`; None where there is no such way, or none any
    more."""
    backlog: Sized
    """What was written and is yet to be handed to the kernel."""
    deflates: bool
    """Which form of a frame `sock` is sent; it stays the same while there is a `sock`."""
    on_end: Callable[[], object] | None
    """Called before `sock` is taken back."""

    def rest(self, data: bytes, taken: int) -> int:
        """Write what is left of what `sock` took so many bytes of; answers how many the client has yet to take."""
        ...

    def write(self, frames: list[Frame]) -> int:
        """Send these in this order, in one go; answers how many bytes the client has yet to take."""
        ...

    def waiting(self) -> int:
        """How many bytes the client has yet to take."""
        ...

    def unacknowledged(self) -> int:
        """How many bytes the client's system has yet to take: those that the kernel holds for it as well."""
        ...

    def unsent(self) -> int:
        """How many bytes are not on their way to the client yet: those that the kernel holds back as well."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind all that was written."""
        ...

    def abort(self) -> None:
        """Cut the connection, with all that waits."""
        ...


class Connection:
    """A client's socket as the hub sees it. What is sent before `open` leaves then."""

    __slots__ = (
        "__weakref__",
        "_close_reason",
        "_cut",
        "_is_open",
        "_max_buffered",
        "_outgoing",
        "_waiting",
        "ahead",
        "buffered",
        "close_code",
        "errors",
        "id",
        "later",
        "outlet",
        "pending",
        "rate",
        "session_user",
        "since",
        "user",
    )

    def __init__(
        self,
        id: str,
        user: User | None,
        session_user: Any,
        *,
        outgoing: Outgoing,
        max_buffered: int,
        outlet: Outlet,
        rate: SenderRate | None = None,
    ) -> None:
        self.id = id
        """Unique among all connections of all instances; not shown to other clients."""
        self.user = user
        """How others reach this user; None for an anonymous client."""
        self.session_user = session_user
        """The user as the session has it, for custom handlers."""
        self.since = 0.0
        """When it was taken in, in seconds of the hub's clock."""
        self.ahead: Any = None
        """A message that was read, and waits for its handler, with what was read of it. For the hub."""
        self.errors = RateLimit(ERRORS_ALLOWED, ERRORS_PERIOD)
        self.rate = rate or SenderRate(SenderLimits(0, 0, 0, 0))
        """How much the client may send."""
        self.buffered = 0
        """Bytes that were sent and not taken, when they were last looked at."""
        self.close_code: int | None = None
        """The code of a close that the service began; 0: it was cut, or is gone."""
        self._outgoing = outgoing
        self._max_buffered = max_buffered
        self.outlet = outlet
        self.pending: Pending = None
        """For `Outgoing`."""
        self._waiting = 0
        """The part of `buffered` that was written."""
        self.later: Replaying | None = None
        """What is sent again as the client takes it, and what has to come behind it; None: nothing. For `Outgoing`."""
        self._is_open = False
        self._close_reason = ""
        self._cut: asyncio.TimerHandle | None = None
        self._stand_apart()  # until it is open
        outlet.on_end = self._stand_apart

    def _stand_apart(self) -> None:
        self._outgoing.set_apart(self)

    def open(self) -> None:
        """The handshake is done: frames may be written."""
        self._is_open = True
        closing, reason = self.close_code, self._close_reason
        self.flush()
        if closing:
            self.outlet.close(closing, reason)
        self._outgoing.readmit(self)

    def send(self, frame: Frame) -> bool:
        """Send a frame; answers whether it will be (not on a connection that is closing). Never waits."""
        if self.close_code is not None:
            return False
        if self.later is None or not self.later.holds(frame):
            if self.pending is None:
                self._outgoing.at_the_end_of_this_turn(self)
            pending = self.pending
            if pending is None:
                self.pending = frame
            elif isinstance(pending, list):
                pending.append(frame)
            else:
                self.pending = [pending, frame]
        self.buffered += frame.size
        return self.buffered <= self._max_buffered or self._is_taken()

    def replay(self, run: Run, items: Sequence[Again], make: Callable[[int], Replaying]) -> int:
        """Send these as fast as the client takes them, and what must not overtake them behind; answers how many.

        `make` makes what they wait in, with so many bytes on their way to the client at the most.
        """
        if self.close_code is not None:
            return 0
        if self.later is None:
            if not items:
                return 0
            self.later = make(max(1, self._max_buffered // 2))
            self._outgoing.at_the_end_of_this_turn(self)
        return self.later.replay(run, items)

    def leave(self, channel: str) -> int:
        """Drop what waits for a channel and is not wanted any more; answers how many messages are not sent again."""
        if self.later is None:
            return 0
        held = self._held
        dropped = self.later.leave(channel)
        self.buffered -= held - self._held
        return dropped

    @property
    def _held(self) -> int:
        """The part of `buffered` that has to come behind what is sent again."""
        return 0 if self.later is None else self.later.bytes

    @property
    def is_barred(self) -> bool:
        """Return whether the service closed the connection for what its client did; it hears no more of that client."""
        return self.close_code is not None and self.close_code >= CloseCode.TOO_MANY_ERRORS

    @property
    def is_behind(self) -> bool:
        """Whether the client has yet to take what was sent to it before."""
        return self.later is not None or (self._waiting > 0 and self.outlet.waiting() > 0)

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
        self._outgoing.take_out(self)
        pending = self.pending
        if pending is not None:
            self.pending = None
            self.has_waiting(self.outlet.write(pending if isinstance(pending, list) else [pending]))
        if self.later is not None:
            self._go_on(self.later)

    def has_waiting(self, size: int) -> None:
        """All that was sent in this turn is written, and so many bytes the client has yet to take."""
        self.buffered = size + self._held
        if size or self._waiting:
            self._waits(size)
        if size > self._max_buffered:
            self.overflow()

    def _go_on(self, later: Replaying) -> None:
        """Write as much of what comes later as the client has room for."""
        room = later.pace.room(self.outlet.unsent(), asyncio.get_running_loop().time())
        frames: list[Frame] = []
        while room > 0 and len(frames) < REPLAYED_IN_ONE_TURN:
            try:
                frame = later.next()
            except ReplayLost:
                self.overflow()
                return
            if frame is None:
                break
            frames.append(frame)
            room -= frame.size
        if not later:
            self.later = None
        if frames:
            self.has_waiting(self.outlet.write(frames))
        if self.later is None:
            return
        if frames:
            self._outgoing.at_the_end_of_this_turn(self)  # the others have their turn; then more
        else:
            self._outgoing.await_room(self)

    def measure(self) -> None:
        """Look at how much the client has yet to take."""
        waiting = self.outlet.waiting()
        pending = self.pending
        unwritten = pending if isinstance(pending, list) else [pending] if pending else []
        self.buffered = waiting + self._held + sum(frame.size for frame in unwritten)
        self._waits(waiting)
        if self.later is not None:
            self.flush()  # all of it: what is sent again comes behind what was sent before

    def close(self, code: CloseCode, reason: str, farewell: Frame | None = None) -> None:
        """Send what waits, then the farewell, then the close frame; cut what takes too long. Once only."""
        if self.close_code is not None:
            return
        if self.later is not None:
            self._drop_later()
        if farewell is not None and not self.send(farewell):
            return
        self.flush()
        if self._has_overflowed():
            return
        self._stand_apart()
        self.close_code = code
        self._close_reason = reason
        self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.cut)
        if self._is_open:
            self.outlet.close(code, reason)

    def _has_overflowed(self) -> bool:
        return self.close_code is not None

    def _drop_later(self) -> None:
        """What was not sent again in time; the client asks for it anew, from the position that it has come to."""
        self.buffered -= self._held
        self.later = None

    def overflow(self) -> None:
        """End a connection that does not take what is sent to it. What was not written is dropped: no farewell."""
        self.pending = self.later = None
        self.buffered = self._waiting
        self.close(CloseCode.SLOW_CONSUMER, "slow consumer")

    def ended(self) -> None:
        """The socket is gone: nothing is sent any more."""
        if self.close_code is None:
            self.close_code = 0
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        waiting = self.outlet.waiting()
        if waiting:  # the client has closed, and does not take what was written before
            self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.cut)
        self._forget(waiting)
        self.outlet.on_end = None
        self._outgoing.forget(self)

    def cut(self) -> None:
        """End the connection at once, without a word, with all that waits."""
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        if self.close_code is None:
            self.close_code = 0
        self.outlet.abort()
        self._forget(0)

    def _forget(self, waiting: int) -> None:
        """Drop what was not written; what was is counted for as long as it waits."""
        self._outgoing.take_out(self)
        self.pending = self.later = None
        self.buffered = waiting
        if waiting or self._waiting:
            self._waits(waiting)

    def _waits(self, size: int) -> None:
        before, self._waiting = self._waiting, size
        self._outgoing.waits(self, before, size)

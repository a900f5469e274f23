"""What the app may do with its WebSocket beside ASGI: `scope["extensions"]["cloud_sockets.control"]`.

It hands over frames that are ready to be written, sees how much of them still waits, cuts the connection, slows down a
client that sends faster than it is served, and learns that nobody is there any more.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from hypercorn.protocol.h11 import H11Protocol

from app.protocol.frame import Frame

CONTROL = "cloud_sockets.control"
MAX_WAITING = 64
"""Messages of one client that wait to be handled; while there are more, its socket is not read."""


class Control:
    """One WebSocket's. `protocol` is Hypercorn's; `begin_close` sends a close frame and sees to the end."""

    def __init__(self, protocol: object, begin_close: Callable[[int, str], None]) -> None:
        self._transport = _transport_of(protocol)
        self._begin_close = begin_close
        self._waiting = 0
        self._limited = False
        self._room: asyncio.Event | None = None  # made when it is needed: it takes as much as ten frames
        self.closed = False
        """A close frame was sent."""
        self.deflates = False
        """Whether the client inflates; known once the socket is accepted."""
        self.on_silence: Callable[[], None] | None = None
        """Called when the client has not answered a ping."""

    @property
    def takes_frames(self) -> bool:
        """Whether it is an outlet, with `write` and all: not where sockets share a connection, as in HTTP/2."""
        return self._transport is not None

    def write(self, frames: list[Frame]) -> int:
        """Write frames in one go; answers how many bytes the client has yet to take. After the accept."""
        transport = self._transport
        if self.closed or transport.is_closing():
            return 0
        if len(frames) == 1:  # nearly always, and then a list of one costs more than the frame
            frame = frames[0]
            transport.write(frame.deflated() if self.deflates else frame.plain())
        elif self.deflates:
            transport.write(b"".join([frame.deflated() for frame in frames]))
        else:
            transport.write(b"".join([frame.plain() for frame in frames]))
        return int(transport.get_write_buffer_size())

    def waiting(self) -> int:
        """How many bytes the client has yet to take."""
        return int(self._transport.get_write_buffer_size())

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind what was written."""
        self._begin_close(code, reason)

    def abort(self) -> None:
        """Cut the connection and all that waits in it."""
        self._transport.abort()

    @property
    def holds_back(self) -> bool:
        """Whether the socket is not read now, since too much of what it said waits to be handled."""
        return self._room is not None

    def limit(self) -> None:
        """From now on the app says `taken` for each message that it has handled."""
        self._limited = True

    def taken(self) -> None:
        """A message was handled."""
        self._waiting -= 1
        if self._room is not None and self._waiting < MAX_WAITING:
            self._room.set()

    def release(self) -> None:
        """The app takes no more messages."""
        self._limited = False
        if self._room is not None:
            self._room.set()

    async def passed_on(self) -> None:
        """A message goes to the app; returns when its socket may be read on."""
        if self._limited:
            self._waiting += 1
            if self._waiting >= MAX_WAITING:
                self._room = asyncio.Event()
                await self._room.wait()
                self._room = None


def _transport_of(protocol: object) -> Any:
    """The connection's transport; None where it is not the socket's alone, or Hypercorn is not as it was."""
    if not isinstance(protocol, H11Protocol):
        return None
    writer = getattr(getattr(protocol.send, "__self__", None), "writer", None)
    return getattr(writer, "transport", None)

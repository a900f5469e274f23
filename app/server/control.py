"""What the app may do with its WebSocket beside ASGI: `scope["extensions"]["cloud_sockets.control"]`.

It hands over frames that are ready to be written, sees how much of them still waits, cuts the connection, slows down a
client that sends faster than it is served, and learns that nobody is there any more.
"""

import asyncio
import fcntl
import socket
import sys
import termios
from asyncio import selector_events
from collections import deque
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from typing import Any

from hypercorn.asyncio.tcp_server import TCPServer

from app.protocol.frame import Frame, wire_form
from app.server.first_reader import FirstReader
from app.server.inbox import Inbox
from app.server.turns import Turns

CONTROL = "cloud_sockets.control"
UNSENT = 0x894B
"""Linux's SIOCOUTQNSD: bytes that a socket took and did not send yet."""
MAX_WAITING = 64
MAX_WAITING_BYTES = 256 * 1024
"""Messages of one client that wait to be handled, and their bytes; while there are more, its socket is not read."""


class Control:
    """One WebSocket's. `protocol` is Hypercorn's; `begin_close` sends a close frame and sees to the end."""

    __slots__ = (
        "__weakref__",
        "_begin_close",
        "_had_its_turn",
        "_head",
        "_limited",
        "_room",
        "_transport",
        "_turn_ends",
        "_turns",
        "_waiting",
        "backlog",
        "closed",
        "deflates",
        "inbox",
        "on_crowded",
        "on_drained",
        "on_end",
        "on_flood",
        "on_gone",
        "on_silence",
        "on_text",
        "on_unanswered",
        "sock",
    )

    def __init__(self, protocol: object, begin_close: Callable[[int, str], None], turns: Turns | None = None) -> None:
        self.inbox = Inbox()
        """What waits for the app."""
        self._turns = turns or Turns()
        self._turn_ends = 0.0
        """The time until which the app may go on with what waits for it."""
        self._had_its_turn = False
        """True: the connection has had its turn, and a part of what it read waits for the next."""
        self._transport = _transport_of(protocol)
        self._begin_close: Callable[[int, str], None] | None = begin_close
        self._head = b""
        self._waiting = 0
        self._limited = False
        self._room: asyncio.Event | None = None  # made when it is needed: it takes as much as ten frames
        self.closed = False
        """Nothing may be written any more."""
        self.deflates = False
        """Whether the client inflates; known once the socket is accepted."""
        self.sock: socket.socket | None = None
        self.backlog: Sized = ()
        """The transport's, from the accept to the close."""
        self.on_end: Callable[[], object] | None = None
        """Called before nothing may be written any more."""
        self.on_unanswered: Callable[[], object] | None = None
        """Called when the client has not answered a ping in time; it has as long again."""
        self.on_silence: Callable[[], None] | None = None
        """Called when it has not answered by then, either."""
        self.on_text: Callable[[str], bool] | None = None
        """Takes a message that nothing waits before, if it can be handled at once; else `receive` answers it."""
        self.on_flood: Callable[[], object] | None = None
        """Called for each control frame, or part of a message, that comes faster than any client needs."""
        self.on_crowded: Callable[[], object] | None = None
        """Called when this one has to go, since what is unfinished takes too much."""
        self.on_drained: Callable[[], object] | None = None
        """Called when nothing waits to be handled any more."""
        self.on_gone: Callable[[], object] | None = None
        """Called when nobody listens any more, beside ASGI's event, which an app sees only when it looks."""

    @property
    def takes_frames(self) -> bool:
        """Return whether this is an outlet, with `write` and all: not where Hypercorn's connection is not as it was."""
        return self._transport is not None

    def accepted(self, *, deflates: bool, head: bytes = b"") -> None:
        """Frames may follow. What is left of the handshake, `head`, leaves with the first of them, in one write."""
        self.deflates = deflates
        self._head = head
        if not head and not self.closed:
            self._take_short_way()

    def take_head(self) -> bytes:
        """What is left of the handshake, for who writes before the app does. From now on it is written."""
        head, self._head = self._head, b""
        if head and not self.closed:
            self._take_short_way()
        return head

    def _take_short_way(self) -> None:
        self.sock, self.backlog = _short_way(self._transport)
        if self.sock is not None:
            FirstReader.of(self._transport).tell_of_the_end(self.end)

    def end(self) -> None:
        """Nothing may follow what was written."""
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()
        self.closed = True
        self.sock, self.backlog = None, ()

    def gone(self) -> None:
        """Nobody listens any more; what can be done is to abort."""
        self.end()
        self.release()
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    def write(self, frames: list[Frame]) -> int:
        """Write frames in one go; answers how many bytes the client has yet to take. After the accept."""
        data = wire_form(frames, deflates=self.deflates)
        return self.rest(self.take_head() + data if self._head else data, 0)

    def rest(self, data: bytes, taken: int) -> int:
        """Write what is left of what `sock` took so many bytes of; answers how many the client has yet to take."""
        transport = self._transport
        if self.closed or transport.is_closing():
            return 0
        transport.write(data[taken:])
        return int(transport.get_write_buffer_size())

    def waiting(self) -> int:
        """How many bytes the client has yet to take."""
        return int(self._transport.get_write_buffer_size())

    def unacknowledged(self) -> int:
        """Return how many bytes the client's system has yet to take, with those that the kernel holds for it."""
        sock = self._transport.get_extra_info("socket")
        held = bytes(4)
        with suppress(OSError, AttributeError, ValueError):  # it has no such socket, or is closed
            held = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, held)
        return self.waiting() + int.from_bytes(held, sys.byteorder)

    def unsent(self) -> int:
        """Return how many bytes are not on their way to the client yet, with those that the kernel holds back."""
        sock = self._transport.get_extra_info("socket")
        try:
            held = fcntl.ioctl(sock.fileno(), UNSENT, bytes(4))
        except (OSError, AttributeError, ValueError):  # no Linux, no such socket, or it is closed
            return self.unacknowledged()
        return self.waiting() + int.from_bytes(held, sys.byteorder)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind what was written."""
        if self._begin_close is not None:
            self._begin_close(code, reason)

    def forget(self) -> None:
        """The stream is over. It refers to this, and this to it no more, so that both go with their last user."""
        self._begin_close = None

    def abort(self) -> None:
        """Cut the connection and all that waits in it."""
        self.end()  # the socket is closed a moment later, and takes more until then
        with suppress(AttributeError):  # of asyncio: a transport that closed once all was written has no loop any more
            self._transport.abort()

    async def receive(self) -> str | bytes:
        """The client's next message. When the client is gone `on_gone` is called, and this ends as if cancelled."""
        if self._head:  # nothing was written behind it: the client shall not wait for it
            self.rest(self.take_head(), 0)
        while True:
            event = await self._next_event()
            if event["type"] == "websocket.receive":
                return _said(event)
            if event["type"] == "websocket.disconnect":  # and whoever was to be cancelled for it was not
                raise asyncio.CancelledError

    async def _next_event(self) -> Any:
        """Take what waits, as long as this one's turn lasts; then others have theirs."""
        time = self._turns.time
        if not self.inbox:
            self._had_its_turn = False
            await self.inbox.wait()
            self._turn_ends = await self._turns.next() if self._had_its_turn else self._turns.first(time())
        elif not self._turn_ends:
            self._turn_ends = self._turns.first(time())
        elif time() >= self._turn_ends:
            self._turn_ends = await self._turns.next(self._turn_ends)
        return await self.inbox.get()  # at once: who is cancelled while it waits for its turn has taken nothing

    def unread(self) -> Iterator[str | bytes]:
        """What the client said and nobody received."""
        return (_said(event) for event in self.inbox.take_all() if event["type"] == "websocket.receive")

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
        if self._room is not None and not self._is_full:
            self._room.set()
        if self._waiting == 0 and self.on_drained is not None:
            self.on_drained()

    @property
    def _is_full(self) -> bool:
        return self._waiting >= MAX_WAITING or self.inbox.bytes >= MAX_WAITING_BYTES

    def release(self) -> None:
        """The app takes no more messages."""
        self._limited = False
        if self._room is not None:
            self._room.set()

    def drop_waiting(self) -> None:
        """Forget what the client said and nobody received."""
        self.inbox.drop_messages()
        self.release()

    def pass_on(self, texts: list[str]) -> bool:
        """The same without waiting; False, with nothing done, where its socket may have to be held back."""
        if not self._limited or self._waiting + len(texts) >= MAX_WAITING or self.inbox.bytes >= MAX_WAITING_BYTES:
            return False
        time: Callable[[], float] | None = None
        ends = 0.0
        if len(texts) > 1 and self._waiting == 0:
            time = self._turns.time
            ends = self._turns.first(time())
        for text in texts:
            if self._waiting == 0 and self.on_text is not None:
                if time is not None and time() >= ends:
                    self._had_its_turn = True
                elif self.on_text(text):
                    continue
            self._waiting += 1
            self.inbox.add({"type": "websocket.receive", "text": text, "bytes": None})
        return True

    async def passed_on(self) -> None:
        """A message goes to the app; returns when its socket may be read on."""
        if self._limited:
            self._waiting += 1
            if self._is_full:
                self._room = asyncio.Event()
                await self._room.wait()
                self._room = None


def _said(event: Any) -> str | bytes:
    message: str | bytes = event["bytes"] if event["text"] is None else event["text"]
    return message


def server_of(protocol: object) -> Any:
    """Return the server that Hypercorn has for one connection; None where Hypercorn is not as it was."""
    server = getattr(getattr(protocol, "send", None), "__self__", None)
    return server if isinstance(server, TCPServer) else None


def _transport_of(protocol: object) -> Any:
    """The connection's transport, or None in the same cases."""
    return getattr(getattr(server_of(protocol), "writer", None), "transport", None)


def _short_way(transport: Any) -> tuple[socket.socket | None, Sized]:
    """A socket that may be written to while the buffer beside it is empty: (None, ()) where there is no such thing.

    With an empty buffer the transport of asyncio's own loop does nothing but `socket.send`, yet what it asks itself
    before and after costs as much as everything else of ours. TLS, and other loops, have another transport.
    """
    if type(transport) is not getattr(selector_events, "_SelectorSocketTransport", None):
        return None, ()
    sock, buffer = getattr(transport, "_sock", None), getattr(transport, "_buffer", None)
    if not isinstance(sock, socket.socket) or not isinstance(buffer, bytearray | deque):
        return None, ()
    return sock, buffer

"""Hypercorn's WebSocket stream, with what it lacks (checked with Hypercorn 0.18 and wsproto 1.3):

- A message is measured in bytes, and what is too big is not kept. Hypercorn counts a text's characters and goes on
  collecting.
- A frame that breaks the protocol, such as invalid UTF-8, is answered with its close code. Hypercorn hangs up without a
  word.
- After such a close the client gets a moment to read the close frame before the connection is shut: shut at once, with
  input still unread, the connection would be reset and the frame lost.
- Compression can be turned off.
- `scope["extensions"]["cloud_sockets.control"]` lets the app cut a connection and slow down a client that sends faster
  than it is served.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import hypercorn.protocol.h2
import hypercorn.protocol.h11
from hypercorn.protocol.events import Data, Event, Request, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

CONTROL = "cloud_sockets.control"
LINGER = 2.0
LINGER_BROKEN = 0.5
"""Seconds that a client has to take the close frame and answer it; less where its answer could not be read."""
MAX_WAITING = 64
"""Messages of one client that wait to be handled; while there are more, its socket is not read."""


class Control:
    """What the app may do with its connection beside ASGI."""

    def __init__(self, protocol: object) -> None:
        self._protocol = protocol
        self._waiting = 0
        self._limited = False
        self._room = asyncio.Event()
        self._room.set()

    def abort(self) -> None:
        """Cut the connection and all that waits in it. (An HTTP/2 one is shared by many streams, and left alone.)"""
        if isinstance(self._protocol, H11Protocol):
            tcp_server = getattr(self._protocol.send, "__self__", None)
            if tcp_server is not None:
                tcp_server.writer.transport.abort()

    def limit(self) -> None:
        """From now on the app says `taken` for each message that it has handled."""
        self._limited = True

    def taken(self) -> None:
        """A message was handled."""
        self._waiting -= 1
        if self._waiting < MAX_WAITING:
            self._room.set()

    def release(self) -> None:
        """The app takes no more messages."""
        self._limited = False
        self._room.set()

    async def passed_on(self) -> None:
        """A message goes to the app; returns when its socket may be read on."""
        if self._limited:
            self._waiting += 1
            if self._waiting >= MAX_WAITING:
                self._room.clear()
                await self._room.wait()


class WebSocketStream(WSStream):
    """One WebSocket of Hypercorn's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._control = Control(getattr(self.send, "__self__", None))
        self._parts: list[str | bytes] = []
        self._size = 0
        self._broken = False  # the client broke the protocol: what else it sends cannot be read
        self._over = asyncio.Event()  # the client has ended its side
        self._lingering = False

    async def handle(self, event: Event) -> None:
        if isinstance(event, Data) and self._broken:
            return
        if isinstance(event, StreamClosed):
            self._over.set()
            self._control.release()
        await super().handle(event)
        if isinstance(event, Request) and not self.closed:  # the app's task has not run yet
            self.scope["extensions"][CONTROL] = cast("Any", self._control)
            if not getattr(self.config, "websocket_deflate", True):
                self.handshake.extensions = None

    async def app_send(self, message: Any) -> None:
        if message is None and self._lingering:
            return  # the app has ended, the connection will when the client has
        await super().app_send(message)
        if message is not None and message["type"] == "websocket.close" and self.handshake.accepted:
            self._linger()

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                await self._handle_message(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._handle_close(event)

    async def _handle_message(self, event: Message[Any]) -> None:
        if self.connection.state is not ConnectionState.OPEN:
            return  # said after our close: nobody listens
        data = event.data
        self._size += len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        if self._size > self.config.websocket_max_message_size:
            await self._fail(CloseReason.MESSAGE_TOO_BIG)
            return
        self._parts.append(bytes(data) if isinstance(data, bytearray) else data)
        if not event.message_finished:
            return
        parts, self._parts, self._size = self._parts, [], 0
        is_text = isinstance(event, TextMessage)
        message = {
            "type": "websocket.receive",
            "text": "".join(parts) if is_text else None,  # type: ignore[arg-type]
            "bytes": None if is_text else b"".join(parts),  # type: ignore[arg-type]
        }
        await self.app_put(message)  # type: ignore[misc]
        await self._control.passed_on()

    async def _handle_close(self, event: CloseConnection) -> None:
        state = self.connection.state
        if state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(event.response())
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif state is ConnectionState.CLOSED:
            self._over.set()
        else:  # not the client's close: wsproto's way to say that the client broke the protocol
            self._broken = True
            await self._fail(event.code)

    async def _fail(self, code: int) -> None:
        """Close on a client that cannot be served on, and tell the app that it is gone."""
        self._parts = []
        await self._send_wsproto_event(CloseConnection(code=code))
        self._linger()
        await self.app_put({"type": "websocket.disconnect", "code": code})  # type: ignore[misc]

    def _linger(self) -> None:
        """After our close frame: give the client a moment to read it and answer, then end the connection."""
        if not self._lingering and not self.closed:
            self._lingering = True
            self.task_group.spawn(self._end_connection)

    async def _end_connection(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_BROKEN if self._broken else LINGER):
                await self._over.wait()
        await self.send(StreamClosed(stream_id=self.stream_id))


@contextmanager
def teach_hypercorn() -> Iterator[None]:
    """Have Hypercorn use our stream, for as long as this lasts. The one place where Hypercorn is changed."""
    modules = (hypercorn.protocol.h11, hypercorn.protocol.h2)
    before = [module.WSStream for module in modules]
    for module in modules:
        module.WSStream = WebSocketStream  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, stream in zip(modules, before, strict=True):
            module.WSStream = stream  # type: ignore[attr-defined]

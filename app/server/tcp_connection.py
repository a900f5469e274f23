"""Hypercorn's TCP connection, which is a WebSocket's alone from the first bytes on where these ask for one.

Hypercorn has each connection begin as an idle one, with a task that waits for it to stay so, and as HTTP/1.1, with a
parser for all that may come. For a socket all that is taken down again at once, which is a fifth of what connecting
costs. A connection that begins with anything else, or with nothing for a while, is Hypercorn's own.
"""

import asyncio
from typing import Any

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Data, EndData, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.typing import ConnectionState

from app.server.first_reader import FirstReader
from app.server.upgrade import Upgrade, upgrade_in
from app.server.websocket_stream import WebSocketStream

FIRST_WORD = 0.2
"""Seconds. Who says nothing for longer is idle, which is Hypercorn's to end."""


class TCPConnection(TCPServer):
    """One connection."""

    _first = b""
    """What was read to see what it is, if that is to be read as Hypercorn reads."""

    async def run(self) -> None:
        try:
            upgrade = await self._upgrade()
            if upgrade is not None:
                await self._serve(upgrade)
            elif self.reader.at_eof() and not self._first:
                await self._close()  # it has gone without a word
            else:
                await super().run()
        finally:
            # It refers to its protocol and that to it; so they would stay until garbage is collected.
            self.protocol = None  # type: ignore[assignment]

    async def _serve(self, upgrade: Upgrade) -> None:
        first = FirstReader.of(self.writer.transport)  # at once: it counts what comes from now on
        try:
            async with TaskGroup(self.loop) as group:
                protocol = UpgradedProtocol(self, group, self._first)
                self.protocol = protocol  # type: ignore[assignment]  # it is asked for the same
                self._first = b""
                await protocol.begin(upgrade)
                await self.context.mark_request()
                first.read(protocol.take)
                while data := await self._read():
                    await protocol.receive(data)
                    first.handled(len(data))
                await protocol.handle(Closed())
        except OSError:
            pass
        finally:
            await self._close()

    async def _upgrade(self) -> Upgrade | None:
        """Read what comes first; answers the upgrade that it is, if it is one."""
        if self.writer.get_extra_info("ssl_object") is not None:
            return None
        try:
            async with asyncio.timeout(FIRST_WORD):
                self._first = await self.reader.read(MAX_RECV)
        except OSError:  # a timeout too; if the connection is broken Hypercorn will find it so
            return None
        except asyncio.CancelledError:
            await self._close()
            raise
        return upgrade_in(self._first, self.config.h11_max_incomplete_size)

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(MAX_RECV)
        except OSError:
            return b""  # the end, as without a word

    async def _read_data(self) -> None:
        if self._first:
            first, self._first = self._first, b""
            await self.protocol.handle(RawData(first))
        await super()._read_data()


class UpgradedProtocol:
    """What Hypercorn has for HTTP, for a connection that is one WebSocket: bytes to its stream, and bytes from it."""

    def __init__(self, server: TCPServer, group: TaskGroup, head: bytes) -> None:
        client, here = (server.writer.get_extra_info(name) for name in ("peername", "sockname"))
        self.send = server.protocol_send
        self._head = head
        self._state = ConnectionState(server.state)
        self._made_with = (server.app, server.config, server.context, group)
        self._addresses = (client[:2] if client else None, here[:2] if here else None)
        self._stream: WebSocketStream | None = WebSocketStream(
            *self._made_with, False, *self._addresses, self.stream_send, STREAM_ID
        )
        self._http: H11Protocol | None = None

    async def begin(self, upgrade: Upgrade) -> None:
        """Tell the stream what was asked for."""
        if self._stream is not None:
            await self._stream.handle(
                Request(
                    stream_id=STREAM_ID,
                    headers=upgrade.headers,
                    http_version="1.1",
                    method="GET",
                    raw_path=upgrade.target,
                    state=self._state,
                )
            )

    async def receive(self, data: bytes) -> None:
        """Bytes of the client's."""
        if self._stream is not None:
            await self._stream.handle(Data(stream_id=STREAM_ID, data=data))
            self._head = b""  # it is answered

    def take(self, data: bytes) -> bool:
        """The same, done at once; False where that does not go, and `receive` is to be called."""
        if self._stream is None or not self._stream.take(data):
            return False
        self._head = b""  # as above
        return True

    async def handle(self, event: Event) -> None:
        """What becomes of the connection: nothing but its end."""
        if isinstance(event, Closed):
            await self._close_stream()

    async def stream_send(self, event: StreamEvent) -> None:
        """What comes from the stream."""
        if isinstance(event, Data):
            await self.send(RawData(data=event.data))
        elif isinstance(event, StreamClosed):
            await self._close_stream()
            await self.send(Closed())
        elif not isinstance(event, EndData):
            await self._in_http().stream_send(event)

    async def _close_stream(self) -> None:
        stream = self._stream
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=STREAM_ID))
            self._stream = None

    def _in_http(self) -> H11Protocol:
        """What would have read the head: it writes the answers that are none of a WebSocket, such as a refusal."""
        if self._http is None:
            self._http = H11Protocol(*self._made_with, self._state, False, *self._addresses, self.send)
            parser: Any = self._http.connection
            parser.receive_data(self._head)
            parser.next_event()
            self._http.connection = H11WSConnection(parser)
        return self._http

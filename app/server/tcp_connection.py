"""Hypercorn's TCP connection, which is a WebSocket's alone from the first bytes on where these ask for one.

Hypercorn has each connection begin as an idle one, with a task that waits for it to stay so, and as HTTP/1.1, with a
parser for all that may come. For a socket all that is taken down again at once, which is a fifth of what connecting
costs. A connection that begins with anything else, or with nothing for a while, is Hypercorn's own.
"""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Data, EndData, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from app.protocol import codec
from app.server.config import ServerConfig
from app.server.first_reader import FirstReader
from app.server.http2 import HTTP2
from app.server.upgrade import Refusal, Upgrade, asks_for_socket, refusal_of, upgrade_in, with_lists_joined
from app.server.websocket_stream import WebSocketStream

logger = logging.getLogger(__name__)

FIRST_WORD = 0.2
"""Seconds. Who says nothing for longer is idle, which is Hypercorn's to end."""


COPIES = 2
"""How often a request's body is in memory while it comes: as it was read, and as Quart keeps it."""
WRITE_TIMEOUT = 20.0
"""Seconds in which a client takes a part of an HTTP answer; then it is cut."""
NO_ROOM = b'{"error":"the instance has no room for another connection"}'
FULL = b"\r\n".join(
    (
        b"HTTP/1.1 503 Service Unavailable",
        b"content-type: application/json",
        b"content-length: %d" % len(NO_ROOM),
        b"retry-after: 1",
        b"connection: close",
        b"",
        NO_ROOM,
    )
)


class TCPConnection(TCPServer):
    """One connection."""

    config: ServerConfig

    _first = b""
    """What was read to see what it is, if that is to be read as Hypercorn reads."""
    _reader: FirstReader | None = None
    _is_http = True
    """True: the connection is no WebSocket, or none yet."""
    _is_idle = True
    _may_be_socket = True
    """True: there are file descriptors enough for another socket."""
    _held = 0
    """Bytes of the request that is being read."""

    async def run(self) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        connections = self.config.http_connections
        may_be_socket = connections.join(self, transport.get_extra_info("socket").fileno())
        try:
            if transport.get_extra_info("ssl_object") is None:
                self._reader = FirstReader.of(transport)  # at once: it counts what comes from now on
            upgrade = await self._upgrade()
            if upgrade is None:
                self._hold(COPIES * len(self._first))  # it may wait for long
            if upgrade is None or self.config.turns.is_busy:
                await self.config.turns.next()
            self._may_be_socket = may_be_socket
            if upgrade is not None and may_be_socket:
                self.become_socket()
                await self._serve(upgrade)
            elif upgrade is not None:
                self._refuse()
                await self._close()
            elif self.reader.at_eof() and not self._first:
                await self._close()  # it has gone without a word
            elif self.config.http2:
                await super().run()
            else:
                await self._serve_http()
        finally:
            if self._is_http:
                connections.leave(self)
                self.config.unfinished.hold(self, 0, is_request=True)
            # It refers to its protocol and that to it; so they would stay until garbage is collected.
            self.protocol = None  # type: ignore[assignment]
            self._reader = None

    def abort(self) -> None:
        """Cut the connection at once."""
        self.writer.transport.abort()

    def shed(self) -> None:
        """Cut the connection: what all connections hold is too much, and this one holds most."""
        self._held = 0
        self.abort()

    def _refuse(self) -> None:
        """Answer 503 to an upgrade: file descriptors are too few for another socket."""
        self.config.on_full()
        self.writer.write(FULL)

    def refuses_sockets(self) -> bool:
        """Return whether no socket may be opened, and count one that is refused for it."""
        if not self._may_be_socket:
            self.config.on_full()
        return not self._may_be_socket

    def become_socket(self) -> None:
        """Count this one as a socket from now on: those have bounds of their own."""
        self._is_http = False
        self._hold(0)
        self.config.http_connections.leave(self)

    async def _serve(self, upgrade: Upgrade) -> None:
        first = self._reader
        assert first is not None  # noqa: S101  # what is asked for over TLS is not read here
        try:
            async with TaskGroup(self.loop) as group:
                protocol = UpgradedProtocol(self, group, self._first)
                first.handled(len(self._first))
                self.protocol = protocol  # type: ignore[assignment]  # it is asked for the same
                self._first = b""
                await protocol.begin(upgrade, first)
                await self.context.mark_request()
                first.read(protocol.take)
                while data := await self._read():
                    await protocol.receive(data)
                    first.handled(len(data))
                    protocol.settle()
                await protocol.handle(Closed())
        except OSError:
            pass
        finally:
            await self._close()

    async def _serve_http(self) -> None:
        """Serve HTTP/1 and nothing else: Hypercorn goes over to HTTP/2 where a client begins with it."""
        socket = self.writer.get_extra_info("socket")
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup(self.loop) as group:
                self._task_group = group
                protocol = HTTP1(
                    self.app, self.config, self.context, group, ConnectionState(self.state), False, client, server,
                    self.protocol_send,
                )  # fmt: skip
                self.protocol = protocol  # type: ignore[assignment]  # it is asked for the same
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass
        finally:
            await self._close()

    async def _upgrade(self) -> Upgrade | None:
        """Read what comes first; answers the upgrade that it is, if it is one."""
        if self._reader is None:
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
        """Read what is no upgrade that came whole, and have it handled in fair turns."""
        if self._first:
            first, self._first = self._first, b""
            self._held = 0
            await self._handle(first)
            if self._reader is not None:
                self._reader.handled(len(first))
        while data := await self._read():
            if self._is_http:
                await self.config.turns.next()
            await self._handle(data)
            if self._reader is not None:
                self._reader.handled(len(data))
        await self.protocol.handle(Closed())

    async def _handle(self, data: bytes) -> None:
        if self._is_http:
            self._hold(self._held + COPIES * len(data))
        await self.protocol.handle(RawData(data))
        inner = getattr(self.protocol, "protocol", None)
        if isinstance(inner, HTTP2):
            self._hold(0)  # what its streams hold is theirs to say
            if inner.idle and not self._is_idle:
                await self.protocol_send(Updated(idle=True))  # Hypercorn has it busy until its first stream ends

    def _hold(self, size: int) -> None:
        if size != self._held:
            self._held = size
            self.config.unfinished.hold(self, size, is_request=True)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._is_idle = event.idle
            self.config.http_connections.set_busy(self, busy=not event.idle)
            if event.idle:
                self._hold(0)
        if not isinstance(event, RawData):
            await super().protocol_send(event)
        elif self.writer.transport.is_closing():
            return  # asyncio has a line in the log for each write behind the end
        elif self._is_http:
            await self._answer(event)
        else:
            await super().protocol_send(event)

    async def _answer(self, event: RawData) -> None:
        """Write a part of an HTTP answer, and count what its client has yet to take."""
        waiting = len(event.data) + self.writer.transport.get_write_buffer_size()
        self.config.unfinished.hold(self, self._held + waiting, is_request=True)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await super().protocol_send(event)
        except TimeoutError:
            self.config.on_shed("idle")
            self.abort()
        finally:
            waiting = 0 if self.writer.transport.is_closing() else self.writer.transport.get_write_buffer_size()
            self.config.unfinished.hold(self, self._held + waiting, is_request=True)


class NotHTTP1(Exception):
    """A request that is not served, such as one of another version of HTTP; it is answered."""


class HTTP1(H11Protocol):
    """Hypercorn's HTTP/1, with a closer look at upgrades.

    None of them leads to HTTP/2 (RFC 9113, 3.1, has no such upgrade any more): where it is configured, clients begin
    with it.
    """

    config: ServerConfig

    @property
    def _server(self) -> TCPConnection:
        return cast("TCPConnection", cast("Any", self.send).__self__)

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except NotHTTP1:
            await self.send(Closed())

    async def _check_protocol(self, event: Any) -> None:
        if self.config.http2 and event.method == b"PRI":
            await super()._check_protocol(event)  # it raises where HTTP/2 begins
        if event.http_version not in (b"1.0", b"1.1"):
            await self._send_error_response(505)
            raise NotHTTP1
        if any(name == b"upgrade" for name, _ in event.headers):
            await self._check_upgrade(event)

    async def _check_upgrade(self, request: Any) -> None:
        if self._server.refuses_sockets():
            await self._send_error_response(503)
            raise NotHTTP1
        refusal = refusal_of(request.method, request.http_version, request.headers)
        if refusal is not None:
            self.config.on_malformed()
            await self._refuse(refusal)
            raise NotHTTP1

    async def _refuse(self, refusal: Refusal) -> None:
        logger.warning("refused a handshake with %d: %s", refusal.status, refusal.text)
        body = codec.encode_json({"error": refusal.text})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *refusal.headers,
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=refusal.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _create_stream(self, request: Any) -> None:
        if asks_for_socket(request.method, request.headers):
            request = SimpleNamespace(
                method=request.method,
                target=request.target,
                http_version=request.http_version,
                headers=with_lists_joined(request.headers),
            )
        await super()._create_stream(request)
        if isinstance(self.connection, H11WSConnection):
            self._server.become_socket()


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

    async def begin(self, upgrade: Upgrade, reader: FirstReader) -> None:
        """Tell the stream what was asked for, and what reads for it."""
        if self._stream is not None:
            self._stream.watch_reader(reader)
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

    def settle(self) -> None:
        """Count anew what the stream holds, now that what was read is handled."""
        if self._stream is not None:
            self._stream.settle()

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

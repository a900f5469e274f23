"""Between the clients and the instances: plays Cloud Run's load balancer, and a network that fails without a word.

It takes connections at one address and carries each to any instance that is in rotation. It reads no further on one
side than the other takes, so that a reader which is slow is felt by the instance.
"""

import asyncio
import random
import re
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

BUFFER = 16 * 1024
"""Bytes that the kernel keeps of what an instance sent and the proxy has not read."""
SEGMENT = 1400
"""Bytes in a packet, as out in the world. With those of the loopback, 64 kB, the kernel would keep megabytes for an
instance, and no reader be slow."""
CONNECT_TIMEOUT = 5.0
_WHO = re.compile(rb"^GET \S*[?&]who=([^&\s]+)")


class _Side(asyncio.Protocol):
    """One end of a connection; what comes goes to the other."""

    def __init__(self, connection: "Connection", made: Callable[[], None]) -> None:
        self._connection = connection
        self._made = made
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.taking = True
        """Whether it takes what is written to it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._made()

    def data_received(self, data: bytes) -> None:
        self._connection.carry(self, data)

    def pause_writing(self) -> None:
        self.taking = False
        self._connection.regulate()

    def resume_writing(self) -> None:
        self.taking = True
        self._connection.regulate()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - however it ended, it ended
        self.transport = None
        self._connection.ended(self)


class Connection:
    """A client's connection and the one to an instance that belongs to it."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy
        self.client = _Side(self, lambda: proxy.find_instance(self))
        self.instance = _Side(self, self._connected)
        self.client.other, self.instance.other = self.instance, self.client
        self.who = ""
        """Whose connection it is: the `who` in the URL that was asked for."""
        self.vanished = False
        self._stalled = False
        self._before: list[bytes] = []
        """What the client sent before there was an instance."""

    def carry(self, side: _Side, data: bytes) -> None:
        """Bytes came in on this side."""
        if self.vanished:
            return
        if side is self.client and not self.who and (found := _WHO.search(data)):
            self.who = found[1].decode()
        assert side.other is not None
        if side.other.transport is not None:
            side.other.transport.write(data)
        elif side is self.client:
            self._before.append(data)

    def _connected(self) -> None:
        """An instance took the connection."""
        assert self.instance.transport is not None
        self.instance.transport.writelines(self._before)
        self._before.clear()
        if self.client.transport is None:  # gone meanwhile
            self.instance.transport.abort()

    def regulate(self) -> None:
        """Read on each side only while the other takes it."""
        self._read(self.client, reading=self.instance.taking)
        self._read(self.instance, reading=self.client.taking and not self._stalled)

    @staticmethod
    def _read(side: _Side, *, reading: bool) -> None:
        if side.transport is not None and not side.transport.is_closing():
            (side.transport.resume_reading if reading else side.transport.pause_reading)()

    def vanish(self) -> None:
        """From now on bytes disappear, and neither end hears of the other's end."""
        self.vanished = True

    def stall(self) -> None:
        """The client does not read any more."""
        self._stalled = True
        self.regulate()

    def flow(self) -> None:
        """It reads again."""
        self._stalled = False
        self.regulate()

    def ended(self, side: _Side) -> None:
        """One end is gone: so is the other, when all that was written to it is sent; after a `vanish` it stays."""
        assert side.other is not None
        if side.other.transport is not None and not self.vanished:
            side.other.transport.close()
        if self.client.transport is None and self.instance.transport is None:
            self._proxy.forget(self)

    def abort(self) -> None:
        """End both sides at once."""
        for side in (self.client, self.instance):
            if side.transport is not None:
                side.transport.abort()


class Proxy:
    """One address for all instances in rotation. Use it as an async context manager."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ports: list[int] = []
        self._connections: dict[Connection, None] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self).client, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def add(self, port: int) -> None:
        """Give new connections to this instance, too."""
        self._ports.append(port)

    def remove(self, port: int) -> None:
        """Give this instance no more new connections; those that it has stay."""
        if port in self._ports:
            self._ports.remove(port)

    def connections(self) -> list[Connection]:
        """Those that are carried through now, the oldest first."""
        return [
            connection
            for connection in self._connections
            if connection.instance.transport is not None
            and connection.client.transport is not None
            and not connection.vanished
        ]

    def forget(self, connection: Connection) -> None:
        """Both ends of a connection are gone."""
        self._connections.pop(connection, None)

    def find_instance(self, connection: Connection) -> None:
        """A client has connected: connect it to an instance."""
        self._connections[connection] = None
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: Connection) -> None:
        """Find an instance that takes the connection; where none does, the client is closed."""
        loop = asyncio.get_running_loop()
        for port in self._chance.sample(self._ports, len(self._ports)):
            narrow = socket.socket()
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            narrow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            narrow.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await loop.sock_connect(narrow, ("127.0.0.1", port))
                    await loop.create_connection(lambda: connection.instance, sock=narrow)
            except OSError:  # which a TimeoutError is
                narrow.close()
            else:
                return
        connection.abort()

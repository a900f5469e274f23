"""Many sockets, as cheap as they can be: a test's process has to carry all of them beside the server."""

import asyncio
import json
import struct
from typing import Any, NamedTuple, Self

from tests.support.deadline import soon

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AT_ONCE = 100
MASK = bytes(4)


class Ended(NamedTuple):
    """How a socket ended: the `disconnect` before, the code of the close frame (1006: none came), and when."""

    farewell: dict[str, Any]
    code: int
    time: float


class Crowd:
    """Sockets that say nothing, and read only from `ended` on."""

    def __init__(self, sockets: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self._sockets = sockets

    @classmethod
    async def open(cls, port: int, count: int) -> Self:
        """So many sockets that were welcomed."""
        sockets: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        while len(sockets) < count:
            opening = [_open(port) for _ in range(min(AT_ONCE, count - len(sockets)))]
            sockets += await soon(asyncio.gather(*opening))
        return cls(sockets)

    async def ended(self, seconds: float = 30) -> list[Ended]:
        """Read each to its end, and answer its close frame."""
        return await soon(asyncio.gather(*(_read_to_the_end(*socket) for socket in self._sockets)), seconds)

    def abort(self) -> None:
        """Cut all connections."""
        for _, writer in self._sockets:
            writer.transport.abort()


async def _open(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    first, welcome = await _frame(reader)
    assert first == 0x81
    assert json.loads(welcome)["type"] == "welcome"
    return reader, writer


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    return first, await reader.readexactly(size)


async def _read_to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ended:
    farewell: dict[str, Any] = {}
    try:
        while True:
            first, data = await _frame(reader)
            if first == 0x88:
                ended = Ended(farewell, int.from_bytes(data[:2]), asyncio.get_running_loop().time())
                writer.write(b"\x88\x82" + MASK + data[:2])
                await reader.read()
                return ended
            if first == 0x81 and (message := json.loads(data))["type"] == "disconnect":
                farewell = message
    except (asyncio.IncompleteReadError, ConnectionError):
        return Ended(farewell, 1006, asyncio.get_running_loop().time())
    finally:
        writer.close()

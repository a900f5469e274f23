"""WebSockets made by hand: an attacker sends bytes that no library would."""

import asyncio
import contextlib
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any, Self

HOST = "127.0.0.1"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = bytes(4)
"""A mask of zeros leaves the payload as it is."""
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, COMPRESSED = 0x80, 0x40
END_OF_BLOCK = b"\x00\x00\xff\xff"
"""Bytes that permessage-deflate leaves out at the end of a message."""
CHUNK = 65536
OPEN_TIMEOUT = 10.0
"""Seconds that a connection and its upgrade may take; the attacker gives up after them."""


class RefusedError(ConnectionError):
    """An upgrade was answered with another status than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the upgrade was answered {status}")
        self.status = status


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """A client's frame; opcode 0 continues a message."""
    first = opcode | (FIN if fin else 0) | (COMPRESSED if compressed else 0)
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + MASK + payload
    if size < 65536:
        return struct.pack("!BBH", first, 0x80 | 126, size) + MASK + payload
    return struct.pack("!BBQ", first, 0x80 | 127, size) + MASK + payload


def text(message: str | bytes | dict[str, Any]) -> bytes:
    """A text message in one frame."""
    return frame(TEXT, _encoded(message))


def deflated(message: str | bytes | dict[str, Any]) -> bytes:
    """A compressed text message in one frame."""
    return frame(TEXT, deflate(_encoded(message)), compressed=True)


def deflate(data: bytes) -> bytes:
    """Data as permessage-deflate carries it (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(END_OF_BLOCK)


def _encoded(message: str | bytes | dict[str, Any]) -> bytes:
    if isinstance(message, dict):
        message = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return message.encode() if isinstance(message, str) else message


def upgrade(*, deflate: bool = False, query: str = "", **headers: str) -> bytes:
    """The head of an upgrade; `_` in a header's name stands for `-`."""
    lines = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **({"Sec-WebSocket-Extensions": "permessage-deflate"} if deflate else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET /ws{query} HTTP/1.1\r\n{head}\r\n".encode()


def post(body: bytes, *, size: int | None = None) -> bytes:
    """A request that publishes a body, or claims that one of `size` bytes follows."""
    head = "POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body) if size is None else size}\r\n\r\n".encode() + body


def split_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take all whole frames of a server out of a buffer: each one's first byte and its payload."""
    at, end = 0, len(buffer)
    while end - at >= 2:
        size, head = buffer[at + 1] & 0x7F, 2
        if size == 126:
            head = 4
        elif size == 127:
            head = 10
        if end - at < head:
            break
        if head > 2:
            size = int.from_bytes(buffer[at + 2 : at + head], "big")
        if end - at < head + size:
            break
        yield buffer[at], bytes(buffer[at + head : at + head + size])
        at += head + size
    del buffer[:at]


async def connect(port: int, *, narrow: bool = False) -> socket.socket:
    """A connection without a word; the kernel keeps little of what comes to a narrow one."""
    raw = socket.socket()
    try:
        if narrow:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(raw, (HOST, port)), OPEN_TIMEOUT)
    except BaseException:
        raw.close()
        raise
    return raw


def reset(raw: socket.socket) -> None:
    """End a connection with a reset."""
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


class RawSocket:
    """A WebSocket whose client sends any bytes it likes. `welcome` is the service's first message."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.welcome: dict[str, Any] = {}
        self.close_code: int | None = None
        """The code of the service's close frame; 1006 where the connection ended without one; None while it is open."""
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._frames: Iterator[tuple[int, bytes]] = iter(())

    @classmethod
    async def open(
        cls, port: int, *, deflate: bool = False, narrow: bool = False, query: str = "", **headers: str
    ) -> Self:
        """Connect, upgrade and read the welcome. Raises RefusedError, OSError."""
        raw = await connect(port, narrow=narrow)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                return await cls._upgraded(raw, upgrade(deflate=deflate, query=query, **headers))
        except BaseException:
            raw.close()
            raise

    @classmethod
    async def _upgraded(cls, raw: socket.socket, head: bytes) -> Self:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(raw, head)
        data = b""
        while b"\r\n\r\n" not in data:
            more = await loop.sock_recv(raw, CHUNK)
            if not more:
                raise ConnectionResetError("the connection ended within the upgrade")
            data += more
        answer, _, rest = data.partition(b"\r\n\r\n")
        status = int(answer.split(None, 2)[1])
        if status != 101:
            raise RefusedError(status)
        opened = cls(raw)
        opened._buffer += rest
        opened._frames = split_frames(opened._buffer)
        opened.welcome = await opened.receive()
        return opened

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the service does not take them. Raises OSError."""
        await self._loop.sock_sendall(self.raw, data)

    async def frames(self) -> list[tuple[int, bytes]]:
        """The frames that came, at least one; none after the end of the connection. Answers no ping."""
        while True:
            if found := list(self._frames):
                for first, payload in found:
                    if first & 0x0F == CLOSE:
                        self.close_code = int.from_bytes(payload[:2], "big") or 1005
                return found
            try:
                more = await self._loop.sock_recv(self.raw, 4 * CHUNK)
            except OSError:
                more = b""
            if not more:
                self.close_code = self.close_code or 1006
                return []
            self._buffer += more
            self._frames = split_frames(self._buffer)

    async def receive(self) -> dict[str, Any]:
        """The next message; pings are answered on the way. Raises ConnectionResetError at the end."""
        while True:
            pending = self._frames
            for first, payload in pending:
                if first & 0x0F == TEXT:
                    return self.decode(first, payload)
                await self._control(first, payload)
            found = await self.frames()
            if not found:
                raise ConnectionResetError(f"the connection ended with {self.close_code}")
            self._frames = iter(found)

    async def _control(self, first: int, payload: bytes) -> None:
        if first & 0x0F == PING:
            await self.send(frame(PONG, payload))
        elif first & 0x0F == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") or 1005

    def decode(self, first: int, payload: bytes) -> dict[str, Any]:
        """The message that a text frame carries."""
        if first & COMPRESSED:
            payload = zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + END_OF_BLOCK)
        message: dict[str, Any] = json.loads(payload)
        return message

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its reply, past whatever else comes."""
        mark = f"ask-{time.monotonic_ns()}"
        await self.send(text({**message, "ackId": mark}))
        while True:
            reply = await self.receive()
            if reply.get("ackId") == mark:
                return reply

    async def discard(self) -> int | None:
        """Read all that comes, unread, to the end of the connection; returns its close code."""
        while await self.frames():
            pass
        return self.close_code

    def close(self) -> None:
        """End the connection without a close frame."""
        self.raw.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        reset(self.raw)

"""Both ways of a connection, looked into: it carries what comes as it comes, and notes the frames."""

import asyncio
import contextlib
import re
from types import TracebackType
from typing import NamedTuple, Self

CLOSE, PING, PONG = 8, 9, 10
CHUNK = 256 * 1024


class Frame(NamedTuple):
    """Fields of a frame's head, and the code of a close."""

    opcode: int
    compressed: bool
    size: int
    code: int | None


class Frames:
    """One way of a connection: a head, and frames."""

    def __init__(self) -> None:
        self.head = ""
        self.frames: list[Frame] = []
        self._waiting = bytearray()

    def feed(self, data: bytes) -> None:
        """Note what is whole."""
        self._waiting += data
        if not self.head:
            head, end, rest = bytes(self._waiting).partition(b"\r\n\r\n")
            if not end:
                return
            self.head = head.decode("latin-1")
            self._waiting = bytearray(rest)
        while (size := self._frame()) is not None:
            del self._waiting[:size]

    def _frame(self) -> int | None:
        data = self._waiting
        if len(data) < 2:
            return None
        size, at = data[1] & 127, 2
        if size > 125:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        masked = data[1] >> 7
        mask = bytes(data[at : at + 4]) if masked else bytes(4)
        at += 4 * masked
        if len(data) < at + size:
            return None
        code = bytes(byte ^ key for byte, key in zip(data[at : at + min(size, 2)], mask, strict=False))
        opcode = data[0] & 15
        has_code = opcode == CLOSE and size > 1
        self.frames.append(Frame(opcode, bool(data[0] & 64), size, int.from_bytes(code, "big") if has_code else None))
        return at + size

    @property
    def messages(self) -> list[Frame]:
        """The first frames of messages."""
        return [frame for frame in self.frames if frame.opcode in (1, 2)]

    @property
    def close(self) -> Frame | None:
        """The close frame; None: none came."""
        return next((frame for frame in self.frames if frame.opcode == CLOSE), None)

    def has(self, opcode: int) -> bool:
        """Return whether there was a frame of this kind."""
        return any(frame.opcode == opcode for frame in self.frames)

    @property
    def extensions(self) -> str:
        """The extensions that the head has."""
        found = re.findall(r"^sec-websocket-extensions: *(.*?)\r?$", self.head, re.IGNORECASE | re.MULTILINE)
        return ", ".join(found)


class Wire:
    """One connection: what the client sends, and what the hub does."""

    def __init__(self) -> None:
        self.client = Frames()
        self.hub = Frames()


class Tap:
    """Carries connections to a port; use it as an async context manager."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.wires: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"ws://127.0.0.1:{self.port}/ws"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire()
        self.wires.append(wire)
        try:
            from_hub, to_hub = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_pass(reader, to_hub, wire.client), _pass(from_hub, writer, wire.hub))
        finally:
            writer.close()
            to_hub.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            frames.feed(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

"""A real WebSocket client."""

import asyncio
import itertools
import json
import socket
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.deadline import soon

Message = dict[str, Any]


def narrow_socket() -> socket.socket:
    """A socket for which the kernel keeps little, so that a client that does not read is soon felt."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    return narrow


class Client:
    """A socket of its own to a server; use it as an async context manager. `welcome` is its first message.

    `options` are those of `websockets`; `narrow=True` makes it a client that is soon behind when it does not read.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = options
        self._socket: ClientConnection | None = None
        self._numbers = itertools.count(1)
        self.welcome: Message = {}

    async def __aenter__(self) -> Self:
        options = {"compression": None, "max_size": None, **self._options}
        if options.pop("narrow", False):
            options["sock"] = narrow_socket()
            parts = urlsplit(self._url)
            await asyncio.get_running_loop().sock_connect(options["sock"], (parts.hostname, parts.port))
        self._socket = await soon(connect(self._url, **options))
        self.welcome = await self.receive()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.socket.close()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    def abort(self) -> None:
        """Cut the connection."""
        assert self._socket is not None
        self._socket.transport.abort()

    async def send(self, message: Message | str | bytes) -> None:
        """Send a message, or a frame as it is."""
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive_text(self) -> str:
        """The next frame as it came."""
        return str(await soon(self.socket.recv()))

    async def receive(self) -> Message:
        """The next message."""
        message: Message = json.loads(await self.receive_text())
        return message

    async def ask(self, message: Message) -> Message:
        """Send a request and answer its reply, which has to come next."""
        mark = next(self._numbers)
        await self.send({**message, "ackId": mark})
        reply = await self.receive()
        assert reply.get("ackId") == mark, reply
        return reply

    async def subscribe(self, channel: str, sub_id: str = "1", **fields: object) -> Message:
        """Subscribe, as from a `position`, and answer the reply."""
        reply = await self.ask({"type": "subscribe", "channel": channel, "subId": sub_id, **fields})
        assert reply["type"] == "ack", reply
        return reply

    async def nothing_came(self) -> bool:
        """Whether nothing was waiting: what comes next is the answer to a question that is asked now."""
        answer = await self.ask({"type": "getInfo"})
        return bool(answer["type"] == "getInfo")

    async def collect(self, count: int) -> list[Message]:
        """The next messages."""
        return [await self.receive() for _ in range(count)]

    async def closed(self) -> tuple[int, list[Message]]:
        """Read to the end: the code of the server's close frame (1006: none came), and the messages before it."""
        before: list[Message] = []
        try:
            while True:
                before.append(await self.receive())
        except ConnectionClosed as ended:
            return ended.rcvd.code if ended.rcvd else 1006, before

"""A WebSocket server that says only what the test says: each socket that a client opens is a `Peer`."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.support.deadline import soon

Message = dict[str, Any]


class Peer:
    """The server's end of one socket."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.query = parse_qs(urlsplit(socket.request.path).query)

    async def say(self, **message: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps(message))

    async def heard(self) -> Message:
        """The client's next message."""
        message: Message = json.loads(await soon(self.socket.recv()))
        return message

    async def subscribed(self, **answer: Any) -> Message:
        """The next message, which has to be a subscribe; it is answered."""
        request = await self.heard()
        assert request["type"] == "subscribe", request
        await self.acknowledge(request, **answer)
        return request

    async def acknowledge(self, request: Message, **answer: Any) -> None:
        """Answer a request."""
        place = {key: request[key] for key in ("channel", "subId", "ackId") if key in request}
        await self.say(type="ack", **place, **answer)

    async def announce(self, number: int, channel: str | None = "news", **more: Any) -> None:
        """Send the message of this number, as it came through Pub/Sub, with the position of this number."""
        place = {} if channel is None else {"channel": channel}
        message = {"type": "announce", **place, "payload": number, **message_ids(number), "position": f"p{number}"}
        await self.say(**{**message, **more})

    async def close(self, code: int) -> None:
        """Close the socket."""
        await self.socket.close(code)

    def cut(self) -> None:
        """End the connection without a word."""
        self.socket.transport.abort()

    async def ended(self) -> int:
        """Wait for the client to close; the code of its close frame."""
        await soon(self.socket.wait_closed())
        return self.socket.close_code or 1006


def message_ids(number: int) -> dict[str, str]:
    """The ids of the message of this number."""
    return {"id": f"m{number}", "pubsubId": str(1000 + number), "sentDateTime": "2026-01-31T12:00:00.000Z"}


class ScriptedServer:
    """Use it as an async context manager.

    `refusals` are answered, one for each upgrade, before any is accepted; of `welcomes` one is said to each socket
    (None: nothing is), the last one to all further ones.
    """

    def __init__(self) -> None:
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.welcomes: list[Message | None] = [{}]
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._refuse, close_timeout=1, max_size=None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._over.set()
        self._server.close()
        await soon(self._server.wait_closed())

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}/ws"

    async def accept(self) -> Peer:
        """The next socket that a client opens; it was welcomed, if it is to be."""
        return await soon(self._peers.get())

    def nobody_came(self) -> bool:
        """Whether no socket was opened that was not accepted yet."""
        return self._peers.empty()

    def _refuse(self, _: ServerConnection, __: Request) -> Response | None:
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        return Response(status, "refused", Headers({**headers, "Content-Length": "0", "Connection": "close"}), b"")

    async def _serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        welcome = self.welcomes.pop(0) if len(self.welcomes) > 1 else self.welcomes[0]
        if welcome is not None:
            await peer.say(type="welcome", message="Welcome", **welcome)
        self._peers.put_nowait(peer)
        closed = asyncio.ensure_future(socket.wait_closed())
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait({closed, over}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        closed.cancel()

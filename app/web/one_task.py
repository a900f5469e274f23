"""Quart's side of a socket in one task.

Quart's own has three, and a queue: one task waits for the client to go and another for what it says, to stop the
handler in the middle of anything. `app.server` can stop it as well, and then they only cost: 4 kB and a sixth of the
time of each connection, and a detour for each message.
"""

import asyncio
from typing import Any

from quart.asgi import ASGIWebsocketConnection

from app.web.control import control_of


class OneTaskConnection(ASGIWebsocketConnection):
    """One socket's; where the server cannot stop a handler it is Quart's."""

    async def __call__(self, receive: Any, send: Any) -> None:
        """Run the handler until it ends or the client is gone, which cancels it."""
        control = control_of(self.scope)
        if control is None or not control.takes_frames:
            await super().__call__(receive, send)
            return
        self.queue = _Messages(receive)  # type: ignore[assignment]
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        control.on_gone = task.cancel
        try:
            await self.handle_websocket(self._create_websocket_from_scope(send), send)
        finally:
            control.on_gone = None


class _Messages:
    """What the client says, straight from the server."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive

    async def get(self) -> str | bytes:
        """The next message; cancelled when the client is gone."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.receive":
                message: str | bytes = event.get("bytes") or event["text"]
                return message
            if event["type"] == "websocket.disconnect":
                raise asyncio.CancelledError

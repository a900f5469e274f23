"""Quart's side of a socket in one task.

Quart's own has three, and a queue: while one runs the handler another takes in what comes, so that it sees the client
go and can stop the handler in the middle of anything. `app.server` can stop it by itself, and hands over messages
itself; then the others only cost, each connection 4 kB and each message a detour.
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
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        is_gone = False

        def stop() -> None:
            nonlocal is_gone
            is_gone = True
            task.cancel()

        if control.closed:
            return  # the client went before this began
        control.on_gone = stop
        try:
            await self.handle_websocket(self._create_websocket_from_scope(send), send)
        except asyncio.CancelledError:
            if not is_gone or task.cancelling() > 1:
                raise  # somebody else's
            task.uncancel()  # a task that ended cancelled would keep all it had until garbage is collected
        finally:
            control.on_gone = None

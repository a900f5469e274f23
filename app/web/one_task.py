"""Quart's side of a socket in one task.

Quart's own has three, and a queue: while one runs the handler another takes in what comes, so that it sees the client
go and can stop the handler in the middle of anything. `app.server` can stop it by itself, and hands over messages
itself; then the others only cost, each connection 4 kB and each message a detour.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from quart import Quart
from quart.asgi import ASGIHTTPConnection, ASGIWebsocketConnection

from app.web.control import Control, control_of
from app.web.targets import routable

Send: TypeAlias = Callable[[Any], Awaitable[None]]
"""ASGI's."""
Straight: TypeAlias = Callable[[Any, Control, Send], Awaitable[None] | None]
"""(ASGI scope, control, send) -> the handling of a socket for which Quart need not be asked; else None."""


class HTTPConnection(ASGIHTTPConnection):
    """Quart's side of a request, whatever its target is."""

    def __init__(self, app: Quart, scope: Any) -> None:
        super().__init__(app, routable(scope))


class OneTaskConnection:
    """One socket's, as Quart makes it; where the server cannot stop a handler it is Quart's own."""

    def __init__(self, app: Quart, scope: Any, straight: Straight | None = None) -> None:
        self._app = app
        self._scope = scope
        self._straight = straight

    async def __call__(self, receive: Any, send: Any) -> None:
        """Run the handler until it ends or the client is gone, which cancels it."""
        control = control_of(self._scope)
        if control is None or not control.takes_frames:
            await ASGIWebsocketConnection(self._app, routable(self._scope))(receive, send)
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
            await self.handle(control, send)
        except asyncio.CancelledError:
            if not is_gone or task.cancelling() > 1:
                raise  # somebody else's
            task.uncancel()  # a task that ended cancelled would keep all it had until garbage is collected
        finally:
            control.on_gone = None

    async def handle(self, control: Control, send: Any) -> None:
        """Run the handler."""
        straight = self._straight(self._scope, control, send) if self._straight is not None else None
        if straight is not None:
            await straight
        else:
            quarts = ASGIWebsocketConnection(self._app, routable(self._scope))
            await quarts.handle_websocket(quarts._create_websocket_from_scope(send), send)  # noqa: SLF001

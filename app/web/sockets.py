"""The WebSocket route: from the upgrade to the last frame."""

import asyncio
import logging
from typing import Any, Protocol, cast

from quart import Blueprint, Response, Websocket, websocket

from app.connection import Connection
from app.hub import Hub
from app.protocol import codec
from app.web.door import Door, Guest, Refused

logger = logging.getLogger(__name__)

RETRY_AFTER = {"Retry-After": "1"}
"""Seconds: another instance, or this one a moment later, has room."""
CONTROL = "cloud_sockets.control"
"""The ASGI extension of app.server; not there on other servers."""


class Control(Protocol):
    """What app.server offers beside ASGI: cutting a socket, and not reading it faster than it is served."""

    def abort(self) -> None: ...
    def limit(self) -> None: ...
    def taken(self) -> None: ...
    def release(self) -> None: ...


def socket_routes(hub: Hub, door: Door, path: str) -> Blueprint:
    """The route on which sockets are opened."""
    routes = Blueprint("sockets", __name__)

    @routes.websocket(path)
    async def open_socket() -> Response | None:
        upgrade: Websocket = cast("Any", websocket)._get_current_object()  # noqa: SLF001  # for other tasks
        guest = await _admit(hub, door, upgrade)
        if isinstance(guest, Response):
            return guest
        await _serve(hub, guest, upgrade)
        return None

    return routes


async def _admit(hub: Hub, door: Door, upgrade: Websocket) -> Guest | Response:
    if hub.draining:
        return _refuse(hub, 503, "draining", "the instance is shutting down", RETRY_AFTER)
    if hub.full:
        return _refuse(hub, 503, "full", "the instance has no room for another connection", RETRY_AFTER)
    if not door.origin_allowed(upgrade.headers.get("Origin"), upgrade.headers.get("Host")):
        logger.warning("refused a socket from the origin %r", upgrade.headers.get("Origin"))
        return _refuse(hub, 403, "origin", "pages of this origin may not open a socket here")
    try:
        return await door.identify(upgrade)
    except Refused as refused:
        logger.warning("refused a socket: %s", refused)
        return _refuse(hub, 401, "unauthenticated", "a session with a user is needed")


def _refuse(hub: Hub, status: int, reason: str, text: str, headers: dict[str, str] | None = None) -> Response:
    hub.metrics.connections_refused.labels(reason).inc()
    return Response(codec.encode_json({"error": text}), status, headers, content_type="application/json")


async def _serve(hub: Hub, guest: Guest, upgrade: Websocket) -> None:
    extensions: Any = upgrade.scope.get("extensions") or {}
    control: Control | None = extensions.get(CONTROL)
    view = asyncio.current_task()

    def abort() -> None:
        if control is not None:
            control.abort()
        elif view is not None:
            view.cancel()

    connection = hub.connect(*guest, abort=abort)
    if control is not None:
        control.limit()
    try:
        await upgrade.accept()
        reading = asyncio.create_task(_read(hub, connection, upgrade, control))
        writing = asyncio.create_task(connection.write(upgrade.send, upgrade.close))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
    finally:
        if control is not None:
            control.release()
        hub.disconnect(connection)


async def _read(hub: Hub, connection: Connection, upgrade: Websocket, control: Control | None) -> None:
    while True:
        data: str | bytes | None = await upgrade.receive()
        await hub.receive(connection, b"" if data is None else data)  # an empty binary frame comes as None
        if control is not None:
            control.taken()

"""Serving an ASGI app with Hypercorn, its signals and its end in our own hands."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import hypercorn.asyncio

from app.addresses import LOOPBACK, Address
from app.server.config import ServerConfig
from app.server.http_connections import HTTP_ROOM, HTTPConnections, raise_descriptor_limit
from app.server.listening import OUT_OF_DESCRIPTORS
from app.server.pings import PING_INTERVAL, Pings
from app.server.teach import teach_hypercorn
from app.server.unfinished import Unfinished
from app.server.windows import Windows

logger = logging.getLogger("app.server")

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted: all clients of another instance may come at once."""
QUIET = 60.0
"""Seconds without trouble after which it is worth a new line."""
STOP_TIMEOUT = 1.0
"""Seconds, after the drain, for HTTP requests that are still being answered."""


class Guards(NamedTuple):
    """Bounds of all connections together, and callbacks for each that is refused or ended."""

    unfinished: Unfinished
    """Budget of the bytes that came in and are not handled yet."""
    windows: Windows
    """Budget of what clients that compress may refer back to."""
    max_sockets: int
    sockets: Callable[[], int]
    """How many there are."""
    on_full: Callable[[], object]
    """Called where a socket is refused, since file descriptors run out."""
    on_malformed: Callable[[], object]
    """Called where a socket is refused, since its handshake is not the standard's."""
    on_shed: Callable[[str], object]
    """Called with the reason where a connection is ended: `idle`, `crowded`."""


async def serve(
    app: Any,
    *,
    addresses: Sequence[Address] = LOOPBACK,
    port: int,
    max_payload: int,
    deflate: bool,
    until: Callable[[], Awaitable[None]],
    pings: Pings | None = None,
    http2: bool = False,
    guards: Guards | None = None,
) -> None:
    """Serve on these addresses until `until` returns, which is where the sockets are drained.

    Since Python 3.12 Hypercorn waits for every open socket before its own graceful timeout counts, so it never comes to
    an end by itself: the drain comes first, and what it leaves is cancelled. Raises OSError where an address or the
    port cannot be had; port 0 is any that is free on all of them.
    """
    config = ServerConfig()
    config.listen_on(addresses, port)
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = logger
    config.include_server_header = False
    config.graceful_timeout = STOP_TIMEOUT
    config.websocket_max_message_size = max_payload
    config.websocket_deflate = deflate
    config.websocket_pings = pings = pings or Pings()
    config.http2 = http2
    if guards is not None:
        raise_descriptor_limit(guards.max_sockets + HTTP_ROOM)
        config.unfinished, config.on_full, config.on_shed = guards.unfinished, guards.on_full, guards.on_shed
        config.on_malformed, config.windows = guards.on_malformed, guards.windows
        config.http_connections = HTTPConnections(
            guards.max_sockets + HTTP_ROOM, guards.sockets, partial(guards.on_shed, "crowded")
        )
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_Reports(config.http_connections))
    drained = asyncio.Event()

    async def drain() -> None:
        await until()
        drained.set()

    with teach_hypercorn() as taught:
        if not taught:  # nobody looks for pongs then, but what is between keeps the connection open
            config.websocket_ping_interval = PING_INTERVAL
        serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=drain))
        draining = asyncio.create_task(drained.wait())
        pinging = asyncio.create_task(pings.run())
        try:
            await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({serving}, timeout=STOP_TIMEOUT)
            if not serving.done():
                logger.warning("HTTP requests did not end in time and are cut")
                loop.set_exception_handler(_ignore_cancelled)
        finally:
            for task in (draining, pinging, serving):
                task.cancel()
            await asyncio.wait({draining, pinging, serving})
        if not serving.cancelled():
            serving.result()


class _Reports:
    """Makes one log line of what asyncio reports each second: that it cannot accept, for want of descriptors.

    Until its next try, connections that say nothing make room.
    """

    def __init__(self, connections: HTTPConnections) -> None:
        self._connections = connections
        self._say_at = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in OUT_OF_DESCRIPTORS:
            loop.default_exception_handler(context)
            return
        if loop.time() >= self._say_at:
            logger.error("accepting pauses: %s; connections that say nothing make room", error.strerror)
        self._say_at = loop.time() + QUIET
        self._connections.make_room()


def _ignore_cancelled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Before Python 3.12 asyncio's streams report a cancelled connection as an error of their own.
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)

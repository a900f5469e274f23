"""Hypercorn's configuration, with what our connections and streams want to know."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from hypercorn.config import Config, Sockets
from hypercorn.logging import Logger

from app.addresses import LOOPBACK, Address
from app.server.http_connections import HTTP_ROOM, HTTPConnections
from app.server.listening import listen
from app.server.pings import Pings
from app.server.turns import Turns
from app.server.unfinished import Unfinished
from app.server.windows import Windows

MEGABYTE = 1024 * 1024


started = logging.getLogger("app.start")
"""Logger by which the server says what it listens on: no line of a client's, and so not counted as one."""


class ServerLog(Logger):
    """Hypercorn's log."""

    async def info(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Say where it listens; Hypercorn says nothing else like this."""
        started.info(message, *args, **kwargs)


class ServerConfig(Config):
    """How sockets are served. Each of these may be set before it is."""

    logger_class = ServerLog
    websocket_deflate = True
    """Whether sockets may compress."""
    http2 = False
    """True: the server speaks HTTP/2 to clients that ask for it."""
    websocket_pings: Pings | None = None
    """Who asks them whether they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        """Queue of connections that have had their turn of the event loop."""
        self.unfinished = Unfinished(32 * MEGABYTE, int)
        """Budget of the bytes that came in and are not handled yet."""
        self.windows = Windows(16 * MEGABYTE, int)
        """Budget of what clients that compress may refer back to."""
        self.http_connections = HTTPConnections(HTTP_ROOM, int, int)
        """The connections that are no sockets yet, or never will be."""
        self.on_full: Callable[[], object] = int
        """Called where a socket is refused, since the process has no room for it."""
        self.on_malformed: Callable[[], object] = int
        """Called where a socket is refused, since its handshake is not the standard's."""
        self.on_shed: Callable[[str], object] = str
        """Called with the reason where a connection is ended for what it does."""

        self._addresses: Sequence[Address] = LOOPBACK
        self._port = 0

    def listen_on(self, addresses: Sequence[Address], port: int) -> None:
        """Set where to listen; Hypercorn's own `bind` knows no address that may be missing."""
        self._addresses, self._port = addresses, port

    def create_sockets(self) -> Sockets:
        return Sockets([], [*listen(self._addresses, self._port)], [])

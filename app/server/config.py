"""Hypercorn's configuration, with what our connections and streams want to know."""

from collections.abc import Callable

from hypercorn.config import Config, Sockets

from app.server.http_connections import HTTP_ROOM, HTTPConnections
from app.server.listening import ListeningSocket
from app.server.pings import Pings
from app.server.turns import Turns
from app.server.unfinished import Unfinished

MEGABYTE = 1024 * 1024


class ServerConfig(Config):
    """How sockets are served. Each of these may be set before it is."""

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
        self.http_connections = HTTPConnections(HTTP_ROOM, int, int)
        """The connections that are no sockets yet, or never will be."""
        self.on_full: Callable[[], object] = int
        """Called where a socket is refused, since the process has no room for it."""
        self.on_shed: Callable[[str], object] = str
        """Called with the reason where a connection is ended for what it does."""

    def create_sockets(self) -> Sockets:
        made = super().create_sockets()
        made.insecure_sockets = [ListeningSocket.of(sock) for sock in made.insecure_sockets]
        return made

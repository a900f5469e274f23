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
    """Whether HTTP/2 is spoken to who asks for it."""
    websocket_pings: Pings | None = None
    """Who asks them whether they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        """Whose turn it is, of those that have much to do."""
        self.unfinished = Unfinished(32 * MEGABYTE, int)
        """What came in and is not handled yet."""
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

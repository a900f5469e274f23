"""Hypercorn's configuration, with what our WebSocket stream wants to know."""

from hypercorn.config import Config

from app.server.pings import Pings


class ServerConfig(Config):
    """How sockets are served."""

    websocket_deflate = True
    """Whether sockets may compress."""
    websocket_pings: Pings | None = None
    """Who asks them whether they are there."""

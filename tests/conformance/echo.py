"""The service with an echo in the place of the hub: `python -m tests.conformance.echo`, its way in CONFORMANCE_WAY.

All else is as it is served: the upgrade, the frames, the compression, the routes. Each way is seen to be the one that
was asked for, so that none stands for another.
"""

import asyncio
import logging
import os
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from app import Settings, create_app
from app.connection import Outlet
from app.hub import Hub
from app.protocol.frame import Frame
from app.server import Guards, Unfinished, Windows, serve
from app.server.control import Control
from app.server.tcp_connection import HTTP1, UpgradedProtocol
from app.web.sockets import MessageOutlet

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of the largest message of the cases."""
FAST, H11, MESSAGE = "fast", "h11", "message"
WAYS = {
    FAST: "an upgrade that is read in one go, and ready frames",
    H11: "an upgrade that h11 reads, and ready frames",
    MESSAGE: "message by message, by ASGI",
}
_BINARY = 0x02
_FLAGS = 0xF0
"""Bits of a frame's first byte beside its opcode."""


class BinaryFrame(Frame):
    """A binary message. The service sends none."""

    __slots__ = ()

    @property
    def text(self) -> Any:
        """The message, which is none for a text."""
        return self.data

    def plain(self) -> bytes:
        """The frame as it is written to a socket."""
        return _as_binary(super().plain())

    def deflated(self) -> bytes:
        """The frame for a socket that negotiated compression."""
        return _as_binary(super().deflated())


def _as_binary(frame: bytes) -> bytes:
    return bytes((frame[0] & _FLAGS | _BINARY,)) + frame[1:]


def way_of(outlet: Outlet) -> str:
    """Tell in which way a socket is served."""
    if isinstance(outlet, MessageOutlet):
        return MESSAGE
    assert isinstance(outlet, Control)
    close: Any = outlet._begin_close
    protocol = close.__self__.send.__self__
    return {UpgradedProtocol: FAST, HTTP1: H11}[type(protocol)]


class EchoConnection:
    """One socket's."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def open(self) -> None:
        """Say nothing: an echo has no welcome."""

    def echo(self, data: str | bytes) -> None:
        """Send a message back as it came."""
        self._outlet.write([Frame(data.encode()) if isinstance(data, str) else BinaryFrame(data)])


class Echo(Hub):
    """Answers each message with itself."""

    way = FAST

    def connect(self, user: Any, session_user: Any, outlet: Outlet, *_more: Any, **_options: Any) -> Any:  # noqa: ARG002
        if (way := way_of(outlet)) != self.way:
            raise RuntimeError(f"a socket is served in the way {way}, not {self.way}")
        return EchoConnection(outlet)

    def disconnect(self, connection: Any) -> None:
        """Forget nothing."""

    def receive_at_once(self, connection: Any, text: str) -> bool:
        connection.echo(text)
        return True

    async def receive(self, connection: Any, data: str | bytes) -> None:
        connection.echo(data)

    def silent(self, connection: Any) -> None:
        """Leave a client that answers no ping to its case."""

    def flooded(self, connection: Any) -> None:
        """Take parts of a message as fast as they come: some cases send the smallest."""

    def crowded(self, _connection: Any) -> None:
        raise RuntimeError("the cases have more unfinished than there is room for")


async def main(way: str) -> None:
    """Serve on PORT until the process is ended."""
    Echo.way = way
    with ExitStack() as changes:
        changes.enter_context(patch("app.bootstrap.Hub", Echo))
        if way == H11:
            changes.enter_context(patch("app.server.tcp_connection.upgrade_in", return_value=None))
        elif way == MESSAGE:
            changes.enter_context(patch("app.server.control._transport_of", return_value=None))
        app = create_app(Settings())
        room = Unfinished(1024 * 1024 * 1024, lambda: None)
        guards = Guards(
            room,
            Windows(1024 * 1024 * 1024, lambda: None),
            1000,
            sockets=lambda: 0,
            on_full=lambda: None,
            on_malformed=lambda: None,
            on_shed=lambda _: None,
        )
        await serve(
            app,
            port=int(os.environ["PORT"]),
            max_payload=MAX_PAYLOAD,
            deflate=True,
            until=asyncio.Event().wait,  # type: ignore[arg-type]
            guards=guards,
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(os.environ["CONFORMANCE_WAY"]))

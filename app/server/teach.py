"""The one place where Hypercorn and wsproto are changed: they take what is ours for their own.

Where Hypercorn is not as it was checked (`app.server.fit`) it keeps what it has, and the app sends by ASGI.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypercorn.asyncio.run
import hypercorn.protocol
import hypercorn.protocol.h11
import wsproto.connection

from app.server.fit import misfits

logger = logging.getLogger(__name__)


@contextmanager
def teach_hypercorn() -> Iterator[bool]:
    """Have these use what is ours, for as long as this lasts.

    Gives whether it does: a Hypercorn that lacks something of what was checked keeps its own.
    """
    missing = misfits()
    if missing:
        logger.warning("Hypercorn is not as it was checked (no %s): it serves sockets as it can", ", ".join(missing))
        yield False
        return
    from app.server.close_frames import Frames  # noqa: PLC0415  # where it does not fit it fails
    from app.server.http2 import HTTP2  # noqa: PLC0415
    from app.server.tcp_connection import HTTP1, TCPConnection  # noqa: PLC0415
    from app.server.websocket_stream import WebSocketStream  # noqa: PLC0415

    taught: tuple[tuple[Any, str, type], ...] = (
        (hypercorn.asyncio.run, "TCPServer", TCPConnection),
        (hypercorn.protocol.h11, "WSStream", WebSocketStream),
        (hypercorn.protocol, "H11Protocol", HTTP1),
        (hypercorn.protocol, "H2Protocol", HTTP2),
        (wsproto.connection, "FrameProtocol", Frames),
    )
    before = [getattr(module, name) for module, name, _ in taught]
    for module, name, ours in taught:
        setattr(module, name, ours)
    try:
        yield True
    finally:
        for (module, name, _), theirs in zip(taught, before, strict=True):
            setattr(module, name, theirs)

"""Whether Hypercorn is as it was checked: all that `app.server` leans on beside what Hypercorn promises."""

from collections.abc import Iterator

import hypercorn.protocol.h2
import hypercorn.protocol.h11
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream

_STREAM = (
    "_accept", "_handle_events", "_send_wsproto_event", "app_put", "app_send", "closed", "config", "handle", "send",
    "state", "stream_id", "task_group",
)  # fmt: skip
_HANDSHAKE = ("accepted", "extensions", "http_version", "key")
_STATES = ("CLOSED", "CONNECTED", "HANDSHAKE")


def misfits() -> list[str]:
    """What is not there, in Python's words; empty where all is."""
    return list(_misfits())


def _misfits() -> Iterator[str]:
    for module in (hypercorn.protocol.h11, hypercorn.protocol.h2):
        if not hasattr(module, "WSStream"):
            yield f"{module.__name__}.WSStream"
    try:
        stream = WSStream(None, Config(), None, None, False, None, None, None, 1)  # type: ignore[arg-type]
        handshake = Handshake([], "1.1")
    except Exception as error:  # it is made otherwise
        yield f"a stream: {error}"
        return
    for thing, names in ((stream, _STREAM), (handshake, _HANDSHAKE), (ASGIWebsocketState, _STATES)):
        owner = thing.__name__ if isinstance(thing, type) else type(thing).__name__
        yield from (f"{owner}.{name}" for name in names if not hasattr(thing, name))
    # These are set where they are made, and making them takes a connection.
    made_by = ((TCPServer.__init__, TCPServer.run), (hypercorn.protocol.h11.H11Protocol.__init__,))
    for name, functions in (
        ("TCPServer.protocol", made_by[0]),
        ("TCPServer.writer", made_by[0]),
        ("H11Protocol.send", made_by[1]),
    ):
        if not any(name.rpartition(".")[2] in function.__code__.co_names for function in functions):
            yield name
    if not hasattr(TCPServer, "protocol_send"):
        yield "TCPServer.protocol_send"

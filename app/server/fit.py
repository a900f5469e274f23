"""Whether Hypercorn is as it was checked, and wsproto and asyncio: all that `app.server` leans on beside what they
promise.
"""

from asyncio import selector_events
from collections.abc import Iterator
from inspect import signature
from types import CodeType
from typing import Any

import hypercorn.asyncio.run
import hypercorn.asyncio.task_group
import hypercorn.asyncio.tcp_server
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.typing
import hypercorn.utils
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
from wsproto.connection import Connection, ConnectionType

_MODULES = (
    (hypercorn.asyncio.run, ("TCPServer",)),
    (hypercorn.asyncio.task_group, ("TaskGroup",)),
    (hypercorn.asyncio.tcp_server, ("MAX_RECV", "TCPServer")),
    (hypercorn.protocol.h11, ("H11Protocol", "H11WSConnection", "STREAM_ID", "WSStream")),
    (hypercorn.utils, ("parse_socket_addr",)),
    (hypercorn.protocol, ("H11Protocol", "H2Protocol", "ProtocolWrapper")),
    (hypercorn.protocol.h2, ("H2Protocol",)),
    (hypercorn.typing, ("ConnectionState",)),
)
_STREAM = (
    "_accept", "_handle_events", "_send_wsproto_event", "app_put", "app_send", "closed", "config", "handle", "send",
    "state", "stream_id", "task_group",
)  # fmt: skip
_HANDSHAKE = ("accepted", "extensions", "http_version", "key")
_STATES = ("CLOSED", "CONNECTED", "HANDSHAKE")
_CONFIG = ("h11_max_incomplete_size", "response_headers")
_TASK_GROUP = ("__aenter__", "__aexit__", "spawn")
_SERVER = ("_close", "_idle_timeout", "_read_data", "protocol_send")
_SERVER_SETS = ("app", "config", "context", "idle_task", "loop", "protocol", "reader", "state", "writer")
_HTTP = ("_check_protocol", "_create_stream", "_send_error_response", "stream_send")
_SERVER_TAKES = ["app", "loop", "config", "context", "state", "reader", "writer"]
_HTTP_TAKES = ["app", "config", "context", "task_group", "connection_state", "ssl", "client", "server", "send"]
_STREAM_TAKES = [*_HTTP_TAKES[:4], *_HTTP_TAKES[5:], "stream_id"]


def misfits() -> list[str]:
    """What is not there, in Python's words; empty where all is."""
    missing = [f"{module.__name__}.{name}" for module, names in _MODULES for name in names if not hasattr(module, name)]
    return missing or list(_misfits())


def _misfits() -> Iterator[str]:
    server: Any = hypercorn.asyncio.tcp_server.TCPServer
    http: Any = hypercorn.protocol.h11.H11Protocol
    try:
        stream = WSStream(None, Config(), None, None, False, None, None, None, 1)  # type: ignore[arg-type]
        handshake = Handshake([], "1.1")
    except Exception as error:  # it is made otherwise
        yield f"a stream: {error}"
        return
    for thing, names in (
        (stream, _STREAM),
        (handshake, _HANDSHAKE),
        (ASGIWebsocketState, _STATES),
        (Config, _CONFIG),
        (hypercorn.asyncio.task_group.TaskGroup, _TASK_GROUP),
        (WorkerContext, ("mark_request",)),
        (server, _SERVER),
        (http, _HTTP),
        (hypercorn.protocol.h2.H2Protocol, ("_create_stream", "_flush", "idle")),
    ):
        owner = thing.__name__ if isinstance(thing, type) else type(thing).__name__
        yield from (f"{owner}.{name}" for name in names if not hasattr(thing, name))
    yield from _misfits_of_wsproto()
    if not _tells_before_it_closes():
        yield "asyncio's connection_lost before it closes the socket"
    # These are set, or called, where that takes a connection.
    uses = {*server.__init__.__code__.co_names, *server.run.__code__.co_names}
    yield from (f"TCPServer.{name}" for name in _SERVER_SETS if name not in uses)
    if "_read_data" not in uses:
        yield "TCPServer._read_data in TCPServer.run"
    if not {"connection", "send"} <= {*http.__init__.__code__.co_names}:
        yield "H11Protocol.connection, H11Protocol.send"
    if "TCPServer" not in _names_in(hypercorn.asyncio.run.worker_serve.__code__):
        yield "TCPServer in worker_serve"
    yield from _misfits_of_http2()
    for made, takes in ((server, _SERVER_TAKES), (http, _HTTP_TAKES), (WSStream, _STREAM_TAKES)):
        if list(signature(made).parameters) != takes:
            yield f"{made.__name__}({', '.join(takes)})"


def _misfits_of_http2() -> Iterator[str]:
    """Yield the misfits in what each connection of HTTP/2 is made with, and in how one comes to be of HTTP/2."""
    protocol: Any = hypercorn.protocol.h2.H2Protocol
    uses = {*protocol.__init__.__code__.co_names}
    yield from (
        f"H2Protocol.{name}" for name in ("connection", "keep_alive_requests", "local_settings", "streams")
        if name not in uses
    )  # fmt: skip
    wrapper: Any = hypercorn.protocol.ProtocolWrapper
    if not {"H11Protocol", "H2Protocol"} <= {*wrapper.__init__.__code__.co_names, *wrapper.handle.__code__.co_names}:
        yield "H11Protocol and H2Protocol in ProtocolWrapper"


def _misfits_of_wsproto() -> Iterator[str]:
    """Yield the misfits in what tells whether a connection is between two messages, and in what reads a close frame."""
    try:
        protocol: Any = getattr(Connection(ConnectionType.SERVER), "_proto", None)
    except Exception as error:  # it is made otherwise
        yield f"a connection of wsproto's: {error}"
        return
    frames, messages = getattr(protocol, "_frame_decoder", None), getattr(protocol, "_message_decoder", None)
    for decoder, names in ((frames, ("buffer", "header")), (messages, ("opcode",))):
        yield from (f"{name} of wsproto's decoders" for name in names if not hasattr(decoder, name))
    if not callable(getattr(protocol, "_process_close", None)):
        yield "FrameProtocol._process_close"
    if "FrameProtocol" not in Connection.__init__.__code__.co_names:
        yield "FrameProtocol in wsproto's Connection"
    if not isinstance(getattr(getattr(frames, "buffer", None), "buffer", None), bytearray):
        yield "bytes in the buffer of wsproto's decoders"


def _tells_before_it_closes() -> bool:
    """Whether a transport of asyncio's ends its protocol while its socket is still open (see `OpenSockets`)."""
    ending = getattr(getattr(selector_events, "_SelectorTransport", None), "_call_connection_lost", None)
    used = getattr(getattr(ending, "__code__", None), "co_names", ())  # in the order in which they come first
    return "connection_lost" in used and "close" in used and used.index("connection_lost") < used.index("close")


def _names_in(code: CodeType) -> set[str]:
    """The names that a function uses, and the functions within it."""
    inner = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names}.union(*inner)

"""What Hypercorn has to be like is looked at once, at the start."""

from asyncio import selector_events
from collections import deque
from typing import Any

import pytest
from hypercorn import protocol
from hypercorn.asyncio import run
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol import h2, h11
from hypercorn.protocol.ws_stream import Handshake, WSStream
from wsproto import connection
from wsproto.frame_protocol import Buffer, FrameProtocol

from app.server.close_frames import Frames
from app.server.fit import misfits
from app.server.http2 import HTTP2
from app.server.tcp_connection import HTTP1, TCPConnection
from app.server.teach import teach_hypercorn
from app.server.websocket_stream import WebSocketStream


def streams() -> list[object]:
    """Return the classes of what Hypercorn makes of a socket, and of a connection."""
    names = ((h11, "WSStream"), (protocol, "H11Protocol"), (protocol, "H2Protocol"), (connection, "FrameProtocol"))
    return [getattr(module, name, None) for module, name in names]


def test_this_hypercorn_fits() -> None:
    assert misfits() == []
    with teach_hypercorn() as taught:
        assert taught
        assert streams() == [WebSocketStream, HTTP1, HTTP2, Frames]
        assert vars(run)["TCPServer"] is TCPConnection
    assert streams() == [WSStream, h11.H11Protocol, h2.H2Protocol, FrameProtocol]
    assert vars(run)["TCPServer"] is TCPServer


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (WSStream, "_send_wsproto_event"),
        (WSStream, "app_send"),
        (TCPServer, "protocol_send"),
        (TCPServer, "_close"),
        (TCPServer, "_read_data"),
        (TaskGroup, "spawn"),
        (h2, "H2Protocol"),
        (h2.H2Protocol, "_create_stream"),
        (protocol, "ProtocolWrapper"),
        (FrameProtocol, "_process_close"),
        (h11, "H11WSConnection"),
        (run, "TCPServer"),
    ],
)
def test_what_is_missing_is_named_and_nothing_changed(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(owner, name)
    (missing,) = misfits()
    assert missing.endswith(f".{name}")
    with teach_hypercorn() as taught:
        assert not taught
        assert WebSocketStream not in streams()
    assert f"not as it was checked (no {missing})" in caplog.text


def test_what_is_made_otherwise_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(_self: object, _headers: object, _version: str, _more: object) -> None: ...

    monkeypatch.setattr(Handshake, "__init__", otherwise)
    (missing,) = misfits()
    assert missing.startswith("a stream: ")


def test_attributes_that_are_set_later_are_looked_for_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_self: object) -> None: ...

    monkeypatch.setattr(TCPServer, "run", run)
    assert misfits() == ["TCPServer.protocol", "TCPServer._read_data in TCPServer.run"]


def test_what_is_made_with_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(h11.H11Protocol):
        def __init__(self, app: object) -> None:
            self.connection = self.send = app  # type: ignore[assignment]

    monkeypatch.setattr(h11, "H11Protocol", Other)
    (missing,) = misfits()
    assert missing == "Other(app, config, context, task_group, connection_state, ssl, client, server, send)"


def test_a_server_that_is_not_asked_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def worker_serve() -> None: ...

    monkeypatch.setattr(run, "worker_serve", worker_serve)
    assert misfits() == ["TCPServer in worker_serve"]


@pytest.mark.parametrize(("decoder", "name"), [("_frame_decoder", "header"), ("_message_decoder", "opcode")])
def test_a_wsproto_that_does_not_show_where_it_is_is_found(
    decoder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_self: FrameProtocol, *arguments: Any) -> None:
        original(_self, *arguments)
        delattr(getattr(_self, decoder), name)

    original = FrameProtocol.__init__
    monkeypatch.setattr(FrameProtocol, "__init__", make)
    assert f"{name} of wsproto's decoders" in misfits()


def test_a_wsproto_that_keeps_its_bytes_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(self: Any) -> None:
        self.buffer = deque()

    monkeypatch.setattr(Buffer, "__init__", make)
    assert misfits() == ["bytes in the buffer of wsproto's decoders"]
    monkeypatch.setattr(Buffer, "__init__", None)
    (missing,) = misfits()
    assert missing.startswith("a connection of wsproto's: ")


def test_an_asyncio_that_closes_before_it_tells_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_otherwise(self: Any, error: Exception | None) -> None:
        self._sock.close()
        self._protocol.connection_lost(error)

    monkeypatch.setattr("asyncio.selector_events._SelectorTransport._call_connection_lost", ends_otherwise)
    assert misfits() == ["asyncio's connection_lost before it closes the socket"]
    monkeypatch.delattr(selector_events, "_SelectorTransport")
    assert misfits() == ["asyncio's connection_lost before it closes the socket"]
